"""What training at the papers' sizes takes, computed before anything like it was measured.

    hours = work of a sample x samples / rate of a GPU

Work of a sample: operations of a forward pass and a backward pass of twice the work, both twice with SAM, as torch
counts them for the paper's own setting (`benchmarks/memory.py`). A row that changes the network counts as if it did
not. Samples: those of the schedule on FaceForensics++, 720 real videos and as many fakes of each manipulation. The rate
is assumed, so the hours are an estimate. Extraction and scoring come on top.
"""

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from models import Feed
from pipelines.datasets.ffpp import MANIPULATIONS
from pipelines.experiments.experiment import Experiment
from pipelines.training.views import REAL_VIEWS, VIEWS, Video, View

GPU, TFLOPS = "an A100 at a tenth of its peak", 31.2  # of 312 TFLOP/s in bf16
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
                num_samples = samples(stage.spec["feed"], len(experiment.manipulations or MANIPULATIONS))
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


def samples(feed: dict[str, object], num_manipulations: int) -> int:
    """Return the samples of a whole training. feed: of a stage's spec."""
    ids = range(FFPP_TRAIN)
    videos = [Video(f"real/{i}", 0, "real", str(i)) for i in ids]
    if feed["view"] not in REAL_VIEWS:
        videos += [Video(f"{method}/{i}", 1, f"{method}", str(i)) for method in range(num_manipulations) for i in ids]
    known = {each.name for each in fields(Feed)}
    own = Feed(**{name: value for name, value in feed.items() if name in known})  # type: ignore[arg-type]
    view = View(str(feed["view"]), videos, own, seed=0)
    return view.steps_per_epoch * view.step_size * own.num_epochs


def estimate(experiments: Iterable[Experiment]) -> str:
    """Return the estimate of experiments as a text; that it is not known where a network's work was not counted."""
    try:
        return told(*work(experiments))
    except KeyError as unknown:
        return f"no estimate: nobody counted the work of {unknown.args[0]}"


def told(num_trainings: int, operations: float) -> str:
    """Return the estimate as a text: `9 trainings, some 4 hours of an A100 at a tenth of its peak (estimated)`."""
    hours = operations / (1e12 * TFLOPS) / 3600
    shown = f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}"
    return f"{num_trainings} training{'' if num_trainings == 1 else 's'}, some {shown} hours of {GPU} (estimated)"
