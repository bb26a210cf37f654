"""One video to its rows in FACES and LEDGER, for each recipe that is asked for. Knows labels, not Ray.

In   one row of VIDEOS
Out  FACES   one row for each face in each sampled frame, or one row saying why there is none
     LEDGER  one row

Recipes share what they can: the video is decoded once for all of them, and faces are followed once for those that
sample the same frames and differ in the crop only. The rows of a recipe don't depend on which others are asked for.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from pipelines.common import tables
from pipelines.common.pictures import encode_png
from pipelines.faces import counterpart, masks
from pipelines.faces.boxes import Crop
from pipelines.faces.counterpart import Surroundings
from pipelines.faces.crops import Face, FaceFinder
from pipelines.faces.files import locate
from pipelines.faces.follow import Track
from pipelines.faces.recipe import Recipe
from pipelines.media import decode, fetch, sampling
from pipelines.media.frames import Frame, Source, UnreadableVideo
from pipelines.media.spool import Chosen, Spool

_FRAME_BYTES = 760 * 2**20  # of decoded frames held in memory, 128 in 1080p; more lie in a file

# Columns of VIDEOS that name files to take masks from, in the order of preference, and for which `mask_source`s.
_MASKS_FROM = {"real_uri": ("auto", "difference"), "mask_uri": ("auto", "dataset")}

VideoRows = tuple[pa.Table, dict[str, Any]]  # FACES rows of a video, its LEDGER row
Reader = Callable[[Mapping[str, Any], Sequence[int]], list[VideoRows]]  # row of VIDEOS, numbers of recipes


class VideoReader:
    """Turns videos into rows; holds the loaded models, so one serves many videos.

    `roots` gives the path or URI of each root that VIDEOS names, `predictor` a dlib landmark predictor other than
    the packaged one of 68 points.
    """

    def __init__(self, roots: Mapping[str, str], recipes: Sequence[Recipe], predictor: Path | None = None) -> None:
        cv2.setNumThreads(1)  # one actor for each core
        self.roots = roots
        self.recipes = tuple(recipes)
        loaded = {(recipe.detector, recipe.landmarks): recipe for recipe in self.recipes}
        finders = {models: FaceFinder(recipe, predictor) for models, recipe in loaded.items()}
        self.finders = {recipe: finders[recipe.detector, recipe.landmarks] for recipe in self.recipes}

    def __call__(self, video: Mapping[str, Any], wanted: Sequence[int] = (0,)) -> list[VideoRows]:
        """Return the video's rows for each recipe in `wanted` (numbers in `recipes`), by face_index, frame_index.

        A video that cannot be read has status `unreadable` and the reason; one that can, but holds damage or
        lacks a readable counterpart for its masks, is `ok` with a reason. `seconds` is shared among the recipes.
        """
        start = time.monotonic()
        try:
            with fetch.local(locate(self.roots, video["root"], video["uri"])) as path:
                results = self._read(video, decode.open_source(path), wanted)
        except UnreadableVideo as error:
            results = [without_faces(video, "unreadable", str(error))] * len(wanted)
        return _took(results, time.monotonic() - start)

    def pictures(self, videos: Sequence[Mapping[str, Any]], wanted: Sequence[int] = (0,)) -> list[list[VideoRows]]:
        """Return for each of several videos what a call returns. Of pictures it is faster: see `fetch.sources`."""
        read: dict[int, list[VideoRows]] = {}
        start = time.monotonic()
        for number, source in fetch.sources([locate(self.roots, video["root"], video["uri"]) for video in videos]):
            video = videos[number]
            try:
                if isinstance(source, UnreadableVideo):
                    raise source
                results = self._read(video, source, wanted)
            except UnreadableVideo as error:
                results = [without_faces(video, "unreadable", str(error))] * len(wanted)
            read[number] = _took(results, time.monotonic() - start)
            start = time.monotonic()
        return [read[number] for number in range(len(videos))]

    def _read(self, video: Mapping[str, Any], source: Source, wanted: Sequence[int]) -> list[VideoRows]:
        """Decode, follow, crop, mask, and write down: each step for all recipes."""
        rule = video["face_rule"]
        samples = _decode(locate(self.roots, video["root"], video["uri"]), source, [self.recipes[i] for i in wanted])
        followed: dict[Any, tuple[Sequence[Track], Sequence[float], str]] = {}
        for sample in samples:
            recipe = sample.recipe
            same_tracks = recipe.frame_sampling(), recipe.detector, recipe.keeps_several(rule)
            if same_tracks not in followed:
                followed[same_tracks] = self._follow(video, sample)
            tracks, covered, note = followed[same_tracks]
            sample.notes.append(note)
            sample.faces = list(self.finders[recipe].faces(sample.frames, tracks, recipe, rule, covered))
        self._add_masks(video, samples)
        return [sample.rows(video) for sample in samples]

    def _follow(self, video: Mapping[str, Any], sample: "_Sample") -> tuple[Sequence[Track], Sequence[float], str]:
        """Return the tracks of the faces, how much of each the dataset's mask covers, and a note.

        The second is empty where the mask has no say in which face is face 0, or cannot tell; then the note says why.
        """
        rule = video["face_rule"]
        tracks = self.finders[sample.recipe].tracks(sample.frames, sample.recipe, rule)
        if rule not in ("mask", "all") or video["mask_uri"] is None or len(tracks) < 2:
            return tracks, (), ""
        try:
            with fetch.local(locate(self.roots, video["root"], video["mask_uri"])) as path:
                covered = _covered(path, sample, tracks)
        except UnreadableVideo as error:
            return tracks, (), f"the largest face is taken, for the mask cannot be read: {error}"
        if not any(covered):
            return tracks, (), "the largest face is taken, for the mask covers none, or has another size"
        return tracks, covered, ""

    def _add_masks(self, video: Mapping[str, Any], samples: Sequence["_Sample"]) -> None:
        """Add the masks of a fake's faces, and a note where there is none; each file is decoded once for all recipes.

        What one source does not tell, the next does. A real face has no mask: by definition it is all zero.
        """
        if video["label"] == tables.REAL:
            return
        for column, sources in _MASKS_FROM.items():
            asking = [sample for sample in samples if sample.recipe.mask_source in sources and sample.unmasked()]
            if video[column] is None or not asking:
                continue
            what = "shows another scene or no change there" if column == "real_uri" else "is black there"
            problem = f"{video[column]} lacks the frame, has another size, {what}"
            try:
                with fetch.local(locate(self.roots, video["root"], video[column])) as path:
                    source = decode.open_source(path)
                    later = [sample.begins_later(source) if column == "real_uri" else 0 for sample in asking]
                    wanted = {
                        sample.faces[number].frame_index + by
                        for sample, by in zip(asking, later, strict=True)
                        for number in sample.unmasked()
                    }
                    for frame in source.frames(wanted):
                        for sample, by in zip(asking, later, strict=True):
                            sample.take_masks(column, replace(frame, frame_index=frame.frame_index - by))
                for sample, by in zip(asking, later, strict=True):
                    if by and sample.masks:
                        begins = f"begins {abs(by)} frames {'later' if by > 0 else 'earlier'} than {video[column]}"
                        sample.notes.append(f"{begins}: its masks are from where the surroundings are the same")
            except UnreadableVideo as error:
                problem = str(error)
            for sample in asking:
                sample.mask_problems.append(problem)
        for sample in samples:
            if sample.mask_problems and (unmasked := sample.unmasked()):
                problems = ", ".join(sample.mask_problems)
                sample.notes.append(f"no mask for {len(unmasked)} of {len(sample.faces)} faces: {problems}")


def read_together(
    make: Callable[..., Reader], *arguments: Any
) -> Callable[[Sequence[Mapping[str, Any]], Sequence[int]], list[list[VideoRows]]]:
    """Make a reader, such as a `VideoReader`; return a function that reads several videos, or one."""
    read = make(*arguments)

    def read_all(videos: Sequence[Mapping[str, Any]], wanted: Sequence[int]) -> list[list[VideoRows]]:
        if len(videos) > 1 and isinstance(read, VideoReader):
            return read.pictures(videos, wanted)
        return [read(video, wanted) for video in videos]

    return read_all


@dataclass(slots=True)
class _Sample:
    """The frames of a video that one recipe takes, and what was made of them so far."""

    recipe: Recipe
    frames: Sequence[Frame]  # those that can be decoded
    places: Mapping[int, int]  # frame_index -> place in `frames`
    num_in_video: int  # frames, sampled or not
    notes: list[str]  # on what is damaged or not known; some are empty
    faces: list[Face] = field(default_factory=list)
    masks: dict[int, np.ndarray] = field(default_factory=dict)  # number in `faces` -> mask
    mask_problems: list[str] = field(default_factory=list)  # why the sources asked so far left faces without

    def unmasked(self) -> list[int]:
        """Return the numbers of the faces without a mask."""
        return [number for number in range(len(self.faces)) if number not in self.masks]

    def begins_later(self, real: Source) -> int:
        """Return by how many frames the video begins later than its real counterpart; see `counterpart.offset`."""
        if len(real.times) == self.num_in_video:  # as a rule, and surroundings are not looked at in vain
            return 0
        return counterpart.offset(self.surroundings(), self.num_in_video, real)

    def surroundings(self, frame_indices: Iterable[int] | None = None) -> dict[int, Surroundings]:
        """Return frame index -> what lies beside all faces there, of the frames given, or of all with a face."""
        crops: dict[int, list[Crop]] = {}
        for face in self.faces:
            crops.setdefault(face.frame_index, []).append(face.crop)
        return {
            index: Surroundings(self.frames[self.places[index]], crops[index])
            for index in frame_indices or sorted(crops)
        }

    def take_masks(self, column: str, other: Frame) -> None:
        """Add masks of the faces in one frame, from the same frame of the video that `column` of VIDEOS names.

        An empty mask would say that this face of a fake is untouched. All it says is that the change is below the
        threshold, or beside this face: what is manipulated is not known.
        """
        here = [number for number in self.unmasked() if self.faces[number].frame_index == other.frame_index]
        if not here:
            return
        fake = self.frames[self.places[other.frame_index]].rgb
        if fake.shape != other.rgb.shape:
            return
        if column == "real_uri":
            (around,) = self.surroundings([other.frame_index]).values()
            if not around.is_scene_of(other.rgb):
                return
        for number in here:
            x0, y0, x1, y1 = self.faces[number].crop
            if column == "real_uri":
                threshold, clean_px = self.recipe.mask_threshold, self.recipe.mask_clean_px
                mask = masks.from_difference(fake[y0:y1, x0:x1], other.rgb[y0:y1, x0:x1], threshold, clean_px)
            else:
                mask = masks.from_dataset(other.rgb[y0:y1, x0:x1])
            mask = masks.resize(mask, self.recipe.size_px)
            if mask.any():
                self.masks[number] = mask

    def rows(self, video: Mapping[str, Any]) -> VideoRows:
        """Return the rows of the faces, or the row that says why there is none."""
        reason = "; ".join(dict.fromkeys(filter(None, self.notes)))
        if not self.frames:  # those that other recipes sample can be decoded
            return without_faces(video, "unreadable", reason)
        if not self.faces:
            reason = "; ".join(filter(None, [f"no face in {len(self.frames)} frames", reason]))
            return without_faces(video, "no_face", reason, len(self.frames))
        copied = {name: video[name] for name in tables.COPIED} | {"status": "ok"}
        rows = [copied | _face_row(face, self.masks.get(number)) for number, face in enumerate(self.faces)]
        faces = tables.to_table(rows, tables.FACES)
        return faces, _ledger_row(video, faces, "ok", reason, len(self.frames), len(rows))


def _took(results: Sequence[VideoRows], seconds: float) -> list[VideoRows]:
    """Return the results with the time that they took, shared among them."""
    return [(faces, ledger | {"seconds": seconds / len(results)}) for faces, ledger in results]


def _decode(uri: str, source: Source, recipes: Sequence[Recipe]) -> list[_Sample]:
    """Return the frames that each recipe takes; one that several take is decoded once.

    Raises UnreadableVideo, which names the URI, when no frame that is wanted can be decoded.
    """
    asked = [sampling.indices(recipe.frame_sampling(), source.times) for recipe in recipes]
    frames = Spool(_FRAME_BYTES)
    decoded: dict[int, int] = {}  # frame_index -> place in `frames`
    for frame in source.frames(sorted({index for indices in asked for index in indices})):
        decoded[frame.frame_index] = len(frames)
        frames.append(frame)
    if not decoded:
        raise UnreadableVideo(f"{uri.removeprefix('file://')}: {source.note or 'no frame can be decoded'}")
    samples = []
    for recipe, indices in zip(recipes, asked, strict=True):
        own = [index for index in indices if index in decoded]
        lost = len(indices) - len(own)
        damage = f"{lost} of {len(indices)} sampled frames cannot be decoded" if lost else ""
        chosen = Chosen(frames, [decoded[index] for index in own])
        places = {index: place for place, index in enumerate(own)}
        samples.append(_Sample(recipe, chosen, places, len(source.times), [source.note, damage]))
    return samples


def _covered(path: Path, sample: _Sample, tracks: Sequence[Track]) -> list[float]:
    """Return for each track the share of its boxes that the mask video covers, summed over the frames."""
    covered = [0.0] * len(tracks)
    for white in decode.grab(path, sample.places):
        place = sample.places[white.frame_index]
        if white.rgb.shape != sample.frames[place].rgb.shape:
            continue
        mask = masks.from_dataset(white.rgb)
        for number, track in enumerate(tracks):
            face = track.detections.get(place)
            if face is not None:
                x0, y0, x1, y1 = np.clip(np.round(face.box), 0, [*mask.shape[::-1]] * 2).astype(int)
                inside = mask[y0:y1, x0:x1]
                covered[number] += float(inside.mean()) / 255 if inside.size else 0.0
    return covered


def without_faces(video: Mapping[str, Any], status: str, reason: str, num_frames: int = 0) -> VideoRows:
    """Return the one FACES row of a video that gave no face, and its LEDGER row, with `seconds` 0."""
    row = {name: video[name] for name in tables.COPIED} | dict.fromkeys(tables.PER_FACE) | {"status": status}
    faces = tables.to_table([row], tables.FACES)
    return faces, _ledger_row(video, faces, status, reason, num_frames, 0)


def _face_row(face: Face, mask: np.ndarray | None) -> dict[str, Any]:
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
    video: Mapping[str, Any], faces: pa.Table, status: str, reason: str, num_frames: int, num_faces: int
) -> dict[str, Any]:
    return {
        "video_id": video["video_id"],
        "status": status,
        "reason": " ".join(reason.split()),
        "num_frames": num_frames,
        "num_faces": num_faces,
        "content": content_digest(faces),
        "seconds": 0.0,
        "source": video.get("source"),  # not part of VIDEOS; `extract` adds it
    }


def content_digest(rows: pa.Table) -> str:
    """Return the SHA-256 of the values in all columns of FACES rows, whatever file or chunks they came from."""
    digest = hashlib.sha256()
    for name in tables.FACES.names:
        digest.update(f"\n{name}\n".encode())
        for value in rows[name].to_pylist():
            text = value if isinstance(value, bytes) else json.dumps(value).encode()
            digest.update(len(text).to_bytes(8, "big"))
            digest.update(text)
    return digest.hexdigest()
