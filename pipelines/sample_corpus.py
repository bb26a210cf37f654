"""The sample corpus: small videos in the folder layouts of the real datasets, made on first use.

`make(folder)` writes FaceForensics++ (four manipulations with masks, c23 and c40, split lists), Celeb-DF-v2,
DeeperForensics-1.0 and DFDC, a few dozen people each made from two public-domain portraits that installed
packages carry (`skimage.data.astronaut`, NASA; matplotlib's `grace_hopper.jpg`, U.S. Navy). The adapters, the
decoder and the models run on it as on the real thing; scores on it say that the machinery works, no more.

What is kept from the real datasets: nobody is in two splits; a fake differs from its real counterpart only
where its mask is white (before compression); each dataset has its own forging, light, noise, frame size and
compression, so that a detector trained on one meets something new in another.
"""

import fcntl
import json
import os
import shutil
import string
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np

from pipelines import _sample_faces as faces
from pipelines._sample_faces import Forgery, Look

VERSION = 2  # raise it when any frame of the corpus changes

FOLDERS = {
    "ffpp": "FaceForensics++",
    "celeb_df": "Celeb-DF-v2",
    "deeper_forensics": "DeeperForensics-1.0",
    "dfdc": "DFDC",
}
NAMES = tuple(FOLDERS)
DONE = "_done.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much is made."""

    pairs: tuple[int, int, int]  # FF++ pairs of people in train, val, test: two reals, eight fakes each
    others: tuple[int, int]  # people in train and test of Celeb-DF, and of DFDC: a real and a fake each; at least 2
    num_frames: int


SIZES = {
    "full": Size(pairs=(16, 3, 5), others=(2, 12), num_frames=20),
    "tiny": Size(pairs=(1, 1, 1), others=(2, 2), num_frames=5),
}

LOOKS = {
    "ffpp": Look(size=(320, 240), face_px=(110, 124), gain=(0.9, 1.1), noise=(0.8, 2.0), cast=0.04),
    "celeb_df": Look(size=(256, 256), face_px=(105, 125), gain=(0.95, 1.15), noise=(0.5, 1.5), cast=0.07),
    "dfdc": Look(size=(240, 320), face_px=(92, 108), gain=(0.6, 0.95), noise=(2.5, 5.0), cast=0.1),
}
CODECS = {"c23": 23, "c40": 40}  # FF++ name -> constant rate factor of H.264
CRF = {"celeb_df": 20, "deeper_forensics": 23, "dfdc": 28}
MASK_CRF = 8  # an edge in a mask must stay where it is

MANIPULATIONS = {
    "Deepfakes": Forgery(swaps=True, keeps_shape=False, face_px=(56, 72), feather_px=(8, 14), match=(0.3, 0.8)),
    "Face2Face": Forgery(swaps=False, face_px=(64, 84), feather_px=(6, 10), match=(0.5, 0.8)),
    "FaceSwap": Forgery(swaps=True, face_px=(95, 124), feather_px=(1, 2.5), match=(0.6, 1), match_spread=True),
    "NeuralTextures": Forgery(
        swaps=False, lower_face=True, face_px=(42, 56), feather_px=(4, 8), match=(0.8, 1), sharpen=1.6
    ),
}
FORGERIES = {
    "celeb_df": Forgery(
        swaps=True, keeps_shape=False, face_px=(70, 95), feather_px=(9, 15), match=(0.85, 1), grain=0.3
    ),
    "deeper_forensics": Forgery(
        swaps=True, keeps_shape=False, face_px=(90, 115), feather_px=(10, 18), match=(0.9, 1), grain=0.5
    ),
    "dfdc": Forgery(swaps=True, face_px=(52, 100), feather_px=(2, 14), match=(0.5, 1)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fake:
    """A forgery of a take; paths are below the corpus, with the constant rate factor to encode at."""

    dataset: str
    forgery: Forgery
    donor: str  # person
    outputs: Mapping[str, int]
    mask: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """A person before the camera: one take, written as `outputs`, and what was forged from it."""

    person: str
    take: str
    dataset: str
    outputs: Mapping[str, int]
    fakes: list[Fake] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    shots: list[Shot]
    texts: dict[str, str]  # path -> content of the datasets' own lists


def make(
    folder: str | Path,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    *,
    size: str = "full",
) -> dict[str, str]:
    """The corpus in a folder of its own below `folder`, made unless it is there: {dataset name: root}.

    The same seed gives the same files. `progress(done, total)` is called as takes get finished. The corpus
    appears under its final name only when it is complete; of two processes that want it, one makes it and the
    other waits. Raises ValueError for an unknown `size`.
    """
    plan = _plan(_size(size), seed)
    home = Path(folder) / f"sample-corpus-v{VERSION}-{size}-seed{seed}"
    roots = {name: str(home / FOLDERS[name]) for name in NAMES}
    if (home / DONE).exists():
        return roots
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(home.parent / f".{home.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go by the system even if this process is killed
        if not (home / DONE).exists():
            partial = home.parent / f".{home.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed: we hold the lock
            _write(partial, plan, seed, _size(size).num_frames, progress)
            (partial / DONE).write_text(json.dumps({"version": VERSION, "seed": seed, "size": size}) + "\n")
            partial.rename(home)
    return roots


def summary(size: str = "full") -> dict[str, dict[str, int]]:
    """What `make` would write, per dataset: numbers of `real` and `fake` video files and `frames` in each."""
    num_frames = _size(size).num_frames
    counts = {name: {"real": 0, "fake": 0, "frames": num_frames} for name in NAMES}
    for shot in _plan(_size(size), seed=0).shots:
        counts[shot.dataset]["real"] += len(shot.outputs)
        for fake in shot.fakes:
            counts[fake.dataset]["fake"] += len(fake.outputs)
    return counts


def _size(name: str) -> Size:
    if name not in SIZES:
        raise ValueError(f"unknown size {name!r} of the sample corpus; known: {', '.join(SIZES)}")
    return SIZES[name]


# --- what is made --------------------------------------------------------------------------------------------------


def _plan(size: Size, seed: int) -> Plan:
    plan = Plan([], {})
    _plan_faceforensics(plan, size)
    _plan_celeb_df(plan, size)
    _plan_dfdc(plan, size, seed)
    return plan


def _plan_faceforensics(plan: Plan, size: Size) -> None:
    """FaceForensics++, and DeeperForensics, whose fakes are made from the same takes."""
    home, deeper = FOLDERS["ffpp"], FOLDERS["deeper_forensics"]
    first = 0
    for split, num_pairs in zip(("train", "val", "test"), size.pairs, strict=True):
        ids = [f"{first + i:03d}" for i in range(2 * num_pairs)]
        first += len(ids)
        pairs = [[a, b] for a, b in zip(ids[::2], ids[1::2], strict=True)]
        plan.texts[f"{home}/{split}.json"] = json.dumps(pairs)
        # Every actor sits in one split; two for each test target, one for a few of the others.
        actors = {"train": ["M101"], "val": ["W102"], "test": ["M103", "W104"]}[split]
        targets = ids if split == "test" else ids[:3]
        swapped = {target: [f"{target}_{actor}" for actor in actors] for target in targets}
        plan.texts[f"{deeper}/lists/splits/{split}.txt"] = "".join(f"{n}.mp4\n" for s in swapped.values() for n in s)
        for target, source in [pair for a, b in pairs for pair in ((a, b), (b, a))]:
            fakes = [_ffpp_fake(method, target, source) for method in MANIPULATIONS]
            fakes += [_deeper_fake(name) for name in swapped.get(target, [])]
            outputs = {f"{home}/original_sequences/youtube/{c}/videos/{target}.mp4": crf for c, crf in CODECS.items()}
            plan.shots.append(
                Shot(person=f"ffpp/{target}", take=f"ffpp/{target}", dataset="ffpp", outputs=outputs, fakes=fakes)
            )


def _ffpp_fake(method: str, target: str, source: str) -> Fake:
    folder, name = f"{FOLDERS['ffpp']}/manipulated_sequences/{method}", f"{target}_{source}.mp4"
    return Fake(
        dataset="ffpp",
        forgery=MANIPULATIONS[method],
        donor=f"ffpp/{source}",
        outputs={f"{folder}/{codec}/videos/{name}": crf for codec, crf in CODECS.items()},
        mask=f"{folder}/masks/videos/{name}",
    )


def _deeper_fake(name: str) -> Fake:
    return Fake(
        dataset="deeper_forensics",
        forgery=FORGERIES["deeper_forensics"],
        donor=f"deeper_forensics/{name.split('_')[1]}",
        outputs={f"{FOLDERS['deeper_forensics']}/manipulated_videos/end_to_end/{name}.mp4": CRF["deeper_forensics"]},
    )


def _plan_celeb_df(plan: Plan, size: Size) -> None:
    """Celeb-DF: each celebrity has a real video and is the target of a fake; some test reals are from YouTube."""
    home, crf = FOLDERS["celeb_df"], CRF["celeb_df"]
    listed = []
    num_train, num_test = size.others
    for members in (range(num_test), range(num_test, num_test + num_train)):
        for i in members:
            donor = members[(i - members[0] + 1) % len(members)]
            real, fake = f"Celeb-real/id{i}_0000.mp4", f"Celeb-synthesis/id{i}_id{donor}_0000.mp4"
            forged = Fake(
                dataset="celeb_df",
                forgery=FORGERIES["celeb_df"],
                donor=f"celeb_df/id{donor}",
                outputs={f"{home}/{fake}": crf},
            )
            person = f"celeb_df/id{i}"
            plan.shots.append(
                Shot(person=person, take=person, dataset="celeb_df", outputs={f"{home}/{real}": crf}, fakes=[forged])
            )
            listed += [f"1 {real}", f"0 {fake}"] if i < num_test else []
    for i in range((num_test + 2) // 4):
        real, person = f"YouTube-real/{i:05d}.mp4", f"celeb_df/youtube{i}"
        plan.shots.append(Shot(person=person, take=person, dataset="celeb_df", outputs={f"{home}/{real}": crf}))
        listed.append(f"1 {real}")
    plan.texts[f"{home}/List_of_testing_videos.txt"] = "\n".join(listed) + "\n"


def _plan_dfdc(plan: Plan, size: Size, seed: int) -> None:
    """DFDC: in the train part a fake is forged from a take that is there too, in the test part from another one."""
    home, crf = FOLDERS["dfdc"], CRF["dfdc"]
    rng = _rng(seed, "dfdc/names")
    num_train, num_test = size.others
    metadata, labels = {}, ["filename,label"]
    for i in range(num_train + num_test):
        members = range(num_train) if i < num_train else range(num_train, num_train + num_test)
        person, donor = f"dfdc/{i}", f"dfdc/{members[(i - members[0] + 1) % len(members)]}"
        real, fake = ("".join(rng.choice(list(string.ascii_lowercase), 10)) + ".mp4" for _ in range(2))
        folder = f"{home}/dfdc_train_part_0" if i < num_train else f"{home}/test"
        forged = Fake(dataset="dfdc", forgery=FORGERIES["dfdc"], donor=donor, outputs={f"{folder}/{fake}": crf})
        shot = Shot(person=person, take=person, dataset="dfdc", outputs={f"{folder}/{real}": crf})
        if i < num_train:
            shot.fakes.append(forged)
            metadata[real] = {"label": "REAL", "split": "train"}
            metadata[fake] = {"label": "FAKE", "split": "train", "original": real}
        else:
            plan.shots.append(Shot(person=person, take=f"{person}/forged", dataset="dfdc", outputs={}, fakes=[forged]))
            labels += [f"{real},0", f"{fake},1"]
        plan.shots.append(shot)
    plan.texts[f"{home}/dfdc_train_part_0/metadata.json"] = json.dumps(metadata, indent=1)
    plan.texts[f"{home}/labels.csv"] = "\n".join(labels) + "\n"


# --- making it -----------------------------------------------------------------------------------------------------


def _write(
    home: Path, plan: Plan, seed: int, num_frames: int, progress: Callable[[int, int], None] | None = None
) -> None:
    outputs = [path for shot in plan.shots for path in _paths(shot)]
    for folder in sorted({(home / path).parent for path in [*outputs, *plan.texts]}):
        folder.mkdir(parents=True, exist_ok=True)
    for path, text in plan.texts.items():
        (home / path).write_text(text)
    # Threads, not processes: the time goes into OpenCV and x264, which run without the interpreter lock, and a
    # process pool would import the caller's script again in each worker.
    with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
        pair = faces.portraits()
        names = sorted(
            {shot.person for shot in plan.shots} | {fake.donor for shot in plan.shots for fake in shot.fakes}
        )
        made = pool.map(lambda name: faces.make_person(pair, _rng(seed, f"person {name}")), names)
        people = dict(zip(names, made, strict=True))
        jobs = pool.map(lambda shot: _write_shot(home, shot, people, seed, num_frames), plan.shots)
        for done, _ in enumerate(jobs, start=1):
            if progress:
                progress(done, len(plan.shots))


def _paths(shot: Shot) -> list[str]:
    of_fakes = [path for fake in shot.fakes for path in [*fake.outputs, *([fake.mask] if fake.mask else [])]]
    return [*shot.outputs, *of_fakes]


def _write_shot(home: Path, shot: Shot, people: Mapping[str, faces.Person], seed: int, num_frames: int) -> None:
    take = _take(shot.take, shot.person, shot.dataset, people, seed, num_frames)
    frames = faces.film(take)
    for path, crf in shot.outputs.items():
        encode(home / path, frames, crf)
    for fake in shot.fakes:
        donor = _take(fake.donor, fake.donor, shot.dataset, people, seed, num_frames)
        forged, masks = faces.forge(frames, take, donor, fake.forgery, _rng(seed, *fake.outputs))
        for path, crf in fake.outputs.items():
            encode(home / path, forged, crf)
        if fake.mask:
            encode(home / fake.mask, np.repeat(masks[..., None] * np.uint8(255), 3, -1), MASK_CRF)


def _take(
    name: str, person: str, dataset: str, people: Mapping[str, faces.Person], seed: int, num_frames: int
) -> faces.Take:
    return faces.make_take(people[person], LOOKS[dataset], num_frames, _rng(seed, f"take {name}"))


def _rng(seed: int, *names: str) -> np.random.Generator:
    """A generator of its own for each thing made, so that none depends on the order of making."""
    return np.random.default_rng([seed, zlib.crc32(" ".join(names).encode())])


def encode(path: Path, frames: faces.Image, crf: int) -> None:
    """Write frames (T, H, W, 3) as H.264 in yuv420p at 25 frames per second."""
    with av.open(str(path), "w") as container:
        # By default x264 rounds by what its vector code finds in memory, and two runs differ in some bytes.
        options = {"crf": str(crf), "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=faces.FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the number of threads changes the bytes
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
