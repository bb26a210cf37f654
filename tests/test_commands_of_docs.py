"""Every command that README.md and docs/ show is run as it stands: from a fresh checkout, on the sample corpus.

The folder /data of the examples is the sample corpus, whose folders are named like the real ones, and /data/crossforge
the storage of the first command. What takes a day on a GPU is run up to its plan (`ADDED`); what is not run at all
stands with the reason in `NOT_HERE`.
"""

import csv
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipelines import datasets
from pipelines.common import tables
from pipelines.datasets.sample import corpus

ROOT = Path(__file__).parents[1]
IN_ORDER = ("README.md", "docs/walkthrough.md", "docs/data.md", "docs/results.md")
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)
ADDED = dict.fromkeys(
    (
        "sweeps/mask_ratio.py --datasets datasets.toml --storage /data/crossforge",
        "crossforge train lre",
        "crossforge preprocess",
    ),
    "--dry-run",
)
NOT_HERE = {
    "uv run pytest": "this is a test",
    "bash .ci/run": "runs this test",
    "uvx pre-commit": "fetches hooks from repositories",
    "uv sync": "the environment is there",
    "ray get-auth-token": "writes into the home folder",
    "ray up": "needs an account with AWS",
    "ray dashboard": "needs the cluster",
    "ray job": "run by tests/pipelines/launch/test_cluster_losses.py",
    "ray down": "needs the cluster",
    "ray rsync-up": "needs the cluster",
    "ray attach": "needs the cluster",
    "export ": "a part of ray job",
    "ruff": "run by .ci/run",
}
PATIENCE_S = 1500


def commands(page: str) -> list[str]:
    """Return the commands of a page's bash blocks, with continued lines joined and comments left out."""
    lines = "".join(BLOCK.findall((ROOT / page).read_text())).replace("\\\n", " ").splitlines()
    return [bare for line in lines if (bare := re.sub(r"(^|\s+)#.*", "", line).strip())]


def is_run(command: str) -> bool:
    return not any(words in command for words in NOT_HERE)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the project in it and nothing else, as after `git clone`."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("models", "pipelines", "sweeps", "docs", "pyproject.toml", "uv.lock", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def write_what_the_examples_name(checkout: Path, data: Path) -> None:
    """Write datasets.toml, a list of videos, a file of scores, a detector, and videos to score."""
    readme, elsewhere = ((ROOT / page).read_text() for page in ("README.md", "docs/elsewhere.md"))
    (block,) = re.findall(r"^```toml\n(# datasets\.toml.*?)^```", readme, re.M | re.S)
    (checkout / "datasets.toml").write_text(block.replace("/data/", f"{data}/"))
    below = data.relative_to(checkout)  # a list names videos relative to itself
    roots = {name: str(data / corpus.FOLDERS[name]) for name in ("ffpp", "celeb_df")}
    rows = datasets.load("ffpp", roots).to_pylist()
    with (checkout / "videos.csv").open("w") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "label", "split"])
        for split in ("train", "val", "test"):
            for number, label in ((tables.REAL, "real"), (tables.FAKE, "fake")):
                of_both = [row for row in rows if row["split"] == split and row["label"] == number]
                lines.writerows([below / corpus.FOLDERS["ffpp"] / row["uri"], label, split] for row in of_both[:8])
    tested = [row for row in datasets.load("celeb_df", roots).to_pylist() if row["split"] == "test"]
    with (checkout / "scores.csv").open("w") as file:
        lines = csv.writer(file)
        lines.writerow(["video_id", "score"])
        lines.writerows([row["video_id"], 0.5 + 0.3 * (row["label"] == tables.FAKE)] for row in tested)
    (factory,) = re.findall(r"^`my_detector\.py`\n```python\n(.*?)^```", elsewhere, re.M | re.S)
    (checkout / "my_detector.py").write_text(factory.replace("/data/mine.pt", str(checkout / "mine.pt")))
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 1))
    torch.jit.script(network).save(checkout / "mine.pt")
    (checkout / "folder").mkdir()
    for name, row in zip(("clip.mp4", "folder/a.mp4", "folder/b.mp4"), tested, strict=False):
        shutil.copy(f"{roots[row['root']]}/{row['uri']}", checkout / name)


def ended(command: str, checkout: Path, env: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=checkout,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"
    assert "Traceback" not in done.stdout, f"{command}\n{done.stdout[-3000:]}"


def serves(command: str, checkout: Path, env: dict[str, str]) -> None:
    """Start a server by its command, and wait until it answers; then stop it."""
    port = re.search(r"--port (\d+)", command)
    server = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=checkout, env=env, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port[1] if port else 5000}", timeout=10) as answer:
                    assert answer.status == 200
                    return
            except OSError:
                assert server.poll() is None, command
                assert time.monotonic() < until, command
                time.sleep(1)
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def test_what_is_not_run_is_still_shown() -> None:
    shown = [command for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")] for command in commands(str(page))]
    assert [words for words in NOT_HERE if not any(words in command for command in shown)] == []
    assert [words for words in ADDED if not any(words in command for command in shown)] == []


@pytest.mark.nightly
@pytest.mark.ray
@pytest.mark.timeout(2 * PATIENCE_S)
def test_every_command_runs_as_it_stands(checkout: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("CROSSFORGE_", "MLFLOW_TRACKING"))}
    env |= {"UV_NO_SYNC": "1", "UV_PROJECT_ENVIRONMENT": sys.prefix, "COLUMNS": "120"}
    shown = [command for page in IN_ORDER for command in commands(page) if is_run(command)]
    first = next(command for command in shown if "sweeps/mask_ratio.py" in command)
    assert first == "uv run python sweeps/mask_ratio.py"
    ended(first, checkout, env)
    (data,) = (path.parent for path in (checkout / "crossforge-storage").rglob(corpus.FOLDERS["ffpp"]))
    write_what_the_examples_name(checkout, data)
    for command in dict.fromkeys(shown):
        if command == first:  # with the datasets.toml that is there by now, it would train the paper's model
            continue
        added = next(
            (switches for words, switches in ADDED.items() if words in command and "--dry-run" not in command), ""
        )
        here = f"{command} {added}".replace("/data/crossforge", "crossforge-storage").replace("/data/", f"{data}/")
        serves(here, checkout, env) if " mlflow ui " in here else ended(here, checkout, env)
