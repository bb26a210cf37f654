"""What a trial shows of what it looks at: which faces, what of them, and what happens when something breaks."""

from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
import threadpoolctl
import torch
from sklearn.manifold import TSNE
from torch import Tensor, nn

import models
from pipelines.common import tables
from pipelines.metrics import names
from pipelines.reporting.evidence import examples, heated, plane, tsne
from pipelines.scoring import explain
from pipelines.scoring.explain import ShownPart
from pipelines.training.views import Video


class Corner(models.Stage):
    """Says fake if the upper right quarter is bright. Its weights are set by hand: channel 1 is not asked."""

    name, view = "corner", "frames"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 4, stride=4)
        self.norm = nn.BatchNorm2d(2)
        with torch.no_grad():
            self.conv.weight.fill_(1 / 48)
            self.conv.bias.zero_()
        self.eval()

    def cam_layer(self) -> models.CamLayer:
        return models.CamLayer(self.norm)

    def logit(self, batch: models.Batch) -> Tensor:
        maps = self.norm(self.conv(batch["image"].permute(0, 3, 1, 2).float() / 255))
        half = maps.shape[-1] // 2
        return maps[:, 0, :half, half:].mean((1, 2)) * 10 - 5

    def score(self, batch: models.Batch) -> dict[str, Tensor]:
        return {"logit": self.logit(batch)}


class Clips(Corner):
    """The same of clips; tokens in the order time, row, column. Only the last half of the frames counts."""

    view = "clips"

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Identity()

    def cam_layer(self) -> models.CamLayer:
        return models.CamLayer(self.tokens, lambda x: x.mT.unflatten(2, (4, 8, 8)))

    def logit(self, batch: models.Batch) -> Tensor:
        frames = batch["image"].flatten(0, 1).permute(0, 3, 1, 2).float() / 255
        maps = self.norm(self.conv(frames)).unflatten(0, (-1, 4))  # (B, 4, 2, 8, 8)
        tokens = self.tokens(maps.permute(0, 1, 3, 4, 2).flatten(1, 3))
        at = tokens.unflatten(1, (4, 8, 8))
        return at[:, 2:, :4, 4:, 0].mean((1, 2, 3)) * 10 - 5


def corner_image() -> np.ndarray:
    """(1, 32, 32, 3): gray, the upper right quarter bright."""
    image = np.full((1, 32, 32, 3), 20, np.uint8)
    image[:, :16, 16:] = 240
    return image


# -------------------------------------------------------------------------------------- Grad-CAM
def test_grad_cam_is_hot_where_the_decision_is_made():
    stage, batch = Corner(), {"image": torch.from_numpy(corner_image())}
    (cam,) = explain.grad_cam(stage, batch)
    assert cam.shape == (32, 32)
    assert (cam.min(), cam.max()) == (0, pytest.approx(1))
    assert cam[:14, 19:].min() > 0.9
    assert cam[20:, :].max() < 0.1
    assert cam[:, :12].max() < 0.1


def test_grad_cam_of_a_clip_has_its_frames():
    """The same picture in all frames: maps are weighed by channel, so all frames are hot at the same place."""
    frames = np.repeat(corner_image(), 4, 0)
    frames[0] = 20
    (cam,) = explain.grad_cam(Clips(), {"image": torch.from_numpy(frames[None])})
    assert cam.shape == (4, 32, 32)
    assert cam[1:, 2:12, 20:30].min() > 0.7
    assert cam[1:, 20:, :12].max() < 0.1
    assert cam[0].max() < 0.1


def test_where_nothing_speaks_for_a_fake_nothing_is_hot():
    class Reversed(Corner):
        def logit(self, batch):
            return -super().logit(batch)

    (cam,) = explain.grad_cam(Reversed(), {"image": torch.from_numpy(corner_image())})
    assert cam.max() == 0


def test_grad_cam_leaves_no_trace():
    stage, batch = Corner(), {"image": torch.from_numpy(corner_image())}
    before, score = {n: v.clone() for n, v in stage.state_dict().items()}, stage.score(batch)["logit"]
    explain.grad_cam(stage, batch)
    assert all(value.grad is None for value in stage.parameters())
    assert all(value.requires_grad for value in stage.parameters())
    assert not any(module.training for module in stage.modules())
    assert not any(module._forward_hooks for module in stage.modules())
    assert all(torch.equal(value, before[name]) for name, value in stage.state_dict().items())
    assert torch.equal(stage.score(batch)["logit"], score)


def test_a_stage_that_breaks_leaves_no_hooks():
    stage = Corner()
    with pytest.raises(RuntimeError) as held:  # keeps the call's frames, and so what they hold
        explain.grad_cam(stage, {"image": torch.zeros(1, 32, 32, 4, dtype=torch.uint8)})
    assert held.tb is not None
    assert not any(module._forward_hooks for module in stage.modules())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_grad_cam_is_the_same_on_a_gpu():
    (here,) = explain.grad_cam(Corner(), {"image": torch.from_numpy(corner_image())})
    (there,) = explain.grad_cam(Corner().cuda(), {"image": torch.from_numpy(corner_image()).cuda()})
    np.testing.assert_allclose(there, here, atol=1e-4)


def test_no_layer_is_said():
    class Blind(Corner):
        def cam_layer(self):
            return None

    with pytest.raises(ValueError, match="stage corner has no layer for Grad-CAM"):
        explain.grad_cam(Blind(), {"image": torch.from_numpy(corner_image())})


# ----------------------------------------------------------------------------------- which faces
def part(name: str, scores: dict[str, tuple[int, list[float]]]) -> ShownPart:
    """A part of videos -> label, scores of its frames; the video's is their mean."""
    videos = [Video(i, label, "real" if label == 0 else "swap", i) for i, (label, _) in scores.items()]
    rows = [
        {"video_id": i, "face_index": 0, "frame_index": 10 * n, "score": value, "mask_png": None}
        for i, (_, values) in scores.items()
        for n, value in enumerate(values)
    ]
    table = pa.Table.from_pylist(rows)
    means = {i: float(np.mean(values)) for i, (_, values) in scores.items()}
    return ShownPart(name=name, videos=tuple(videos), predictions={"a": table, names.FINAL: table}, scores=means)


def test_examples_are_the_surest_right_and_wrong_of_each_class():
    scores = {
        "d/r1": (0, [0.1, 0.2]),
        "d/r2": (0, [0.4, 0.0]),  # mean 0.2
        "d/r3": (0, [0.6, 0.9]),  # wrong, 0.75
        "d/f1": (1, [0.5, 0.9]),  # 0.7
        "d/f2": (1, [0.6, 0.6]),
        "d/f3": (1, [0.5, 0.5]),  # exactly 0.5 counts as real, so wrong
    }
    shown = explain.examples([part("d", scores)])
    rows = [example.row("a") for example in shown]
    assert [(r["video_id"], r["verdict"], r["frame_index"]) for r in rows] == [
        ("d/r1", "right", 0),
        ("d/r3", "wrong", 10),
        ("d/f1", "right", 10),
        ("d/f3", "wrong", 0),
    ]
    assert rows[0]["score"] == 0.1
    assert rows[0]["video_score"] == pytest.approx(0.15)
    assert shown[0].row("recover")["score"] is None


def test_a_class_that_is_always_right_has_no_wrong_example():
    shown = explain.examples([part("d", {"d/r": (0, [0.1]), "d/f": (1, [0.9])})])
    assert [example.row("a")["verdict"] for example in shown] == ["right", "right"]


def test_a_video_of_two_parts_is_shown_once():
    """The manipulations of a dataset are compared with the same real videos."""
    parts = [
        part("d/A", {"d/r": (0, [0.1]), "d/A/f": (1, [0.9])}),
        part("d/B", {"d/r": (0, [0.1]), "d/B/f": (1, [0.8])}),
    ]
    assert [(e.part, e.video.video_id) for e in explain.examples(parts)] == [
        ("d/A", "d/r"),
        ("d/A", "d/A/f"),
        ("d/B", "d/B/f"),
    ]


def test_features_are_drawn_evenly(monkeypatch):
    monkeypatch.setattr(explain, "MOST_FACES", 12)
    many = {f"d/r{i}": (0, [0.1]) for i in range(40)} | {f"d/f{i}": (1, [0.9]) for i in range(3)}
    parts = [part("d", many), part("e", {"e/r": (0, [0.1])})]
    drawn = explain.drawn(parts, seed=0)
    # 12 faces for three groups: 4 videos of d's real, one face each; 2 faces of 2 of the fakes; 4 faces of e's one.
    assert sorted((v.video_id[:3], n) for v, n in drawn if v.label) == [("d/f", 2)] * 2
    assert sorted(n for v, n in drawn if v.video_id.startswith("d/r")) == [1] * 4
    assert [(v.video_id, n) for v, n in drawn if v.video_id == "e/r"] == [("e/r", 4)]
    assert {v.video_id[:3] for v, _ in drawn[:3]} == {"d/r", "d/f", "e/r"}
    assert drawn == explain.drawn(parts, seed=0)
    assert drawn != explain.drawn(parts, seed=1)


# ---------------------------------------------------------------------------------------- drawing
def png(value: np.ndarray) -> bytes:
    return cv2.imencode(".png", value)[1].tobytes()


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def features(points: list[list[float]], **more: Any) -> pa.Table:
    rows = [
        {
            "dataset": "ffpp",
            "video_id": f"ffpp/{i}",
            "frame_index": 0,
            "face_index": 0,
            "label": i % 2,
            "method": ("real", "Deepfakes")[i % 2],
            "stage": "detect",
            "score": 0.5,
            "features": point,
        }
        | more
        for i, point in enumerate(points)
    ]
    return tables.to_table(rows, tables.FEATURES)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 7])
def test_a_plane_of_few_points(number):
    vectors = np.random.default_rng(0).normal(size=(number, 5))
    places = plane(vectors)
    assert places.shape == (number, 2)
    assert np.isfinite(places).all()
    np.testing.assert_array_equal(places, plane(vectors))


def test_points_in_one_place_and_of_one_dimension():
    assert (plane(np.ones((9, 3))) == 0).all()
    assert np.isfinite(plane(np.arange(9.0)[:, None])).all()


def test_t_sne_takes_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with other work, threads of so few points spin for minutes."""
    seen: list[int] = []

    def fit_transform(self: TSNE, vectors: Any) -> Any:
        seen.extend(pool["num_threads"] for pool in threadpoolctl.threadpool_info())
        return vectors[:, :2]

    monkeypatch.setattr(TSNE, "fit_transform", fit_transform)
    plane(np.random.default_rng(0).normal(size=(9, 3)))
    assert set(seen) == {1}


def test_a_plane_keeps_two_clouds_apart():
    rng = np.random.default_rng(0)
    clouds = np.concatenate([rng.normal(size=(30, 8)), rng.normal(size=(30, 8)) + 20])
    places = plane(clouds)
    centres = places[:30].mean(0), places[30:].mean(0)
    radius = max(np.linalg.norm(own - own.mean(0), axis=1).mean() for own in (places[:30], places[30:]))
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * radius


@pytest.mark.parametrize("number", [0, 3, 12])
def test_tsne_is_a_picture(number):
    points = np.random.default_rng(1).normal(size=(number, 4)).tolist()
    shown = decoded(tsne(features(points), "a $x^ title"))
    assert min(shown.shape[:2]) > 300
    red, green, blue = np.moveaxis(shown.astype(int), 2, 0)
    assert ((green > red + 40) & (green > blue + 20)).any() == (number > 0)


def test_two_stages_with_features_of_different_width_are_two_panels():
    both = pa.concat_tables([features([[1.0, 2.0]] * 3), features([[1.0, 2.0, 3.0]] * 3, stage="localize")])
    single = decoded(tsne(features([[1.0, 2.0]] * 3), "t"))
    assert decoded(tsne(both, "t")).shape[1] > 1.4 * single.shape[1]


def evidence(**changes: Any) -> dict[str, Any]:
    row = {
        "dataset": "celeb_df",
        "video_id": "celeb_df/a",
        "frame_index": 3,
        "face_index": 0,
        "label": 1,
        "method": "swap",
        "stage": "detect",
        "score": 0.9,
        "verdict": "right",
        "video_score": 0.8,
        "picture": "face",
        "png": png(np.full((8, 8, 3), 100, np.uint8)),
        "problem": "",
    }
    return row | changes


def test_an_example_shows_each_picture_and_says_what_is_missing():
    hot = np.zeros((8, 8), np.uint8)
    hot[:, 4:] = 255
    rows = [
        evidence(),
        evidence(picture="Grad-CAM", png=png(hot)),
        evidence(picture="mask", png=None, problem="ValueError: broken"),
    ]
    table = tables.to_table(rows, tables.EVIDENCE)
    shown = decoded(*examples(table))
    assert (shown == 100).all(2).sum() > 160 * 160 + 160 * 60  # the face, and the half of it that is not hot
    whole = decoded(*examples(tables.to_table(rows[:2], tables.EVIDENCE)))
    assert shown.shape[0] > whole.shape[0]  # a line more: what is missing
    other = evidence(video_id="another")
    assert len(examples(tables.to_table([rows[0], other, rows[1]], tables.EVIDENCE))) == 2  # one of each video
    assert examples(table.slice(0, 0)) == []


def test_heat_is_laid_over_where_it_is():
    gray, hot = np.full((4, 4, 3), 100, np.uint8), np.zeros((4, 4), np.uint8)
    hot[0, 3] = 255
    shown = heated(gray, hot, 4)
    assert shown[3, 0].tolist() == [100, 100, 100]
    red, green, blue = shown[0, 3].tolist()
    assert red > 100 > green
    assert blue < 60
