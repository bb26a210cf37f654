"""The data of a launch: which videos its experiments need, and where their faces are or will be."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import datasets
from pipelines.common import tables
from pipelines.common.text import first
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.faces.files import locate
from pipelines.faces.plan import Extraction, faces_folder
from pipelines.faces.recipe import Recipe
from pipelines.launch.request import Request

FEW = 4  # videos of each part and kind that the preset tiny takes of the user's datasets


@dataclass(frozen=True, kw_only=True)
class Data:
    """The datasets of a sweep, and an extraction for each dataset and each way of cutting its faces."""

    roots: Mapping[str, str]  # by dataset
    videos: Mapping[str, pa.Table]  # VIDEOS by dataset
    extractions: tuple[Extraction, ...]

    @property
    def extracted(self) -> bool:
        """Whether the faces of all needed videos are there."""
        return not any(extraction.num_missing for extraction in self.extractions)

    def faces(self, recipe: Recipe) -> dict[str, Path]:
        """Return the FACES folder of each dataset."""
        return {extraction.dataset: extraction.folder for extraction in self.extractions if extraction.recipe == recipe}

    def name(self, extraction: Extraction) -> str:
        """Return the dataset's name, with the crop where the sweep's methods cut faces in several ways."""
        recipe = extraction.recipe
        several = any(other.recipe != recipe for other in self.extractions)
        return extraction.dataset + (f", {recipe.margin:g} boxes at {recipe.size_px} px" if several else "")


def load(request: Request, roots: Mapping[str, str]) -> Data:
    """Return the data that the experiments need, after reading the lists of their datasets.

    Raises DatasetError, naming each dataset that cannot be read, or list whose files are not there, and ProtocolError
    for what a protocol refuses.
    """
    problems, videos = [], {}
    for name in request.datasets:
        try:
            videos[name] = datasets.load(name, roots)
        except datasets.DatasetError as error:
            problems.append(str(error))
    if problems:
        raise datasets.DatasetError("\n\n".join(problems))

    distinct = {  # many experiments see the same videos
        (e.recipe(), e.protocol, e.train_on, e.test_on, e.codec, e.manipulations, *e.own_codecs().values()): e
        for e in request.experiments.values()
    }
    if request.takes_few:  # of these, protocols are then built again
        of_all = [part for experiment in distinct.values() for part in _parts(experiment, videos)]
        videos = {
            name: _only(table, {video_id for part in of_all if part.dataset == name for video_id in few(part)})
            for name, table in videos.items()
        }
    needed: dict[tuple[str, Recipe], set[str]] = {}  # video ids
    for experiment in distinct.values():
        for part in _parts(experiment, videos):
            needed.setdefault((part.dataset, experiment.recipe()), set()).update(part.video_ids)
    extractions = tuple(
        Extraction(
            dataset=name,
            recipe=recipe,
            folder=faces_folder(request.storage, name, recipe, roots[name] if request.is_sample else None),
            videos=_only(videos[name], video_ids),
            roots=roots,
        )
        for (name, recipe), video_ids in needed.items()
    )
    if missing := dict.fromkeys(filter(None, map(_missing, extractions))):
        raise datasets.DatasetError("\n\n".join(missing))
    return Data(roots=roots, videos=videos, extractions=extractions)


def _missing(extraction: Extraction) -> str:
    """Return what is wrong where a list of the user's own names no file that is there, or none of a class of a part."""
    name, videos = extraction.dataset, extraction.videos
    gone = extraction.gone
    if not gone or extraction.standing.absent < videos.num_rows:  # what was read is kept, whatever became of the files
        return ""
    looked = f"looked for {first((locate(extraction.roots, name, uri) for uri in gone), 3)}"
    todo = f"{looked}; a path is relative to the folder of the list, or begins with /"
    if len(gone) == videos.num_rows:
        return f"none of the {len(gone)} files of {name} that are needed is there: {todo}"
    lost = videos.append_column("gone", pc.is_in(videos["uri"], pa.array(gone, pa.string())))
    for kind in lost.group_by(["split", "label"]).aggregate([("gone", "all"), ("gone", "count")]).to_pylist():
        if kind["gone_all"]:
            label = "fake" if kind["label"] == tables.FAKE else "real"
            return f"none of the {kind['gone_count']} {label} {kind['split']} videos of {name} is there: {todo}"
    return ""


def _parts(experiment: Experiment, videos: Mapping[str, pa.Table]) -> Iterator[protocol.Part]:
    built = protocol.build(experiment, videos)
    yield from (built.train, built.select, *built.test)
    for pair in built.own.values():
        yield from pair


def few(part: protocol.Part) -> set[str]:
    """Return the ids of `FEW` videos of each manipulation, and of the real ones that these show, or others up to `FEW`.

    The first ones in alphabetical order: the same each time.
    """
    rows = sorted(part.rows, key=lambda row: str(row["video_id"]))
    by_method: dict[str, list[protocol.Row]] = {}
    for row in rows:
        if row["label"] == tables.FAKE:
            by_method.setdefault(str(row["method"]), []).append(row)
    fakes = [row for of_method in by_method.values() for row in of_method[:FEW]]
    targets = {str(row["source_ids"][0]) for row in fakes}
    real = [row for row in rows if row["label"] == tables.REAL]
    shown = [row for row in real if str(row["source_ids"][0]) in targets]
    others = [row for row in real if str(row["source_ids"][0]) not in targets]
    return {str(row["video_id"]) for row in (*fakes, *shown, *others[: max(0, FEW - len(shown))])}


def _only(videos: pa.Table, video_ids: Collection[str]) -> pa.Table:
    return videos.filter(pc.is_in(videos["video_id"], pa.array(sorted(video_ids), pa.string())))
