"""What is said of shell commands."""

from __future__ import annotations

import json

import pytest

from engine import codec
from engine.tools import shell


def test_remarks_stand_in_a_last_line() -> None:
    assert shell.closing("out\n", None, "exit code 2", None, "late") == "out\n[exit code 2; late]"
    assert shell.closing("no line feed", "exit code 2") == "no line feed\n[exit code 2]"
    assert shell.closing("", "exit code 2") == "[exit code 2]"
    assert shell.closing("out", None) == "out"


def test_what_was_left_running() -> None:
    assert shell.left_running(0) is None
    assert shell.left_running(1) == "a process that it left running was ended"
    assert shell.left_running(2000) == "2,000 processes that it left running were ended"


def test_titles() -> None:
    assert shell.first_line("ls -l") == "ls -l"
    assert shell.first_line("\nfor f in *\ndo echo\ndone") == "for f in * …"


def test_a_remark_fits_the_room_that_is_kept_for_it() -> None:
    long = shell.closing("x", "killed by SIGVTALRM", shell.left_running(10**9), "job_99999: " + "9" * 100)
    assert len(long.encode()) - 1 <= shell.CLOSING_BYTES
    assert long.count("\n") < shell.CLOSING_LINES


@pytest.mark.parametrize(
    "value", [{}, {"command": ""}, {"command": " \n"}, {"command": "x", "timeout": 0}, {"command": 1}]
)
def test_what_is_no_command_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(codec.DecodeError):
        codec.decode(value, shell.Run)


def test_the_schema_says_what_is_needed() -> None:
    schema = json.loads(shell.RUN.input_schema)
    assert schema["required"] == ["command"]
    assert set(schema["properties"]) == {"command", "timeout"}
