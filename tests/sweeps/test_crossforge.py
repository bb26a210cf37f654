"""`crossforge` and what it stands for: each command answers `--help` without the packages that take seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.launch import cost
from sweeps import _crossforge, names

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "mlflow", "pandas", "matplotlib", "timm", "scipy", "sklearn", "optuna")
ASK_ALL = """
import contextlib, io, json, sys
from sweeps import _crossforge, names
told = {}
for words in json.loads(sys.argv[1]):
    before, text = set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        _crossforge.main(words)
    brought = [name for name in json.loads(sys.argv[2]) if name in sys.modules.keys() - before]
    told[" ".join(words)] = [text.getvalue(), brought]
print(json.dumps(told))
"""
ASKED = (
    ["--help"],
    ["--version"],
    ["sweeps"],
    ["sweeps", "--long"],
    *([name, "--help"] for name in _crossforge.COMMANDS if name != "completion"),
    *(["sweep", name, "--help"] for name in names()),
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, list[str]]]:
    """Words -> what `crossforge` answers, and which heavy packages it imported first, all in one process."""
    with pytest.MonkeyPatch.context() as patch:  # estimates of trainings are there, as from the second time on
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(cost, "estimate", lambda experiments: "some hours")
        cost.kept(dict.fromkeys(names(), list), lambda number: None)
        done = run("-c", ASK_ALL, json.dumps(ASKED), json.dumps(HEAVY))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("words", ASKED, ids=" ".join)
def test_help_needs_no_package_that_takes_seconds(words: list[str], answers: dict[str, tuple[str, list[str]]]) -> None:
    text, brought = answers[" ".join(words)]
    assert brought == []
    assert text.startswith(
        "usage: crossforge"
        if "--help" in words
        else ("crossforge 0.", "GPU hours are estimated for an A100 at a tenth of its peak\n", f"{names()[0]} ")
    )


@pytest.mark.parametrize("command", [("sweeps/mask_ratio.py", "--help"), ("-m", "pipelines.predict", "--help")])
def test_files_and_modules_answer_as_fast(command: tuple[str, ...]) -> None:
    done = run("-X", "importtime", *command)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.stdout.startswith("usage: python ")
    assert "argparse" in imported
    assert imported.isdisjoint(HEAVY)


def test_every_command_is_one_of_the_program() -> None:
    files = {path.stem.replace("_", "-") for path in (ROOT / "pipelines").glob("[!_]*.py")}
    assert set(_crossforge.COMMANDS) == files | {"sweeps", "completion"}


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_commands_questions_and_switches(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _crossforge.main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for word in ("score-detector", "mask_ratio", "--gpus-per-worker", "--retry-failed", "laa_net"):
        assert word in text


def test_what_is_wrong_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for words, text in (
        (["prdict"], "invalid choice: 'prdict'; did you mean 'predict'?"),
        (["sweep", "xyz"], "invalid choice: 'xyz'; choose from adfd_"),
        (["sweep", "mask_raito"], "invalid choice: 'mask_raito'; did you mean 'mask_ratio'?"),
        (["sweep", "mask_ratio", "--serach", "3"], "unrecognized arguments: --serach 3; did you mean '--search'?"),
        (["train", "delocat"], "invalid choice: 'delocat'; did you mean 'delocate'?"),
        (["score-detector", "folder:build"], "must be FILE:FACTORY, such as my_detector.py:build; got 'folder:build'"),
        (["sweeps", "mask_raito"], "in its name or text; did you mean 'mask_ratio'?"),
    ):
        with pytest.raises(SystemExit) as stopped:
            _crossforge.main(words)
        assert stopped.value.code == 2
        assert text in capsys.readouterr().err
    assert _crossforge.main([]) == 2
    assert "usage: crossforge" in capsys.readouterr().out
    assert _crossforge.main(["predict", __file__, "--run", "0123", "--storage", "s3://b"]) == 2
    assert "s3://b" in capsys.readouterr().out
    for words in (
        ["score-detector", "none.py:build"],
        ["score-detector", f"{__file__}:f", "--sweep", "none.py"],
        ["preprocess", "--predictor", "none.py", "--dry-run"],
    ):
        assert _crossforge.main(words) == 2
        assert "error: there is no file or folder none.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("predict", "none.mp4", "--run", "0123"), "there is no file or folder none.mp4"),
        (("score-file", "none.mp4", "--name", "X"), "there is no file or folder none.mp4"),
        (
            ("sweep", "lre_gate", "--storage", "s3:/bucket"),
            "--storage s3:/bucket: a place in a bucket is written s3://",
        ),
    ],
)
def test_a_place_that_is_not_there_is_said_before_what_works_is_imported(words: tuple[str, ...], error: str) -> None:
    done = run("-X", "importtime", f"{sys.prefix}/bin/crossforge", *words)
    assert done.returncode == 2
    assert f"error: {error}" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert imported.isdisjoint(HEAVY)
