"""LAA-Net's samples: the pseudo-fake of Eq. 1, its boundary B of Eq. 2, and the maps that are to be predicted.

Source: Nguyen et al., "LAA-Net", CVPR 2024, Sec. 3.1 and 4.1, and its released code for what the paper leaves open.

Shapes: S side of the network's input, D of the maps. Images are uint8 RGB, maps uint8 with 0 to 255 for 0 to 1.
"""

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np

from models import _vulnerable_points as vulnerable
from models._blend import (
    BlendConfig,
    BlendFacesConfig,
    Image,
    Landmarks,
    MaskConfig,
    blend_faces,
    boundary,
    check_landmarks,
    flip,
    photometric_bi,
    self_blend,
)
from models._config import check, check_choices
from models._face_geometry import Pixels, align, cut_border, fit_square
from models._feed import Mode, Sample

# LAA-Net's own size of the mask while it is blurred; kernels and sigmas are meant for faces of 256 px.
SBI = BlendConfig(mask=MaskConfig(mask_resize=(0.8, 1.25), mask_resize_unit="canvas", reference_px=256))


@dataclass(frozen=True, kw_only=True, slots=True)
class SbiConfig:
    """Self-blended images."""

    blend: BlendConfig = SBI
    border_px: tuple[int, int] = (5, 24)  # cut from the face on all sides, in training and validation
    score_border_px: int = 5
    listed_augmentation: bool = False  # before blending the colours of BI, which the paper lists for both


@dataclass(frozen=True, kw_only=True, slots=True)
class BiConfig:
    """Blended images of Face X-ray."""

    blend: BlendFacesConfig = field(default_factory=BlendFacesConfig)
    donors: int = 30  # the nearest faces of other videos; one of them is blended in
    score_border_px: int = 18  # cut on all sides from the face, enlarged to the blending's canvas


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Faces, pseudo-fakes and their ground truth."""

    synthesis: Literal["sbi", "bi"] = "sbi"  # Table 1
    face_px: int = 256  # the crop in which faces are blended
    input_px: int = 384  # S
    align: bool = True  # in training and validation
    augment: bool = True  # geometry in training, colours; without, faces are mirrored only
    points: vulnerable.Search = "quadrant"  # global: Eq. 3
    heatmap_centre: vulnerable.Centre = "point"  # Eq. 4; released: one pixel off for about half of the points
    anchor: Literal["first", "random"] = "first"  # among the highest of B; random: Sec. 3.1.2
    real_consistency: Literal["zeros", "ones"] = "zeros"  # ones: Eq. 7, where B is 0
    ratio_in_boundary: bool = False  # M of Eq. 2 with SBI's ratio of blending: as in Eq. 1
    sbi: SbiConfig = field(default_factory=SbiConfig)
    bi: BiConfig = field(default_factory=BiConfig)

    def __post_init__(self) -> None:
        check_choices(self)
        check(
            self.input_px > 0 and self.input_px % 32 == 0,
            f"input_px must be a positive multiple of 32, got {self.input_px}",
        )
        low, high = self.sbi.border_px
        check(0 <= low <= high, f"sbi.border_px must be a range, the smaller end first, got {(low, high)}")
        for name, border_px, side_px in (
            ("sbi.border_px", high, self.face_px),
            ("sbi.score_border_px", self.sbi.score_border_px, self.face_px),
            ("bi.score_border_px", self.bi.score_border_px, self.bi.blend.canvas_px),
        ):
            check(0 <= border_px < side_px / 4, f"{name} must be from 0 to below {side_px} / 4, got {border_px}")
        check(self.bi.donors > 0, f"bi.donors must be positive, got {self.bi.donors}")


def pseudo_fake(cfg: DataConfig, sample: Sample, rng: np.random.Generator, mode: Mode) -> tuple[Image, Image, Pixels]:
    """Make a fake of a real face (Eq. 1); return the real face, the fake, and the fake's B (Eq. 2), all of one size.

    Raises BadSample for a face or a donor that nothing can be made of.
    """
    image, landmarks = _aligned(cfg, sample)
    train = mode == "train"
    if train and cfg.augment and (cfg.synthesis == "bi" or cfg.sbi.listed_augmentation):
        image = photometric_bi(image, rng)
    if cfg.synthesis == "bi":
        donor, donor_landmarks = _aligned(cfg, sample["donor"])
        blended = blend_faces(image, landmarks[:68], donor, donor_landmarks[:68], rng, cfg.bi.blend)
        border_px = 0  # the blending cuts its own canvas
    else:
        if train and rng.random() < 0.5:
            image, landmarks = flip(image, landmarks)
        blended = self_blend(image, landmarks, rng, cfg.sbi.blend)
        border_px = int(rng.integers(cfg.sbi.border_px[0], cfg.sbi.border_px[1] + 1))
    mask = blended.mask * np.float32(blended.ratio if cfg.ratio_in_boundary else 1)
    edges = (boundary(mask) * 255).astype(np.uint8)
    return cut_border(blended.real, border_px), cut_border(blended.fake, border_px), cut_border(edges, border_px)


def _aligned(cfg: DataConfig, face: Sample) -> tuple[Image, Landmarks]:
    check_landmarks(face["landmarks"], face["image"].shape)
    return align(face["image"], face["landmarks"]) if cfg.align else (face["image"], face["landmarks"])


def ground_truth(cfg: DataConfig, edges: Pixels, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return `heatmap` H and `consistency` C (D, D), and `anchor`, the place in the flattened maps C compares with.

    edges: B at the size of the maps, all zero for a real face. H is 255 at the middles of the Gaussians only.
    """
    points = vulnerable.vulnerable_points(edges, cfg.points)
    heat = np.floor(vulnerable.heatmap(edges, points, cfg.heatmap_centre) * 255).astype(np.uint8)
    similar = vulnerable.consistency(edges, cfg.points)
    if cfg.real_consistency == "ones" and not len(points):
        similar = np.full_like(edges, 255)
    highest = np.flatnonzero(edges == edges.max())  # in a real face every pixel
    anchor = highest[0] if cfg.anchor == "first" else rng.choice(highest)
    return {"heatmap": heat, "consistency": similar, "anchor": np.asarray(anchor, np.int64)}


def scoring_view(cfg: DataConfig, image: Image) -> Image:
    """Return what the network sees of a face that is to be scored (S, S, 3); it is not aligned."""
    if cfg.synthesis == "bi":
        canvas = (cfg.bi.blend.canvas_px, cfg.bi.blend.canvas_px)
        image, border_px = cv2.resize(image, canvas, interpolation=cv2.INTER_LINEAR), cfg.bi.score_border_px
    else:
        border_px = cfg.sbi.score_border_px
    return fit_square(cut_border(image, border_px), cfg.input_px)
