"""Launch a sweep, or search the best setting and launch what was found."""

from rich.console import Console

from pipelines.experiments.sweep import Sweep
from pipelines.launch.launch import launch
from pipelines.launch.options import Options
from pipelines.launch.search import find_best


def run(sweep: Sweep, asked: Options, console: Console) -> int:
    """Do what is asked and return the exit code, as `launch`. Raises what `find_best` and `launch` raise."""
    wanted = find_best(sweep, asked, console) if asked.search else sweep
    return launch(wanted, asked, console) if wanted else 0
