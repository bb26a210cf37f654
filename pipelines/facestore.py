"""What an extraction left on disk, read without Ray."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipelines import schemas


def ledger(folder: Path) -> dict[str, dict[str, Any]]:
    """video_id -> LEDGER row of a finished extraction; empty where there is none."""
    if not (folder / "_done.json").exists():
        return {}
    return {row["video_id"]: row for row in pq.read_table(folder / "ledger.parquet", schema=schemas.LEDGER).to_pylist()}
