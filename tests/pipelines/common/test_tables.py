"""Rows become tables of exactly the declared schema, or an error that names the column."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.common import tables

VIDEO = {
    "dataset": "ffpp",
    "video_id": "ffpp/Deepfakes/c23/000_003",
    "label": 1,
    "method": "Deepfakes",
    "codec": "c23",
    "split": "train",
    "root": "ffpp",
    "uri": "Deepfakes/000_003.mp4",
    "mask_uri": None,
    "real_id": None,
    "real_uri": None,
    "source_ids": ["ffpp/000", "ffpp/003"],
    "face_rule": "largest",
}
BOX = {"x0": 0.5, "y0": 1.0, "x1": 9.0, "y1": 10.0}
FACE = {name: VIDEO[name] for name in tables.COPIED} | {
    "status": "ok",
    "frame_index": 7,
    "face_index": 0,
    "time_s": 0.25,
    "image_png": b"png",
    "mask_png": None,
    "box_px": BOX,
    "crop_px": BOX,
    "landmarks_px": [1.0, 2.0],
    "face_score": 0.75,
}
NO_FACE = FACE | dict.fromkeys(tables.PER_FACE) | {"status": "no_face"}
ALL = {name: value for name, value in vars(tables).items() if isinstance(value, pa.Schema)}


def test_rows_come_back_as_they_were():
    table = tables.to_table([FACE, NO_FACE], tables.FACES)
    assert table.to_pylist() == [FACE, NO_FACE]
    assert table.schema.equals(tables.FACES, check_metadata=True)


def test_no_rows_make_an_empty_table_of_the_schema():
    table = tables.to_table([], tables.VIDEOS)
    assert (table.num_rows, table.schema) == (0, tables.VIDEOS)


def test_a_generator_of_rows_is_read_once():
    assert tables.to_table((dict(VIDEO) for _ in range(2)), tables.VIDEOS).num_rows == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({k: v for k, v in VIDEO.items() if k != "codec"}, r"missing columns \['codec'\].*ffpp/Deepfakes/c23/000_003"),
        (VIDEO | {"colour": 1}, r"unknown columns \['colour'\]"),
        (VIDEO | {"label": None}, r"videos.label is null in .*ffpp/Deepfakes/c23/000_003"),
        (VIDEO | {"label": "fake"}, "videos.label must be int8"),
        (VIDEO | {"label": 300}, "videos.label must be int8"),
        (VIDEO | {"label": True}, "videos.label must be int8"),
        (VIDEO | {"uri": 5}, "videos.uri must be string"),
        (VIDEO | {"source_ids": [1]}, "videos.source_ids must be list"),
    ],
)
def test_refuses_a_row_that_is_not_of_the_schema(row, message):
    with pytest.raises(ValueError, match=message):
        tables.to_table([VIDEO, row], tables.VIDEOS)


@pytest.mark.parametrize(
    ("schema", "row", "column"),
    [
        (tables.VIDEOS, VIDEO | {"label": 0.9}, "videos.label"),
        (tables.FACES, FACE | {"frame_index": 7.5}, "faces.frame_index"),
        (tables.VIDEOS, VIDEO | {"source_ids": "ffpp/000"}, "videos.source_ids"),
        (tables.VIDEOS, VIDEO | {"source_ids": ["ffpp/000", None]}, "videos.source_ids"),
        (tables.FACES, FACE | {"box_px": {"x0": 1.0}}, "faces.box_px"),
    ],
    ids=["fraction as label", "fraction as index", "string as list", "null in a list", "box without corners"],
)
def test_refuses_a_value_that_would_be_changed_on_the_way_in(schema, row, column):
    with pytest.raises(ValueError, match=column):
        tables.to_table([row], schema)


@pytest.mark.parametrize("name", ALL)
def test_units_and_version_survive_parquet(name, tmp_path):
    pq.write_table(tables.to_table([], ALL[name]), tmp_path / "t.parquet")
    read = pq.read_schema(tmp_path / "t.parquet")
    assert read.metadata[b"version"] == str(tables.VERSION).encode()
    assert read.metadata[b"table"] == name.lower().encode()
    units = {field.name: field.metadata[b"unit"] for field in ALL[name] if field.metadata}
    assert {field: read.field(field).metadata[b"unit"] for field in units} == units
    assert [(f.name, f.type, f.nullable) for f in read] == [(f.name, f.type, f.nullable) for f in ALL[name]]


def test_faces_copy_the_keys_of_their_video():
    assert tables.COPIED == ("dataset", "video_id", "label", "method", "codec", "split")
    for name in tables.COPIED:
        assert tables.FACES.field(name).equals(tables.VIDEOS.field(name), check_metadata=True)


def test_what_a_video_without_a_face_leaves_null():
    tables.to_table([NO_FACE], tables.FACES)
    assert set(tables.FACES.names) == {*tables.COPIED, "status", *tables.PER_FACE}
