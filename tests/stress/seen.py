"""What one watcher was told of one run, checked against what the model said while it is told.

Every piece of text that the scripted model says is unique, so that a text names the part of the script that it is a
prefix of, and whatever was doubled, lost or mixed up is the prefix of none.
"""

from __future__ import annotations

import copy
from typing import Any

import attrs

Json = dict[str, Any]
TERMINAL = frozenset({"completed", "failed", "cancelled", "interrupted"})


@attrs.define(eq=False)
class Script:
    """What the model said in one run: its turns, each of them texts by kind in order. Named by the user's message."""

    tag: str
    turns: list[list[tuple[str, str]]] = attrs.field(factory=list)
    size: int = 0
    crashed: bool = False  # the daemon was killed while the run was active: what was not durable is lost

    def say(self, kind: str, text: str) -> None:
        turn = self.turns[-1]
        self.size += len(text)
        if turn and turn[-1][0] == kind:
            turn[-1] = (kind, turn[-1][1] + text)
        else:
            turn.append((kind, text))

    def has(self, kind: str, text: str) -> bool:
        """The text is the beginning of something that the model said."""
        return not text or any(of == kind and said.startswith(text) for turn in self.turns for of, said in turn)


@attrs.define(eq=False)
class Seen:
    run_id: str
    script: Script
    seq: int = 0
    kinds: dict[str, str] = attrs.field(factory=dict)
    texts: dict[str, str] = attrs.field(factory=dict)
    finished: set[str] = attrs.field(factory=set)
    partial: set[str] = attrs.field(factory=set)  # a gap took their ends, and no snapshot gave them
    tools: dict[str, Json] = attrs.field(factory=dict)  # terminal `tool.updated`, by part
    end: Json | None = None  # run.finished
    told_end: bool = False  # by it, or by a snapshot whose status is terminal
    gaps: int = 0
    _gap_to: int | None = None  # a snapshot has to follow
    _snapshot: dict[str, tuple[str, str]] | None = None

    def resumed(self) -> Seen:
        """What a watcher knows that comes back with this one's cursor. It has not the half of a snapshot."""
        again = copy.copy(self)
        again.kinds, again.texts, again.finished = dict(self.kinds), dict(self.texts), set(self.finished)
        again.partial, again.tools = set(self.partial), dict(self.tools)
        again._gap_to = again._snapshot = None
        return again

    @property
    def waiting(self) -> bool:
        """A gap was told whose snapshot is not complete."""
        return self._gap_to is not None

    def take(self, method: str, params: Json) -> None:
        match method:
            case "run.events":
                assert not self.waiting, f"{self.run_id}: events between a gap and its snapshot"
                assert params["events"], "an empty push"
                for event in params["events"]:
                    self._event(event)
            case "run.gap":
                self._gap(params)
            case "run.snapshot":
                self._piece(params)
            case _:
                raise AssertionError(method)

    def _event(self, event: Json) -> None:
        first = event.get("from", event["seq"])
        assert first == self.seq + 1, f"{self.run_id}: event {first} after {self.seq}"
        assert event["seq"] >= first
        assert self.end is None, f"{self.run_id}: {event} after the end"
        self.seq = event["seq"]
        part_id = event.get("part_id", "")
        match event["type"]:
            case "part.started":
                assert part_id not in self.kinds, "a part starts once"
                self.kinds[part_id] = event["kind"]
                self.texts[part_id] = ""
            case "part.delta":
                assert part_id in self.texts, f"{self.run_id}: a delta of a part that was not told"
                assert part_id not in self.finished, "a delta of a finished part"
                self._text(part_id, self.texts[part_id] + event["text"])
            case "part.finished":
                self.finished.add(part_id)
                if event["kind"] in ("text", "reasoning"):
                    assert len(self.texts[part_id].encode()) == event["bytes"], "a finished part of another length"
            case "tool.updated":
                assert part_id not in self.tools, "a call that goes on after its end"
                if event["state"] in ("completed", "error"):
                    self.tools[part_id] = event
            case "run.finished":
                self.end = event
                self.told_end = True

    def _text(self, part_id: str, text: str) -> None:
        assert self.script.has(self.kinds[part_id], text), f"{self.run_id}: the model never said {text!r}"
        self.texts[part_id] = text

    def _gap(self, params: Json) -> None:
        assert not self.waiting, "a gap in a gap"
        self.gaps += 1
        if params["reason"] == "log_overflow":
            assert params["from"] == self.seq + 1 and params["to"] > self.seq, params
        self._gap_to = params["to"]
        self._snapshot = {}

    def _piece(self, piece: Json) -> None:
        assert self._gap_to is not None and self._snapshot is not None, "a snapshot without a gap"
        assert piece["seq"] >= self._gap_to, "a snapshot that is older than the gap"
        part = piece.get("part")
        if part is not None:
            kind, text = self._snapshot.get(part["id"], (part["kind"], ""))
            assert len(text.encode()) == piece["offset"], "a snapshot with a hole"
            self._snapshot[part["id"]] = (kind, text + piece.get("text", ""))
            if part.get("state") in ("completed", "error"):
                told = self.tools.setdefault(part["id"], part)
                assert told["state"] == part["state"], "a call with two ends"
        if piece["more"]:
            return
        for part_id, before in self.texts.items():
            if part_id not in self._snapshot and part_id not in self.finished:
                self.partial.add(part_id)
            elif part_id in self._snapshot and not self.script.crashed:
                assert self._snapshot[part_id][1].startswith(before), f"{before!r} became {self._snapshot[part_id]}"
        for part_id, (kind, text) in self._snapshot.items():
            self.kinds[part_id] = kind
            self._text(part_id, text)
        self.seq = piece["seq"]
        self.told_end = piece["status"] in TERMINAL
        self._gap_to = self._snapshot = None

    # ------------------------------------------------------------ against what is kept
    def check(self, record: Json, messages: list[Json], *, complete: bool) -> None:
        """`messages` are the run's, as stored. `complete`: this watcher was told everything up to the end."""
        kept = {part["id"]: part for message in messages for part in message["parts"]}
        for part_id, text in self.texts.items():
            if part_id not in kept:
                assert self.script.crashed and part_id not in self.finished, f"{self.run_id}: a part is lost"
                continue
            if self.kinds[part_id] == "tool":
                continue
            stored = kept[part_id]["text"]
            if part_id in self.finished or (complete and part_id not in self.partial):
                assert stored == text, f"{self.run_id}: {text!r} was told, {stored!r} is kept"
            else:
                assert stored.startswith(text) or (self.script.crashed and text.startswith(stored))
        for part_id, told in self.tools.items():
            for name in ("state", "output", "error", "input"):
                assert told.get(name) == kept[part_id].get(name), f"{told} was told, {kept[part_id]} is kept"
        assert record["last_seq"] > self.seq or self.told_end, "a number that was told may be given again"
        assert record["last_seq"] >= self.seq
        if self.end is not None:
            assert self.end["seq"] == record["last_seq"]
            for name in ("status", "reason", "error", "usage"):
                assert self.end.get(name) == record.get(name), f"{self.end} was told, {record} is kept"
