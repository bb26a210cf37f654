"""KoDF, Korean DeepFake Detection Dataset (Kwon et al., ICCV 2021): 403 people recorded for it, six methods.

Licence: the form at https://deepbrainai-research.github.io/kodf gives the download link; in Korea
https://aihub.or.kr/aidata/8005. It is terabytes large, and people fetch parts: there are rows for what is on disk.
Archives are to be unpacked; video files may lie in any folder, since each archive has folders of its own.

With the lists of AI-Hub: four CSV files, of real (`원본영상`) and fake (`변조영상`) videos in `training` and
`validation`. They tell labels, methods, people and counterparts by file name; a file that they do not name is an error.
`training` is `train`. The owners' test part was not released, so that papers score `validation`: it is `test` here,
unless there are lists named `test` beside it. Without any such list, as in the international release: what lies in
`original_videos` is real, the folders of `synthesized_videos` are methods, there is no split, and all are `test`.

A fake is `<target>_<source>_<method>_<number>`: the face of `source` on a clip of `target`, or its target speaking
otherwise; both are people. It is shorter than the clip that it was made from, so that there is a `real_id` but no
`real_uri`. Fakes with adversarial noise (folders named `탐지방해` or `adversarial`) are left out, and that is noted:
they may have the names of the fakes that they were made from. video_id: `kodf/<method or real>/<stem>`.
Uncertain: all but the lists' columns, which are known from code that reads them: the names of folders in the
international release, of the people in the names there, and whether people are in several parts.
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from pipelines.common import tables
from pipelines.common.text import first
from pipelines.datasets._lists import PublishedList
from pipelines.datasets._root import Root, by_id, is_video, join, row

LAYOUT = """\
    원본영상_{training,validation}_메타데이터.csv            anywhere, as the video files
    변조영상_{training,validation}_메타데이터.csv
  or, without these lists, original_videos/**/*.mp4
                           synthesized_videos/<method>/**/*.mp4    here or in kodf_release/"""
NEEDS: tuple[str, ...] = ()

LIST = re.compile(r"(원본영상|변조영상)_(training|validation|test)_메타데이터\.csv", re.IGNORECASE)
REAL_LIST = "원본영상"
NAME, PERSON = "영상ID", "UUID"  # columns of both; the second of real videos
TARGET, TARGET_PERSON, SOURCE_PERSON, METHOD = "타겟영상", "타겟UUID", "소스UUID", "변조모델"
NOISE = ("탐지방해", "adversarial")
ORIGINALS, FAKES = "original_videos", "synthesized_videos"
PUBLISHED = {("real", ""): 62166}


class _Video(NamedTuple):
    """What is known of a video. target: stem of the video that a fake was made from, "" where that is not told."""

    method: str
    split: str
    people: tuple[str, ...]
    target: str = ""


def videos(roots: Mapping[str, Root]) -> list[dict]:
    """Return rows of VIDEOS for every video on disk. Raise DatasetError."""
    root = roots["kodf"]
    places, own_lists = _on_disk(root)
    if not places:
        raise root.error("no video file; archives must be unpacked")
    known = _read_lists(root, own_lists) if own_lists else {stem: _by_folder(root, places[stem]) for stem in places}
    unlisted = [path for stem, path in places.items() if stem not in known]
    if unlisted:
        raise root.error(f"{', '.join(own_lists)} do not name {first(unlisted)}")
    return by_id(_row(stem, path, known, places) for stem, path in places.items())


def lists(roots: Mapping[str, Root]) -> list[PublishedList]:
    """Return what AI-Hub's lists promise. Raise DatasetError."""
    root = roots["kodf"]
    promised = []
    for path in _on_disk(root)[1]:
        listed = _read_lists(root, [path])
        labels = {_video_id(stem, video): _label(video) for stem, video in listed.items()}
        promised.append(PublishedList(name=PurePosixPath(path).name, labels=labels, covers=lambda row: False))
    return promised


def _on_disk(root: Root) -> tuple[dict[str, str], list[str]]:
    """Return {stem: path} of the video files, and the paths of AI-Hub's lists. Raise DatasetError for a stem twice."""
    places: dict[str, str] = {}
    own_lists, noisy = [], 0
    for path in _files(root, ""):
        name = _composed(PurePosixPath(path).name)
        if LIST.fullmatch(name):
            own_lists.append(path)
        elif is_video(name) and any(word in _composed(path).lower() for word in NOISE):
            noisy += 1
        elif is_video(name):
            stem = PurePosixPath(name).stem
            if stem in places:
                raise root.error(f"{path} and {places[stem]} have one name; keep one")
            places[stem] = path
    if noisy:
        root.note(f"left out videos with adversarial noise: {noisy}")
    return places, sorted(own_lists)


def _files(root: Root, folder: str) -> Iterator[str]:
    """Yield the paths of all files below a folder."""
    for name, is_folder in root.entries(folder).items():
        if is_folder:
            yield from _files(root, join(folder, name))
        else:
            yield join(folder, name)


def _read_lists(root: Root, paths: list[str]) -> dict[str, _Video]:
    """Return {stem: what is known} from AI-Hub's lists. Raise DatasetError, which names the list and its line."""
    kinds = {path: _composed(PurePosixPath(path).name).lower().split("_")[:2] for path in paths}
    has_test = any(part == "test" for _, part in kinds.values())
    splits = {"training": "train", "validation": "val" if has_test else "test", "test": "test"}
    known: dict[str, _Video] = {}
    for path, (kind, part) in kinds.items():
        is_real = kind == REAL_LIST
        columns = (NAME, PERSON) if is_real else (NAME, TARGET, TARGET_PERSON, SOURCE_PERSON, METHOD)
        reader = csv.DictReader(io.StringIO(_composed(root.text(path)), newline=""))
        for line in reader:
            fields = {column: (line.get(column) or "").strip() for column in columns}
            if not all(fields[column] for column in columns if column != SOURCE_PERSON):
                raise root.error(f"{path}, line {reader.line_num}: must have {', '.join(columns)}, got {dict(line)!r}")
            stem, split = PurePosixPath(fields[NAME]).stem, splits[part]
            if stem in known:
                raise root.error(f"{path}, line {reader.line_num}: {stem} is listed twice")
            if is_real:
                known[stem] = _Video("real", split, (fields[PERSON],))
            else:
                people = tuple(filter(None, (fields[TARGET_PERSON], fields[SOURCE_PERSON])))
                known[stem] = _Video(fields[METHOD].lower(), split, people, PurePosixPath(fields[TARGET]).stem)
    return known


def _by_folder(root: Root, path: str) -> _Video:
    """Return what the folders and the name of a video tell, where there are no lists. Raise DatasetError."""
    parts = PurePosixPath(path).parts
    folders = [part.lower() for part in parts[:-1]]
    stem = PurePosixPath(path).stem
    if ORIGINALS in folders:
        below = parts[folders.index(ORIGINALS) + 1 : -1]
        return _Video("real", "test", (below[-1] if below else stem,))
    if FAKES in folders and folders[-1] != FAKES:
        people = stem.split("_")[:2] if stem.count("_") == 3 else [stem]
        return _Video(folders[folders.index(FAKES) + 1], "test", tuple(people))
    raise root.error(f"{path} lies neither in {ORIGINALS} nor in a folder of {FAKES}, and no list tells what it is")


def _row(stem: str, path: str, known: Mapping[str, _Video], places: Mapping[str, str]) -> dict:
    video = known[stem]
    real = video.target if video.target in places and known[video.target].method == "real" else ""
    return row(
        "kodf",
        _video_id(stem, video),
        path,
        label=_label(video),
        method=video.method,
        split=video.split,
        source_ids=[f"kodf/{person}" for person in dict.fromkeys(video.people)],
        real_id=_video_id(real, known[real]) if real else None,
    )


def _label(video: _Video) -> int:
    return tables.REAL if video.method == "real" else tables.FAKE


def _video_id(stem: str, video: _Video) -> str:
    return f"kodf/{video.method}/{stem}"


def _composed(text: str) -> str:
    """Return text with each Korean syllable as one character: archives made on macOS have it in pieces."""
    return unicodedata.normalize("NFC", text)
