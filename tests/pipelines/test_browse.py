"""The contact sheet: which videos it shows, what is drawn, and that names from files stay text."""

import base64
import re
from html.parser import HTMLParser
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines import browse
from pipelines.commands.browse import Filter, choose, rest
from pipelines.faces import store
from pipelines.reporting import contact_sheet

HOSTILE = 'toy/<script>alert(1)</script>"><img src=x onerror=alert(1)>&\x1b[31m\u202e'


def extracted(name: str, status: str = "ok", method: str = "real", split: str = "test") -> dict[str, Any]:
    return {"video_id": name, "status": status, "method": method, "split": split}


KNOWN = [
    extracted("toy/real/000"),
    extracted("toy/real/001", split="train"),
    extracted("toy/Swap/000_001", method="Swap"),
    extracted("toy/Swap/001_000", "no_face", "Swap"),
    extracted("toy/odd/[x]", "crashed", "odd"),
]


def names(*patterns: str, most: int = 9, **filters) -> list[str]:
    return [name.removeprefix("toy/") for name in choose(KNOWN, Filter(patterns=patterns, **filters), most)[0]]


def test_videos_are_chosen_by_id_pattern_status_split_and_method():
    assert names("toy/real/000") == ["real/000"]
    assert names("*/000*", "toy/real/001") == ["Swap/000_001", "real/000", "real/001"]
    assert names("toy/odd/[x]") == ["odd/[x]"]  # a name, though it reads like a pattern
    assert names(failed=True) == ["Swap/001_000", "odd/[x]"]
    assert names(split="train") == ["real/001"]
    assert names(failed=True, method="Swap") == ["Swap/001_000"]


def test_of_many_videos_an_even_choice_is_shown():
    many = [extracted(f"{i:02d}") for i in range(10)]
    assert choose(many, Filter(), 2) == (["02", "07"], 10)


@pytest.mark.parametrize(("wanted", "told"), [
    (Filter(patterns=("toy/real/01",)), "e.g., toy/real/001, "),  # the nearest first
    (Filter(patterns=("nothing",)), "toy/Swap/000_001"),
    (Filter(patterns=("nothing",), split="train"), "of 1 there are, e.g., toy/real/001"),
    (Filter(method="Swop"), "--method Swop; splits: train, test; methods: Swap, odd, real"),
])  # fmt: skip
def test_no_match_is_an_error_that_names_what_there_is(wanted, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        choose(KNOWN, wanted, 9)


def test_landmarks_are_dots_where_they_are_and_the_mask_has_an_outline():
    mask = np.zeros((40, 40), np.uint8)
    mask[20:30, 20:30] = 255
    shown = contact_sheet.face(np.zeros((40, 40, 3), np.uint8), np.array([[4, 8]], np.float32), mask, 80)
    dots = np.argwhere((shown == contact_sheet.LANDMARK).all(-1))
    assert abs(dots.mean(0) - [16.5, 8.5]).max() <= 0.5  # (8 + 0.5) * 2 - 0.5 rows down
    line = np.argwhere((shown == contact_sheet.OUTLINE).all(-1))
    assert (line.min(0).tolist(), line.max(0).tolist()) == ([40, 40], [59, 59])
    assert (shown[45:55, 45:55] == 0).all()  # not filled


def test_what_is_left_out_is_told_with_how_to_see_it():
    shown = [{"num_faces": 32}, {"num_faces": 64}]
    assert rest(shown, 2, 64) == ""
    assert rest(shown, 2, 8).startswith("all faces of each: --frames 64; certain videos: ")
    assert rest(shown, 9, 64).startswith("all 9 videos: --videos 9; certain videos: ")
    assert rest(shown, 9, 8).startswith("all 9 videos: --videos 9; all faces of each: --frames 64; ")


class Page(HTMLParser):
    """Tags with their attributes, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def hostile_strips() -> list[contact_sheet.Strip]:
    tile = contact_sheet.Tile(np.full((60, 60, 3), 7, np.uint8), (HOSTILE, "second"))
    return [contact_sheet.Strip(title=HOSTILE, kind="fake", lines=(HOSTILE, HOSTILE), failed=True, tiles=(tile,))]


def test_a_page_holds_its_pictures_and_names_stay_text():
    text = contact_sheet.to_html(HOSTILE, hostile_strips())
    page = Page(text)
    assert {tag for tag, _ in page.tags} == {
        "html", "head", "meta", "title", "style", "body", "h1", "section", "h2", "p", "figure", "img", "figcaption"
    }  # fmt: skip
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    (image,) = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    data = base64.b64decode(image.removeprefix("data:image/png;base64,"))
    assert (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) == 7).all()
    assert "<script>alert(1)</script>" in page.text  # shown, not run
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "default-src 'none'" in text


def test_a_png_has_room_for_every_line_and_picture():
    plain = contact_sheet.Strip(title="a", kind="real", lines=("ok",), failed=False)
    tall, wide = (
        cv2.imdecode(np.frombuffer(contact_sheet.to_png("t", strips), np.uint8), cv2.IMREAD_COLOR)
        for strips in ([plain] * 3, [plain, *hostile_strips()])
    )
    single = cv2.imdecode(np.frombuffer(contact_sheet.to_png("t", [plain]), np.uint8), cv2.IMREAD_COLOR)
    assert tall.shape[0] - single.shape[0] == 2 * (single.shape[0] - 27)  # title: a gap of 8 and a line of 19
    assert (wide == 7).all(-1).sum() >= 60 * 60
    assert (tall[-4:] == 255).all()


# The command, on real faces


@pytest.mark.ray
def test_the_command_shows_faces_of_an_extraction(tiny, tmp_path, capsys):
    out = tmp_path / "sheet.html"
    folder = str(tiny.faces["ffpp"])
    assert browse.main([folder, "ffpp/Deepfakes/*", "--split", "test", "--frames", "3", "--out", str(out)]) == 0
    page = Page(out.read_text())
    assert sum(tag == "img" for tag, _ in page.tags) == 6  # two fakes of one pair
    assert "masks known of 4 of 4 faces" in page.text
    assert "4 faces in 4 frames, 3 shown, " in page.text
    assert "2 videos" in capsys.readouterr().out


@pytest.mark.ray
def test_only_shown_videos_are_read(tiny, tmp_path, monkeypatch):
    read: list[str] = []
    video = store.Faces.video
    monkeypatch.setattr(store.Faces, "video", lambda self, name, *rest: read.append(name) or video(self, name))
    folder = str(tiny.faces["ffpp"])
    assert browse.main([folder, "--method", "real", "--videos", "2", "--out", str(tmp_path / "s.png")]) == 0
    assert len(read) == 2
    assert all(name.startswith("ffpp/real/") for name in read)
    picture = cv2.imread(str(tmp_path / "s.png"))
    assert picture.shape[1] == 4 * 168 + 8  # four faces of 160 pixels


@pytest.mark.ray
@pytest.mark.parametrize(("more", "told"), [
    (["--out", "sheet.gif"], ".png or .html"),
    (["nobody"], "ffpp/"),
    (["--failed"], "passes --failed"),
])  # fmt: skip
def test_wrong_usage(tiny, more, told, capsys):
    assert browse.main([str(tiny.faces["ffpp"]), *more]) == 2
    assert told in capsys.readouterr().out


def test_a_folder_without_an_extraction_is_wrong_usage(tmp_path, capsys):
    assert browse.main([str(tmp_path)]) == 2
    assert "run the extraction again" in capsys.readouterr().out
