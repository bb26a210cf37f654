"""One video -> its rows in FACES and in the ledger, for each recipe that is asked for. Knows labels, not Ray.

In   one row of schemas.VIDEOS
Out  schemas.FACES   one row for each face in each sampled frame, or one row saying why there is none
     schemas.LEDGER  one row

Recipes share what they can: the video is decoded once for all of them, and faces are followed once for those that
sample the same frames and differ in the crop only. The rows of a recipe don't depend on which others are asked for.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pyarrow as pa

from pipelines.common import tables
from pipelines.common.pictures import encode_png
from pipelines.datasets import folder_of
from pipelines.faces import masks
from pipelines.faces.boxes import Crop
from pipelines.faces.crops import Face, FaceFinder
from pipelines.faces.follow import Track
from pipelines.faces.recipe import Recipe
from pipelines.media import decode, fetch, stills
from pipelines.media.decode import Frame
from pipelines.media.spool import Chosen, Spool

_FRAME_BYTES = 760 * 2**20  # of decoded frames held in memory, 128 in 1080p; more lie in a file

Result = tuple[pa.Table, dict[str, Any]]  # FACES rows of a video, its LEDGER row


class VideoReader:
    """Turns videos into rows; holds the loaded models, so one serves many videos.

    `roots` gives the path or URI of each root that VIDEOS names, `predictor` a dlib landmark predictor other than
    the packaged one of 68 points.
    """

    def __init__(self, roots: Mapping[str, str], recipes: Sequence[Recipe], predictor: Path | None = None) -> None:
        cv2.setNumThreads(1)  # one actor for each core
        self.roots = roots
        self.recipes = tuple(recipes)
        models = {_models_of(recipe): FaceFinder(recipe, predictor) for recipe in self.recipes}
        self.finders = {recipe: models[_models_of(recipe)] for recipe in self.recipes}

    def __call__(self, video: Mapping[str, Any], wanted: Sequence[int] = (0,)) -> list[Result]:
        """For each recipe in `wanted`, FACES rows of the video, by face_index then frame_index, and its LEDGER row.

        A video that cannot be read has status `unreadable` and the reason; one that can, but holds damage or
        lacks a readable counterpart for its masks, is `ok` with a reason. `seconds` is shared among the recipes.
        """
        start = time.monotonic()
        recipes = [self.recipes[number] for number in wanted]
        try:
            with fetch.local(locate(self.roots, video["root"], video["uri"])) as path:
                results = self._read(video, path, recipes)
        except decode.UnreadableVideo as error:
            results = [without_faces(video, "unreadable", str(error), 0.0)] * len(recipes)
        seconds = (time.monotonic() - start) / len(recipes)
        return [(table, ledger | {"seconds": seconds}) for table, ledger in results]

    def _read(self, video: Mapping[str, Any], path: Path, recipes: Sequence[Recipe]) -> list[Result]:
        source = decode.open_source(path)
        asked = {recipe: decode.indices(recipe.frames(), source.times) for recipe in recipes}
        frames, place = Spool(_FRAME_BYTES), {}
        for frame in source.frames(sorted({index for indices in asked.values() for index in indices})):
            place[frame.frame_index] = len(frames)
            frames.append(frame)
        if not place:
            raise decode.UnreadableVideo(f"{path}: {source.note or 'no frame can be decoded'}")
        tracked: dict[Any, _Tracked] = {}
        found = []
        for recipe in recipes:
            own = [index for index in asked[recipe] if index in place]
            key = _tracking_of(recipe)
            if key not in tracked:
                tracked[key] = self._follow(video, Chosen(frames, [place[index] for index in own]), recipe)
            lost = len(asked[recipe]) - len(own)
            damage = f"{lost} of {len(asked[recipe])} sampled frames cannot be decoded" if lost else ""
            at = tracked[key]
            faces = self.finders[recipe].faces(at.frames, at.tracks, recipe, video["face_rule"], at.covered)
            notes = [source.note, damage, at.note]
            found.append(_Found(recipe, {index: i for i, index in enumerate(own)}, at.frames, list(faces), notes))
        self._add_masks(video, found)
        return [one.rows(video) for one in found]

    def _follow(self, video: Mapping[str, Any], frames: Sequence[Frame], recipe: Recipe) -> "_Tracked":
        rule = video["face_rule"]
        tracks = self.finders[recipe].tracks(frames, recipe, rule)
        if rule not in ("mask", "all") or video["mask_uri"] is None or len(tracks) < 2:
            return _Tracked(frames, tracks)
        try:
            with fetch.local(locate(self.roots, video["root"], video["mask_uri"])) as path:
                covered = _covered(path, frames, tracks)
        except decode.UnreadableVideo as error:
            return _Tracked(frames, tracks, note=f"the largest face is taken, for the mask cannot be read: {error}")
        if not any(covered):
            why = "the mask covers none, or has another size"
            return _Tracked(frames, tracks, note=f"the largest face is taken, for {why}")
        return _Tracked(frames, tracks, covered)

    def _add_masks(self, video: Mapping[str, Any], found: Sequence["_Found"]) -> None:
        """Masks of all faces that should have one, and a note where there is none; each file is decoded once.

        What one source does not tell, the next does. A real face has no mask: by definition it is all zero.
        """
        for column in ("real_uri", "mask_uri"):
            own = [one for one in found if column in _mask_columns(video, one.recipe) and one.unmasked()]
            if not own:
                continue
            wanted = {one.faces[place].frame_index for one in own for place in one.unmasked()}
            try:
                with fetch.local(locate(self.roots, video["root"], video[column])) as path:
                    for other in decode.grab(path, wanted):
                        for one in own:
                            one.take_masks(column, other)
                why = f"{video[column]} lacks the frame, has another size or shows no change there"
            except decode.UnreadableVideo as error:
                why = str(error)
            for one in own:
                one.no_mask.append(why)
        for one in found:
            if one.no_mask and one.unmasked():
                reasons = ", ".join(one.no_mask)
                one.notes.append(f"no mask for {len(one.unmasked())} of {len(one.faces)} faces: {reasons}")


@dataclass(frozen=True, slots=True)
class _Tracked:
    """What recipes share that sample the same frames."""

    frames: Sequence[Frame]
    tracks: Sequence[Track]
    covered: Sequence[float] = ()  # how much of each track's face the mask covers
    note: str = ""


@dataclass(slots=True)
class _Found:
    """The faces of one recipe."""

    recipe: Recipe
    frames: Mapping[int, int]  # frame_index -> place in `pictures`
    pictures: Sequence[Frame]
    faces: list[Face]
    notes: list[str]
    masks: dict[int, np.ndarray] = field(default_factory=dict)  # place in `faces` -> mask
    no_mask: list[str] = field(default_factory=list)  # why the sources asked so far left faces without

    def unmasked(self) -> list[int]:
        """Places in `faces` without a mask."""
        return [place for place in range(len(self.faces)) if place not in self.masks]

    def take_masks(self, column: str, other: Frame) -> None:
        """The masks of the faces in one frame, of which `other` is the counterpart.

        An empty mask would say that this face of a fake is untouched. All it says is that the change is below the
        threshold, or beside this face: what is manipulated is not known.
        """
        here = [place for place in self.unmasked() if self.faces[place].frame_index == other.frame_index]
        if not here:
            return
        rgb = self.pictures[self.frames[other.frame_index]].rgb
        for place in here if rgb.shape == other.rgb.shape else ():
            mask = _mask(column, self.recipe, rgb, other.rgb, self.faces[place].crop)
            if mask.any():
                self.masks[place] = mask

    def rows(self, video: Mapping[str, Any]) -> Result:
        reason = "; ".join(dict.fromkeys(filter(None, self.notes)))
        if not self.frames:  # those that other recipes sample can be decoded
            return without_faces(video, "unreadable", reason, 0.0)
        if not self.faces:
            reason = "; ".join(filter(None, [f"no face in {len(self.frames)} frames", reason]))
            return without_faces(video, "no_face", reason, 0.0, len(self.frames))
        copied = {name: video[name] for name in tables.COPIED} | {"status": "ok"}
        rows = [copied | _row(face, self.masks.get(place)) for place, face in enumerate(self.faces)]
        table = tables.to_table(rows, tables.FACES)
        return table, _ledger_row(table, "ok", reason, len(self.frames), len(rows), 0.0)


def _covered(path: Path, frames: Sequence[Frame], tracks: Sequence[Track]) -> list[float]:
    """For each track the share of its boxes that the mask covers, summed over the frames, 0 to their number."""
    places = {frame.frame_index: place for place, frame in enumerate(frames)}
    covered = [0.0] * len(tracks)
    for other in decode.grab(path, places):
        if other.rgb.shape != frames[places[other.frame_index]].rgb.shape:
            continue
        mask = masks.from_dataset(other.rgb)
        for number, track in enumerate(tracks):
            seen = track.found.get(places[other.frame_index])
            if seen is not None:
                x0, y0, x1, y1 = np.clip(np.round(seen.box), 0, [*mask.shape[::-1]] * 2).astype(int)
                inside = mask[y0:y1, x0:x1]
                covered[number] += float(inside.mean()) / 255 if inside.size else 0.0
    return covered


def _models_of(recipe: Recipe) -> tuple[Any, ...]:
    return recipe.detector, recipe.landmarks


def _tracking_of(recipe: Recipe) -> tuple[Any, ...]:
    """Recipes that agree in this find the same tracks."""
    return recipe.frames(), recipe.detector, recipe.max_faces > 1


def without_faces(
    video: Mapping[str, Any], status: str, reason: str, seconds: float, num_frames: int = 0
) -> tuple[pa.Table, dict[str, Any]]:
    """The one FACES row of a video that gave no face, and its LEDGER row."""
    row = {name: video[name] for name in tables.COPIED} | dict.fromkeys(tables.PER_FACE) | {"status": status}
    table = tables.to_table([row], tables.FACES)
    return table, _ledger_row(table, status, reason, num_frames, 0, seconds)


def locate(roots: Mapping[str, str], root: str, uri: str) -> str:
    """The path or URI of a file below a named root. Raises ValueError when the name is not among `roots`.

    VIDEOS holds names as they are; in the URL of a web server some characters of a name mean something else.
    """
    if root not in roots:
        raise ValueError(f"root {root!r} is not known; roots are {', '.join(sorted(roots)) or 'none'}")
    folder, uri = folder_of(roots[root]).rstrip("/"), uri.lstrip("/")
    if folder.lower().startswith(("http://", "https://")):
        archive, inside = stills.split(uri) or (uri, "")  # the server knows nothing of what lies inside
        uri = "/".join(filter(None, (quote(archive), inside)))
    return f"{folder}/{uri}"


def content_digest(rows: pa.Table) -> str:
    """SHA-256 over the values of all columns, whatever file or chunks they came from."""
    digest = hashlib.sha256()
    for name in tables.FACES.names:
        digest.update(f"\n{name}\n".encode())
        for value in rows[name].to_pylist():
            text = value if isinstance(value, bytes) else json.dumps(value).encode()
            digest.update(len(text).to_bytes(8, "big"))
            digest.update(text)
    return digest.hexdigest()


def _mask_columns(video: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """The columns of VIDEOS that name files to take masks from, in the order of preference."""
    if video["label"] == tables.REAL:
        return []
    allowed = {"auto": ("real_uri", "mask_uri"), "difference": ("real_uri",), "dataset": ("mask_uri",), "none": ()}
    return [column for column in allowed[recipe.mask_source] if video[column] is not None]


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
