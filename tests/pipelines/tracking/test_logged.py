"""When a launch that is logged needs to ask MLflow nothing."""

import sqlite3
from pathlib import Path

import pytest

from pipelines.reporting.cache import MADE
from pipelines.tracking import logged

LINES = ["MLflow: here", "Model: none"]


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a report whose launch is logged to `uri(report)`."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / MADE).write_text("{}")
    change(folder, "create table runs (id)")
    (tmp_path / "artifacts").mkdir()
    logged.write(folder, uri(folder), LINES, [tmp_path / "artifacts"])
    return folder


def uri(folder: Path) -> str:
    return f"sqlite:///{folder.parent / 'mlflow.db'}"


def change(folder: Path, statement: str) -> None:
    database = sqlite3.connect(folder.parent / "mlflow.db")
    with database:
        database.execute(statement)
    database.close()


def test_what_nobody_has_touched_is_still_logged(report: Path) -> None:
    assert logged.read(report, uri(report)) == LINES


def test_a_database_that_others_wrote_to_is_asked(report: Path) -> None:
    change(report, "insert into runs values (1)")
    assert logged.read(report, uri(report)) == []


def test_a_database_that_is_gone_is_asked(report: Path) -> None:
    (report.parent / "mlflow.db").unlink()
    assert logged.read(report, uri(report)) == []


def test_where_a_run_has_lost_its_files_mlflow_is_asked(report: Path) -> None:
    (report.parent / "artifacts").rmdir()
    assert logged.read(report, uri(report)) == []


def test_another_report_is_logged(report: Path) -> None:
    (report / MADE).write_text('{"of": "other numbers"}')
    assert logged.read(report, uri(report)) == []


def test_another_place_is_asked(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert logged.read(report, f"sqlite:///{report / 'other.db'}") == []
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "http://127.0.0.1:9")
    assert logged.read(report, uri(report)) == []


def test_a_server_is_always_asked(report: Path) -> None:
    (report / logged.LOGGED).unlink()
    logged.write(report, "http://127.0.0.1:9", LINES, [])
    assert not (report / logged.LOGGED).exists()


def test_a_spoilt_file_is_no_obstacle(report: Path) -> None:
    (report / logged.LOGGED).write_text('{"of":')
    assert logged.read(report, uri(report)) == []
