"""How long a plan says that it takes: worked out by hand from what a storage has measured."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.common.storage import write_json
from pipelines.launch import duration
from pipelines.launch.duration import Left
from pipelines.launch.options import Options

FEED = {"input_px": 64, "batch_size": 4, "num_epochs": 2}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Videos of ffpp took 1 and 3 s; two trainings 10 s for 2 epochs and 60 s for 6, another of larger faces 1000 s."""
    folder = tmp_path / "faces" / "ffpp" / "0123"
    write_json(folder / "_done.json", {})
    pq.write_table(pa.table({"seconds": [1.0, 3.0]}), folder / "ledger.parquet")
    for name, feed, seconds in (
        ("a", FEED, 10.0),
        ("b", FEED | {"num_epochs": 6}, 60.0),
        ("c", FEED | {"input_px": 224}, 1000.0),
    ):
        write_json(tmp_path / "stages/plain/detect" / name / "spec.json", {"feed": feed})
        write_json(tmp_path / "stages/plain/detect" / name / "_done.json", {"seconds": seconds})
    return tmp_path


def extraction(dataset: str, missing: int) -> Any:
    return SimpleNamespace(dataset=dataset, num_missing=missing)


def stage(num_epochs: int, *, done: bool = False, paper: str = "plain", **feed: Any) -> Any:
    return SimpleNamespace(
        paper=paper, name="detect", done=done, spec={"feed": FEED | {"num_epochs": num_epochs} | feed}
    )


def test_videos_take_as_long_as_those_before(storage: Path, tmp_path: Path) -> None:
    left = duration.of_faces([extraction("ffpp", 10), extraction("dfdc", 5), extraction("celeb_df", 0)], storage)
    assert left == [Left(what="10 videos of ffpp", seconds=20.0), Left(what="5 videos of dfdc", seconds=10.0)]
    assert duration.of_faces([extraction("ffpp", 1)], tmp_path / "none") == [Left(what="1 video of ffpp", seconds=None)]


def test_an_epoch_takes_as_long_as_those_of_the_same_samples(storage: Path) -> None:
    planned = [stage(4), stage(8), stage(3, done=True), stage(1, paper="lre")]
    assert duration.of_stages(planned, storage) == [
        Left(what="2 stages plain detect", seconds=4 * 7.5 + 8 * 7.5),  # 5 and 10 s each before
        Left(what="1 stage lre detect", seconds=None),
    ]
    assert duration.of_stages([stage(2, input_px=224)], storage)[0].seconds == 1000.0
    assert duration.of_stages([stage(2, input_px=96)], storage)[0].seconds is None


@pytest.mark.parametrize(
    ("faces", "stages", "together", "text"),
    [
        ([], [], (2, 2), "Nothing is left to extract or train"),
        ([("videos", 40.0)], [("stages", 600.0)], (2, 3), "Time: about 4 min: 20 s for videos; 3 min for stages; then"),
        ([], [("stages", 600.0)], (2, 1), "Time: about 10 min: 10 min for stages; then scoring and the report"),
        (
            [("videos", None)],
            [("stages", 600.0)],
            (2, 1),
            "Time: not known; the storage has measured nothing like videos",
        ),
        ([("videos", 3000.0)], [("stages", 600.0)], None, "Time: 60 min of work, shared by"),
    ],
)
def test_the_line_of_a_plan(faces: Any, stages: Any, together: Any, text: str) -> None:
    left = [[Left(what=what, seconds=seconds) for what, seconds in group] for group in (faces, stages)]
    assert duration.told(left[0], left[1], together).startswith(text)


def test_a_cluster_is_not_this_machine() -> None:
    assert duration.at_once(Options(address="auto"), "small", 3) is None
    assert duration.at_once(Options(workers=(10**6, 10**6)), "small", 3) is None  # no room
    here = duration.at_once(Options(), "small", 3)
    assert here is not None
    assert 1 <= here[1] <= 3
