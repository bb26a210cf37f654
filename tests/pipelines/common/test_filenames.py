"""Names that are not UTF-8 become text, and lead back to their files."""

import os

from pipelines.common.filenames import escaped, on_disk
from pipelines.common.text import printable

ODD = os.fsdecode(b"caf\xe9")


def test_a_byte_that_is_not_utf8_is_written_out():
    assert escaped(f"{ODD}/\u00e9.mp4") == "caf\\xe9/\u00e9.mp4"
    assert escaped(ODD).encode() == b"caf\\xe9"
    assert printable(ODD) == "caf\\xe9"


def test_the_written_name_leads_to_the_file(tmp_path):
    (tmp_path / ODD / "in").mkdir(parents=True)
    (tmp_path / "in \\xe9").mkdir()  # a name of four ordinary characters
    (tmp_path / "in \\xe9" / f"{ODD}.tar").touch()
    for path in (tmp_path / ODD / "in", tmp_path / "in \\xe9" / f"{ODD}.tar"):
        assert on_disk(escaped(str(path))) == str(path)
    inside = f"{tmp_path}/in \\xe9/{ODD}.tar/caf\\xe9/7"
    assert on_disk(escaped(inside)) == inside  # what lies in an archive is called what its listing says
    assert on_disk("caf\\xe9.mp4") == "caf\\xe9.mp4"  # there is none
