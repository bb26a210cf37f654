"""Make `kuberay_raycluster.json`: of KubeRay's schema of a RayCluster, what docs/cluster-kubernetes.yaml uses.

    python tests/kuberay_schema.py ray-operator/config/crd/bases/ray.io_rayclusters.yaml

The file that it reads is KubeRay's (github.com/ray-project/kuberay, Apache-2.0). What it writes is the same schema
without descriptions and without the fields that our file does not name: these it refuses, so a misspelt one fails.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SCHEMA, CLUSTER = HERE / "kuberay_raycluster.json", HERE.parent / "docs" / "cluster-kubernetes.yaml"
KEPT = ("type", "format", "enum", "minimum", "maximum", "pattern", "x-kubernetes-int-or-string", "anyOf")


def cluster() -> dict[str, Any]:
    """Return the RayCluster of our file."""
    [found] = [each for each in yaml.safe_load_all(CLUSTER.read_text()) if each["kind"] == "RayCluster"]
    return dict(found)


def distilled(schema: dict[str, Any], values: list[Any]) -> dict[str, Any]:
    """Return the part of a schema that some values use. Raises KeyError where one has a field that it does not know."""
    kept = {name: schema[name] for name in KEPT if name in schema}
    objects = [value for value in values if isinstance(value, dict)]
    if "properties" in schema:
        names = sorted({name for value in objects for name in value})
        of = {name: [value[name] for value in objects if name in value] for name in names}
        kept["properties"] = {name: distilled(schema["properties"][name], of[name]) for name in names}
        kept["additionalProperties"] = False
        kept["required"] = sorted(schema.get("required", ()))
    elif "additionalProperties" in schema:
        kept["additionalProperties"] = distilled(
            schema["additionalProperties"], [each for value in objects for each in value.values()]
        )
    if "items" in schema:
        kept["items"] = distilled(schema["items"], [each for value in values for each in value])
    return kept


if __name__ == "__main__":
    [version] = [v for v in yaml.safe_load(Path(sys.argv[1]).read_text())["spec"]["versions"] if v["name"] == "v1"]
    whole = version["schema"]["openAPIV3Schema"]
    spec = distilled(whole["properties"]["spec"], [cluster()["spec"]])
    told = "of ray.io_rayclusters.yaml of KubeRay 1.7.0, whose license is Apache-2.0; made by kuberay_schema.py"
    SCHEMA.write_text(json.dumps({"$comment": told, **spec}, indent=1) + "\n")
