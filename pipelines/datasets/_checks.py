"""What the rows of VIDEOS say about a dataset before anything is decoded. Pure functions: rows in, findings out.

`bad` maps files (root, uri) to what is wrong with them. Rows whose file is bad count as missing.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from pipelines.common import tables
from pipelines.common.text import first, printable
from pipelines.datasets._lists import PublishedList
from pipelines.media import stills

OK, WARNING, ERROR = "ok", "warning", "error"
MOST_LOST = 0.01  # share of one class of one split that may be missing or unreadable before it spoils numbers
# Datasets whose own lists put one person or clip into two parts, and why.
SHARED_BY_DESIGN = {
    "celeb_df": "one celebrity appears in several videos",
    "celeb_df_v1": "one celebrity appears in several videos",
    "deeper_forensics": "its actors are in all parts, and by the owners' split so are the targets",
}
AS_PUBLISHED = {True: "the published list", False: "not the published list"}

Row = Mapping[str, Any]
File = tuple[str, str]  # root, uri


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing that is wrong with one video, or with a part of a dataset."""

    text: str
    video_id: str = ""
    uri: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The result of one check: `OK`, `WARNING` or `ERROR`, in words, with what to do and each problem."""

    check: str
    result: str
    text: str
    todo: str = ""
    problems: tuple[Problem, ...] = ()


def file_of(row: Row, column: str = "uri") -> File:
    """Return the file that a column of a row names, as (root, uri)."""
    return row["root"], row[column]


def is_damaged_archive(row: Row) -> bool:
    """Say whether a row is no video but stands for those lost with a damaged archive (see `wild_deepfake`)."""
    name = row["uri"].rpartition("/")[2]
    return name.lower().endswith(stills.ARCHIVES) and row["video_id"].rpartition("/")[2] == name


def counts(rows: Sequence[Row], published: Mapping[tuple[str, str], int], bad: Collection[File]) -> Finding:
    """Compare the number of videos with the published one, by (method, split), for each compression that is there."""
    if not published:
        return Finding(check="counts", result=OK, text=f"{len(rows)} videos; no published numbers to compare with")
    present = [row for row in rows if file_of(row) not in bad and not is_damaged_archive(row)]
    problems: list[Problem] = []
    texts: list[str] = []  # for each method, its splits together
    for codec in _codecs(rows):
        of_codec = [row for row in present if row["codec"] in (codec, "unknown")]
        for method in sorted({name for name, _ in published}):
            name = f"{method} {codec}".removesuffix(" unknown")
            off = {}
            for split in (name for name in ("", *tables.SPLITS) if (method, name) in published):
                expected = published[method, split]
                number = sum(row["method"] == method and split in ("", row["split"]) for row in of_codec)
                if number != expected:
                    off[split] = f"{split} {number} of {expected}".strip()
            problems += [Problem(text=f"{name} {text}") for text in off.values()]
            if any(row["method"] == method for row in of_codec):
                texts += [f"{name}: {', '.join(off.values())}"] if off else []
            else:
                texts.append(f"{name}: none")
    if not problems:
        return Finding(check="counts", result=OK, text=f"{len(present)} videos, as published")
    return Finding(
        check="counts",
        result=WARNING,
        text=f"not the published number of videos: {'; '.join(printable(text) for text in texts)}",
        todo="download the rest, or say with the numbers what they were measured on",
        problems=tuple(problems),
    )


def lists(rows: Sequence[Row], published: Sequence[PublishedList], bad: Collection[File]) -> Finding:
    """Hold a copy against its owners' lists: what it has and lacks of each, what it has besides.

    Labels are compared with those of lists that tell them apart from what the rows follow.
    """
    by_id = {row["video_id"]: row for row in rows}
    texts, problems, mislabelled = [], [], []
    for own in published:
        here = {video_id: by_id[video_id] for video_id in own.labels.keys() & by_id.keys()}
        there = {video_id: row for video_id, row in here.items() if file_of(row) not in bad}
        missing = sorted(own.labels.keys() - there.keys())
        extra = sorted(row["video_id"] for row in rows if own.covers(row) and row["video_id"] not in own.labels)
        labelled = here if own.tells_labels else {}
        other = sorted(video_id for video_id, row in labelled.items() if row["label"] != own.labels[video_id])
        told = [f"{len(there)} of {len(own.labels)} there"]
        told += [] if own.as_published is None else [AS_PUBLISHED[own.as_published]]
        if own.num_published is not None:
            off = len(own.labels) != own.num_published
            told += [f"{own.num_published} published" if off else "as many as published"]
            problems += [Problem(text=f"{own.name}: not as many as published")] if off else []
        told += [f"{len(ids)} {what}" for ids, what in ((missing, "missing"), (extra, "besides")) if ids]
        told += [f"{len(other)} with another label" if other else "the same labels"] if labelled else []
        texts.append(f"{own.name}: {', '.join(told)}")
        problems += [Problem(text=f"{own.name}: not there", video_id=video_id) for video_id in missing]
        problems += [Problem(text=f"{own.name}: does not name it", video_id=video_id) for video_id in extra]
        problems += [Problem(text=f"{own.name}: {AS_PUBLISHED[False]}")] if own.as_published is False else []
        mislabelled += [Problem(text=f"{own.name}: has another label", video_id=video_id) for video_id in other]
    todo = "say with the numbers on which videos they are, or complete the copy" if problems else ""
    return Finding(
        check="lists",
        result=ERROR if mislabelled else WARNING if problems else OK,
        text="; ".join(map(printable, texts)) or "no list of its owners to compare with",
        todo="find out which label is right: numbers would be wrong" if mislabelled else todo,
        problems=(*mislabelled, *problems),
    )


def classes(rows: Sequence[Row], bad: Collection[File]) -> Finding:
    """Check that each split that has videos has both classes, in each compression."""
    present = [row for row in rows if file_of(row) not in bad]
    problems, spoiled, texts = [], [], []
    for split in (name for name in tables.SPLITS if any(row["split"] == name for row in rows)):
        one_class = []
        for codec in _codecs(rows):
            labels = Counter(
                row["label"] for row in present if row["split"] == split and row["codec"] in (codec, "unknown")
            )
            name = " ".join(filter(None, (split, codec.replace("unknown", ""))))
            texts.append(f"{name}: {labels[tables.REAL]} real, {labels[tables.FAKE]} fake")
            if not (labels[tables.REAL] and labels[tables.FAKE]):
                one_class.append(Problem(text=texts[-1]))
        problems += one_class
        if len(one_class) == len(_codecs(rows)):
            spoiled.append(split)
    return Finding(
        check="classes",
        result=ERROR if spoiled else WARNING if problems else OK,
        text=f"a part with one class only: {_named(problems)}" if problems else "; ".join(texts),
        todo="no number can be had from such a part: download the other class" if problems else "",
        problems=tuple(problems),
    )


def identities(dataset: str, rows: Sequence[Row]) -> Finding:
    """Check that no person or clip is in two splits; what follows from one is for `experiments.protocol` to say."""
    sources: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        sources[row["split"]].update(row["source_ids"])
    problems = [
        Problem(text=f"{source} is in {split} and {other}")
        for split, other in combinations([name for name in tables.SPLITS if name in sources], 2)
        for source in sorted(sources[split] & sources[other])
    ]
    if not problems:
        return Finding(check="identities", result=OK, text="no person or clip is in two splits")
    text = f"people or clips in two splits: {_named(problems)}"
    why = SHARED_BY_DESIGN.get(dataset)
    as_test = "as a test dataset it serves: test videos that share a source with training are left out and counted"
    if why is None and "val" in sources and "train" in sources:
        todo = f"correct the split lists; until then it cannot be trained on, since the protocol refuses; {as_test}"
        return Finding(check="identities", result=ERROR, text=text, todo=todo, problems=tuple(problems))
    reason = f"the dataset is made so ({why})" if why else "the dataset has no train and val parts to learn from"
    todo = f"nothing: {reason}. Training on it is refused by the protocol; {as_test}"
    return Finding(check="identities", result=WARNING, text=text, todo=todo, problems=tuple(problems))


def counterparts(rows: Sequence[Row], bad: Mapping[File, str]) -> Finding:
    """Count the fakes that have their real video and their mask, and check that these can be used."""
    by_id = {row["video_id"]: row for row in rows}
    fakes = [row for row in rows if row["label"] == tables.FAKE]
    wrong, lacking, texts = [], [], []
    for row in fakes:
        real = by_id.get(row["real_id"])
        if row["real_id"] is not None and (real is None or real["label"] != tables.REAL):
            what = "is no video of the dataset" if real is None else "is a fake"
            wrong.append(_problem(row, f"its real counterpart {row['real_id']} {what}"))
        for column, name in (("real_uri", "real counterpart"), ("mask_uri", "mask")):
            if row[column] is not None and (text := bad.get(file_of(row, column))):
                lacking.append(Problem(text=f"{name}: {text}", video_id=row["video_id"], uri=row[column]))
    for method in sorted({row["method"] for row in fakes}):
        same = [row for row in fakes if row["method"] == method]
        num = {name: sum(row[name] is not None for row in same) for name in ("real_id", "mask_uri")}
        texts.append(f"{method}: {len(same)} fakes, {num['real_id']} with real video, {num['mask_uri']} with mask")
        lacking += [*_without(same, "real_id", "real counterpart"), *_without(same, "mask_uri", "mask")]
    problems = (*wrong, *lacking)
    return Finding(
        check="counterparts",
        result=ERROR if wrong else WARNING if lacking else OK,
        text="; ".join(texts) + (f". {len(problems)} lacking: {_named(problems)}" if problems else ""),
        todo="download them: what is learnt or scored from masks and pairs leaves these fakes out" if problems else "",
        problems=problems,
    )


def _without(fakes: Sequence[Row], column: str, name: str) -> list[Problem]:
    """Return the fakes of a method that lack what others of the same split have; where none has it, none needs it."""
    expected = {row["split"] for row in fakes if row[column] is not None}
    return [
        _problem(row, f"has no {name}, others of {row['method']} in {row['split']} do")
        for row in fakes
        if row[column] is None and row["split"] in expected
    ]


def lost(check: str, rows: Sequence[Row], bad: Mapping[File, str], todo: str) -> Finding:
    """Count the videos that are missing or unreadable: an error when they are, or may be, many of one class of a split.

    `check` is the finding's name and `todo` what it tells to do.
    """
    gone = [row for row in rows if file_of(row) in bad]
    total = Counter((row["split"], row["label"]) for row in rows)
    share = max((n / total[part] for part, n in Counter((r["split"], r["label"]) for r in gone).items()), default=0)
    if not gone:
        return Finding(check=check, result=OK, text=f"none of {len(rows)} videos")
    problems = tuple(_problem(row, bad[file_of(row)]) for row in gone)
    text = f"{len(gone)} of {len(rows)} videos, up to {share:.1%} of one class of a split: {_named(problems)}"
    archives = sum(map(is_damaged_archive, gone))
    if archives:
        text += f"; {archives} of them archives, each with an unknown number of videos"
    result = ERROR if archives or share > MOST_LOST else WARNING
    return Finding(check=check, result=result, text=text, todo=todo, problems=problems)


def duplicates(rows: Iterable[Row], digests: Mapping[File, str]) -> Finding:
    """Find files with the same content (SHA-256), over all datasets. One file that two datasets list is one file."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if digest := digests.get(file_of(row)):
            groups[digest].append(row)
    wrong, harmless = [], []
    for group in groups.values():
        others = first([row["video_id"] for row in group[1:]])
        if any(len({row[column] for row in group}) > 1 for column in ("label", "split")):
            parts = sorted({f"{'fake' if row['label'] else 'real'} in {row['split']}" for row in group})
            wrong.append(_problem(group[0], f"the same content as {others}, once {' and once '.join(parts)}"))
        elif len({file_of(row) for row in group}) > 1:
            harmless.append(_problem(group[0], f"the same content as {others}"))
    problems = (*wrong, *harmless)
    return Finding(
        check="duplicates",
        result=ERROR if wrong else WARNING if harmless else OK,
        text=f"{len(problems)} contents more than once: {_named(problems)}" if problems else "none",
        todo="keep one copy; one content in two splits, or under two labels, leaks or misleads" if problems else "",
        problems=problems,
    )


def space(num_videos: int, num_pictures: int, num_frames: int, size_px: int, free_bytes: int | None) -> Finding:
    """Check that there is room for the faces, twice: while they are put together, a second copy exists for a while.

    `num_videos` have `num_frames` frames each; `num_pictures` come in addition. free_bytes: None for a bucket.
    """
    needed = (num_videos * num_frames + num_pictures) * tables.FACE_BYTES * size_px**2 // tables.FACE_PX**2
    parts = [f"{num_videos} videos x {num_frames} frames"] if num_videos or not num_pictures else []
    parts += [f"{num_pictures} pictures"] if num_pictures else []
    room = "a bucket has no end" if free_bytes is None else f"{free_bytes / 1e9:.1f} GB free"
    text = (
        f"{room}; {' and '.join(parts)} need about {needed / 1e9:.1f} GB, "
        f"and as much again while they are put together (assumed: one face a frame, "
        f"{tables.FACE_BYTES // 1000} kB at {tables.FACE_PX} px, scaled by area to {size_px} px)"
    )
    if free_bytes is None:
        return Finding(check="space", result=OK, text=text)
    result = ERROR if free_bytes < needed else WARNING if free_bytes < 2 * needed else OK
    todo = "" if result == OK else "free some space, or choose another --storage, fewer --frames or a smaller --size"
    return Finding(check="space", result=result, text=text, todo=todo)


def _codecs(rows: Iterable[Row]) -> list[str]:
    """Return the compressions that a protocol can name; `unknown` belongs to each of them."""
    return sorted({row["codec"] for row in rows} - {"unknown"}) or ["unknown"]


def _problem(row: Row, text: str) -> Problem:
    return Problem(text=text, video_id=row["video_id"], uri=row["uri"])


def _named(problems: Iterable[Problem], limit: int = 5) -> str:
    """Return the first problems and how many more there are; videos with the same problem are named together."""
    by_text: dict[str, list[str]] = defaultdict(list)
    for problem in problems:
        by_text[problem.text].append(problem.video_id)
    named = [
        f"{printable(text)}: {first(ids, limit)}" if any(ids) else printable(text) for text, ids in by_text.items()
    ]
    more = f"; and {len(named) - limit} more" if len(named) > limit else ""
    return "; ".join(named[:limit]) + more
