"""Old tool output leaves the window, and a window that is too large is cut until it fits. Nothing stored changes.

Clearing goes in steps, counted from the window's beginning: with `protect` bytes of the newest output always shown,
the oldest outputs are cleared when another `step` bytes of them have grown old. Between two steps a request begins
with the same bytes as the one before it. What stands in an output's place is constant for the same reason.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import orjson

from engine.transcript.records import CompactionPart, FilePart, Form, Message, Part, TextPart, ToolPart
from engine.transcript.window import text_bytes, unanswered, weight_of

CLEARED: Final = "[The output of this call is old and was cleared to save room. Repeat the call if it is needed again.]"
# Shorter results stay: they would not get shorter.
SMALL_BYTES: Final = 256
_CUT: Final = "\n[… {:,} bytes were cut here, because all of it does not fit the model's window …]\n"
# The least that is left of a string that has to be cut: its beginning and end still say what it is.
LEAST_BYTES: Final = 200


def outputs_of(message: Message) -> int:
    """Bytes of the message's results that clearing would take."""
    return sum(_clearable(part) for part in message.parts)


def _clearable(part: Part) -> int:
    if not isinstance(part, ToolPart):
        return 0
    size = text_bytes(part.output) + text_bytes(part.error)
    return size if size > SMALL_BYTES else 0


def cleared_through(outputs: Sequence[int], protect: int, step: int) -> int:
    """How many of the window's messages (oldest first, each with the bytes of its results) have them cleared."""
    due = sum(outputs) - protect
    if due < step:
        return 0
    due -= due % step
    through = total = 0
    for index, size in enumerate(outputs):
        if total + size > due:
            break
        total += size
        through = index + 1
    return through


def prune(messages: Sequence[Message], protect: int, step: int) -> tuple[Message, ...]:
    """The messages, old outputs cleared."""
    through = cleared_through([outputs_of(message) for message in messages], protect, step)
    return (*map(clear, messages[:through]), *messages[through:])


def clear(message: Message) -> Message:
    """The message without what its calls gave; itself if that is little."""
    parts = tuple(map(_cleared, message.parts))
    if all(map(operator.is_, parts, message.parts)):
        return message
    return Message(message.info, parts, "cleared", message.revision)


def _cleared(part: Part) -> Part:
    if isinstance(part, FilePart) and part.call_id is not None:
        return unseen(part)
    if not isinstance(part, ToolPart) or not _clearable(part):
        return part
    # A step does this for each old call of its window: written out, it takes a third of attrs.evolve's time.
    return ToolPart(
        id=part.id,
        call_id=part.call_id,
        tool=part.tool,
        state=part.state,
        input=part.input,
        output=None if part.output is None else CLEARED,
        error=None if part.error is None else CLEARED,
        whole=part.whole,
        title=part.title,
        started_at=part.started_at,
        finished_at=part.finished_at,
    )


def unseen(file: FilePart) -> FilePart:
    """The file without its content: a model gets the words that name it."""
    return attrs.evolve(file, data_base64=None, hash=None)


# ------------------------------------------------------------------ what does not fit
def fit(messages: Sequence[Message], max_bytes: int) -> tuple[Message, ...]:
    """The messages, within `max_bytes` as far as that is possible: results are cleared, the oldest first, those that
    the model has yet to see not at all; then the longest strings are cut to head and tail, all to the same length."""
    found = list(messages)
    total = sum(map(weight_of, found))
    for index, message in enumerate(found[: unanswered(found)]):
        if total <= max_bytes:
            return tuple(found)
        found[index] = clear(message)
        total += weight_of(found[index]) - weight_of(message)
    if total <= max_bytes:
        return tuple(found)
    sizes = sorted(size for message in found for part in message.parts for size in _sizes(part))
    bound = _level(sizes, sum(sizes) - (total - max_bytes))
    return tuple(_shortened(message, bound) for message in found)


def _level(sizes: Sequence[int], room: int) -> int:
    """The length to which all longer strings are cut, so that together they take `room` bytes."""
    left = room
    for index, size in enumerate(sizes):  # shortest first
        share = left // (len(sizes) - index)
        if size > share:
            return max(share, LEAST_BYTES)
        left -= size
    return max(sizes, default=0)


def _sizes(part: Part) -> list[int]:
    match part:
        case TextPart(text=text) | CompactionPart(summary=text):
            return [text_bytes(text)]
        case ToolPart(input=given, output=output, error=error):
            return [len(given), text_bytes(output), text_bytes(error)]
    return []


def _shortened(message: Message, bound: int) -> Message:
    parts = tuple(_short(part, bound) for part in message.parts)
    form: Form = "cut"
    return message if parts == message.parts else Message(message.info, parts, form)


def _short(part: Part, bound: int) -> Part:
    match part:
        case TextPart(text=text):
            return attrs.evolve(part, text=cut(text, bound))
        case CompactionPart(summary=text):
            return attrs.evolve(part, summary=cut(text, bound))
        case ToolPart(input=given, output=output, error=error):
            if len(given) > bound:
                given = orjson.dumps({"cut": cut(given.decode("utf-8", "replace"), bound)})
            return attrs.evolve(
                part,
                input=given,
                output=None if output is None else cut(output, bound),
                error=None if error is None else cut(error, bound),
            )
    return part


def cut(text: str, bound: int, mark: Callable[[int], str] = _CUT.format) -> str:
    """The text in about `bound` bytes: its head, how much is missing, its tail."""
    data = text.encode("utf-8", "replace")
    if len(data) <= bound:
        return text
    between = mark(len(data) - bound)
    room = max(bound - len(between.encode()), 0)
    head = data[: room * 2 // 3].decode("utf-8", "ignore")
    tail = data[len(data) - room // 3 :].decode("utf-8", "ignore")
    return f"{head}{between}{tail}"
