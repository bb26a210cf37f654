"""Pseudo-fakes from real faces: numpy in, numpy out, seeded. See `synthesize`, `landmark_masks`, `transforms`."""

from models._blend.blended_images import BlendFacesConfig, blend_faces
from models._blend.blending_mask import MaskConfig
from models._blend.landmark_masks import EmptyMask, Image, Landmarks, check_landmarks, flip
from models._blend.synthesize import BlendConfig, Blended, TransformConfig, boundary, self_blend
from models._blend.transforms import photometric, photometric_bi

__all__ = [
    "BlendConfig",
    "BlendFacesConfig",
    "Blended",
    "EmptyMask",
    "Image",
    "Landmarks",
    "MaskConfig",
    "TransformConfig",
    "blend_faces",
    "boundary",
    "check_landmarks",
    "flip",
    "photometric",
    "photometric_bi",
    "self_blend",
]
