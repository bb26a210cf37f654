"""UADFV (Yang, Li & Lyu, ICASSP 2019): 49 videos from the internet, and each with another face by FakeApp.

Licence: a form gives the download link; https://github.com/SCLBD/DeepfakeBench links to it in its table of datasets.
Split: there is no list; all videos are `test`, as in DeepfakeBench.

`NNNN_fake` was made from `NNNN`, its real counterpart: Table 1 of the Celeb-DF paper counts as many frames of both.
Where there is no file, a folder of pictures in `images/` or `frames/` (DeepfakeBench) serves as the video, and is not
compared frame by frame. There are rows for what is on disk. video_id: `uadfv/<real or fake>/<stem>`.
Uncertain: whether one person is in several videos; papers count 49 subjects, so that each video stands for one. Whose
the new faces are is not told by the files, so that fakes may share more than is known here.
"""

import re
from collections.abc import Mapping
from typing import Any

from pipelines.common import tables
from pipelines.datasets._root import Root, by_id, is_video, row

LAYOUT = """\
    real/NNNN.mp4
    fake/NNNN_fake.mp4                                     each folder may have a videos/ level, or frames/NAME/*.png"""
NEEDS: tuple[str, ...] = ()

METHOD = "FakeApp"
REAL, FAKE = re.compile(r"\d+"), re.compile(r"(\d+)_fake")
PUBLISHED = {("real", "test"): 49, (METHOD, "test"): 49}


def videos(roots: Mapping[str, Root]) -> list[dict]:
    """Return rows of VIDEOS for every video on disk. Raise DatasetError."""
    root = roots["uadfv"]
    reals, fakes = root.footage("real"), root.footage("fake")
    if not reals and not fakes:
        raise root.error("neither real nor fake holds a video")
    rows = []
    for stem, path in reals.items():
        if not REAL.fullmatch(stem):
            raise root.error(f"{path} is not named NNNN, as the real videos are")
        rows.append(_row("real", stem, path, label=tables.REAL, source_ids=[f"uadfv/{stem}"]))
    for stem, path in fakes.items():
        match = FAKE.fullmatch(stem)
        if match is None:
            raise root.error(f"{path} is not named NNNN_fake, as the fakes are")
        real = reals.get(match[1])
        rows.append(
            _row(
                "fake",
                stem,
                path,
                label=tables.FAKE,
                method=METHOD,
                source_ids=[f"uadfv/{match[1]}"],
                real_id=f"uadfv/real/{match[1]}" if real else None,
                real_uri=real if real and is_video(real) and is_video(path) else None,
            )
        )
    return by_id(rows)


def _row(folder: str, stem: str, path: str, **rest: Any) -> dict:
    return row("uadfv", f"uadfv/{folder}/{stem}", path, split="test", **rest)
