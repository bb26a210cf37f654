"""What the doctor finds: rules on hand-made rows, then files that are broken in the ways that occur."""

import csv
import io
import os
import signal
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pytest
from ray import cloudpickle
from rich.console import Console

from pipelines.commands import doctor
from pipelines.common import text
from pipelines.datasets import _checks
from pipelines.datasets._checks import ERROR, OK, WARNING
from pipelines.datasets._lists import PublishedList
from pipelines.doctor import main
from pipelines.media import probe

GB = 10**9


def row(name: str, label: int = 0, split: str = "test", **changes) -> dict:
    usual = {"dataset": "toy", "video_id": f"toy/{name}", "uri": f"{name}.mp4", "root": "toy", "codec": "c23"}
    usual |= {"label": label, "split": split, "method": "Swap" if label else "real", "source_ids": [name]}
    return usual | {"real_id": None, "real_uri": None, "mask_uri": None} | changes


def texts(finding: _checks.Finding) -> list[str]:
    return [problem.text for problem in finding.problems]


# Rules


def test_fewer_videos_than_published_are_numbers_by_method_split_and_codec():
    rows = [row("a"), row("b"), row("c", 1), row("d", codec="c40"), row("e", codec="c40"), row("f", 1, codec="c40")]
    finding = _checks.counts(rows, {("real", "test"): 2, ("Swap", ""): 2}, {("toy", "b.mp4")})
    assert finding.result == WARNING
    assert texts(finding) == ["Swap c23 1 of 2", "real c23 test 1 of 2", "Swap c40 1 of 2"]
    assert "Swap c23: 1 of 2; real c23: test 1 of 2; Swap c40: 1 of 2" in finding.text


def test_the_published_number_is_ok_and_one_more_is_not():
    rows = [row("a"), row("b")]
    assert _checks.counts(rows, {("real", "test"): 2}, ()).result == OK
    assert texts(_checks.counts(rows, {("real", "test"): 1}, ())) == ["real c23 test 2 of 1"]


def test_a_method_that_was_not_downloaded_is_named_once():
    expected = {("Swap", split): 9 for split in ("train", "val", "test")} | {("real", "test"): 1}
    finding = _checks.counts([row("a")], expected, ())
    assert finding.text.endswith(": Swap c23: none")
    assert len(finding.problems) == 3


def promised(labels: dict[str, int], **known: Any) -> PublishedList:
    of_test = {f"toy/{name}": label for name, label in labels.items()}
    return PublishedList(name="test.txt", labels=of_test, covers=lambda row: row["split"] == "test", **known)


def test_a_copy_is_held_against_its_owners_lists():
    rows = [row("a"), row("b"), row("c", 1), row("d", split="train")]
    finding = _checks.lists(rows, [promised({"a": 0, "b": 0, "c": 1}, as_published=True)], ())
    assert (finding.result, finding.text) == (OK, "test.txt: 3 of 3 there, the published list")
    finding = _checks.lists(rows, [promised({"b": 0, "c": 1, "x": 1}, as_published=False)], {("toy", "b.mp4")})
    assert finding.result == WARNING
    assert finding.text == "test.txt: 1 of 3 there, not the published list, 2 missing, 1 besides"
    assert [(problem.video_id, problem.text) for problem in finding.problems] == [
        ("toy/b", "test.txt: not there"),
        ("toy/x", "test.txt: not there"),
        ("toy/a", "test.txt: does not name it"),
        ("", "test.txt: not the published list"),
    ]


def test_a_label_that_two_lists_tell_otherwise_is_an_error():
    rows = [row("a"), row("b", 1)]
    finding = _checks.lists(rows, [promised({"a": 1, "b": 1}, tells_labels=True)], ())
    assert (finding.result, finding.text) == (ERROR, "test.txt: 2 of 2 there, 1 with another label")
    assert [(problem.video_id, problem.text) for problem in finding.problems] == [
        ("toy/a", "test.txt: has another label")
    ]


def test_labels_are_called_the_same_only_by_a_list_that_could_tell_them_otherwise():
    rows, labels = [row("a"), row("b", 1)], {"a": 0, "b": 1}
    told = [_checks.lists(rows, [promised(labels, tells_labels=apart)], ()).text for apart in (True, False)]
    assert told == ["test.txt: 2 of 2 there, the same labels", "test.txt: 2 of 2 there"]


def test_a_list_of_which_only_the_length_is_known_is_not_called_the_published_one():
    rows = [row("a"), row("b", 1)]
    finding = _checks.lists(rows, [promised({"a": 0, "b": 1}, num_published=2)], ())
    assert (finding.result, finding.text) == (OK, "test.txt: 2 of 2 there, as many as published")
    finding = _checks.lists(rows, [promised({"a": 0, "b": 1}, num_published=3)], ())
    assert (finding.result, finding.text) == (WARNING, "test.txt: 2 of 2 there, 3 published")
    assert texts(finding) == ["test.txt: not as many as published"]


def test_a_split_with_one_class_is_an_error_also_where_the_other_has_no_files():
    rows = [row("a"), row("b", 1), row("c", split="train"), row("d", 1, split="train")]
    assert _checks.classes(rows, ()).result == OK
    finding = _checks.classes(rows, {("toy", "d.mp4")})
    assert (finding.result, texts(finding)) == (ERROR, ["train c23: 1 real, 0 fake"])


def test_a_compression_with_one_class_is_a_warning_and_unknown_joins_any():
    rows = [row("a"), row("b", 1), row("c", codec="c40")]
    assert texts(_checks.classes(rows, ())) == ["test c40: 1 real, 0 fake"]
    assert _checks.classes(rows, ()).result == WARNING
    rows[1]["codec"] = "unknown"
    assert _checks.classes(rows, ()).result == OK


@pytest.mark.parametrize(("dataset", "splits", "result"), [
    ("toy", ("train", "val"), ERROR),
    ("toy", ("train", "test"), WARNING),  # nothing to select on: it is never trained on
    ("celeb_df", ("train", "val"), WARNING),
])  # fmt: skip
def test_a_person_in_two_splits(dataset, splits, result):
    rows = [row("a", split=splits[0], source_ids=["p", "q"]), row("b", 1, split=splits[1], source_ids=["q"])]
    finding = _checks.identities(dataset, rows)
    assert (finding.result, texts(finding)) == (result, [f"q is in {splits[0]} and {splits[1]}"])
    rows[1]["source_ids"] = ["r"]
    assert _checks.identities(dataset, rows).result == OK


def test_masks_and_counterparts_that_others_of_the_method_have():
    fake = {"label": 1, "real_id": "toy/a", "real_uri": "a.mp4"}
    rows = [row("a"), row("b", **fake, mask_uri="m.mp4"), row("c", **fake), row("d", 1, "train")]
    finding = _checks.counterparts(rows, {})
    assert (finding.result, texts(finding)) == (WARNING, ["has no mask, others of Swap in test do"])
    assert "Swap: 3 fakes, 2 with real video, 1 with mask" in finding.text
    assert texts(_checks.counterparts(rows[:2], {("toy", "m.mp4"): "is not there"})) == ["mask: is not there"]


@pytest.mark.parametrize("real_id", ["toy/nobody", "toy/b"])
def test_a_counterpart_that_is_none_is_an_error(real_id):
    finding = _checks.counterparts([row("a"), row("b", 1), row("c", 1, real_id=real_id)], {})
    assert finding.result == ERROR


def test_one_lost_video_in_a_hundred_is_a_warning_two_are_an_error():
    rows = [row(str(i)) for i in range(100)] + [row(f"f{i}", 1) for i in range(300)]
    assert _checks.lost("missing", rows, {}, "").result == OK
    assert _checks.lost("missing", rows, {("toy", "0.mp4"): "gone"}, "").result == WARNING
    finding = _checks.lost("missing", rows, {("toy", f"{i}.mp4"): "gone" for i in range(2)}, "")
    assert finding.result == ERROR
    assert "2 of 400 videos, up to 2.0%" in finding.text


def test_a_damaged_archive_is_no_video_but_may_have_lost_many():
    rows = [row(str(i), uri=f"0.tar/0/{i}") for i in range(300)] + [row("real/0.tar", uri="real/0.tar")]
    rows.append(row("real/1", uri="real/1.tar"))  # a sound one, with pictures in its top folder
    assert _checks.counts(rows, {("real", "test"): 301}, ()).result == OK
    assert _checks.lost("unreadable", rows, {("toy", "real/1.tar"): "broken"}, "").result == WARNING
    finding = _checks.lost("unreadable", rows, {("toy", "real/0.tar"): "cut off"}, "")
    assert finding.result == ERROR
    assert "1 of them archives, each with an unknown number of videos" in finding.text


def test_ten_thousand_problems_are_five_names_and_all_in_the_report():
    rows = [row(f"{i:05d}") for i in range(10_000)]
    finding = _checks.lost("missing", rows, {_checks.file_of(r): "is not there" for r in rows}, "")
    assert "toy/00004 and 9995 more" in finding.text
    assert "toy/00005" not in finding.text
    lines = list(csv.DictReader(io.StringIO(doctor.to_csv({"toy": [finding]}))))
    assert len(lines) == 10_000
    assert lines[-1]["video_id"] == "toy/09999"


def test_same_content():
    rows = [row("a"), row("b"), row("c", 1), row("d", split="train"), row("e")]

    def result(*same: str) -> str:
        return _checks.duplicates(rows, {("toy", f"{name}.mp4"): "x" for name in same}).result

    assert [result("e"), result("a", "b"), result("a", "c"), result("a", "d")] == [OK, WARNING, ERROR, ERROR]


def test_a_file_that_two_datasets_list_is_no_duplicate_unless_they_disagree():
    rows = [row("a"), row("a", dataset="other", video_id="other/a")]
    assert _checks.duplicates(rows, {("toy", "a.mp4"): "x"}).result == OK
    rows[1]["split"] = "train"
    assert _checks.duplicates(rows, {("toy", "a.mp4"): "x"}).result == ERROR


def test_space_is_counted_in_faces_scaled_by_area_and_wanted_twice():
    # 1000 videos x 10 frames x 60 kB = 0.6 GB at 224 px, a quarter of it at 112 px
    sizes = [(224, 2 * GB), (224, 1 * GB), (224, GB // 2), (112, GB // 2)]
    results = [_checks.space(1000, 0, 10, size, free).result for size, free in sizes]
    assert results == [OK, WARNING, ERROR, OK]


def test_a_picture_takes_the_room_of_one_frame():
    assert "; 3900 pictures need about 0.2 GB" in _checks.space(0, 3900, 32, 224, GB).text
    assert "; 10 videos x 32 frames and 3900 pictures need about 0.3 GB" in _checks.space(10, 3900, 32, 224, GB).text


def test_names_cannot_steer_the_terminal():
    assert text.printable("a\x1b[31m\n\u202eb ü") == r"a\x1b[31m\n\u202eb ü"


def test_a_dataset_without_fault_is_one_line(capsys):
    fine = [
        _checks.Finding(check="layout", result=OK, text="as expected"),
        _checks.Finding(check="counts", result=OK, text="7 videos, as published"),
    ]
    worse = _checks.Finding(check="classes", result=WARNING, text="a part with one class only", todo="download it")
    room = _checks.Finding(check="space", result=OK, text="9.0 GB free")
    doctor.show({"a": fine, "b\n": [*fine, worse], doctor.ALL: [room]}, Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a: ok; 7 videos, as published"
    assert lines[1] == "b\\n: warning; 1 warning; 2 of 3 checks ok"
    assert lines[-1] == "all datasets: ok; 9.0 GB free"
    table = "\n".join(lines[2:-1])
    assert "a part with one class only" in table
    assert "as expected" not in table


def test_folders_that_are_expected_are_shown_as_wide_as_they_are(capsys):
    tree = f"    manipulated_sequences/<method>/{'x' * 80}/TTT_SSS.mp4"
    layout = _checks.Finding(check="layout", result=ERROR, text=f"not\x1b here\nExpected\n{tree}", todo="mend it")
    doctor.show({"a": [layout]}, Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["a: error; 1 error; 0 of 1 check ok", "    not\\x1b here", "    Expected", f"    {tree}"]


# Files


@pytest.fixture(scope="module")
def files(tmp_path_factory, write_video) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    noise = np.random.default_rng(0).integers(0, 255, (30, 64, 96, 3), np.uint8)
    fast = {"movflags": "+faststart"}
    made = {name: folder / f"{name}.mp4" for name in ("good", "cut", "cut_fast", "text", "empty", "flipped")}
    write_video(made["good"], noise, g="5")
    for name, container in (("cut", None), ("cut_fast", fast), ("flipped", fast)):
        write_video(made[name], noise, g="5", container=container)
        data = bytearray(made[name].read_bytes())
        if name == "flipped":
            data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
        made[name].write_bytes(data if name == "flipped" else data[: 2 * len(data) // 3])
    made["text"].write_text("not a video")
    made["empty"].touch()
    return made


def test_headers_tell_what_cannot_be_opened_and_what_broke_off(files):
    said = {name: probe.look(str(path), decode_all=False) for name, path in files.items()}
    assert said["good"] == said["flipped"] == ""
    assert said["cut"] == said["text"] == "not a video file, or cut off before its index"
    assert said["empty"] == "empty file"
    assert "end" in said["cut_fast"]


def test_decoding_tells_damage_within(files):
    assert probe.look(str(files["good"]), decode_all=True) == ""
    assert "damaged" in probe.look(str(files["flipped"]), decode_all=True)
    assert probe.look(str(files["cut_fast"]), decode_all=True) != ""


def test_pictures_in_folders_and_archives(tmp_path):
    folder = tmp_path / "sequence"
    folder.mkdir()
    assert "without pictures" in probe.look(str(folder), decode_all=False)
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
    with tarfile.open(tmp_path / "1.tar.gz", "w:gz") as archive:
        archive.add(folder, "1/real/0")
    inside = f"{tmp_path}/1.tar.gz/1/real/0"
    assert [probe.look(path, decode_all=every) for path in (str(folder), inside) for every in (False, True)] == [""] * 4
    (folder / "2.png").write_bytes(b"no picture")
    assert probe.look(str(folder), decode_all=False) == ""
    assert "2.png" in probe.look(str(folder), decode_all=True)
    assert "holds no pictures" in probe.look(f"{tmp_path}/1.tar.gz/1/real/1", decode_all=False)


def test_a_remote_file_is_looked_at_where_it_is(files):
    with fsspec.open("memory://doctor/good.mp4", "wb") as file:
        file.write(files["good"].read_bytes())
    for every in (False, True):
        assert probe.look("memory://doctor/good.mp4", decode_all=every) == ""
    assert probe.look("memory://doctor/none.mp4", decode_all=False) != ""
    sizes = probe.sizes(["memory://doctor/good.mp4", "memory://doctor/none.mp4"])
    assert sizes == {
        "memory://doctor/none.mp4": None,
        "memory://doctor/good.mp4": files["good"].stat().st_size,
    }


def look_by_name() -> bytes:
    """A factory that is pickled by value: the child need not import this file."""

    def factory() -> Callable[[str], str]:
        def look(path: str) -> str:
            if path == "dies":
                os.kill(os.getpid(), signal.SIGSEGV)
            if path == "hangs":
                time.sleep(60)
            if path == "raises":
                raise KeyError("odd")
            return ""

        return look

    return cloudpickle.dumps(factory)


def test_a_file_that_kills_or_hangs_the_decoder_costs_one_line():
    seen: list[tuple[int, int]] = []
    paths = ["fine", "dies", "hangs", "raises", "fine too"]
    problems = probe.problems(
        paths, look=look_by_name(), timeout_s=1, jobs=2, on_done=lambda done, total: seen.append((done, total))
    )
    assert problems == {
        "dies": "media process died of SIGSEGV",
        "hangs": "took longer than 1 s",
        "raises": "KeyError: 'odd'",
    }
    assert seen[-1] == (5, 5)


def test_sizes_of_files_folders_archives_and_nothing(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"four")
    (tmp_path / "b.tar.gz").write_bytes(b"x")
    names = ["a.mp4", "b.tar.gz/1/real", "c.tar.gz/1/real", "d.mp4", ""]
    sizes = probe.sizes(str(tmp_path / name) for name in names)
    assert [sizes[str(tmp_path / name)] for name in names] == [4, -1, None, None, -1]


def test_names_that_are_not_utf8_are_looked_at(files, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    odd.write_bytes(files["good"].read_bytes())
    path = f"{tmp_path}/caf\\xe9.mp4"
    assert probe.sizes([path]) == {path: odd.stat().st_size}
    assert probe.look(path, decode_all=True) == ""
    assert probe.digests([path], jobs=1, on_done=lambda done, total: None)[path]
    odd.write_bytes(b"no video")
    assert probe.look(path, decode_all=False) == "not a video file, or cut off before its index"


# The command


@pytest.fixture
def corpus(tiny_roots: Mapping[str, str], tmp_path: Path) -> dict[str, Path]:
    """The tiny Celeb-DF, copied, so that it can be broken, and its datasets.toml."""
    home = tmp_path / "Celeb-DF-v2"
    for path in Path(tiny_roots["celeb_df"]).rglob("*.*"):
        target = home / path.relative_to(tiny_roots["celeb_df"])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    config = tmp_path / "datasets.toml"
    config.write_text('celeb_df = "Celeb-DF-v2"\n')
    return {"home": home, "config": config, "report": tmp_path / "report.csv"}


def command(corpus: Mapping[str, Path], *more: str) -> int:
    place = str(corpus["home"].parent)
    return main(["--datasets", str(corpus["config"]), "--storage", place, "--jobs", "2", *more])


def reported(corpus: Mapping[str, Path]) -> dict[str, list[str]]:
    videos: dict[str, list[str]] = {}
    with corpus["report"].open(newline="") as file:
        for line in csv.DictReader(file):
            videos.setdefault(f"{line['check']} {line['result']}", []).append(line["video_id"])
    return videos


def test_a_sound_dataset_passes(corpus, capsys):
    assert command(corpus, "--decode", "--hash", "--report", str(corpus["report"])) == 0
    assert "0 errors" in capsys.readouterr().out
    assert not any("error" in name for name in reported(corpus))


def test_each_broken_file_is_named_and_the_exit_code_says_so(corpus):
    test_reals = sorted((corpus["home"] / "Celeb-real").glob("id[01]_*.mp4"))
    test_reals[0].unlink()
    test_reals[1].write_bytes(b"no video")
    fake = next((corpus["home"] / "Celeb-synthesis").glob("id0_*.mp4"))
    (corpus["home"] / "YouTube-real/00099.mp4").write_bytes(fake.read_bytes())  # a real of train
    assert command(corpus, "--hash", "--report", str(corpus["report"])) == 1
    videos = reported(corpus)
    assert videos["missing files error"] == [f"celeb_df/Celeb-real/{test_reals[0].stem}"]
    assert videos["unreadable files error"] == [f"celeb_df/Celeb-real/{test_reals[1].stem}"]
    assert len(videos["duplicates error"]) == 1


def test_a_damaged_archive_is_named_and_the_dataset_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    picture = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for part in ("real_test", "fake_test"):
        (tmp_path / part).mkdir()
        with tarfile.open(tmp_path / part / "0.tar", "w") as tar:
            for sequence in range(2):
                member = tarfile.TarInfo(f"0/{part[:4]}/{sequence}/1.png")
                member.size = len(picture)
                tar.addfile(member, io.BytesIO(picture))
    damaged = tmp_path / "real_test/0.tar"
    damaged.write_bytes(damaged.read_bytes()[:1024])  # one entry
    report = tmp_path / "report.csv"
    config = tmp_path / "datasets.toml"
    config.write_text('wild_deepfake = "."\n')
    storage = str(tmp_path / "storage")
    assert main(["--datasets", str(config), "--storage", storage, "--report", str(report)]) == 1
    capsys.readouterr()
    lines = list(csv.DictReader(report.open(newline="")))
    unreadable = [(line["video_id"], line["problem"]) for line in lines if line["check"] == "unreadable files"]
    assert ("wild_deepfake/real_test/0.tar", "reading the archive stops after 1 entries: cut off") in unreadable


def test_a_wrong_layout_is_an_error_of_that_dataset(corpus, capsys):
    (corpus["home"] / "List_of_testing_videos.txt").unlink()
    assert command(corpus) == 1
    assert "List_of_testing_videos.txt" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["nobody"], ["celeb_df", "nobody"], ["--datasets", "/no/such.toml"]])
def test_wrong_usage(corpus, wrong, capsys):
    assert command(corpus, *wrong) == 2
    assert "error:" in capsys.readouterr().out


def test_published_counts_are_the_adapters(monkeypatch, tiny_roots, tmp_path):
    from pipelines.datasets import celeb_df

    monkeypatch.setattr(celeb_df, "PUBLISHED", {("real", "train"): 712}, raising=False)

    def counts(is_sample: bool) -> str:
        console = Console(quiet=True)
        findings = doctor.examine(["celeb_df"], tiny_roots, tmp_path, doctor.Options(), console, is_sample=is_sample)
        return next(finding.text for finding in findings["celeb_df"] if finding.check == "counts")

    assert "real: train 2 of 712" in counts(False)
    assert "712" not in counts(True)


def test_the_doctor_says_which_lists_a_copy_fulfils(tiny_roots, tmp_path):
    def lists(is_sample: bool) -> str:
        console = Console(quiet=True)
        findings = doctor.examine(["celeb_df"], tiny_roots, tmp_path, doctor.Options(), console, is_sample=is_sample)
        return next(finding.text for finding in findings["celeb_df"] if finding.check == "lists")

    assert lists(True) == "List_of_testing_videos.txt: 5 of 5 there"
    assert lists(False) == "List_of_testing_videos.txt: 5 of 5 there, not the published list"


def test_pictures_are_not_compared_and_that_is_said(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"same")
    rows = [row("a", uri="a"), row("b"), row("c", 1)]
    options = doctor.Options(hash=True)
    finding = doctor._duplicates(rows, {"toy": str(tmp_path)}, {}, options, Console(quiet=True))
    assert finding.result == ERROR
    assert "the same content as toy/c, once fake in test and once real in test: toy/b" in finding.text
    assert "1 videos given as pictures were not compared" in finding.text


def test_what_a_layout_leaves_out_is_said(tmp_path):
    for path in ("real_test/0/real/7/1.png", "real_test/__MACOSX/0/._1.png"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    roots = {"wild_deepfake": str(tmp_path)}
    console = Console(record=True, width=80, file=io.StringIO())
    findings = doctor.examine(["wild_deepfake"], roots, tmp_path, doctor.Options(), console)
    layout = findings["wild_deepfake"][0]
    assert (layout.check, layout.result) == ("layout", "ok")
    line = f"wild_deepfake at {tmp_path}: left out real_test/__MACOSX, which macOS adds to archives"
    doctor.show({"wild_deepfake": [layout]}, console)
    assert line in console.export_text()
    assert f'"{line}"' in doctor.to_csv({"wild_deepfake": [layout]})
