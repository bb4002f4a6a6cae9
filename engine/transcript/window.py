"""The window: which messages of a transcript a model sees, and how many tokens they are taken for.

    [summary of the last compaction]  [the latest user's message, if it is older than what follows]  [the tail]

- The tail is whole turns (a user's message with its answers), newest first, as many as fit. If the latest turn alone
  does not fit, it is its user's message and the newest of its answers; the newest answer is always there, because it
  has the results that the model waits for, and counts for half of the room at most (NEWEST_PART). An answer holds its
  calls with their results, so every tail is valid.
- A provider caches the beginning of a request. So the window keeps its beginning for as long as it fits, and gives up
  a good part of it at once when it does not (KEPT_PART): the caller hands the `start` of one window to the next.
- Tokens are estimated as bytes of text / BYTES_PER_TOKEN, where a service has not said (`used`). What it counted with
  one request says how many bytes its tokens have in this conversation (`Marks.counted`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from engine.transcript.records import (
    AssistantMessage,
    CompactionPart,
    FilePart,
    Message,
    Role,
    TextPart,
    ToolPart,
)

# Text of one token: English has about 4 bytes, source code and JSON 3, Chinese 2.5 to 3. Low, so that the window
# rather fits than not.
BYTES_PER_TOKEN: Final = 3
# Of what a service counted, what is believed: texts differ, but not by more.
PER_TOKEN_MIN, PER_TOKEN_MAX = 2.0, 4.5
# A request of fewer tokens says more of what is around its texts than of them.
COUNTED_MIN: Final = 1000
# Of the room for messages that is used again after the window had to be cut: the rest is for what comes, so that the
# window's beginning stays where it is for many steps.
KEPT_PART: Final = 0.6
# Of the room for messages: what the newest answer with its results takes of it at most while there is something else to
# show. Its results are cut then, which costs less than all that was said before.
NEWEST_PART: Final = 0.5
# The least room for messages, in tokens, whatever instructions and tools take: a question and a short answer.
LEAST_TOKENS: Final = 512


@attrs.frozen(slots=True, kw_only=True)
class Room:
    """What a model takes, in tokens. `compact_at` is the part of the window from which on a conversation is
    summarised (0: only when it has to be); `compact_model` writes the summaries, if it is not the model itself."""

    window: int
    answer: int
    compact_at: float
    compact_model: str | None = None

    @property
    def prompt(self) -> int:
        """Tokens for all but the answer."""
        return self.window - min(self.answer, self.window // 4)

    @property
    def threshold(self) -> int | None:
        """Tokens from which on the conversation is summarised."""
        return min(int(self.compact_at * self.window), self.prompt) if self.compact_at else None


def bytes_for_messages(prompt_tokens: int, overhead_bytes: int, per_token: float = BYTES_PER_TOKEN) -> int:
    """Room for messages in bytes, beside instructions and tools of `overhead_bytes`."""
    return max(int(prompt_tokens * per_token) - overhead_bytes, LEAST_TOKENS * BYTES_PER_TOKEN)


@attrs.frozen(slots=True, kw_only=True)
class Entry:
    """A message of the tail before it is loaded. `weight` is bytes of what a model sees of it."""

    position: int
    role: Role
    weight: int


@attrs.frozen(slots=True)
class Choice:
    """`tail` and `user` (the latest user's message, if it is not in the tail) are positions, oldest first. `cut`: more
    entries were offered than fit."""

    tail: tuple[int, ...]
    user: int | None
    cut: bool


def choose(entries: Sequence[Entry], max_messages: int, max_bytes: int) -> Choice:
    """Of `entries` (newest first; the last of them, or one that does not fit, ends the window) what fits."""
    size = count = fitting = 0
    full = False
    for index, entry in enumerate(entries):
        size, count = size + entry.weight, count + 1
        if size > max_bytes or count > max_messages:
            full = True
            break
        if entry.role == "user" or index + 1 == len(entries):
            fitting = index + 1
    latest = next((index for index, entry in enumerate(entries) if entry.role == "user"), len(entries))
    if not full or fitting > latest:
        taken = entries[:fitting]
        user = None
    else:  # not even the latest turn fits
        own = entries[latest].weight if latest < len(entries) else 0
        size, count = own, 1
        fitting = 0
        for entry in entries[:latest]:
            size, count = size + entry.weight, count + 1
            if fitting and (size > max_bytes or count > max_messages):
                break
            fitting += 1
        taken = entries[: max(fitting, 1)]
        user = latest if latest else None  # else it is the tail
    tail = tuple(entry.position for entry in reversed(taken))
    return Choice(tail, entries[user].position if user is not None and user < len(entries) else None, full)


@attrs.frozen(slots=True, kw_only=True)
class Window:
    """What a model sees. `start` is the position where the tail begins, for the next window; `fresh` the index of the
    first message that is newer than the last compaction; `left_out`: messages since then that a model does not see;
    `lead` messages stand before the tail; `size` is the estimate in bytes, of what is shown."""

    messages: tuple[Message, ...]
    lead: int = 0
    start: int | None = None
    fresh: int = 0
    left_out: bool = False
    size: int = 0


@attrs.define(slots=True)
class Marks:
    """What a session remembers from one window to the next, by model and in memory: without it requests are as right,
    but a provider's cache is missed once, or its bound is met once more."""

    start: dict[str, int] = attrs.field(factory=dict)  # where its window begins
    media_bytes: dict[str, int] = attrs.field(factory=dict)  # of media that its service took, if it refused more
    tokens: dict[str, int] = attrs.field(factory=dict)  # of its window, if that turned out to be smaller
    per_token: dict[str, float] = attrs.field(factory=dict)  # bytes of a request, as its service counted the last one

    def counted(self, model: str, size: int, tokens: int) -> None:
        """A request of so many bytes, as they are estimated, had so many tokens."""
        if tokens >= COUNTED_MIN:
            self.per_token[model] = min(max(size / tokens, PER_TOKEN_MIN), PER_TOKEN_MAX)

    def learn(self, model: str, tokens: int) -> None:
        """The model takes this many tokens and no more."""
        self.tokens[model] = max(min(tokens, self.tokens.get(model, tokens)), 2 * LEAST_TOKENS)


def used(window: Window, model: str, overhead_bytes: int) -> int:
    """Tokens of a request with this window: what the service counted with the newest answer of this model, and an
    estimate of what came after it; without one an estimate of all."""
    after = 0
    for index in range(len(window.messages) - 1, window.fresh - 1, -1):
        message = window.messages[index]
        info = message.info
        if isinstance(info, AssistantMessage) and info.model == model and info.usage and info.usage.input_tokens:
            results = weight_of_results(message)
            return info.usage.input_tokens + info.usage.output_tokens + (after + results) // BYTES_PER_TOKEN
        after += weight_of(message)
    return (window.size + overhead_bytes) // BYTES_PER_TOKEN


def unanswered(messages: Sequence[Message]) -> int:
    """The index from which on a model has yet to answer: the newest user's messages, and before them an answer whose
    calls have results. All of them must be shown before anything may stand for them."""
    index = len(messages)
    while index and messages[index - 1].role == "user":
        index -= 1
    if index and any(isinstance(part, ToolPart) for part in messages[index - 1].parts):
        index -= 1
    return index


# ------------------------------------------------------------------ weights, as the store counts them too
# A call beside its strings: its name, its id twice, and the keys around them.
CALL_BYTES: Final = 160
# A message or text: role and keys.
TEXT_BYTES: Final = 32
# A file: services count an image as about 1,500 tokens, however many bytes it has.
FILE_BYTES: Final = 4500


def weight_of(message: Message) -> int:
    """Bytes that a model sees of the message. What formats have no place for (reasoning of earlier turns, steps)
    counts nothing."""
    return sum(_weight(part) for part in message.parts) + weight_of_results(message)


def weight_of_results(message: Message) -> int:
    """Bytes of the results of its calls."""
    sizes = 0
    for part in message.parts:
        if isinstance(part, ToolPart):
            sizes += text_bytes(part.output) + text_bytes(part.error)
        elif isinstance(part, FilePart) and part.call_id is not None:
            sizes += FILE_BYTES
    return sizes


def _weight(part: object) -> int:
    if isinstance(part, TextPart):
        return TEXT_BYTES + text_bytes(part.text)
    if isinstance(part, CompactionPart):
        return TEXT_BYTES + text_bytes(part.summary)
    if isinstance(part, ToolPart):
        return CALL_BYTES + len(part.input)
    if isinstance(part, FilePart) and part.call_id is None:
        return FILE_BYTES
    return 0


def text_bytes(text: str | None) -> int:
    return 0 if text is None else len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
