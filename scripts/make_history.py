"""Make a long history to measure with: one session of many messages of five parts, 2.2 KB of JSON each.

    python scripts/make_history.py --data DIR [--messages N] [--seed N] [--clear]

The database in DIR (a data directory of a daemon, none running on it) gets the session `ses_history_N`: a user's
message and three answers by turns, all twelve kinds of parts, optional fields set or not as the seed says. A message
depends on the seed and on its distance from the end: sessions of any length end alike, so that a step on one can be
compared with a step on another. Written through engine.storage in transactions of a thousand messages; what was broken
off is gone on with, and what is there already is left.

200,000 messages take about three minutes and 700 MB.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Final

import attrs
import orjson

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.runs.record import Run  # noqa: E402 - found by the line above
from engine.storage import applying, blobs, catalog, database, lock, starting  # noqa: E402
from engine.storage.changes import AddMessage, AddPart, Change, PutRun  # noqa: E402
from engine.transcript import records as r  # noqa: E402
from engine.transcript.session import Session  # noqa: E402

SEED: Final = 200
GENERATOR: Final = 2  # rises with each change of what is made
MESSAGES: Final = 200_000
TURN: Final = 4  # messages of a run: the user's and three answers
BATCH: Final = 250  # runs of one transaction
BASE: Final = 1_760_000_000_000  # ms: when the history begins
# No summary is this near to the end: a model would be shown only what follows it.
SUMMARY_MESSAGES: Final = 1000
# Content that parts refer to: a few blobs, as sessions that read the same files have.
BLOBS: Final = 16
BLOB_BYTES: Final = 60_000

Say = Callable[[str], None]
Rng = random.Random


def session_id(messages: int) -> str:
    return f"ses_history_{messages}"


def make(folder: Path, messages: int, say: Say, seed: int = SEED) -> str:
    """Make the session in this data directory, or what is missing of it; its id. Raises ValueError if it is there
    and was made otherwise, engine.storage.lock.Held while a daemon runs on it."""
    if messages < TURN or messages % TURN:
        raise ValueError(f"the number of messages is a multiple of {TURN}")
    name = session_id(messages)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (
        lock.hold(folder),
        contextlib.closing(database.open_writer(folder / database.FILE_NAME, "normal")) as connection,
    ):
        done = _begin(connection, name, messages, seed)
        if done == messages:
            return name
        say(f"a history of {messages:,} messages, seed {seed}" + (f", from {done:,} on" if done else ""))
        source = _Source(seed, name, messages, _make_blobs(folder))
        began, first = time.monotonic(), done
        while done < messages:
            with _transaction(connection):
                until = min(messages, done + BATCH * TURN)
                for index in range(done, until, TURN):
                    _write(connection, name, *source.turn(index))
            done = until
            if done % 10_000 == 0 or done == messages:
                rate = (done - first) / (time.monotonic() - began)
                say(f"{done:,} of {messages:,} messages, {rate:,.0f} a second, {(messages - done) / rate:.0f} s to go")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return name


@contextlib.contextmanager
def _transaction(connection: Connection) -> Any:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _begin(connection: Connection, name: str, messages: int, seed: int) -> int:
    """Messages that are there."""
    made = {"seed": seed, "messages": messages, "generator": GENERATOR}
    row = connection.execute("SELECT message_count, metadata FROM sessions WHERE id = ?", (name,)).fetchone()
    if row is not None:
        if orjson.loads(row[1]) != made:
            raise ValueError(f"{name} is there, made otherwise: {row[1].decode()}; --clear removes the directory")
        return int(row[0])
    session = Session(
        id=name, title=f"A history of {messages:,} messages", model="service", cwd="/", created_at=BASE,
        updated_at=BASE, metadata=orjson.dumps(made),
    )  # fmt: skip
    catalog.create(connection, session, None, BASE)
    return 0


def _write(connection: Connection, name: str, run: Run, user: r.Message, changes: list[Change]) -> None:
    starting.start_run(connection, run, user, seq_block=1, expected_revision=None, claim=None, now=run.created_at)
    applying.apply(connection, name, changes, run.created_at)


def _make_blobs(folder: Path) -> list[tuple[str, int]]:
    """(hash, size) of each."""
    made: list[tuple[str, int]] = []
    files = blobs.Blobs(folder / blobs.FOLDER_NAME)
    for number in range(BLOBS):
        data = Rng(number).randbytes(BLOB_BYTES // 2).hex().encode()
        digest = hashlib.sha256(data).hexdigest()
        files.add(digest, data)
        made.append((digest, len(data)))
    return made


class _Source:
    """The messages of one history."""

    def __init__(self, seed: int, name: str, messages: int, blobs: list[tuple[str, int]]) -> None:
        self._seed, self._name, self._messages, self._blobs = seed, name, messages, blobs
        self._tag = name.removeprefix("ses_")
        words = Rng(seed)
        vocabulary = ["".join(words.choices("etaoinshrdlucmfw", k=words.randint(2, 10))) for _ in range(2000)]
        self._text = " ".join(words.choices(vocabulary, k=40_000))
        self._number = 0

    def turn(self, index: int) -> tuple[Run, r.Message, list[Change]]:
        """The run that begins with the message of this index: its user's message, and what it writes."""
        rng = Rng(self._seed * 1_000_003 + self._messages - index)
        self._number = index * 100  # ids do not depend on where a broken-off making goes on
        now = BASE + index * 2000 + rng.randrange(2000)
        run = Run(
            id=f"run_{self._tag}_{index}", session_id=self._name, status="running", model="service", created_at=now
        )
        user = r.Message(
            r.UserMessage(
                id=f"msg_{self._tag}_{index}",
                created_at=now,
                run_id=run.id,
                parent_id=f"msg_{self._tag}_{index - 1}" if rng.random() < 0.5 and index else None,
            ),
            self._said(rng),
        )
        changes: list[Change] = []
        total = r.NO_USAGE
        for step in range(1, TURN):
            info, parts = self._answer(rng, run, index, step, now + step * 500)
            changes.append(AddMessage(info))
            changes += [AddPart(info.id, part) for part in parts]
            total += info.usage or r.NO_USAGE
        changes.append(PutRun(attrs.evolve(run, status="completed", ended_at=now + 2000, usage=total, last_seq=50)))
        return run, user, changes

    def _said(self, rng: Rng) -> tuple[r.Part, ...]:
        parts: list[r.Part] = [r.TextPart(id=self._id(), text=self._words(rng, 200, 1200))]
        makers = (self._file, self._agent, self._subtask, self._snapshot, self._line)
        parts += [rng.choice(makers)(rng) for _ in range(4)]
        return tuple(parts)

    def _answer(self, rng: Rng, run: Run, index: int, turn: int, now: int) -> tuple[r.AssistantMessage, list[r.Part]]:
        last = turn == TURN - 1
        finish: r.Finish = "stop" if last else "tool_calls"
        usage = r.Usage(
            input_tokens=rng.randrange(500, 90_000),
            output_tokens=rng.randrange(10, 2000),
            reasoning_tokens=rng.choice((0, rng.randrange(2000))),
            cache_read_tokens=rng.choice((0, rng.randrange(80_000))),
            cost=rng.choice((None, rng.randrange(10_000) / 1e5)),
        )
        failed = r.Failure(code="provider_error", message=self._words(rng, 30, 90)) if rng.random() < 0.03 else None
        info = r.AssistantMessage(
            id=f"msg_{self._tag}_{index + turn}",
            created_at=now,
            run_id=run.id,
            parent_id=f"msg_{self._tag}_{index}",
            finished_at=now + rng.randrange(400),
            model=rng.choice(("service", "another-model", None)),
            finish=finish,
            error=failed,
            usage=rng.choice((usage, None)) if turn == 1 else usage,
        )
        start = r.StepStartPart(id=self._id(), turn=turn)
        end = r.StepFinishPart(id=self._id(), turn=turn, finish=finish, usage=usage)
        if last:
            text = r.TextPart(id=self._id(), text=self._words(rng, 150, 1400))
            old = self._messages - index > SUMMARY_MESSAGES
            makers = (self._snapshot, self._retry, self._summary if old and rng.random() < 0.01 else self._reasoning)
            return info, [start, self._reasoning(rng), text, rng.choice(makers)(rng), end]
        call = self._call(rng, now)
        makers = (self._patch, self._retry, self._reasoning, self._reasoning)
        beside = self._file(rng, call.call_id) if rng.random() < 0.1 else rng.choice(makers)(rng)
        return info, [start, self._reasoning(rng), call, beside, end]

    # ------------------------------------------------------------ parts
    def _call(self, rng: Rng, now: int) -> r.ToolPart:
        digest, size = rng.choice(self._blobs)
        failed = rng.random() < 0.1
        text = self._words(rng, 150, 1600)
        whole = r.Blob(handle=f"out_{self._tag}_{self._number}", hash=digest, size=size)
        return r.ToolPart(
            id=self._id(),
            call_id=f"call_{self._tag}_{self._number}",
            tool=rng.choice(("files.read_file", "files.search_files", "shell.run", "web.fetch")),
            state="error" if failed else "completed",
            input=orjson.dumps({"path": self._words(rng, 10, 60), "options": {"depth": rng.randrange(9), "all": True}}),
            output=None if failed else text,
            error=text if failed else None,
            whole=whole if rng.random() < 0.02 else None,
            title=self._words(rng, 8, 40) if rng.random() < 0.7 else None,
            started_at=now,
            finished_at=now + rng.randrange(300) if rng.random() < 0.95 else None,
        )

    def _file(self, rng: Rng, call_id: str | None = None) -> r.FilePart:
        name = self._words(rng, 5, 20) + ".dat" if rng.random() < 0.6 else None
        if rng.random() < 0.1:
            digest, size = rng.choice(self._blobs)
            return r.FilePart(
                id=self._id(), mime="application/octet-stream", size=size, name=name,
                handle=f"blob_{self._tag}_{self._number}", hash=digest, call_id=call_id,
            )  # fmt: skip
        data = rng.randbytes(rng.randrange(50, 400))
        return r.FilePart(
            id=self._id(), mime=rng.choice(("image/png", "text/csv")), size=len(data), name=name,
            data_base64=base64.b64encode(data).decode(), call_id=call_id,
        )  # fmt: skip

    def _line(self, rng: Rng) -> r.TextPart:
        return r.TextPart(id=self._id(), text=self._words(rng, 20, 400))

    def _reasoning(self, rng: Rng) -> r.ReasoningPart:
        signature = rng.randbytes(48).hex() if rng.random() < 0.5 else None
        return r.ReasoningPart(id=self._id(), text=self._words(rng, 60, 800), signature=signature)

    def _snapshot(self, rng: Rng) -> r.SnapshotPart:
        return r.SnapshotPart(id=self._id(), snapshot=rng.randbytes(20).hex())

    def _patch(self, rng: Rng) -> r.PatchPart:
        return r.PatchPart(
            id=self._id(),
            path=self._words(rng, 10, 60),
            before=rng.randbytes(32).hex() if rng.random() < 0.8 else None,
            after=rng.randbytes(32).hex() if rng.random() < 0.9 else None,
            size=rng.randrange(100_000),
        )

    def _agent(self, rng: Rng) -> r.AgentPart:
        return r.AgentPart(id=self._id(), name=self._words(rng, 4, 12))

    def _subtask(self, rng: Rng) -> r.SubtaskPart:
        return r.SubtaskPart(
            id=self._id(), agent="reviewer", description=self._words(rng, 20, 60), prompt=self._words(rng, 50, 700)
        )

    def _retry(self, rng: Rng) -> r.RetryPart:
        return r.RetryPart(
            id=self._id(), attempt=rng.randrange(2, 5), reason=self._words(rng, 20, 80), delay_ms=rng.randrange(30_000)
        )

    def _summary(self, rng: Rng) -> r.CompactionPart:
        return r.CompactionPart(id=self._id(), summary=self._words(rng, 1000, 3000), kept_from=None)

    def _id(self) -> str:
        self._number += 1
        return f"prt_{self._tag}_{self._number}"

    def _words(self, rng: Rng, least: int, most: int) -> str:
        size = rng.randrange(least, most)
        at = rng.randrange(len(self._text) - size)
        return self._text[at : at + size].strip() or "word"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data directory; made if it does not exist")
    parser.add_argument("--messages", type=int, default=MESSAGES, help=f"default {MESSAGES:,}; a multiple of {TURN}")
    parser.add_argument("--seed", type=int, default=SEED, help=f"default {SEED}")
    parser.add_argument("--clear", action="store_true", help="remove the database and its blobs first")
    asked = parser.parse_args()
    if asked.clear:
        clear(asked.data)
    try:
        name = make(asked.data, asked.messages, lambda text: print(text, file=sys.stderr, flush=True), asked.seed)
    except (ValueError, lock.Held) as exc:
        print(f"make_history: {exc}", file=sys.stderr)
        return 1
    size = (asked.data / database.FILE_NAME).stat().st_size
    print(f"{name} in {asked.data}: {asked.messages:,} messages, {size / 1e6:,.0f} MB")
    return 0


def clear(folder: Path) -> None:
    """Remove what `make` has made, nothing else of the directory."""
    if not folder.exists():
        return
    with lock.hold(folder):
        for path in folder.glob(f"{database.FILE_NAME}*"):
            path.unlink()
        blobs.Blobs(folder / blobs.FOLDER_NAME).remove(blobs.Blobs(folder / blobs.FOLDER_NAME).names())


if __name__ == "__main__":
    sys.exit(main())
