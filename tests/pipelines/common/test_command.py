"""The frame of every command: which exit code, which line, and which numbers a switch takes."""

import argparse
from pathlib import Path

import pytest

from pipelines.common import command


class Refused(RuntimeError):
    """An error that only some commands end with."""


def raising(error: BaseException):
    def work(console):
        raise error

    return work


@pytest.mark.parametrize("code", [0, 1])
def test_the_exit_code_is_that_of_the_work(code, capsys):
    assert command.main(lambda console: code) == code
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [ValueError("no such [bold]row"), OSError("no such [bold]row")])
def test_wrong_input_is_one_line_and_exit_code_2(error, capsys):
    assert command.main(raising(error)) == 2
    assert capsys.readouterr() == ("error: no such [bold]row\n", "")


def test_the_text_of_an_error_keeps_its_lines_and_loses_what_steers_a_terminal(capsys):
    assert command.main(raising(ValueError("expected\n  a\x1b[31m/\u202eb/" + 200 * "c"))) == 2
    assert capsys.readouterr().out == "error: expected\n  a\\x1b[31m/\\u202eb/" + 200 * "c" + "\n"


def test_a_run_time_error_is_for_the_user_only_where_the_command_says_so(capsys):
    assert command.main(raising(Refused("the disk is full")), errors=(Refused,)) == 2
    assert capsys.readouterr().out == "error: the disk is full\n"
    with pytest.raises(Refused):
        command.main(raising(Refused("the disk is full")))
    with pytest.raises(KeyError):
        command.main(raising(KeyError("a mistake of ours")), errors=(Refused,))


def test_interrupted_it_says_what_became_of_the_work(capsys):
    assert command.main(raising(KeyboardInterrupt()), stopped="stopped; nothing is kept") == 130
    assert capsys.readouterr().out == "stopped; nothing is kept\n"


@pytest.mark.parametrize(
    ("text", "not_negative", "positive"),
    [
        ("3", 3, 3),
        ("0", 0, "must be 1 or more, got 0"),
        ("-1", "must be 0 or more, got -1", "must be 1 or more, got -1"),
        ("1.5", "must be a whole number, got '1.5'", "must be a whole number, got '1.5'"),
        ("", "must be a whole number, got ''", "must be a whole number, got ''"),
    ],
)
def test_a_switch_takes_whole_numbers_from_0_or_1(text, not_negative, positive):
    for kind, expected in ((command.not_negative, not_negative), (command.positive, positive)):
        if isinstance(expected, int):
            assert kind(text) == expected
        else:
            with pytest.raises(argparse.ArgumentTypeError, match=expected):
                kind(text)


def test_the_help_shows_a_docstring_as_it_is_written():
    assert (
        "\n    python -m a.b [X]\n\nTwo.\n"
        in command.parser("a.b", "One:\n\n    python -m a.b [X]\n\nTwo.").format_help()
    )


def test_a_command_is_shown_as_in_the_readme_without_the_folders_of_this_machine():
    typed = command.typed(
        ["/home/me/crossforge/sweeps/x.py", "--storage", "/data/a b", "--set", "a.b=1", "c=/d/e.toml"]
    )
    assert typed == "uv run python sweeps/x.py --storage '…/a b' --set a.b=1 'c=…/e.toml'"
    assert command.typed(["/opt/bin/crossforge", "sweep", "x", "--datasets", "my/d.toml"]) == (
        "uv run crossforge sweep x --datasets my/d.toml"
    )
    assert command.typed(["/x/pipelines/score_file.py", "s.csv"]) == "uv run crossforge score-file s.csv"


def test_an_error_of_the_system_names_the_file_and_no_number(capsys, tmp_path):
    assert command.main(lambda console: len((tmp_path / "none.csv").read_bytes())) == 2
    assert capsys.readouterr().out == f"error: {tmp_path / 'none.csv'}: No such file or directory\n"


def test_what_is_there_passes_also_in_an_archive(tmp_path):
    (tmp_path / "a.tar").touch()
    command.check_there([tmp_path, f"{tmp_path}/a.tar", tmp_path / "a.tar/inside.mp4"])
    with pytest.raises(ValueError, match=r"there is no file or folder .*/b\.tar/inside\.mp4"):
        command.check_there([tmp_path, tmp_path / "b.tar/inside.mp4"])


def test_a_tilde_before_no_user_of_this_machine_is_a_part_of_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"there is no file or folder ~no-such-user\.mp4"):
        command.check_there(["~no-such-user.mp4"])
    (tmp_path / "~no-such-user.mp4").touch()
    command.check_there(["~no-such-user.mp4"])
    assert command.path("~no-such-user.mp4") == Path("~no-such-user.mp4")


def test_the_path_of_a_switch_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert (command.path("~/x"), command.path("a/~/b")) == (Path("/home/me/x"), Path("a/~/b"))
    with pytest.raises(argparse.ArgumentTypeError, match=r"^~no-such-user/x: there is no home folder ~no-such-user;"):
        command.path("~no-such-user/x")
