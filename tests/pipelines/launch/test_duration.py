"""How long a plan says that it takes: worked out by hand from what a storage has measured."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from pipelines.common import rates
from pipelines.common.storage import locked, write_json
from pipelines.datasets.sample import corpus
from pipelines.faces import sources
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


def extraction(dataset: str, num_missing: int, cut: str = "0123", **own: Any) -> Any:
    return SimpleNamespace(dataset=dataset, num_missing=num_missing, folder=Path(cut), **own)


def stage(num_epochs: int, *, paper: str = "plain", took: float | None = None, **feed: Any) -> Any:
    spec = {"feed": FEED | {"num_epochs": num_epochs} | feed}
    done, summary = took is not None, lambda: {"seconds": took}
    return SimpleNamespace(paper=paper, name="detect", done=done, begun=done, spec=spec, summary=summary)


def test_videos_take_as_long_as_those_before(storage: Path, tmp_path: Path) -> None:
    wanted = [extraction("ffpp", 10), extraction("dfdc", 5), extraction("celeb_df", 0)]
    assert duration.of_faces(wanted, storage, {}) == [
        Left(what="10 videos of ffpp", seconds=20.0),
        Left(what="5 videos of dfdc", seconds=10.0),
    ]
    nothing = tmp_path / "none"
    assert duration.of_faces(wanted[:1], nothing, {}) == [Left(what="10 videos of ffpp", seconds=None)]


def test_several_crops_of_a_dataset_are_one_line(storage: Path) -> None:
    wanted = [extraction("ffpp", 10), extraction("ffpp", 12, "4567"), extraction("ffpp", 0, "89ab")]
    assert duration.of_faces(wanted, storage, {}) == [Left(what="12 videos of ffpp (2 crops)", seconds=44.0)]


def test_an_epoch_takes_as_long_as_those_of_the_same_samples(storage: Path) -> None:
    planned = [stage(4), stage(8), stage(1, paper="lre")]
    assert duration.of_stages(planned, storage, {}) == [
        Left(what="2 stages plain detect", seconds=4 * 7.5 + 8 * 7.5),  # 5 and 10 s each before
        Left(what="1 stage lre detect", seconds=None),
    ]
    assert duration.of_stages([stage(2, input_px=224)], storage, {})[0].seconds == 1000.0
    assert duration.of_stages([stage(2, input_px=96)], storage, {})[0].seconds is None
    assert duration.of_candidates(3, planned[:1], storage, {}) == Left(what="at most 3 more candidates", seconds=90.0)
    assert duration.of_candidates(1, planned, storage, {}).seconds is None


def test_what_this_machine_has_done_tells_of_another_storage(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    took = pa.table({"video_id": ["a", "b", "of before"], "seconds": [4.0, 8.0, 1000.0]})
    failed = extraction("dfdc", 1, "89ab", ledger_table=lambda: took)
    extracted = [
        (extraction("ffpp", 0, "89ab", ledger_table=lambda: took), pa.chunked_array([["b", "a"]])),
        (failed, pa.chunked_array([["a", "not there"]])),
    ]
    trained = [stage(2, took=6.0), stage(4, took=20.0), stage(1, paper="lre")]
    for options, preset in ((Options(address="auto"), "small"), (Options(), "tiny")):
        duration.keep(SimpleNamespace(options=options, preset=preset), extracted, trained)  # type: ignore[arg-type]
    assert rates.kept() == {}
    duration.keep(SimpleNamespace(options=Options(), preset="small"), extracted, trained)  # type: ignore[arg-type]
    rates.keep({sources.clip("full"): 0.5})
    kept, nothing = rates.kept(), tmp_path / "none"
    wanted = [extraction("ffpp", 3, "89ab"), extraction("celeb_df", 1, "89ab"), extraction("ffpp", 1, "cdef")]
    assert [(each.seconds, each.elsewhere) for each in duration.of_faces(wanted[:2], nothing, kept)] == [
        (18.0, True),
        (6.0, True),
    ]
    assert duration.of_faces(wanted[2:], nothing, kept)[0].seconds is None  # cut otherwise, elsewhere
    assert duration.of_faces(wanted[2:], storage, kept) == [Left(what="1 video of ffpp", seconds=2.0)]
    (left,) = duration.of_stages([stage(10)], nothing, kept)
    assert (left.seconds, left.elsewhere) == (40.0, True)  # 3 and 5 s for an epoch
    assert duration.of_stages([stage(10)], storage, kept)[0] == Left(what="1 stage plain detect", seconds=75.0)
    assert duration.of_stages([stage(10, paper="lre")], nothing, kept)[0].seconds is None
    clips = duration.of_corpus("full", ["ffpp"], nothing, kept)
    assert clips.what == f"{round(2 * (clips.seconds or 0))} clips of the sample corpus"


def test_rates_are_of_what_the_launch_itself_has_read_and_trained() -> None:
    missing = pa.table({"video_id": ["b"]})
    wanted = [
        extraction("ffpp", 1, missing=missing, interrupted=False),
        extraction("dfdc", 1, missing=missing, interrupted=True),
        extraction("dfd", 0, missing=missing[:0], interrupted=False),
    ]
    assert [(each.dataset, ids.to_pylist()) for each, ids in duration.due(wanted)] == [("ffpp", ["b"])]
    resumed, fresh = stage(2), stage(4)
    resumed.begun = True
    assert duration.untrained([SimpleNamespace(planned=[resumed, fresh, stage(1, took=6.0)])]) == [fresh]  # type: ignore[list-item]


def test_of_the_corpus_what_is_there_is_not_counted(tmp_path: Path) -> None:
    def number(*names: str) -> int:
        return int(duration.of_corpus("tiny", names, tmp_path, {}).what.split()[0])

    both, one = number("ffpp", "celeb_df"), number("ffpp")
    write_json(corpus._home(tmp_path, 0, "tiny") / corpus.DONE, {"made": ["ffpp"]})
    assert (number("ffpp"), number("ffpp", "celeb_df")) == (0, both - one)


def test_the_rate_of_clips_is_without_what_comes_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    number, now = 93, 0.0

    def make(*args: Any, progress: Any, **options: Any) -> dict[str, str]:
        nonlocal now
        now += 1000.0  # another process makes other datasets
        for done in range(1, number + 1):
            progress(done, number)
            now += 3.0
        return {}

    monkeypatch.setattr(corpus, "make", make)
    monkeypatch.setattr(sources, "time", SimpleNamespace(monotonic=lambda: now))
    sources.roots_of(None, tmp_path, ["ffpp"], Console(), dry_run=False)
    assert rates.kept() == {}  # too few: all of the corpus are 282
    number = 94
    sources.roots_of(None, tmp_path, ["ffpp"], Console(), dry_run=False)
    assert rates.kept() == {sources.clip("full"): 3.0}


def test_two_launches_that_end_together_both_keep_their_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    read = rates.kept

    def slow() -> dict[str, float]:
        found = read()
        time.sleep(0.1)
        return found

    monkeypatch.setattr(rates, "kept", slow)
    launches = [threading.Thread(target=rates.keep, args=({name: 1.0},)) for name in ("one", "other")]
    for launch in launches:
        launch.start()
    for launch in launches:
        launch.join()
    assert read() == {"one": 1.0, "other": 1.0}
    monkeypatch.setattr(rates, "WAIT_S", 0.1)
    with locked(rates._file().with_suffix(".lock")):
        rates.keep({"third": 1.0})  # goes on without
    assert "third" not in read()


@pytest.mark.parametrize(
    ("faces", "stages", "together", "text"),
    [
        ([], [], (2, 2), "Nothing is left to extract or train"),
        (
            [("videos", 40.0)],
            [("stages", 600.0)],
            (2, 3),
            "Time: about 4 min\n  20 s for videos\n  3 min for stages\n  then scoring and the report",
        ),
        ([], [("stages", 600.0)], (2, 1), "Time: about 10 min\n  10 min for stages\n  then scoring and the report"),
        (
            [("videos", None)],
            [("stages", 600.0), ("more", None)],
            (2, 1),
            "Time: at least 10 min\n  not known yet for videos\n  10 min for stages\n  not known yet for more\n  then",
        ),
        (
            [("videos", None)],
            [("stages", None)],
            (2, 1),
            "Time: not known yet, as neither this storage nor an earlier run on this machine has measured the like;",
        ),
        (
            [("videos", 3000.0)],
            [("stages", 600.0)],
            None,
            "Time: 60 min of work, shared by what the cluster works on at once\n  50 min for videos\n  10 min for",
        ),
        ([("videos", 3000.0)], [("stages", None)], None, "Time: at least 50 min of work, shared by what the cluster"),
    ],
)
def test_the_lines_of_a_plan(faces: Any, stages: Any, together: Any, text: str) -> None:
    left = [[Left(what=what, seconds=seconds) for what, seconds in group] for group in (faces, stages)]
    assert duration.told([], left[0], left[1], together).startswith(text)


def test_a_plan_says_where_its_rates_are_from_and_counts_the_corpus_whole() -> None:
    corpus, faces = Left(what="clips", seconds=30.0, elsewhere=True), Left(what="videos", seconds=40.0)
    lines = "Time: about 50 s\n  30 s for clips (by earlier runs on this machine)\n  20 s for videos\n  then"
    assert duration.told([corpus], [faces], [], (2, 3)).startswith(lines)


def test_a_cluster_is_not_this_machine() -> None:
    assert duration.at_once(Options(address="auto"), "small", 3) is None
    assert duration.at_once(Options(workers=(10**6, 10**6)), "small", 3) is None  # no room
    here = duration.at_once(Options(), "small", 3)
    assert here is not None
    assert 1 <= here[1] <= 3
