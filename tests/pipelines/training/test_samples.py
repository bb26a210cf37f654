"""Which sample comes at which step, and what it holds."""

import itertools
import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models import BadSample, Feed, Stage
from pipelines.common import tables
from pipelines.training import batches, views
from pipelines.training import samples as samples_module
from pipelines.training.samples import Derived, Samples, face_arrays
from pipelines.training.views import Pick, Video, View, clip_starts

VIEWS = views.VIEWS
BALANCED = [name for name in VIEWS if name not in views.REAL_VIEWS]
METHODS = ("Deepfakes", "Face2Face", "FaceSwap")


def some_videos(num_ids: int = 12, methods: Iterable[str] = METHODS) -> list[Video]:
    """One real video per id, and one fake of it per method."""
    ids = [f"ffpp/{i:03d}" for i in range(num_ids)]
    reals = [Video(f"ffpp/real/c23/{id_[5:]}", 0, "real", id_) for id_ in ids]
    return reals + [Video(f"ffpp/{m}/c23/{id_[5:]}_999", 1, m, id_) for m in methods for id_ in ids]


def make_view(name: str, videos: list[Video] | None = None, seed: int = 0, **training) -> View:
    settings = Feed(**{"input_px": 32, "batch_size": 4, **training})
    return View(name, some_videos() if videos is None else videos, settings, seed)


def picks(view: View, num_steps: int) -> list[Pick]:
    return [pick for step in range(num_steps) for pick in view.step(step)]


def labels(chosen: Iterable[Pick]) -> Counter:
    return Counter(pick.video.label for pick in chosen)


def assert_each_window_holds_all(sequence: list[str], pool: set[str]) -> None:
    assert len(sequence) >= 3 * len(pool)
    for first in range(0, len(sequence) - len(pool) + 1, len(pool)):
        assert sorted(sequence[first : first + len(pool)]) == sorted(pool)


# --------------------------------------------------------------------------------- a pure function
@pytest.mark.parametrize("name", VIEWS)
def test_a_sample_depends_on_its_number_alone(name):
    """A training that starts in the middle, in another process, sees what one from the start sees."""
    from_start, later = make_view(name), make_view(name)
    steps = [from_start.step(step) for step in range(12)]
    assert [later.step(step) for step in (9, 2, 11)] == [steps[9], steps[2], steps[11]]
    assert len({tuple(step) for step in steps}) == 12


@pytest.mark.parametrize("name", VIEWS)
def test_another_seed_is_another_sequence(name):
    assert picks(make_view(name), 3) != picks(make_view(name, seed=1), 3)


@pytest.mark.parametrize("name", VIEWS)
def test_every_sample_has_its_own_randomness(name):
    chosen = picks(make_view(name), 60)
    assert len({pick.seed for pick in chosen}) == len(chosen)
    assert len({pick.where for pick in chosen}) == len(chosen)
    assert not {pick.seed for pick in chosen} & {pick.seed for pick in picks(make_view(name, seed=1), 60)}


def test_stages_of_one_training_do_not_share_randomness():
    for one, other in itertools.combinations(VIEWS, 2):
        assert not {p.seed for p in picks(make_view(one), 5)} & {p.seed for p in picks(make_view(other), 5)}


@pytest.mark.parametrize("name", VIEWS)
def test_where_is_uniform(name):
    where = [pick.where for pick in picks(make_view(name), 200)]
    assert min(where) >= 0
    assert max(where) < 1
    counts, _ = np.histogram(where, bins=10, range=(0, 1))
    assert counts.sum() >= 800
    assert abs(counts - counts.mean()).max() < 6 * math.sqrt(counts.mean())


@pytest.mark.parametrize("name", VIEWS)
def test_augmentation_does_not_depend_on_which_frame_was_chosen(name):
    """A stage that flips a coin with the sample's own generator must not flip by `where`."""
    chosen = picks(make_view(name), 200)
    first_draws = [np.random.default_rng(pick.seed).random() for pick in chosen]
    assert abs(np.corrcoef(first_draws, [pick.where for pick in chosen])[0, 1]) < 0.15


# ------------------------------------------------------------------------------------------ shares
@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_workers_see_together_what_one_sees_alone(name, world_size):
    view = make_view(name, batch_size=8)
    for step in range(4):
        shares = [view.share(step, rank, world_size) for rank in range(world_size)]
        assert [pick for share in shares for pick in share] == view.step(step)
        assert {len(share) for share in shares} == {view.step_size // world_size}


@pytest.mark.parametrize("name", BALANCED)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_each_share_has_as_many_real_as_fake(name, world_size):
    view = make_view(name, batch_size=8)
    for step, rank in itertools.product(range(4), range(world_size)):
        counts = labels(view.share(step, rank, world_size))
        assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    ("name", "batch_size", "world_size", "unit"),
    [("real_clips", 4, 3, 3), ("clips", 6, 2, 4), ("frames", 3, 1, 2), ("domain_frames", 6, 2, 4)],
)
def test_a_step_that_cannot_be_cut_equally_says_which_batch_size_can(name, batch_size, world_size, unit):
    view = make_view(name, batch_size=batch_size)
    with pytest.raises(ValueError, match=f"can't be shared equally by {world_size} workers; .* a multiple of {unit}$"):
        view.share(0, 0, world_size)
    assert make_view(name, batch_size=unit).share(0, world_size - 1, world_size)


# ------------------------------------------------------------------------------------------- views
def test_real_clips_are_real_each_once_per_turn():
    view = make_view("real_clips")
    chosen = picks(view, 12)
    assert labels(chosen) == {0: 48}
    assert_each_window_holds_all([p.video.video_id for p in chosen], {v.video_id for v in view.real})


@pytest.mark.parametrize("name", ["clips", "frames"])
def test_each_class_is_shown_in_turns_in_which_each_video_comes_once(name):
    view = make_view(name)
    chosen = picks(view, 60)
    for label, pool in ((0, view.real), (1, view.fake)):
        assert_each_window_holds_all(
            [p.video.video_id for p in chosen if p.video.label == label], {v.video_id for v in pool}
        )


@pytest.mark.parametrize("name", VIEWS)
def test_turns_are_shuffled_anew(name):
    view = make_view(name)
    label = int(name not in views.REAL_VIEWS)
    shown = [p.video.video_id for p in picks(view, 40) if p.video.label == label]
    size = len(view.fake if label else view.real)
    assert shown[:size] != shown[size : 2 * size]


def test_one_epoch_shows_every_video_of_the_larger_class():
    view = make_view("clips")  # 12 real, 36 fake
    assert view.steps_per_epoch == 2 * 36 // 4
    fakes = {p.video.video_id for p in picks(view, view.steps_per_epoch) if p.video.label}
    assert len(fakes) == 36
    assert make_view("real_clips").steps_per_epoch == 3
    assert make_view("real_clips", batch_size=5).steps_per_epoch == 3  # the last step begins the next turn
    assert make_view("domain_frames").steps_per_epoch == 2 * 36 // (4 * 3)
    assert make_view("clips", steps_per_epoch=7).steps_per_epoch == 7


def test_a_step_of_domain_frames_holds_every_manipulation_in_equal_numbers():
    view = make_view("domain_frames", batch_size=6)
    assert view.step_size == 6 * 3
    for step in range(6):
        by_domain = {d: [p for p in view.step(step) if p.domain == d] for d in range(3)}
        for domain, chosen in by_domain.items():
            assert labels(chosen) == {0: 3, 1: 3}
            assert {p.video.method for p in chosen if p.video.label} == {sorted(METHODS)[domain]}


def test_no_real_face_serves_two_domains_of_a_step():
    view = make_view("domain_frames", batch_size=8)  # 4 real in each of 3 domains: just the 12 there are
    for step in range(10):
        reals = [p.video.video_id for p in view.step(step) if p.video.label == 0]
        assert len(set(reals)) == len(reals) == 12


def test_where_real_faces_are_too_few_each_is_used_equally_often():
    view = make_view("domain_frames", some_videos(num_ids=5), batch_size=8)
    counts = Counter(p.video.video_id for p in view.step(0) if p.video.label == 0)
    assert sorted(counts.values()) == [2, 2, 2, 3, 3]


def test_fakes_of_a_domain_come_once_per_turn():
    view = make_view("domain_frames")
    chosen = [p for p in picks(view, 20) if p.domain == 1 and p.video.label]
    assert_each_window_holds_all([p.video.video_id for p in chosen], {p.video.video_id for p in chosen})


# --------------------------------------------------------------------------- a single manipulation
def sides(view: View) -> list[set[str]]:
    return [{video.target for pool in domain for video in pool} for domain in view.domains]


def test_a_single_manipulation_is_cut_7_to_3_by_source_id():
    first, second = sides(make_view("domain_frames", some_videos(20, ["Deepfakes"])))
    assert (len(first), len(second)) == (14, 6)
    assert not first & second


def test_the_papers_720_ids_are_cut_into_504_and_216():
    assert [len(side) for side in sides(make_view("domain_frames", some_videos(720, ["Deepfakes"])))] == [504, 216]


def test_real_and_fake_of_one_id_are_on_the_same_side_and_none_is_lost():
    videos = some_videos(20, ["Deepfakes"])
    view = make_view("domain_frames", videos)
    for real, fake in view.domains:
        assert {v.target for v in real} == {v.target for v in fake}
    assert sorted(v.video_id for d in view.domains for pool in d for v in pool) == sorted(v.video_id for v in videos)
    for pick in picks(view, 10):
        assert pick.video in view.domains[pick.domain][pick.video.label]


@pytest.mark.parametrize("name", BALANCED)
def test_with_pairs_a_real_sample_is_of_the_target_and_the_moment_of_the_fake_beside_it(name):
    plain, paired = make_view(name), make_view(name, pairs=True)
    chosen = picks(paired, 20)
    assert all(
        (real.video.label, real.video.target, real.where, real.domain)
        == (0, fake.video.target, fake.where, fake.domain)
        for real, fake in zip(chosen[::2], chosen[1::2], strict=True)
    )
    assert chosen[1::2] == picks(plain, 20)[1::2]  # the fakes are those that come anyway
    assert chosen[::2] != picks(plain, 20)[::2]


def test_a_fake_without_a_real_video_of_its_target_is_paired_with_anyone():
    videos = [
        video for video in some_videos(6, ["Deepfakes", "FaceSwap"]) if (video.label, video.target) != (0, "ffpp/002")
    ]
    chosen = picks(make_view("frames", videos, pairs=True), 20)
    odd = [(real.video.target, fake.video.target) for real, fake in zip(chosen[::2], chosen[1::2], strict=True)]
    assert {fake for real, fake in odd if real != fake} == {"ffpp/002"}


def test_the_cut_is_the_same_in_every_run():
    videos = some_videos(20, ["Deepfakes"])
    cut = sides(make_view("domain_frames", videos))
    assert sides(make_view("domain_frames", videos[::-1], seed=5)) == cut
    assert sides(make_view("domain_frames", some_videos(20, ["FaceSwap"]))) == cut
    # the last 3 of 10 by SHA-256: for i in 0 .. 9: echo -n ffpp/00$i | sha256sum
    assert sides(make_view("domain_frames", some_videos(10, ["FaceSwap"])))[1] == {"ffpp/004", "ffpp/006", "ffpp/008"}


def test_too_few_ids_to_cut_are_refused():
    with pytest.raises(ValueError, match="1 source ids are too few to cut"):
        make_view("domain_frames", some_videos(1, ["Deepfakes"]))


# ---------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize("name", BALANCED)
@pytest.mark.parametrize(("label", "count"), [(0, "12 real, 0 fake"), (1, "0 real, 36 fake")])
def test_a_view_of_both_classes_refuses_one(name, label, count):
    with pytest.raises(ValueError, match=f"view {name} needs both classes, got {count}"):
        make_view(name, [video for video in some_videos() if video.label == label])


def test_real_clips_need_real_videos_only():
    make_view("real_clips", [video for video in some_videos() if video.label == 0])
    with pytest.raises(ValueError, match="got 0 real"):
        make_view("real_clips", [video for video in some_videos() if video.label == 1])


def test_unknown_view_lists_those_there_are():
    with pytest.raises(ValueError, match="unknown view 'clip'; allowed: real_clips, clips, frames, domain_frames"):
        make_view("clip")


# ------------------------------------------------------------------------------------ clips to score
@pytest.mark.parametrize(
    ("num_frames", "clip_frames", "expected"),
    [(30, 16, [0, 14]), (32, 16, [0, 16]), (16, 16, [0]), (17, 16, [0, 1]), (3, 16, [0]), (40, 16, [0, 12, 24])],
)
def test_clip_starts_by_hand(num_frames, clip_frames, expected):
    assert clip_starts(num_frames, clip_frames) == expected


def test_clips_cover_every_frame_with_the_fewest_clips():
    for num_frames, length in itertools.product(range(1, 120), (1, 2, 5, 8, 16)):
        starts = clip_starts(num_frames, length)
        covered = {frame for start in starts for frame in range(start, start + length)}
        assert covered >= set(range(num_frames))
        assert len(starts) == math.ceil(num_frames / length)
        assert starts[-1] + length <= max(num_frames, length)


# ------------------------------------------------------------------------------------ its contents
def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


CROP_PX = 16
REAL = Video("ffpp/real/c23/000", 0, "real", "ffpp/000")
FAKE = Video("ffpp/Deepfakes/c23/000_003", 1, "Deepfakes", "ffpp/000")


def face_rows(video: Video, num_frames: int, face_index: int = 0, mask: bool = True) -> list[dict]:
    """Frame i is i * 10 in red, 0 in green, the face's index in blue; frame indices are 0, 5, 10, ..."""
    copied = {"dataset": "ffpp", "codec": "c23", "split": "train"}
    copied |= {"video_id": video.video_id, "label": video.label, "method": video.method}
    rows = []
    for i in range(num_frames):
        image = np.zeros((CROP_PX, CROP_PX, 3), np.uint8)
        image[..., 2], image[..., 0] = i * 10, face_index  # OpenCV writes BGR
        truth = np.zeros((CROP_PX, CROP_PX), np.uint8)
        truth[:4] = 255
        found = {
            "status": "ok",
            "frame_index": 5 * i,
            "face_index": face_index,
            "image_png": png(image),
            "mask_png": png(truth) if mask and video.label else None,
            "landmarks_px": np.tile([4.0, 8.0], 68).tolist(),
            "face_score": 0.75,
            "box_px": {"x0": 104.0, "y0": 208.0, "x1": 120.0, "y1": 224.0},
            "crop_px": {"x0": 100.0, "y0": 200.0, "x1": 132.0, "y1": 232.0},
        }
        rows.append(copied | dict.fromkeys(tables.PER_FACE) | found)
    return rows


@pytest.fixture
def faces(monkeypatch) -> dict[str, list[dict]]:
    """video_id -> FACES rows, in place of a folder: `Samples` asks only for the rows of a video."""
    stored: dict[str, list[dict]] = {}

    class Store:
        def __init__(self, folder: Path) -> None:
            assert folder == Path("faces/ffpp")

        def video(self, video_id: str, columns: Sequence[str] | None = None, rows: range | None = None) -> pa.Table:
            table = tables.to_table(stored[video_id], tables.FACES)
            table = table if rows is None else table.slice(rows.start, len(rows))
            return table if columns is None else table.select(list(columns))

    monkeypatch.setattr(samples_module, "Faces", Store)
    return stored


class Raw(Stage):
    """Samples as they are, with a draw of the sample's generator."""

    name = "raw"
    view = "clips"
    clip_frames = 4

    @classmethod
    def feed(cls, cfg):
        return Feed(input_px=cfg, clip_frames=cls.clip_frames, batch_size=2)

    @classmethod
    def prepare(cls, cfg, sample, rng, mode):
        return {name: np.asarray(value) for name, value in sample.items()} | {"draw": np.asarray(rng.random())}


class RawFrames(Raw):
    view = "domain_frames"
    clip_frames = 1


def samples(
    stage: type[Stage], input_px: int = CROP_PX, derived: Derived | None = None, donors: Sequence[Video] = ()
) -> Samples:
    return Samples(stage, input_px, {"ffpp": Path("faces/ffpp")}, derived, donors)


def frame_numbers(sample: dict) -> list[int]:
    """Which frames an image shows: a tenth of its red."""
    return (np.atleast_1d(sample["image"][..., 0, 0, 0]) // 10).tolist()


@pytest.mark.parametrize(("where", "first"), [(0.0, 0), (0.4, 2), (0.5, 3), (0.999, 6)])
def test_a_clip_is_consecutive_faces_from_where_on(faces, where, first):
    faces[FAKE.video_id] = face_rows(FAKE, 10)  # 7 clips of 4
    sample = samples(Raw).training_sample(Pick(FAKE, where, -1, (1,)))
    assert frame_numbers(sample) == [first, first + 1, first + 2, first + 3]
    assert sample["image"].shape == (4, CROP_PX, CROP_PX, 3)
    assert (sample["label"], sample["domain"]) == (1, -1)


@pytest.mark.parametrize(("where", "frame"), [(0.0, 0), (0.35, 3), (0.999, 9)])
def test_a_frame_view_has_no_time_axis(faces, where, frame):
    faces[FAKE.video_id] = face_rows(FAKE, 10)
    sample = samples(RawFrames).training_sample(Pick(FAKE, where, 2, (1,)))
    assert frame_numbers(sample) == [frame]
    shapes = {name: sample[name].shape for name in ("image", "landmarks", "mask", "mask_valid")}
    assert shapes == {"image": (16, 16, 3), "landmarks": (68, 2), "mask": (16, 16), "mask_valid": ()}
    assert sample["domain"] == 2


def test_a_video_shorter_than_a_clip_repeats_its_last_face(faces):
    faces[REAL.video_id] = face_rows(REAL, 2)
    for where in (0.0, 0.99):
        assert frame_numbers(samples(Raw).training_sample(Pick(REAL, where, -1, (1,)))) == [0, 1, 1, 1]


def test_training_takes_the_largest_face_in_order_of_time(faces):
    shuffled = face_rows(REAL, 6, face_index=1) + face_rows(REAL, 6)[::-1]
    faces[REAL.video_id] = shuffled
    sample = samples(Raw).training_sample(Pick(REAL, 0.0, -1, (1,)))
    assert frame_numbers(sample) == [0, 1, 2, 3]
    assert sample["image"][..., 2].max() == 0  # blue: the face's index


def test_a_sample_is_prepared_with_its_own_generator(faces):
    faces[REAL.video_id] = face_rows(REAL, 6)
    draws = [samples(Raw).training_sample(Pick(REAL, 0.0, -1, seed))["draw"] for seed in ((1, 2), (1, 2), (1, 3))]
    assert draws[0] == draws[1] != draws[2]


def test_masks_are_known_for_real_faces_and_where_the_dataset_has_them(faces):
    faces[REAL.video_id], faces[FAKE.video_id] = face_rows(REAL, 4), face_rows(FAKE, 4)
    real, fake = (samples(Raw).training_sample(Pick(video, 0.0, -1, (1,))) for video in (REAL, FAKE))
    assert real["mask_valid"].all()
    assert real["mask"].sum() == 0
    assert fake["mask_valid"].all()
    assert fake["mask"][:, :4].all()
    assert not fake["mask"][:, 4:].any()
    faces[FAKE.video_id] = face_rows(FAKE, 4, mask=False)
    unknown = samples(Raw).training_sample(Pick(FAKE, 0.0, -1, (1,)))
    assert not unknown["mask_valid"].any()
    assert unknown["mask"].sum() == 0


@pytest.mark.parametrize("input_px", [8, 16, 32])
def test_image_landmarks_and_mask_are_scaled_together(input_px):
    (row,) = face_rows(FAKE, 1)
    found = face_arrays(row, input_px)
    assert found["image"].shape == (input_px, input_px, 3)
    # Whole numbers are pixel centres in both: (4, 8) of 16 is 4.5 and 8.5 pixels from the corner.
    assert found["landmarks"].tolist() == [[4.5 * input_px / 16 - 0.5, 8.5 * input_px / 16 - 0.5]] * 68
    assert found["mask"].sum() == input_px * input_px // 4
    assert set(np.unique(found["mask"])) == {0, 1}


def test_images_are_rgb():
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 200  # blue, as OpenCV writes it
    row = face_rows(REAL, 1)[0] | {"image_png": png(image)}
    assert face_arrays(row, 4)["image"][0, 0].tolist() == [0, 0, 200]


def test_scoring_covers_every_face_of_every_track(faces):
    faces[FAKE.video_id] = face_rows(FAKE, 10) + face_rows(FAKE, 3, face_index=1)
    for stage in (Raw, RawFrames):
        scored = Counter(
            (row["face_index"], row["frame_index"])
            for rows, _ in samples(stage).scoring_samples(FAKE, seed=0)
            for row in rows
        )
        assert scored.keys() == {(0, 5 * i) for i in range(10)} | {(1, 5 * i) for i in range(3)}
    assert set(scored.values()) == {1}


def test_the_rows_of_a_scored_sample_are_those_it_shows(faces):
    faces[FAKE.video_id] = face_rows(FAKE, 10)
    found = list(samples(Raw).scoring_samples(FAKE, seed=0))
    clips = [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert [frame_numbers(sample) for _, sample in found] == clips
    assert [[row["frame_index"] // 5 for row in rows] for rows, _ in found] == clips


@pytest.mark.parametrize("stage", [Raw, RawFrames])
def test_a_perturbation_changes_the_images_of_a_sample_and_nothing_else(faces, stage):
    faces[FAKE.video_id] = face_rows(FAKE, 10)
    clean, dark = (list(samples(stage).scoring_samples(FAKE, seed=0, perturbation=name)) for name in ("", "contrast-3"))
    assert len(clean) == len(dark) > 1
    for (rows, one), (rows_too, other) in zip(clean, dark, strict=True):
        assert rows == rows_too
        assert one.keys() == other.keys()
        for name in one.keys() - {"image"}:
            assert np.array_equal(one[name], other[name]), name
        assert np.array_equal(other["image"], (one["image"] * np.float32(0.6)).astype(np.uint8))


def test_noise_is_the_faces_own_in_any_sample(faces):
    gray = {"image_png": png(np.full((CROP_PX, CROP_PX, 3), 128, np.uint8))}
    faces[FAKE.video_id] = [row | gray for row in face_rows(FAKE, 10)]
    faces[REAL.video_id] = [row | gray for row in face_rows(REAL, 10)]
    noisy = [sample["image"] for _, sample in samples(Raw).scoring_samples(FAKE, seed=0, perturbation="noise-3")]
    assert np.array_equal(noisy[0][3], noisy[1][0])  # frame 3 lies in two clips
    assert not np.array_equal(noisy[0][2], noisy[0][3])
    other = next(iter(samples(Raw).scoring_samples(REAL, seed=0, perturbation="noise-3")))[1]["image"]
    assert not np.array_equal(other, noisy[0])
    again = [sample["image"] for _, sample in samples(RawFrames).scoring_samples(FAKE, seed=1, perturbation="noise-3")]
    assert np.array_equal(again[3], noisy[0][3])


def test_a_face_is_decoded_once_for_all_its_perturbations(faces, monkeypatch):
    faces[FAKE.video_id] = face_rows(FAKE, 10, mask=False)
    store, decode, seen = samples(RawFrames), cv2.imdecode, []
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: seen.append(len(data)) or decode(data, flags))
    for name in ("blur-1", "blur-2", "contrast-1", "pixelation-4"):
        assert len(list(store.scoring_samples(FAKE, seed=0, perturbation=name))) == 10
    assert len(seen) == 10


def test_validation_takes_a_few_evenly_spaced_faces_and_whole_clips(faces):
    faces[FAKE.video_id] = face_rows(FAKE, 10)
    few = samples(RawFrames).scoring_samples(FAKE, seed=0, most_frames=4)
    assert [frame_numbers(sample)[0] for _, sample in few] == [0, 2, 5, 7]
    assert len(list(samples(RawFrames).scoring_samples(FAKE, seed=0, most_frames=99))) == 10
    assert len(list(samples(Raw).scoring_samples(FAKE, seed=0, most_frames=1))) == 3


def test_scoring_is_repeatable_and_its_randomness_differs_between_samples(faces):
    faces[FAKE.video_id] = face_rows(FAKE, 10)
    draws = [[float(s["draw"]) for _, s in samples(Raw).scoring_samples(FAKE, seed=0)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) == 3


@pytest.fixture
def derived(tmp_path) -> Derived:
    """For each frame of `FAKE` and `REAL` a 2 x 2 array of its frame index, plus 100 for the real one."""
    path = tmp_path / "derived.parquet"
    with pq.ParquetWriter(path, Derived.SCHEMA) as writer:
        for video, offset in ((FAKE, 0), (REAL, 100)):
            rows = [
                {
                    "video_id": video.video_id,
                    "frame_index": 5 * i,
                    "face_index": 0,
                    "name": "recovered",
                    "shape": [2, 2],
                    "data": np.full((2, 2), 5 * i + offset, np.uint8).tobytes(),
                }
                for i in reversed(range(10))
            ]
            writer.write_table(pa.Table.from_pylist(rows, Derived.SCHEMA))
    return Derived(path)


def test_what_an_earlier_stage_derived_joins_its_own_frames(faces, derived):
    faces[FAKE.video_id], faces[REAL.video_id] = face_rows(FAKE, 10), face_rows(REAL, 10)
    clip = samples(Raw, derived=derived).training_sample(Pick(FAKE, 0.5, -1, (1,)))
    assert clip["recovered"].shape == (4, 2, 2)
    assert clip["recovered"][:, 0, 0].tolist() == [15, 20, 25, 30]
    frame = samples(RawFrames, derived=derived).training_sample(Pick(REAL, 0.35, 0, (1,)))
    assert frame["recovered"].tolist() == [[115, 115], [115, 115]]


# ----------------------------------------------------------------------------------------- batches
def test_batches_are_the_shares_in_order_from_any_step_on(faces):
    videos = some_videos(4, ["Deepfakes"])
    for video in videos:
        faces[video.video_id] = face_rows(video, 5)
    view = View("clips", videos, Feed(input_px=CROP_PX, clip_frames=4, batch_size=4), 0)
    found = {step: next(batches.local_batches(samples(Raw), view, range(step, step + 1), 1, 2)) for step in range(5)}
    together = list(batches.local_batches(samples(Raw), view, range(5), 1, 2))
    assert [chosen for chosen, _ in together] == [view.share(step, 1, 2) for step in range(5)]
    for step, (_, arrays) in enumerate(together):
        assert arrays["image"].shape == (2, 4, CROP_PX, CROP_PX, 3)
        for name, value in arrays.items():
            np.testing.assert_array_equal(value, found[step][1][name])
    assert list(batches.local_batches(samples(Raw), view, range(3, 3), 0, 1)) == []


def test_an_error_while_loading_reaches_the_training(faces):
    videos = some_videos(4, ["Deepfakes"])
    view = View("clips", videos, Feed(input_px=CROP_PX, clip_frames=4, batch_size=4), 0)
    with pytest.raises(KeyError):  # no faces stored
        next(batches.local_batches(samples(Raw), view, range(5), 0, 1))


# ------------------------------------------------------------------------- boxes, keys, donors, bad faces
def test_box_is_in_pixels_of_the_resized_crop(faces):
    """The crop of 32 px at (100, 200) is stored at 16 px: its box (4, 8, 20, 24) becomes (2, 4, 10, 12)."""
    faces[REAL.video_id] = face_rows(REAL, 4)
    for input_px, scale in ((CROP_PX, 1), (2 * CROP_PX, 2)):
        sample = samples(RawFrames, input_px).training_sample(Pick(REAL, 0.0, 0, (1,)))
        np.testing.assert_allclose(sample["box"], np.multiply([2, 4, 10, 12], scale))


def test_a_key_names_a_face_whenever_it_comes(faces):
    faces[REAL.video_id], faces[FAKE.video_id] = face_rows(REAL, 4), face_rows(FAKE, 4)

    def key(video: Video, where: float, seed: int) -> int:
        return int(samples(RawFrames).training_sample(Pick(video, where, 0, (seed,)))["key"])

    assert key(REAL, 0.1, 1) == key(REAL, 0.2, 2)
    assert len({key(video, where, 1) for video in (REAL, FAKE) for where in (0, 0.25, 0.5, 0.75)}) == 8


class WithDonor(RawFrames):
    view = "real_pairs"

    @classmethod
    def feed(cls, cfg):
        return Feed(input_px=cfg, batch_size=2, donors=2)

    @classmethod
    def prepare(cls, cfg, sample, rng, mode):
        return {"donor": sample["donor"]["image"]} if mode != "score" else {"keys": np.asarray("donor" in sample)}


def test_a_donor_is_one_of_the_nearest_faces_of_other_videos(faces):
    videos = [Video(f"ffpp/real/c23/{i:03d}", 0, "real", f"ffpp/{i:03d}") for i in range(4)]
    for i, video in enumerate(videos):
        faces[video.video_id] = face_rows(video, 1)
        for row in faces[video.video_id]:  # video i: landmarks i px to the right, green 50 i
            row["landmarks_px"] = np.tile([4.0 + i, 8.0], 68).tolist()
            image = np.zeros((CROP_PX, CROP_PX, 3), np.uint8)
            image[..., 1] = 50 * i
            row["image_png"] = png(image)
    made = samples(WithDonor, donors=videos)
    seen = Counter(
        int(made.training_sample(Pick(videos[0], 0.0, -1, (seed,)))["donor"][0, 0, 1]) // 50 for seed in range(60)
    )
    assert set(seen) == {1, 2}  # the nearest two, not itself, not the far one
    assert min(seen.values()) > 15
    scoring = samples(WithDonor)  # has none, and needs none
    assert not next(arrays for _, arrays in scoring.scoring_samples(videos[0], seed=0))["keys"]
    with pytest.raises(ValueError, match="at least 2 real videos"):
        samples(WithDonor, donors=videos[:1])


class Picky(RawFrames):
    """Takes no frame whose red is 0 or 10, and nothing of real videos."""

    view = "frames"

    @classmethod
    def prepare(cls, cfg, sample, rng, mode):
        if mode != "score" and (sample["image"][0, 0, 0] <= 10 or not sample["label"]):
            raise BadSample("too dark")
        return super().prepare(cfg, sample, rng, mode)


def test_a_face_that_the_stage_refuses_is_replaced_by_a_like_one(faces):
    fakes = [FAKE, Video("ffpp/Deepfakes/c23/001_004", 1, "Deepfakes", "ffpp/001")]
    faces[FAKE.video_id], faces[fakes[1].video_id] = face_rows(FAKE, 2), face_rows(fakes[1], 9)  # the first: all dark
    faces[REAL.video_id] = face_rows(REAL, 4)
    view = make_view("frames", [REAL, *fakes], batch_size=2)
    made = samples(Picky)
    used, arrays = batches._load(made, view, [view.pick(FAKE, 0), view.pick(FAKE, 1)])
    assert [pick.video for pick in used] == [fakes[1], fakes[1]]
    assert (arrays["image"][:, 0, 0, 0] > 10).all()
    again, _ = batches._load(made, view, [view.pick(FAKE, 0), view.pick(FAKE, 1)])
    assert again == used
    with pytest.raises(BadSample, match=r"after 12 others for one of ffpp/real/c23/000; the last: too dark"):
        batches._load(made, view, [view.pick(REAL, 0)])


def test_validation_leaves_out_what_the_stage_refuses_and_scoring_does_not(faces):
    faces[FAKE.video_id] = face_rows(FAKE, 5)
    selected = [arrays for _, arrays in samples(Picky).scoring_samples(FAKE, seed=0, mode="select")]
    assert [frame["image"][0, 0, 0] // 10 for frame in selected] == [2, 3, 4]
    assert len(list(samples(Picky).scoring_samples(FAKE, seed=0))) == 5


def test_an_epoch_visits_each_video_as_often_as_the_stage_asks():
    reals = some_videos(12, methods=())
    for times, steps in ((1, 3), (8, 24)):
        view = make_view("real_pairs", reals, samples_per_video=times)
        assert view.steps_per_epoch == steps
        assert set(Counter(pick.video for pick in picks(view, steps)).values()) == {times}


class Blended(RawFrames):
    view = "real_pairs"


def test_no_pseudo_fake_is_made_of_a_frame_in_which_no_face_was_found(faces):
    """Its landmarks are another frame's: SBI drops it. It is scored all the same, and other stages train on it."""
    rows = face_rows(REAL, 6)
    for held in (0, 3, 4):
        rows[held]["face_score"] = 0.0
    faces[REAL.video_id] = rows

    def trained_on(stage: type[Stage]) -> list[int]:
        made = samples(stage)
        return sorted({frame_numbers(made.training_sample(Pick(REAL, w, -1, (1,))))[0] for w in np.arange(0, 1, 0.05)})

    assert trained_on(Blended) == [1, 2, 5]
    assert trained_on(RawFrames) == [0, 1, 2, 3, 4, 5]

    def looked_at(mode: str) -> list[int]:
        return [frame_numbers(arrays)[0] for _, arrays in samples(Blended).scoring_samples(REAL, seed=0, mode=mode)]

    assert looked_at("select") == [1, 2, 5]
    assert looked_at("score") == [0, 1, 2, 3, 4, 5]
    for row in rows:
        row["face_score"] = 0.0
    assert looked_at("select") == []
    with pytest.raises(BadSample, match="in no frame of ffpp/real/c23/000 a face was found"):
        samples(Blended).training_sample(Pick(REAL, 0.5, -1, (1,)))


def test_a_donor_is_no_frame_in_which_no_face_was_found(faces):
    videos = [Video(f"ffpp/real/c23/{i:03d}", 0, "real", f"ffpp/{i:03d}") for i in range(2)]
    for video in videos:
        faces[video.video_id] = face_rows(video, 4)
    for held in (0, 1, 3):
        faces[videos[1].video_id][held]["face_score"] = 0.0
    made = samples(WithDonor, donors=videos)
    donors = [made.training_sample(Pick(videos[0], 0.0, -1, (seed,)))["donor"] for seed in range(20)]
    assert {int(donor[0, 0, 0]) // 10 for donor in donors} == {2}


def test_the_crop_says_how_large_it_is_in_its_frame(faces):
    faces[REAL.video_id] = face_rows(REAL, 4)  # 32 px of the frame, stored at 16
    assert samples(RawFrames).training_sample(Pick(REAL, 0.0, 0, (1,)))["native_px"] == 32


@pytest.mark.parametrize("times", [1, 3, 8])
def test_fixed_frames_come_once_in_each_epoch(times):
    """As in SBI, whose 8 of 32 frames are `linspace(0, 31, 8)`, rounded."""
    reals = some_videos(12, methods=())
    view = make_view("real_pairs", reals, samples_per_video=times, fixed_frames=True)
    for epoch in range(2):
        first = epoch * view.steps_per_epoch
        chosen = [pick for step in range(first, first + view.steps_per_epoch) for pick in view.step(step)]
        for video in reals:
            frames = sorted(int(pick.where * 32) for pick in chosen if pick.video == video)
            assert frames == [round(i) for i in np.linspace(0, 31, times)]
    drawn = make_view("real_pairs", reals, samples_per_video=times)
    assert len({pick.where for pick in picks(drawn, drawn.steps_per_epoch)}) == 12 * times
    at_once = [int(pick.where * 32) for pick in picks(view, 3)]  # of 12 videos
    assert times == 1 or len(set(at_once)) > 1


# ------------------------------------------------------------------------------------------ ahead
def test_ahead_makes_the_next_item_while_the_last_is_used() -> None:
    made: list[int] = []
    is_made = [threading.Event() for _ in range(4)]

    def make() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            is_made[number].set()
            yield number

    used = []
    for number in batches.ahead(make()):
        if number < 3:
            assert is_made[number + 1].wait(5)
        assert made == list(range(min(4, number + 2)))  # and no more than that
        used.append(number)
    assert used == [0, 1, 2, 3]


def test_ahead_hands_on_what_goes_wrong_in_its_place() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise BadSample("no face")

    items = batches.ahead(make())
    assert next(items) == 1
    with pytest.raises(BadSample, match="no face"):
        next(items)


def test_chunks_lose_nothing() -> None:
    assert list(batches.chunks(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batches.chunks(iter(()), 3)) == []
