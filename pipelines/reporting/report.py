"""A sweep's report: its table, what a reader must know beside it, and all files that show them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.common.storage import write_text
from pipelines.reporting import page, plot, robustness
from pipelines.reporting.saved import Material, Run, Saved
from pipelines.reporting.table import Cell, cells, markdown, notes, to_csv, to_latex


@dataclass(frozen=True, kw_only=True)
class Report:
    """A sweep's table, with what it was made of and what a reader must know beside it."""

    saved: Saved
    materials: Sequence[Material]
    cells: Sequence[Cell]
    lines: Sequence[str]

    @classmethod
    def of(cls, saved: Saved, materials: Sequence[Material]) -> "Report":
        """Work out the table; materials: of the trials that are done."""
        table = cells(saved, materials)
        lines = [*notes(table, saved.facts, saved.rows), *(f"LEAK {leak}" for leak in saved.leaks)]
        return cls(saved=saved, materials=materials, cells=table, lines=lines)

    def write(self, folder: Path, *, html: bool = True) -> list[Path]:
        """Write all files but those of the coverage, which the HTML page shows if they are there.

        Return the paths, Markdown first. Files that are there are replaced.
        """
        saved = self.saved
        paths = [folder / f"{saved.name}.{ending}" for ending in ("md", "csv", "tex", "png")]
        write_text(paths[0], markdown(saved.title, saved.row_name, self.cells, self.lines))
        write_text(paths[1], to_csv(saved.row_name, self.cells))
        write_text(paths[2], to_latex(saved.title, saved.row_name, self.cells, self.lines))
        plot.plot(paths[3], saved.title, saved.row_name, self.cells, saved.warning)
        paths += robustness.write(folder / f"{saved.name}-robustness.png", saved, self.materials, saved.warning)
        if html:
            paths.append(folder / f"{saved.name}.html")
            write_text(paths[-1], page.render(folder, saved, self.materials, self.cells, self.lines))
        return [*paths, saved.write(folder)]


def gather(saved: Saved, storage: Path, *, again: bool) -> list[Material]:
    """Read the runs of all trials that have numbers. again: these are made anew from PREDICTIONS.

    Raises ValueError where a run is missing, not done, or of another version.
    """
    return [
        Material.of(trial, Run.read(storage / "runs" / trial.run), saved.columns, again=again)
        for trial in saved.trials
        if not trial.failure
    ]
