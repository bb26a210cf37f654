"""PREDICTIONS of a stage: where they lie, what is there while they come, how they are read though masks are large.

    <stage>/predictions/<part digest>-v<version>.parquet  one row per face; every face exactly once
    <stage>/predictions/<part digest>-v<version>-<perturbation>-v<version>.parquet  the same faces, perturbed
    <stage>/predictions/<name of one of these>.slices/*.parquet  some of its videos each, until all are scored

A file that is there is not made again. Until it is, what comes is written in slices, so that an interruption costs the
newest only, and no process holds the pictures of all masks.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.common import provenance, storage
from pipelines.common.provenance import MadeWith
from pipelines.common.storage import write_parquet, writing
from pipelines.common.tables import PREDICTIONS, UNPERTURBED
from pipelines.faces import perturb
from pipelines.training.stages import PlannedStage

VERSION = 2  # raise it when scores would come out otherwise, or with other columns: faces are then scored anew
MASKED_ROWS = 1024  # whose masks are read at once, and what is missing of the last of their videos
MADE_WITH = b"made_with"  # in the metadata of PREDICTIONS: JSON, see `device.made_with`
KEY = ("video_id", "face_index", "frame_index")  # of PREDICTIONS of one stage and perturbation, and their order


def predictions_path(planned: PlannedStage, part_digest: str, perturbation: str = UNPERTURBED) -> Path:
    """Return the file that holds a stage's PREDICTIONS of a part, whether or not it is there."""
    suffix = f"-{perturbation}-v{perturb.VERSION}" if perturbation else ""
    return planned.folder / "predictions" / f"{part_digest}-v{VERSION}{suffix}.parquet"


def read_predictions(
    planned: PlannedStage, part_digest: str, perturbation: str = UNPERTURBED, *, masks: bool = True
) -> pa.Table:
    """Return a stage's PREDICTIONS of a part that it has scored.

    masks: False, since their pictures may be larger than memory: empty bytes where there is one; see `with_masks`.
    """
    path = predictions_path(planned, part_digest, perturbation)
    if masks:
        return pq.read_table(path)
    with pq.ParquetFile(path, pre_buffer=False) as file:  # else it is read ahead, whole
        schema = file.schema_arrow
        place = schema.get_field_index("mask_png")
        few = []
        for batch in file.iter_batches(batch_size=MASKED_ROWS):
            there = pc.if_else(batch.column(place).is_valid(), pa.scalar(b""), pa.scalar(None, pa.binary()))
            few.append(batch.set_column(place, schema.field(place), there))
    return pa.Table.from_batches(few, schema)


def with_masks(table: pa.Table, path: Path) -> Iterator[pa.Table]:
    """Yield the rows of a table that `read_predictions` read without masks, some at a time, with the masks of a file.

    Both must have the same faces, and the rows of a video must follow each other.
    """
    order = [(name, "ascending") for name in KEY]
    place = table.schema.get_field_index("mask_png")
    of_video = table["video_id"].to_numpy()
    with pq.ParquetFile(path, pre_buffer=False) as file:  # else it is read ahead, whole
        column = file.schema_arrow.get_field_index("video_id")
        spans = [file.metadata.row_group(g).column(column).statistics for g in range(file.num_row_groups)]
        held, whole = [-1], table.slice(0, 0)  # row groups that are read already, and their rows
        first = 0
        while first < len(of_video):
            last = min(first + MASKED_ROWS, len(of_video))
            while last < len(of_video) and of_video[last] == of_video[last - 1]:
                last += 1
            few = table.slice(first, last - first)
            low, high = min(of_video[first:last]), max(of_video[first:last])
            groups = [g for g, span in enumerate(spans) if low <= span.max and span.min <= high]
            if groups != held:
                held, whole = groups, file.read_row_groups(groups, columns=[*KEY, "mask_png"])
            masks = whole.filter(pc.is_in(whole["video_id"], few["video_id"].unique())).sort_by(order)
            assert masks.num_rows == few.num_rows, f"{path} holds other faces than were read from it"
            ranks = np.argsort(pc.sort_indices(few, order).to_numpy())  # where the rows of `few` are in that order
            yield few.set_column(place, few.schema.field(place), masks["mask_png"].take(pa.array(ranks)))
            first = last


def scored_with(planned: PlannedStage, part_digest: str, perturbation: str = UNPERTURBED) -> MadeWith:
    """Return on what a part was scored that a stage has scored: versions, device, precision."""
    read: MadeWith = json.loads(
        pq.read_schema(predictions_path(planned, part_digest, perturbation)).metadata[MADE_WITH]
    )
    return read


# ------------------------------------------------------------------------------------------ while they come
def as_predictions(scored: Sequence[pa.Table]) -> pa.Table:
    """Return tables of PREDICTIONS as one, which says on what all of them were made."""
    schema = _schema([table.schema for table in scored])
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in scored)])


def _schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return the schema of PREDICTIONS that were made on what any of these were."""
    made_with = provenance.joined([json.loads(schema.metadata[MADE_WITH]) for schema in schemas])
    return PREDICTIONS.with_metadata({**PREDICTIONS.metadata, MADE_WITH: json.dumps(made_with)})


def _slices(path: Path) -> Path:
    """Return the folder in which the slices of a file of PREDICTIONS lie until it is made."""
    return path.with_suffix(".slices")


def write_slice(path: Path, rows: pa.Table) -> None:
    """Write a slice of a file of PREDICTIONS: all rows of some of its videos. Without rows it does nothing."""
    if rows.num_rows:
        name = storage.digest(rows["video_id"].unique().to_pylist())
        write_parquet(_slices(path) / f"{name}.parquet", rows)


def in_slices(path: Path) -> dict[str, Path]:
    """Return which videos of a file of PREDICTIONS are in a slice of it, and in which."""
    there: dict[str, Path] = {}
    for each in sorted(_slices(path).glob("*.parquet")):
        with suppress(FileNotFoundError):  # another trial has gathered it
            for video_id in pq.read_table(each, columns=["video_id"])["video_id"].unique().to_pylist():
                there.setdefault(video_id, each)
    return there


def gather(path: Path, video_ids: Sequence[str], rest: pa.Table) -> None:
    """Write a file of PREDICTIONS from its slices and the rows that are in none, sorted; then delete the slices.

    Every video must be there. Another trial may be at the same file: the first to finish wins, with the same rows.
    """
    there = in_slices(path)
    missing = set(video_ids) - there.keys() - set(rest["video_id"].unique().to_pylist())
    if not path.exists():
        assert not missing, f"{len(missing)} videos were given but not scored, e.g. {min(missing)}"
        sources = [(file, list(some)) for file, some in groupby(sorted(video_ids), key=there.get)]
        try:
            schema = _schema([pq.read_schema(file) if file else rest.schema for file, _ in sources])
            with writing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for file, some in sources:
                    table = pq.read_table(file) if file else rest
                    table = table.filter(pc.is_in(table["video_id"], pa.array(some, pa.string())))
                    writer.write_table(table.cast(schema))
        except FileNotFoundError:
            if not path.exists():  # else the other trial has gathered these slices
                raise
    storage.remove_folder(_slices(path))
