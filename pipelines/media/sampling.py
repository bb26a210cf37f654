"""Which frames of a video are taken."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

_SAME_TIME_S = 1e-6  # finer than any container's clock


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """Which frames of a video are taken: at most `num_frames` of them, or, where that is None, all that the kind gives.

        even    `num_frames` frames, evenly spaced
        stride  every `stride`-th frame
        fps     `fps` frames a second: the one shown at each tick, by timestamps, each once
        clips   num_frames / clip_frames clips of consecutive frames, evenly spaced; fewer where they would overlap

    Where stride or fps gives more than `num_frames`, an evenly spaced subset is kept. The first ones would show only
    the beginning of a long video. Raise ValueError for values that make no sense.
    """

    kind: Literal["even", "stride", "fps", "clips"] = "even"
    num_frames: int | None = 30
    stride: int = 1
    fps: float = 1.0
    clip_frames: int = 16

    def __post_init__(self) -> None:
        kinds = get_args(Sampling.__annotations__["kind"])
        if self.kind not in kinds:
            raise ValueError(f"kind of sampling must be one of {', '.join(kinds)}; got {self.kind!r}")
        if (self.num_frames is not None and self.num_frames < 1) or self.stride < 1 or self.clip_frames < 1:
            raise ValueError(
                f"num_frames, stride and clip_frames must be >= 1; got "
                f"{self.num_frames}, {self.stride}, {self.clip_frames}"
            )
        if not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be above 0 and finite, got {self.fps}")
        if self.kind == "clips" and self.num_frames is not None and self.num_frames % self.clip_frames:
            raise ValueError(
                f"with clips, num_frames must be a multiple of clip_frames; got {self.num_frames} and "
                f"{self.clip_frames}, use {max(1, self.num_frames // self.clip_frames) * self.clip_frames}"
            )


def even_indices(total: int, n: int) -> list[int]:
    """Return `n` indices spread evenly over 0 .. total - 1: the middles of n equal parts; all when total <= n.

    The middles, not the ends: the first and last frames of a film are the ones most often black. Raise ValueError for a
    negative total or n < 1.
    """
    if total < 0 or n < 1:
        raise ValueError(f"even_indices needs total >= 0 and n >= 1, got total={total}, n={n}")
    if total <= n:
        return list(range(total))
    return [(2 * part + 1) * total // (2 * n) for part in range(n)]


def indices(sampling: Sampling, times: Sequence[float]) -> list[int]:
    """Return the indices, in order, of the frames that a sampling takes; frame i is shown from second times[i] on."""
    total = len(times)
    if sampling.kind == "clips":
        return _clip_indices(total, sampling.clip_frames, sampling.num_frames)
    if sampling.kind == "stride":
        candidates = list(range(0, total, sampling.stride))
    elif sampling.kind == "fps":
        candidates = _tick_indices(times, sampling.fps)
    else:
        candidates = list(range(total))
    if sampling.num_frames is None:
        return candidates
    return [candidates[place] for place in even_indices(len(candidates), sampling.num_frames)]


def _clip_indices(total: int, clip_frames: int, num_frames: int | None) -> list[int]:
    """Return the frames of clips that lie in the middles of equal parts and share none; all of a too short video."""
    if total < clip_frames:
        return list(range(total))
    fitting = total // clip_frames
    count = fitting if num_frames is None else min(num_frames // clip_frames, fitting)
    spare = total - count * clip_frames
    starts = [clip * clip_frames + (2 * clip + 1) * spare // (2 * count) for clip in range(count)]
    return [start + i for start in starts for i in range(clip_frames)]


def _tick_indices(times: Sequence[float], fps: float) -> list[int]:
    """Return the frames that are shown at 0, 1 / fps, 2 / fps, ... seconds, each once.

    The last frame is taken to be shown for as long as the one before it.
    """
    ticked = []
    end = 2 * times[-1] - times[-2] if len(times) > 1 else 0.0
    for index, (shown, until) in enumerate(zip(times, [*times[1:], end], strict=False)):
        tick = math.ceil((shown - _SAME_TIME_S) * fps)
        if index == 0 or tick < (until - _SAME_TIME_S) * fps:
            ticked.append(index)
    return ticked
