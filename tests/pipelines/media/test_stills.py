"""Frames given as pictures. The shade of a picture is its number, so that an exact index can be read back."""

import gzip
import io
import os
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.media import decode, stills
from pipelines.media.frames import UnreadableVideo
from pipelines.media.sampling import Sampling
from tests.pipelines.media.taking import take

INSIDE = "12/real/3"


def picture(number: int, kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (20 * number, 0, 0)).save(data, kind)
    return data.getvalue()


def numbers(frames) -> list[tuple[int, int]]:
    return [(frame.frame_index, round(frame.rgb[..., 0].mean() / 20)) for frame in frames]


def same(*indices: int) -> list[tuple[int, int]]:
    return [(index, index) for index in indices]


def write_tar(path: Path, contents: list[tuple[str, bytes]], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in contents:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(params=["folder", "tar.gz", "tar"])
def store(request, tmp_path):
    """store({name: bytes}) -> path of the "video", in a folder or in an archive."""

    def write(contents: dict[str, bytes]) -> Path:
        if request.param == "folder":
            for name, data in contents.items():
                (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "v" / name).write_bytes(data)
            return tmp_path / "v"
        members = [(f"./{INSIDE}/{name}", data) for name, data in contents.items()]
        mode = "w:gz" if request.param == "tar.gz" else "w"
        return write_tar(tmp_path / f"12.{request.param}", members, mode) / INSIDE

    return write


def test_pictures_come_in_the_order_of_their_numbers(store):
    path = store({f"{number}.png": picture(number) for number in (11, 2, 0, 10, 1, 9, 3, 8, 4, 7, 5, 6)})
    clip = take(path, 100)
    assert numbers(clip.frames) == same(*range(12))
    assert (clip.num_frames, clip.note) == (12, "")
    assert [frame.time_s for frame in clip.frames] == pytest.approx([number / 25 for number in range(12)])
    assert numbers(take(path, 3).frames) == same(2, 6, 10)
    assert numbers(decode.grab(path, [10, 2, 2, 12, -1])) == same(2, 10)
    assert numbers(take(path, Sampling(kind="fps", fps=5)).frames) == same(0, 5, 10)


def test_numbers_count_wherever_they_stand_in_the_name(store):
    names = ["a2_x001.png", "a2_x02.png", "a10_x1.png", "b1.png"]
    path = store({name: picture(number) for number, name in reversed(list(enumerate(names)))})
    assert numbers(take(path, 9).frames) == same(0, 1, 2, 3)


def test_every_kind_and_size_of_picture(store):
    kinds = {"0.png": "PNG", "1.JPG": "JPEG", "2.jpeg": "JPEG", "3.bmp": "BMP", "4.webp": "WEBP"}
    contents = {name: picture(i, kind, (24 + i, 16)) for i, (name, kind) in enumerate(kinds.items())}
    path = store(contents | {"notes.txt": b"x", ".0.png": b"x", "._1.png": b"x", "deeper/0.png": picture(9)})
    frames = take(path, 9).frames
    assert numbers(frames) == same(*range(5))
    assert [frame.rgb.shape for frame in frames] == [(16, 24 + i, 3) for i in range(5)]
    assert all(frame.rgb.dtype == np.uint8 and frame.rgb.flags.c_contiguous for frame in frames)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def test_gray_sixteen_bit_palette_and_alpha_become_rgb(store):
    gray = Image.new("L", (8, 8), 100)
    deep = Image.fromarray(np.full((8, 8), 100 * 256 + 77, np.uint16))
    alpha = Image.new("RGBA", (8, 8), (100, 100, 100, 30))
    path = store({f"{i}.png": encoded(image) for i, image in enumerate([gray, deep, gray.convert("P"), alpha])})
    for frame in take(path, 4).frames:
        assert frame.rgb.shape == (8, 8, 3)
        assert np.all(frame.rgb == 100)


def test_a_picture_comes_upright(store, portrait):
    exif = Image.Exif()
    exif[0x0112] = 6  # held a quarter to the left: shown turned clockwise
    path = store({"0.jpg": encoded(Image.fromarray(portrait[:, :192]), "JPEG", exif=exif, quality=95)})
    shown = take(path, 1).frames[0].rgb
    wanted = np.rot90(portrait[:, :192], -1)
    assert shown.shape == wanted.shape
    assert np.abs(shown.astype(int) - wanted).mean() < 4


def test_a_picture_in_an_archive_is_a_video_of_one_frame(tmp_path):
    contents = [(f"./faces/{number}.png", picture(number)) for number in (3, 1, 2)]
    archive = write_tar(tmp_path / "a.tar.gz", [*contents, ("top.png", picture(4)), ("faces/5.png", b"no picture")])
    for inside, number in (("faces/2.png", 2), ("faces/3.png", 3), ("top.png", 4)):
        clip = take(archive / inside, 9)
        assert (numbers(clip.frames), clip.num_frames, clip.note) == ([(0, number)], 1, "")
    with pytest.raises(UnreadableVideo, match=r"a\.tar\.gz: holds no picture 'faces/7\.png'$"):
        take(archive / "faces/7.png", 1)


def test_pictures_of_an_archive_come_in_one_pass(tmp_path, monkeypatch):
    contents = [(f"faces/{number}.png", picture(number)) for number in (3, 1, 2)]
    archive = write_tar(tmp_path / "a.tar.gz", contents)
    wanted = {0: "faces/1.png", 1: "faces/9.png", 2: "faces/3.png", 3: "faces", 4: "faces/2.png"}
    passes = []
    opened = stills._unpacked
    monkeypatch.setattr(stills, "_unpacked", lambda path: passes.append(path) or opened(path))
    shown = {}
    for key, source in stills.open_members(archive, wanted):
        shown[key] = str(source) if isinstance(source, UnreadableVideo) else numbers(source.frames(range(9)))
    assert shown.pop(1).endswith("holds no picture 'faces/9.png'")
    assert shown == {0: [(0, 1)], 2: [(0, 3)], 3: [(0, 1), (1, 2), (2, 3)], 4: [(0, 2)]}
    assert len(passes) == 3  # to list it, for the folder, for the pictures


def test_a_picture_that_cannot_be_read_is_left_out_and_noted(store):
    contents = {f"{number}.png": picture(number) for number in range(12)}
    contents["4.png"] = contents["4.png"][:-20]
    contents["7.png"] = b"no picture"
    clip = take(store(contents), 6)  # 1, 3, 5, ...: none of the two
    assert (numbers(clip.frames), clip.note[:20]) == (same(1, 3, 5, 9, 11), "7.png: not a picture")


def test_the_note_of_a_source_grows(store):
    contents = {f"{number}.png": picture(number) for number in range(4)} | {"1.png": b"x", "2.png": b""}
    source = decode.open_source(store(contents))
    assert source.note == ""
    assert numbers(source.frames([2])) == []
    assert source.note.startswith("2.png: ")
    assert numbers(source.frames(range(4))) == same(0, 3)
    assert source.note.startswith("1.png and 1 more: ")


@pytest.mark.parametrize("contents", [{"notes.txt": b"x"}, {".0.png": picture(0)}])
def test_without_a_picture_it_is_no_video(store, contents):
    path = store(contents)
    with pytest.raises(UnreadableVideo, match=r"without pictures|holds no pictures in"):
        take(path, 3)
    with pytest.raises(UnreadableVideo, match=r"without pictures|holds no pictures in"):
        decode.grab(path, [0])


def test_of_broken_pictures_only_nothing_is_made(store):
    path = store({"0.png": b"x", "1.png": b"y"})
    clip = take(path, 3)
    assert (clip.frames, clip.num_frames, clip.note[:18]) == ([], 2, "0.png and 1 more: ")


# --- what is too large ---------------------------------------------------------------------------------------------


def test_a_large_file_is_not_read(store, monkeypatch):
    monkeypatch.setattr(stills, "MAX_BYTES", 2000)
    clip = take(store({"0.png": picture(0), "1.png": picture(1) + bytes(2000), "2.png": picture(2)}), 9)
    assert numbers(clip.frames) == same(0, 2)
    assert clip.note == "1.png: larger than 0 MB"


def test_a_small_file_of_many_pixels_is_not_decoded(store):
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    for side in (9_000, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
        clip = take(store({"0.png": picture(0), "1.png": bomb + chunk(b"IEND", b"")}), 9)
        assert numbers(clip.frames) == same(0)
        assert "1.png: " in clip.note
        assert "pixels" in clip.note


def test_a_header_that_demands_gigabytes_is_refused(tmp_path):
    """A tar may announce a file name of any length, which is read whole."""
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 2**33
    path = tmp_path / "1.tar"
    path.write_bytes(name.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))
    with pytest.raises(UnreadableVideo, match=r"a header of 8589934592 bytes"):
        take(path / "1", 3)


# --- archives ------------------------------------------------------------------------------------------------------


def test_an_archive_may_hold_many_sequences(tmp_path):
    names = [
        (f"{video}/real/{sequence}/{i}.png", picture(i + sequence))
        for video in (1, 12)
        for sequence in (0, 3)
        for i in range(3)
    ]
    path = write_tar(tmp_path / "12.TGZ", names)
    assert numbers(take(path / "12/real/3", 9).frames) == [(0, 3), (1, 4), (2, 5)]
    assert numbers(take(path / "1/real/0/", 9).frames) == same(0, 1, 2)
    with pytest.raises(UnreadableVideo, match=r"12.TGZ: holds no pictures in '12/real'"):
        take(path / "12/real", 3)


def test_an_archive_is_read_once_for_its_list_and_once_for_the_frames(tmp_path, monkeypatch):
    members = [(f"{INSIDE}/{i}.png", picture(i)) for i in (9, 3, 1, 0, 2, 11, 4, 8, 5, 10, 7, 6)]
    path = write_tar(tmp_path / "12.tar.gz", members) / INSIDE
    opened, decoded = [], []
    unpacked, decode_one = stills._unpacked, stills._decode
    monkeypatch.setattr(stills, "_unpacked", lambda archive: opened.append(archive) or unpacked(archive))
    monkeypatch.setattr(stills, "_decode", lambda data: decoded.append(data) or decode_one(data))
    monkeypatch.setattr(stills, "_SPOOL_BYTES", 200)  # what comes too early goes to a file
    for calls in (2, 3):  # the list is remembered
        assert numbers(take(path, 5).frames) == same(1, 3, 6, 8, 10)
        assert len(opened) == calls
    assert len(decoded) == 10


def test_a_changed_archive_is_listed_anew(tmp_path):
    for count in (2, 3):
        path = write_tar(tmp_path / "12.tar", [(f"a/{i}.png", picture(i)) for i in range(count)], "w")
        os.utime(path, (count, count))
        assert len(take(path / "a", 9).frames) == count


def test_of_two_members_of_one_name_the_later_counts(tmp_path):
    path = write_tar(tmp_path / "1.tar", [("a/0.png", picture(5)), ("a/1.png", picture(1)), ("a/0.png", picture(0))])
    assert numbers(take(path / "a", 9).frames) == same(0, 1)


def test_links_and_names_that_lead_out_are_no_pictures(tmp_path):
    (tmp_path / "secret.png").write_bytes(picture(9))
    with tarfile.open(tmp_path / "1.tar", "w") as tar:
        for kind, target in ((tarfile.SYMTYPE, str(tmp_path / "secret.png")), (tarfile.LNKTYPE, "a/9.png")):
            link = tarfile.TarInfo(f"a/{kind.decode()}.png")
            link.type, link.linkname = kind, target
            tar.addfile(link)
        for name in ("a/../../0.png", "a/7.png"):
            member = tarfile.TarInfo(name)
            member.size = len(picture(0))
            tar.addfile(member, io.BytesIO(picture(0)))
    before = sorted(tmp_path.rglob("*"))
    assert numbers(take(tmp_path / "1.tar/a", 9).frames) == same(0)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_cut_archive_gives_the_pictures_it_still_has(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (10, 64, 64, 3), np.uint8)
    members = [(f"a/{i}.png", encoded(Image.fromarray(rgb))) for i, rgb in enumerate(noise)]
    path = write_tar(tmp_path / "1.tar.gz", members)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = take(path / "a", 20)
    assert 3 <= len(clip.frames) <= 5
    assert all(np.array_equal(frame.rgb, noise[frame.frame_index]) for frame in clip.frames)
    assert "reading the archive stops after" in clip.note


def spoil(data: bytes, entry: int) -> bytes:
    """The header of a tar's entry, when each has one block of data."""
    return data[: 1024 * entry] + b"x" * 512 + data[1024 * entry + 512 :]


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("1.tar", lambda data: spoil(data, 2), "stops after 2 entries: damaged in the middle"),
        ("1.tar", lambda data: data[:2048] + bytes(512) + data[2560:], "stops after 2 entries: damaged in the middle"),
        ("1.tar", lambda data: data[:2048], "stops after 2 entries: cut off"),
        ("1.tar.gz", lambda data: gzip.compress(spoil(gzip.decompress(data), 2)), "damaged in the middle"),
        ("1.tar.gz", lambda data: data[:-6] + b"????" + data[-2:], "stops after 4 entries: CRC check failed"),
    ],
)
def test_damage_in_the_middle_is_not_the_end(tmp_path, name, damage, why):
    """tarfile stops without a word at a header that it cannot read, at zeros, and at the end of the file."""
    path = write_tar(tmp_path / name, [(f"a/{i}.png", picture(i)) for i in range(4)], "w:gz" if "gz" in name else "w")
    assert len(picture(3)) <= 512
    assert take(path / "a", 9).note == ""
    path.write_bytes(damage(path.read_bytes()))
    clip = take(path / "a", 9)
    assert why in clip.note
    assert numbers(clip.frames) == same(*range(4 if "4 entries" in why else 2))
    with pytest.raises(UnreadableVideo, match=why):  # the archive as a whole
        take(path, 9)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a tar archive: empty"),
        (b"text " * 500, "not a tar archive"),
        (gzip.compress(b"x" * 5000, mtime=0), "not a tar"),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path, data, reason):
    (tmp_path / "1.tar.gz").write_bytes(data)
    with pytest.raises(UnreadableVideo, match=reason) as caught:
        take(tmp_path / "1.tar.gz/a", 3)
    assert "\n" not in str(caught.value)


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(UnreadableVideo, match=r"1.tar.gz: no such file"):
        take(tmp_path / "1.tar.gz/a", 3)


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UnreadableVideo, match=r"1.tar.gz: Not a directory"):
        take(tmp_path / "a/1.tar.gz/a", 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    (tmp_path / "v").mkdir(mode=0)
    with pytest.raises(UnreadableVideo, match="no permission"):
        take(tmp_path / "v", 1)
