"""DeeperForensics-1.0 (Jiang et al., CVPR 2020): actors' faces swapped onto the videos of FaceForensics++.

Licence: the form at https://github.com/EndlessSora/DeeperForensics-1.0 gives the download link.
Split: that of the target in FaceForensics++'s own lists, for real and fake alike. So the field tests on it after
training on FaceForensics++ (LipForensics' code takes the fake of every FF++ test target): 140 fakes against 140 real
videos, of whose sources none was trained on. With `split = "owners"` in datasets.toml fakes go by the dataset's own
`lists/splits/{train,val,test}.txt`, which were drawn apart from FF++'s: only 21 to 32 of its 201 test fakes have a
target outside FF++'s train and val. The real class is not `source_videos` (actors in a studio) but the targets:
youtube in c23, whose rows here have `root` "ffpp".

`TTT_<actor>`: TTT is the FaceForensics++ target and so the real counterpart. It lies below another root,
hence `real_id` but no `real_uri`. Every folder of `manipulated_videos` is a method of its own; a test video that the
lists name and one of them lacks keeps its row. video_id: `deeper_forensics/<method>/<stem>` and
`deeper_forensics/real/c23/<id>`.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath

from pipelines.common import tables
from pipelines.datasets import ffpp
from pipelines.datasets._lists import PublishedList
from pipelines.datasets._root import Root, by_id, row

LAYOUT = """\
    lists/splits/{train,val,test}.txt
    manipulated_videos/{end_to_end,end_to_end_level_1,...}/TTT_<actor>.mp4
  and, in the root of ffpp, original_sequences/youtube/c23 and its train.json, val.json, test.json"""
NEEDS = ("ffpp",)
OPTIONS = {"split": ("target", "owners")}

CODEC = "c23"  # of the real class
MANIPULATIONS = ("end_to_end",)  # without perturbations; each other folder is a test set of its own
METHODS = (
    *MANIPULATIONS,
    *(f"end_to_end_level_{level}" for level in range(1, 6)),
    "end_to_end_random_level",
    *(f"end_to_end_mix_{number}_distortions" for number in (2, 3, 4)),
    "reenact_postprocess",
)
# A fake of every FF++ video, so that by target there are as many.
PUBLISHED = {(method, split): ffpp.PUBLISHED["real", split] for method in ("real", *METHODS) for split in tables.SPLITS}


OWNERS = {"train": 703, "val": 96, "test": 201}  # fakes in the owners' lists


def videos(roots: Mapping[str, Root], split: str = "target") -> list[dict]:
    """Return rows of VIDEOS for the fakes on disk or in a test part, and for the real class. Raise DatasetError.

    split: by which list fakes are in a part, as in `OPTIONS`.
    """
    root, of_ids = roots["deeper_forensics"], ffpp.read_splits(roots["ffpp"])
    splits = _read_splits(root)
    if split == "target":
        splits = {stem: ffpp.split_of(roots["ffpp"], of_ids, stem, [stem.partition("_")[0]]) for stem in splits}
    reals = _reals(roots["ffpp"], of_ids)
    return by_id(reals + _fakes(root, splits, {real["video_id"] for real in reals}))


def lists(roots: Mapping[str, Root], split: str = "target") -> list[PublishedList]:
    """Return what the owners' lists promise of `end_to_end`, and the test part by target. Raise DatasetError.

    split: does not matter here.
    """
    owners, of_ids = _read_splits(roots["deeper_forensics"]), ffpp.read_splits(roots["ffpp"])
    promised = [
        PublishedList(
            name=f"lists/splits/{own}.txt",
            labels={_fake_id(MANIPULATIONS[0], stem): tables.FAKE for stem, part in owners.items() if part == own},
            covers=lambda row: False,  # what it does not name is an error of the layout
            num_published=number,
        )
        for own, number in OWNERS.items()
    ]
    tested = {id_ for id_, part in of_ids.items() if part == "test"}
    fakes = [stem for stem in owners if stem.partition("_")[0] in tested]
    by_target = {_fake_id(MANIPULATIONS[0], stem): tables.FAKE for stem in fakes}
    by_target |= {_real_id(id_): tables.REAL for id_ in tested}
    name = "the test targets of FaceForensics++"
    of_part = ("real", *MANIPULATIONS)
    return [
        *promised,
        PublishedList(
            name=name,
            labels=by_target,
            covers=lambda row: split == "target" and row["split"] == "test" and row["method"] in of_part,
            num_published=2 * ffpp.PUBLISHED["real", "test"],
        ),
    ]


def _reals(root: Root, splits: Mapping[str, str]) -> list[dict]:
    originals = ffpp.originals(root, CODEC)
    if not originals:
        raise root.error(f"original_sequences/youtube/{CODEC}, the real class of deeper_forensics, has no videos")
    return [
        row(
            "deeper_forensics",
            _real_id(stem),
            path,
            label=tables.REAL,
            codec=CODEC,
            root="ffpp",
            split=ffpp.split_of(root, splits, path, [stem]),
            source_ids=[f"ffpp/{stem}"],
        )
        for stem, path in originals.items()
    ]


def _fakes(root: Root, splits: Mapping[str, str], real_ids: set[str]) -> list[dict]:
    methods = root.folder("manipulated_videos")
    if methods is None:
        raise root.error("manipulated_videos is missing")
    rows = []
    for folder in root.folders(methods):
        paths, method = root.videos(base=folder), PurePosixPath(folder).name
        for stem in sorted(paths.keys() | {name for name, split in splits.items() if paths and split == "test"}):
            target, _, actor = stem.partition("_")
            if stem not in splits:
                raise root.error(f"{paths[stem]} is in none of lists/splits/{{train,val,test}}.txt")
            rows.append(
                row(
                    "deeper_forensics",
                    _fake_id(method, stem),
                    paths.get(stem, f"{folder}/{stem}.mp4"),
                    label=tables.FAKE,
                    method=method,
                    split=splits[stem],
                    real_id=_real_id(target) if _real_id(target) in real_ids else None,
                    source_ids=[f"ffpp/{target}", f"deeper_forensics/{actor}"],
                )
            )
    if not rows:
        raise root.error("manipulated_videos has no folder with videos")
    return rows


def _read_splits(root: Root) -> dict[str, str]:
    """Return {stem of a fake: split} from the dataset's own lists. Raise DatasetError."""
    splits: dict[str, str] = {}
    for split in tables.SPLITS:
        for line in root.text(f"lists/splits/{split}.txt", f"splits/{split}.txt").splitlines():
            stem = PurePosixPath(line.strip()).stem
            if stem and "_" not in stem:
                raise root.error(f"lists/splits/{split}.txt: {line!r} is not named TTT_<actor>.mp4")
            if stem and splits.setdefault(stem, split) != split:
                raise root.error(f"{stem} is in {splits[stem]}.txt and in {split}.txt")
    return splits


def _real_id(stem: str) -> str:
    return f"deeper_forensics/real/{CODEC}/{stem}"


def _fake_id(method: str, stem: str) -> str:
    return f"deeper_forensics/{method}/{stem}"
