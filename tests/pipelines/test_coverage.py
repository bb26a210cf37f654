"""What became of videos: counts and tests worked out by hand."""

import csv
from pathlib import Path

import cv2
import pyarrow as pa
import pytest
from scipy import stats

from pipelines.common import tables
from pipelines.coverage import main
from pipelines.reporting import coverage
from pipelines.reporting.leaks import find_leaks

COPIED = pa.schema([tables.VIDEOS.field(name) for name in tables.COPIED])


def extraction(*groups: tuple) -> tuple[pa.Table, pa.Table]:
    """VIDEOS and LEDGER of groups (split, method, how many, status, reason, faces in each; 4 frames each)."""
    videos, ledger = [], []
    for split, method, count, status, reason, faces in groups:
        for _ in range(count):
            name = f"toy/{method}/{len(videos):04d}"
            videos.append(
                {"dataset": "toy", "video_id": name, "label": int(method != "real"), "method": method, "codec": "c23"}
                | {"split": split}
            )
            if status != "pending":
                frames = 0 if status in ("unreadable", "crashed") else 4
                ledger.append(
                    {"video_id": name, "status": status, "reason": reason, "num_frames": frames, "num_faces": faces}
                    | {"content": "", "seconds": 0.5, "source": None}
                )
    return tables.to_table(videos, COPIED.with_metadata(tables.VIDEOS.metadata)), tables.to_table(ledger, tables.LEDGER)


def ok(split: str, method: str, count: int, faces: int = 4) -> tuple:
    return split, method, count, "ok", "", faces


def bad(split: str, method: str, count: int, status: str = "no_face", reason: str = "no face in 4 frames") -> tuple:
    return split, method, count, status, reason, 0


def test_every_video_given_is_counted_once():
    videos, ledger = extraction(
        ok("test", "Swap", 2, faces=3),
        bad("test", "Swap", 1),
        bad("test", "Swap", 1, "unreadable", "x"),
        bad("test", "Swap", 1, "crashed", "x"),
        bad("test", "Swap", 2, "pending"),
        ok("train", "real", 1),
    )
    first, second = coverage.table(videos, ledger).to_pylist()
    assert (first["split"], first["method"], first["faces_per_frame"]) == ("train", "real", 1.0)
    assert second == {
        "dataset": "toy", "split": "test", "label": 1, "method": "Swap", "given": 7, "read": 3, "ok": 2,
        "unreadable": 1, "no_face": 1, "crashed": 1, "pending": 2, "frames": 12, "faces": 6, "faces_per_frame": 0.5,
        "seconds": 2.5,
    }  # fmt: skip


def test_splits_come_in_their_order_and_real_first():
    videos, ledger = extraction(*(ok(s, m, 1) for s in ("test", "val", "train") for m in ("A", "real")))
    rows = coverage.table(videos, ledger).to_pylist()
    assert [(r["split"], r["method"]) for r in rows] == [(s, m) for s in tables.SPLITS for m in ("real", "A")]


def test_no_frame_has_no_faces_per_frame_and_videos_of_others_do_not_count():
    videos, ledger = extraction(bad("test", "real", 1, "unreadable", "x"), ok("test", "real", 3))
    (row,) = coverage.table(videos.slice(0, 1), ledger).to_pylist()
    assert (row["given"], row["faces_per_frame"]) == (1, None)


@pytest.mark.parametrize(("reason", "expected"), [
    ("/data/my films/a.mp4: no such file", "FILE: no such file"),
    ("s3://b/a.mp4: reading stops after 12 frames", "FILE: reading stops after N frames"),
    ("no face in 32 frames; 3 of 35 sampled frames cannot be decoded",
     "no face in N frames; N of N sampled frames cannot be decoded"),
    ("no mask: /d/m.mp4: empty file", "no mask: FILE: empty file"),
    ("no mask for 3 of 8 faces: x/masks/a_1.mp4 lacks the frame", "no mask for N of N faces: FILE lacks the frame"),
    ("media process died of SIGSEGV", "media process died of SIGSEGV"),
])  # fmt: skip
def test_reasons_lose_names_and_numbers(reason, expected):
    assert coverage.normalised(reason) == expected


def test_like_reasons_count_together_the_most_frequent_first():
    videos, ledger = extraction(
        bad("test", "real", 1, "unreadable", "/d/z.mp4: odd"),
        bad("test", "real", 1, "unreadable", "/d/a.mp4: empty file"),
        bad("test", "real", 1, "unreadable", "/d/b.mp4: empty file"),
        ok("test", "real", 5),
    )
    found = coverage.reasons(videos, ledger)
    assert [(row["reason"], row["videos"], row["example"]) for row in found] == [
        ("FILE: empty file", 2, "toy/real/0001"),
        ("FILE: odd", 1, "toy/real/0000"),
    ]


def test_failures_of_one_class_are_a_leak():
    # 10 of 100 fakes and no real: Fisher's two-sided p is 2 * C(100, 10) / C(200, 10), both tails alike.
    videos, ledger = extraction(ok("test", "real", 100), ok("test", "Swap", 90), bad("test", "Swap", 10))
    (leak,) = find_leaks(videos, ledger)
    assert (leak.method, leak.kind, leak.real, leak.fake) == ("Swap", "failed", 0.0, 0.1)
    assert leak.p == pytest.approx(2 * stats.hypergeom(200, 100, 10).pmf(10))
    assert "10.0% of 100 videos against 0.0% of 100" in str(leak)


@pytest.mark.parametrize(("real", "fake"), [
    ((1000, 15), (1000, 0)),  # p = 6e-5, but 1.5 points
    ((20, 0), (20, 3)),  # 15 points, but p = 0.23
    ((100, 10), (100, 10)),
    ((0, 0), (100, 50)),  # nothing to compare with
])  # fmt: skip
def test_what_is_small_or_may_be_chance_is_no_leak(real, fake):
    groups = [
        group
        for method, (count, failed) in (("real", real), ("Swap", fake))
        for group in (ok("test", method, count - failed), bad("test", method, failed))
    ]
    assert find_leaks(*extraction(*groups)) == []


def test_one_manipulation_among_several_and_one_split_among_several():
    groups = [ok(s, m, 200) for s in ("train", "test") for m in ("real", "A", "B")]
    videos, ledger = extraction(*groups, bad("test", "B", 40))
    found = [(leak.split, leak.method) for leak in find_leaks(videos, ledger)]
    assert found == [("test", "all fakes"), ("test", "B")]


def test_faces_per_frame_that_differ_by_class_are_a_leak():
    # 4 faces in 4 frames against 3 in half of the fakes: 1.00 against 0.875
    videos, ledger = extraction(ok("test", "real", 50), ok("test", "Swap", 25), ok("test", "Swap", 25, faces=3))
    (leak,) = find_leaks(videos, ledger)
    assert (leak.kind, leak.real, leak.fake) == ("faces per frame", 1.0, 0.875)
    same = extraction(ok("test", "real", 50), ok("test", "real", 5, faces=3), ok("test", "Swap", 55))
    assert find_leaks(*same) == []  # 0.977 against 1: less than 0.05


def test_pending_videos_are_no_failures():
    videos, ledger = extraction(ok("test", "real", 100), ok("test", "Swap", 10), bad("test", "Swap", 90, "pending"))
    assert find_leaks(videos, ledger) == []


def test_markdown_is_a_table_whatever_a_file_is_called():
    videos, ledger = extraction(bad("test", "a|b<script>", 1, "crashed", "odd [x](y)\x1b"), ok("test", "real", 1))
    page = coverage.markdown(coverage.table(videos, ledger), coverage.reasons(videos, ledger), [], "Title")
    assert page.startswith("# Title\n")
    assert r"| a\|b\<script\> |" in page
    assert r"odd \[x\](y)\\x1b" in page
    assert "No leak found: real and fake fail alike" in page


def test_the_plot_shows_every_outcome(tmp_path):
    videos, ledger = extraction(
        ok("test", "real", 10), ok("train", "Swap", 6), bad("train", "Swap", 3), bad("train", "Swap", 3, "crashed")
    )
    coverage.plot(tmp_path / "a.png", coverage.table(videos, ledger), "toy")
    picture = cv2.imread(str(tmp_path / "a.png"))[..., ::-1].reshape(-1, 3)

    def share(colour: tuple[int, int, int]) -> float:
        return float((abs(picture.astype(int) - colour).max(1) < 3).mean())

    green, amber, red = share((0, 158, 115)), share((230, 159, 0)), share((204, 51, 17))
    assert amber == pytest.approx(red, rel=0.2)
    assert green == pytest.approx(6 * amber, rel=0.2)  # a whole bar and half a bar against a quarter


def test_an_empty_extraction_has_an_empty_table_and_a_plot(tmp_path):
    videos, ledger = extraction()
    assert coverage.table(videos, ledger).num_rows == 0
    coverage.plot(tmp_path / "a.png", coverage.table(videos, ledger))
    assert (tmp_path / "a.png").stat().st_size > 0


def test_a_folder_that_is_no_finished_extraction_is_wrong_usage(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "run the extraction again" in capsys.readouterr().out


@pytest.mark.ray
def test_the_command_writes_what_an_extraction_recorded(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    assert main([str(tiny.faces["ffpp"]), "--out", str(tmp_path)]) == 0
    assert "NeuralTextures" in capsys.readouterr().out
    (table,) = [path for path in tmp_path.glob("*.csv") if "reasons" not in path.name]
    with table.open(newline="") as file:
        given = {(row["split"], row["method"]): int(row["given"]) for row in csv.DictReader(file)}
    assert given["train", "real"] == given["test", "Deepfakes"] == 2
    assert {path.suffix for path in Path(tmp_path).iterdir()} == {".md", ".csv", ".png"}
