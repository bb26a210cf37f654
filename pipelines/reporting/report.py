"""A sweep's report: the table, what a reader must know beside it, and all files that show them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.common.storage import write_bytes
from pipelines.reporting import page, plot, robustness
from pipelines.reporting.saved import Material, Run, Saved
from pipelines.reporting.table import Cell, cells, markdown, notes, to_csv


# ------------------------------------------------------------------------------------------ files
@dataclass(frozen=True, kw_only=True)
class Report:
    """A table with what a reader must know beside it."""

    saved: Saved
    materials: Sequence[Material]
    cells: Sequence[Cell]
    lines: Sequence[str]

    @classmethod
    def of(cls, saved: Saved, materials: Sequence[Material]) -> "Report":
        found = cells(saved, materials)
        lines = [*notes(found, saved.facts), *(f"LEAK {leak}" for leak in saved.leaks)]
        return cls(saved=saved, materials=materials, cells=found, lines=lines)

    def write(self, folder: Path, *, html: bool = True) -> list[Path]:
        """All but the coverage, Markdown first. Files that are there are replaced."""
        s = self.saved
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{s.name}.{ending}" for ending in ("md", "csv", "png")]
        write_bytes(paths[0], markdown(s.title, s.row_name, self.cells, self.lines).encode())
        write_bytes(paths[1], to_csv(s.row_name, self.cells).encode())
        kinds = {f"{column.level} {column.metric.upper()}" for column in s.columns}
        metric = kinds.pop() if len(kinds) == 1 else "value"
        footer = s.facts["data"] if s.is_sample else ""
        plot.plot(paths[2], s.title, s.row_name, metric, self.cells, footer)
        paths += robustness.write(folder / f"{s.name}-robustness.png", s, self.materials, footer)
        if html:
            paths.append(folder / f"{s.name}.html")
            write_bytes(paths[-1], page.render(folder, s, self.materials, self.cells, self.lines).encode())
        return [*paths, s.write(folder)]


def gather(saved: Saved, storage: Path, *, again: bool) -> list[Material]:
    """Of all trials that have numbers. again: these are made from PREDICTIONS. Raises ValueError; see `Run.read`."""
    return [
        Material.of(planned, Run.read(storage / "runs" / planned.run), saved.columns, again=again)
        for planned in saved.trials
        if not planned.failure
    ]
