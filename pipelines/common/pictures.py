"""TODO pipelines.common.pictures."""

import cv2
import numpy as np

from pipelines.faces.video import _PNG_OPTIONS


def encode_png(picture: np.ndarray) -> bytes:
    """RGB (H, W, 3) or gray (H, W) uint8 as PNG."""
    stored = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    done, data = cv2.imencode(".png", stored, _PNG_OPTIONS)
    assert done, f"PNG encoder refuses {picture.shape} {picture.dtype}"
    return data.tobytes()
