"""Files of scores from elsewhere: which video a line names, and what each kind of wrong line is told."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipelines.scoring.from_file import Joined, Meaning, ScoreFileError, join, read

PROBABILITY = Meaning()


def video(video_id: str, uri: str, split: str, codec: str = "unknown", method: str = "real") -> dict[str, Any]:
    dataset = video_id.partition("/")[0]
    names = ("dataset", "video_id", "uri", "split", "codec", "method")
    return dict(zip(names, (dataset, video_id, uri, split, codec, method), strict=True))


CELEB = [
    video("celeb_df/Celeb-real/id0_0000", "Celeb-real/videos/id0_0000.mp4", "test"),
    video("celeb_df/Celeb-real/id1_0000", "Celeb-real/videos/id1_0000.mp4", "train"),
    video("celeb_df/Celeb-synthesis/id0_id1_0000", "Celeb-synthesis/videos/id0_id1_0000.mp4", "test", method="Celeb"),
]
FFPP = [
    video(f"ffpp/{method}/{codec}/000_003", f"manipulated/{method}/{codec}/videos/000_003.mp4", "test", codec, method)
    for method in ("Deepfakes", "FaceSwap")
    for codec in ("c23", "c40")
]
CELEB_TEST = tuple(row["video_id"] for row in CELEB if row["split"] == "test")
FFPP_TEST = tuple(row["video_id"] for row in FFPP if row["codec"] == "c23")


def written(folder: Path, text: str, name: str = "scores.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def joined(
    folder: Path, text: str, videos: Sequence[Any] = CELEB, wanted: Sequence[str] = CELEB_TEST, **rest: Any
) -> Joined:
    return join(read(written(folder, text), "score", PROBABILITY), videos, wanted, **rest)


# ------------------------------------------------------------------------------------------- what a number means
@pytest.mark.parametrize(
    ("meaning", "value", "logit"),
    [
        (Meaning(), 0.8, math.log(4)),  # odds of 4 to 1
        (Meaning(), 0.5, 0.0),
        (Meaning(higher_is="real"), 0.8, -math.log(4)),
        (Meaning(score_is="logit"), 1.5, 1.5),
        (Meaning(score_is="logit"), 1000.0, 1000.0),  # as P(fake) it would be 1, like many others
        (Meaning(score_is="logit", higher_is="real"), 1.5, -1.5),
    ],
)
def test_a_number_becomes_the_log_odds_of_fake(meaning: Meaning, value: float, logit: float) -> None:
    assert meaning.logit(value) == pytest.approx(logit)


def test_sure_scores_keep_finite_log_odds_and_their_order() -> None:
    logits = [Meaning().logit(value) for value in (0.0, 1e-300, 1e-20, 0.5, 1 - 1e-15, 1.0)]
    assert all(map(math.isfinite, logits))
    assert all(low < high for low, high in pairwise(logits))


# ----------------------------------------------------------------------------------------------- which video it is
def test_lines_of_videos_and_of_frames(tmp_path: Path) -> None:
    of_videos = joined(tmp_path, f"score,video_id\n0.25,{CELEB_TEST[0]}\n1,{CELEB_TEST[1]}\n")
    assert of_videos.scores == {CELEB_TEST[0]: {0: 0.25}, CELEB_TEST[1]: {0: 1.0}}
    of_frames = joined(tmp_path, f"video_id,frame_index,score\n{CELEB_TEST[0]},7,0.5\n{CELEB_TEST[0]},3.0,0\n")
    assert of_frames.scores == {CELEB_TEST[0]: {7: 0.5, 3: 0.0}}
    assert of_frames.absent == (CELEB_TEST[1],)


def test_a_parquet_file_says_the_same(tmp_path: Path) -> None:
    pd.DataFrame({"video_id": CELEB_TEST, "p": [0.25, 1]}).to_parquet(tmp_path / "scores.parquet")
    file = read(tmp_path / "scores.parquet", "p", PROBABILITY)
    assert join(file, CELEB, CELEB_TEST).scores == {CELEB_TEST[0]: {0: 0.25}, CELEB_TEST[1]: {0: 1.0}}
    assert not file.by_frame


@pytest.mark.parametrize(
    "path",
    [
        "Celeb-real/videos/id0_0000.mp4",
        "/scratch/me/Celeb-DF-v2/Celeb-real/id0_0000.avi",
        "id0_0000.mp4",
        "id0_0000",
        "C:\\\\data\\\\Celeb-real\\\\id0_0000.mp4",
    ],
)
def test_a_path_names_the_video_whose_path_it_ends_like(path: str, tmp_path: Path) -> None:
    assert joined(tmp_path, f"path,score\n{path},0.5\n").scores == {CELEB_TEST[0]: {0: 0.5}}


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/x/manipulated/FaceSwap/c23/videos/000_003.mp4", "FaceSwap"),
        ("Deepfakes/000_003.mp4", "Deepfakes"),
        ("my_faces/c23/FaceSwap/000_003", "FaceSwap"),
        ("crops/ffpp_c23/faceswap/000_003.png", "FaceSwap"),
        ("c40_models/manipulated/FaceSwap/c23/videos/000_003.mp4", "FaceSwap"),  # all of its own path
    ],
)
def test_folders_tell_videos_of_one_name_apart(path: str, method: str, tmp_path: Path) -> None:
    scores = joined(tmp_path, f"path,score\n{path},0.5\n", FFPP, FFPP_TEST).scores
    assert list(scores) == [f"ffpp/{method}/c23/000_003"]


def test_what_shares_a_source_with_training_is_left_out_in_silence(tmp_path: Path) -> None:
    text = f"video_id,score\n{CELEB_TEST[0]},0.5\n{CELEB_TEST[1]},0.5\n"
    kept = joined(tmp_path, text, wanted=CELEB_TEST[:1], idle=CELEB_TEST[1:])
    assert (list(kept.scores), kept.absent, kept.num_left_out) == ([CELEB_TEST[0]], (), 1)


# ----------------------------------------------------------------------------------------------------- what is wrong
REAL, FAKE = CELEB_TEST
C40 = "ffpp/FaceSwap/c40/000_003"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"video_id,score\n{REAL},high\n", "score must be a finite number: line 2 'high'"),
        (f"video_id,score\n{REAL},0.5\n{FAKE},nan\n", "score must be a finite number: line 3 'nan'"),
        (f"video_id,score\n{REAL},\n", "score must be a finite number: line 2 ''"),
        (f"video_id,score\n{REAL},1.5\n", "score must be in [0, 1]; of log odds, say --score-is logit: line 2 '1.5'"),
        ("video_id,score\n,0.5\n", "video_id is empty: line 2"),
        (
            f"video_id,score,frame_index\n{REAL},0.5,-1\n",
            "frame_index must be a whole number, from 0 to 2147483647: line 2 '-1'",
        ),
        (f"video_id,score,frame_index\n{REAL},0.5,2147483648\n", "from 0 to 2147483647: line 2 '2147483648'"),
        (f'"video_id"s,score\n{REAL},0.5\n', "is not CSV after line 0"),
        (f"video_id,p\n{REAL},0.5\n", "the column score with the scores (--score-column names another); it has video_"),
        (f"video_id;score\n{REAL};0.5\n", "it seems to be separated by ';', save it with commas"),
        (f"video_id,score\n{REAL},0,5\n", "line 2 has more fields than the first line"),
        (f"video_id,score\n{REAL}\n", "line 2 has fewer fields than the first line"),
        ("video_id,score\n", "holds no scores"),
        (f"video_id,score,score\n{REAL},0.9,0.1\n", "has more than one column score; keep one of each"),
        (f"video_id,score,Frame\n{REAL},0.9,1\n", "has a column Frame: call it frame_index if scores are of frames"),
        (f"video_id,score\n{REAL},0_0.5\n", "score must be a finite number: line 2 '0_0.5'"),
    ],
)
def test_a_file_that_is_no_table_of_scores(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ScoreFileError, match=re.escape(said)):
        joined(tmp_path, text)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (f"{REAL}.mp4", f"an unknown video_id, which has a file's extension: line 2 '{REAL}.mp4' is '{REAL}'?"),
        (REAL.removeprefix("celeb_df/"), f"which lacks the prefix celeb_df/: line 2 'Celeb-real/id0_0000' is '{REAL}'"),
        (REAL.upper(), f"which has other capitals: line 2 '{REAL.upper()}' is '{REAL}'?"),
        (
            "celeb-real/id0_0000.mp4",
            "which has a file's extension and lacks the prefix celeb_df/ and has other capitals: line 2",
        ),
        ("celeb_df/Celeb-real/id0_000", f"an unknown video_id: line 2 'celeb_df/Celeb-real/id0_000' is it '{REAL}'?"),
        ("nothing like it", "an unknown video_id: line 2 'nothing like it'\n"),
        ("celeb_df/Celeb-real/id1_0000", "of split train, where test is scored; take these lines out, or say --ignore"),
    ],
)
def test_a_video_id_that_names_no_video_of_the_part(key: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ScoreFileError) as error:
        joined(tmp_path, f"video_id,score\n{key},0.5\n")
    assert said in f"{error.value}\n"


@pytest.mark.parametrize(
    ("path", "wanted", "said"),
    [
        (
            "000_003.mp4",
            FFPP_TEST,
            "a path that fits several videos: write more of its folders, or video_id: line 2 '000_003.mp4' fits "
            "'ffpp/Deepfakes/c23/000_003', 'ffpp/FaceSwap/c23/000_003'",
        ),
        ("x/FaceSwap/c40/videos/000_003.mp4", FFPP_TEST, "of compression c40, where c23 is scored (--codec)"),
        ("FaceSwap/c23/000_003.mp4", FFPP_TEST[:1], "of manipulation FaceSwap, where Deepfakes is scored (--test-on "),
        ("faceswap/c23/000_003.mp4", FFPP_TEST[:1], "of manipulation FaceSwap, where Deepfakes is scored"),
        ("FaceSwap_C40/000_003.mp4", FFPP_TEST, "of compression c40, where c23 is scored"),
        ("crops/ffpp_c40/Deepfakes/000_003.mp4", FFPP_TEST, "of compression c40, where c23 is scored"),
        ("FF-FS/000_003.mp4", FFPP_TEST[:1], "of manipulation FaceSwap, where Deepfakes is scored"),
        ("Deepfakes_raw/000_003.mp4", FFPP_TEST, "a path that names another compression or manipulation"),
        ("NeuralTextures/c23/000_003.mp4", FFPP_TEST, "a path that names another compression or manipulation"),
        ("000_003.mp4", FFPP_TEST[:1], "Deepfakes/000_003.mp4 would be of Deepfakes"),
        ("Deepfakes/000_003.c40", FFPP_TEST, "a path that fits no video"),
        ("Deepfakes/000_003.real", FFPP_TEST, "a path that fits no video"),
        ("000_004.mp4", FFPP_TEST, "a path that fits no video: line 2 '000_004.mp4' is it '000_003'?"),
    ],
)
def test_a_path_that_names_no_video_of_the_part(path: str, wanted: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ScoreFileError, match=re.escape(said)):
        joined(tmp_path, f"path,score\n{path},0.5\n", FFPP, wanted)


def test_a_path_in_other_capitals(tmp_path: Path) -> None:
    with pytest.raises(ScoreFileError, match=r"fits a video but for capitals: line 2 'ID0_0000\.mp4' is it 'id0_0000'"):
        joined(tmp_path, "path,score\nID0_0000.mp4,0.5\n")


def test_a_video_that_is_given_twice(tmp_path: Path) -> None:
    with pytest.raises(ScoreFileError, match=rf"one score of each video: line 3 '{REAL}', as line 2"):
        joined(tmp_path, f"video_id,score\n{REAL},0.5\n{REAL},0.5\n")
    twice = f"video_id,score,frame_index\n{REAL},0.5,1\n{REAL},0.5,2\n{REAL},0.5,1\n"
    with pytest.raises(ScoreFileError, match=rf"one score of each video and frame: line 4 '{REAL}', as line 2"):
        joined(tmp_path, twice)


def test_of_each_kind_of_problem_the_first_lines_and_their_number(tmp_path: Path) -> None:
    lines = "".join(f"unknown-{number},0.5\n" for number in range(5)) + f"{REAL}.mp4,0.5\n"
    with pytest.raises(ScoreFileError) as error:
        joined(tmp_path, f"video_id,score\n{lines}")
    head, unknown, extension = str(error.value).splitlines()
    assert head == f"{tmp_path}/scores.csv is not scored:"
    assert unknown == (
        "  5 x an unknown video_id: line 2 'unknown-0', line 3 'unknown-1', line 4 'unknown-2' and 2 more"
    )
    assert extension.startswith("  1 x an unknown video_id, which has a file's extension: line 7")


def test_other_videos_are_left_out_where_one_says_so(tmp_path: Path) -> None:
    other = CELEB[1]["video_id"]
    kept = joined(tmp_path, f"video_id,score\n{REAL},0.5\n{other},0.5\n", others=True)
    assert (list(kept.scores), kept.num_left_out) == ([REAL], 1)
    with pytest.raises(ScoreFileError, match="none of its 1 lines is of a video that is to be scored"):
        joined(tmp_path, f"video_id,score\n{other},0.5\n", others=True)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScoreFileError, match=r"must end in \.csv or \.parquet"):
        read(written(tmp_path, "", "scores.txt"), "score", PROBABILITY)
    with pytest.raises(ScoreFileError, match="is not a Parquet file"):
        read(written(tmp_path, "x", "scores.parquet"), "score", PROBABILITY)
    (tmp_path / "latin.csv").write_bytes(b"video_id,score\n\xe9,1\n")
    with pytest.raises(ScoreFileError, match="is not UTF-8 text"):
        read(tmp_path / "latin.csv", "score", PROBABILITY)


def test_a_large_file_is_read_and_joined_in_seconds(tmp_path: Path) -> None:
    """A near miss is looked for only where it is shown."""
    rows: list[Mapping[str, Any]] = [video(f"x/{i:05}", f"videos/{i:05}.mp4", "test") for i in range(5000)]
    path = written(tmp_path, "video_id,score\n" + "".join(f"y/{i:05},0.5\n" for i in range(5000)))
    with pytest.raises(ScoreFileError, match="5000 x an unknown video_id"):
        join(read(path, "score", PROBABILITY), rows, [row["video_id"] for row in rows])


def test_a_folder_called_as_the_dataset_names_no_manipulation(tmp_path: Path) -> None:
    rows = [video("dfdc/test/a", "test/a.mp4", "test"), video("dfdc/test/b", "test/b.mp4", "test", method="dfdc")]
    assert joined(tmp_path, "path,score\n/data/dfdc/a.mp4,0.5\n", rows, ["dfdc/test/a"]).absent == ()


def test_log_odds_that_look_like_probabilities_are_noticed(tmp_path: Path) -> None:
    for score, noticed in ((0.9, True), (1.1, False)):
        file = read(written(tmp_path, f"video_id,score\nx,{score}\ny,0\n"), "score", Meaning(score_is="logit"))
        assert bool(file.hint(Meaning(score_is="logit"))) is noticed
    assert file.hint(Meaning()) == ""
