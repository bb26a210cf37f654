"""Make `sbi_*.npz` of this folder from SBI's released code: numbers only, no code of it is here.

    python make_sbi.py <checkout of mapooon/SelfBlendedImages> <checkout of AlgoHunt/Face-Xray> [steps] [draws]

Writes `sbi_<part>.npz` beside this file. README.md has the commits, and the versions it was run with.

Every number is read from what SBI's own dataset hands to its network, in validation (fixed margins, no flip): frame,
landmarks and box are written to files as its preprocessing writes them, and only `self_blending` is replaced, by one
of its steps alone, except where all of them are asked for. "Change" is the mean of |fake - real| over the network's
input, in levels.
"""

import contextlib
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
BOXES = (80, 120, 150, 200, 300)  # longer side of the face's box, px
DRAWS = 250  # of each random step; the percentiles 1 to 99 are kept
PIXELS = slice(10, None, 20)  # of the network's input, along both sides


def face(box_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a frame uint8 (H, H, 3), landmarks (81, 2) in whole px, and a box x0, y0, x1, y1.

    The picture is noise with a photograph's spectrum. Landmarks lie in the box as in those that RetinaFace finds: they
    are as wide, and begin below the forehead.
    """
    side, rng = 3 * box_px, np.random.default_rng(box_px)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    frequency[0, 0] = np.inf
    white = rng.standard_normal((side, side, 1)) + 0.3 * rng.standard_normal((side, side, 3))  # colours go together
    pink = np.fft.ifft2(np.fft.fft2(white, axes=(0, 1)) / frequency[..., None] ** 1.1, axes=(0, 1)).real
    image = np.clip(pink / pink.std((0, 1)) * 40 + 120, 0, 255).astype(np.uint8)
    width = round(0.78 * box_px)
    left, top = (side - width) // 2, box_px
    points = np.load(HERE / "landmarks.npy")
    low, high = points[:68].min(0), points[:68].max(0)
    points = (points - low) / (high - low) * [width, 0.74 * box_px] + [left, top + 0.26 * box_px]
    return image, np.rint(points), np.array([left, top, left + width, top + box_px], float)


def dataset(released: Any, box_px: int, folder: Path) -> Any:
    """Return SBI's dataset of one frame, whose files are written below the folder."""
    image, points, box = face(box_px)
    corners_and_points = np.vstack([box.reshape(2, 2), np.zeros((5, 2))])
    for part in ("frames", "landmarks", "retina"):
        (folder / part).mkdir(exist_ok=True)
    Image.fromarray(image).save(folder / "frames" / f"{box_px}.png")
    released.Image = type("Decoded", (), {"open": staticmethod(lambda file: image)})  # once is enough
    np.save(folder / "landmarks" / f"{box_px}.npy", points[None])
    np.save(folder / "retina" / f"{box_px}.npy", corners_and_points[None])
    released.init_ff = lambda *args, **options: ([str(folder / "frames" / f"{box_px}.png")], [0])
    return released.SBI_Dataset("val", 380)


def seen(data: Any, made: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return real and fake (2, 380, 380, 3) in levels as the network sees them, when blending gives what `made` does.

    made: of the image in which SBI blends and its landmarks, to real and fake.
    """
    data.self_blending = lambda image, points: (*made(image.astype(np.uint8), points), None)
    fake, real = data[0]
    return 255 * np.stack([real, fake]).transpose(0, 2, 3, 1)


def change(pair: np.ndarray) -> float:
    """Return the mean of |fake - real|."""
    return float(np.abs(pair[1] - pair[0]).mean())


def steps(released: Any, folder: Path) -> dict[str, np.ndarray]:
    """Each step whose strength can be set: its change at each of the boxes; and pixels of the network's input."""
    alb, down = released.alb, released.RandomDownScale(p=1)

    def halved_or_quartered(image: np.ndarray, ratio: int) -> np.ndarray:
        draw = np.random.randint
        np.random.randint = lambda count: (2, 4).index(ratio)  # the one draw that it makes
        try:
            return down(image=image)["image"]
        finally:
            np.random.randint = draw

    library = {
        "rgb": alb.RGBShift((12, 12), (-7, -7), (5, 5), p=1),
        "hsv": alb.HueSaturationValue((-0.2, -0.2), (-0.2, -0.2), (-0.2, -0.2), p=1),
        "brightness": alb.RandomBrightnessContrast(brightness_limit=(0.07, 0.07), contrast_limit=(-0.08, -0.08), p=1),
        "sharpened": alb.Sharpen(alpha=(0.35, 0.35), lightness=(0.75, 0.75), p=1),
    }
    library |= {f"jpeg {q}": alb.ImageCompression(quality_lower=q, quality_upper=q, p=1) for q in (40, 70, 95)}
    made: dict[str, list[float]] = {name: [] for name in (*library, "halved", "quartered")}
    inputs = []
    for box_px in BOXES:
        data = dataset(released, box_px, folder)
        for name, step in library.items():
            made[name].append(change(seen(data, lambda image, _, step=step: (image, step(image=image)["image"]))))
        for name, ratio in (("halved", 2), ("quartered", 4)):
            pair = seen(data, lambda image, _, ratio=ratio: (image, halved_or_quartered(image, ratio)))
            made[name].append(change(pair))
        inputs.append(seen(data, lambda image, _: (image, image))[0][PIXELS, PIXELS])
    return {name: np.array(values, np.float32) for name, values in made.items()} | {
        "input": np.rint(np.stack(inputs)).astype(np.uint8)
    }


def draws(released: Any, folder: Path) -> dict[str, np.ndarray]:
    """Each random step, and all together: the percentiles of its change at each of the boxes (5, 99).

    moved, deformed, blurred: of the mask of the whole face, times 255. fake: of the image, all steps.
    """
    alb = released.alb
    affine, elastic, blend = alb.Affine, alb.ElasticTransform, released.SBI_Dataset.self_blending

    def as_it_is(**options: Any) -> Callable[..., dict[str, np.ndarray]]:
        return lambda image, mask: {"image": image, "mask": mask}

    def of_mask(data: Any, after: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        def made(image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            mask = released.facehull(landmarks=points.astype("int32"), face=image, channels=3).mask[:, :, 0] / 255
            return tuple(np.repeat(255 * array[..., None], 3, 2).astype(np.uint8) for array in (mask, after(mask)))

        return seen(data, made)

    made: dict[str, list[np.ndarray]] = {}
    for box_px in BOXES:
        data = dataset(released, box_px, folder)

        def deformed(mask: np.ndarray, data: Any = data) -> np.ndarray:
            return data.randaffine(np.zeros((*mask.shape, 3), np.uint8), mask)[1]

        for name in ("moved", "deformed", "blurred", "fake"):
            changes = []
            for _ in range(DRAWS):
                alb.Affine, alb.ElasticTransform = affine, elastic
                if name == "moved":
                    alb.ElasticTransform = as_it_is
                    pair = of_mask(data, deformed)
                elif name == "deformed":
                    alb.Affine = as_it_is
                    pair = of_mask(data, deformed)
                elif name == "blurred":
                    pair = of_mask(data, lambda mask: released.B.get_blend_mask(mask)[..., 0])
                else:
                    pair = seen(data, lambda image, points, data=data: blend(data, image, points)[:2])
                changes.append(change(pair))
            made.setdefault(name, []).append(np.percentile(changes, range(1, 100)))
    return {name: np.stack(rows).astype(np.float32) for name, rows in made.items()}


PARTS = {f.__name__: f for f in (steps, draws)}


def main() -> None:
    """Make the named parts, or all."""
    sbi, face_xray, *names = sys.argv[1:]
    for unused in ("dlib", "matplotlib", "imgaug"):  # imported, but not by what is asked here
        sys.modules[unused] = MagicMock()
    sys.path[:0] = [str(Path(sbi) / "src"), face_xray]
    from bi_online_generation import facehull, random_get_hull
    from utils import sbi as released

    # What SBI does when Face X-ray's code lies where its README puts it.
    released.exist_bi, released.random_get_hull, released.facehull = True, random_get_hull, facehull
    for name in names or PARTS:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002  # the released code draws from the global generators
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
            arrays = PARTS[name](released, Path(folder))
        np.savez_compressed(HERE / f"sbi_{name}.npz", **arrays)


if __name__ == "__main__":
    main()
