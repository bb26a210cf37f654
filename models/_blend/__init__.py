"""Pseudo-fakes from real faces: numpy in, numpy out, seeded. See `synthesize`, `landmark_masks`, `transforms`."""

from models._blend.blended_images import BlendFacesConfig, blend_faces
from models._blend.blending_mask import MaskConfig
from models._blend.landmark_masks import (
    FEATURES,
    HULL_KINDS,
    SLADD_COMBINATIONS,
    EmptyMask,
    Image,
    Landmarks,
    Mask,
    check_landmarks,
    feature_mask,
    flip,
    lal_mask,
    landmark_mask,
    order_forehead,
    sladd_mask,
)
from models._blend.synthesize import BlendConfig, Blended, TransformConfig, boundary, self_blend
from models._blend.transforms import photometric, photometric_bi

__all__ = [
    "FEATURES",
    "HULL_KINDS",
    "SLADD_COMBINATIONS",
    "BlendConfig",
    "BlendFacesConfig",
    "Blended",
    "EmptyMask",
    "Image",
    "Landmarks",
    "Mask",
    "MaskConfig",
    "TransformConfig",
    "blend_faces",
    "boundary",
    "check_landmarks",
    "feature_mask",
    "flip",
    "lal_mask",
    "landmark_mask",
    "order_forehead",
    "photometric",
    "photometric_bi",
    "self_blend",
    "sladd_mask",
]
