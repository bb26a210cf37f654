"""Deep Fake Detection (Dufour & Gully, Google and Jigsaw, 2019): 28 actors in scenes, and their faces swapped.

Licence: that of FaceForensics++; the form at https://github.com/ondyari/FaceForensics gives the download script.
Split: there is no list; all videos are `test`.

It lies in the tree of FaceForensics++, so that both roots may be the same folder. `AA__scene` shows actor AA;
`TT_SS__scene__ID` is target and source: its real counterpart is `TT__scene`, in the same compression. Some scenes
show two people, of whom one was forged: of a fake the face that its mask covers counts. As with FaceForensics++
there are rows only for what is on disk, `c0` is `raw`, and folders of pictures may stand for videos.
video_id: `dfd/<method>/<codec>/<stem>`.
"""

import re
from collections.abc import Mapping

from pipelines.common import tables
from pipelines.datasets._root import Root, by_id, is_video, row
from pipelines.datasets.ffpp import CODECS, footage, masks_of

LAYOUT = """\
    original_sequences/actors/{raw,c23,c40}/videos/AA__scene.mp4
    manipulated_sequences/DeepFakeDetection/{raw,c23,c40}/videos/TT_SS__scene__ID.mp4
    manipulated_sequences/DeepFakeDetection/masks/videos/TT_SS__scene__ID.mp4
  or, for videos/NAME.mp4, pictures in images/NAME/ or frames/NAME/"""
NEEDS: tuple[str, ...] = ()

METHOD = "DeepFakeDetection"
REAL = re.compile(r"(\d+)__\w+")
FAKE = re.compile(r"(\d+)_(\d+)__(\w+)__[A-Za-z0-9]+")
PUBLISHED = {("real", "test"): 363, (METHOD, "test"): 3068}


def videos(roots: Mapping[str, Root]) -> list[dict]:
    """Return rows of VIDEOS for every video on disk. Raise DatasetError."""
    root, rows = roots["dfd"], []
    masks = masks_of(root, METHOD)
    for codec in dict.fromkeys(CODECS.values()):
        reals = footage(root, codec, "original_sequences", "actors")
        rows += [_real(root, codec, stem, path) for stem, path in reals.items()]
        for stem, path in footage(root, codec, "manipulated_sequences", METHOD).items():
            rows.append(_fake(root, codec, stem, path, reals, masks.get((stem, is_video(path)))))
    return by_id(rows)


def _real(root: Root, codec: str, stem: str, path: str) -> dict:
    match = REAL.fullmatch(stem)
    if match is None:
        raise root.error(f"{path} is not named AA__scene (actor, scene)")
    return row(
        "dfd",
        f"dfd/real/{codec}/{stem}",
        path,
        label=tables.REAL,
        codec=codec,
        split="test",
        source_ids=[f"dfd/{match[1]}"],
    )


def _fake(root: Root, codec: str, stem: str, path: str, reals: Mapping[str, str], mask: str | None) -> dict:
    match = FAKE.fullmatch(stem)
    if match is None:
        raise root.error(f"{path} is not named TT_SS__scene__ID (target actor, source actor, scene)")
    target, source, scene = match.groups()
    real = reals.get(f"{target}__{scene}")
    return row(
        "dfd",
        f"dfd/{METHOD}/{codec}/{stem}",
        path,
        label=tables.FAKE,
        method=METHOD,
        codec=codec,
        split="test",
        mask_uri=mask,
        real_id=f"dfd/real/{codec}/{target}__{scene}" if real else None,
        real_uri=real if real and is_video(path) and is_video(real) else None,
        source_ids=[f"dfd/{target}", f"dfd/{source}"],
        face_rule="mask",
    )
