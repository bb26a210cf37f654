"""FaceForensics++ (Rössler et al., ICCV 2019), with FaceShifter where it was downloaded.

Licence: the form at https://github.com/ondyari/FaceForensics gives the download script.
Split: `train.json`, `val.json`, `test.json` of that repository, pairs of ids such as ["071", "054"]. They
place ids; a fake belongs to the split of its two ids, and a fake across two splits is an error.

`TTT_SSS` is target and source: the paired real video is TTT, in the same compression. The download script
fetches any part one asks for, so there are rows only for what is on disk, and a fake whose real counterpart
was not fetched has no `real_id`. `c0` is the older name of `raw`. video_id: `ffpp/<method>/<codec>/<stem>`.
DeepFakeDetection and its actors lie in the same tree but are another dataset, `dfd`.

Where there is no file, a folder of pictures in `images/` or `frames/` serves as the video. Which frames it holds is
not known, so that nothing is compared with it frame by frame: `real_uri` is empty, and the mask is one that was
unpacked as well.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from pipelines.common import tables
from pipelines.common.text import first
from pipelines.datasets._lists import PublishedList, digest
from pipelines.datasets._root import Root, by_id, is_video, row

LAYOUT = """\
    train.json, val.json, test.json                        here or in splits/
    original_sequences/youtube/{raw,c23,c40}/videos/NNN.mp4
    manipulated_sequences/{Deepfakes,Face2Face,FaceSwap,NeuralTextures}/{raw,c23,c40}/videos/TTT_SSS.mp4
    manipulated_sequences/<method>/masks/videos/TTT_SSS.mp4
  or, for videos/NNN.mp4, pictures in images/NNN/ or frames/NNN/"""
NEEDS: tuple[str, ...] = ()

MANIPULATIONS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")  # FaceShifter is later: a test set of its own
METHODS = (*MANIPULATIONS, "FaceShifter")
CODECS = {"raw": "raw", "c0": "raw", "c23": "c23", "c40": "c40"}  # folder name -> codec
# The split lists hold 360, 70 and 70 pairs: two real videos each, and with each method two fakes.
PUBLISHED = {
    (method, split): number
    for method in ("real", *METHODS)
    for split, number in {"train": 720, "val": 140, "test": 140}.items()
}


# Digests of the owners' lists, of lines such as 054_071.
LISTS = {"train": "18a428b359c4df0e", "val": "b4c469c6f8e9e811", "test": "dcddb61db89bdf60"}


def videos(roots: Mapping[str, Root]) -> list[dict]:
    """Return rows of VIDEOS for every video on disk. Raise DatasetError."""
    root = roots["ffpp"]
    splits = read_splits(root)
    reals = {codec: originals(root, codec) for codec in CODECS.values()}
    rows = [
        row(
            "ffpp",
            f"ffpp/real/{codec}/{stem}",
            path,
            label=tables.REAL,
            codec=codec,
            split=split_of(root, splits, path, [stem]),
            source_ids=[f"ffpp/{stem}"],
        )
        for codec, paths in reals.items()
        for stem, path in paths.items()
    ]
    for method in METHODS:
        masks = masks_of(root, method)
        for codec in reals:
            for stem, path in footage(root, codec, "manipulated_sequences", method).items():
                mask = masks.get((stem, is_video(path)))
                rows.append(_fake(root, splits, method, codec, stem, path, reals[codec], mask))
    return by_id(rows)


def lists(roots: Mapping[str, Root]) -> list[PublishedList]:
    """Return what each split list promises, in each compression of which there are videos. Raise DatasetError."""
    root = roots["ffpp"]
    codecs = [codec for codec in dict.fromkeys(CODECS.values()) if originals(root, codec)]
    promised = []
    for split in tables.SPLITS:
        pairs = _read_pairs(root, f"{split}.json")
        names = {f"{a}_{b}" for pair in pairs for a, b in (pair, pair[::-1])}
        for codec in codecs:
            real = {f"ffpp/real/{codec}/{id_}": tables.REAL for pair in pairs for id_ in pair}
            fake = {f"ffpp/{method}/{codec}/{name}": tables.FAKE for method in MANIPULATIONS for name in names}
            promised.append(
                PublishedList(
                    name=f"{split}.json, {codec}",
                    labels=real | fake,
                    covers=partial(_is_in, split, codec),
                    as_published=digest("_".join(sorted(pair)) for pair in pairs) == LISTS[split],
                )
            )
    return promised


def _is_in(split: str, codec: str, row: Mapping[str, Any]) -> bool:
    return (row["split"], row["codec"]) == (split, codec) and row["method"] in ("real", *MANIPULATIONS)


def read_splits(root: Root) -> dict[str, str]:
    """Return {id: split} from the three lists. Raise DatasetError if one is missing, malformed, or two share an id."""
    splits: dict[str, str] = {}
    for split in tables.SPLITS:
        for pair in _read_pairs(root, f"{split}.json"):
            for id_ in pair:
                if splits.setdefault(id_, split) != split:
                    raise root.error(f"id {id_} is in {splits[id_]}.json and in {split}.json")
    return splits


def originals(root: Root, codec: str) -> dict[str, str]:
    """Return {id: path} of the real videos on disk in one compression."""
    return footage(root, codec, "original_sequences", "youtube")


def footage(root: Root, codec: str, *folder: str) -> dict[str, str]:
    """Return {stem: path} of the videos, or folders of frames, of one part in one compression. Raise DatasetError."""
    paths: dict[str, str] = {}
    for name in (name for name, value in CODECS.items() if value == codec):
        for stem, path in root.footage(*folder, name).items():
            if stem in paths:
                raise root.error(f"{path} and {paths[stem]} are the same video; keep one")
            paths[stem] = path
    return paths


def masks_of(root: Root, method: str) -> dict[tuple[str, bool], str]:
    """Return {(stem, whether it is a video file): path} of masks: a fake given as frames needs such a mask."""
    folder = ("manipulated_sequences", method, "masks")
    masks = (*root.videos(*folder).items(), *root.frames(*folder).items())
    return {(stem, is_video(path)): path for stem, path in masks}


def split_of(root: Root, splits: Mapping[str, str], path: str, ids: list[str]) -> str:
    """Return the split that all ids of a video are in. Raise DatasetError when there is none."""
    unlisted = [id_ for id_ in ids if id_ not in splits]
    if unlisted:
        raise root.error(f"{path}: id {first(unlisted)} is in none of train.json, val.json, test.json")
    of_ids = sorted({splits[id_] for id_ in ids})
    if len(of_ids) > 1:
        raise root.error(f"{path} mixes ids of {' and '.join(of_ids)}, so that it would leak between them")
    return of_ids[0]


def _read_pairs(root: Root, name: str) -> list[list[str]]:
    """Return the pairs of ids in one of the lists. Raise DatasetError."""
    text = root.text(name, f"splits/{name}")
    try:
        pairs = json.loads(text)
    except json.JSONDecodeError as error:
        raise root.error(f"{name} is not JSON: {error}") from error
    good = isinstance(pairs, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(id_, str) for id_ in pair) for pair in pairs
    )
    if not good:
        raise root.error(f'{name} must be a list of pairs of strings such as ["071", "054"]')
    return pairs


def _fake(
    root: Root,
    splits: Mapping[str, str],
    method: str,
    codec: str,
    stem: str,
    path: str,
    reals: Mapping[str, str],
    mask: str | None,
) -> dict:
    ids = stem.split("_")
    if len(ids) != 2:
        raise root.error(f"{path} is not named TTT_SSS (target id, source id)")
    real = reals.get(ids[0])
    return row(
        "ffpp",
        f"ffpp/{method}/{codec}/{stem}",
        path,
        label=tables.FAKE,
        method=method,
        codec=codec,
        split=split_of(root, splits, path, ids),
        mask_uri=mask,
        real_id=f"ffpp/real/{codec}/{ids[0]}" if real else None,
        real_uri=real if real and is_video(path) and is_video(real) else None,
        source_ids=[f"ffpp/{id_}" for id_ in ids],
    )
