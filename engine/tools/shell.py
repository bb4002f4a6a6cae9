"""The tools of the shell: what they take, how they are described, and what is said of a command that has ended."""

from __future__ import annotations

from typing import Annotated, Final

import attrs

from engine import codec
from engine.tools.schema import input_schema
from engine.tools.spec import ToolSpec

# sh is there on every system, and what engine.tools.shell_words takes apart.
SHELL: Final = ("/bin/sh", "-c", "--")
# Room for `closing`, which stands behind the output of a command.
CLOSING_BYTES: Final = 512
CLOSING_LINES: Final = 2

Command = Annotated[str, codec.Check("not empty", lambda value: bool(value.strip()))]
Seconds = Annotated[float, codec.Check("more than 0", lambda value: value > 0)]
_COMMAND: Final = {"description": "The command line for sh. It runs in the session's folder, without standard input."}
_JOB: Final = {"description": "The job's name, such as job_1."}


@attrs.frozen(slots=True, kw_only=True)
class Run:
    command: Command = attrs.field(metadata=_COMMAND)
    timeout: Seconds | None = attrs.field(
        default=None, metadata={"description": "Seconds until it is stopped; there is a default and a maximum."}
    )


@attrs.frozen(slots=True, kw_only=True)
class Start:
    command: Command = attrs.field(metadata=_COMMAND)


@attrs.frozen(slots=True, kw_only=True)
class List:
    pass


@attrs.frozen(slots=True, kw_only=True)
class View:
    job: str = attrs.field(metadata=_JOB)


@attrs.frozen(slots=True, kw_only=True)
class Stop:
    job: str = attrs.field(metadata=_JOB)


RUN: Final = ToolSpec(
    name="run",
    description="Run a shell command and wait for its end. Standard output and error come back together, and the exit "
    "code if it is not 0. What it leaves running in the background is ended with it: use start for that.",
    input_schema=input_schema(Run),
)
START: Final = ToolSpec(
    name="start",
    description="Start a shell command in the background, such as a server. It goes on until it ends, is stopped, or "
    "the session ends.",
    input_schema=input_schema(Start),
)
LIST: Final = ToolSpec(
    name="list",
    description="List the session's background commands and whether they run.",
    input_schema=input_schema(List),
)
VIEW: Final = ToolSpec(
    name="view",
    description="Show what a background command has written since it was viewed last, and whether it runs.",
    input_schema=input_schema(View),
)
STOP: Final = ToolSpec(
    name="stop",
    description="Stop a background command, and show what it has written since it was viewed last.",
    input_schema=input_schema(Stop),
)


def closing(output: str, *remarks: str | None) -> str:
    """`output` with the remarks there are in brackets as a last line."""
    said = "; ".join(remark for remark in remarks if remark)
    if not said:
        return output
    return f"{output}{'' if not output or output.endswith(chr(10)) else chr(10)}[{said}]"


def left_running(count: int) -> str | None:
    """The remark on what a command that was waited for had left behind."""
    if not count:
        return None
    what = "a process that it left running was" if count == 1 else f"{count:,} processes that it left running were"
    return f"{what} ended"


def first_line(command: str) -> str:
    """The command as a title."""
    line, _, rest = command.strip().partition("\n")
    return f"{line} …" if rest else line
