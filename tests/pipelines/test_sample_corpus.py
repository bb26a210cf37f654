"""The sample corpus: what the adapters, the detector and the models rely on."""

import subprocess
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import dlib
import numpy as np
import pytest

from pipelines import _sample_faces as faces
from pipelines import datasets, sample_corpus


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def roots(folder) -> dict[str, str]:
    return sample_corpus.make(folder, size="tiny")


@pytest.fixture(scope="module")
def rows(roots) -> dict[str, dict]:
    return {row["video_id"]: row for name in sample_corpus.NAMES for row in datasets.load(name, roots).to_pylist()}


@pytest.fixture(scope="module")
def people() -> list[faces.Person]:
    pair = faces.portraits()
    return [faces.make_person(pair, np.random.default_rng(seed)) for seed in range(2)]


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read(roots: dict[str, str], row: dict, column: str = "uri") -> np.ndarray:
    return decode(Path(roots[row["root"]]) / row[column])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_adapters_find_what_the_summary_promises(rows):
    found = Counter((row["dataset"], row["label"]) for row in rows.values())
    # pairs 1, 1, 1 of FF++ in two compressions; each of the six is a target of DeeperForensics, of two actors in test
    assert sample_corpus.summary("tiny") == {
        "ffpp": {"real": 12, "fake": 48, "frames": 5},
        "celeb_df": {"real": 5, "fake": 4, "frames": 5},
        "deeper_forensics": {"real": 0, "fake": 8, "frames": 5},
        "dfdc": {"real": 4, "fake": 4, "frames": 5},
    }
    for name, counts in sample_corpus.summary("tiny").items():
        real = 6 if name == "deeper_forensics" else counts["real"]  # FF++ in c23
        assert (found[name, 0], found[name, 1]) == (real, counts["fake"])


def test_every_fake_with_a_known_counterpart_has_one(rows):
    orphans = [key for key, row in rows.items() if row["label"] and row["real_id"] not in rows]
    assert orphans == [key for key in orphans if key.startswith("dfdc/test/")]
    assert all(row["mask_uri"] for row in rows.values() if row["dataset"] == "ffpp" and row["label"])


@pytest.mark.parametrize("size", list(sample_corpus.SIZES))
def test_nobody_is_in_two_splits(tmp_path, size):
    """Sources may be shared between datasets (DeeperForensics is made on FF++), never between splits."""
    plan = sample_corpus._plan(sample_corpus.SIZES[size], seed=0)
    for path in [*plan.texts, *(path for shot in plan.shots for path in sample_corpus._paths(shot))]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(plan.texts.get(path, ""))
    roots = {name: str(tmp_path / folder) for name, folder in sample_corpus.FOLDERS.items()}
    splits = defaultdict(set)
    for name in sample_corpus.NAMES:
        for row in datasets.load(name, roots).to_pylist():
            for source in row["source_ids"]:
                splits[source].add(row["split"])
    assert {source: found for source, found in splits.items() if len(found) > 1} == {}
    assert len(splits) >= 20


def test_a_person_is_drawn_from_one_split_only():
    """As above, for the people behind the sources, whom the adapters cannot see."""
    plan = sample_corpus._plan(sample_corpus.SIZES["full"], seed=0)
    tested = {f"ffpp/{i:03d}" for i in range(18, 24)}
    for shot in plan.shots:
        if shot.dataset == "ffpp":
            donors = {fake.donor for fake in shot.fakes if fake.dataset == "ffpp"}
            assert donors <= tested if shot.person in tested else donors.isdisjoint(tested)


def test_files_are_h264_with_b_frames(roots, rows):
    for row in list(rows.values())[::7]:
        with av.open(str(Path(roots[row["root"]]) / row["uri"])) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert (stream.frames, stream.average_rate) == (5, 25)
            assert stream.codec_context.has_b_frames


@pytest.mark.parametrize("forgery", [*sample_corpus.MANIPULATIONS.values(), *sample_corpus.FORGERIES.values()])
def test_a_forgery_changes_its_mask_and_nothing_else(people, forgery):
    look = sample_corpus.LOOKS["ffpp"]
    take, donor = (faces.make_take(person, look, 3, np.random.default_rng(i)) for i, person in enumerate(people))
    frames = faces.film(take)
    fakes, masks = faces.forge(frames, take, donor, forgery, np.random.default_rng(0))
    changed = (fakes != frames).any(-1)
    assert not changed[~masks].any()
    assert changed[masks].mean() > 0.7
    assert 0.01 < masks.mean() < 0.2  # a face is about 115 x 130 of 320 x 240 px


def test_after_compression_a_fake_still_differs_where_its_mask_says(roots, rows):
    for method in sample_corpus.MANIPULATIONS:
        fake = rows[f"ffpp/{method}/c23/004_005"]
        mask = read(roots, fake, "mask_uri").mean(-1)
        assert ((mask < 40) | (mask > 215)).mean() > 0.99
        difference = np.abs(read(roots, fake).astype(float) - read(roots, rows[fake["real_id"]])).mean(-1)
        assert difference.shape == mask.shape
        assert difference[mask > 127].mean() > 3 * difference[mask <= 127].mean()
        assert difference[mask <= 127].mean() < 1.5  # grey levels, H.264 at crf 23


def test_c40_is_more_compressed_than_c23(roots):
    paths = sorted(Path(roots["ffpp"]).glob("*_sequences/*/c23/videos/*.mp4"))
    assert len(paths) == 30
    for path in paths:
        assert Path(str(path).replace("c23", "c40")).stat().st_size < 0.7 * path.stat().st_size


def test_dlib_finds_one_face_in_each_frame(roots, rows):
    detect = dlib.get_frontal_face_detector()
    frames = [frame for row in list(rows.values())[::4] for frame in read(roots, row)[::4]]
    boxes = [detect(frame, 0) for frame in frames]  # without upsampling
    assert sum(len(found) == 1 for found in boxes) >= 0.95 * len(frames)
    assert all(75 <= box.width() <= 160 for found in boxes for box in found)


def test_people_look_different(people):
    a, b = (person.image[130:210, 120:200].astype(float) for person in people)
    assert np.abs(a - b).mean() > 10
    assert np.abs(people[0].landmarks - people[1].landmarks).max() > 3


def test_the_seed_decides_everything(roots, tmp_path):
    again = sample_corpus.make(tmp_path, size="tiny")
    assert contents(Path(again["ffpp"])) == contents(Path(roots["ffpp"]))
    assert contents(Path(again["dfdc"])) == contents(Path(roots["dfdc"]))


def test_another_seed_gives_other_people():
    pair = faces.portraits()
    one, other = (faces.make_person(pair, sample_corpus._rng(seed, "person ffpp/000")) for seed in (0, 1))
    assert np.abs(one.landmarks - other.landmarks).max() > 1


def test_a_second_call_writes_nothing(folder, roots, monkeypatch):
    monkeypatch.setattr(sample_corpus, "_write", lambda *_: pytest.fail("made again"))
    assert sample_corpus.make(folder, size="tiny") == roots


@pytest.fixture
def one_shot(monkeypatch) -> None:
    """A corpus of a single video, for tests of how it is put in place."""
    shot = sample_corpus.Shot(person="ffpp/000", take="ffpp/000", dataset="ffpp", outputs={"FaceForensics++/x.mp4": 23})
    monkeypatch.setattr(sample_corpus, "_plan", lambda size, seed: sample_corpus.Plan([shot], {"DFDC/a.txt": "text"}))


@pytest.mark.usefixtures("one_shot")
def test_what_a_killed_make_left_is_replaced(tmp_path):
    partial = tmp_path / f".sample-corpus-v{sample_corpus.VERSION}-tiny-seed0.partial"
    partial.mkdir()
    (partial / "half.mp4").touch()
    calls = []
    roots = sample_corpus.make(tmp_path, size="tiny", progress=lambda done, total: calls.append((done, total)))
    home = Path(roots["ffpp"]).parent
    assert sorted(contents(home)) == ["DFDC/a.txt", "FaceForensics++/x.mp4", "_done.json"]
    assert not partial.exists()
    assert calls == [(1, 1)]


@pytest.mark.usefixtures("one_shot")
def test_of_two_that_race_one_makes_it(tmp_path, monkeypatch):
    made = []
    write = sample_corpus._write
    monkeypatch.setattr(sample_corpus, "_write", lambda *args: (made.append(1), write(*args)))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: sample_corpus.make(tmp_path, size="tiny"), range(2))
    assert first == second
    assert made == [1]


def test_an_unknown_size_is_named():
    with pytest.raises(ValueError, match="unknown size 'huge' of the sample corpus; known: full, tiny"):
        sample_corpus.summary("huge")


def test_it_needs_no_ray_and_no_torch():
    code = "import sys, pipelines.sample_corpus; print(sorted({'ray', 'torch', 'mlflow', 'models'} & set(sys.modules)))"
    root = Path(sample_corpus.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
