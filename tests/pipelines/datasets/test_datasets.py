"""What all adapters share: finding them, datasets.toml, roots."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import datasets
from pipelines.common import tables
from pipelines.datasets import DatasetError


def test_adapters_are_found_by_file_name():
    known = {"celeb_df", "deeper_forensics", "dfd", "dfdc", "dfdcp", "ffiw", "ffpp", "wild_deepfake"}
    known |= {"celeb_df_v1", "df40", "fakeavceleb", "kodf", "uadfv"}
    assert known <= set(datasets.names())
    assert not any(name.startswith("_") for name in datasets.names())


def test_roots_are_relative_to_the_file_and_know_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    config = tmp_path / "datasets.toml"
    config.write_text(
        'ffpp = "data/ff"\nceleb_df = "~/cdf"\ndfdc = "/abs/dfdc"\ndeeper_forensics = "s3://bucket/dfo"\n'
    )
    assert datasets.read_config(config) == {
        "ffpp": str(tmp_path / "data/ff"),
        "celeb_df": "/home/someone/cdf",
        "dfdc": "/abs/dfdc",
        "deeper_forensics": "s3://bucket/dfo",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('ffpq = "/data"', r"unknown dataset 'ffpq'; did you mean 'ffpp'\?; any other name must"),
        (
            'ffpp = "/a"\nceleb_df = /b  # mine\ndfd = "/c"',
            r"datasets\.toml is not valid TOML: .*line 2.*\n    celeb_df = /b  # mine\n"
            r"a path stands in quotes: celeb_df = \"/b\"$",
        ),
        ('ffpp = "/a"\n\ndfdc =\n', r"is not valid TOML: .*\n    dfdc =$"),
        ('ffpp = "/a\ndfdc = "/b"', r"is not valid TOML: .*line 1.*\n    ffpp = \"/a\na quote is missing$"),
        ('ffpp = "/a"\nffpp = "/b"\n', r"is not valid TOML: .*line 2.*\n    ffpp = \"/b\"$"),
        (r'ffpp = "C:\data\ffpp"', r"\n    ffpp = \"C:.*\na path with \\ stands in single quotes: 'C:\\data\\ffpp'$"),
        (r"ffpp = C:\data", r"\na path stands in quotes: ffpp = 'C:\\data'$"),
        ("ffpp = “/a”", r'\na path stands in quotes: ffpp = "/a"$'),
        ("ffpp = 3\nffpp = 4", r"is not valid TOML: Cannot overwrite a value.*\n    ffpp = 4$"),
        ('["line 9"]\n["line 9"]', r"is not valid TOML: .*\n    \[\"line 9\"\]$"),
        ("[ffpp]\nroot = 3", r"ffpp must be a folder.*got 3$"),
        ('[dfdc]\nroot = "/a"\nlist = "~nobody-here/x"', r"dfdc: ~nobody-here/x: there is no home folder ~nobody-here"),
        ("ffpp = 3", r"ffpp must be a folder.*got 3"),
        ('[ffpp]\nplace = "/a"', r"ffpp must be a folder.*got \{'place': '/a'\}"),
        ('[ffpp]\nroot = "/a"\nlist = "b"', r"ffpp has no option 'list'; it has none"),
        ('[ours]\nroot = "a.csv"\nlist = "b"', r"ours has no option 'list'; it has none"),
        ('[dfdc]\nroot = "/a"\nlists = "b"', r"dfdc has no option 'lists'; did you mean 'list'\?"),
        ('[dfdc]\nroot = "/a"\nlist = 3', r"list of dfdc must be the path of a file, got 3"),
        ('[deeper_forensics]\nroot = "/a"\nsplit = "own"', r'must be "target" or "owners", got \'own\''),
    ],
)
def test_a_bad_config_says_what_is_wrong(tmp_path, text, message):
    config = tmp_path / "datasets.toml"
    config.write_text(text)
    with pytest.raises(DatasetError, match=message):
        datasets.read_config(config)


def test_all_that_is_wrong_with_a_config_is_said_at_once(tmp_path):
    config = tmp_path / "datasets.toml"
    config.write_text(
        'ffpq = "/a"\nceleb_df = 3\ndfd = "~nobody-here/x"\n[dfdc]\nlist = 4\n[ffpp]\nroot = "/f"\nx = "y"\n'
    )
    with pytest.raises(DatasetError) as error:
        datasets.read_config(config)
    path, *problems = str(error.value).splitlines()
    assert path == f"{config}:"
    said = [
        "unknown dataset 'ffpq'",
        "celeb_df must be a folder",
        "dfd: ~nobody-here/x: there is no home folder ~nobody-here;",
        "dfdc must be a folder",
        "list of dfdc must be the path of a file, got 4",
        "ffpp has no option 'x'",
    ]
    assert [problem.strip()[: len(text)] for problem, text in zip(problems, said, strict=True)] == said


def test_a_dataset_with_options_is_a_table(tmp_path):
    config = tmp_path / "datasets.toml"
    config.write_text(
        'ffpp = "/ff"\n[dfdc]\nroot = "dfdc"\nlist = "lists/some.txt"\n'
        '[deeper_forensics]\nroot = "/dfo"\nsplit = "owners"\n[celeb_df]\nroot = "/cdf"\n'
    )
    roots = datasets.read_config(config)
    assert roots == {"ffpp": "/ff", "dfdc": f"{tmp_path}/dfdc", "deeper_forensics": "/dfo", "celeb_df": "/cdf"}
    assert roots.options == {"dfdc": {"list": f"{tmp_path}/lists/some.txt"}, "deeper_forensics": {"split": "owners"}}


def test_a_name_of_ones_own_stands_for_a_manifest(tmp_path):
    config = tmp_path / "datasets.toml"
    config.write_text('ours = "data/list.csv"\ntheirs_2 = "s3://b/list.PARQUET"\n')
    roots = datasets.read_config(config)
    assert roots == {"ours": str(tmp_path / "data/list.csv"), "theirs_2": "s3://b/list.PARQUET"}
    assert [datasets.folder_of(root) for root in roots.values()] == [str(tmp_path / "data"), "s3://b"]
    assert datasets.folder_of("/data/ffpp") == "/data/ffpp"
    config.write_text('"Ours-1" = "list.csv"\n')
    with pytest.raises(DatasetError, match="'Ours-1' cannot be a name; use small letters, digits and _"):
        datasets.read_config(config)


@pytest.mark.parametrize("name", datasets.names())
def test_published_numbers_are_of_known_splits_and_methods(name):
    published = datasets._adapter(name).PUBLISHED
    assert published
    assert {split for _, split in published} <= {"", *tables.SPLITS}
    assert "real" in {method for method, _ in published}
    assert all(number > 0 for number in published.values())


def test_published_numbers_add_up():
    """To what the owners say of the whole: 1,000 videos of each kind in FF++, 518 in the test list of Celeb-DF."""
    sums = {name: datasets._adapter(name).PUBLISHED for name in datasets.names()}
    assert sum(sums["ffpp"].values()) == 6 * 1000
    assert sums["celeb_df"]["real", "test"] + sums["celeb_df"]["Celeb-synthesis", "test"] == 518
    assert sum(sums["celeb_df"].values()) == 590 + 300 + 5639
    assert sum(sums["deeper_forensics"].values()) == (1 + 11) * 1000
    assert sum(sums["wild_deepfake"].values()) == 7314
    assert sum(sums["dfdc"].values()) == 119154 + 5000


def test_a_missing_config_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere\.toml cannot be read"):
        datasets.read_config(tmp_path / "nowhere.toml")


def test_a_dataset_without_a_root_shows_the_line_to_write_and_the_layout():
    with pytest.raises(DatasetError, match=r"no root for ffpp; .*\n +ffpp = .*\n.*\n.*train\.json") as error:
        datasets.load("ffpp", {"dfdc": "/data/dfdc"})
    assert "Known roots: dfdc" in str(error.value)


def test_the_root_of_another_dataset_that_is_needed_is_asked_for(tmp_path):
    with pytest.raises(DatasetError, match="no root for ffpp, which deeper_forensics needs as well"):
        datasets.load("deeper_forensics", {"deeper_forensics": str(tmp_path)})


def test_a_root_must_be_a_folder(tmp_path):
    (tmp_path / "file").touch()
    for root, message in ((str(tmp_path / "gone"), "does not exist"), (str(tmp_path / "file"), "is a file")):
        with pytest.raises(
            DatasetError, match=f"root of ffpp: {root} {message}; datasets.toml must name a folder with"
        ):
            datasets.load("ffpp", {"ffpp": root})


def test_an_unknown_dataset_is_not_imported():
    with pytest.raises(DatasetError, match=r"unknown dataset '_root'; known: .*ffpp"):
        datasets.load("_root", {})


@pytest.mark.parametrize("name", datasets.names())
def test_an_empty_root_shows_what_was_expected(tmp_path, name):
    with pytest.raises(DatasetError, match=r"Expected\n(?s:.*)Found in .*: nothing"):
        datasets.load(name, dict.fromkeys(datasets.names(), str(tmp_path)))


def test_entries_that_differ_in_case_only_are_not_chosen_between(tree):
    root = tree("cdf", {"List_of_testing_videos.txt": "1 Celeb-real/id0_0000.mp4"}, "Celeb-real/id0_0000.mp4")
    (root / "CELEB-REAL").mkdir()
    if len(list(root.iterdir())) < 3:
        pytest.skip("this file system does not tell case apart")
    with pytest.raises(DatasetError, match="differ only in upper and lower case"):
        datasets.load("celeb_df", {"celeb_df": str(root)})


def test_a_table_has_the_schema_of_videos(tree):
    root = tree("cdf", {"List_of_testing_videos.txt": "1 Celeb-real/id0_0000.mp4"}, "Celeb-real/id0_0000.mp4")
    assert datasets.load("celeb_df", {"celeb_df": str(root)}).schema.equals(tables.VIDEOS, check_metadata=True)


def test_adapters_need_no_heavy_package():
    code = (
        "import sys; from pipelines import datasets\n"
        "for name in datasets.names(): datasets._adapter(name)\n"
        "print(sorted({'ray', 'torch', 'mlflow', 'cv2', 'av', 'dlib'} & set(sys.modules)))"
    )
    root = Path(datasets.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
