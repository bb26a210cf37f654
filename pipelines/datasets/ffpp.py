"""FaceForensics++ (Rössler et al., ICCV 2019), with FaceShifter where it was downloaded.

Licence: the form at https://github.com/ondyari/FaceForensics gives the download script.
Split: `train.json`, `val.json`, `test.json` of that repository, pairs of ids such as ["071", "054"]. They
place ids; a fake belongs to the split of its two ids, and a fake across two splits is an error.

`TTT_SSS` is target and source: the paired real video is TTT, in the same compression. The download script
fetches any part one asks for, so there are rows only for files on disk, and a fake whose real counterpart
was not fetched has no `real_id`. `c0` is the older name of `raw`. video_id: `ffpp/<method>/<codec>/<stem>`.
DeepFakeDetection and its actors lie in the same tree but are another dataset.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from pipelines import schemas
from pipelines.datasets._root import Root, by_id, row, shorten

LAYOUT = """\
    train.json, val.json, test.json                        here or in splits/
    original_sequences/youtube/{raw,c23,c40}/videos/NNN.mp4
    manipulated_sequences/{Deepfakes,Face2Face,FaceSwap,NeuralTextures}/{raw,c23,c40}/videos/TTT_SSS.mp4
    manipulated_sequences/<method>/masks/videos/TTT_SSS.mp4"""
NEEDS: tuple[str, ...] = ()

METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
CODECS = {"raw": "raw", "c0": "raw", "c23": "c23", "c40": "c40"}  # folder name -> codec


def videos(roots: Mapping[str, Path]) -> list[dict]:
    """Rows of VIDEOS for every video on disk. Raises DatasetError."""
    root = Root("ffpp", roots["ffpp"], LAYOUT)
    splits = read_splits(root)
    reals = {codec: originals(root, codec) for codec in CODECS.values()}
    rows = [
        row(
            "ffpp",
            f"ffpp/real/{codec}/{stem}",
            root.uri(path),
            label=schemas.REAL,
            codec=codec,
            split=split_of(root, splits, path, [stem]),
            source_ids=[f"ffpp/{stem}"],
        )
        for codec, found in reals.items()
        for stem, path in found.items()
    ]
    for method in METHODS:
        masks = root.videos("manipulated_sequences", method, "masks")
        for folder, codec in CODECS.items():
            for stem, path in root.videos("manipulated_sequences", method, folder).items():
                rows.append(_fake(root, splits, method, codec, path, reals[codec], masks.get(stem)))
    return by_id(rows)


def read_splits(root: Root) -> dict[str, str]:
    """{id: split} from the three lists. Raises DatasetError when one is missing, malformed, or two share an id."""
    splits: dict[str, str] = {}
    for split in schemas.SPLITS:
        for pair in _read_pairs(root, f"{split}.json"):
            for id_ in pair:
                if splits.setdefault(id_, split) != split:
                    raise root.error(f"id {id_} is in {splits[id_]}.json and in {split}.json")
    return splits


def originals(root: Root, codec: str) -> dict[str, Path]:
    """{id: path} of the real videos on disk in one compression."""
    found: dict[str, Path] = {}
    for folder in (name for name, value in CODECS.items() if value == codec):
        for stem, path in root.videos("original_sequences", "youtube", folder).items():
            if stem in found:
                raise root.error(f"{root.uri(path)} and {root.uri(found[stem])} are the same video; keep one")
            found[stem] = path
    return found


def split_of(root: Root, splits: Mapping[str, str], path: Path, ids: list[str]) -> str:
    """The split that all `ids` of a video are in. Raises DatasetError when there is none."""
    unlisted = [id_ for id_ in ids if id_ not in splits]
    if unlisted:
        raise root.error(f"{root.uri(path)}: id {shorten(unlisted)} is in none of train.json, val.json, test.json")
    found = sorted({splits[id_] for id_ in ids})
    if len(found) > 1:
        raise root.error(f"{root.uri(path)} mixes ids of {' and '.join(found)}, so that it would leak between them")
    return found[0]


def _read_pairs(root: Root, name: str) -> list[list[str]]:
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
    path: Path,
    reals: Mapping[str, Path],
    mask: Path | None,
) -> dict:
    ids = path.stem.split("_")
    if len(ids) != 2:
        raise root.error(f"{root.uri(path)} is not named TTT_SSS (target id, source id)")
    target = ids[0]
    return row(
        "ffpp",
        f"ffpp/{method}/{codec}/{path.stem}",
        root.uri(path),
        label=schemas.FAKE,
        method=method,
        codec=codec,
        split=split_of(root, splits, path, ids),
        mask_uri=root.uri(mask) if mask else None,
        real_id=f"ffpp/real/{codec}/{target}" if target in reals else None,
        real_uri=root.uri(reals[target]) if target in reals else None,
        source_ids=[f"ffpp/{id_}" for id_ in ids],
    )
