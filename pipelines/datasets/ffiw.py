"""Face Forensics in the Wild, FFIW-10K (Zhou et al., CVPR 2021): several people in each frame, few of them forged.

Licence: the form at https://github.com/tfzhou/FFIW gives the download link.
Split: the folders that the videos lie in. `val` is the part on which results are published (250 real and 250 fake
videos) and nothing may be chosen on, so that it is `test` here, unless there is a `test` folder beside it.

`source` is real, `target` fake, and the two have the same names; a mask has `_mask` added to its own. Every face
counts: the score of a frame is the highest of its faces, of real videos as of fakes. There is no list: there are
rows for what is on disk. A release lies in the root or in its own folder there, such as FFIW10K-v1-release and
FFIW10K-v1-release-test. Of several all are taken, and that is noted; what the second release holds is not described
anywhere, so that a name that both have is taken from the first. video_id: `ffiw/{source,target}/<folder>/<stem>`.
"""

from collections.abc import Iterator, Mapping

from pipelines.common import tables
from pipelines.datasets._root import Root, by_id, is_video, join, row

LAYOUT = """\
    source/{train,val}/NAME.mp4                            here or in FFIW10K-v1-release/, as all below
    target/{train,val}/NAME.mp4
    target_mask/{train,val}/NAME_mask.mp4                  each folder may have a videos/ level"""
NEEDS: tuple[str, ...] = ()

METHOD = "ffiw"
RELEASE = "ffiw10k"  # how the release's own folder starts
KINDS = ("source", "target")
PARTS = ("train", "val", "test")
PUBLISHED = {("real", "test"): 250, (METHOD, "test"): 250}


def videos(roots: Mapping[str, Root]) -> list[dict]:
    """Return rows of VIDEOS for every video on disk. Raise DatasetError."""
    root = roots["ffiw"]
    releases = _releases(root)
    rows: dict[str, dict] = {}
    twice = 0
    has_test = any(root.folder(kind, "test", base=base) for base in releases for kind in KINDS)
    for base in releases:
        _check_parts(root, base)
        for part in PARTS:
            split = "test" if part == "val" and not has_test else part
            for made in _of_part(root, base, part, split):
                twice += made["video_id"] in rows
                rows.setdefault(made["video_id"], made)
    if len(releases) > 1:
        both = f"; {twice} names that several have are taken from the first" if twice else ""
        root.note(f"{', '.join(path or 'the root itself' for path in releases)}: all of these releases are taken{both}")
    return by_id(rows.values())


def _releases(root: Root) -> list[str]:
    """Return the folders that hold source or target: the root, "", and those in it. Raise DatasetError for none."""
    places = ["", *(path for path in root.folders() if path.lower().startswith(RELEASE))]
    releases = [path for path in places if any(root.folder(kind, base=path) for kind in KINDS)]
    if not releases:
        raise root.error("found neither source nor target")
    return releases


def _of_part(root: Root, base: str, part: str, split: str) -> Iterator[dict]:
    """Yield the rows of one part of one release."""
    reals = root.videos("source", part, base=base)
    masks = root.videos("target_mask", part, base=base)
    for stem, path in reals.items():
        yield _row(part, split, stem, path, label=tables.REAL)
    for stem, path in root.videos("target", part, base=base).items():
        mask = masks.get(f"{stem}_mask") or masks.get(stem)
        yield _row(part, split, stem, path, label=tables.FAKE, real_uri=reals.get(stem), mask_uri=mask)


def _check_parts(root: Root, base: str) -> None:
    """Raise DatasetError for a video outside the folders that tell its split: it must not be left out in silence."""
    for kind in KINDS:
        place = root.folder(kind, base=base)
        for name in root.entries(place) if place else ():
            strange = name.lower() not in PARTS and not name.startswith(".") and root.is_folder(join(place or "", name))
            if strange or is_video(name):
                raise root.error(f"{place}/{name} is in none of {', '.join(PARTS)}, so that its split is not known")


def _row(
    part: str,
    split: str,
    stem: str,
    path: str,
    *,
    label: int,
    real_uri: str | None = None,
    mask_uri: str | None = None,
) -> dict:
    fake = label == tables.FAKE
    return row(
        "ffiw",
        f"ffiw/{'target' if fake else 'source'}/{part}/{stem}",
        path,
        label=label,
        method=METHOD if fake else "real",
        split=split,
        source_ids=[f"ffiw/{part}/{stem}"],
        real_id=f"ffiw/source/{part}/{stem}" if real_uri else None,
        real_uri=real_uri,
        mask_uri=mask_uri,
        face_rule="all",
    )
