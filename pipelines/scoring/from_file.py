"""A file of scores that were made elsewhere, to scores of videos; or one error that says all that is wrong with it.

In   a .csv or .parquet file with a column `video_id` or `path`, maybe `frame_index`, and a column of scores;
     VIDEOS of the datasets, and which of their videos are scored
Out  video_id -> frame -> score, and which videos the file does not have

A line is never guessed at. A `path` names the video whose own path it ends like (folders, then the file's name without
its extension). Where folders of the path name a compression or a manipulation, in any capitals and among other words,
as `ffpp_c40` does, the video must have it. Where several fit it is an error, unless they differ in the compression
alone: which of them is scored has been said. So is a video of another split, compression or manipulation.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from hashlib import sha256
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.common.text import first
from pipelines.datasets import ffpp
from pipelines.media import stills
from pipelines.scoring import inputs

KEYS = ("video_id", "path")  # columns that name a video; the first that a file has counts
FRAME = "frame_index"
LAST_FRAME = 2**31 - 1  # that PREDICTIONS can hold
SUFFIXES = (".csv", ".parquet")
NEARLY_SURE = (2.0**-1022, 1 - 2.0**-53)  # probabilities further out count as these: their log odds are finite
MOST_SHOWN = 3  # lines that an error shows of each kind of problem
# Of a file: of videos, of pictures, and of what is kept of these; not the end of a folder such as clip.07 or x.c40.
_EXTENSIONS = frozenset(
    (*inputs.SUFFIXES, *stills.SUFFIXES, ".json", ".npy", ".npz", ".pkl", ".pt", ".pth", ".txt", ".wav")
)
_FRAMES = frozenset(("frame", "frameid", "frameidx", "frameindex", "frameno", "framenum", "framenumber"))

Scale = Literal["probability", "logit"]
Side = Literal["fake", "real"]
Row = Mapping[str, Any]  # of VIDEOS
Hint = Callable[[], str]


class ScoreFileError(ValueError):
    """The file can't be scored; the text says which lines, why, and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """What a number of the file says."""

    score_is: Scale = "probability"  # probability: in [0, 1]; logit: any finite number, 0 between real and fake
    higher_is: Side = "fake"

    def __str__(self) -> str:
        return f"{self.score_is}, higher means {self.higher_is}"

    def logit(self, value: float) -> float:
        """Return the log odds of fake."""
        if self.score_is == "probability":
            p = min(max(value, NEARLY_SURE[0]), NEARLY_SURE[1])
            value = math.log(p / (1 - p))
        return value if self.higher_is == "fake" else -value


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file: the video that it names, its frame (None: the file has no frames), and the number."""

    number: int  # as an editor or a reader of Parquet counts, from 1; in a CSV file the heading is line 1
    key: str
    frame: int | None
    value: float


@dataclass(frozen=True, kw_only=True)
class ScoreFile:
    """A file, read: well-formed lines with finite numbers."""

    path: Path
    sha256: str  # of the file's bytes
    named_by: str  # one of `KEYS`
    lines: tuple[Line, ...]

    @property
    def by_frame(self) -> bool:
        """Whether it has a score for each frame, not for each video."""
        return self.lines[0].frame is not None

    def hint(self, meaning: Meaning) -> str:
        """Return what looks wrong in what the numbers are said to be; empty where nothing does."""
        if meaning.score_is == "logit" and all(0 <= line.value <= 1 for line in self.lines):
            return "all scores are in [0, 1]: if they are probabilities, leave --score-is logit out"
        return ""


Scores = Mapping[str, Mapping[int, float]]  # video_id -> frame_index -> the file's number; of a video: frame 0


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What a file says of the videos that are asked for."""

    scores: Scores
    absent: tuple[str, ...]  # video_ids that are asked for, and that no line names
    num_left_out: int  # lines of videos that need not be scored


# ------------------------------------------------------------------------------------------------------------- reading
def read(path: Path, column: str, meaning: Meaning) -> ScoreFile:
    """Read a file. column: of the scores.

    Raises ScoreFileError for what is no such table, for text and numbers that are not finite, for a frame that is no
    whole number, and for probabilities outside [0, 1]; OSError where it can't be read.
    """
    data = path.read_bytes()
    ending = path.suffix.lower()
    if ending not in SUFFIXES:
        raise ScoreFileError(f"{path}: the file must end in {' or '.join(SUFFIXES)}")
    names, rows = (_csv if ending == ".csv" else _parquet)(path, data)
    named_by = next((name for name in KEYS if name in names), None)
    if named_by is None or column not in names:
        wanted = f"a column {' or '.join(KEYS)}, and the column {column} with the scores (--score-column names another)"
        separated = next((mark for mark in ";\t" if any(mark in name for name in names)), "")
        hint = f"; it seems to be separated by {separated!r}, save it with commas" if separated else ""
        raise ScoreFileError(f"{path} must have {wanted}; it has {first(names, 12) or 'none'}{hint}")
    if twice := [name for name in (named_by, FRAME, column) if names.count(name) > 1]:
        raise ScoreFileError(f"{path} has more than one column {' and '.join(twice)}; keep one of each")
    nearly = [name for name in names if re.sub(r"[^a-z]", "", name.lower()) in _FRAMES and name != column]
    if nearly and FRAME not in names:
        raise ScoreFileError(
            f"{path} has a column {nearly[0]}: call it {FRAME} if scores are of frames, or leave it out"
        )
    problems = Problems(path)
    lines = []
    for number, row in rows:
        key = "" if row[named_by] is None else str(row[named_by]).strip()
        frame = _whole(row[FRAME]) if FRAME in names else None
        value = _number(row[column])
        if not key:
            problems.add(f"{named_by} is empty", number, "")
        elif FRAME in names and frame is None:
            problems.add(f"{FRAME} must be a whole number, from 0 to {LAST_FRAME}", number, repr(row[FRAME]))
        elif value is None:
            problems.add(f"{column} must be a finite number", number, repr(row[column]))
        elif meaning.score_is == "probability" and not 0 <= value <= 1:
            problems.add(f"{column} must be in [0, 1]; of log odds, say --score-is logit", number, repr(row[column]))
        else:
            lines.append(Line(number, key, frame, value))
    problems.check()
    if not lines:
        raise ScoreFileError(f"{path} holds no scores")
    return ScoreFile(path=path, sha256=sha256(data).hexdigest(), named_by=named_by, lines=tuple(lines))


def _csv(path: Path, data: bytes) -> tuple[list[str], Iterator[tuple[int, Row]]]:
    """Return the columns, and each line with its number."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScoreFileError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)

    @contextmanager
    def checked() -> Iterator[None]:
        try:
            yield
        except csv.Error as error:
            raise ScoreFileError(f"{path} is not CSV after line {reader.line_num}: {error}") from error

    def rows() -> Iterator[tuple[int, Row]]:
        with checked():
            for row in reader:
                if None in row or None in row.values():
                    raise ScoreFileError(
                        f"{path}, line {reader.line_num} has {'more' if None in row else 'fewer'} fields than the "
                        "first line; quote a field that holds a comma"
                    )
                yield reader.line_num, row

    with checked():
        return list(reader.fieldnames or ()), rows()


def _parquet(path: Path, data: bytes) -> tuple[list[str], Iterator[tuple[int, Row]]]:
    """Return the columns, and each row with its number, from 1."""
    try:
        table = pq.read_table(io.BytesIO(data))
    except pa.ArrowException as error:
        raise ScoreFileError(f"{path} is not a Parquet file: {error}") from error
    return table.column_names, iter(enumerate(table.to_pylist(), start=1))


def _number(value: object) -> float | None:
    """Return a finite number, None where it is none."""
    try:
        # To Python 1_0 is 10.
        none = isinstance(value, bool) or (isinstance(value, str) and "_" in value)
        number = math.nan if none else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _whole(value: object) -> int | None:
    """Return a number of a frame, None where it is none. Pandas writes 3 as 3.0 beside an empty cell."""
    number = _number(value)
    return int(number) if number is not None and 0 <= number <= LAST_FRAME and number == int(number) else None


class Problems:
    """What is wrong with a file: kinds of problems, each with the lines that have it."""

    def __init__(self, path: Path) -> None:
        self.path, self.unit = path, "row" if path.suffix.lower() == ".parquet" else "line"
        # What is wrong -> of each line its number, what it says, and what makes a hint of it.
        self.lines: dict[str, list[tuple[int, str, Hint]]] = {}

    def add(self, what: str, number: int, says: str, hint: Hint = lambda: "") -> None:
        """Note what is wrong with a line, which says this. hint: called only where the line is shown."""
        self.lines.setdefault(what, []).append((number, says, hint))

    def check(self) -> None:
        """Raise ScoreFileError if anything was noted: for each kind the first lines and their number."""
        if not self.lines:
            return
        texts = []
        for what, lines in self.lines.items():
            shown = [f"{self.unit} {number} {says} {hint()}".rstrip() for number, says, hint in lines[:MOST_SHOWN]]
            more = f" and {len(lines) - MOST_SHOWN} more" if len(lines) > MOST_SHOWN else ""
            texts.append(f"  {len(lines)} x {what}: {first(shown)}{more}")
        raise ScoreFileError("\n".join([f"{self.path} is not scored:", *texts]))


# ------------------------------------------------------------------------------------------------------------- joining
def join(
    file: ScoreFile, videos: Iterable[Row], wanted: Iterable[str], *, idle: Iterable[str] = (), others: bool = False
) -> Joined:
    """Find the video of each line.

    videos: VIDEOS rows of whole datasets, all splits and compressions. wanted: video_ids to be scored. idle: video_ids
    of which a line is left out in silence: they share a source with training. others: leave out lines of all other
    videos too, in place of an error. Raises ScoreFileError for lines of unknown or other videos and for two lines of
    one video (of one frame, where the file has frames), and where no line is of a wanted video.
    """
    known = {str(row["video_id"]): row for row in videos}
    asked, left_out = frozenset(wanted), frozenset(idle)
    find = _by_id(known, asked) if file.named_by == "video_id" else _by_path(known, asked)
    differs = _differing([known[name] for name in asked])
    problems = Problems(file.path)
    found: dict[str, str | _Wrong] = {}  # key -> video_id, or why there is none
    scores: dict[str, dict[int, float]] = {}
    first_line: dict[tuple[str, int], int] = {}
    num_left_out = 0
    for line in file.lines:
        if line.key not in found:
            found[line.key] = find(line.key)
        video_id = found[line.key]
        if isinstance(video_id, _Wrong):
            problems.add(video_id.what, line.number, repr(line.key), video_id.hint)
        elif video_id not in asked:
            num_left_out += 1
            if video_id not in left_out and not others:
                problems.add(differs(known[video_id]), line.number, repr(line.key))
        else:
            frame = line.frame or 0
            if (video_id, frame) in first_line:
                each = "video and frame" if file.by_frame else "video"
                says = f"{line.key!r}, as line {first_line[video_id, frame]}"
                problems.add(f"given twice: write one score of each {each}", line.number, says)
            first_line.setdefault((video_id, frame), line.number)
            scores.setdefault(video_id, {})[frame] = line.value
    problems.check()
    if not scores:
        raise ScoreFileError(f"{file.path}: none of its {len(file.lines)} lines is of a video that is to be scored")
    return Joined(scores=scores, absent=tuple(sorted(asked - scores.keys())), num_left_out=num_left_out)


@dataclass(frozen=True, slots=True)
class _Wrong:
    """Why a key names no video."""

    what: str
    hint: Hint = lambda: ""


Find = Callable[[str], str | _Wrong]  # key -> video_id


def _differing(asked: Sequence[Row]) -> Callable[[Row], str]:
    """Return what says in which way a video is none of those that are asked for."""
    scored: dict[tuple[str, str], set[str]] = {}  # dataset, column -> values
    for row in asked:
        for column in _TELLING:
            scored.setdefault((row["dataset"], column), set()).add(row[column])

    def differs(row: Row) -> str:
        for column, (what, switch) in _TELLING.items():
            if row[column] not in (values := scored.get((row["dataset"], column), set())):
                return (
                    f"of {what} {row[column]}, where {first(sorted(values)) or 'none'} is scored{switch}; {_TAKE_OUT}"
                )
        return f"of another part of {row['dataset']}; {_TAKE_OUT}"

    return differs


_TELLING = {  # column of VIDEOS -> in words, and what chooses it
    "split": ("split", ""),
    "codec": ("compression", " (--codec)"),
    "method": ("manipulation", " (--test-on DATASET/MANIPULATION)"),
}
_TAKE_OUT = "take these lines out, or say --ignore-others"


# ------------------------------------------------------------------------------------------------- video_id or path
def _by_id(known: Mapping[str, Row], asked: frozenset[str]) -> Find:
    """Return what finds a video by its `video_id`."""
    spellings = {_plain(name, row["dataset"]): name for name, row in known.items()}
    datasets = sorted({str(row["dataset"]) for row in known.values()})

    def find(key: str) -> str | _Wrong:
        if key in known:
            return key
        for said in (key, _stem(key)):
            for dataset in datasets:
                if meant := spellings.get(_plain(said, dataset)):
                    fixes = ["has a file's extension"] if said != key else []
                    prefixed = said.lower().startswith(f"{dataset}/")
                    fixes += [] if prefixed else [f"lacks the prefix {dataset}/"]
                    fixes += [] if (said if prefixed else f"{dataset}/{said}") == meant else ["has other capitals"]
                    return _Wrong(f"an unknown video_id, which {' and '.join(fixes)}", lambda: f"is {meant!r}?")
        return _Wrong("an unknown video_id", partial(_nearest, key, asked))

    return find


def _plain(key: str, dataset: str) -> str:
    """Return what spellings of a video_id of a dataset have in common."""
    return f"{dataset}/{key.lower().removeprefix(f'{dataset}/')}"


def _nearest(key: str, names: Iterable[str]) -> str:
    near = get_close_matches(key, sorted(names), n=1, cutoff=0.8)
    return f"is it {near[0]!r}?" if near else ""


def _by_path(known: Mapping[str, Row], asked: frozenset[str]) -> Find:
    """Return what finds a video by a path that ends like its own."""
    paths = {name: PurePosixPath(row["uri"]).parts for name, row in known.items()}
    by_stem: dict[str, list[str]] = {}
    for name, parts in paths.items():
        by_stem.setdefault(_stem(parts[-1]), []).append(name)
    any_case = {stem.lower(): stem for stem in by_stem}
    words = _words(known.values())

    def find(key: str) -> str | _Wrong:
        *folders, file_name = PurePosixPath(key.replace("\\", "/")).parts or ("",)
        stem = _stem(file_name)
        if stem not in by_stem:
            if meant := any_case.get(stem.lower()):
                return _Wrong("a path that fits a video but for capitals", lambda: f"is it {meant!r}?")
            return _Wrong("a path that fits no video", partial(_nearest, stem, by_stem))
        shared = {name: _num_shared(folders, paths[name][:-1]) for name in by_stem[stem]}
        named = {
            (dataset, column): _named(folders, words[dataset, column])
            for dataset in {known[name]["dataset"] for name in shared}
            for column in _NAMING
        }

        def agrees(name: str) -> bool:
            """Whether no folder names another compression or manipulation; those above all of its own do not matter."""
            row, all_of_its = known[name], len(paths[name]) - 1
            whole = 0 < all_of_its == shared[name][0]
            return whole or all(row[column] in (named[row["dataset"], column] or (row[column],)) for column in _NAMING)

        fit = [name for name in shared if agrees(name)]
        if not fit:
            few = first([repr(name) for name in sorted(shared)], 2)
            return _Wrong("a path that names another compression or manipulation", lambda: f"there is {few}")
        fit = [name for name in fit if shared[name] == max(shared[name] for name in fit)]
        # Which compression is scored the user has said: it need not be in the path. All else must be.
        but_codec = {name: tuple(known[name][column] for column in ("dataset", "method", "split")) for name in fit}
        of_asked = {but_codec[name] for name in asked.intersection(fit) if not named[known[name]["dataset"], "codec"]}
        fit = [name for name in fit if name in asked or but_codec[name] not in of_asked]
        if len({but_codec[name] for name in fit}) == 1 and asked.isdisjoint(fit):
            return min(fit)  # none of them is scored
        if len(fit) > 1:
            few = first([repr(name) for name in sorted(fit)], 2)
            methods = sorted({known[name]["method"] for name in fit})
            example = f"; {methods[0]}/{file_name} would be of {methods[0]}" if len(methods) > 1 else ""
            what = "a path that fits several videos: write more of its folders, or video_id"
            return _Wrong(what, lambda: f"fits {few}{example}")
        return fit[0]

    return find


_NAMING = ("codec", "method")  # columns of VIDEOS whose values folders may name
_CODECS = {name: name for name in ("raw", "c23", "c40")} | {"c0": "raw", "hq": "c23", "lq": "c40"}
# Of FF++, with what DeepfakeBench calls them: a copy need not have them all.
_FFPP = {name: name for name in ffpp.METHODS} | {
    f"FF-{short}": name for short, name in zip(("DF", "F2F", "FS", "NT", "FH"), ffpp.METHODS, strict=True)
}


def _words(rows: Iterable[Row]) -> dict[tuple[str, str], dict[str, str]]:
    """Return how folders may name values of a dataset's column: (dataset, column) -> words -> value, longest first.

    A manipulation that is called as its dataset is no word: the folder that holds the dataset is called so, too.
    """
    values: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        for column in _NAMING:
            values.setdefault((row["dataset"], column), {})[str(row[column])] = str(row[column])
    for (dataset, column), own in values.items():
        if column == "codec" and own.keys() & _CODECS.keys():
            own |= _CODECS
        elif column == "method" and dataset == "ffpp":
            own |= _FFPP
        own.pop(dataset if column == "method" else "unknown", None)
    return {
        key: {_plain_words(name): own[name] for name in sorted(own, key=len, reverse=True)}
        for key, own in values.items()
    }


def _plain_words(text: str) -> str:
    """Return the words of a name in small letters, each between hyphens: -ffpp-c40- of FFpp_c40."""
    return "-".join(["", *re.findall(r"[^\W_]+", text.lower()), ""])


def _named(folders: Iterable[str], words: Mapping[str, str]) -> set[str]:
    """Return the values that folders name; a name within a longer one does not count."""
    text, found = "/".join(map(_plain_words, folders)), set()
    for word, value in words.items():
        if word in text:
            found.add(value)
            text = text.replace(word, "-/-")
    return found


def _stem(name: str) -> str:
    """Return a name without a file's extension."""
    pure = PurePosixPath(name)
    return str(pure.with_suffix("")) if pure.suffix.lower() in _EXTENSIONS else name


def _num_shared(path: Sequence[str], other: Sequence[str]) -> tuple[int, int]:
    """Return how many folders two paths share, counted from their ends: in any capitals, and in the same ones."""
    pairs = list(zip(reversed(path), reversed(other), strict=False))
    alike = takewhile(lambda pair: pair[0].lower() == pair[1].lower(), pairs)
    return len(list(alike)), len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
