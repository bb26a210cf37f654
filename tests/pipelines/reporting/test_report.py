"""RESULTS of a few trials, to the table that is published; expected numbers by hand."""

import csv
import dataclasses
import io
import math
import re
import shutil
import subprocess
from itertools import combinations
from typing import Any

import cv2
import matplotlib.figure
import matplotlib.legend
import matplotlib.text
import numpy as np
import pyarrow as pa
import pytest

from pipelines.common.tables import RESULTS, to_table
from pipelines.common.text import latex
from pipelines.experiments.sweep import Column
from pipelines.reporting import plot, robustness
from pipelines.reporting.table import (
    Cell,
    cell_texts,
    difference_text,
    heading,
    markdown,
    notes,
    numbers,
    ours_text,
    ours_width,
    side_by_side,
    to_csv,
    to_latex,
    two_lines,
)

COMMON = {
    "run_id": "abc",
    "model": "delocate",
    "stage": "final",
    "train_on": "ffpp",
    "test_dataset": "dfdc",
    "perturbation": "",
    "part": "test",
    "part_version": 2,
    "part_ids": "0123456789abcdef",
    "codec": "c23",
    "level": "video",
    "metric": "auc",
    "n_real": 10,
    "n_fake": 20,
    "n_clusters": 7,
    "n_padded": 0,
    "n_missing": 1,
    "n_excluded": 0,
    "failed_rule": "exclude",
    "commit": "unknown",
    "seed": 0,
    "reason": "",
    "note": "",
    "value": 0.8,
    "low": 0.7,
    "high": 0.9,
}


def results(*changes: dict) -> pa.Table:
    return to_table([COMMON | change for change in changes], RESULTS)


def make_cell(*tables: pa.Table, failure: str = "", published: str = "84.0", column: str = "dfdc") -> Cell:
    return Cell.of("0.75", Column.of(column, "video", "auc"), published, tables, failure)


THREE = [
    results({"seed": seed, "value": value, "low": value - 0.1, "high": value + 0.05})
    for seed, value in enumerate((0.80, 0.82, 0.87))
]


# ------------------------------------------------------------------------------------------- cells
def test_a_cell_is_the_mean_and_the_sample_deviation_over_seeds():
    cell = make_cell(*THREE)
    assert cell.ours == pytest.approx(0.83)
    assert cell.spread == pytest.approx(math.sqrt((0.03**2 + 0.01**2 + 0.04**2) / 2))
    assert (cell.low, cell.high) == (pytest.approx(0.73), pytest.approx(0.88))
    assert cell.difference == pytest.approx(-0.01)
    assert cell.seeds == (0, 1, 2)
    assert (cell.n_real, cell.n_fake, cell.n_missing, cell.n_excluded, cell.failure) == (10, 20, 1, 0, "")


def test_a_cell_takes_its_own_number_and_no_other():
    others = [{name: other, "value": 0.1} for name, other in (("stage", "localize"), ("test_dataset", "celeb_df"))]
    others += [{name: other, "value": 0.1} for name, other in (("level", "frame"), ("metric", "eer"))]
    assert make_cell(results(*others, {})).ours == 0.8


def test_a_column_may_name_another_metric():
    table = results({"value": 0.1}, {"metric": "eer", "value": 0.2}, {"level": "frame", "metric": "iou", "value": 0.3})
    cells = [make_cell(table, column=name) for name in ("dfdc", "dfdc eer", "dfdc iou")]
    assert [cell.ours for cell in cells] == [0.1, 0.2, 0.3]
    assert [(cell.column, cell.test, cell.level, cell.metric) for cell in cells] == [
        ("dfdc", "dfdc", "video", "auc"),
        ("dfdc eer", "dfdc", "video", "eer"),
        ("dfdc iou", "dfdc", "frame", "iou"),
    ]


def test_a_column_without_a_test_dataset_takes_the_part_that_the_row_scored():
    parts = ("ffpp/Deepfakes", "ffpp/FaceSwap")
    cells = [make_cell(results({"test_dataset": part}), column="auc") for part in parts]
    assert [(cell.column, cell.test, cell.ours) for cell in cells] == [("auc", part, 0.8) for part in parts]
    assert [line.split(":")[0] for line in notes(cells, {})[:2]] == list(parts)


def test_a_mask_that_nobody_knows_is_told_apart_from_a_failure():
    assert make_cell(results({}), column="dfdc iou").failure.startswith("no iou: of no forged face")


def test_the_metrics_are_told_by_level():
    columns = [Column.of(name, "video", "auc") for name in ("dfdc", "celeb_df", "dfdc eer", "dfdc iou", "dfdc pbca")]
    assert numbers(columns) == "video-level auc and eer, frame-level iou and pbca"


def test_the_spread_of_one_seed_is_not_known():
    assert math.isnan(make_cell(results({})).spread)


def test_a_row_without_results_says_why():
    assert make_cell(failure="out of memory").failure == "out of memory"
    assert make_cell(results({"level": "frame"})).failure == "no video auc"
    assert make_cell().seeds == ()
    assert math.isnan(make_cell().difference)


def test_a_failed_seed_is_told_beside_the_mean_of_the_others():
    cell = make_cell(*THREE[:2], failure="seed 2: out of memory")
    assert (cell.ours, cell.failure) == (pytest.approx(0.81), "seed 2: out of memory")


def test_a_number_that_is_not_defined_is_a_failure_that_gives_the_counts():
    undefined = dict.fromkeys(("value", "low", "high"), math.nan)
    cell = make_cell(results(undefined | {"reason": "0 real, 20 fake videos"}))
    assert cell.failure == "not defined: 0 real, 20 fake videos"
    assert cell_texts(cell) == ("84.0", "failed", "–")


# ------------------------------------------------------------------------------------------- texts
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ours": 0.912, "spread": 0.0041, "low": 0.8992, "high": 0.925, "seeds": (0, 1)}, "91.2 ± 0.4 [89.9, 92.5]"),
        ({"ours": 0.912, "low": 0.8992, "high": 0.925, "seeds": (0,)}, "91.2* [89.9, 92.5]"),
        ({"failure": "killed"}, "failed"),
        ({}, "–"),
    ],
)
def test_our_text(changes, expected):
    assert ours_text(Cell(row="r", column="c", published=0.9, **changes)) == expected


@pytest.mark.parametrize(("ours", "expected"), [(0.912, "+1.2"), (0.888, "-1.2"), (0.9, "+0.0"), (math.nan, "–")])
def test_the_difference_is_ours_minus_published_in_points(ours, expected):
    assert difference_text(Cell(row="r", column="c", published=0.9, ours=ours)) == expected


def test_a_value_that_the_paper_does_not_give_is_a_dash():
    assert cell_texts(make_cell(results({}), published="-")) == ("–", "80.0* [70.0, 90.0]", "–")


@pytest.mark.parametrize("word", ["84", "84.0", "84.05", "0.3", "100", "9.995"])
def test_a_published_value_has_the_digits_that_the_paper_prints(word):
    assert cell_texts(make_cell(results({}), published=word))[0] == word


def test_a_row_that_is_published_only_has_no_text_of_ours():
    cell = Cell.printed("MesoNet", Column.of("dfdc", "video", "auc"), "84.30")
    assert (cell_texts(cell), cell.label, cell.failure) == (("84.30", "", ""), "MesoNet °", "")
    assert len(two_lines(cell)) == len(two_lines(make_cell(results({}))).splitlines()[0])


def test_a_terminal_cell_has_its_interval_on_a_second_line():
    head, interval = two_lines(make_cell(results({}))).splitlines()
    assert (head.split(), interval.strip()) == (["84.0", "80.0*", "-4.0"], "[70.0, 90.0]")
    assert len(head) == len(interval)
    assert two_lines(make_cell(failure="killed")).split() == ["84.0", "failed", "–"]


def test_columns_stand_side_by_side_while_they_fit():
    """Rows take 4 + 4 characters, a column 19 (`publ.   ours  diff.`) or its name, and 3 of frame."""
    cells = [Cell(row="0.75", column=name, published=0.8) for name in ("dfdc", "celeb_df", "a name of 24 characters.")]
    assert side_by_side("row", cells, 8 + 22 + 22 + 27) == [["dfdc", "celeb_df", "a name of 24 characters."]]
    assert side_by_side("row", cells, 8 + 22 + 22 + 26) == [["dfdc", "celeb_df"], ["a name of 24 characters."]]
    assert side_by_side("row", cells, 10) == [["dfdc"], ["celeb_df"], ["a name of 24 characters."]]


CELLS = [
    Cell(
        row=row,
        column=column,
        published=0.84,
        ours=0.8,
        low=0.7,
        high=0.9,
        seeds=(0,),
        n_real=10,
        n_fake=20,
        n_missing=3,
        n_excluded=excluded,
    )
    for row in ("0.55", "0.75")
    for column, excluded in (("celeb_df", 0), ("dfdc", 4))
]
FAILED = Cell(row="0.95", column="dfdc", published=0.81, failure="ValueError: loss, is NaN")


def test_markdown_has_a_row_per_row_and_three_columns_per_dataset():
    text = markdown("Table 5", "mask ratio", CELLS, ["note"])
    assert text.splitlines() == [
        "# Table 5",
        "",
        "| mask ratio | celeb\\_df published | celeb\\_df ours | celeb\\_df difference"
        " | dfdc published | dfdc ours | dfdc difference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 0.55 | 84.0 | 80.0* [70.0, 90.0] | -4.0 | 84.0 | 80.0* [70.0, 90.0] | -4.0 |",
        "| 0.75 | 84.0 | 80.0* [70.0, 90.0] | -4.0 | 84.0 | 80.0* [70.0, 90.0] | -4.0 |",
        "",
        "- note",
    ]


EVIL = "a|b *c* _d_ $x$ <b>&amp; [e](f) `g` ~~h~~ # !"


def test_no_name_is_markup_in_markdown():
    cells = [dataclasses.replace(CELLS[0], row=EVIL, column=EVIL)]
    text = markdown(EVIL, EVIL, cells, [f"FAILED {EVIL}\n- more"])
    escaped = r"a\|b \*c\* \_d\_ \$x\$ \<b\>\&amp; \[e\](f) \`g\` \~\~h\~\~ \# \!"
    lines = text.splitlines()
    assert lines[0] == f"# {escaped}"
    assert [cell.strip() for cell in re.split(r"(?<!\\)\|", lines[2])[1:3]] == [escaped, f"{escaped} published"]
    assert re.split(r"(?<!\\) \| ", lines[4])[0] == f"| {escaped}"
    assert lines[6:] == [rf"- FAILED {escaped}\\n- more"]


def test_latex_has_booktabs_and_a_line_for_each_row():
    theirs = [Cell.printed("MesoNet", Column.of(name, "video", "auc"), "84.30") for name in ("celeb_df", "dfdc")]
    lines = to_latex("Table 5", "mask ratio", [*theirs, *CELLS[:2]], ["91 % ± 2"]).splitlines()
    assert lines[lines.index(r"\toprule") + 1 : lines.index(r"\bottomrule")] == [
        r"& \multicolumn{2}{c}{celeb\_df} & \multicolumn{2}{c}{dfdc} \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}",
        r"mask ratio & publ. & ours & publ. & ours \\",
        r"\midrule",
        r"MesoNet $^{\circ}$ & 84.30 &  & 84.30 &  \\",
        r"0.55 & 84.0 & 80.0* {[}70.0, 90.0{]} & 84.0 & 80.0* {[}70.0, 90.0{]} \\",
    ]
    assert r"\begin{tabular}{@{}lrlrl@{}}" in lines
    assert r"91 \% $\pm$ 2\par" in lines
    opened = [line[7:-1].partition("}")[0] for line in lines if line.startswith(r"\begin{")]
    assert opened[::-1] == [line[5:-1] for line in lines if line.startswith(r"\end{")]


def test_no_name_is_markup_in_latex():
    text = to_latex(r"a\b {c} $d$ e_f^g", "#", [dataclasses.replace(CELLS[0], row="[h] & 5 % ~", column='"<|>"')], [])
    assert r"\caption{a\textbackslash{}b \{c\} \$d\$ e\_f\textasciicircum{}g}" in text
    assert r"{[}h{]} \& 5 \% \textasciitilde{} & 84.0 &" in text
    assert r"\multicolumn{2}{c}{''\textless{}\textbar{}\textgreater{}''}" in text
    assert r"\# & publ." in text


def test_a_wide_table_is_several_in_latex_of_which_the_last_has_the_notes():
    cells = [dataclasses.replace(cell, column=f"{cell.column} {i}") for i in range(2) for cell in CELLS]
    text = to_latex("Table 5", "mask ratio", cells, ["91 %"])
    tables = text.split(r"\begin{table}")[1:]
    assert [re.findall(r"multicolumn\{2\}\{c\}\{(.*?)\}", table) for table in tables] == [
        [r"celeb\_df 0", "dfdc 0"],
        [r"celeb\_df 1", "dfdc 1"],
    ]
    assert [re.findall(r"caption\{(.*?)\}", table) for table in tables] == [["Table 5 (1 of 2)"], ["Table 5 (2 of 2)"]]
    assert [r"91 \%\par" in table for table in tables] == [False, True]
    assert all(table.count(r"\end{table}") == 1 for table in tables)


def test_two_hyphens_are_no_dash_in_latex():
    assert latex("--seeds 2 – 3") == "-{}-seeds 2 -- 3"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex with booktabs and adjustbox")
@pytest.mark.nightly
def test_latex_compiles(tmp_path):
    names = ["a_b & c", '#1 $x$ 50 % [h] ~ ^ \\ {} <b> | " --', "± ° ↑ ↓ – é"]
    cells = [
        dataclasses.replace(cell, row=f"{row} {cell.row}", column=f"{cell.column} {row}")
        for row in names
        for cell in CELLS
    ]
    cells = [
        dataclasses.replace(c, row=r, column=k)
        for r in dict.fromkeys(c.row for c in cells)
        for k, c in {c.column: c for c in cells}.items()
    ]
    (tmp_path / "table.tex").write_text(to_latex(names[1], names[0], cells, names))
    document = r"\documentclass{article}\usepackage{booktabs,adjustbox}\begin{document}\input{table}\end{document}"
    (tmp_path / "all.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "all"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_a_heading_stands_above_its_numbers_whatever_their_width():
    cells = [make_cell(*THREE), make_cell(results({}))]  # `83.0 ± 3.6` and `80.0*`
    width = ours_width(cells)
    assert width == 10
    head = heading("dfdc", width).splitlines()[1]
    for cell, ours in zip(cells, ("83.0 ± 3.6", "80.0*"), strict=True):
        line = f"{two_lines(cell, width).splitlines()[0]:>{len(head)}}"
        assert (line.index(ours) + len(ours), len(line)) == (head.index("ours") + 4, len(head))
    assert ours_width(cells[1:]) == 6


def test_notes_tell_what_a_reader_must_know():
    lines = notes([*CELLS, FAILED], {"data": "sample corpus"})
    assert lines[0] == "data: sample corpus"
    assert "celeb_df: 10 real and 20 fake videos scored, 3 failed" in lines
    assert "dfdc: 10 real and 20 fake videos scored, 3 failed, 4 excluded (share a source with training)" in lines
    assert any("one seed only" in line for line in lines)
    assert any("95 % interval" in line for line in lines)
    assert lines[-1] == "FAILED 0.95 on dfdc: ValueError: loss, is NaN"


def test_groups_of_a_part_are_those_of_its_videos_not_of_a_number_that_rests_on_fewer():
    rate = dataclasses.replace(make_cell(results({})), n_clusters=2)
    auc = dataclasses.replace(make_cell(results({})), n_clusters=24)
    assert "dfdc: 10 real and 20 fake videos scored (24 groups of one source), 1 failed" in notes([rate, auc], {})


def test_rows_that_scored_other_videos_than_most_are_named():
    usual = make_cell(results({}))
    fewer = dataclasses.replace(usual, n_fake=19, n_missing=2)
    cells = [dataclasses.replace(usual, row=row) for row in ("a", "b")]
    cells.insert(0, dataclasses.replace(fewer, row="c40"))
    lines = [line for line in notes(cells, {}) if "videos scored" in line]
    assert lines == [
        "dfdc: 10 real and 20 fake videos scored (7 groups of one source), 1 failed",
        "dfdc, c40: 10 real and 19 fake videos scored (7 groups of one source), 2 failed",
    ]


def test_notes_say_what_an_interval_is_over_and_where_it_says_little():
    few, enough = (notes([make_cell(results({"n_clusters": n}))], {}) for n in (19, 20))
    assert any("fewer than 20 groups (here 19)" in line for line in few)
    assert not any("fewer than" in line for line in enough)
    assert not any("trainings" in line for line in few)
    assert any("with several seeds over trainings too" in line for line in notes([make_cell(*THREE)], {}))
    perfect = results({"value": 1.0, "low": 0.83, "high": 1.0, "n_clusters": 20, "note": "no error in 20 groups"})
    cells = [make_cell(perfect), make_cell(perfect, column="dfdc"), make_cell(results({}))]
    assert "no error in 20 groups: 0.75 on dfdc, dfdc" in notes(cells, {})


def test_what_is_to_know_of_one_seed_names_it():
    noted = make_cell(THREE[0], results({"seed": 1, "note": "alike"}), results({"seed": 2, "note": "alike"}))
    assert noted.note == "alike (seed 1, 2)"
    assert make_cell(results({"note": "alike"}), results({"seed": 1, "note": "alike"})).note == "alike"
    assert make_cell(results({}).drop_columns("note")).note == ""  # RESULTS of an older version


def test_notes_name_a_failure_once_for_all_datasets_of_its_row():
    cells = [Cell(row="0.95", column=name, published=0.8, failure="killed") for name in ("celeb_df", "dfdc")]
    failed = [line for line in notes([*cells, FAILED], {}) if "FAILED" in line]
    assert failed == ["FAILED 0.95 on celeb_df, dfdc: killed", "FAILED 0.95 on dfdc: ValueError: loss, is NaN"]


def test_notes_of_several_seeds_have_no_mark_of_one():
    assert not any("one seed only" in line for line in notes([make_cell(*THREE)], {}))


TESTED = ["baseline"] + [
    f"baseline_{name}"
    for name in ("difference", "low", "high", "p", "adjusted_p", "by_seed", "num_videos", "num_clusters")
]


def test_csv_can_be_read_back():
    rows = list(csv.DictReader(io.StringIO(to_csv("mask ratio", [make_cell(*THREE), FAILED]))))
    assert rows[0] == {
        "mask ratio": "0.75",
        "test_dataset": "dfdc",
        "perturbation": "",
        "level": "video",
        "metric": "auc",
        "published": "0.840000",
        "ours": "0.830000",
        "difference": "-0.010000",
        "spread": "0.036056",
        "low": "0.730000",
        "high": "0.880000",
        "seeds": "0 1 2",
        "n_real": "10",
        "n_fake": "20",
        "n_clusters": "7",
        "n_padded": "0",
        "n_missing": "1",
        "n_excluded": "0",
        "failure": "",
        "note": "",
        **dict.fromkeys(TESTED, ""),
        "published_only": "",
    }
    assert (rows[1]["mask ratio"], rows[1]["ours"], rows[1]["failure"]) == ("0.95", "", "ValueError: loss, is NaN")


# -------------------------------------------------------------------------------------------- plot
def of_ours(path) -> int:
    """Return how many pixels have the colour of our points."""
    image = cv2.imread(str(path)).astype(int)
    assert min(image.shape[:2]) > 400
    return int((np.abs(image - (178, 114, 0)).max(2) < 40).sum())


def test_plot_shows_our_points_where_there_are_any(tmp_path):
    plot.plot(tmp_path / "both.png", "Table 5", "mask ratio", [*CELLS, FAILED], "footer")
    none = [Cell(row=cell.row, column=cell.column, published=cell.published) for cell in CELLS]
    plot.plot(tmp_path / "none.png", "Table 5", "mask ratio", none, "footer")
    six = [dataclasses.replace(cell, column=f"{cell.column} {i}") for i in range(3) for cell in CELLS]
    plot.plot(tmp_path / "six.png", "Table 5", "a row name that is long", six, "footer")
    assert of_ours(tmp_path / "six.png") > 2 * of_ours(tmp_path / "both.png") > 400
    assert of_ours(tmp_path / "none.png") == 0


@pytest.fixture
def figures(monkeypatch) -> list[Any]:
    """Those that are saved."""
    found: list[Any] = []
    save = matplotlib.figure.Figure.savefig

    def noted(figure: Any, *args: Any, **settings: Any) -> None:
        found.append(figure)
        save(figure, *args, **settings)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", noted)
    return found


def written(figures: list[Any]) -> list[str]:
    """All that stands in the last figure."""
    texts = figures[-1].findobj(matplotlib.text.Text)
    assert not any(text.get_parse_math() for text in texts if text.get_text())
    return [text.get_text() for text in texts]


def test_a_plot_shows_names_as_they_are(tmp_path, figures):
    """Also one that TeX would not take, and one that a legend would leave out."""
    names = (r"$\frac$", "_a $1$ b")
    cells = [dataclasses.replace(cell, row=row) for cell, row in zip(CELLS[::2], names, strict=True)]
    plot.plot(tmp_path / "a.png", "$ title $", "$row$", cells, "made $up$")
    assert {*names, "$ title $", "$row$", "made $up$"} <= set(written(figures))
    table = results({"perturbation": "blur-1"}, {})
    rows = {name: [table] for name in names}
    assert robustness.plot(tmp_path / "b.png", "$ title $", "$row$", rows, footer="made $up$")
    assert {*names, "$row$", "$ title $\nmade $up$"} <= set(written(figures))


@pytest.mark.parametrize(("rows", "columns"), [(2, 1), (5, 3), (30, 4)])
def test_no_label_of_a_plot_overlaps_another(tmp_path, figures, rows, columns):
    cells = [
        dataclasses.replace(CELLS[0], row=f"a row of the paper's, number {row}", column=f"deeper_forensics {column}")
        for row in range(rows)
        for column in range(columns)
    ]
    plot.plot(tmp_path / "a.png", "Table 5: " + "a long title " * 6, "method", cells, "a footer")
    (figure,) = figures[-1:]
    figure.canvas.draw()  # saved, it had another resolution
    texts = [figure._suptitle, *figure.findobj(matplotlib.legend.Legend)[0].get_texts()]
    for axis in figure.axes:
        low, high = axis.get_xlim()
        places = zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
        texts += [axis.title, axis.xaxis.label, *(text for place, text in places if low <= place <= high)]
        texts += [text for text in axis.get_yticklabels() if axis.yaxis.get_tick_params()["labelleft"]]
    boxes = [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]
    assert len(boxes) > rows + columns
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_ours_and_published_of_equal_value_are_both_seen(tmp_path, figures):
    plot.plot(tmp_path / "a.png", "Table 5", "row", [dataclasses.replace(CELLS[0], published=CELLS[0].ours)], "")
    (axis,) = figures[-1].axes
    marks = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.get_lines() if len(line.get_xdata()) == 1}
    assert len({x for x, _ in marks if x == 80}) == 1
    assert len({y for x, y in marks if x == 80}) == 2


def test_no_number_is_below_the_legend(tmp_path, figures):
    for footer, cells in (("", CELLS), ("sample corpus: " + "a long text " * 8, CELLS[::2])):
        plot.plot(tmp_path / "a.png", "Table 5", "a name", cells, footer)
        (figure,) = figures[-1:]
        (legend,) = figure.legends
        boxes = [axis.get_tightbbox() for axis in figure.axes]
        whole, below = figure.bbox, legend.get_window_extent()
        assert not any(below.overlaps(box) for box in boxes)
        assert whole.x0 <= below.x0 < below.x1 <= whole.x1
        assert below.y0 >= whole.y0
