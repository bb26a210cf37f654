"""`train`: the sweep of one row that it makes, and lists of one's own beside datasets."""

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipelines import datasets, train
from pipelines.launch.options import Options
from pipelines.launch.request import Request
from pipelines.train import main, sweep_of, with_lists
from pipelines.training.job import Compute
from pipelines.trials import tune

LIST = "path,label,split\n" + "".join(
    f"{split}/{label}{number}.mp4,{label},{split}\n"
    for split in ("train", "val", "test")
    for label in ("real", "fake")
    for number in range(2)
)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CROSSFORGE_DATASETS", raising=False)
    Path("videos.csv").write_text(LIST)
    return tmp_path


def test_one_method_is_one_row_of_a_sweep() -> None:
    sweep = sweep_of("plain", "ffpp", ["celeb_df", "dfdc", "ffpp"])
    assert (sweep.name, [row.label for row in sweep.rows]) == ("train_plain", ["plain"])
    assert sweep.headings == ("celeb_df auc", "dfdc auc", "ffpp auc", "unseen auc")
    request = Request.of(sweep, Options(preset="small", seeds=2, settings={"model.num_epochs": 1}))
    assert [experiment.seed for experiment in request.experiments.values()] == [0, 1]
    assert {experiment.config().num_epochs for experiment in request.experiments.values()} == {1}
    (home,) = sweep_of("lre", "ffpp", []).experiments("small", 1, {}).values()
    assert (home.protocol, home.train_on, home.test_on) == ("in_dataset", "ffpp", ())


def test_lists_join_the_datasets_that_are_named(mine: Path) -> None:
    Path("datasets.toml").write_text('celeb_df = "/data/c"\n[dfdc]\nroot = "/data/d"\nlist = "short.csv"\n')
    with ExitStack() as kept:
        asked = with_lists({"mine": "videos.csv", "far": "s3://b/x.csv"}, Options(storage="st"), kept)
        assert asked.datasets is not None
        config = datasets.read_config(asked.datasets)
    assert config == {"celeb_df": "/data/c", "dfdc": "/data/d", "mine": str(mine / "videos.csv"), "far": "s3://b/x.csv"}
    assert config.options == {"dfdc": {"list": str(mine / "short.csv")}}
    assert Path(asked.datasets).is_relative_to(mine / "st" / "datasets")
    assert asked.named == "mine=videos.csv, far=s3://b/x.csv, datasets.toml"


def touch(lines: list[str]) -> None:
    """Make files of lines of `LIST`."""
    for line in lines:
        path = Path(line.partition(",")[0])
        path.parent.mkdir(exist_ok=True)
        path.touch()


def test_a_dry_run_says_what_a_list_comes_to_and_leaves_nothing(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch([line for line in LIST.splitlines()[1:] if not line.startswith("test/fake0")])
    assert main(["plain", "--lists", "mine=videos.csv", "--storage", "st", "--preset", "small", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "plain, trained on mine" in told
    assert "Videos (mine=videos.csv)\n" in told
    assert re.search(r"│ mine +│ 12 +│ 12 +│", told)  # videos needed, and to extract
    assert "1 of 12 videos of mine are not where its list says: test/fake0.mp4; those not read before count as" in told
    assert sorted(path.name for path in mine.iterdir()) == ["test", "train", "val", "videos.csv"]


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ("", "none of the 12 files of mine that are needed is there: looked for {}/test/fake0.mp4, "),
        ("train test", "none of the 2 (fake|real) val videos of mine is there: looked for {}/val/fake0.mp4, "),
    ],
)
def test_a_list_of_files_that_are_not_there_is_refused(
    there: str, message: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch([line for line in LIST.splitlines()[1:] if line.partition("/")[0] in there.split()])
    assert main(["plain", "--lists", "mine=videos.csv", "--storage", "st", "--preset", "small", "--dry-run"]) == 2
    assert re.search(message.format(re.escape(str(mine))), " ".join(capsys.readouterr().out.split()))


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        (["--lists", "mine=none.csv"], "none.csv"),
        (["--lists", "mine=videos.txt"], "error: --lists mine=videos.txt: unknown dataset 'mine'; "),
        (["--lists", "Mine=videos.csv"], "error: --lists Mine=videos.csv: 'Mine' cannot be a name; "),
        (["--train-on", "yours"], "yours"),
        (["--name", "../x"], "--name ../x"),
        (["--lists", "mine=videos.csv", "--test-on", "mine/FaceSwap"], "FaceSwap"),
    ],
)
def test_what_is_wrong_is_said(
    switches: list[str], message: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("datasets.toml").write_text('celeb_df = "/data/c"\n')
    assert main(["plain", *switches, "--storage", "st", "--preset", "small", "--dry-run"]) == 2
    assert message in " ".join(capsys.readouterr().out.split())


def test_a_launch_in_which_only_faces_were_missing_trains_nothing(tmp_path: Path) -> None:
    tune.fit([], Compute(num_workers=0), 1, tmp_path / "ray", lambda: None)  # Ray is not asked: it is not there
    assert list(tmp_path.iterdir()) == []


def test_the_parser_names_every_method() -> None:
    for name in ("plain", "lre", "delocate"):
        assert train.parser().parse_args([name]).method == name
