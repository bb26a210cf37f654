"""Score a method by a file of its scores: read, join with the videos, publish."""

import argparse
from functools import partial

from rich.console import Console

from pipelines.common.text import first
from pipelines.launch import foreign
from pipelines.launch.foreign import Scope
from pipelines.scoring import from_file
from pipelines.scoring.from_file import Joined, Meaning, ScoreFile
from pipelines.trials.foreign import ForeignTrial, of_file, usable

ABSENT = "not in the file"  # why a video has no score


def scored(arguments: argparse.Namespace, console: Console) -> tuple[Scope, ForeignTrial, str] | None:
    """Return what is asked, the scores as a trial, and where they come from; None in a dry run, after the checks.

    Nothing is written. Raises ValueError or OSError for wrong input.
    """
    asked = foreign.asked(arguments, arguments.name)
    meaning = Meaning(score_is=arguments.score_is, higher_is=arguments.higher_is)
    file = from_file.read(arguments.scores, arguments.score_column, meaning)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    unit = "frames" if file.by_frame else "videos"
    say(f"{file.path.name}: {len(file.lines)} scores of {unit}, named by {file.named_by}; {meaning}")
    if hint := file.hint(meaning):
        say(hint, style="yellow")
    scope = Scope.of(asked, console)
    if scope is None:
        say("The sample corpus would be made first; run without --dry-run, or name --datasets")
        return None
    wanted = {video_id for part in scope.parts for video_id in part.video_ids}
    idle = {video_id for part in scope.parts for video_id in part.excluded} - wanted
    joined = from_file.join(file, scope.rows(), wanted, idle=idle, others=arguments.ignore_others)
    scope.print_plan(console)
    say(f"{len(joined.scores)} videos have scores; {joined.num_left_out} lines are left out")
    if joined.absent:
        say(f"{len(joined.absent)} videos are {ABSENT}, e.g. {first(joined.absent, 3)}", style="yellow")
    trial = trial_of(scope, file, joined, meaning)
    note = f"{file.path.name}, {unit} ({meaning}), sha256 {file.sha256[:12]}"
    return None if asked.dry_run else (scope, trial, note)


def trial_of(scope: Scope, file: ScoreFile, joined: Joined, meaning: Meaning) -> ForeignTrial:
    """Return the scores as a trial. Raises ValueError for a part of which the file has no video."""
    tables = {part.name: of_file(part, joined.scores, meaning) for part in scope.parts}
    if empty := [name for name, table in tables.items() if not table.num_rows]:
        raise ValueError(f"{file.path} has no video of {', '.join(empty)}; leave the part out, or add its scores")
    return ForeignTrial(
        name=scope.asked.name,
        source={
            "kind": "file",
            "file": file.path.name,
            "sha256": file.sha256,
            "score_is": meaning.score_is,
            "higher_is": meaning.higher_is,
            "scores_of": "frames" if file.by_frame else "videos",
        },
        train_on=scope.train_on,
        failed_rule=scope.failed_rule,
        levels=("frame", "video") if file.by_frame else ("video",),
        is_sample=scope.is_sample,
        parts=tuple(usable(part, tables[part.name], {}, ABSENT) for part in scope.parts),
        predictions=tables,
        storage=scope.storage,
    )


def execute(arguments: argparse.Namespace, console: Console) -> int:
    """Read, check, write, print; return the exit code. Raises ValueError or OSError for wrong input."""
    made = scored(arguments, console)
    return foreign.publish(*made, console) if made else 0
