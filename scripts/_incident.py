"""The incident of S3, made again: a folder with 2,008 matches in 1,191 files, and sessions with a long history."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine import ids
from engine.storage import applying, catalog, database
from engine.transcript.records import AssistantMessage, MessageInfo, Part, TextPart, ToolPart, UserMessage
from engine.transcript.session import Session

SEED: Final = 26
NEEDLE: Final = "NEEDLE_IN_A_HAYSTACK"
FILES: Final = 1191
MATCHES: Final = 2008
# As they are in a home folder: of program text most, some of it in lines of a megabyte.
_WORDS: Final = (  # noqa: SIM905 - easier to read
    "def return self import from value in the if not for error path line result data with None true false "
    "function const let export class async await string number index key type item list map filter id name"
).split()
_CORPUS: Final = 1 << 20
_LINES_MOST: Final = 3  # matches of one file
_OUTPUT: Final = 45_000  # bytes of a result in the history: what a model was shown of a large one
_NOW: Final = 1_700_000_000_000


def corpus(rng: random.Random) -> str:
    lines: list[str] = []
    size = 0
    while size < _CORPUS:
        line = " " * rng.choice((0, 4, 8, 12)) + " ".join(rng.choices(_WORDS, k=rng.randint(1, 14)))
        lines.append(line)
        size += len(line) + 1
    return "\n".join(lines)


def make_tree(folder: Path, filler: int) -> tuple[int, int]:
    """Files with matches among `filler` others, in folders of about thirty; how many files and bytes they are."""
    rng = random.Random(SEED)
    text = corpus(rng)
    extra = rng.choices(range(FILES), k=10 * MATCHES)
    counts = [1] * FILES
    for number in extra:
        if sum(counts) == MATCHES:
            break
        if counts[number] < _LINES_MOST:
            counts[number] += 1
    assert sum(counts) == MATCHES
    kinds = [*counts, *([0] * filler)]
    rng.shuffle(kinds)
    size = 0
    for number, matches in enumerate(kinds):
        place = folder / f"project{number // 300}" / f"part{number // 30 % 10}"
        place.mkdir(parents=True, exist_ok=True)
        content = _file(rng, text, matches)
        (place / f"file{number}.{rng.choice(('py', 'js', 'log', 'json', 'md'))}").write_bytes(content)
        size += len(content)
    return len(kinds), size


def _file(rng: random.Random, text: str, matches: int) -> bytes:
    kind = rng.random()
    if not matches and kind < 0.05:
        return b"\x7fELF\0" + rng.randbytes(50_000)
    size = min(int(rng.lognormvariate(9, 1.2)), 800_000)
    begin = rng.randrange(len(text) - size)
    lines = text[begin : begin + size].split("\n")
    if kind > 0.98:  # a minified one
        lines = ["".join(lines * 4)]
    for _ in range(matches):
        at = rng.randrange(len(lines))
        while NEEDLE in lines[at]:  # each has a line of its own
            lines.append("")
            at = len(lines) - 1
        lines[at] += f" {NEEDLE} {rng.choice(_WORDS)}"
    return "\n".join(lines).encode()


def make_history(
    data: Path, size: int, sessions: int, folder: Path, toolsets: Sequence[str], told: Callable[[int], None]
) -> list[str]:
    """Sessions whose histories are about `size` bytes together, in the data directory of a daemon that does not run;
    their ids. `told` hears now and then how much there is."""
    rng = random.Random(SEED)
    text = corpus(rng)
    data.mkdir(parents=True, exist_ok=True)
    found, written = [], 0
    with closing(database.open_writer(data / database.FILE_NAME, "normal")) as connection:
        for _ in range(sessions):
            session = Session(
                id=ids.session_id(), title="a long one", model="service", cwd=str(folder), created_at=_NOW,
                updated_at=_NOW, toolsets=tuple(toolsets),
            )  # fmt: skip
            catalog.create(connection, session, None, _NOW)
            key = catalog.key_of(connection, session.id)
            found.append(session.id)
            while written < size * len(found) // sessions:
                connection.execute("BEGIN IMMEDIATE")
                for _ in range(100):
                    for info, parts in _exchange(rng, text):
                        message = applying.add_message(connection, key, info)
                        for part in parts:
                            applying.add_part(connection, message, part)
                    written += _OUTPUT + 3000
                catalog.touch(connection, key, _NOW, messages=200)
                connection.execute("COMMIT")
                told(written)
        database.close_writer(connection)
    return found


def _exchange(rng: random.Random, text: str) -> Iterator[tuple[MessageInfo, list[Part]]]:
    """A question, and an answer with the large result of a call."""

    def some(size: int) -> str:
        begin = rng.randrange(len(text) - size)
        return text[begin : begin + size]

    asked = ids.message_id()
    yield UserMessage(id=asked, created_at=_NOW), [TextPart(id=ids.part_id(), text=some(200))]
    call = ToolPart(
        id=ids.part_id(), call_id=ids.new_id("call"), tool="files.search_files", state="completed",
        input=b'{"pattern":"something"}', output=some(_OUTPUT), started_at=_NOW, finished_at=_NOW,
    )  # fmt: skip
    answer = AssistantMessage(
        id=ids.message_id(), created_at=_NOW, parent_id=asked, finished_at=_NOW, model="service", finish="stop"
    )
    yield answer, [TextPart(id=ids.part_id(), text=some(100)), call, TextPart(id=ids.part_id(), text=some(2500))]
