# The environment of docs/cluster-kubernetes.yaml, not the code, which travels with each job:
#     docker build -f docs/cluster-kubernetes.Dockerfile -t my-registry/crossforge:0.1.0 . && docker push my-registry/crossforge:0.1.0
# CUDA comes with torch; the driver is the node's.
FROM ubuntu:24.04
# bash and wget: KubeRay starts Ray by the one and asks by the other whether it lives.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends bash ca-certificates curl wget \
    && rm -rf /var/lib/apt/lists/*
# Ubuntu's image has the user 1000 already.
USER ubuntu
WORKDIR /home/ubuntu/crossforge
COPY --chown=ubuntu:ubuntu pyproject.toml uv.lock ./
RUN curl -LsSf https://astral.sh/uv/0.13.8/install.sh | sh
RUN ~/.local/bin/uv sync --locked --compile-bytecode --no-dev --no-install-project --extra aws \
    --managed-python --python 3.12
ENV PATH=/home/ubuntu/crossforge/.venv/bin:/home/ubuntu/.local/bin:$PATH \
    RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
