"""Which videos the sample corpus has: a plan of all datasets, without any picture.

The plan says who stands before the camera in each take, what is forged from it, and under which names, compressions
and lists the datasets' owners would hand it out. `corpus` writes it.
"""

import json
import string
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from pipelines.common.text import meant
from pipelines.datasets.sample.forgeries import Forgery
from pipelines.datasets.sample.takes import Look

FOLDERS = {
    "ffpp": "FaceForensics++",
    "celeb_df": "Celeb-DF-v2",
    "deeper_forensics": "DeeperForensics-1.0",
    "dfdc": "DFDC",
    "dfd": "DeepFakeDetection",
    "dfdcp": "DFDC-preview",
    "ffiw": "FFIW-10K",
    "wild_deepfake": "WildDeepfake",
    "celeb_df_plus": "Celeb-DF++",
    "own_videos": "own_videos.csv",
}
EXTRAS = ("celeb_df_plus", "own_videos")  # another root for the adapter of celeb_df; a manifest over other datasets
NAMES = tuple(name for name in FOLDERS if name not in EXTRAS)
NEEDS = {"deeper_forensics": ("ffpp",), "own_videos": ("celeb_df", "dfdc")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How many people and frames are made."""

    pairs: tuple[int, int, int]  # FF++ pairs of people in train, val, test: two reals, eight fakes each
    others: tuple[int, int]  # people in train and test of each other dataset: a real and a fake each; at least 2
    num_frames: int


SIZES = {
    "full": Size(pairs=(16, 4, 12), others=(2, 24), num_frames=10),
    "tiny": Size(pairs=(1, 1, 1), others=(2, 2), num_frames=5),
}

LOOKS = {
    "ffpp": Look(size=(320, 240), face_px=(110, 124), gain=(0.9, 1.1), noise=(0.8, 2.0), cast=0.04),
    "celeb_df": Look(size=(256, 256), face_px=(105, 125), gain=(0.95, 1.15), noise=(0.5, 1.5), cast=0.07),
    "dfdc": Look(size=(240, 320), face_px=(92, 108), gain=(0.6, 0.95), noise=(2.5, 5.0), cast=0.1),
    "dfd": Look(size=(424, 240), face_px=(92, 102), gain=(0.95, 1.15), noise=(0.4, 1.2), cast=0.03),
    "dfdcp": Look(size=(288, 288), face_px=(98, 114), gain=(0.7, 1.1), noise=(2.0, 3.5), cast=0.08),
    "ffiw": Look(size=(424, 240), face_px=(90, 108), gain=(0.85, 1.15), noise=(1.0, 2.5), cast=0.06),
    "wild_deepfake": Look(size=(224, 224), face_px=(120, 138), gain=(0.75, 1.2), noise=(0.1, 0.5), cast=0.08),
    "celeb_df_plus": Look(size=(272, 256), face_px=(105, 125), gain=(0.9, 1.2), noise=(0.5, 1.8), cast=0.08),
}
# Who stands beside: in DFD nearer to the camera than the forged person, so that the largest face is the wrong one.
BESIDE = {
    "dfd": replace(LOOKS["dfd"], face_px=(114, 124)),
    "ffiw": LOOKS["ffiw"],
}
LEFT, RIGHT = 0.26, 0.74  # where two people stand, in shares of the frame's width
CODECS = {"c23": 23, "c40": 40}  # FF++ name -> constant rate factor of H.264
CRF = {
    "celeb_df": 20,
    "deeper_forensics": 23,
    "dfdc": 28,
    "dfd": 23,
    "dfdcp": 26,
    "ffiw": 24,
    "celeb_df_plus": 22,
}
JPEG_QUALITY = 60  # of the frames that WildDeepfake's pictures were cut from
MASK_CRF = 8  # an edge in a mask must stay where it is

# A jaw is some 120 px wide: the smaller a face is generated, the more it is blurred, and the easier it is to find. As
# with real forgeries, some of each kind are plain to see and others are not.
MANIPULATIONS = {
    "Deepfakes": Forgery(swaps=True, keeps_shape=False, face_px=(28, 48), feather_px=(8, 14), match=(0.3, 0.8)),
    "Face2Face": Forgery(swaps=False, face_px=(36, 56), feather_px=(6, 10), match=(0.5, 0.8)),
    # As FaceSwap's code blends: the mask fades over a fifth of the face, whose colours are the target's.
    "FaceSwap": Forgery(swaps=True, face_px=(40, 64), feather_px=(20, 28), match=(0.8, 1), match_spread=True),
    "NeuralTextures": Forgery(
        swaps=False, lower_face=True, face_px=(22, 32), feather_px=(4, 8), match=(0.8, 1), sharpen=0.8
    ),
}
FORGERIES = {
    "celeb_df": Forgery(
        swaps=True, keeps_shape=False, face_px=(40, 68), feather_px=(9, 15), match=(0.85, 1), grain=0.3
    ),
    "deeper_forensics": Forgery(
        swaps=True, keeps_shape=False, face_px=(44, 72), feather_px=(10, 18), match=(0.9, 1), grain=0.4
    ),
    "dfdc": Forgery(swaps=True, face_px=(30, 68), feather_px=(2, 14), match=(0.5, 1)),
    "dfd": Forgery(swaps=True, keeps_shape=False, face_px=(40, 64), feather_px=(5, 10), match=(0.6, 0.9), grain=0.2),
    "dfdcp/method_A": Forgery(swaps=True, face_px=(34, 56), feather_px=(3, 8), match=(0.3, 0.7)),
    "dfdcp/method_B": Forgery(swaps=True, keeps_shape=False, face_px=(48, 72), feather_px=(8, 14), match=(0.6, 0.9)),
    "ffiw": Forgery(swaps=True, face_px=(38, 64), feather_px=(6, 12), match=(0.6, 0.95), match_spread=True),
    "wild_deepfake": Forgery(
        swaps=True, keeps_shape=False, face_px=(40, 80), feather_px=(4, 14), match=(0.5, 1), sharpen=0.5
    ),
    "celeb_df_plus/FaceSwap/SimSwap": Forgery(
        swaps=True, keeps_shape=False, face_px=(48, 76), feather_px=(10, 16), match=(0.8, 1), grain=0.4
    ),
    "celeb_df_plus/FaceReenact/LivePortrait": Forgery(
        swaps=False, face_px=(44, 68), feather_px=(8, 12), match=(0.7, 0.9), grain=0.2
    ),
    "celeb_df_plus/TalkingFace/SadTalker": Forgery(
        swaps=False, lower_face=True, face_px=(36, 60), feather_px=(5, 9), match=(0.7, 0.9)
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Fake:
    """A forgery of a take. `outputs` maps paths below the corpus to the constant rate factor to encode at.

    A path `N.tar.gz/inside` becomes pictures in an archive; its number is the quality of the JPEGs they came from.
    """

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
    at: float = 0.5  # share of the frame's width
    beside: str | None = None  # a second person, on the other side, whom nobody forges
    frames: float = 1.0  # share of the usual number

    @property
    def people(self) -> list[str]:
        """All whom its frames or forgeries show."""
        return [self.person, *([self.beside] if self.beside else []), *(fake.donor for fake in self.fakes)]

    @property
    def paths(self) -> list[str]:
        """All videos and folders of pictures that come of it, below the corpus."""
        of_fakes = [path for fake in self.fakes for path in [*fake.outputs, *([fake.mask] if fake.mask else [])]]
        return [*self.outputs, *of_fakes]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is made."""

    shots: list[Shot]
    texts: dict[str, str]  # path -> content of the datasets' own lists


def planned(size: Size, seed: int) -> Plan:
    plan = Plan([], {})
    _plan_faceforensics(plan, size)
    _plan_celeb_df(plan, size)
    _plan_dfdc(plan, size, seed)
    _plan_dfd(plan, size, seed)
    _plan_dfdcp(plan, size)
    _plan_ffiw(plan, size)
    _plan_wild_deepfake(plan, size)
    _plan_celeb_df_plus(plan, size)
    _plan_own_videos(plan)
    return plan


def _plan_faceforensics(plan: Plan, size: Size) -> None:
    """Plan FaceForensics++, and DeeperForensics, whose fakes are made from the same takes."""
    home, deeper = FOLDERS["ffpp"], FOLDERS["deeper_forensics"]
    first = 0
    for split, num_pairs in zip(("train", "val", "test"), size.pairs, strict=True):
        ids = [f"{first + i:03d}" for i in range(2 * num_pairs)]
        first += len(ids)
        pairs = [[a, b] for a, b in zip(ids[::2], ids[1::2], strict=True)]
        plan.texts[f"{home}/{split}.json"] = json.dumps(pairs)
        # Every actor sits in one split; each test target has its own, a few of the others share theirs.
        targets = ids if split == "test" else ids[:3]
        actors = [f"{'MW'[int(i) % 2]}{100 + int(i)}" for i in (targets if split == "test" else ids[:1] * len(targets))]
        swapped = {target: [f"{target}_{actor}"] for target, actor in zip(targets, actors, strict=True)}
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
    """Plan Celeb-DF: each celebrity has a real video and is the target of a fake; some test reals are from YouTube."""
    home, crf = FOLDERS["celeb_df"], CRF["celeb_df"]
    listed = []
    num_train, num_test = size.others
    for members in (range(num_test), range(num_test, num_test + num_train)):
        for i in members:
            donor = _next(members, i)
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
    """Plan DFDC: a fake comes from a take that is there too in the train part, from another one in the test part."""
    home, crf = FOLDERS["dfdc"], CRF["dfdc"]
    rng = rng_of(seed, "dfdc/names")
    num_train, num_test = size.others
    metadata, labels = {}, ["filename,label"]
    for i in range(num_train + num_test):
        members = range(num_train) if i < num_train else range(num_train, num_train + num_test)
        person, donor = f"dfdc/{i}", f"dfdc/{_next(members, i)}"
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


def _plan_dfd(plan: Plan, size: Size, seed: int) -> None:
    """Plan DFD: actors in two scenes; in one of them somebody stands beside the forged actor."""
    home, crf, rng = FOLDERS["dfd"], CRF["dfd"], rng_of(seed, "dfd/names")
    actors = range(1, 1 + max(2, size.others[1] // 2))
    for i in actors:
        donor = actors[i % len(actors)]
        for scene, beside in (("talking_against_wall", None), ("secure_conversation", f"dfd/beside{i}")):
            code = "".join(rng.choice(list(string.ascii_uppercase + string.digits), 8))
            folder, name = (
                f"{home}/manipulated_sequences/DeepFakeDetection",
                f"{i:02d}_{donor:02d}__{scene}__{code}.mp4",
            )
            fake = Fake(
                dataset="dfd",
                forgery=FORGERIES["dfd"],
                donor=f"dfd/{donor:02d}",
                outputs={f"{folder}/c23/videos/{name}": crf},
                mask=f"{folder}/masks/videos/{name}",
            )
            plan.shots.append(
                Shot(
                    person=f"dfd/{i:02d}",
                    take=f"dfd/{i:02d}/{scene}",
                    dataset="dfd",
                    outputs={f"{home}/original_sequences/actors/c23/videos/{i:02d}__{scene}.mp4": crf},
                    fakes=[fake],
                    at=0.5 if beside is None else (LEFT, RIGHT)[i % 2],
                    beside=beside,
                )
            )


def _plan_dfdcp(plan: Plan, size: Size) -> None:
    """Plan the DFDC preview: method_A and method_B take turns."""
    home, crf = FOLDERS["dfdcp"], CRF["dfdcp"]
    listed = {}
    for split, members in _train_and_test(size):
        for i in members:
            person, donor = _dfdcp_id(i), _dfdcp_id(_next(members, i))
            method = f"method_{'AB'[i % 2]}"
            real = f"original_videos/{person}/{person}_A.mp4"
            fake = f"{method}/{person}/{person}_A/{person}_A_{donor}_0.mp4"
            usual = {"set": split, "target_id": person, "augmentations": []}
            listed[real] = usual | {"label": "real", "swapped_id": None}
            listed[fake] = usual | {"label": "fake", "swapped_id": donor}
            forged = Fake(
                dataset="dfdcp",
                forgery=FORGERIES[f"dfdcp/{method}"],
                donor=f"dfdcp/{donor}",
                outputs={f"{home}/{fake}": crf},
            )
            plan.shots.append(_shot("dfdcp", str(person), {f"{home}/{real}": crf}, [forged]))
    plan.texts[f"{home}/dataset.json"] = json.dumps(listed, indent=1)


def _dfdcp_id(i: int) -> int:
    return 643942 + 10007 * i


def _plan_ffiw(plan: Plan, size: Size) -> None:
    """Plan FFIW: two people in each frame, of whom one is forged, now the left one, now the right one."""
    home, crf = f"{FOLDERS['ffiw']}/FFIW10K-v1-release", CRF["ffiw"]
    for split, members in _train_and_test(size):
        part = "train" if split == "train" else "val"
        for i in members:
            name = f"{part}/{part}_{i:08d}"
            fake = Fake(
                dataset="ffiw",
                forgery=FORGERIES["ffiw"],
                donor=f"ffiw/{_next(members, i)}",
                outputs={f"{home}/target/{name}.mp4": crf},
                mask=f"{home}/target_mask/{name}_mask.mp4",
            )
            shot = _shot("ffiw", str(i), {f"{home}/source/{name}.mp4": crf}, [fake])
            plan.shots.append(replace(shot, at=(LEFT, RIGHT)[i % 2], beside=f"ffiw/beside{i}"))


def _plan_wild_deepfake(plan: Plan, size: Size) -> None:
    """Plan WildDeepfake: for each person an archive with two sequences of face crops; real and fake share nobody."""
    home = f"{FOLDERS['wild_deepfake']}/deepfake_in_the_wild"
    for split, members in _train_and_test(size):
        for i in members[: max(1, len(members) // 2)]:
            for kind, sequence in ((kind, sequence) for kind in ("real", "fake") for sequence in range(2)):
                person = f"wild_deepfake/{kind}{i}"
                outputs = {f"{home}/{kind}_{split}/{i}.tar.gz/{i}/{kind}/{sequence}": JPEG_QUALITY}
                shot = Shot(person=person, take=f"{person}/{sequence}", dataset="wild_deepfake", outputs={}, frames=0.3)
                if kind == "real":
                    plan.shots.append(replace(shot, outputs=outputs))
                    continue
                forgery, donor = FORGERIES["wild_deepfake"], f"{person}/donor"
                fake = Fake(dataset="wild_deepfake", forgery=forgery, donor=donor, outputs=outputs)
                plan.shots.append(replace(shot, fakes=[fake]))


def _plan_celeb_df_plus(plan: Plan, size: Size) -> None:
    """Plan Celeb-DF++: the tree of Celeb-DF, with fakes of several kinds in nested folders."""
    home, crf = FOLDERS["celeb_df_plus"], CRF["celeb_df_plus"]
    listed = []
    kinds = {
        name.partition("/")[2]: forgery for name, forgery in FORGERIES.items() if name.startswith("celeb_df_plus/")
    }
    num_test = max(2, size.others[1] // 4)
    for members in (range(num_test), range(num_test, num_test + 2)):
        for i in members:
            donor = _next(members, i)
            real = f"Celeb-real/id{i}_0000.mp4"
            fakes = {f"Celeb-synthesis/{kind}/id{i}_id{donor}_0000.mp4": forgery for kind, forgery in kinds.items()}
            forged = [
                Fake(
                    dataset="celeb_df_plus",
                    forgery=forgery,
                    donor=f"celeb_df_plus/id{donor}",
                    outputs={f"{home}/{name}": crf},
                )
                for name, forgery in fakes.items()
            ]
            plan.shots.append(_shot("celeb_df_plus", f"id{i}", {f"{home}/{real}": crf}, forged))
            listed += [f"1 {real}", *(f"0 {name}" for name in fakes)] if i < num_test else []
    plan.texts[f"{home}/List_of_testing_videos.txt"] = "\n".join(listed) + "\n"


def _plan_own_videos(plan: Plan) -> None:
    """Plan a manifest over the first videos of two other datasets, as somebody would write for their own videos."""
    lines = ["path,label,split,method,person,real"]
    for name in NEEDS["own_videos"]:
        for shot in [shot for shot in plan.shots if shot.dataset == name and shot.fakes and shot.outputs][:2]:
            (real,) = shot.outputs
            ((fake, forged),) = ((path, fake) for fake in shot.fakes for path in fake.outputs)
            lines.append(f"{real},real,test,,{shot.person},")
            lines.append(f"{fake},fake,test,{name},{shot.person};{forged.donor},{real}")
    plan.texts[FOLDERS["own_videos"]] = "\n".join(lines) + "\n"


def _train_and_test(size: Size) -> tuple[tuple[str, range], tuple[str, range]]:
    """Return both splits with the numbers of their people."""
    num_train, num_test = size.others
    return ("train", range(num_train)), ("test", range(num_train, num_train + num_test))


def _next(members: range, i: int) -> int:
    """Return who gives person `i` a face: the next one; the last gets that of the first."""
    return members[(i - members[0] + 1) % len(members)]


def _shot(dataset: str, name: str, outputs: Mapping[str, int], fakes: list[Fake]) -> Shot:
    person = f"{dataset}/{name}"
    return Shot(person=person, take=person, dataset=dataset, outputs=outputs, fakes=fakes)


def with_needs(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names and those of the datasets that they need, in the order of FOLDERS. Raise ValueError."""
    wanted = set(names)
    if unknown := sorted(wanted - FOLDERS.keys()):
        guess = meant(unknown[0], FOLDERS, f"it has {', '.join(FOLDERS)}")
        raise ValueError(f"the sample corpus has no {', '.join(unknown)}; {guess}")
    wanted |= {other for name in wanted for other in NEEDS.get(name, ())}
    return tuple(name for name in FOLDERS if name in wanted)


def only(plan: Plan, names: Iterable[str]) -> Plan:
    """Return the part of a plan that belongs to the named datasets."""
    names = tuple(names)
    shots = [
        replace(
            shot,
            outputs=shot.outputs if shot.dataset in names else {},
            fakes=[fake for fake in shot.fakes if fake.dataset in names],
        )
        for shot in plan.shots
    ]
    folders = {FOLDERS[name] for name in names}
    texts = {path: text for path, text in plan.texts.items() if path.split("/")[0] in folders}
    return Plan([shot for shot in shots if shot.outputs or shot.fakes], texts)


def size_of(name: str) -> Size:
    if name not in SIZES:
        raise ValueError(f"unknown size {name!r} of the sample corpus; known: {', '.join(SIZES)}")
    return SIZES[name]


def rng_of(seed: int, *names: str) -> np.random.Generator:
    """Return a generator for the thing with these names, so that nothing depends on the order of making."""
    return np.random.default_rng([seed, zlib.crc32(" ".join(names).encode())])
