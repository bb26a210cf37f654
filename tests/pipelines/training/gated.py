"""A training on a cluster that loses a node and gets it back, in a process of its own: `python gated.py <job>`.

The head has no room for workers; two nodes have a GPU each, that is only a number. Whatever the machine's speed: step 3
waits until a node is killed, step 6 until there are two again.
"""

import json
import logging
import pickle
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from pipelines.common import storage
from pipelines.training import loop, train
from pipelines.training.job import Job

NODE = {"num_cpus": 2, "num_gpus": 1}
worker, step = train._worker, loop._step


def gated(config: dict[str, Any]) -> None:
    """Ray Train's workers find this file by PYTHONPATH."""

    def gate(
        model: Any, optimizer: Any, cuts: Any, number: int, picks: Any, world: Any, *more: Any
    ) -> dict[str, float]:
        while (number == 3 and world.size == 2) or (number == 6 and world.size == 1):
            time.sleep(0.1)
        return step(model, optimizer, cuts, number, picks, world, *more)

    loop._step = gate  # type: ignore[assignment]
    worker(config)


def wait_for(step: int, job: Job, training: threading.Thread) -> int:
    """The newest checkpoint, as soon as there is one of this step or a later one."""
    while True:
        assert training.is_alive(), f"the training ended before step {step}"
        checkpoints = storage.folders(job.planned.folder, "checkpoint")
        if checkpoints and (found := int(checkpoints[-1].name.rsplit("-", 1)[1])) >= step:
            return found
        time.sleep(0.1)


def main() -> None:
    import gated as found  # under the name that workers know it by

    job = pickle.loads(Path(sys.argv[1]).read_bytes())
    train._worker = found.gated
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(**NODE) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    training = threading.Thread(target=train.train_stage, args=(job,), daemon=True)
    training.start()  # nodes are started by the main thread only
    seen = [wait_for(3, job, training)]
    cluster.remove_node(nodes[0], allow_graceful=False)
    seen.append(wait_for(6, job, training))
    cluster.add_node(**NODE)
    training.join()
    sys.stdout.write(f"SEEN {json.dumps(seen)}\n")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
