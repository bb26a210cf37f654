"""The tables in which stages meet: names, types, units. No I/O.

    VIDEOS       one row per video, key `video_id`; written by a dataset adapter
    FACES        one row per face, key (`video_id`, `frame_index`, `face_index`), or one row that says
                 why a video gave none
    LEDGER       one row per video: what extraction made of it
    PREDICTIONS  one row per scored face and stage
    RESULTS      one row per published number
    SOURCES      one row per video of a run: which numbers vary together
    EVIDENCE     one row per picture of what a stage looks at
    FEATURES     one row per face and stage that a plot of features shows

A changed column means a line in the CHANGELOG, and a higher version: of VIDEOS, FACES or LEDGER `VERSION`, which takes
a new extraction, of PREDICTIONS `scoring.predictions.VERSION`, which takes a new scoring. A new column that may be null
takes neither: in older files it is.
"""

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import pyarrow as pa

VERSION = 3

REAL, FAKE = 0, 1
SPLITS = ("train", "val", "test")
STATUSES = ("ok", "unreadable", "no_face", "crashed")
FACE_RULES = ("largest", "mask", "all", "whole")

_BOX = pa.struct([pa.field(name, pa.float32(), nullable=False) for name in ("x0", "y0", "x1", "y1")])


def _field(name: str, type_: pa.DataType, unit: str = "", null: bool = False) -> pa.Field:
    return pa.field(name, type_, nullable=null, metadata={"unit": unit} if unit else None)


def _schema(table: str, *fields: pa.Field) -> pa.Schema:
    return pa.schema(fields, metadata={"table": table, "version": str(VERSION)})


_VIDEO_KEYS = (
    _field("dataset", pa.string(), "adapter name, e.g. ffpp"),
    _field("video_id", pa.string(), "unique over all datasets, e.g. ffpp/Deepfakes/c23/000_003"),
    _field("label", pa.int8(), "0 real, 1 fake"),
    _field("method", pa.string(), "real, or the manipulation's name"),
    _field("codec", pa.string(), "raw, c23, c40, unknown"),
    _field("split", pa.string(), "train, val, test, from the dataset's own list"),
)

VIDEOS = _schema(
    "videos",
    *_VIDEO_KEYS,
    _field("root", pa.string(), "name in datasets.toml of the root that the uris below are relative to"),
    _field("uri", pa.string(), "path below that root"),
    _field("mask_uri", pa.string(), "the dataset's own mask video, below the same root", null=True),
    _field("real_id", pa.string(), "video_id of the real counterpart of a fake", null=True),
    _field("real_uri", pa.string(), "uri of that counterpart, below the same root", null=True),
    _field("source_ids", pa.list_(pa.field("item", pa.string(), nullable=False)), "people or clips it is made from"),
    _field(
        "face_rule",
        pa.string(),
        "which faces count: the largest; the one that the mask covers most; all; whole: the picture is a face crop",
    ),
)

FACES = _schema(
    "faces",
    *_VIDEO_KEYS,
    _field("status", pa.string(), "ok, unreadable, no_face, crashed"),
    _field("frame_index", pa.int32(), "0-based in the decoded stream", null=True),
    _field("face_index", pa.int8(), "0 = the track with the largest boxes; a track keeps its index", null=True),
    _field("time_s", pa.float32(), "seconds from the first frame", null=True),
    _field("image_png", pa.binary(), "RGB crop, lossless", null=True),
    _field("mask_png", pa.binary(), "manipulated pixels of the crop, 8 bit, 0 or 255; null: not known", null=True),
    _field("box_px", _BOX, "face box in source-frame pixels", null=True),
    _field("crop_px", _BOX, "crop box in source-frame pixels, with margin", null=True),
    _field(
        "landmarks_px", pa.list_(pa.field("item", pa.float32(), nullable=False)), "x, y pairs, crop pixels", null=True
    ),
    _field("face_score", pa.float32(), "detector confidence, 0 to 1; 0: box held from the nearest frame", null=True),
)

# What a video's faces were made from: the columns of VIDEOS that decide it, and the state of each file (see
# `faces.files`): empty where there is none, null where it is not known.
_SOURCE = pa.struct(
    [
        _field("label", pa.int8()),
        *(_field(name, pa.string()) for name in ("method", "codec", "split", "face_rule", "uri")),
        *(
            _field(name, pa.string(), null=True)
            for name in ("state", "mask_uri", "mask_state", "real_uri", "real_state")
        ),
    ]
)

LEDGER = _schema(
    "ledger",
    _field("video_id", pa.string()),
    _field("status", pa.string(), "ok, unreadable, no_face, crashed"),
    _field("reason", pa.string(), "one line; empty when ok"),
    _field("num_frames", pa.int32(), "frames sampled"),
    _field("num_faces", pa.int32(), "rows in FACES that hold a face"),
    _field("content", pa.string(), "SHA-256 of its FACES rows"),
    _field("seconds", pa.float32(), "time spent, wall clock"),
    _field("source", _SOURCE, "what it was made from; null: from before this was recorded", null=True),
)

PREDICTIONS = _schema(
    "predictions",
    _field("stage", pa.string(), "stage name, or `final` for the mean over stages"),
    _field("perturbation", pa.string(), "what the face was put through, e.g. blur-3; empty: nothing"),
    _field("dataset", pa.string()),
    _field("video_id", pa.string()),
    _field("frame_index", pa.int32()),
    _field("face_index", pa.int8()),
    _field("label", pa.int8(), "0 real, 1 fake"),
    _field("method", pa.string()),
    _field("logit", pa.float64(), "log odds of P(fake), above 0 means fake: ranks also where P(fake) is 1 in 64 bits"),
    _field("score", pa.float64(), "P(fake), 0 to 1: the sigmoid of `logit`"),
    _field("num_repeated", pa.int16(), "frames of its clip that repeat the video's last one; 0 where there are enough"),
    _field("face_area_px", pa.float32(), "area of the face box in the source frame, square pixels"),
    _field("mask_png", pa.binary(), "predicted mask, 8 bit, 0 to 255; null for perturbed faces", null=True),
    _field("mask_tp", pa.int32(), "pixels at threshold 0.5; null: no ground truth", null=True),
    _field("mask_fp", pa.int32(), null=True),
    _field("mask_fn", pa.int32(), null=True),
    _field("mask_tn", pa.int32(), null=True),
)

RESULTS = _schema(
    "results",
    _field("run_id", pa.string(), "trial digest"),
    _field("model", pa.string()),
    _field("stage", pa.string(), "stage name, or `final` for the mean over stages"),
    _field("train_on", pa.string()),
    _field("test_dataset", pa.string(), "dataset, dataset/manipulation, or `unseen`: mean over those not trained on"),
    _field("perturbation", pa.string(), "of the faces, e.g. blur-3, or `blur` for the mean over levels; empty: none"),
    _field("part", pa.string(), "train, val, test"),
    _field("part_version", pa.int32(), "of the rules that made the part: `experiments.protocol.VERSION`"),
    _field("part_ids", pa.string(), "digest of the part's video ids: `Part.ids_digest`; several: of a mean over parts"),
    _field("codec", pa.string()),
    _field("level", pa.string(), "frame, video"),
    _field("metric", pa.string(), "one of `metrics.names.METRICS`"),
    _field("value", pa.float64(), "0 to 1, never percent; NaN: not defined, see `reason`"),
    _field("low", pa.float64(), "lower end of the 95 % interval over clusters of videos"),
    _field("high", pa.float64(), "its upper end"),
    _field("reason", pa.string(), "why the value is not defined; empty: it is"),
    _field("note", pa.string(), "what to know of the value or its interval; null: from before it was said", null=True),
    _field("n_real", pa.int32(), "videos scored"),
    _field("n_fake", pa.int32(), "videos scored"),
    _field("n_padded", pa.int32(), "videos scored in clips that are longer than they, so that a frame is repeated"),
    _field("n_missing", pa.int32(), "videos without a usable face"),
    _field("n_excluded", pa.int32(), "videos that share a source with training"),
    _field(
        "n_clusters",
        pa.int32(),
        "that hold its videos, of the rarer class; videos of one source are one cluster. Of a TPR at an FPR no more "
        "than real videos may lie above the threshold",
    ),
    _field("failed_rule", pa.string(), "what a video without a face counts as"),
    _field("seed", pa.int32()),
    _field("commit", pa.string()),
)

SOURCES = _schema("sources", _field("video_id", pa.string()), VIDEOS.field("source_ids"))

_SHOWN = (
    _field("video_id", pa.string()),
    _field("frame_index", pa.int32()),
    _field("face_index", pa.int8()),
    _field("label", pa.int8(), "0 real, 1 fake"),
    _field("method", pa.string(), "real, or the manipulation's name"),
    _field("stage", pa.string(), "stage that looks"),
    _field("score", pa.float64(), "P(fake) of the face by this stage; null: it scores none", null=True),
)

EVIDENCE = _schema(
    "evidence",
    _field("dataset", pa.string(), "test part, as RESULTS.test_dataset"),
    *_SHOWN,
    _field("verdict", pa.string(), "right, wrong: the final score of the video, at 0.5"),
    _field("video_score", pa.float64(), "P(fake) of the video, final"),
    _field("picture", pa.string(), "face, Grad-CAM, or a name that the stage gives; empty: the whole stage failed"),
    _field("png", pa.binary(), "RGB; or a map, 8 bit, 0 to 255 for 0 to 1; null: see problem", null=True),
    _field("problem", pa.string(), "why there is no picture; empty where there is one"),
)

FEATURES = _schema(
    "features",
    _field("dataset", pa.string(), "adapter name, e.g. ffpp"),
    *_SHOWN,
    _field("features", pa.list_(pa.field("item", pa.float32(), nullable=False)), "what the stage's last layer gets"),
)

UNPERTURBED = ""  # in the column `perturbation`: the face is as it was stored

# Measured on real videos: the stored size of one FACES row whose crop is FACE_PX wide. It grows with the crop's area,
# since nearly all of it is the lossless picture.
FACE_BYTES, FACE_PX = 60_000, 224

# Columns of VIDEOS that FACES copies; columns of FACES that a video without a face leaves null.
COPIED = tuple(field.name for field in _VIDEO_KEYS)
PER_FACE = tuple(field.name for field in FACES if field.nullable)


def dataset_of(video_id: str) -> str:
    """Return the dataset of a video, with whose name its id begins."""
    return video_id.partition("/")[0]


def to_table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return the rows as a table of exactly this schema.

    Raise ValueError, which names the table and the column, when a row lacks a column, has an unknown one, holds a null
    where none is allowed, or a value of the wrong type.
    """
    rows = list(rows)
    names = set(schema.names)
    table_name = schema.metadata[b"table"].decode()

    def shown(row: Mapping[str, Any]) -> str:
        return str({name: row[name] for name in ("dataset", "video_id", "frame_index") if name in row})

    for row in rows:
        if row.keys() != names:
            missing, extra = sorted(names - row.keys()), sorted(row.keys() - names)
            raise ValueError(f"{table_name} row: missing columns {missing}, unknown columns {extra}: {shown(row)}")
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        if not field.nullable and None in values:
            raise ValueError(f"{table_name}.{field.name} is null in {shown(rows[values.index(None)])}")
        for row, value in zip(rows, values, strict=True):
            if not _fits(value, field):
                raise ValueError(f"{table_name}.{field.name} must be {field.type}, got {value!r} in {shown(row)}")
        try:
            columns.append(pa.array(values, field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"{table_name}.{field.name} must be {field.type}: {error}") from error
    return pa.Table.from_arrays(columns, schema=schema)


def _fits(value: Any, field: pa.Field) -> bool:
    """Say whether Arrow can store the value as it is. Arrow itself would cut fractions and fill missing parts."""
    if value is None:
        return field.nullable
    if pa.types.is_list(field.type):
        item = field.type.value_field
        if isinstance(value, str | bytes):
            return False
        if pa.types.is_floating(item.type):  # as 136 landmarks of each face: no other check would find more
            return item.nullable or None not in value
        return all(_fits(each, item) for each in value)
    if pa.types.is_struct(field.type):
        parts = list(field.type)
        return value.keys() == {part.name for part in parts} and all(_fits(value[part.name], part) for part in parts)
    return not pa.types.is_integer(field.type) or isinstance(value, Integral)
