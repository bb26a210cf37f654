"""What training at the papers' sizes takes, computed before anything like it was measured.

    hours = work of a sample x samples / rate of a GPU

Work of a sample: operations of a forward pass and a backward pass of twice the work, both twice with SAM, as torch
counts them for the paper's own setting (`benchmarks/memory.py`). A row that changes the network counts as if it did
not. Samples: those of the schedule on FaceForensics++, 720 real videos and as many fakes of each manipulation. The rate
is assumed, so the hours are an estimate. Extraction and scoring come on top.

To compute it takes the networks' code, and seconds to import it. `kept` spares them, for a list of questions.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path

from models import Feed
from pipelines.common import user_cache
from pipelines.common.storage import write_json
from pipelines.common.text import counted
from pipelines.datasets.ffpp import MANIPULATIONS
from pipelines.experiments.experiment import Experiment
from pipelines.training.views import REAL_VIEWS, VIEWS, Video, View

TFLOPS = 31.2  # of the 312 TFLOP/s that an A100 has in bf16
BASIS = "estimated for an A100 at a tenth of its peak"
FFPP_TRAIN = 720  # real videos of its train part
# GFLOP of a sample, as in docs/scale.md; of `plain` by its backbone.
WORK = {
    "plain.detect legacy_xception.tf_in1k": 50.0,
    "plain.detect tf_efficientnet_b4.ap_in1k": 26.0,
    "lre.reconstruct": 58.0,
    "lre.detect": 140.0,
    "delocate.recover": 937.0,
    "delocate.finetune": 1082.0,
    "delocate.localize": 208.0,
    "adfd.detect": 105.0,
    "mc_lcr.detect": 39.0,
    "laa_net.detect": 199.0,
}


def key_of(experiment: Experiment, stage: str) -> str:
    """Return what the work of a stage's sample stands under in `WORK`."""
    backbone = f" {experiment.config().backbone}" if experiment.model == "plain" else ""
    return f"{experiment.model}.{stage}{backbone}"


def work(experiments: Iterable[Experiment]) -> tuple[int, float]:
    """Return the number of distinct trainings of experiments on FaceForensics++, and their operations.

    Raises KeyError for a network whose work was not counted.
    """
    from pipelines.training import stages  # here: they are networks, which take seconds to import

    operations: dict[str, float] = {}
    for experiment in experiments:
        for stage in stages.plan(experiment, rows_unseen(experiment), Path()):
            if stage.digest not in operations:
                num_samples = samples(json.dumps(stage.spec["feed"]), len(experiment.manipulations or MANIPULATIONS))
                operations[stage.digest] = 1e9 * WORK[key_of(experiment, stage.name)] * num_samples
    return len(operations), sum(operations.values())


def rows_unseen(experiment: Experiment) -> dict[str, str]:
    """Return, for each view, what stands for the digest of its faces before there are any.

    Likewise for each stage with videos of its own, by its name.
    Two experiments get the same text where they will train on the same faces.
    """
    cut = [f"{name} {value}" for name, value in sorted(experiment.faces_args.items())]
    real = [experiment.train_on, experiment.codec, *cut]
    seen = {view: real if view in REAL_VIEWS else [*real, *experiment.manipulations] for view in VIEWS}
    seen |= {stage: [experiment.train_on, codec, *cut] for stage, codec in experiment.own_codecs().items()}
    return {name: f"not extracted yet: {', '.join(names)}" for name, names in seen.items()}


@cache
def samples(feed_json: str, num_manipulations: int) -> int:
    """Return the samples of a whole training. feed_json: of a stage's spec."""
    feed = json.loads(feed_json)
    ids = range(FFPP_TRAIN)
    videos = [Video(f"real/{i}", 0, "real", str(i)) for i in ids]
    if feed["view"] not in REAL_VIEWS:
        videos += [Video(f"{method}/{i}", 1, f"{method}", str(i)) for method in range(num_manipulations) for i in ids]
    known = {each.name for each in fields(Feed)}
    own = Feed(**{name: value for name, value in feed.items() if name in known})
    view = View(feed["view"], videos, own, seed=0)
    return view.steps_per_epoch * view.step_size * own.num_epochs


def estimate(experiments: Iterable[Experiment]) -> str:
    """Return the estimate of experiments as a text; that it is not known where a network's work was not counted."""
    try:
        return told(*work(experiments))
    except KeyError as unknown:
        return f"no estimate: nobody counted the work of {unknown.args[0]}"


def told(num_trainings: int, operations: float) -> str:
    """Return the estimate as a text: `9 trainings, some 4.8 GPU hours`; see `BASIS`."""
    hours = operations / (1e12 * TFLOPS) / 3600
    shown = f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}"
    return f"{counted(num_trainings, 'training')}, some {shown} GPU hours"


def kept(questions: Mapping[str, Callable[[], Iterable[Experiment]]], say: Callable[[int], None]) -> dict[str, str]:
    """Return the estimate of each question, by its name, from its experiments.

    Estimates lie in the user's cache folder as long as no file of the program has changed. Those that do not are
    computed, after `say` was told how many they are.
    """
    place, code = user_cache.folder() / "estimates.json", _digest_of_code()
    known: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # there is none yet, or it is spoiled
        found = json.loads(place.read_text(encoding="utf-8"))
        if found["code"] == code:
            known = {str(name): str(text) for name, text in found["estimates"].items()}
    if missing := [name for name in questions if name not in known]:
        say(len(missing))
        known |= {name: estimate(questions[name]()) for name in missing}
        with suppress(OSError):  # what can't be kept is computed again next time
            write_json(place, {"code": code, "estimates": known})
    return {name: known[name] for name in questions}


def _digest_of_code() -> str:
    """Return a digest of the program's files, the questions among them."""
    root, found = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(path for folder in ("models", "pipelines", "sweeps") for path in (root / folder).rglob("*.py")):
        found.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()
