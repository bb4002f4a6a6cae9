"""Transcripts of any shape: turns with texts and calls, steered messages, failed attempts, summaries."""

from __future__ import annotations

from hypothesis import strategies as st

from engine.transcript.records import (
    AssistantMessage,
    FilePart,
    Finish,
    Message,
    Part,
    TextPart,
    ToolPart,
    UserMessage,
)

NOW = 1_700_000_000_000
# Sizes of texts and results: usual ones, and those at which something changes.
SIZES = st.sampled_from([0, 1, 30, 256, 257, 900, 5_000, 40_000])


def user(name: str, size: int = 10, run: str | None = None) -> Message:
    info = UserMessage(id=f"msg_{name}", created_at=NOW, run_id=run or f"run_{name}")
    return Message(info, (TextPart(id=f"prt_{name}", text="u" * size),))


def answer(
    name: str, run: str, text: int = 10, results: tuple[int, ...] = (), finish: Finish = "stop", errors: bool = False
) -> Message:
    info = AssistantMessage(id=f"msg_{name}", created_at=NOW, finished_at=NOW, run_id=run, model="m", finish=finish)
    parts: list[Part] = [TextPart(id=f"prt_{name}", text="a" * text)]
    for index, size in enumerate(results):
        part = ToolPart(
            id=f"prt_{name}_{index}",
            call_id=f"call_{name}_{index}",
            tool="files.read_file",
            state="error" if errors else "completed",
            input=b'{"path":"p"}',
            output=None if errors else "o" * size,
            error="e" * size if errors else None,
        )
        parts.append(part)
    return Message(info, tuple(parts))


def image(name: str, size: int = 1000, call_id: str | None = None) -> FilePart:
    return FilePart(
        id=f"prt_{name}", mime="image/png", size=size, name=f"{name}.png", data_base64="aaaa", call_id=call_id
    )


class History(list[Message]):
    """Shown by its shape: texts of thousands of characters help nobody."""

    def __repr__(self) -> str:
        return " ".join(f"{message.info.id[4:]}:{[_size(part) for part in message.parts]}" for message in self)


def _size(part: Part) -> int:
    if isinstance(part, ToolPart):
        return len(part.output or part.error or "")
    return len(part.text) if isinstance(part, TextPart) else 0


@st.composite
def histories(draw: st.DrawFn, turns: int = 6) -> list[Message]:
    """Whole turns in order; an answer may have failed and been repeated, a message may have been taken in between."""
    found = History()
    for number in range(draw(st.integers(1, turns))):
        run = f"run_{number}"
        found.append(user(f"u{number}", draw(SIZES), run))
        for step in range(draw(st.integers(0, 5))):
            name = f"a{number}_{step}"
            if draw(st.integers(0, 9)) == 0:
                found.append(answer(f"{name}_failed", run, draw(SIZES), finish="error"))
            if draw(st.integers(0, 9)) == 0:
                found.append(user(f"{name}_steered", draw(SIZES), run))
            results = tuple(draw(st.lists(SIZES, max_size=3)))
            found.append(answer(name, run, draw(SIZES), results, errors=draw(st.booleans())))
    return found
