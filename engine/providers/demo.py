"""The offline model `demo`: a script that answers a few phrases, the same way every time.

It lets everything else be tried and tested without a service: it streams, makes real tool calls and reports usage
(words counted as tokens). It never pretends to be an AI.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import orjson

from engine.providers.base import (
    AnswerFinished,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ToolCallStarted,
    ToolInputDelta,
    UsageReported,
)
from engine.tools.names import to_provider
from engine.transcript import compaction
from engine.transcript.records import Finish, Message, TextPart, ToolPart, Usage

# The longest count: an hour of a fast model's deltas, and below every bound of a turn's text.
COUNT_MAX: Final = 1_000_000
# The longest pause between two numbers: below the bound of a model's silence.
PAUSE_MAX_MS: Final = 30_000
SEARCH: Final = "files.search_files"
READ: Final = "files.read_file"
SHELLS: Final = ("shell.run", "shell.shell", "shell")
# Lines of a tool's result that are repeated, and characters of each.
_LINES: Final = 10
_CHARACTERS: Final = 300

_COUNT: Final = re.compile(r"count to (\d+)(?: every (\d+) ?ms)?[.!]?", re.I)
_SEARCH: Final = re.compile(r"search (.+?) for (.+)", re.I | re.S)
_READ: Final = re.compile(r"read (.+)", re.I | re.S)
_RUN: Final = re.compile(r"run (.+)", re.I | re.S)
_HERE: Final = "this folder"
_WORD: Final = re.compile(r"\S+\s*|\s+")
_BACKTICKS: Final = re.compile("`+")

HELP: Final = (
    "I am greenroom's offline demo model: a fixed script, not an AI. I know these phrases: "
    "“count to N”, “count to N every M ms”, “search PATH for TEXT” (or “search this folder for TEXT”), "
    "“read PATH” and “run COMMAND”. "
    "For real answers, configure a model in greenroom.toml."
)

Timed = tuple[float, ModelEvent]  # seconds to wait before the event


def answer(request: ModelRequest) -> Iterator[Timed]:
    """The events of one model call, made as they are taken; the last are the usage and the finish."""
    said = 0
    finish: Finish = "stop"
    for delay, event in _script(request):
        if isinstance(event, TextDelta):
            said += len(event.text.split())
        elif isinstance(event, ToolCallStarted):
            finish = "tool_calls"
        yield delay, event
    asked = sum(_words(message) for message in request.messages)
    yield 0.0, UsageReported(Usage(input_tokens=asked, output_tokens=said))
    yield 0.0, AnswerFinished(finish)


def _script(request: ModelRequest) -> Iterator[Timed]:
    last = request.messages[-1] if request.messages else None
    if last is not None and last.role == "assistant":
        calls = [part for part in last.parts if isinstance(part, ToolPart)]
        if calls:
            for call in calls:
                yield from _say(_report(call))
            return
    text = _text(last).strip() if last is not None else ""
    if request.instructions == compaction.INSTRUCTIONS:
        yield from _say(_summary(text))
        return
    tools = {spec.name for spec in request.tools}
    if match := _COUNT.fullmatch(text):
        yield from _count(match[1], match[2])
    elif match := _SEARCH.fullmatch(text):
        path = "." if match[1].strip().lower() == _HERE else match[1].strip()
        yield from _call(SEARCH, tools, {"pattern": match[2].strip(), "path": path})
    elif match := _READ.fullmatch(text):
        yield from _call(READ, tools, {"path": match[1].strip()})
    elif match := _RUN.fullmatch(text):
        shell = next((name for name in SHELLS if name in tools), None)
        if shell is None:
            yield from _say("I cannot run commands: no shell tool is available in this session.")
        else:
            yield from _call(shell, tools, {"command": match[1].strip()})
    else:
        yield from _say(HELP)


def _count(to: str, every: str | None) -> Iterator[Timed]:
    # Compared by length first: a number of a million digits is never converted.
    if len(to.lstrip("0")) > len(str(COUNT_MAX)) or int(to) > COUNT_MAX:
        yield from _say(f"I count to {COUNT_MAX:,} at most.")
        return
    if every is not None and (len(every.lstrip("0")) > len(str(PAUSE_MAX_MS)) or int(every) > PAUSE_MAX_MS):
        yield from _say(f"I wait {PAUSE_MAX_MS:,} ms at most between two numbers.")
        return
    if int(to) == 0:
        yield from _say("There is nothing to count up to 0.")
        return
    pause = int(every) / 1000 if every is not None else 0.0
    for number in range(1, int(to) + 1):
        yield (pause if number > 1 else 0.0), TextDelta(f"{number} ")


def _call(tool: str, tools: set[str], arguments: dict[str, str]) -> Iterator[Timed]:
    if tool not in tools:
        yield from _say(f"I would call the tool {tool} now, but it is not available in this session.")
        return
    yield 0.0, ToolCallStarted(0, "", to_provider(tool))
    yield 0.0, ToolInputDelta(0, orjson.dumps(arguments).decode())


def _say(text: str) -> Iterator[Timed]:
    for word in _WORD.findall(text):
        yield 0.0, TextDelta(word)


def _summary(text: str) -> str:
    """What the user said last, of a conversation as it is told to be summarised."""
    asked = [
        _short(line.removeprefix(compaction.USER)) for line in text.splitlines() if line.startswith(compaction.USER)
    ]
    return "The user said: " + "; ".join(f"“{line}”" for line in asked[-_LINES:])


def _report(call: ToolPart) -> str:
    """What a tool gave, in a sentence and its first lines."""
    arguments = _arguments(call)
    match call.tool:
        case "files.search_files":
            path = arguments.get("path", ".")
            place = _HERE if path == "." else _short(path)
            what = f"I searched {place} for “{_short(arguments.get('pattern', ''))}”"
        case "files.read_file":
            what = f"I read {_short(arguments.get('path', ''))}"
        case _:
            what = f"I ran “{_short(arguments.get('command', ''))}”"
    if call.state != "completed":
        return f"{what}, but it failed: {_short(call.error or 'it did not finish')}"
    lines = (call.output or "").split("\n")
    notes: list[str] = []
    while lines and lines[-1].startswith("[") and lines[-1].endswith("]") and len(notes) < 2:
        notes.insert(0, lines.pop()[1:-1])
    told = f"{what}: {'. '.join(note.rstrip('.') for note in notes)}." if notes else f"{what}."
    if not any(lines):
        return told if notes else f"{what}: there is nothing in it."
    head = "\n".join(_short(line) for line in lines[:_LINES])
    more = f"\n\n… and {len(lines) - _LINES:,} more lines" if len(lines) > _LINES else ""
    return f"{told}\n\n{_fenced(head)}{more}"


def _fenced(text: str) -> str:
    """As a block of code in Markdown, whatever is in it: its lines stay lines wherever they are shown."""
    longest = max(map(len, _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(longest + 1, 3)
    return f"{fence}\n{text}\n{fence}"


def _arguments(call: ToolPart) -> dict[str, str]:
    try:
        value = orjson.loads(call.input)
    except orjson.JSONDecodeError:
        return {}
    return {key: item for key, item in value.items() if isinstance(item, str)} if isinstance(value, dict) else {}


def _short(text: str) -> str:
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…"


def _text(message: Message) -> str:
    return "\n\n".join(part.text for part in message.parts if isinstance(part, TextPart))


def _words(message: Message) -> int:
    return sum(
        len((part.output or part.error or "").split()) if isinstance(part, ToolPart) else len(part.text.split())
        for part in message.parts
        if isinstance(part, ToolPart | TextPart)
    )
