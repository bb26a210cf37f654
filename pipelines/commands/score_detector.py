"""Score a detector of the user's own over our faces: extract, score, publish."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

from rich.console import Console

from pipelines.common import cluster, progress, provenance
from pipelines.faces.plan import Extraction, extract_missing, faces_folder
from pipelines.faces.recipe import Recipe, changed
from pipelines.faces.store import ledger
from pipelines.launch import foreign
from pipelines.launch.foreign import Scope
from pipelines.scoring import detector as detectors
from pipelines.scoring.detector import Detector
from pipelines.trials.foreign import ForeignTrial, usable
from pipelines.trials.trial import UsablePart


def recipe_of(detector: Detector, ours: Recipe, settings: Sequence[str]) -> Recipe:
    """Return how its faces are cut: as ours, at its margin and size, with settings such as "num_frames=64" applied.

    Raises ValueError for an unknown setting, or a value that does not fit.
    """
    return changed(replace(ours, margin=detector.config.margin, size_px=detector.config.size_px), settings)


def plan(scope: Scope, recipe: Recipe) -> list[Extraction]:
    """Return an extraction for each tested dataset."""
    extractions = []
    for name, videos in scope.videos.items():
        wanted = {video_id for part in scope.parts if part.dataset == name for video_id in part.video_ids}
        folder = faces_folder(scope.storage, name, recipe, scope.roots[name] if scope.is_sample else None)
        kept = videos.filter([video_id in wanted for video_id in videos["video_id"].to_pylist()])
        extractions.append(Extraction(dataset=name, recipe=recipe, folder=folder, videos=kept, roots=scope.roots))
    return extractions


def execute(arguments: argparse.Namespace, console: Console) -> int:
    """Extract, score, write and print; return the exit code. Raises ValueError, OSError or ExtractionError."""
    file_name = arguments.detector.rpartition(":")[0]
    asked = foreign.asked(arguments, arguments.name or file_name.rpartition("/")[2].removesuffix(".py"))
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    scope = Scope.of(asked, console)
    if scope is None:
        say("The sample corpus would be made first; run without --dry-run, or name --datasets")
        return 0
    detector = detectors.load(arguments.detector, scope.storage)
    recipe = recipe_of(detector, scope.recipe, arguments.set)
    extractions = plan(scope, recipe)
    missing = sum(extraction.num_missing for extraction in extractions)
    scope.print_plan(console)
    say(f"{arguments.detector}: {asdict(detector.config)}")
    faces = f"{recipe.num_frames} frames of a video, crops of {recipe.margin:g} boxes at {recipe.size_px} px"
    say(f"Faces: {faces}; {f'{missing} videos are to be extracted' if missing else 'all are extracted'}")
    if not detector.knows_weights:
        unknown = "The network is no torch.nn.Module, or one that holds no tensors, so that its weights are not known"
        say(f"{unknown}: all videos are scored again, each time", style="yellow")
    if asked.dry_run:
        return 0
    if missing or arguments.actors:
        with cluster.connect(arguments.address) as there:
            extract_missing(extractions, scope.roots, console)
            trial = score(scope, detector, extractions, arguments.actors, float(bool(there.gpus)), console)
    else:
        trial = score(scope, detector, extractions, 0, 0, console)
    note = f"{detector.file.name}, over our faces ({faces}), digest {detector.planned.digest}"
    return foreign.publish(scope, trial, note, console)


def score(
    scope: Scope,
    detector: Detector,
    extractions: Sequence[Extraction],
    num_actors: int,
    gpus_per_actor: float,
    console: Console,
) -> ForeignTrial:
    """Score what is not scored yet; return the trial. The faces must be extracted. Raises ValueError if all fail."""
    folders = {extraction.dataset: extraction.folder for extraction in extractions}
    ledgers = {name: ledger(folder) for name, folder in folders.items()}
    parts, tables, made_with = [], {}, []
    with progress.view(console, f"Scoring: {scope.asked.name}") as view:
        for part in scope.parts:
            faces = UsablePart.of(part, ledgers[part.dataset])
            if not faces.videos:
                example = next(iter(faces.failed.items()), ("", "no videos"))
                raise ValueError(f"{part.name}: none of its videos has a usable face, e.g. {': '.join(example)}")

            def on_video(done: int, total: int, name: str = part.name) -> None:
                view.update(name, f"{done} of {total} videos", done, total)

            scored = detectors.score_part(
                detector,
                faces.digest,
                faces.videos,
                {part.dataset: folders[part.dataset]},
                num_actors=num_actors,
                gpus_per_actor=gpus_per_actor,
                on_video=on_video,
            )
            parts.append(usable(part, scored.predictions, {**faces.failed, **scored.failed}))
            tables[part.name] = scored.predictions
            made_with.append(scored.made_with)
    return ForeignTrial(
        name=scope.asked.name,
        source={
            "kind": "detector",
            "file": detector.file.name,
            "factory": detector.factory,
            "sha256": detector.planned.spec["file"],
            "weights": detector.planned.spec["weights"],
            "input": asdict(detector.config),
            "made_with": provenance.joined(made_with),
        },
        train_on=scope.train_on,
        failed_rule=scope.failed_rule,
        pooling=detector.config.pooling,
        levels=("frame", "video"),
        is_sample=scope.is_sample,
        parts=tuple(parts),
        predictions=tables,
        storage=scope.storage,
    )
