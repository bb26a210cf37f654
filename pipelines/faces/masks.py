"""Which pixels of a forged face are manipulated: from the real counterpart, or from the dataset's own mask video.

The difference mask is that of Dang et al., CVPR 2020 (DFFD), as the Delocate notes Sec. 2.1 settle it:
|fake - real| of the same frame and crop, weighted to gray, above a threshold. A mask is uint8 (H, W), 0 or 255.
"""

import cv2
import numpy as np

_GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def from_difference(fake: np.ndarray, real: np.ndarray, threshold: float = 0.1, clean_px: int = 5) -> np.ndarray:
    """Return the mask (H, W) of two crops (H, W, 3) uint8: 255 where they differ by more than `threshold` (1 = white).

    `clean_px` is the side of the square kernel of a closing, then an opening, which remove specks that
    the codec leaves; 0 keeps them. Raises ValueError when the sizes differ.
    """
    if fake.shape != real.shape:
        raise ValueError(f"fake crop is {fake.shape[:2]}, its real counterpart {real.shape[:2]}: they must be one size")
    difference = cv2.absdiff(fake, real).astype(np.float32) @ _GRAY / 255
    mask = np.where(difference > threshold, 255, 0).astype(np.uint8)
    if clean_px:
        kernel = np.ones((clean_px, clean_px), np.uint8)
        return cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel), cv2.MORPH_OPEN, kernel)
    return mask


def from_dataset(rgb: np.ndarray) -> np.ndarray:
    """Return the mask (H, W) in a frame or crop (H, W, 3) of a mask video: 255 where it is brighter than half.

    Lossy video blurs the two levels, hence the threshold.
    """
    return np.where(rgb.astype(np.float32) @ _GRAY > 127.5, 255, 0).astype(np.uint8)


def resize(mask: np.ndarray, size_px: int) -> np.ndarray:
    """Return the mask at size_px x size_px, still 0 or 255."""
    return cv2.resize(mask, (size_px, size_px), interpolation=cv2.INTER_NEAREST_EXACT)
