"""Samples -> batches, in the order of their steps: made in this process, or by loaders of Ray Data."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np

from models import BadSample
from pipelines.common import cluster
from pipelines.training.samples import Arrays, Samples
from pipelines.training.views import MOST_TRIES, Pick, View

log = logging.getLogger(__name__)

PICKS = "picks"  # column of Ray Data, of Python objects, in which a loader says what it has used
MOST_BLOCKS = 5000  # of a training's steps, for Ray Data; each loader holds one in the object store


def stack(samples: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
    """Return samples as one batch: each array with a new first axis."""
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yield the items, none of which is None; a thread makes the next one while the caller is busy with the last."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of `size` items; the last one may be shorter."""
    while chunk := list(islice(items, size)):
        yield chunk


def _load(samples: Samples, view: View, picks: Sequence[Pick]) -> tuple[list[Pick], Arrays]:
    """Return the picks as a batch; one that the stage cannot use is replaced, and named in the log.

    Raises BadSample after `MOST_TRIES` replacements of one pick.
    """
    used, arrays = [], []
    for pick in picks:
        for tries in range(MOST_TRIES + 1):
            instead = view.instead(pick, tries) if tries else pick
            try:
                arrays.append(samples.training_sample(instead))
            except BadSample as error:
                log.info("%s is not used in this step: %s", instead.video.video_id, error)
                if tries == MOST_TRIES:
                    raise BadSample(
                        f"no usable face after {tries} others for one of {pick.video.video_id}; the last: {error}"
                    ) from error
            else:
                used.append(instead)
                break
    return used, stack(arrays)


def local_batches(
    samples: Samples, view: View, steps: range, rank: int, world_size: int
) -> Iterator[tuple[list[Pick], Arrays]]:
    """Yield one worker's batches of `steps`; a thread of this process makes them two ahead."""

    def load(step: int) -> tuple[list[Pick], Arrays]:
        return _load(samples, view, view.share(step, rank, world_size))

    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(load, step) for step in steps[:2]]
        for step in steps[2:]:
            yield coming.pop(0).result()
            coming.append(pool.submit(load, step))
        for future in coming:
            yield future.result()


class _LoadStep:
    """Ray Data actor: step number -> that step's batch."""

    def __init__(self, make_samples: Any, view: View, rank: int, world_size: int) -> None:
        self.samples, self.view, self.rank, self.world_size = make_samples(), view, rank, world_size

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        used, arrays = _load(self.samples, self.view, self.view.share(int(row["id"]), self.rank, self.world_size))
        return {**arrays, PICKS: used}


def ray_batches(
    make_samples: Any, view: View, steps: range, rank: int, world_size: int, num_loaders: int, *, here: bool = False
) -> Iterator[tuple[list[Pick], Arrays]]:
    """Yield the same batches in the same order, made by Ray Data on `num_loaders` CPUs while the GPUs train.

    here: on CPUs of this node, so that batches come through its shared memory; else where the role `VIDEO` is.
    """
    import ray  # here: the rest of this file must run without Ray

    if not steps:
        return
    cluster.data_in_order(cluster.this_node() if here else cluster.selector(cluster.VIDEO))
    # From memory: reading would be a task that needs a CPU beside those that workers and loaders hold.
    numbers = ray.data.from_items([{"id": step} for step in steps], override_num_blocks=min(len(steps), MOST_BLOCKS))
    loaded = numbers.map(
        _LoadStep,  # type: ignore[arg-type]  # Ray's stubs do not know classes that are called
        fn_constructor_args=(make_samples, view, rank, world_size),
        # As many as it takes, from the start. From 1 up, Ray Data added the second after 20 s in which the training
        # waited, and then all up to the most, 15 where 2 would have done.
        compute=ray.data.ActorPoolStrategy(size=num_loaders),
    )
    for _, row in zip(steps, loaded.iter_rows(), strict=True):
        yield row.pop(PICKS), row
