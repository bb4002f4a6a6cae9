"""What clients were shown of sessions and runs, and what is wrong with what a daemon says of them later.

It knows the wire contract only: it takes replies, pushes, pages of messages and run records, and yields problems as
sentences. What is acknowledged has to be there as it was shown; text that was shown in deltas only may be cut.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import attrs

Json = dict[str, Any]
TERMINAL = ("completed", "failed", "cancelled", "interrupted")
# Of a tool call, what its events and its part in the history both say.
TOOL_FIELDS = ("call_id", "tool", "state", "input", "output", "error")


@functools.cache
def numbers(count: int) -> str:
    """What the demo model says when it counts."""
    return "".join(f"{number} " for number in range(1, count + 1))


@attrs.define(eq=False, repr=False)
class ShownRun:
    """One run as its client saw it. `counts_to` is set for runs whose whole text is known beforehand."""

    id: str
    text: str
    message_id: str | None = None
    key: str | None = None
    counts_to: int | None = None
    seq: int = 0
    message: Json | None = None  # of run.started
    texts: dict[str, str] = attrs.field(factory=dict)  # by part, as the deltas gave it
    finished: dict[str, int] = attrs.field(factory=dict)  # by part: bytes
    tools: dict[str, Json] = attrs.field(factory=dict)  # by part: the terminal tool.updated
    turns: dict[str, Json] = attrs.field(factory=dict)  # by message: turn.finished
    turn_message: str | None = None
    end: Json | None = None  # run.finished
    record: Json | None = None  # the first terminal record that was told: it never changes again
    gaps: int = 0
    acknowledged: int = 0
    lost: int = 0  # most characters shown in deltas that were not kept
    problems: list[str] = attrs.field(factory=list)

    def __repr__(self) -> str:
        return f"<ShownRun {self.id} {self.text!r} at {self.seq}>"

    def replied(self, run: Json) -> None:
        """A reply with the run's record."""
        self.acknowledged += 1
        self.remember(run)

    def remember(self, run: Json) -> None:
        if run["status"] in TERMINAL and self.record is None:
            self.record = run

    def push(self, frame: Json) -> None:
        params = frame["params"]
        if frame["method"] == "run.events":
            for event in params["events"]:
                self._event(event)
        elif frame["method"] == "run.gap":
            self.gaps += 1
            self.seq = params["to"]

    def _event(self, event: Json) -> None:
        first = event.get("from", event["seq"])
        if self.seq and first != self.seq + 1:
            self.problems.append(f"{self.id}: event {first} after {self.seq}")
        self.seq = event["seq"]
        match event["type"]:
            case "run.started":
                self.message = event["message"]
            case "turn.started":
                self.turn_message = event["message_id"]
            case "part.delta":
                self.texts[event["part_id"]] = self.texts.get(event["part_id"], "") + event["text"]
                return
            case "part.finished":
                self.finished[event["part_id"]] = event["bytes"]
            case "tool.updated" if event["state"] in ("completed", "error"):
                self.tools[event["part_id"]] = event
            case "turn.finished":
                assert self.turn_message is not None
                self.turns[self.turn_message] = event
            case "run.finished":
                if self.end is not None:
                    self.problems.append(f"{self.id}: a second run.finished")
                self.end = event
            case _:
                return
        self.acknowledged += 1

    # ------------------------------------------------------------ against what is kept
    def check(self, record: Json, messages: list[Json]) -> Iterator[str]:
        """The problems of the run's record and its messages (chronological), as told after a restart."""
        yield from self.problems
        self.problems.clear()
        for problem in (*self._check_record(record), *self._check_messages(record, messages)):
            yield f"{self.id} ({record['status']}): {problem}"
        self.remember(record)

    def _check_record(self, record: Json) -> Iterator[str]:
        if record["status"] not in TERMINAL:
            yield "is open after a restart"
        if self.record is not None and record != self.record:
            yield f"its record changed after its end: {self.record} became {record}"
        if self.end is not None:
            for name in ("status", "reason", "error", "usage"):
                if record.get(name) != self.end.get(name):
                    yield f"its end said {name} {self.end.get(name)}, the record says {record.get(name)}"
            if record["last_seq"] != self.end["seq"]:
                yield f"its end was event {self.end['seq']}, the record says {record['last_seq']}"
        elif record["last_seq"] <= self.seq:
            yield f"last_seq {record['last_seq']} is not above {self.seq}, which was shown"

    def _check_messages(self, record: Json, messages: list[Json]) -> Iterator[str]:
        users = [message for message in messages if message["info"]["role"] == "user"]
        answers = [message for message in messages if message["info"]["role"] == "assistant"]
        if len(users) != 1:
            yield f"{len(users)} user messages"
        for user in users:
            if [part.get("text") for part in user["parts"]] != [self.text]:
                yield f"the user's message says {user['parts']}"
            if self.message_id not in (None, user["info"]["id"]):
                yield f"the user's message is {user['info']['id']}, not {self.message_id}"
            if self.message not in (None, user):
                yield f"run.started told {self.message}, kept is {user}"
        if record["status"] == "completed" and not answers:
            yield "completed without an answer"
        cut = [message for message in answers if message["info"].get("finish") == "interrupted"]
        if len(cut) > (record["status"] == "interrupted"):
            yield f"{len(cut)} messages are interrupted"
        kept = {message["info"]["id"]: message["info"] for message in answers}
        for message_id, turn in self.turns.items():
            info = kept.get(message_id)
            if info is None:
                yield f"the finished turn {turn['turn']} is lost"
            elif (info.get("finish"), info.get("usage")) != (turn["finish"], turn["usage"]):
                yield f"turn.finished told {turn}, kept is {info}"
        for message in answers:
            yield from _valid(message)
        yield from self._check_parts(record, {part["id"]: part for message in answers for part in message["parts"]})

    def _check_parts(self, record: Json, parts: dict[str, Json]) -> Iterator[str]:
        for part_id, event in self.tools.items():
            kept = parts.get(part_id, {})
            for name in TOOL_FIELDS:
                if kept.get(name) != event.get(name):
                    yield f"tool.updated told {name} {event.get(name)!r:.200}, kept is {kept.get(name)!r:.200}"
        for part_id in self.finished:
            if part_id not in parts:
                yield f"the finished part {part_id} is lost"
        for part_id, shown in self.texts.items():
            text = parts.get(part_id, {}).get("text", "")
            if part_id in self.finished:
                if not self.gaps and text != shown:
                    yield f"a finished part was shown as {_ends(shown)}, kept is {_ends(text)}"
                if len(text.encode()) != self.finished[part_id]:
                    yield f"a finished part of {self.finished[part_id]} bytes has {len(text.encode())}"
            elif not self.gaps:
                if not (text.startswith(shown) or shown.startswith(text)):
                    yield f"kept is {_ends(text)}, which is no beginning of what was shown, {_ends(shown)}"
                self.lost = max(self.lost, len(shown) - len(text))
        if self.counts_to is not None:
            whole = numbers(self.counts_to)
            for text in [part["text"] for part in parts.values() if part["kind"] == "text"]:
                if text != whole if record["status"] == "completed" else not whole.startswith(text):
                    yield f"{self.text!r} gave {_ends(text)}"


def _valid(message: Json) -> Iterator[str]:
    """What a provider wants of an answer: it has ended, and each of its calls has exactly one result."""
    info = message["info"]
    if "finish" not in info or "finished_at" not in info:
        yield f"the answer {info['id']} has no finish"
    calls = [part for part in message["parts"] if part["kind"] == "tool"]
    if len({call["call_id"] for call in calls}) != len(calls):
        yield f"two calls of {info['id']} have the same id"
    for call in calls:
        # `output` of a completed call may be empty text, but it is there; an error has no output.
        if (call["state"], "output" in call, "error" in call) not in (
            ("completed", True, False),
            ("error", False, True),
        ):
            yield f"the call {call['call_id']} of {info['id']} has not one result: {call!r:.300}"


def _ends(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:30]!r}…{text[-30:]!r} ({len(text)})"


@attrs.define(eq=False, repr=False)
class ShownSession:
    """One session as its client saw it. `faces` are the (title, metadata) that may be kept: one, and those of updates
    without a reply. `asked` are the parameters of a run.start without a reply."""

    id: str
    faces: list[tuple[str, Json]]
    revision: int = 0
    runs: dict[str, ShownRun] = attrs.field(factory=dict)  # in the order of their start
    asked: Json | None = None
    deletion: str = "none"  # asked: without a reply; done: with one
    acknowledged: int = 1

    def __repr__(self) -> str:
        return f"<ShownSession {self.id} of {len(self.runs)} runs, asked {self.asked}>"

    def started(self, reply: Json, asked: Json) -> ShownRun:
        """A reply to run.start."""
        run = self.runs.get(reply["run"]["id"])
        if run is None:
            run = self.runs[reply["run"]["id"]] = shown_run(reply["run"]["id"], asked)
        elif run.message_id not in (None, reply["message_id"]):
            run.problems.append(f"{run.id}: a repeated start told message {reply['message_id']}, not {run.message_id}")
        run.message_id = reply["message_id"]
        run.replied(reply["run"])
        self.revision = max(self.revision, reply["revision"])
        return run

    def check(self, session: Json, records: list[Json], messages: list[Json]) -> Iterator[str]:
        """The problems of the session as told after a restart; `records` and `messages` oldest first."""
        face = (session["title"], session["metadata"])
        if face not in self.faces:
            yield f"{self.id}: has {face}, not one of {self.faces}"
        self.faces = [face]
        if "active_run_id" in session:
            yield f"{self.id}: is busy with {session['active_run_id']} after a restart"
        if session["revision"] < self.revision:
            yield f"{self.id}: is at revision {session['revision']}, {self.revision} was shown"
        if session["message_count"] != len(messages):
            yield f"{self.id}: counts {session['message_count']} messages, has {len(messages)}"
        self.revision = session["revision"]
        found = [record["id"] for record in records]
        if self.asked is not None and len(found) == len(self.runs) + 1:
            self.runs.setdefault(found[-1], shown_run(found[-1], self.asked))
        if found != list(self.runs):
            yield f"{self.id}: has the runs {found}, not {list(self.runs)}"
        order = list(dict.fromkeys(message["info"]["run_id"] for message in messages))
        if order != found:
            yield f"{self.id}: its messages are of the runs {order}, its runs are {found}"
        if len({message["info"]["id"] for message in messages}) != len(messages):
            yield f"{self.id}: a message is there twice"
        for record in records:
            if (run := self.runs.get(record["id"])) is not None:
                yield from run.check(record, [m for m in messages if m["info"]["run_id"] == run.id])


def shown_run(run_id: str, asked: Json) -> ShownRun:
    words = asked["text"].split()
    return ShownRun(
        id=run_id,
        text=asked["text"],
        key=asked.get("idempotency_key"),
        counts_to=int(words[2]) if words[:2] == ["count", "to"] else None,
    )
