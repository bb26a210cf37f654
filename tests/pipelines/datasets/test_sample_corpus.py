"""The sample corpus: what the adapters, the detector and the models rely on."""

import re
import subprocess
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import dlib
import numpy as np
import pytest

from pipelines import datasets
from pipelines.datasets.sample import corpus, plan
from pipelines.datasets.sample.forgeries import forge
from pipelines.datasets.sample.people import Person, make_person, portraits
from pipelines.datasets.sample.takes import film, make_take
from pipelines.media import decode
from tests.pipelines.media.taking import take


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    """Where lists of archives are remembered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def roots(folder) -> dict[str, str]:
    return corpus.make(folder, size="tiny", names=corpus.FOLDERS)


@pytest.fixture(scope="module")
def rows(roots) -> dict[str, dict]:
    return {row["video_id"]: row for name in corpus.NAMES for row in datasets.load(name, roots).to_pylist()}


@pytest.fixture(scope="module")
def people() -> list[Person]:
    pair = portraits()
    return [make_person(pair, np.random.default_rng(seed)) for seed in range(2)]


def frames_of(path: Path) -> np.ndarray:
    return np.stack([frame.rgb for frame in take(path, 100).frames])


def read(roots: dict[str, str], row: dict, column: str = "uri") -> np.ndarray:
    return frames_of(Path(roots[row["root"]]) / row[column])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_adapters_find_every_video(rows):
    found = Counter((row["dataset"], row["label"]) for row in rows.values())
    # pairs 1, 1, 1 of FF++ in two compressions; each of the six is a target of DeeperForensics, once
    of_both = {name: (found[name, 0], found[name, 1]) for name in corpus.NAMES}
    assert of_both == {
        "ffpp": (12, 48),
        "celeb_df": (5, 4),
        "deeper_forensics": (6, 6),  # its real ones are FF++'s in c23
        "dfdc": (4, 4),
        "dfd": (4, 4),  # two actors, two scenes
        "dfdcp": (4, 4),
        "ffiw": (4, 4),
        "wild_deepfake": (4, 4),  # one archive of two sequences in train and in test
    }


def test_an_outline_has_the_videos_that_are_not_made_yet(rows, tmp_path):
    with corpus.outlined(tmp_path, size="tiny", names=corpus.FOLDERS) as roots:
        outlined = {row["video_id"]: row for name in corpus.NAMES for row in datasets.load(name, roots).to_pylist()}
        home = Path(roots["ffpp"]).parent
    assert outlined == rows
    assert not home.exists()


def test_an_outline_has_what_is_made_where_it_is(roots):
    folder = Path(roots["ffpp"]).parents[1]
    with corpus.outlined(folder, size="tiny", names=corpus.FOLDERS) as there:
        assert there == roots


@pytest.mark.parametrize("name", corpus.FOLDERS)
def test_every_file_is_a_video_of_the_adapter_or_one_of_its_lists_or_masks(roots, name):
    adapter = "celeb_df" if name == "celeb_df_plus" else name
    own = datasets.load(adapter, roots | {adapter: roots[name]}).to_pylist()
    root = Path(datasets.folder_of(roots[name]))
    mine = [row for row in own if row["root"] == adapter]  # DeeperForensics has its real class from FF++
    assert all(decode.open_source(root / row["uri"]).times for row in mine)
    if name == "own_videos":
        assert len(mine) == 8
        return
    used = {re.sub(r"(\.tar\.gz)/.*", r"\1", row["uri"]) for row in mine}
    used |= {row["mask_uri"] for row in mine if row["mask_uri"]}
    assert used == {path for path in contents(root) if not path.endswith((".json", ".txt", ".csv"))}


def test_every_fake_with_a_known_counterpart_has_one(rows):
    orphans = [key for key, row in rows.items() if row["label"] and row["real_id"] not in rows]
    assert orphans == [key for key in orphans if key.startswith(("dfdc/test/", "dfdcp/", "wild_deepfake/"))]
    assert all(row["mask_uri"] for row in rows.values() if row["dataset"] == "ffpp" and row["label"])


@pytest.mark.parametrize("size", list(plan.SIZES))
def test_nobody_is_in_two_splits(tmp_path, size):
    """Sources may be shared between datasets (DeeperForensics is made on FF++), never between splits."""
    whole = plan.planned(plan.SIZES[size], seed=0)
    for path in [*whole.texts, *(path for shot in whole.shots for path in shot.paths)]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if ".tar.gz/" in path:
            path += "/0.png"
            (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(whole.texts.get(path, ""))
    for folder in list(tmp_path.rglob("*.tar.gz")):
        corpus._pack(folder)
    roots = {name: str(tmp_path / folder) for name, folder in corpus.FOLDERS.items()}
    splits = defaultdict(set)
    for name in corpus.NAMES:
        for row in datasets.load(name, roots).to_pylist():
            for source in row["source_ids"]:
                splits[source].add(row["split"])
    assert {source: found for source, found in splits.items() if len(found) > 1} == {}
    assert len(splits) >= 20


def test_a_person_is_drawn_from_one_split_only():
    """As above, for the people behind the sources, whom the adapters cannot see."""
    whole = plan.planned(plan.SIZES["full"], seed=0)
    first = 0
    of_part = {}
    for split, num_pairs in zip(("train", "val", "test"), plan.SIZES["full"].pairs, strict=True):
        of_part |= {f"ffpp/{i:03d}": split for i in range(first, first + 2 * num_pairs)}
        first += 2 * num_pairs
    actors = defaultdict(set)
    for shot in whole.shots:
        if shot.dataset == "ffpp":
            donors = {fake.donor for fake in shot.fakes if fake.dataset == "ffpp"}
            assert {of_part[donor] for donor in donors} == {of_part[shot.person]}
            for fake in shot.fakes:
                if fake.dataset == "deeper_forensics":
                    actors[fake.donor].add(of_part[shot.person])
    assert all(len(parts) == 1 for parts in actors.values())
    assert sum(parts == {"test"} for parts in actors.values()) == list(of_part.values()).count("test")
    for name, train in (("dfdcp", "643942"), ("ffiw", "/train/"), ("wild_deepfake", "_train/")):
        splits = defaultdict(set)
        for shot in whole.shots:
            if shot.dataset == name:
                path = shot.paths[0]
                in_train = int(Path(path).stem.split("_")[0]) < 643942 + 2 * 10007 if name == "dfdcp" else train in path
                for person in shot.people:
                    splits[person].add(in_train)
        assert len(splits) > 12
        assert all(len(found) == 1 for found in splits.values())


def test_files_are_h264_with_b_frames(roots, rows):
    for row in [row for row in rows.values() if row["uri"].endswith(".mp4")][::7]:
        with av.open(str(Path(roots[row["root"]]) / row["uri"])) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert (stream.frames, stream.average_rate) == (5, 25)
            assert stream.codec_context.has_b_frames


@pytest.mark.parametrize("forgery", [*plan.MANIPULATIONS.values(), *plan.FORGERIES.values()])
def test_a_forgery_changes_its_mask_and_nothing_else(people, forgery):
    look = plan.LOOKS["ffpp"]
    take, donor = (make_take(person, look, 3, np.random.default_rng(i)) for i, person in enumerate(people))
    frames = film(take)
    fakes, masks = forge(frames, take, donor, forgery, np.random.default_rng(0))
    changed = (fakes != frames).any(-1)
    assert not changed[~masks].any()
    assert changed[masks].mean() > 0.7
    assert 0.01 < masks.mean() < 0.2  # a face is about 115 x 130 of 320 x 240 px


def check_mask(fake: np.ndarray, real: np.ndarray, mask: np.ndarray) -> None:
    mask = mask.mean(-1)
    assert ((mask < 40) | (mask > 215)).mean() > 0.99
    difference = np.abs(fake.astype(float) - real).mean(-1)
    assert difference.shape == mask.shape
    assert difference[mask > 127].mean() > 3 * difference[mask <= 127].mean()
    assert difference[mask <= 127].mean() < 1.5  # grey levels, H.264 at crf 23


def test_after_compression_a_fake_still_differs_where_its_mask_says(roots, rows):
    for method in plan.MANIPULATIONS:
        fake = rows[f"ffpp/{method}/c23/004_005"]
        check_mask(read(roots, fake), read(roots, rows[fake["real_id"]]), read(roots, fake, "mask_uri"))


@pytest.fixture(scope="module")
def couples(roots) -> dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """(fake, real, mask) of the videos with two people."""
    dfd, ffiw = Path(roots["dfd"]), Path(roots["ffiw"]) / "FFIW10K-v1-release"
    fakes = sorted(dfd.glob("manipulated_sequences/*/c23/videos/*__secure_conversation__*.mp4"))
    triples = {
        "dfd": [
            (
                path,
                dfd / f"original_sequences/actors/c23/videos/{path.name[:2]}__secure_conversation.mp4",
                path.parents[2] / "masks/videos" / path.name,
            )
            for path in fakes
        ],
        "ffiw": [
            (path, ffiw / "source/val" / path.name, ffiw / "target_mask/val" / f"{path.stem}_mask.mp4")
            for path in sorted(ffiw.glob("target/val/*.mp4"))
        ],
    }
    return {name: [tuple(map(frames_of, paths)) for paths in found] for name, found in triples.items()}


@pytest.mark.parametrize("name", ["dfd", "ffiw"])
def test_of_two_people_one_is_forged_and_the_mask_says_which(couples, name):
    detect = dlib.get_frontal_face_detector()
    sides = set()
    for fake, real, mask in couples[name]:
        check_mask(fake, real, mask)
        boxes = detect(fake[2], 0)
        assert len(boxes) == 2
        inside = [mask[2, box.top() : box.bottom(), box.left() : box.right()].mean() / 255 for box in boxes]
        assert sorted(share > 0.5 for share in inside) == [False, True]
        forged, other = (boxes[np.argmax(inside)], boxes[np.argmin(inside)])
        sides.add(forged.left() < other.left())
        assert min(inside) == pytest.approx(0, abs=0.01)
        assert name == "ffiw" or other.width() > forged.width()  # the largest face is the wrong one
    assert sides == {True, False}


def test_sequences_of_wild_deepfake_are_face_crops_in_archives(roots):
    home = Path(roots["wild_deepfake"]) / "deepfake_in_the_wild"
    archives = sorted(home.glob("*/*.tar.gz"))
    assert [path.relative_to(home).as_posix() for path in archives] == [
        f"{kind}_{split}/{number}.tar.gz" for kind in ("fake", "real") for split, number in (("test", 2), ("train", 0))
    ]
    for path in archives:
        number, kind = path.name.split(".")[0], path.parent.name.split("_")[0]
        for sequence in range(2):
            assert frames_of(path / number / kind / str(sequence)).shape == (2, 224, 224, 3)


def test_c40_is_more_compressed_than_c23(roots):
    paths = sorted(Path(roots["ffpp"]).glob("*_sequences/*/c23/videos/*.mp4"))
    assert len(paths) == 30
    for path in paths:
        assert Path(str(path).replace("c23", "c40")).stat().st_size < 0.7 * path.stat().st_size


def test_dlib_finds_one_face_in_each_frame(roots, rows):
    detect = dlib.get_frontal_face_detector()
    single = [row for row in rows.values() if row["dataset"] != "ffiw" and "secure" not in row["uri"]]
    frames = [frame for row in single[::4] for frame in read(roots, row)[::4]]
    boxes = [detect(frame, 0) for frame in frames]  # without upsampling
    assert sum(len(found) == 1 for found in boxes) >= 0.95 * len(frames)
    assert all(75 <= box.width() <= 160 for found in boxes for box in found)


def test_people_look_different(people):
    a, b = (person.image[130:210, 120:200].astype(float) for person in people)
    assert np.abs(a - b).mean() > 10
    assert np.abs(people[0].landmarks - people[1].landmarks).max() > 3


@pytest.mark.nightly
def test_the_seed_decides_everything_whatever_else_is_made(roots, tmp_path):
    names = ("dfdc", "wild_deepfake", "dfd", "ffiw")
    again = corpus.make(tmp_path, size="tiny", names=names)
    assert set(again) == set(names)
    for name in names:
        assert contents(Path(again[name])) == contents(Path(roots[name]))


@pytest.mark.nightly
def test_another_seed_gives_other_people():
    pair = portraits()
    one, other = (make_person(pair, plan.rng_of(seed, "person ffpp/000")) for seed in (0, 1))
    assert np.abs(one.landmarks - other.landmarks).max() > 1


def test_a_second_call_writes_nothing(folder, roots, monkeypatch):
    monkeypatch.setattr(corpus, "_write", lambda *_: pytest.fail("made again"))
    assert corpus.make(folder, size="tiny", names=corpus.FOLDERS) == roots
    default = {name: roots[name] for name in corpus.NAMES}
    assert corpus.make(folder, size="tiny") == default == corpus.made(folder, size="tiny")


@pytest.fixture
def two_shots(monkeypatch) -> None:
    """A corpus of two videos, for tests of how it is put in place."""
    shots = [
        plan.Shot(person="ffpp/000", take="ffpp/000", dataset=name, outputs={f"{folder}/x.mp4": 23})
        for name, folder in (("ffpp", "FaceForensics++"), ("dfdc", "DFDC"))
    ]
    monkeypatch.setattr(corpus, "planned", lambda size, seed: plan.Plan(shots, {"DFDC/a.txt": "text"}))


@pytest.mark.nightly
@pytest.mark.usefixtures("two_shots")
def test_only_what_is_asked_for_is_made_and_the_rest_later(tmp_path):
    calls = []
    assert corpus.made(tmp_path, size="tiny", names=["ffpp"]) is None
    roots = corpus.make(tmp_path, 0, lambda *done: calls.append(done), size="tiny", names=["ffpp"])
    home = Path(roots["ffpp"]).parent
    assert sorted(contents(home)) == ["FaceForensics++/x.mp4", "_done.json"]
    before = (home / "FaceForensics++/x.mp4").stat()
    assert corpus.made(tmp_path, size="tiny", names=["ffpp", "dfdc"]) is None
    corpus.make(tmp_path, 0, lambda *done: calls.append(done), size="tiny", names=["dfdc", "ffpp"])
    assert sorted(contents(home)) == ["DFDC/a.txt", "DFDC/x.mp4", "FaceForensics++/x.mp4", "_done.json"]
    assert (home / "FaceForensics++/x.mp4").stat() == before
    assert calls == [(1, 1), (1, 1)]


def test_a_dataset_brings_what_it_needs():
    assert plan.with_needs(["deeper_forensics"]) == ("ffpp", "deeper_forensics")
    with pytest.raises(ValueError, match=r"no celebdf, dfds; did you mean 'celeb_df'\?"):
        corpus.make("unused", names=["ffpp", "dfds", "celebdf"])


@pytest.mark.usefixtures("two_shots")
def test_what_a_killed_make_left_is_replaced(tmp_path):
    name = f"sample-corpus-v{corpus.VERSION}-tiny-seed0"
    partial, home = tmp_path / f".{name}.partial", tmp_path / name
    for folder in (partial, home / "DFDC"):  # killed while writing; killed before it said that DFDC is complete
        folder.mkdir(parents=True)
        (folder / "half.mp4").touch()
    corpus.make(tmp_path, size="tiny", names=["ffpp", "dfdc"])
    assert sorted(contents(home)) == ["DFDC/a.txt", "DFDC/x.mp4", "FaceForensics++/x.mp4", "_done.json"]
    assert not partial.exists()


@pytest.mark.usefixtures("two_shots")
def test_of_two_that_race_one_makes_it(tmp_path, monkeypatch):
    made = []
    write = corpus._write
    monkeypatch.setattr(corpus, "_write", lambda *args: (made.append(1), write(*args)))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: corpus.make(tmp_path, size="tiny", names=["ffpp", "dfdc"]), range(2))
    assert first == second
    assert made == [1]


def test_an_unknown_size_is_named():
    with pytest.raises(ValueError, match="unknown size 'huge' of the sample corpus; known: full, tiny"):
        corpus.make("nowhere", size="huge")


def test_it_needs_no_ray_and_no_torch():
    heavy = {"ray", "torch", "mlflow", "models"}
    code = f"import sys, pipelines.datasets.sample.corpus; print(sorted({heavy} & set(sys.modules)))"
    root = Path(corpus.__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
