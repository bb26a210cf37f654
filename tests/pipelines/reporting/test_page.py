"""The HTML page of a report, and the report made again from a storage: on runs whose scores are made up."""

import base64
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from scipy.special import logit

from models import Pooling
from pipelines.common.storage import read_json, write_json, write_text
from pipelines.common.tables import FEATURES, PREDICTIONS, RESULTS, SOURCES, to_table
from pipelines.experiments.sweep import Column
from pipelines.metrics import detection, results
from pipelines.metrics.names import FINAL
from pipelines.metrics.results import Failed, Origin, ScoredPart
from pipelines.report import main
from pipelines.reporting import figures
from pipelines.reporting import page as page_module
from pipelines.reporting.figures import style
from pipelines.reporting.page import _by_row, _curve, render
from pipelines.reporting.report import Report, gather
from pipelines.reporting.saved import AGAIN, Line, Planned, Run, Saved, differing, sources
from pipelines.reporting.table import HIGHER, LOWER, comparisons, terms

THEIRS = "of <another> paper"
EVIL = "<script>alert(1)</script>&\"'"
VOID = {"meta", "br", "img"}
FAILED = (
    Failed(video_id="dfdc/a", label=1, method="fake", reason="/data/secret/a.mp4: no face in 4 frames"),
    Failed(video_id="dfdc/b", label=1, method="fake", reason="/data/secret/b.mp4: no face in 10 frames"),
    Failed(video_id="dfdc/c", label=0, method="real", reason="crashed"),
)
PARTS = (
    ScoredPart(name="dfdc", dataset="dfdc", split="test", codec="unknown", failed=FAILED, excluded=("dfdc/x",)),
    ScoredPart(name="ffpp", dataset="ffpp", split="test", codec="c23"),
)


CURVE = [{"epoch": n, "step": n, "train/loss": 1 / n, "val/loss": 2 / n, "val/auc": 0.5 + n / 10} for n in (1, 2, 3)]


def predictions(part: str, stage: str, shift: float, seed: int) -> pa.Table:
    """16 real videos, 8 of each of two manipulations, two faces each; fakes score higher by `shift`."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(32):
        method = "real" if i < 16 else ("Deepfakes", EVIL)[i % 2]
        noise = rng.normal(0.3 + shift * (i >= 16), 0.1, 2)
        for frame, score in enumerate(np.clip(noise, 1e-6, 1 - 1e-6)):
            rows.append(
                dict.fromkeys(PREDICTIONS.names)
                | {
                    "stage": stage,
                    "perturbation": "",
                    "dataset": part,
                    "video_id": f"{part}/{EVIL}/{i:02}",
                    "frame_index": frame,
                    "face_index": 0,
                    "label": int(i >= 16),
                    "method": method,
                    "logit": float(logit(score)),
                    "score": float(score),
                    "num_repeated": 0,
                    "face_area_px": 1.0,
                }
            )
    return to_table(rows, PREDICTIONS)


def make_stage(storage: Path, name: str, digest: str, *needs: str) -> None:
    """A stage's folder as its training leaves it, as far as reports read it."""
    stage = storage / "stages" / "lre" / name / digest
    write_json(stage / "spec.json", {"needs": dict.fromkeys(needs, "x")})
    write_text(stage / "curves.jsonl", "".join(json.dumps(line) + "\n" for line in CURVE))
    write_json(stage / "_done.json", {"best_epoch": 2})


def make_run(storage: Path, digest: str, shift: float, seed: int) -> None:
    """A run's folder as a finished trial leaves it."""
    origin = Origin(
        run_id=digest,
        model="lre",
        train_on="ffpp",
        seed=seed,
        failed_rule="exclude",
        pooling=Pooling(frames="mean_logit"),
        parts=PARTS,
    )
    names = [(part.name, stage) for part in PARTS for stage in ("detect", FINAL)]
    tables = [predictions(part, stage, shift, seed) for part, stage in names]
    blocks = [{"part": part, "stage": stage, "rows": 64} for part, stage in names]
    sources = SOURCES.empty_table()
    rows = results.every_row(origin, list(zip(blocks, tables, strict=True)), "abc", sources)
    folder = storage / "runs" / digest
    make_stage(storage, "detect", f"of-{digest}")
    told = {"origin": origin.to_json(), "experiment": {"model": "lre"}, "stages": {"detect": f"of-{digest}"}}
    write_json(folder / "trial.json", told)
    pq.write_table(pa.concat_tables(tables), folder / "predictions.parquet")
    pq.write_table(to_table(rows, RESULTS), folder / "results.parquet")
    pq.write_table(sources, folder / "sources.parquet")
    write_json(folder / "_done.json", {"predictions": blocks})


def made_up(**changes: object) -> Saved:
    rows = ("plain", f"sharp {EVIL}", "broken")
    values: dict[str, object] = {
        "name": "question",
        "title": f"Table 1 {EVIL}",
        "row_name": "row",
        "is_sample": True,
        "columns": tuple(Column.of(name, "video", "auc") for name in ("dfdc", "ffpp eer")),
        "rows": (
            Line(label=THEIRS, published=("91.25", "-"), runs=False, note="taken from elsewhere"),
            *(Line(label=row, published=("90.0", "-"), baseline="plain") for row in rows),
        ),
        "trials": (
            *(Planned(row=rows[i], seed=seed, run=f"{'ab'[i]}{seed}") for i in (0, 1) for seed in (0, 1)),
            Planned(row="broken", seed=0, run="c0", failure=f"ValueError in /home/somebody/file.py: {EVIL}"),
        ),
        "facts": {"data": "sample corpus", "videos without a face": "exclude"},
        "leaks": (f"ffpp {EVIL}",),
        "coverage": (
            {"dataset": "dfdc", "split": "test", "label": 1, "method": EVIL, "given": 21, "ok": 17}
            | {"unreadable": 1, "no_face": 2, "crashed": 1},
        ),
    }
    return Saved(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("storage")
    for row, shift in (("a", 0.02), ("b", 0.5)):
        for seed in (0, 1):
            make_run(storage, f"{row}{seed}", shift, seed)
    saved = made_up()
    Report.of(saved, gather(saved, storage, again=False)).write(storage / "reports" / "question-1")
    return storage


@pytest.fixture
def folder(storage: Path) -> Path:
    return storage / "reports" / "question-1"


class Page(HTMLParser):
    """Checks that tags close in order; keeps the text, and every attribute that may load something."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


@pytest.fixture
def page(folder: Path) -> Page:
    return Page((folder / "question.html").read_text())


# ------------------------------------------------------------------------------------------- page
def test_the_page_is_well_formed_and_needs_nothing_else(page: Page, folder: Path) -> None:
    assert page.open == []
    assert all(where.startswith(("data:image/", "#")) for where in page.loaded)
    # A training, the scores, and a ROC for each test part.
    assert sum(where.startswith("data:image/svg") for where in page.loaded) == 4
    assert not re.search(r"https?://|file:|url\(|@import", (folder / "question.html").read_text())


def test_curves_of_several_seeds_say_so_and_begin_at_nothing(page: Page, storage: Path) -> None:
    assert page.text.count("mean over seeds; thin: each of them") == 2
    saved = made_up()
    by_row = _by_row(gather(saved, storage, again=False), "dfdc", "video")
    figure = Figure()
    axis = figure.subplots()
    line, area = _curve(axis, by_row["plain"], style(0), seeds=True)
    assert len(axis.get_lines()) == 3
    for one in axis.get_lines():
        x, y = one.get_data()
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(area, abs=0.01)


def test_how_rows_were_tested_is_told_once(page: Page) -> None:
    assert "".join(page.text).count("paired test over the people in the videos") == 1


def test_what_others_wrote_is_shown_and_never_run(page: Page, folder: Path) -> None:
    assert "script" not in page.tags
    assert "<script" not in (folder / "question.html").read_text()
    shown = "".join(page.text)
    for text in (f"Table 1 {EVIL}", f"sharp {EVIL}", f"LEAK ffpp {EVIL}"):
        assert text in shown


def test_no_path_of_the_machine_is_told(page: Page, storage: Path) -> None:
    shown = "".join(page.text)
    assert "FAILED broken on dfdc, ffpp eer: ValueError in …/file.py" in shown
    assert "/home" not in shown
    assert "secret" not in shown
    assert str(storage) not in shown


def rows_after(page: Page, heading: str) -> list[str]:
    """The texts that follow a heading."""
    texts = [text.strip() for text in page.text if text.strip()]
    return texts[len(texts) - texts[::-1].index(heading) :]


def test_failures_are_counted_by_part_class_and_kind_of_reason_once_for_all_rows(page: Page) -> None:
    texts = rows_after(page, "Test videos without a usable face")
    assert texts[:5] == ["part", "class", "manipulation", "reason", "videos"]
    assert texts[5:15] == [
        "dfdc",
        "fake",
        "fake",
        "FILE: no face in N frames",
        "2",
        "dfdc",
        "real",
        "real",
        "crashed",
        "1",
    ]
    assert texts[15] == "Leaks"


def test_each_manipulation_is_set_against_the_same_real_videos(page: Page) -> None:
    """The row `plain`: of Deepfakes (the even ones) the mean and spread of both seeds."""
    by_seed = []
    for seed in (0, 1):
        videos = detection.by_video(predictions("dfdc", "final", 0.02, seed), Pooling(frames="mean_logit")).to_pylist()
        own = [one for one in videos if one["label"] == 0 or int(one["video_id"][-2:]) % 2 == 0]
        assert len(own) == 16 + 8
        by_seed.append(detection.auc([one["label"] for one in own], [one["score"] for one in own]))
    texts = rows_after(page, "dfdc: video-level AUC in % against the same real videos")
    assert texts[:6] == ["row", EVIL, "8 fake", "Deepfakes", "8 fake", "plain"]
    assert texts[7] == f"{100 * np.mean(by_seed):.1f} ± {100 * np.std(by_seed, ddof=1):.1f}"


def test_pictures_of_a_run_are_shown_where_it_has_them(tmp_path: Path) -> None:
    make_run(tmp_path, "a0", 0.02, 0)
    saved = made_up(trials=(Planned(row="plain", seed=0, run="a0"),))
    made = Report.of(saved, gather(saved, tmp_path, again=False))
    assert "Example faces" not in render(tmp_path, made.saved, made.materials, made.cells, made.lines)
    row = {"stage": "detect", "dataset": "dfdc", "video_id": EVIL, "frame_index": 0, "face_index": 0, "label": 1}
    rows = [row | {"method": EVIL, "score": 0.5, "features": [float(i), 1.0]} for i in range(3)]
    pq.write_table(to_table(rows, FEATURES), tmp_path / "runs" / "a0" / "features.parquet")
    page = Page(render(tmp_path, made.saved, made.materials, made.cells, made.lines))
    assert "plain (seed 0)" in rows_after(page, "Example faces")
    (map_,) = (where for where in page.loaded if where.startswith("data:image/webp"))
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(map_.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
    assert min(picture.shape[:2]) > 300


def test_sections_fold_and_print_whole(page: Page, folder: Path) -> None:
    text = (folder / "question.html").read_text()
    headings = re.findall(r"<details(?: open)?><summary><h2>(.*?)</h2></summary>\n<div id=\"(\w+)\">", text)
    assert len(headings) == page.tags.count("section") == page.tags.count("h2")
    links = [where for where in page.loaded if where.startswith("#")]
    assert links == [f"#{name}" for _, name in headings]  # on what is inside: a link opens what it leads to
    print_style = text[text.index("@media print") :]
    assert "details::details-content { content-visibility: visible" in print_style
    assert ".wide { overflow: visible }" in print_style
    assert "@media screen and (prefers-color-scheme: dark)" in text  # on paper, colours are the light ones
    assert "@media (max-width: 640px)" in text


def test_many_columns_are_tables_below_each_other(storage: Path) -> None:
    """So that nothing is cut on paper; each has the names of the rows."""
    columns = tuple(Column.of(f"dfdc {metric}", "video", "auc") for metric in ("auc", "ap", "eer", "brier"))
    rows = tuple(Line(label=row, published=("90.0",) * 4) for row in ("plain", "broken"))
    saved = made_up(columns=columns, rows=rows, trials=made_up().trials[:2])
    made = Report.of(saved, gather(saved, storage, again=False))
    text = render(storage, made.saved, made.materials, made.cells, made.lines)
    own = text[text.index('<div id="table">') :].partition("<ul>")[0]
    groups = [re.findall(r'colspan="3">(.*?)</th>', table) for table in own.split("<table>")[1:]]
    assert groups == [["dfdc auc", "dfdc ap"], ["dfdc eer", "dfdc brier"]]
    assert own.count(">plain</td>") == own.count(">broken</td>") == 2


def test_the_page_says_when_by_which_command_and_how(storage: Path) -> None:
    saved = made_up(facts={**made_up().facts, "run": "2026-01-02 03:04 to 05:06 UTC", "command": "python x --seeds 2"})
    made = Report.of(saved, gather(saved, storage, again=False))
    page = Page(render(storage, made.saved, made.materials, made.cells, made.lines))
    texts = [text.strip() for text in page.text if text.strip()]
    assert texts.index("python x --seeds 2") < texts.index("Published and ours")
    assert any(text.startswith("run 2026-01-02 03:04 to 05:06 UTC") for text in texts[:4])
    told = rows_after(page, "How it was made")
    assert dict(zip(told[::2], told[1::2], strict=True)) == saved.facts
    assert "videos without a face: exclude" not in texts  # it is told once


def svgs(page: Page) -> list[str]:
    """The charts of a page, as text."""
    begin = "data:image/svg+xml;base64,"
    return [base64.b64decode(where.removeprefix(begin)).decode() for where in page.loaded if where.startswith(begin)]


def test_trainings_are_drawn_by_stage_with_the_epoch_that_was_kept(
    storage: Path, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "detect" in rows_after(page, "Training")
    drawn: list[Figure] = []
    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
        saved = made_up()
        page_module._trainings(saved, gather(saved, storage, again=False))
    (figure,) = drawn
    loss, _, auc = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["training loss", "validation loss", "validation AUC (%)"]
    lines = [line.get_xydata().tolist() for line in auc.get_lines()]
    seed = [[n, pytest.approx(50 + 10 * n)] for n in (1, 2, 3)]
    kept = [[2, pytest.approx(70)]] * 2
    assert lines == [seed, seed, seed, kept] * 2  # of two rows: two seeds, their mean, what was kept of each
    assert [tuple(line.get_xdata()) for line in loss.get_lines()[:3]] == [(1, 2, 3)] * 3
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["plain", f"sharp {EVIL}"]


def test_a_stage_that_all_rows_share_is_one_line(tmp_path: Path) -> None:
    for digest in ("a0", "b0"):
        make_run(tmp_path, digest, 0.1, 0)
    told = read_json(tmp_path / "runs" / "b0" / "trial.json")
    write_json(tmp_path / "runs" / "b0" / "trial.json", told | {"stages": {"detect": "of-a0"}})
    trials = (Planned(row="plain", seed=0, run="a0"), Planned(row="broken", seed=0, run="b0"))
    saved = made_up(trials=trials)
    made = page_module._trainings(saved, gather(saved, tmp_path, again=False))
    (chart,) = svgs(Page(made))
    assert "all rows" in chart
    assert "plain" not in chart


def test_stages_stand_in_the_order_in_which_they_are_trained(tmp_path: Path) -> None:
    make_run(tmp_path, "a0", 0.1, 0)
    make_stage(tmp_path, "a_last", "1", "detect", "z_first")
    make_stage(tmp_path, "z_first", "2")
    told = read_json(tmp_path / "runs" / "a0" / "trial.json")
    stages = {"a_last": "1", "detect": "of-a0", "z_first": "2", "gone": "3"}
    write_json(tmp_path / "runs" / "a0" / "trial.json", told | {"stages": stages})
    assert [one.stage for one in Run.read(tmp_path / "runs" / "a0").trainings] == ["detect", "z_first", "a_last"]


def test_a_run_whose_stages_are_gone_has_no_curves(tmp_path: Path) -> None:
    make_run(tmp_path, "a0", 0.1, 0)
    shutil.rmtree(tmp_path / "stages")
    saved = made_up(trials=(Planned(row="plain", seed=0, run="a0"),))
    made = Report.of(saved, gather(saved, tmp_path, again=False))
    page = Page(render(tmp_path, made.saved, made.materials, made.cells, made.lines))
    assert "Training" not in page.text
    assert "Scores of real and fake" in page.text


def test_scores_of_real_and_fake_are_counted_by_part_and_row(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int, str]] = []
    noted = figures._histogram

    def note(axis: Any, place: int, values: Any, colour: str) -> None:
        drawn.append((place, len(values), colour))
        noted(axis, place, values, colour)

    monkeypatch.setattr(figures, "_histogram", note)
    page_module._scores(gather(made_up(), storage, again=False))
    both = [(place, 32, colour) for place in (0, 1) for colour in (figures.REAL_COLOUR, figures.FAKE_COLOUR)]
    assert drawn == both * 2  # two parts; 16 videos of each class, of two seeds


# -------------------------------------------------------------------------------------- the test
def test_a_row_far_above_the_baseline_is_marked_in_table_and_csv(folder: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((folder / "question.csv").read_text())))
    sharp = next(row for row in rows if row["row"].startswith("sharp") and row["test_dataset"] == "dfdc")
    plain = next(row for row in rows if row["row"] == "plain" and row["test_dataset"] == "dfdc")
    assert float(sharp["baseline_difference"]) == pytest.approx(float(sharp["ours"]) - float(plain["ours"]), abs=2e-6)
    assert float(sharp["baseline_p"]) == float(sharp["baseline_adjusted_p"]) < 0.001
    by_seed = dict(pair.split(":") for pair in sharp["baseline_by_seed"].split())
    assert np.mean([float(value) for value in by_seed.values()]) == pytest.approx(float(sharp["baseline_difference"]))
    assert (plain["baseline"], sharp["baseline"], sharp["baseline_num_videos"]) == ("", "plain", "32")
    text = (folder / "question.md").read_text()
    assert text.count(HIGHER) == 2  # AUC of one cell, and the legend
    assert text.count(LOWER) == 2  # the error rate fell
    assert "Holm" in text


def test_holm_counts_the_rows_of_a_column(storage: Path) -> None:
    rows = tuple(Line(label=row, published=("90.0",), baseline="plain") for row in ("plain", "b", "again"))
    trials = [Planned(row=row, seed=0, run=run) for row, run in (("plain", "a0"), ("b", "b0"), ("again", "a0"))]
    saved = made_up(rows=rows, columns=made_up().columns[:1], trials=tuple(trials))
    column, materials = saved.columns[0], gather(saved, storage, again=False)
    found = comparisons(saved, terms(materials, column), column, sources(materials), {})
    assert (found["again"].p, found["again"].adjusted_p) == (1, 1)
    assert found["b"].adjusted_p == 2 * found["b"].p
    assert "plain" not in found


def test_each_row_is_tested_against_its_own_baseline(storage: Path) -> None:
    pairs = (("plain", "", "a0"), ("b", "plain", "b0"), ("again", "b", "a0"))
    rows = tuple(Line(label=row, published=("90.0",), baseline=baseline) for row, baseline, _ in pairs)
    trials = tuple(Planned(row=row, seed=0, run=run) for row, _, run in pairs)
    saved = made_up(rows=rows, columns=made_up().columns[:1], trials=trials)
    report = Report.of(saved, gather(saved, storage, again=False))
    against = {cell.row: cell.against for cell in report.cells if cell.against}
    assert {row: comparison.baseline for row, comparison in against.items()} == {"b": "plain", "again": "b"}
    assert against["b"].difference == -against["again"].difference > 0
    assert any("than their own of the rows plain; b on the same test videos" in line for line in report.lines)


def test_rows_that_are_published_only_are_marked_everywhere(page: Page, folder: Path) -> None:
    text = (folder / "question.html").read_text()
    row = text[text.index("of &lt;another&gt; paper") :].partition("</tr>")[0]
    assert re.findall(r"<td>(.*?)</td>", row) == ["91.25", "", "", "–", "", ""]
    assert "published only" in row
    lines = [
        line for line in csv.DictReader(io.StringIO((folder / "question.csv").read_text())) if line["published_only"]
    ]
    assert [(line["row"], line["published"], line["ours"]) for line in lines] == [
        (THEIRS, "0.912500", ""),
        (THEIRS, "", ""),
    ]
    markdown = (folder / "question.md").read_text().splitlines()
    assert r"| of \<another\> paper ° | 91.25 |  |  | – |  |  |" in markdown
    assert any(line.startswith("- ° published only") for line in markdown)
    assert f"{THEIRS}: taken from elsewhere" in "".join(page.text)
    assert (
        "of \\textless{}another\\textgreater{} paper $^{\\circ}$ & 91.25 &  & -- &  \\\\"
        in (folder / "question.tex").read_text()
    )


# -------------------------------------------------------------------------------------- made again
def test_what_is_made_again_equals_what_was_stored(storage: Path, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in folder.glob("question.*"):
        path.unlink()
    run = Run.read(storage / "runs" / "a0")
    assert differing(run.results, run.made_again(run.tables())) == []
    assert main(["question", "--storage", str(storage)]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_number_that_is_no_longer_the_same_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "a0", 0.02, 0)
    path = tmp_path / "runs" / "a0" / "results.parquet"
    table = pq.read_table(path)
    moved = table["value"].to_pylist()
    moved[0] += 0.01
    place = table.schema.get_field_index("value")
    pq.write_table(table.set_column(place, table.schema.field("value"), pa.array(moved)), path)
    saved = made_up(trials=(Planned(row="plain", seed=0, run="a0"),))
    saved.write(tmp_path / "reports" / "question-1")
    assert main([str(tmp_path / "reports" / "question-1"), "--no-html"]) == 1
    said = capsys.readouterr().out
    assert "1 differ from the stored ones" in said
    assert re.search(r"a0 detect dfdc .*: stored 0\.\d+, now 0\.\d+", said)
    assert not (tmp_path / "reports" / "question-1" / "question.html").exists()


def test_runs_and_reports_from_before_say_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "a0", 0.02, 0)
    write_json(tmp_path / "runs" / "a0" / "trial.json", {"experiment": {}})
    folder = tmp_path / "reports" / "question-1"
    made_up(trials=(Planned(row="plain", seed=0, run="a0"),)).write(folder)
    assert main([str(folder)]) == 2
    assert AGAIN in capsys.readouterr().out.replace("\n", " ")
    (folder / "table.json").unlink()
    assert main([str(folder)]) == 2
    assert AGAIN in capsys.readouterr().out.replace("\n", " ")
    assert main(["--storage", str(tmp_path)]) == 2
    assert "holds no report" in capsys.readouterr().out
    assert main(["nothing", "--storage", str(tmp_path)]) == 2
    assert "nothing is neither" in capsys.readouterr().out


def test_table_json_comes_back_as_it_was(tmp_path: Path) -> None:
    saved = made_up()
    back = Saved.read(saved.write(tmp_path).parent)
    assert back == saved


def test_a_table_of_another_version_says_what_to_do(tmp_path: Path) -> None:
    path = made_up().write(tmp_path)
    told = json.loads(path.read_text())
    told["published"] = {row.pop("label"): {} for row in told["rows"]}
    path.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=re.escape(AGAIN)):
        Saved.read(tmp_path)


def test_a_known_origin_comes_back_as_it_was(storage: Path) -> None:
    origin = Run.read(storage / "runs" / "a0").origin
    assert origin.parts == PARTS
    assert origin.pooling == Pooling(frames="mean_logit")
    assert Origin.of_json(json.loads(json.dumps(origin.to_json()))) == origin
