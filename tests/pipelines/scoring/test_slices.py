"""PREDICTIONS are written as they come: what an interruption leaves is gone on with, and no process holds them all."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.common.tables import PREDICTIONS, SOURCES, UNPERTURBED, to_table
from pipelines.metrics import detection, results
from pipelines.scoring import predictions, score
from pipelines.training import stages
from pipelines.training.views import Video
from pipelines.trials import run

FRAMES, MASK_BYTES = 3, 5000
VIDEOS = tuple(
    Video(video_id=f"toy/{i:02d}", label=i % 2, method="swap" if i % 2 else "real", target=None) for i in range(12)
)
PARTS = {"a" * 16: VIDEOS[:8], "b" * 16: VIDEOS[4:]}  # four videos are in both


def row(stage: str, perturbation: str, video: dict[str, Any], frame: int) -> dict[str, Any]:
    drawn = np.random.default_rng([*f"{stage}{perturbation}{video['video_id']}{frame}".encode()])
    masked = stage == "localize"
    return {
        "stage": stage,
        "perturbation": perturbation,
        "dataset": "toy",
        "video_id": video["video_id"],
        "frame_index": frame,
        "face_index": frame % 2,  # of a video's rows, the order by face is not the one by frame
        "label": video["label"],
        "method": video["method"],
        "logit": drawn.normal(),
        "score": drawn.random(),
        "num_repeated": 0,
        "face_area_px": 1.0,
        "mask_png": drawn.bytes(MASK_BYTES) if masked and not perturbation else None,
        **dict.fromkeys(("mask_tp", "mask_fp", "mask_fn", "mask_tn"), 1 if masked else None),
    }


class Scorer:
    """In place of `ScoreVideos`: rows that follow from stage, perturbation, video and frame alone."""

    scored: list[str] = []  # noqa: RUF012  # by all
    made_with = "2.15"

    def __init__(self, finished: Sequence[Any], faces: Any, perturbations: Sequence[str] = ("",)) -> None:
        self.each = [(stage.planned.name, name) for stage in finished for name in perturbations]

    def __call__(self, videos: pa.Table) -> pa.Table:
        wanted = videos.to_pylist()
        self.scored.extend(video["video_id"] for video in wanted)
        rows = [row(*of, video, n) for of in self.each for video in wanted for n in range(FRAMES)]
        told = {predictions.MADE_WITH: json.dumps({"torch": self.made_with})}
        return to_table(rows, PREDICTIONS).replace_schema_metadata({**PREDICTIONS.metadata, **told})


class Finished(score.FinishedStage):
    def load(self, on: Any) -> Any:
        return None


@pytest.fixture(autouse=True)
def scorer(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Scorer]]:
    monkeypatch.setattr(score, "ScoreVideos", Scorer)
    monkeypatch.setattr(Scorer, "scored", [])
    return Scorer


def finished(folder: Path) -> list[score.FinishedStage]:
    planned = [
        stages.PlannedStage(paper="delocate", name=name, folder=folder / name, spec={})
        for name in ("finetune", "localize")
    ]
    return [Finished(planned=each, config=None) for each in planned]


def scored(of: Sequence[score.FinishedStage], **options: Any) -> dict[tuple[str, str, str], pa.Table]:
    score.score_parts(of, PARTS, {}, num_actors=0, perturbations=("blur-1",), **options)
    return {
        (stage.planned.name, part, name): predictions.read_predictions(stage.planned, part, name)
        for stage in of
        for part in PARTS
        for name in ("", "blur-1")
    }


def stop_after(number: int) -> Any:
    def stop(done: int, total: int) -> None:
        if done == number:
            raise KeyboardInterrupt

    return stop


def slices(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.slices/*"))


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[tuple[str, str, str], pa.Table]:
    tables = scored(finished(tmp_path / "undisturbed"))
    assert slices(tmp_path) == []
    Scorer.scored.clear()
    return tables


def equal(a: dict[Any, pa.Table], b: dict[Any, pa.Table]) -> bool:
    return a.keys() == b.keys() and all(a[key].equals(b[key]) for key in a)


def test_what_was_scored_before_an_interruption_is_not_scored_again(
    tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch, scorer: Any
) -> None:
    monkeypatch.setattr(score, "SLICE_BYTES", 5 * FRAMES * MASK_BYTES)  # at the fifth video its bound is passed
    of, ids = finished(tmp_path), [video.video_id for video in VIDEOS]
    for stopped, new in ((6, ids[:6]), (5, ids[5:10])):
        scorer.scored.clear()
        with pytest.raises(KeyboardInterrupt):
            scored(of, on_video=stop_after(stopped))
        assert scorer.scored == new
    # Twice five videos: the first part's are in two slices, the second part's too.
    assert len(slices(tmp_path)) == 2 * 2 * (2 + 2)
    scorer.scored.clear()
    monkeypatch.setattr(scorer, "made_with", "2.16")
    assert equal(scored(of), undisturbed)
    assert scorer.scored == ids[10:]
    assert slices(tmp_path) == []
    told = {part: predictions.scored_with(of[0].planned, part)["torch"] for part in PARTS}
    assert list(told.values()) == ["2.15", "2.15, 2.16"]  # of the first part all was there


def test_a_kill_between_slices_loses_and_doubles_nothing(
    tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch, scorer: Any
) -> None:
    monkeypatch.setattr(score, "SLICE_BYTES", 1)
    of = finished(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        scored(of, on_video=stop_after(7))
    for path in slices(tmp_path)[::3]:  # some files of each flush were not written
        path.unlink()
    assert equal(scored(of), undisturbed)
    assert len(scorer.scored) > len(VIDEOS)


def test_all_may_be_in_slices(tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch, scorer: Any) -> None:
    monkeypatch.setattr(score, "SLICE_SECONDS", 0)  # after each video
    of = finished(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        scored(of, on_video=stop_after(len(VIDEOS)))
    scorer.scored.clear()
    assert equal(scored(of), undisturbed)
    assert scorer.scored == []


def test_another_trial_may_be_faster(
    tmp_path: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch, scorer: Any
) -> None:
    """It gathers the slices of both and deletes them, while this one still scores."""
    monkeypatch.setattr(score, "SLICE_BYTES", 1)
    of = finished(tmp_path)

    def overtaken(done: int, total: int) -> None:
        if done == 5 and len(scorer.scored) == 5:
            scored(of)

    assert equal(scored(of, on_video=overtaken), undisturbed)
    assert slices(tmp_path) == []


def test_no_more_is_held_than_a_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = 3 * FRAMES * MASK_BYTES
    monkeypatch.setattr(score, "SLICE_BYTES", bound)
    monkeypatch.setattr(predictions, "MASKED_ROWS", 4)
    sizes: list[int] = []
    written = pq.ParquetWriter.write_table

    def write_table(self: Any, table: pa.Table, *args: Any, **options: Any) -> None:
        sizes.append(table.nbytes)
        written(self, table, *args, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_table)
    of = finished(tmp_path)
    tables = scored(of)
    assert len(sizes) > 8
    blocks, masks, whole = [], {}, []
    for part in PARTS:
        by_stage = [predictions.read_predictions(stage.planned, part, masks=False) for stage in of]
        pictured = [tables[stage.planned.name, part, ""] for stage in of]
        assert [table["mask_png"].null_count for table in by_stage] == [len(by_stage[0]), 0]
        assert by_stage[1].nbytes < MASK_BYTES * len(by_stage[1]) / 10
        for few, all_of_it in (
            *zip(by_stage, pictured, strict=True),
            (detection.mean_of_stages(by_stage), detection.mean_of_stages(pictured)),
        ):
            blocks.append(({"part": part, "stage": few["stage"][0].as_py(), "perturbation": UNPERTURBED}, few))
            whole.append(all_of_it)
        path = predictions.predictions_path(of[1].planned, part)
        masks |= {("predictions", part, name, UNPERTURBED): path for name in ("localize", "final")}
    assert not blocks[1][1]["frame_index"].equals(blocks[2][1]["frame_index"])  # the mean is in another order
    told = run._write_predictions(tmp_path / "predictions.parquet", blocks, masks)
    assert [block["rows"] for block in told] == [table.num_rows for table in whole]
    assert pq.read_table(tmp_path / "predictions.parquet").equals(pa.concat_tables(whole))
    assert max(sizes) < bound + 2 * FRAMES * (MASK_BYTES + 500)


def test_a_test_part_with_the_name_of_the_part_that_selects_keeps_its_own_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = finished(tmp_path)
    tables = scored(of)
    test, select = (SimpleNamespace(name="toy", digest=digest) for digest in PARTS)
    trial: Any = SimpleNamespace(
        folder=tmp_path / "trial",
        scoring_stages=[stage.planned for stage in of],
        test=[test],
        select=select,
        perturbations=("blur-1",),
        origin=lambda: None,
    )
    monkeypatch.setattr(results, "every_row", lambda *_: [])
    monkeypatch.setattr(run, "sources", lambda parts: SOURCES.empty_table())
    monkeypatch.setattr(run, "_made_with", lambda *_: [{}])
    run.write_results(trial)
    for name, part in (("predictions", test), ("validation", select)):
        rows = pq.read_table(trial.folder / f"{name}.parquet")
        clean = rows.filter(pc.equal(rows["perturbation"], UNPERTURBED))
        own = tables["localize", part.digest, UNPERTURBED]
        assert clean.filter(pc.equal(clean["stage"], "localize"))["mask_png"].equals(own["mask_png"])
        assert clean.filter(pc.equal(clean["stage"], "final"))["mask_png"].null_count == 0
        assert clean.filter(pc.equal(clean["stage"], "finetune"))["mask_png"].null_count == own.num_rows
    assert rows.num_rows == clean.num_rows  # validation is clean
