"""What the loop promises a stage beyond a forward pass: epochs, repeated passes, schedules, which epoch is kept.

The stage here is a toy of one number; FACES are made up by a stand-in, as in test_train.py.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ConstantLR, ReduceLROnPlateau

from models import Feed, Stage
from models._sam import SAM
from pipelines.training import loop, stages
from pipelines.training.job import Job
from pipelines.training.views import Video
from pipelines.training.workers import Alone

REALS = tuple(Video(f"ffpp/real/c23/{i}", 0, "real", f"ffpp/{i}") for i in range(4))
FAKES = tuple(Video(f"ffpp/Any/c23/{i}", 1, "Any", f"ffpp/{i}") for i in range(4))


class Toy(Stage):
    """loss = w; keeps a diary. `cfg` says what val gives in each epoch and which optimizer trains."""

    name = "toy"
    view = "frames"

    @staticmethod
    def feed(cfg: Mapping[str, Any]) -> Feed:
        return Feed(input_px=8, batch_size=4, num_epochs=cfg["epochs"], steps_per_epoch=2)

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        super().__init__()
        self.cfg = cfg
        self.w = nn.Parameter(torch.ones(1))
        self.late = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.diary: list[Any] = []

    def start_epoch(self, epoch: int) -> None:
        self.diary.append(("epoch", epoch))
        self.epoch.fill_(epoch)
        self.late.requires_grad_(epoch >= 2)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if not self.training:
            loss, score = self.cfg["val"][int(self.epoch) - 1]
            right = torch.full((len(batch["label"]),), score).logit()
            return {"loss": torch.tensor(loss), "logit": torch.where(batch["label"] == 1, right, -right)}
        self.diary.append(("pass", int(self.epoch), bool(batch["repeat"])))
        loss = self.w.sum() + (self.late.sum() if self.late.requires_grad else 0)
        return {"loss": loss}

    def optimizer(self, num_steps: int) -> Any:
        base = SGD(self.parameters(), lr=0.1)
        optimizer = SAM(base) if self.cfg.get("sam") else base
        if self.cfg.get("plateau"):
            return optimizer, ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return optimizer, ConstantLR(optimizer, factor=1.0)


class Samples:
    """One frame of each video."""

    def training_sample(self, pick: Any) -> dict[str, np.ndarray]:
        return {"label": np.asarray(pick.video.label)}

    def scoring_samples(self, video: Video, seed: int, mode: str, most_frames: int) -> Any:
        assert mode == "select"
        box = {"x0": 0.0, "y0": 0.0, "x1": 1.0, "y1": 1.0}
        yield [{"frame_index": 0, "face_index": 0, "box_px": box}], {"label": np.asarray(video.label)}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """run(cfg, selects_by, world) -> the trained job and the diary of its stage; `cfg` as `Toy` takes it."""

    def start(
        cfg: dict[str, Any], selects_by: str = "auc", world: Any = None, spec: Mapping[str, Any] = {}
    ) -> tuple[Job, list[Any]]:
        made: list[Toy] = []

        class Chosen(Toy):
            def __init__(self, config: Any) -> None:
                super().__init__(config)
                made.append(self)

        Chosen.selects_by = selects_by  # type: ignore[assignment]
        monkeypatch.setattr(Job, "stage", Chosen)
        monkeypatch.setattr(Job, "_samples", lambda self, donors: Samples())
        planned = stages.PlannedStage(paper="toy", name="toy", folder=tmp_path / "toy", spec={"seed": 0, **spec})
        planned.folder.mkdir(exist_ok=True)
        job = Job(planned=planned, config=cfg, train=REALS + FAKES, select=REALS + FAKES, faces={}, earlier={})
        loop.loop(job, world or Alone())
        return job, made[-1].diary

    return start


FLAT = [(1.0, 0.9)] * 4  # loss and score of the right class on val, by epoch


def test_each_epoch_is_announced_before_its_first_step(run):
    _, diary = run({"epochs": 3, "val": FLAT})
    assert diary == [
        *[("epoch", 1), ("pass", 1, False), ("pass", 1, False)],
        *[("epoch", 2), ("pass", 2, False), ("pass", 2, False)],
        *[("epoch", 3), ("pass", 3, False), ("pass", 3, False)],
    ]


def test_the_second_pass_of_sam_is_marked(run):
    _, diary = run({"epochs": 1, "val": FLAT, "sam": True})
    assert [entry[2] for entry in diary if entry[0] == "pass"] == [False, True] * 2


def test_what_an_epoch_sets_free_is_trained_from_then_on(run, monkeypatch):
    wrapped = []

    class Counting(Alone):
        def wrap(self, module: nn.Module) -> nn.Module:
            wrapped.append([name for name, p in module.named_parameters() if p.requires_grad])
            return module

    job, _ = run({"epochs": 3, "val": FLAT}, "last", Counting())
    assert wrapped == [["w"], ["w", "late"]]  # DDP must learn of it, and not in every epoch
    import safetensors.torch

    weights = safetensors.torch.load_file(job.planned.folder / "weights.safetensors")
    assert weights["w"].item() == pytest.approx(1 - 6 * 0.1)
    assert weights["late"].item() == pytest.approx(1 - 4 * 0.1)


def test_a_plateau_is_judged_once_an_epoch_by_the_loss_on_val(run):
    job, _ = run({"epochs": 4, "val": [(1.0, 0.9), (0.5, 0.9), (0.5, 0.9), (0.4, 0.9)], "plateau": True})
    # The third epoch does not improve: the fourth has half the rate, and not a quarter for its second step.
    assert [line["lr"] for line in job.planned.curve()] == pytest.approx([0.1, 0.1, 0.1, 0.05])


@pytest.mark.parametrize(
    ("rule", "val", "kept"),
    [
        ("auc", [(1.0, 0.4), (2.0, 0.9), (1.5, 0.9), (0.1, 0.3)], 3),  # AUC 0, 1, 1, 0: the tie by the loss
        ("loss", [(1.0, 0.9), (0.2, 0.1), (0.5, 0.9), (0.3, 0.9)], 2),
        ("last", [(0.1, 0.9), (0.2, 0.9), (0.5, 0.9), (9.0, 0.1)], 4),
        # Accuracy 0, 1, 1, 1 with falling loss: the third has a better loss and no better accuracy.
        ("accuracy_and_loss", [(1.0, 0.4), (0.9, 0.9), (0.5, 0.9), (0.1, 0.9)], 2),
        ("accuracy_and_loss", [(1.0, 0.4), (1.1, 0.9), (0.5, 0.9), (0.1, 0.4)], 3),  # better in both only in the third
    ],
)
def test_which_epoch_is_kept(run, rule, val, kept):
    job, _ = run({"epochs": 4, "val": val}, rule)
    assert job.planned.summary()["best_epoch"] == kept


def test_the_curve_has_all_that_val_gives(run):
    job, _ = run({"epochs": 1, "val": [(0.25, 0.9)]})
    (line,) = [json.loads(text) for text in (job.planned.folder / "curves.jsonl").read_text().splitlines()]
    assert (line["val/loss"], line["val/auc"], line["val/accuracy"]) == (0.25, 1.0, 1.0)


@pytest.mark.parametrize(("precision", "autocast"), [("auto", False), ("fp32", False), ("bf16", True)])
def test_training_and_validation_compute_as_the_spec_says(run, precision, autocast, monkeypatch):
    seen: list[tuple[bool, bool, bool]] = []
    forward = Toy.forward

    def look(self: Toy, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen.append((self.training, torch.is_autocast_enabled("cpu"), torch.are_deterministic_algorithms_enabled()))
        return forward(self, batch)

    monkeypatch.setattr(Toy, "forward", look)
    run({"epochs": 1, "val": FLAT}, spec={"precision": precision, "deterministic": autocast})
    assert set(seen) == {(True, autocast, autocast), (False, autocast, autocast)}
    assert not torch.are_deterministic_algorithms_enabled()
