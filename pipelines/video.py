"""One video -> its rows in FACES and its row in the ledger. Knows labels, not Ray.

In   one row of schemas.VIDEOS
Out  schemas.FACES   one row for each face in each sampled frame, or one row saying why there is none
     schemas.LEDGER  one row
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from pipelines import decode, masks, schemas
from pipelines.faces import Crop, Face, FaceFinder, Recipe

# Run lengths of filtered rows: on face crops 2.5 ms and 57 kB, against 67 ms and 53 kB at zlib's best effort.
_PNG_OPTIONS = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)


class VideoReader:
    """Turns videos into rows; holds the loaded models, so one serves many videos.

    `roots` gives the path or URI of each root that VIDEOS names, `predictor` a 68-point dlib predictor other
    than the packaged one.
    """

    def __init__(self, roots: Mapping[str, str], recipe: Recipe, predictor: Path | None = None) -> None:
        cv2.setNumThreads(1)  # one actor for each core
        self.roots = roots
        self.recipe = recipe
        self.find = FaceFinder(recipe, predictor)

    def __call__(self, video: Mapping[str, Any]) -> tuple[pa.Table, dict[str, Any]]:
        """FACES rows of a video, by face_index then frame_index, and its LEDGER row.

        A video that cannot be read has status `unreadable` and the reason; one that can, but holds damage or
        lacks a readable counterpart for its masks, is `ok` with a reason.
        """
        start = time.monotonic()
        try:
            clip = decode.read(locate(self.roots, video["root"], video["uri"]), self.recipe.num_frames)
        except decode.UnreadableVideo as error:
            return without_faces(video, "unreadable", str(error), time.monotonic() - start)
        found = list(self.find(clip.frames))
        if not found:
            reason = "; ".join(filter(None, [f"no face in {len(clip.frames)} frames", clip.note]))
            return without_faces(video, "no_face", reason, time.monotonic() - start, len(clip.frames))
        truth, mask_note = self._masks(video, found, clip.frames)
        copied = {name: video[name] for name in schemas.COPIED}
        rows = [copied | {"status": "ok"} | _row(face, mask) for face, mask in zip(found, truth, strict=True)]
        table = schemas.to_table(rows, schemas.FACES)
        reason = "; ".join(filter(None, [clip.note, mask_note]))
        return table, _ledger_row(table, "ok", reason, len(clip.frames), len(rows), time.monotonic() - start)

    def _masks(
        self, video: Mapping[str, Any], found: Sequence[Face], frames: Sequence[decode.Frame]
    ) -> tuple[list[np.ndarray | None], str]:
        """For each face its mask or None, and a note on those that should have one and do not.

        A real face has no mask: by definition it is all zero.
        """
        truth: list[np.ndarray | None] = [None] * len(found)
        column = _mask_column(video, self.recipe)
        if column is None:
            return truth, ""
        rgb = {frame.frame_index: frame.rgb for frame in frames}
        try:
            for other in decode.grab(locate(self.roots, video["root"], video[column]), rgb):
                for place, face in enumerate(found):
                    if face.frame_index == other.frame_index and other.rgb.shape == rgb[other.frame_index].shape:
                        truth[place] = _mask(column, self.recipe, rgb[other.frame_index], other.rgb, face.crop)
        except decode.UnreadableVideo as error:
            return truth, f"no mask: {error}"
        unknown = sum(mask is None for mask in truth)
        if unknown:
            return (
                truth,
                f"no mask for {unknown} of {len(truth)} faces: {video[column]} lacks the frame or has another size",
            )
        return truth, ""


def without_faces(
    video: Mapping[str, Any], status: str, reason: str, seconds: float, num_frames: int = 0
) -> tuple[pa.Table, dict[str, Any]]:
    """The one FACES row of a video that gave no face, and its LEDGER row."""
    row = {name: video[name] for name in schemas.COPIED} | dict.fromkeys(schemas.PER_FACE) | {"status": status}
    table = schemas.to_table([row], schemas.FACES)
    return table, _ledger_row(table, status, reason, num_frames, 0, seconds)


def locate(roots: Mapping[str, str], root: str, uri: str) -> str:
    """The path or URI of a file below a named root. Raises ValueError when the name is not among `roots`."""
    if root not in roots:
        raise ValueError(f"root {root!r} is not known; roots are {', '.join(sorted(roots)) or 'none'}")
    return f"{roots[root].rstrip('/')}/{uri.lstrip('/')}"


def content_digest(rows: pa.Table) -> str:
    """SHA-256 over the values of all columns, whatever file or chunks they came from."""
    digest = hashlib.sha256()
    for name in schemas.FACES.names:
        digest.update(f"\n{name}\n".encode())
        for value in rows[name].to_pylist():
            text = value if isinstance(value, bytes) else json.dumps(value).encode()
            digest.update(len(text).to_bytes(8, "big"))
            digest.update(text)
    return digest.hexdigest()


def encode_png(picture: np.ndarray) -> bytes:
    """RGB (H, W, 3) or gray (H, W) uint8 as PNG."""
    stored = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    done, data = cv2.imencode(".png", stored, _PNG_OPTIONS)
    assert done, f"PNG encoder refuses {picture.shape} {picture.dtype}"
    return data.tobytes()


def _mask_column(video: Mapping[str, Any], recipe: Recipe) -> str | None:
    """The column of VIDEOS that names the file to take masks from."""
    if video["label"] == schemas.REAL:
        return None
    allowed = {"auto": ("real_uri", "mask_uri"), "difference": ("real_uri",), "dataset": ("mask_uri",), "none": ()}
    return next((column for column in allowed[recipe.mask_source] if video[column] is not None), None)


def _mask(column: str, recipe: Recipe, fake: np.ndarray, other: np.ndarray, crop: Crop) -> np.ndarray:
    x0, y0, x1, y1 = crop
    fake, other = fake[y0:y1, x0:x1], other[y0:y1, x0:x1]
    if column == "real_uri":
        mask = masks.from_difference(fake, other, recipe.mask_threshold, recipe.mask_clean_px)
    else:
        mask = masks.from_dataset(other)
    return masks.resize(mask, recipe.size_px)


def _row(face: Face, mask: np.ndarray | None) -> dict[str, Any]:
    return {
        "frame_index": face.frame_index,
        "face_index": face.face_index,
        "time_s": face.time_s,
        "image_png": encode_png(face.image),
        "mask_png": None if mask is None else encode_png(mask),
        "box_px": _struct(face.box),
        "crop_px": _struct(face.crop),
        "landmarks_px": face.landmarks.ravel().tolist(),
        "face_score": face.score,
    }


def _struct(box: Iterable[float]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(("x0", "y0", "x1", "y1"), box, strict=True)}


def _ledger_row(
    table: pa.Table, status: str, reason: str, num_frames: int, num_faces: int, seconds: float
) -> dict[str, Any]:
    return {
        "video_id": table["video_id"][0].as_py(),
        "status": status,
        "reason": " ".join(reason.split()),
        "num_frames": num_frames,
        "num_faces": num_faces,
        "content": content_digest(table),
        "seconds": seconds,
    }
