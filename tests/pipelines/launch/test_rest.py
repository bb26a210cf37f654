"""What a launch still does where all trials have their numbers."""

from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pipelines.launch import launch
from pipelines.launch.options import Options


@pytest.mark.parametrize("shown", [True, False])
def test_trials_without_pictures_get_them(shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch that was stopped after its last trial's numbers lacks pictures: the same command makes them."""
    trials = {}
    for number in range(2):
        trials["row", number] = SimpleNamespace(done=True, complete=shown or not number)
    request = SimpleNamespace(roots=lambda console: {})
    worked: list[Any] = []
    monkeypatch.setattr(launch.Request, "of", lambda sweep, options: request)
    monkeypatch.setattr(launch, "load", lambda request, roots: SimpleNamespace(extracted=True))
    monkeypatch.setattr(launch.plan, "trials", lambda request, data: trials)
    monkeypatch.setattr(launch.plan, "print_plan", lambda request, data, console: None)
    monkeypatch.setattr(launch, "_work", lambda request, data, console: worked.append(request) or trials)
    monkeypatch.setattr(launch, "_outcome", lambda request, data, trials: trials)
    monkeypatch.setattr(launch, "publish", lambda outcome, console: 0)
    assert launch.launch(SimpleNamespace(), Options(), Console(quiet=True)) == 0  # type: ignore[arg-type]
    assert bool(worked) == (not shown)
