"""Pictures to PNG and back. PNG is lossless, so that no trace of a forgery is wiped out."""

import cv2
import numpy as np

# Run lengths of filtered rows: on face crops 2.5 ms and 57 kB, against 67 ms and 53 kB at zlib's best effort.
PNG_OPTIONS = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)


def encode_png(picture: np.ndarray) -> bytes:
    """Return an RGB (H, W, 3) or gray (H, W) uint8 picture as PNG."""
    stored = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    done, data = cv2.imencode(".png", stored, PNG_OPTIONS)
    assert done, f"PNG encoder refuses {picture.shape} {picture.dtype}"
    return data.tobytes()


def decode_png(data: bytes) -> np.ndarray:
    """Return the picture that `encode_png` stored: RGB (H, W, 3) or gray (H, W). Raise ValueError for damaged data."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise ValueError("a stored picture is damaged: extract into a new folder")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if picture.ndim == 3 else picture
