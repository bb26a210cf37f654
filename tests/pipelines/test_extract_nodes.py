"""A node of the cluster dies in the middle of an extraction: real raylets, one of which is killed."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import schemas
from pipelines.facestore import Faces

VIDEOS = [f"v{number}" for number in range(14)]

# A cluster of its own needs a process of its own: the tests' Ray is there already.
DRIVER = """
import json, logging, sys, time
from pathlib import Path
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster
from pipelines.extract import extract
from pipelines.faces import Recipe

def reader(roots, recipes, predictor):
    from pipelines.video import without_faces
    def read(video, targets):
        time.sleep(0.5)
        return [without_faces(video, "no_face", "an empty room", 0.0)] * len(targets)
    return read

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
other = cluster.add_node(num_cpus=2)
ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
cluster.wait_for_nodes()
print("cpus", ray.cluster_resources()["CPU"], flush=True)
killed = False

def on_video(row):
    global killed
    if row["num_done"] == 4 and not killed:
        killed = True
        cluster.remove_node(other, allow_graceful=False)

videos, folder = pq.read_table(sys.argv[1]), Path(sys.argv[2])
ledger = extract(videos, {"toy": "/nowhere"}, folder, Recipe(num_frames=2), actors=3, reader=reader, on_video=on_video)
print(json.dumps(ledger.to_pylist()))
print("killed", killed)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_lost_node_costs_nothing(tmp_path: Path):
    nothing = dict.fromkeys(("mask_uri", "real_id", "real_uri"))
    rows = [
        {"dataset": "toy", "video_id": f"toy/{name}", "label": 0, "method": "real", "codec": "raw", "split": "test"}
        | nothing
        | {"root": "toy", "uri": f"{name}.mp4", "source_ids": [name], "face_rule": "largest"}
        for name in VIDEOS
    ]
    pq.write_table(schemas.to_table(rows, schemas.VIDEOS), tmp_path / "videos.parquet")
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "videos.parquet"), str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, env=environment, timeout=240, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "cpus 3.0" in done.stdout
    assert "killed True" in done.stdout
    faces = Faces(tmp_path / "out")
    assert sorted(faces.index) == sorted(f"toy/{name}" for name in VIDEOS)
    # Not as `crashed`: the videos that were being read there were read again elsewhere.
    assert faces.summary["num_by_status"] == {"ok": 0, "unreadable": 0, "no_face": len(VIDEOS), "crashed": 0}
    assert isinstance(faces.video("toy/v0"), pa.Table)
