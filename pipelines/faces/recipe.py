"""The recipe of an extraction: how many frames, which faces, what crops, which masks."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from pipelines.common.text import meant
from pipelines.faces.detect import DETECTORS
from pipelines.media.sampling import Sampling

FACES_VERSION = 4  # raise it when the code makes other faces of the same video and recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All settings that decide what a video's faces look like: two extractions with one recipe give the same rows.

    Raises ValueError, naming the setting, for a value that makes no sense.
    """

    num_frames: int = 30  # most frames of a video
    sampling: Literal["even", "stride", "fps", "clips"] = "even"
    stride: int = 1  # with "stride": every so many frames
    fps: float = 1.0  # with "fps": so many frames in a second
    clip_frames: int = 16  # with "clips": consecutive frames of a clip
    max_faces: int = 1  # faces kept in a frame
    margin: float = 1.3  # side of the crop in longer sides of the face's box
    size_px: int = 224  # side of the stored crop
    constant_box: bool = True  # one crop box for a track; False: each frame its own
    hold_lost: bool = True  # fill a track's gaps with the nearest box, face_score 0
    detector: Literal["dlib", "dlib-cnn", "retinaface"] = "dlib"
    landmarks: Literal[68, 81] = 68  # 81: with a predictor file of one's own
    mask_source: Literal["auto", "difference", "dataset", "none"] = "auto"  # auto: difference, else dataset
    mask_threshold: float = 0.1  # |fake - real| in gray levels / 255 that counts as manipulated
    mask_clean_px: int = 5  # kernel of the closing and opening that remove codec specks; 0: none

    def __post_init__(self) -> None:
        if self.num_frames < 1 or not 1 <= self.max_faces <= 127 or self.size_px < 16:
            raise ValueError(
                f"num_frames must be >= 1, max_faces in 1..127, size_px >= 16; got "
                f"{self.num_frames}, {self.max_faces}, {self.size_px}"
            )
        if not self.margin >= 1 or not 0 < self.mask_threshold < 1 or self.mask_clean_px < 0:
            raise ValueError(
                f"margin must be >= 1, mask_threshold in (0, 1), mask_clean_px >= 0; got "
                f"{self.margin}, {self.mask_threshold}, {self.mask_clean_px}"
            )
        for name, allowed in (
            ("detector", tuple(DETECTORS)),
            ("mask_source", ("auto", "difference", "dataset", "none")),
            ("landmarks", (68, 81)),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}; got {getattr(self, name)!r}")
        self.frame_sampling()  # raises for a sampling that makes no sense

    def frame_sampling(self) -> Sampling:
        """Return which frames of a video are looked at."""
        return Sampling(
            kind=self.sampling,
            num_frames=self.num_frames,
            stride=self.stride,
            fps=self.fps,
            clip_frames=self.clip_frames,
        )

    def keeps_several(self, face_rule: str) -> bool:
        """Return whether small faces beside a large one matter, under a face rule of VIDEOS."""
        return self.max_faces > 1 or face_rule in ("all", "mask")


def changed(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return the recipe with settings such as "num_frames=64" applied.

    Raises ValueError for an unknown setting, naming those there are, and for a value that does not fit.
    """
    hints = get_type_hints(Recipe)
    values: dict[str, Any] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in hints:
            guess = meant(name, hints, f"write name=value with a name of {', '.join(hints)}")
            raise ValueError(f"unknown setting {setting!r}; {guess}")
        kind = hints[name] if isinstance(hints[name], type) else type(get_args(hints[name])[0])
        try:
            values[name] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            meaning = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a word")
            raise ValueError(f"{setting!r}: {name} must be {meaning}") from None
    return dataclasses.replace(recipe, **values)
