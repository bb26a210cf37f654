"""No perturbation, no part of a protocol and no row of RESULTS moves without its version.

What is stored would be taken for what is made now. `golden_numbers.json` holds what comes of fixed pictures, videos and
scores, with the versions that speak for it. It is made by

    uv run python tests/pipelines/test_golden_numbers.py

which refuses as long as a number has moved, and its version has not. Where the pictures, videos or scores here are
others, delete the file first. Stages and faces have files of their own: `training/test_golden.py`,
`faces/test_golden_faces.py`.
"""

import ast
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import skimage.data
from scipy.special import expit
from torch.utils._pytree import keystr, tree_flatten_with_path

from models import Pooling
from pipelines.common import tables
from pipelines.experiments import protocol
from pipelines.experiments.experiment import Experiment
from pipelines.faces import perturb
from pipelines.metrics import calibration, detection, names, ranking, resampling, results
from pipelines.metrics.names import FINAL
from pipelines.metrics.results import Failed, Origin, Predictions, ScoredPart
from pipelines.scoring import from_file, predictions, score

FILE = Path(__file__).with_name("golden_numbers.json")
AGAIN = "uv run python tests/pipelines/test_golden_numbers.py"
Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------- perturbations
def perturbed() -> dict[str, Any]:
    """Return mean and standard deviation of each channel, and the mean difference of neighbours, in gray levels.

    Of a face that is smaller in its frame than it is stored, and of one that is larger.
    """
    found = {}
    image = np.ascontiguousarray(skimage.data.astronaut()[:128, 164:292])
    for side in (90.0, 300.0):
        crop = {"x0": 10.0, "y0": 20.0, "x1": 10 + side, "y1": 20 + side}
        box = {"x0": 10 + side / 5, "y0": 20 + side / 6, "x1": 10 + side * 4 / 5, "y1": 20 + side * 5 / 6}
        for name in perturb.PERTURBATIONS:
            out = perturb.apply(name, image, {"crop_px": crop, "box_px": box}, seed=7).astype(float)
            edges = [float(np.abs(np.diff(out, axis=axis)).mean()) for axis in (0, 1)]
            found[f"{name} of {side:.0f} px"] = [*out.mean((0, 1)), *out.std((0, 1)), *edges]
    return found


# ----------------------------------------------------------------------------------------------------- protocols
METHODS = ("Deepfakes", "Face2Face", "FaceShifter", "FaceSwap")


def video(dataset: str, method: str, codec: str, split: str, people: tuple[str, ...]) -> Row:
    """Return a row of VIDEOS."""
    name = f"{dataset}/{method}/{codec}/{'_'.join(person.rpartition('/')[2] for person in people)}"
    told = {"dataset": dataset, "video_id": name, "label": int(method != "real"), "method": method, "codec": codec}
    told |= {"split": split, "root": dataset, "uri": "x", "source_ids": list(people), "face_rule": "largest"}
    return dict.fromkeys(tables.VIDEOS.names) | told


def listed() -> dict[str, pa.Table]:
    """Return VIDEOS of FaceForensics++, and of a dataset of which one person is in its training part."""
    rows = []
    for codec, (number, split) in product(("c23", "c40"), enumerate(2 * tables.SPLITS)):
        one, other = f"ffpp/{number:03}", f"ffpp/{(number + 3) % 6:03}"
        rows.append(video("ffpp", "real", codec, split, (one,)))
        rows += [video("ffpp", method, codec, split, (one, other)) for method in METHODS]
    away = []
    for number in range(5):
        person = f"celeb_df/{number}" if number else "ffpp/000"
        split = "test" if number < 4 else "train"
        away += [video("celeb_df", "real", "unknown", split, (person,))]
        away += [video("celeb_df", "Celeb-synthesis", "unknown", split, (person, f"celeb_df/{(number + 1) % 5}"))]
    return {"ffpp": tables.to_table(rows, tables.VIDEOS), "celeb_df": tables.to_table(away, tables.VIDEOS)}


def parted() -> dict[str, Any]:
    """Return the parts of each protocol: what to cite them by, and which of their videos are left out."""
    videos = listed()
    base = Experiment(model="lre", train_on="ffpp", test_on=("celeb_df", "ffpp", "ffpp/FaceShifter", "ffpp/all"))
    home: Row = {"test_on": ()}
    asked: dict[str, Row] = {
        "cross_dataset": {},
        "cross_dataset, named": {"manipulations": ("FaceSwap", "FaceShifter")},
        "in_dataset": home,
        "in_dataset, another compression for one stage": {**home, "codec": "c40", "model.reconstruct.codec": "c23"},
        "cross_manipulation": {**home, "manipulations": ("Deepfakes",)},
        "leave_one_out": {**home, "manipulations": ("Deepfakes", "Face2Face")},
        "per_manipulation": {**home, "manipulations": ("Face2Face",)},
    }
    found: dict[str, Any] = {}
    for name, changes in asked.items():
        built = protocol.build(base.override({"protocol": name.partition(",")[0], **changes}), videos)
        of_stages = [part for pair in built.own.values() for part in pair]
        parts = (built.train, built.select, *of_stages, *built.test)
        found[name] = [[part.citation, ", ".join(part.excluded)] for part in parts]
    found["by itself"] = [protocol.test_part(name, videos, "c23").citation for name in ("celeb_df", "ffpp")]
    return found


# ------------------------------------------------------------------------------------------------------- RESULTS
FAMILY = tuple(f"contrast-{level}" for level in range(1, 6))
# Part -> by how much the log odds of fakes are higher, how many people there are, which perturbations.
PARTS: Mapping[str, tuple[float, int, tuple[str, ...]]] = {
    "ffpp": (2.5, 104, ()),
    "celeb_df": (1.0, 24, ("", *FAMILY)),
    "dfdc": (0.3, 9, ()),
    "uadfv": (60.0, 8, ()),  # no error
    "kodf": (0.5, 1, ()),  # one person: nothing is known of others
}
MASKS = ("mask_tp", "mask_fp", "mask_fn", "mask_tn")


def made_up_predictions(part: str, perturbation: str = "") -> pa.Table:
    """Return PREDICTIONS of a stage: a real video and a fake by each of two methods for each person."""
    rng = np.random.default_rng(list(f"{part}{perturbation}".encode()))
    better, people, _ = PARTS.get(part, PARTS["ffpp"])
    rows = []
    for person, method in product(range(people), ("real", "FaceSwap", "Deepfakes")):
        fake, of_person = method != "real", rng.normal()
        for frame, face in product(range(1 + person % 4), range(1 + (person % 5 == 0))):
            logit = of_person + (better - 0.4 * (method == "FaceSwap")) * fake + rng.normal() - 0.5 * face
            masks = dict(zip(MASKS, rng.integers(1, 200, 4).tolist(), strict=True))
            if fake and person % 6 == 1:
                masks = dict.fromkeys(masks)  # the change is too slight to leave a true mask
            if not fake:
                masks |= {"mask_tp": 0, "mask_fn": 0}
            rows.append(
                dict.fromkeys(tables.PREDICTIONS.names)
                | {"stage": FINAL, "perturbation": perturbation, "dataset": part, "label": int(fake), "method": method}
                | {"video_id": f"{part}/{method}/c23/{person:03}", "frame_index": 3 * frame, "face_index": face}
                | {"logit": logit, "score": float(expit(logit)), "num_repeated": int(person == 2)}
                | {"face_area_px": 900.0 - 300 * face - person}
                | (masks if part == "ffpp" and not perturbation else {})
            )
    return tables.to_table(rows, tables.PREDICTIONS)


def scored_part(name: str) -> ScoredPart:
    """Return a part of which some videos failed, and in two of which every face counts."""
    failed = [(f"{name}/{method}/c23/900", int(method != "real"), method) for method in ("real", "FaceSwap")]
    return ScoredPart(
        name=name,
        dataset=name,
        split="test",
        codec="c23",
        failed=tuple(Failed(video_id=i, label=y, method=method, reason="no face") for i, y, method in failed),
        excluded=(f"{name}/real/c23/901",),
        every_face=tuple(f"{name}/{method}/c23/005" for method in ("real", "Deepfakes")),
    )


def sources() -> pa.Table:
    """Return SOURCES: real videos show a person, fakes that and the next; of `dfdc` nobody is known."""
    rows = []
    for name, (_, people, _) in PARTS.items():
        for person, method in product(range(people), ("real", "FaceSwap", "Deepfakes")):
            shown = [f"{name} {person // 2}", f"{name} {(person // 2 + 1) % max(1, people // 2)}"]
            if name != "dfdc":
                rows.append(
                    {
                        "video_id": f"{name}/{method}/c23/{person:03}",
                        "source_ids": shown[: 1 + (method != "real")],
                    }
                )
    return tables.to_table(rows, tables.SOURCES)


def measured() -> dict[str, Any]:
    """Return the rows of RESULTS by several rules: value, interval, counts, and why a value is not defined."""
    asked = [(name, perturbation) for name, (_, _, several) in PARTS.items() for perturbation in several or ("",)]
    blocks: list[Predictions] = [
        ({"part": name, "stage": FINAL, "perturbation": perturbation}, made_up_predictions(name, perturbation))
        for name, perturbation in asked
    ]
    base = Origin(
        run_id="run",
        model="model",
        train_on="ffpp",
        seed=0,
        failed_rule="exclude",
        pooling=Pooling(),
        parts=tuple(map(scored_part, PARTS)),
        validation=scored_part("validation"),
    )
    validation: list[Predictions] = [
        ({"part": "validation", "stage": FINAL, "perturbation": ""}, made_up_predictions("validation"))
    ]
    few = [block for block in blocks if block[0]["part"] == "celeb_df" and not block[0]["perturbation"]]
    every = {
        "all": results.every_row(base, blocks, "", sources(), validation),
        "half": results.every_row(replace(base, failed_rule="half"), few, "", sources(), validation),
        "without validation": results.every_row(replace(base, validation=None), few, "", sources()),
        **{
            repr(pooling): results.every_row(replace(base, pooling=pooling), few, "", sources(), validation)
            for pooling in (Pooling(faces="max"), Pooling(min_area=0.7), Pooling(frames="mean_logit"))
        },
    }
    found: dict[str, Any] = constants(calibration, detection, names, ranking, resampling, results)
    for rules, rows in every.items():
        for row in rows:
            numbers = ("value", "low", "high", "n_clusters", "n_real", "n_fake", "n_padded", "n_missing", "n_excluded")
            key = " ".join([rules, *(row[name] for name in ("test_dataset", "perturbation", "level", "metric"))])
            found[key] = [row["reason"], row["note"], *(str(row[n]) if math.isnan(row[n]) else row[n] for n in numbers)]
    return found


# ----------------------------------------------------------------------------------------------------- constants
LITERALS = (int, float, tuple, dict)
DECIDE_NOTHING = {  # but memory, time, what an error shows, and how many are too few for a note
    "detection.CHUNK_VALUES",
    "resampling.FEW_CLUSTERS",
    "results.VERSION",
    "predictions.VERSION",
    "score.BATCH_SAMPLES",
    "score.VIDEOS_PER_TASK",
    "score.MOST_PERTURBATIONS",
    "score.MAX_RESTARTS",
    "score.SLICE_BYTES",
    "score.SLICE_SECONDS",
    "predictions.MASKED_ROWS",
    "predictions.KEY",  # the order of rows in a file
}


def constants(*modules: ModuleType) -> dict[str, str]:
    """Return what modules name in capitals, and the fractions in their code: few of them show in so few numbers."""
    told: dict[str, str] = {}
    for module in modules:
        name = module.__name__.rpartition(".")[2]
        tree = ast.parse(Path(str(module.__file__)).read_text())
        fractions = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        told[f"{name}, fractions"] = " ".join(repr(x) for x in sorted(x for x in fractions if type(x) is float))
        assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        for own in sorted(n.id for target in assigned for n in ast.walk(target) if isinstance(n, ast.Name)):
            value = getattr(module, own)
            if own.isupper() and type(value) in LITERALS and f"{name}.{own}" not in DECIDE_NOTHING:
                told[f"{name}.{own}"] = repr(value)
    return told


# ------------------------------------------------------------------------------------------------ what has moved
@dataclass(frozen=True, kw_only=True)
class Kind:
    """Numbers that one version speaks for."""

    version: Callable[[], int]
    where: str
    numbers: Callable[[], dict[str, Any]]
    tolerance: float = 0.0  # differences that are none, of other processors' sums


KINDS = {
    "perturbations": Kind(
        version=lambda: perturb.VERSION,
        where="VERSION in pipelines/faces/perturb.py",
        numbers=perturbed,
        tolerance=0.05,
    ),
    "protocols": Kind(
        version=lambda: protocol.VERSION, where="VERSION in pipelines/experiments/protocol.py", numbers=parted
    ),
    "results": Kind(
        version=lambda: results.VERSION,
        where="VERSION in pipelines/metrics/results.py",
        numbers=measured,
        tolerance=1e-6,
    ),
    "scores": Kind(
        version=lambda: predictions.VERSION,
        where="VERSION in pipelines/scoring/predictions.py",
        numbers=lambda: constants(score, predictions) | {"from_file.NEARLY_SURE": repr(from_file.NEARLY_SURE)},
    ),
}


def moved(kind: str, stored: Any, found: Any) -> str:
    """Return the first difference that is one, and which version speaks for it; empty where there is none."""
    old, new = (dict(tree_flatten_with_path(tree)[0]) for tree in (stored, json.loads(json.dumps(found))))
    for name in old | new:
        was, now = old.get(name), new.get(name)
        numbers = isinstance(was, int | float) and isinstance(now, int | float)
        if was != now and not (numbers and abs(was - now) <= KINDS[kind].tolerance):
            return f"{kind}{keystr(name)} was {was!r}, is {now!r}. If that is meant, raise {KINDS[kind].where}"
    return ""


def main() -> str | None:
    """Write golden_numbers.json. Return why not, if a number has moved and its version has not."""
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    made = {name: {"version": kind.version(), "numbers": kind.numbers()} for name, kind in KINDS.items()}
    for name, now in made.items():
        before = stored.get(name, {"version": None})
        if before["version"] == now["version"] and (text := moved(name, before["numbers"], now["numbers"])):
            return text
    FILE.write_text(json.dumps(made) + "\n")
    return None


@pytest.mark.parametrize("name", KINDS)
def test_numbers_move_with_their_version_only(name: str) -> None:
    kind, stored = KINDS[name], json.loads(FILE.read_text())[name]
    difference = moved(name, stored["numbers"], kind.numbers())
    if stored["version"] == kind.version():
        assert not difference, f"{difference}; then: {AGAIN}"
    assert stored["version"] == kind.version(), f"{name} have another version than in golden_numbers.json: {AGAIN}"


if __name__ == "__main__":
    sys.exit(main())
