"""DF40 (Yan et al., NeurIPS 2024, datasets): fakes of 40 methods, as frames of faces that its authors cropped.

Licence: CC BY-NC 4.0; https://github.com/YZY-stack/DF40 links to the data, and to the real frames beside them.
Layout: that of the folder `deepfakes_detection_datasets` which its lists of frames speak of. 31 methods were made from
FaceForensics++ (`ff`) and Celeb-DF v2 (`cdf`), and their real class is the real frames of these, cropped in the same
way; nine bring a real class of their own. Reals cropped in another way would differ from the fakes in more than the
forgery, so that they have to lie in this root. `domain = "ff"`, "cdf" or "own" in datasets.toml takes one of the three
alone, as the paper's tables do; else all count together.

Split: of `ff`, that of FaceForensics++'s lists for all ids in a name, also of what lies in DF40_train; of real frames
of `cdf`, its test list; all fakes of `cdf` and all of the nine methods are `test`, as in the paper.
A folder of pictures is the video, and the picture the face. Pictures that lie in no folder of their own (StarGAN, ...)
are each one video. What both DF40 and DF40_train have is taken from DF40, and that is noted. There are rows for what is
on disk, and for real videos of Celeb-DF's list. video_id: `df40/<method>/{ff,cdf,fake,real}/<name>` and
`df40/real/{ff,cdf}/<name>`.
People are those of the other datasets (`ffpp/071`, `celeb_df/id0`), so that what was trained on is left out of tests.
Uncertain: which of two ids gave the face and which the rest, and which frames a fake shares with a real video, so that
no fake has a counterpart; how folders are called inside some archives: other spellings than those below are errors, or
taken for a video without pictures.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from pipelines.common import tables
from pipelines.datasets import celeb_df, ffpp
from pipelines.datasets._root import Root, by_id, join, row
from pipelines.media import stills

LAYOUT = """\
    DF40/<method>/{ff,cdf}/frames/<name>/*.png             and DF40_train/, in the same way
    DF40/<method>/{fake,real}/...                          of the nine methods with real pictures of their own
    FaceForensics++/{train,val,test}.json
    FaceForensics++/original_sequences/youtube/c23/frames/NNN/*.png
    Celeb-DF-v2/List_of_testing_videos.txt
    Celeb-DF-v2/{Celeb-real,YouTube-real}/frames/<name>/*.png"""
NEEDS: tuple[str, ...] = ()
OPTIONS = {"domain": ("ff", "cdf", "own")}

PARTS = ("DF40", "DF40_train")
FF, CDF = "FaceForensics++", "Celeb-DF-v2"
METHODS = (
    *("fsgan", "faceswap", "simswap", "inswap", "blendface", "uniface", "mobileswap", "e4s", "facedancer"),
    *("fomm", "facevid2vid", "wav2lip", "MRAA", "one_shot_free", "pirender", "tpsm", "lia", "danet", "sadtalker"),
    *("mcnet", "hyperreenact", "VQGAN", "StyleGAN2", "StyleGAN3", "StyleGANXL", "sd2.1", "ddim", "rddm", "pixart"),
    *("DiT", "SiT", "deepfacelab", "heygen", "MidJourney", "whichfaceisreal", "stargan", "starganv2", "styleclip"),
    *("e4e", "CollabDiff"),
)
SPELLINGS = {method.lower(): method for method in METHODS} | {  # and those that copies have
    "heygen_new": "heygen",
    "whichisreal": "whichfaceisreal",
    "stargan2": "starganv2",
}
LEVELS = ("frames", "inversions", "celeb-real", "youtube-real", "fake_from_celeb-real", "fake_from_youtube-real")
BESIDE = ("landmarks", "masks")  # what lies beside frames
IDS = re.compile(r"(\d{3})(?:_(\d{3}))?(?!\d)")  # of FaceForensics++, at the start of a name
# The real frames of FaceForensics++ and Celeb-DF v2; how many tests there are nobody says.
PUBLISHED = {
    ("real", "train"): ffpp.PUBLISHED["real", "train"] + celeb_df.PUBLISHED["real", "train"],
    ("real", "val"): ffpp.PUBLISHED["real", "val"],
}


class _Found(NamedTuple):
    """A video on disk: a folder of pictures, or a picture. domain: as in `OPTIONS`; part: the folder of `PARTS`."""

    method: str
    domain: str
    label: int
    name: str
    uri: str

    @property
    def part(self) -> str:
        return self.uri.partition("/")[0]


def videos(roots: Mapping[str, Root], domain: str = "") -> list[dict]:
    """Return rows of VIDEOS for every folder of frames, and every picture, on disk. Raise DatasetError.

    domain: as in `OPTIONS`; "" for all.
    """
    root = roots["df40"]
    found: dict[str, _Found] = {}
    twice = 0
    for video in _on_disk(root):
        if domain in ("", video.domain):
            first = found.setdefault(_video_id(video), video)
            if first is not video and first.part == video.part:
                raise root.error(f"{video.uri} and {first.uri} are the same video; keep one")
            twice += first is not video
    if not found:
        raise root.error(f"no folder of a method{f' with {domain!r} in it' if domain else ''} holds frames")
    if twice:
        root.note(f"fakes that are in both {' and '.join(PARTS)} are taken from {PARTS[0]}: {twice}")
    domains = {video.domain for video in found.values()}
    rows = _of_ff(root, [video for video in found.values() if video.domain == "ff"]) if "ff" in domains else []
    rows += _reals_of_cdf(root) if "cdf" in domains else []
    rows += [_row(video, "test", _people(video)) for video in found.values() if video.domain != "ff"]
    return by_id(rows)


def _on_disk(root: Root) -> Iterator[_Found]:
    """Yield what the folders of methods hold. Raise DatasetError for a folder that is none."""
    parts = [part for name in PARTS if (part := root.folder(name)) is not None]
    for part in parts or [""]:
        for folder in root.folders(part):
            name = PurePosixPath(folder).name
            if name.lower() in SPELLINGS:
                yield from _inside(root, folder, SPELLINGS[name.lower()], "ff", tables.FAKE)
            elif parts:
                raise root.error(f"{folder} is none of DF40's methods: {', '.join(METHODS)}")
            elif name not in (FF, CDF) and not name.startswith("."):
                root.note(f"left out {folder}, which is none of DF40's methods")


def _inside(root: Root, folder: str, method: str, domain: str, label: int) -> Iterator[_Found]:
    """Yield the videos below a folder of a method. Folders of single videos are not listed: they hold a million files.

    domain, label: of what lies directly in the folder.
    """
    for name, is_folder in root.entries(folder).items():
        path, lower = join(folder, name), name.lower()
        if is_folder and lower in ("ff", "cdf"):
            yield from _inside(root, path, method, lower, tables.FAKE)
        elif is_folder and lower in ("fake", "real"):
            yield from _inside(root, path, method, "own", tables.FAKE if lower == "fake" else tables.REAL)
        elif is_folder and (lower in LEVELS or SPELLINGS.get(lower) == method):
            yield from _inside(root, path, method, domain, label)
        elif is_folder and lower not in BESIDE and not name.startswith("."):
            yield _Found(method, domain, label, name, path)
        elif not is_folder and stills.is_picture(name):
            yield _Found(method, domain, label, name.rpartition(".")[0], path)


def _of_ff(root: Root, fakes: list[_Found]) -> list[dict]:
    """Return the rows made from FaceForensics++: these fakes, and all real frames. Raise DatasetError."""
    inner = Root(root.name, join(root.uri.rstrip("/"), _beside(root, FF)), LAYOUT)
    splits = ffpp.read_splits(inner)
    reals = {name: join(_beside(root, FF), path) for name, path in ffpp.originals(inner, "c23").items()}
    if not reals:
        raise root.error(f"{FF}/original_sequences/youtube/c23, the real class of {fakes[0].uri}, has no frames")
    rows = []
    for video in (*(_Found("real", "ff", tables.REAL, name, uri) for name, uri in reals.items()), *fakes):
        match = IDS.match(video.name)
        if match is None:
            raise root.error(f"{video.uri} is not named after videos of {FF}, such as 071 or 071_054")
        ids = [id_ for id_ in match.groups() if id_]
        rows.append(_row(video, ffpp.split_of(inner, splits, video.uri, ids), [f"ffpp/{id_}" for id_ in ids]))
    return rows


def _reals_of_cdf(root: Root) -> list[dict]:
    """Return the rows of Celeb-DF's real frames. Raise DatasetError."""
    place = _beside(root, CDF)
    inner = Root(root.name, join(root.uri.rstrip("/"), place), LAYOUT)
    own = [made for made in celeb_df.rows(inner) if made["label"] == tables.REAL]
    return [
        _row(
            _Found(
                "real", "cdf", tables.REAL, PurePosixPath(made["uri"]).with_suffix("").name, join(place, made["uri"])
            ),
            made["split"],
            [f"celeb_df/{person.partition('/')[2]}" for person in made["source_ids"]],
        )
        for made in own
    ]


def _beside(root: Root, name: str) -> str:
    place = root.folder(name)
    if place is None:
        raise root.error(f"{name}, the real class of what was made from it, is missing")
    return place


def _people(video: _Found) -> list[str]:
    """Return the sources of a video that was not made from FaceForensics++."""
    people = re.findall(r"id\d+", video.name) if video.domain == "cdf" else []
    if people:
        return [f"celeb_df/{person}" for person in dict.fromkeys(people)]
    if video.domain == "cdf" and re.fullmatch(r"\d{5}", video.name):
        return [f"celeb_df/YouTube-real/{video.name}"]
    return [_video_id(video)]


def _row(video: _Found, split: str, source_ids: list[str]) -> dict:
    return row(
        "df40",
        _video_id(video),
        video.uri,
        label=video.label,
        method=video.method if video.label == tables.FAKE else "real",
        split=split,
        source_ids=source_ids,
        face_rule="whole",
    )


def _video_id(video: _Found) -> str:
    domain = video.domain
    if domain == "own":
        domain = "fake" if video.label == tables.FAKE else "real"
    return f"df40/{video.method}/{domain}/{video.name}"
