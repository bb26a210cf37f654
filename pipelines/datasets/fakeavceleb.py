"""FakeAVCeleb v1.2 (Khalid et al., NeurIPS 2021, datasets): clips of VoxCeleb2 with faces or voices faked.

Licence: the form at https://github.com/DASH-Lab/FakeAVCeleb gives the download script.
Split: there is none; all videos are `test`. Labels, methods and people are read from the dataset's own `meta_data.csv`,
whose lines have a field more than its header: file name and folder share the column `path`.

What is judged here are pictures: `FakeVideo-*` is fake, `RealVideo-RealAudio` real. `RealVideo-FakeAudio` shows the
pictures of the latter under a made-up voice; it is left out, and that is noted. A listed video that is not on disk
keeps its row; a file that is not listed is an error. A file is known by its category, person and name, whatever the
folders of race and gender between them are called. One or two folders around it all, as in copies
(FakeAVCeleb_v1.2/FakeAVCeleb_v1.2/), are looked through.
A fake in the folder of `idA` shows the clip of idA that its name starts with, its real counterpart; the face is that of
another person, who is in the list or in the name. video_id: `fakeavceleb/<category>/<person>/<stem>`.
Uncertain: whether a fake keeps its clip's frames (Wav2Lip follows the length of the sound), so that there is no
`real_uri`; how many fakes of each method there are (the paper has 20,000 videos in all, copies of v1.2 more).
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from pipelines.common import tables
from pipelines.common.text import first
from pipelines.datasets._lists import PublishedList
from pipelines.datasets._root import Root, by_id, is_video, join, row

LAYOUT = """\
    meta_data.csv                                          here or in a folder FakeAVCeleb*/, as all below
    RealVideo-RealAudio/<race>/<gender>/idNNNNN/NNNNN.mp4
    {FakeVideo-RealAudio,FakeVideo-FakeAudio}/<race>/<gender>/idNNNNN/NNNNN_*.mp4"""
NEEDS: tuple[str, ...] = ()

LIST = "meta_data.csv"
REAL, SOUND_ONLY = "RealVideo-RealAudio", "RealVideo-FakeAudio"
CATEGORIES = (REAL, SOUND_ONLY, "FakeVideo-RealAudio", "FakeVideo-FakeAudio")
FIELDS = ("source", "target1", "target2", "method", "category", "type", "race", "gender", "name", "folder")
PERSON = re.compile(r"id\d+")
PUBLISHED = {("real", "test"): 500}

Key = tuple[str, str, str]  # category, person, stem
Line = Mapping[str, str]


def videos(roots: Mapping[str, Root]) -> list[dict]:
    """Return rows of VIDEOS for every video that meta_data.csv lists, but those faked in sound only.

    Raise DatasetError.
    """
    root = roots["fakeavceleb"]
    base = _base(root)
    listed, places = _read_list(root, base), _on_disk(root, base)
    if not places:
        raise root.error(f"none of {', '.join(CATEGORIES)} holds a video")
    unlisted = [path for key, path in places.items() if key not in listed]
    if unlisted:
        raise root.error(f"{LIST} does not name {first(unlisted)}")
    left_out = sum(category == SOUND_ONLY for category, _, _ in listed)
    if left_out:
        root.note(f"left out {SOUND_ONLY} ({left_out} in {LIST}): real pictures under a made-up voice")
    return by_id(_row(root, key, listed, places, base) for key in listed if key[0] != SOUND_ONLY)


def lists(roots: Mapping[str, Root]) -> list[PublishedList]:
    """Return what meta_data.csv promises. Raise DatasetError."""
    root = roots["fakeavceleb"]
    listed = [key for key in _read_list(root, _base(root)) if key[0] != SOUND_ONLY]
    labels = {_video_id(key): tables.REAL if key[0] == REAL else tables.FAKE for key in listed}
    return [PublishedList(name=LIST, labels=labels, covers=lambda row: True)]


def _base(root: Root) -> str:
    """Return the folder that holds the list: the root or, at most two levels down, FakeAVCeleb*/."""
    base = ""
    for _ in range(3):
        if root.find(LIST, base=base):
            return base
        inner = [path for path in root.folders(base) if PurePosixPath(path).name.lower().startswith("fakeavceleb")]
        if len(inner) != 1:
            break
        base = inner[0]
    raise root.error(f"{LIST} is missing")


def _read_list(root: Root, base: str) -> dict[Key, Line]:
    """Return what meta_data.csv says of each video. Raise DatasetError, which names the line."""
    listed: dict[Key, Line] = {}
    reader = csv.reader(io.StringIO(root.text(join(base, LIST)), newline=""))
    try:
        lines = [(reader.line_num, [field.strip() for field in fields]) for fields in reader]
    except csv.Error as error:
        raise root.error(f"{LIST}, line {reader.line_num} is not CSV: {error}") from error
    for number, fields in lines[1:]:
        if not any(fields):
            continue
        line = dict(zip(FIELDS, fields, strict=False))
        known = len(line) == len(FIELDS) and line["type"] in CATEGORIES
        if not known or not PERSON.fullmatch(line["source"]) or not is_video(line["name"]):
            raise root.error(
                f"{LIST}, line {number}: {','.join(fields)!r}, expected such as "
                "'id00076,-,-,real,A,RealVideo-RealAudio,African,men,00109.mp4,FakeAVCeleb/RealVideo-RealAudio/...'"
            )
        key = (line["type"], line["source"], PurePosixPath(line["name"]).stem)
        if listed.setdefault(key, line) != line:
            raise root.error(f"{LIST}, line {number}: {'/'.join(key)} is listed twice, with other words")
    if not listed:
        raise root.error(f"{LIST} lists no videos")
    return listed


def _on_disk(root: Root, base: str) -> dict[Key, str]:
    """Return {key: path} of the videos on disk. Raise DatasetError when two files are one video."""
    places: dict[Key, str] = {}
    for category in CATEGORIES:
        for path in _files(root, root.folder(category, base=base)):
            people = [part for part in PurePosixPath(path).parts[:-1] if PERSON.fullmatch(part)]
            if not people:
                raise root.error(f"{path} lies in no folder of a person, such as id00076")
            key = (category, people[-1], PurePosixPath(path).stem)
            if key in places:
                raise root.error(f"{path} and {places[key]} are the same video; keep one")
            places[key] = path
    return places


def _files(root: Root, folder: str | None) -> Iterator[str]:
    """Yield the paths of the video files below a folder."""
    if folder is None:
        return
    for name, is_folder in root.entries(folder).items():
        if is_folder:
            yield from _files(root, join(folder, name))
        elif is_video(name):
            yield join(folder, name)


def _row(root: Root, key: Key, listed: Mapping[Key, Line], places: Mapping[Key, str], base: str) -> dict:
    category, person, stem = key
    line = listed[key]
    fake = category != REAL
    if (line["method"] == "real") == fake:
        raise root.error(f"{LIST}: method of {'/'.join(key)} is {line['method']!r}, which does not fit {category}")
    people = [person, *PERSON.findall(f"{line['target1']} {line['target2']} {stem}")] if fake else [person]
    real = (REAL, person, stem.partition("_")[0])
    below = PurePosixPath(line["folder"]).parts[1:]  # without the release's own folder
    return row(
        "fakeavceleb",
        _video_id(key),
        places.get(key, join(base, "/".join((*below, line["name"])))),
        label=tables.FAKE if fake else tables.REAL,
        method=line["method"] if fake else "real",
        split="test",
        source_ids=[f"fakeavceleb/{name}" for name in dict.fromkeys(people)],
        real_id=_video_id(real) if fake and real in listed else None,
    )


def _video_id(key: Key) -> str:
    return "/".join(("fakeavceleb", *key))
