"""The command that extracts ahead of the sweeps: the same recipes and folders, one pass, an account of every video."""

import dataclasses
import shutil
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from pipelines import datasets
from pipelines.commands import preprocess
from pipelines.datasets.sample import corpus
from pipelines.experiments.experiment import Experiment
from pipelines.faces import plan, store
from pipelines.faces.recipe import Recipe, changed
from pipelines.preprocess import main, parser

METHODS = ("plain", "lre", "laa_net")


def text(width: int = 140) -> Console:
    return Console(record=True, width=width)


def recipe_of(method: str) -> Recipe:
    return Experiment(model=method, train_on="ffpp", test_on=(), preset="small").recipe()


def arguments(*argv: str):
    return parser().parse_args(argv)


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("num_frames=64", "num_frames", 64),
        ("margin=1.5", "margin", 1.5),
        ("constant_box=false", "constant_box", False),
        ("sampling=fps", "sampling", "fps"),
        ("landmarks=81", "landmarks", 81),
        ("detector=retinaface", "detector", "retinaface"),
    ],
)
def test_a_recipe_can_be_changed_by_name(setting, name, value):
    recipe = changed(Recipe(), [setting])
    assert getattr(recipe, name) == value
    assert dataclasses.replace(recipe, **{name: getattr(Recipe(), name)}) == Recipe()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("frames=64", "unknown setting 'frames=64'; did you mean 'num_frames'?"),
        ("margin", "margin must be a number"),
        ("num_frames=many", "num_frames must be a whole number"),
        ("hold_lost=yes", "hold_lost must be true or false"),
        ("detector=magic", "detector must be one of dlib, dlib-cnn, retinaface; got 'magic'"),
        ("num_frames=0", "num_frames must be >= 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        changed(Recipe(), [setting])


@pytest.mark.nightly
def test_the_plan_has_an_extraction_for_each_dataset_and_distinct_crop(tiny_roots, tmp_path):
    recipes = {recipe_of(method) for method in METHODS}
    planned = preprocess.plan(
        arguments("ffpp", "celeb_df", "--methods", *METHODS, "--splits", "test"), tiny_roots, tmp_path, is_sample=True
    )
    assert [extraction.dataset for extraction in planned] == ["ffpp"] * len(recipes) + ["celeb_df"] * len(recipes)
    assert {extraction.recipe for extraction in planned} == recipes
    assert len({extraction.folder for extraction in planned}) == 2 * len(recipes)
    ffpp = planned[0].videos
    assert set(ffpp["split"].to_pylist()) == {"test"}
    assert set(ffpp["codec"].to_pylist()) == {"c23"}
    assert planned[0].num_missing == ffpp.num_rows
    # 60 kB for a face of 224 pixels, by area
    recipe = planned[0].recipe
    expected = ffpp.num_rows * recipe.num_frames * 60_000 * recipe.size_px**2 / 224**2
    assert planned[0].bytes_needed == pytest.approx(expected, rel=1e-6)


def test_a_codec_that_is_not_there_is_an_error(tiny_roots, tmp_path):
    with pytest.raises(ValueError, match=r"ffpp has no videos in .* and \['raw'\]"):
        preprocess.plan(arguments("ffpp", "--codec", "raw"), tiny_roots, tmp_path, is_sample=True)


def own_videos(folder: Path, split: str) -> str:
    """A manifest of two videos that are not there."""
    folder.mkdir()
    (folder / "videos.csv").write_text(f"path,label,split\na.mp4,real,{split}\nb.mp4,fake,{split}\n")
    return str(folder / "videos.csv")


def test_of_all_datasets_those_without_the_wanted_part_are_left_out_and_a_named_one_is_an_error(tmp_path):
    """DFD and others have test videos only: that must not stop the rest."""
    roots = {name: own_videos(tmp_path / name, split) for name, split in (("mine", "train"), ("tested", "test"))}
    planned = preprocess.plan(arguments("--splits", "train", "--methods", "lre"), roots, tmp_path, is_sample=False)
    assert [extraction.dataset for extraction in planned] == ["mine"]
    named = arguments("tested", "mine", "--splits", "train")
    with pytest.raises(ValueError, match=r"tested has no videos in \['train'\]"):
        preprocess.plan(named, roots, tmp_path, is_sample=False)
    with pytest.raises(ValueError, match=r"mine, tested have no videos in \['val'\]"):
        preprocess.plan(arguments("--splits", "val"), roots, tmp_path, is_sample=False)


def test_the_ledger_of_many_videos_is_looked_through_once(monkeypatch, tmp_path):
    """Asking for each of 100,000 videos which ones are wanted takes hours."""
    names = [f"v{number}" for number in range(100)]
    monkeypatch.setattr(store, "ledger", lambda folder: {name: {"video_id": name} for name in [*names, "other"]})
    asked: list[int] = []
    monkeypatch.setattr(
        plan.Extraction, "wanted", property(lambda self: asked.append(1) or frozenset(names)), raising=True
    )
    extraction = plan.Extraction(
        dataset="d", recipe=Recipe(), folder=tmp_path, videos=pa.table({"video_id": names}), roots={}
    )
    assert list(extraction.ledger) == names
    assert len(asked) == 1


@pytest.fixture
def storage(tmp_path: Path, tiny_roots, monkeypatch) -> Path:
    """A storage folder that has a sample corpus already: the tiny one, in the place of the full one."""
    home = tmp_path / f"sample-corpus-v{corpus.VERSION}-full-seed0"
    shutil.copytree(Path(tiny_roots["ffpp"]).parent, home)
    monkeypatch.delenv("CROSSFORGE_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.nightly
@pytest.mark.ray
def test_the_command_extracts_once_and_says_what_became_of_the_videos(storage, ray_local, monkeypatch):
    monkeypatch.setattr(preprocess.cluster, "connect", lambda address: nullcontext())  # the tests' Ray is there
    broken = next(storage.glob("sample-corpus-*/DFDC/test/*.mp4"))
    broken.write_bytes(b"not a video")
    argv = ("dfdc", "--methods", *METHODS, "--splits", "test", "--set", "num_frames=2", "size_px=32")
    argv = (*argv, "--storage", str(storage))
    console = text()
    assert preprocess.execute(arguments(*argv, "--dry-run"), console) == 0
    assert not (storage / "faces").exists()
    assert preprocess.execute(arguments(*argv), console) == 0
    shown = console.export_text()
    assert f"unreadable: dfdc/test/{broken.stem}" in shown
    assert "dfdc: 3 ok, 1 unreadable" in shown
    folders = list((storage / "faces" / "dfdc").iterdir())
    crops = {Experiment(model=m, train_on="ffpp", test_on=(), preset="small").recipe().margin for m in METHODS}
    assert len(folders) == len(crops)  # with the same frames and size, methods differ in the margin only
    assert all(len(store.ledger(folder)) == 4 for folder in folders)
    assert list((storage / "reports" / "coverage").glob("*.png"))

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in storage.glob("faces/**/*.parquet")}

    before = times()
    assert preprocess.execute(arguments(*argv), text()) == 0
    assert times() == before
    console = text()
    assert preprocess.execute(arguments(*argv, "--retry-failed"), console) == 0
    assert times() != before
    assert "dfdc: 3 ok, 1 unreadable" in console.export_text()
    broken.write_bytes(next(path for path in broken.parent.glob("*.mp4") if path != broken).read_bytes())  # repaired
    console = text()
    assert preprocess.execute(arguments(*argv), console) == 0
    shown = console.export_text()
    assert "1 of 4 videos of dfdc changed since they were extracted" in shown
    assert "dfdc: 4 ok" in shown
    for folder in folders:
        faces = store.Faces(folder)
        names = faces.ledger["video_id"].to_pylist()
        assert [faces.video(name)["status"].unique().to_pylist() for name in names] == [["ok"]] * 4


def test_wrong_use_is_exit_code_2_and_one_line(storage, capsys):
    assert main(["ffpp", "--set", "frames=1", "--storage", str(storage)]) == 2
    assert "unknown setting 'frames=1'" in capsys.readouterr().out


def test_a_dry_run_plans_the_sample_corpus_before_it_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("CROSSFORGE_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    argv = ("celeb_df", "--methods", "plain", "--preset", "tiny", "--storage", "none", "--address", "nohost:6379")
    console = text()
    assert preprocess.execute(arguments(*argv, "--dry-run"), console) == 0
    with corpus.outlined(tmp_path, size="tiny", names=["celeb_df"]) as roots:
        number = datasets.load("celeb_df", roots).num_rows
    shown = console.export_text()
    (line,) = [line for line in shown.splitlines() if "celeb_df" in line]
    assert [cell.strip() for cell in line.split("│")][5:7] == [str(number)] * 2
    assert f"Storage: {tmp_path / 'none'}" in shown
    assert "made on first use" in shown
    assert "The cluster at nohost:6379 was not asked" in shown
    assert list(tmp_path.iterdir()) == []
