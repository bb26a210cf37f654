"""FakeAVCeleb: a list with one header too few, real pictures under a fake voice, people named in two places."""

import pytest

from pipelines import datasets
from pipelines.datasets import DatasetError

HEADER = "source,target1,target2,method,category,type,race,gender,path,\n"
WHERE = "Asian (East)/women/id10006"


def line(method: str, category: str, name: str, target: str = "-") -> str:
    return f"id10006,{target},-,{method},X,{category},Asian (East),women,{name},FakeAVCeleb/{category}/{WHERE}\n"


REAL = f"RealVideo-RealAudio/{WHERE}/00905.mp4"
SWAP = f"FakeVideo-RealAudio/{WHERE}/00905_id10005_faceswap.mp4"
BOTH = f"FakeVideo-FakeAudio/{WHERE}/00905_3_id10004_wavtolip.mp4"
VOICE = f"RealVideo-FakeAudio/{WHERE}/00905_fake.mp4"
FILES = (REAL, SWAP, BOTH, VOICE)
LISTED = (
    HEADER
    + line("real", "RealVideo-RealAudio", "00905.mp4")
    + line("faceswap", "FakeVideo-RealAudio", "00905_id10005_faceswap.mp4", "3")
    + line("fsgan-wav2lip", "FakeVideo-FakeAudio", "00905_3_id10004_wavtolip.mp4", "id10004")
    + line("rtvc", "RealVideo-FakeAudio", "00905_fake.mp4", "fake.mp4")
)


def load(root, said=None):
    say = (said if said is not None else []).append
    videos = datasets.load("fakeavceleb", {"fakeavceleb": str(root)}, say=say)
    return {row["video_id"].removeprefix("fakeavceleb/"): row for row in videos.to_pylist()}


def test_labels_methods_people_and_counterparts(tree):
    said: list[str] = []
    root = tree("favc", {"meta_data.csv": LISTED}, *FILES)
    rows = load(root, said)
    real = "fakeavceleb/RealVideo-RealAudio/id10006/00905"
    own = "fakeavceleb/id10006"
    assert {key: (row["label"], row["method"], row["real_id"], row["source_ids"]) for key, row in rows.items()} == {
        "RealVideo-RealAudio/id10006/00905": (0, "real", None, [own]),
        "FakeVideo-RealAudio/id10006/00905_id10005_faceswap": (1, "faceswap", real, [own, "fakeavceleb/id10005"]),
        "FakeVideo-FakeAudio/id10006/00905_3_id10004_wavtolip": (
            1, "fsgan-wav2lip", real, [own, "fakeavceleb/id10004"],
        ),
    }  # fmt: skip
    assert {row["split"] for row in rows.values()} == {"test"}
    assert sorted(row["uri"] for row in rows.values()) == sorted([REAL, SWAP, BOTH])
    assert said == [f"fakeavceleb at {root}: left out RealVideo-FakeAudio (1 in meta_data.csv): "
                    "real pictures under a made-up voice"]  # fmt: skip


def test_other_spellings(tree):
    """Two folders of the release, races with underscores: person and name say which video it is."""
    above = "FakeAVCeleb_v1.2/FakeAVCeleb_v1.2"
    place = f"{above}/fakevideo-realaudio/Asian_East/id10006/00905_id10005_faceswap.mp4"
    rows = load(tree("favc", {f"{above}/meta_data.csv": LISTED}, place))
    assert rows["FakeVideo-RealAudio/id10006/00905_id10005_faceswap"]["uri"] == place
    assert rows["RealVideo-RealAudio/id10006/00905"]["uri"] == f"{above}/{REAL}"  # listed and missing


def test_the_list_promises_what_can_be_seen(tree):
    (own,) = datasets.lists("fakeavceleb", {"fakeavceleb": str(tree("favc", {"meta_data.csv": LISTED}, *FILES))})
    assert sorted(own.labels.values()) == [0, 1, 1]


@pytest.mark.parametrize(
    ("text", "paths", "message"),
    [
        (LISTED, ["readme.txt"], "none of RealVideo-RealAudio, .* holds a video"),
        (LISTED, [*FILES, f"FakeVideo-RealAudio/{WHERE}/1.mp4"], "does not name FakeVideo-RealAudio/.*1.mp4"),
        (LISTED, ["RealVideo-RealAudio/men/00905.mp4"], "lies in no folder of a person, such as id00076"),
        (LISTED, [REAL, "RealVideo-RealAudio/x/id10006/00905.mp4"], "are the same video; keep one"),
        (HEADER + "id1,-,-,real,A\n", FILES, "line 2: 'id1,-,-,real,A', expected such as 'id00076,"),
        (LISTED.replace(",rtvc,X,RealVideo", ",rtvc,X,Video"), FILES, "line 5: .*expected such as"),
        (LISTED.replace(",faceswap,", ",real,"), FILES, "method of FakeVideo-.* is 'real', which does not fit"),
        (LISTED + line("wav2lip", "RealVideo-RealAudio", "00905.mp4"), FILES, "line 6: .*00905 is listed twice"),
        (HEADER, FILES, "lists no videos"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error(tree, text, paths, message):
    with pytest.raises(DatasetError, match=message):
        load(tree("favc", {"meta_data.csv": text}, *paths))


def test_without_the_list_nothing_is_known(tree):
    with pytest.raises(DatasetError, match=r"meta_data\.csv is missing"):
        load(tree("favc", {}, *FILES))
