"""Make a contact sheet of an extraction: choose videos, lay out their faces."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pipelines.common import tables
from pipelines.common.pictures import decode_png
from pipelines.common.storage import check_storage, write_bytes
from pipelines.common.text import first, printable
from pipelines.faces import store
from pipelines.media.sampling import even_indices
from pipelines.reporting.contact_sheet import Strip, Tile, face, to_html, to_png

SUFFIXES = (".png", ".html")
_KEY = ("frame_index", "face_index")


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Which videos are wanted; the empty value of a field asks for nothing."""

    patterns: tuple[str, ...] = ()
    failed: bool = False
    split: str = ""
    method: str = ""

    def __call__(self, video: Mapping[str, Any]) -> bool:
        name = video["video_id"]
        matches = not self.patterns or any(name == pattern or fnmatchcase(name, pattern) for pattern in self.patterns)
        return matches and self.but_patterns(video)

    def but_patterns(self, video: Mapping[str, Any]) -> bool:
        """Return whether a video passes all but the patterns."""
        return (
            (not self.failed or video["status"] != "ok")
            and self.split in ("", video["split"])
            and self.method in ("", video["method"])
        )


def choose(known: Sequence[Mapping[str, Any]], wanted: Filter, most: int) -> tuple[list[str], int]:
    """Return at most `most` ids of matching videos, evenly spread over all of them in order, and how many match.

    Raises ValueError, naming some ids there are, when none does.
    """
    matching = sorted(video["video_id"] for video in known if wanted(video))
    if matching:
        return [matching[place] for place in even_indices(len(matching), most)], len(matching)
    rest = sorted(video["video_id"] for video in known if wanted.but_patterns(video))
    if not rest:
        named = {"--split": wanted.split, "--method": wanted.method}
        switches = ["--failed"] * wanted.failed + [f"{switch} {value}" for switch, value in named.items() if value]
        methods = sorted({video["method"] for video in known})
        splits = [split for split in tables.SPLITS if any(video["split"] == split for video in known)]
        raise ValueError(
            f"none of {len(known)} videos passes {' '.join(switches) or 'no filter'}; "
            f"splits: {', '.join(splits) or 'none'}; methods: {first(methods, 20) or 'none'}"
        )
    near = [name for pattern in wanted.patterns for name in get_close_matches(pattern, rest, n=2)]
    raise ValueError(
        f"no video matches {first(wanted.patterns)}; of {len(rest)} there are, e.g., "
        f"{first(dict.fromkeys([*near, *rest]))}"
    )


def strip(faces: store.Faces, entry: Mapping[str, Any], num_faces: int, size_px: int) -> Strip:
    """Return a video's row of the sheet, with at most `num_faces` faces, evenly spread over its frames."""
    kind = "fake" if entry["label"] == tables.FAKE else "real"
    state = entry["status"] + (f": {entry['reason']}" if entry["reason"] else "")
    parts = [kind, *([entry["method"]] if kind == "fake" else []), entry["split"], entry["codec"]]
    some = f", {num_faces} shown" if num_faces < entry["num_faces"] else ""
    counts = f"{entry['num_faces']} faces in {entry['num_frames']} frames{some}, {entry['seconds']:.1f} s"
    lines = [state, f"{', '.join(parts)}; {counts}"]
    tiles: list[Tile] = []
    if entry["num_faces"]:
        rows = faces.video(entry["video_id"]).to_pylist()
        rows.sort(key=lambda row: tuple(row[name] for name in _KEY))
        lines.append(_sizes(rows, kind))
        tiles = [_tile(rows[place], size_px) for place in even_indices(len(rows), num_faces)]
    return Strip(
        title=entry["video_id"], kind=kind, lines=tuple(lines), failed=entry["status"] != "ok", tiles=tuple(tiles)
    )


def _sizes(rows: Sequence[Mapping[str, Any]], kind: str) -> str:
    """Return how large a video's faces and crops are, and, of a fake, how many masks are known."""
    widths = [_range([row[name]["x1"] - row[name]["x0"] for row in rows]) for name in ("box_px", "crop_px")]
    masks = [decode_png(row["mask_png"]) for row in rows if row["mask_png"] is not None]
    known = f"; masks known of {len(masks)} of {len(rows)} faces" if kind == "fake" else ""
    if empty := sum(not mask.any() for mask in masks):
        known += f", {empty} of them empty"
    stored = decode_png(rows[0]["image_png"]).shape[1]
    return f"faces {widths[0]} px wide, crops {widths[1]} px, stored at {stored} px{known}"


def _range(values: Sequence[float]) -> str:
    low, high = round(min(values)), round(max(values))
    return str(low) if low == high else f"{low} to {high}"


def _tile(row: Mapping[str, Any], size_px: int) -> Tile:
    mask = None if row["mask_png"] is None else decode_png(row["mask_png"])
    landmarks = np.asarray(row["landmarks_px"], np.float32).reshape(-1, 2)
    score = f"score {row['face_score']:.2f}" if row["face_score"] else "box held"
    caption = (f"frame {row['frame_index']}, {row['time_s']:.2f} s", f"face {row['face_index']}, {score}")
    return Tile(face(decode_png(row["image_png"]), landmarks, mask, size_px), caption)


def rest(shown: Sequence[Mapping[str, Any]], num_matching: int, num_faces: int) -> str:
    """Return what to type for what the sheet leaves out; empty where it has all.

    shown: entries of the videos that are shown, of `num_matching`. num_faces: that are shown of each, at most.
    """
    most = max((entry["num_faces"] for entry in shown), default=0)
    more = [f"all {num_matching} videos: --videos {num_matching}"] if len(shown) < num_matching else []
    more += [f"all faces of each: --frames {most}"] if num_faces < most else []
    return "; ".join([*more, "certain videos: their ids or a pattern, or --failed, --split, --method"]) if more else ""


def show(arguments: argparse.Namespace, console: Console) -> int:
    """Write the sheet and return the exit code. Raises ValueError or OSError for wrong input."""
    out: Path = arguments.out
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out must end in {' or '.join(SUFFIXES)}, got {out}")
    folder, *others = store.finished(arguments.extraction, check_storage(arguments.storage, write=False))
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    if others:
        say(f"The newest of {1 + len(others)} extractions of {arguments.extraction}: {folder}")
    faces = store.Faces(folder)
    known = store.compacted(faces.folder).drop_columns("source").to_pylist()
    wanted = Filter(
        patterns=tuple(arguments.patterns),
        failed=arguments.failed,
        split=arguments.split,
        method=arguments.method,
    )
    names, num_matching = choose(known, wanted, arguments.videos)
    chosen = {video["video_id"]: video for video in known if video["video_id"] in names}
    strips = [strip(faces, chosen[name], arguments.frames, arguments.size) for name in names]
    some = f"{len(names)} of {num_matching} matching videos" if len(names) < num_matching else f"{num_matching} videos"
    title = f"{'/'.join(faces.folder.parts[-2:])}: {some}"
    data = to_png(title, strips) if out.suffix.lower() == ".png" else to_html(title, strips).encode()
    write_bytes(out, data)
    say(f"{some}: {printable(str(out))}")
    if more := rest(list(chosen.values()), num_matching, arguments.frames):
        say(f"For {more}")
    return 0
