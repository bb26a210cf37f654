"""The data of a launch: which videos its experiments need, and where their faces are or will be."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines import datasets
from pipelines.experiments import protocol
from pipelines.faces.plan import Extraction, faces_folder
from pipelines.faces.recipe import Recipe
from pipelines.launch.request import Request


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

    Raises DatasetError, naming each dataset that cannot be read, and ProtocolError for what a protocol refuses.
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
    needed: dict[tuple[str, Recipe], set[str]] = {}  # video ids
    for experiment in distinct.values():
        built = protocol.build(experiment, videos)
        of_stages = (part for pair in built.own.values() for part in pair)
        for part in (built.train, built.select, *built.test, *of_stages):
            needed.setdefault((part.dataset, experiment.recipe()), set()).update(part.video_ids)
    extractions = tuple(
        Extraction(
            dataset=name,
            recipe=recipe,
            folder=faces_folder(request.storage, name, recipe, roots[name] if request.is_sample else None),
            videos=videos[name].filter(pc.is_in(videos[name]["video_id"], pa.array(sorted(video_ids)))),
            roots=roots,
        )
        for (name, recipe), video_ids in needed.items()
    )
    return Data(roots=roots, videos=videos, extractions=extractions)
