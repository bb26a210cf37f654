"""No number of a stage or of its scores moves without its digest: what is stored would be taken for what is made now.

`golden.json` holds the numbers of every stage after a few steps on made-up faces, and of its scores, with the digest
of the stage. Faces are stored rows in memory: no extraction takes part. All else is the real thing: views, samples, the
stage's own preparation, the loop with validation, what a stage derives, scoring. The file is made by

    uv run python tests/pipelines/training/test_golden.py

which refuses as long as a number has moved, and neither a setting nor a version has. Where the faces that are made up
here are others, or a constant came that moves no number of before, delete the file first.
"""

import ast
import importlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pyarrow as pa
import pytest
import safetensors.torch
import torch
from torch.utils._pytree import keystr, tree_flatten_with_path

import models
from pipelines.common import tables
from pipelines.common.storage import digest, write_json
from pipelines.experiments.experiment import Experiment
from pipelines.scoring import predictions, score
from pipelines.scoring.score import FinishedStage, ScoreVideos
from pipelines.training import samples, stages
from pipelines.training.batches import local_batches
from pipelines.training.job import Job
from pipelines.training.learner import Learner
from pipelines.training.loop import validate
from pipelines.training.samples import Derived, Samples
from pipelines.training.train import train_stage
from pipelines.training.views import MOST_TRIES, VIEWS, Pick, Video, View
from pipelines.training.workers import Alone

FILE = Path(__file__).with_name("golden.json")
LANDMARKS = Path(__file__).parents[2] / "models" / "oracles" / "landmarks.npy"  # of a face of 256 px
FACE_PX, STORED_PX = 256, 96
METHODS, NUM_EPOCHS, STEPS, BATCH = ("Deepfakes", "FaceSwap"), 2, 2, 4
# Differences that are none, relative to 1 or to the number, if that is larger: what other processors' sums make of it.
# With the kernels of torch, OneDNN, NumPy and OpenCV for SSE and for AVX2 in place of AVX-512 it was a quarter of them
# at most. A part of `numbers` without one must be equal.
TOLERANCES = {
    "face": 1e-4,
    "batch": 2e-3,
    "start": 1e-4,
    "curve": 1e-2,
    "update": 4e-2,
    "selection": 1e-6,
    "scores": 1e-3,
}

Numbers = dict[str, Any]  # name -> a number, a list of numbers, or a text that must be equal


@dataclass(frozen=True, kw_only=True)
class Case:
    """A stage, and with which settings."""

    paper: str
    stage: str
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the paper's small preset
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.paper}.{self.stage}{self.note and f' ({self.note})'}"


SMALLER: Mapping[str, Mapping[str, Any]] = {  # so that all of them take seconds
    "adfd": {"data.canvas_px": 112, "data.input_px": 64, "nrs.memory_size": 8, "optim.lr": 0.01},
    "delocate": {
        "clip.input_px": 64,
        "clip.num_frames": 4,
        "vit.width": 32,
        "vit.depth": 1,
        "vit.num_heads": 2,
        "localize.map_widths": [8, 8],
        "localize.decoder_widths": [16, 8, 8, 8, 8],
    },
    "laa_net": {"data.face_px": 96, "data.input_px": 64, "optim.lr": 1e-5},
    "lre": {"face.input_px": 64, "reconstruct.width": 32, "reconstruct.depth": 1, "detect.xception_width": 0.0625},
    "mc_lcr": {"input_px": 64, "backbone_width": 0.0625, "frequency.num_heads": 4},
    "plain": {"input_px": 64},
}
CASES = [Case(paper=paper, stage=stage.name) for paper in models.names() for stage in models.stages(paper)]
CASES += [
    Case(paper="laa_net", stage="detect", changes={"data.synthesis": "bi"}, note="bi"),
    Case(paper="laa_net", stage="detect", changes={"data.augment": True}, note="augmented"),
]


# ------------------------------------------------------------------------------------------------ made-up faces
def videos(*numbers: int) -> tuple[Video, ...]:
    """Return a real video of each person, and a fake by each method."""
    made = [
        Video(f"ffpp/{method}/c23/{number}", int(method != "real"), method, f"ffpp/{number}")
        for method in ("real", *METHODS)
        for number in numbers
    ]
    return tuple(sorted(made, key=lambda video: video.video_id))


TRAIN, SELECT, TEST = videos(0, 1, 2, 3), videos(4, 5), videos(6, 7)
# Names in capitals that are in a digest, are classes, or decide nothing.
ELSEWHERE = ("SMALL", "STAGES", "VERSION", "TIMEOUT", "ON_CPU")
EVERY_FACE = frozenset({"ffpp/Deepfakes/c23/5"})  # of SELECT
MOST_DONORS = 7  # instead of thousands: fewer than there are faces


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the videos of a person show."""

    num_frames: int = 4  # as many as a clip has
    held: tuple[int, ...] = ()  # frames in which the face was not found, so that it has the box of another
    second_px: float = 0.0  # side of the crop of a second face, of which the first one's has 120 px; 0: there is none


PEOPLE = {
    1: Shown(num_frames=7, held=(2,)),
    2: Shown(second_px=90),
    3: Shown(num_frames=3, held=(0, 1, 2)),  # a video that no pseudo-fake can be made of, and shorter than a clip
    5: Shown(num_frames=10, held=(3,), second_px=100),  # more frames than selection looks at
    6: Shown(num_frames=6, second_px=60),  # a second clip, and a face too small for ADFD
    7: Shown(num_frames=3),
}


class Store:
    """In place of `Faces`: the rows of any video, made up from its name."""

    def __init__(self, folder: Path) -> None:
        del folder

    def video(self, video_id: str, columns: Sequence[str] | None = None, rows: range | None = None) -> pa.Table:
        """Return what `Faces.video` does."""
        table = _rows(video_id)
        table = table if rows is None else table.slice(rows.start, len(rows))
        return table if columns is None else table.select(list(columns))


@cache
def _rows(video_id: str) -> pa.Table:
    """Return FACES rows: a bright ellipse in noise, that moves; fakes have a smooth, darker mouth."""
    person, rng = int(video_id.rpartition("/")[2]), np.random.default_rng(list(video_id.encode()))
    shown = PEOPLE.get(person, Shown())
    sides = [side for side in (120.0, shown.second_px) if side]
    return tables.to_table(
        [
            _face(video_id, frame, index, side, frame in shown.held, rng)
            for frame in range(shown.num_frames)
            for index, side in enumerate(sides)
        ],
        tables.FACES,
    )


def _face(video_id: str, frame: int, index: int, side: float, held: bool, rng: np.random.Generator) -> dict[str, Any]:
    """Return a row of FACES. side: of its crop, in pixels of the frame."""
    _, method, codec, person = video_id.split("/")
    fake = method != "real"
    y, x = np.mgrid[:STORED_PX, :STORED_PX]
    shape = np.load(LANDMARKS)[:68] * (STORED_PX / FACE_PX)
    points = shape + rng.integers(-3, 4, 2) + rng.integers(-1, 2, shape.shape)
    low, high = points.min(0), points.max(0)
    middle, radius = (low + high) / 2, (high - low) / 2
    inside = (((x - middle[0]) / radius[0]) ** 2 + ((y - middle[1]) / radius[1]) ** 2) < 1
    image = rng.integers(0, 90, (STORED_PX, STORED_PX, 3)) + 100 * inside[..., None] + 5 * int(person) + 20 * index
    mask = np.zeros((STORED_PX, STORED_PX), np.uint8)
    if fake:
        cv2.ellipse(mask, (int(middle[0]), int(middle[1] + 14)), (14, 8), 0, 0, 360, 255, -1)
        image = np.where(mask[..., None] > 0, cv2.blur(image.astype(np.float32), (5, 5)).astype(int) - 25, image)
    left, top = 200.0 * (1 + index), 100.0
    corners = (left, top) + side / STORED_PX * np.concatenate([low, high]).reshape(2, 2)
    return dict.fromkeys(tables.FACES.names) | {
        "dataset": "ffpp",
        "video_id": video_id,
        "label": int(fake),
        "method": method,
        "codec": codec,
        "split": "train",
        "status": "ok",
        "frame_index": frame,
        "face_index": index,
        "time_s": 0.4 * frame,
        "image_png": cv2.imencode(".png", np.clip(image, 0, 255).astype(np.uint8)[..., ::-1])[1].tobytes(),
        "mask_png": cv2.imencode(".png", mask)[1].tobytes() if fake else None,
        "box_px": dict(zip(("x0", "y0", "x1", "y1"), map(float, corners.ravel()), strict=True)),
        "crop_px": {"x0": left, "y0": top, "x1": left + side, "y1": top + side},
        "landmarks_px": points.astype(np.float32).ravel().tolist(),
        "face_score": 0.0 if held else 1.0,
    }


# ------------------------------------------------------------------------------------------------- the numbers
@contextmanager
def made_up() -> Iterator[None]:
    """Faces come from `Store`, and sums are made in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with patch.object(samples, "Faces", Store):
        yield
    torch.set_num_threads(before)


def few_steps(feed: models.Feed) -> models.Feed:
    """Return a feed of two steps in each of two epochs."""
    return replace(feed, num_epochs=NUM_EPOCHS, steps_per_epoch=STEPS, batch_size=BATCH)


def experiment_of(case: Case, **settings: Any) -> Experiment:
    """Return the experiment that has the stage, in fp32 unless `settings` say otherwise."""
    changes = {f"model.{name}": value for name, value in {**SMALLER[case.paper], **case.changes}.items()}
    base = Experiment(model=case.paper, train_on="ffpp", test_on=(), protocol="in_dataset", preset="small", seed=3)
    return base.override({"precision": "fp32", **settings, **changes})


def planned_of(experiment: Experiment, storage: Path) -> dict[str, stages.PlannedStage]:
    """Return its stages by name."""
    return {stage.name: stage for stage in stages.plan(experiment, dict.fromkeys(VIEWS, "made up"), storage)}


def trained(case: Case, storage: Path, **settings: Any) -> Job:
    """Return the stage's job, which is done, and so is what it needs."""
    experiment = experiment_of(case, **settings)
    config, faces, planned = experiment.config(), {"ffpp": storage}, planned_of(experiment, storage)
    for name in (*planned[case.stage].needs, case.stage):
        stage, derived = models.stage(case.paper, name), None
        if source := stage.reads_of(config):
            derived = storage / "derived.parquet"
            finished = FinishedStage(planned=planned[source], config=config)
            score.derive(finished, (*TRAIN, *SELECT), faces, derived, num_actors=0)
        job = Job(
            planned=planned[name],
            config=config,
            train=TRAIN,
            select=SELECT,
            every_face=EVERY_FACE,
            faces=faces,
            earlier=planned,
            derived=derived,
        )
        few = few_steps(stage.feed(config))
        with patch.object(stage, "feed", staticmethod(lambda cfg, few=few: few)):
            train_stage(job)
    return job


def numbers(case: Case, storage: Path) -> Numbers:
    """Return what a stage comes to, in the order in which one thing follows from the other."""
    with patch.object(samples, "MOST_DONORS", MOST_DONORS):
        job = trained(case, storage)
        view, seen = View(job.stage.view, TRAIN, few_steps(job.stage.feed(job.config)), job.seed), job.samples()
        loaded = list(local_batches(seen, view, range(STEPS), rank=0, world_size=1))
    face = seen.face(seen.track("ffpp/Deepfakes/c23/0", 0)[0])
    start = Learner.begin(job, NUM_EPOCHS * STEPS, torch.device("cpu")).weights()
    weights = safetensors.torch.load_file(job.planned.folder / "weights.safetensors")
    return {
        "constants": constants(case.paper),
        "order": order(job),
        "used": digest([_told(pick) for picks, _ in loaded for pick in picks]),
        "face": {name: _summary(value) for name, value in face.items() if name != "key"},
        "batch": {
            name: _summary(np.stack([arrays[name] for _, arrays in loaded])) for name in loaded[0][1] if name != "key"
        },
        "start": _by_module(start),
        "curve": [
            # Of a few scores that are nearly equal, which of two is higher says nothing: see `selection`.
            {name: value for name, value in line.items() if name not in ("step", "seconds", "val/auc", "val/accuracy")}
            for line in job.planned.curve()
        ],
        "update": _by_module({name: value.double() - start[name].double() for name, value in weights.items()}),
        **({"selection": selection(job), "scores": scores(job, storage / "wide")} if job.stage.scores else {}),
    }


def order(job: Job) -> dict[str, Any]:
    """Return which samples the stage takes in which step, and how many steps are an epoch."""
    feed = replace(job.stage.feed(job.config), batch_size=BATCH, steps_per_epoch=None)
    one = tuple(video for video in TRAIN if video.method in ("real", METHODS[0]))
    fixed = replace(feed, fixed_frames=True, samples_per_video=4)
    found: dict[str, Any] = {}
    for name, own, asked in (("all", TRAIN, feed), ("one manipulation", one, feed), ("fixed frames", TRAIN, fixed)):
        view = View(job.stage.view, own, asked, job.seed)
        first = view.step(0)[0]
        instead = [view.instead(first, tries) for tries in range(1, MOST_TRIES + 1)]
        picks = [*(pick for step in range(STEPS) for pick in view.step(step)), *instead]
        found[name] = {"picks": digest(list(map(_told, picks))), "steps_per_epoch": view.steps_per_epoch}
    return found


def _told(pick: Pick) -> dict[str, Any]:
    return asdict(pick) | {"where": round(pick.where, 9)}


class Drawn(models.Stage):
    """In place of a network: losses and log odds are drawn, far apart, for one sample after the other."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        self.columns, self.rng = 2 if pairs else 1, np.random.default_rng(5)

    def forward(self, batch: models.Batch) -> dict[str, torch.Tensor]:
        drawn = self.rng.normal(size=(len(next(iter(batch.values()))), 1 + self.columns))
        return {"loss": torch.tensor(drawn[:, 0]), "logit": 8 * torch.tensor(drawn[:, 1:]).squeeze(1)}


class Seen(Samples):
    """Samples that remember which faces they showed."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.stage, job.config, job.faces, Derived(job.derived) if job.derived else None, job.select)
        self.faces_seen: list[list[Any]] = []

    def scoring_samples(self, video: Video, *args: Any, **options: Any) -> Iterator[tuple[list[dict[str, Any]], Any]]:
        """Do what `Samples` does."""
        for rows, sample in super().scoring_samples(video, *args, **options):
            self.faces_seen.append([video.video_id, *((row["frame_index"], row["face_index"]) for row in rows)])
            yield rows, sample


def selection(job: Job) -> dict[str, Any]:
    """Return what validation looks at, and what it makes of drawn scores.

    Those of networks after few steps are too near to one another.
    """
    seen, drawn = Seen(job), Drawn(job.stage.view == "real_pairs")
    made = validate(replace(job, select=(*TRAIN, *SELECT)), drawn, seen, Alone())
    return {"faces": digest(seen.faces_seen), **made}


def scores(job: Job, folder: Path) -> dict[str, list[float]]:
    """Return the log odds of all test faces, and what is counted of them, by a network of wide random heads.

    After so few steps scores hardly differ.
    """
    torch.manual_seed(7)
    module = job.stage(job.config)
    for name, value in module.named_parameters():
        if any(word in name for word in ("head", "class", "bias", "fc")):
            torch.nn.init.normal_(value)
    folder.mkdir()
    safetensors.torch.save_file(module.state_dict(), folder / "weights.safetensors")
    write_json(folder / "_done.json", {})
    planned = replace(job.planned, folder=folder)
    scorer = ScoreVideos([FinishedStage(planned=planned, config=job.config)], job.faces)
    table = scorer(score.as_table(TEST))
    counts = {name: [value or 0 for value in table[name].to_pylist()] for name in ("mask_tp", "mask_fp")}
    return {
        "logit": table["logit"].to_pylist(),
        "num_repeated": table["num_repeated"].to_pylist(),
        "face_area_px": [float(np.mean(table["face_area_px"])) / 1000],
    } | {name: [float(np.mean(own)) / 100] for name, own in counts.items()}


def constants(paper: str) -> dict[str, str]:
    """Return what the files of a paper name in capitals, with those that they import, and the fractions in their code.

    Few settings are tried here, and few steps: many of them show in no number. Defaults of settings are in digests.
    """
    told: dict[str, str] = {}
    seen, ahead = set(), [f"models.{paper}"]
    while ahead:
        seen.add(module := ahead.pop())
        file = importlib.import_module(module)
        tree = ast.parse(Path(str(file.__file__)).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "models":
                names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
                ahead += {name for name in names if name.startswith("models._") and is_module(name)} - seen
        if not module.endswith("_config"):
            floats = sorted(n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) is float)
            told[f"{module}, fractions"] = " ".join(map(repr, floats))
        targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
        targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
        for name in [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]:
            if name.isupper() and name not in ELSEWHERE:
                value = getattr(file, name)
                text = repr(value.tolist() if isinstance(value, np.ndarray) else value)
                told[f"{module}.{name}"] = text if len(text) < 100 else digest(text)
    return dict(sorted(told.items()))


def is_module(name: str) -> bool:
    """Return whether this names a file of models/, or a package in it."""
    path = Path(models.__file__).parents[1].joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def _summary(value: Any) -> list[float]:
    """Return mean, standard deviation, and the mean difference of neighbours, which a shift of pixels changes."""
    flat = np.asarray(value, np.float64).ravel()
    return [float(flat.mean()), float(flat.std()), float(np.abs(np.diff(flat)).mean()) if flat.size > 1 else 0.0]


def _by_module(weights: Mapping[str, torch.Tensor]) -> dict[str, list[float]]:
    """Return for each module of a network the norm of its weights, and their direction: a product with drawn signs."""
    modules: dict[str, list[torch.Tensor]] = {}
    for name, value in sorted(weights.items()):
        modules.setdefault(name.split(".")[0], []).append(value.double().nan_to_num(0, 0, 0).ravel())
    found = {}
    for name, values in modules.items():
        flat = torch.cat(values).numpy()
        norm = float(np.linalg.norm(flat))
        signs = np.random.default_rng(len(flat)).choice([-1.0, 1.0], len(flat))
        found[name] = [norm, float(flat @ signs) / norm if norm else 0.0]
    return found


# ------------------------------------------------------------------------------------------------- what has moved
def names(case: Case) -> dict[str, Any]:
    """Return what names the weights and the scores: with others, nothing that is stored is taken for them."""
    return {"stage": planned_of(experiment_of(case), Path())[case.stage].digest, "score": predictions.VERSION}


def moved(case: Case, stored: Numbers, found: Numbers) -> str:
    """Return the first difference that is one, and which version speaks for it; empty where there is none."""
    stages_file = "pipelines/training/stages.py"
    paper = f"VERSION in models/{case.paper}.py"
    to_raise = {
        "constants": paper,
        "order": f'VERSIONS["views"] in {stages_file}',
        "used": f'VERSIONS["samples"] in {stages_file}',
        "face": f'VERSIONS["samples"] in {stages_file}',
        "selection": f'VERSIONS["loop"] in {stages_file}',
        "scores": f"VERSION in pipelines/scoring/predictions.py, or, if it is the network, {paper}",
    }
    training = f'{paper}, or, if it is the same in all papers, VERSIONS["loop"] in {stages_file}'
    for part in stored:
        old, new = (dict(tree_flatten_with_path(tree)[0]) for tree in (stored[part], found.get(part)))
        for name in old | new:
            was, now = old.get(name), new.get(name)
            if was is None or now is None or isinstance(was, str):
                same = was == now
            else:
                same = abs(was - now) <= TOLERANCES.get(part, 0) * max(1.0, abs(was))
            if not same:
                meant = to_raise.get(part, training)
                return f"{case.name}: {part}{keystr(name)} was {was}, is {now}. If that is meant, raise {meant}"
    return ""


def stored_numbers() -> dict[str, Any]:
    """Return name of a case -> `names` and `numbers`."""
    stored: dict[str, Any] = json.loads(FILE.read_text())
    return stored


def main() -> str | None:
    """Write golden.json. Return why not, if a number has moved and its digest has not."""
    stored = stored_numbers() if FILE.exists() else {}
    made: dict[str, Any] = {}
    with made_up():
        for case in CASES:
            with tempfile.TemporaryDirectory() as folder:
                made[case.name] = {"names": names(case), "numbers": numbers(case, Path(folder))}
            before = stored.get(case.name, {"names": None})
            if before["names"] == names(case) and (text := moved(case, before["numbers"], made[case.name]["numbers"])):
                return text
    FILE.write_text(json.dumps(made, indent=1) + "\n")
    return None


# ------------------------------------------------------------------------------------------------- the tests
AGAIN = "uv run python tests/pipelines/training/test_golden.py"


@pytest.fixture(scope="module", autouse=True)
def _made_up() -> Iterator[None]:
    with made_up():
        yield


def test_every_stage_is_stored() -> None:
    assert list(stored_numbers()) == [case.name for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_numbers_move_with_their_digest_only(case: Case, tmp_path: Path) -> None:
    stored = stored_numbers()[case.name]
    difference = moved(case, stored["numbers"], numbers(case, tmp_path))
    if stored["names"] == names(case):
        assert not difference, f"{difference}; then: {AGAIN}"
    assert stored["names"] == names(case), f"{case.name} has another digest than in golden.json, as is right: {AGAIN}"


PLAIN = Case(paper="plain", stage="detect")


def test_precision_reaches_training_validation_and_scoring(tmp_path: Path) -> None:
    made = {}
    for precision in ("auto", "fp32", "bf16"):
        job = trained(PLAIN, tmp_path / precision, precision=precision)
        line = job.planned.curve()[-1]
        logits = scores(job, tmp_path / precision / "wide")["logit"]
        made[precision] = (line["train/loss"], line["val/loss"], *logits)
        assert job.planned.summary()["made_with"]["precision"] == ("bf16" if precision == "bf16" else "fp32")
    assert made["auto"] == made["fp32"]  # on a CPU
    assert all(one != other for one, other in zip(made["fp32"], made["bf16"], strict=True))
    assert made["bf16"] == pytest.approx(made["fp32"], rel=0.1, abs=0.1)


@pytest.mark.nightly
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_deterministic_training_is_the_same_each_time(case: Case, tmp_path: Path) -> None:
    """On the GPU, where there is one; and no stage has an operation that is refused."""
    one, other = (trained(case, tmp_path / name, precision="auto", deterministic=True) for name in ("one", "other"))
    assert one.planned.summary()["made_with"]["deterministic"] == "yes"
    weights = [safetensors.torch.load_file(job.planned.folder / "weights.safetensors") for job in (one, other)]
    for name, value in weights[0].items():
        assert torch.equal(value.nan_to_num(), weights[1][name].nan_to_num()), name


if __name__ == "__main__":
    sys.exit(main())
