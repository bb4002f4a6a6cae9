"""What the daemon says, as entries of a transcript view: pushes of a `session.watch`, pages of `session.messages`.

What is shown is the transcript as it is stored, with what is being written behind it. The rules:

- `attach` begins, and goes on after a connection was lost with nothing under way: the newest page joins what is shown;
  messages of active runs are left out of it, because the watch tells these from their start.
- Events are applied by id, so that what is told twice is shown once. A message that begins again takes the place of
  what was there of it and all behind it.
- After a gap, the first piece of the snapshot sets `needs_page`; the newest page, read then, goes to `repair`: it has
  everything before the message that is being written, and the snapshot has that.
- A message that was steered joins behind the turn that it came into, as it does in the transcript.
- A run that ended without a turn has stored nothing, or what no event told: `needs_page`, too.

Texts of finalised entries are not kept, beyond a cache that is bounded: what the view wants, `cursor` says where to ask
for and `provide` takes from the page. Pure: no clock, no waiting.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs

from actors.terminal import texts
from actors.terminal.cache import Texts
from actors.terminal.places import Places
from actors.terminal.texts import Piece, Preview, end_id, pieces_of
from engine.rendering.entries import Made, Stored
from engine.rendering.styles import DARK, Theme
from engine.rendering.view import TranscriptView
from engine.runs.lifecycle import TERMINAL
from engine.transcript.tools import TERMINAL as ENDED

# Entries whose index is kept; a terminal that follows a session beyond it begins again with the newest page.
ENTRIES_MAX: Final = 50_000
# Approvals of a run that are shown in turn: 64 calls a turn, of which a few ask a question of their own.
APPROVALS_MAX: Final = 128


@attrs.define
class Running:
    """The active run, as far as it was told. `note` is what there is to say beside its status."""

    id: str
    status: str = "running"
    note: str = ""
    turns: int = 0


@attrs.frozen(slots=True, kw_only=True)
class Approval:
    run_id: str
    call_id: str
    request: dict[str, Any]


class Conversation:
    def __init__(self, width: int = 80, theme: Theme = DARK) -> None:
        self.cache = Texts()
        self.view = TranscriptView(width, theme, source=self.cache.get)
        self.places = Places()
        self.session: dict[str, Any] | None = None
        self.run: Running | None = None
        self.ended: dict[str, Any] | None = None  # how the last run ended: its `run.finished`
        self.approvals: dict[tuple[str, str], Approval] = {}
        self.resolved: list[tuple[str, dict[str, Any]]] = []  # how they were, by run; the caller clears it
        self.closed: str | None = None  # why the watch has ended
        self.needs_page = False
        self.older_refused = False  # the daemon would not give what is before
        self.steered: list[dict[str, Any]] = []  # what the run takes in with its next turn
        self._open_from: int | None = None  # the first message of a run that was not told to its end
        self._messages: dict[str, int] = {}  # the numbers of its messages
        self._parts: dict[str, str] = {}  # the messages of parts that are being written
        self._calls: dict[str, dict[str, Any]] = {}  # of the present turn: as shown, by call id
        self._previews: dict[str, Preview] = {}
        self._gap_run: str | None = None
        self._snapshot: dict[str, Any] | None = None  # its first piece, while the page is waited for
        self._unfolded: set[str] = set()
        self._turn: str | None = None  # the message that is being written
        self._failed: str | None = None  # the one before it, if that broke off: why is told with the next attempt

    # -------------------------------------------------------------- what the daemon says
    def attach(self, page: dict[str, Any], runs: Iterable[dict[str, Any]] = ()) -> None:
        """The newest page of messages, read after the watch had begun; `runs` as its result has them."""
        self.needs_page = self.older_refused = False
        active = {run["run_id"] for run in runs if run["status"] not in TERMINAL and run["status"] != "queued"}
        self._end_run()
        self._join(page, [message for message in page["messages"] if message["info"].get("run_id") not in active])

    def repair(self, page: dict[str, Any]) -> None:
        """The newest page, which was asked for by `needs_page`."""
        self.needs_page = False
        snapshot, self._snapshot = self._snapshot, None
        begin = self._open_from
        if begin is not None:
            self._cut(begin)
        self._open_from = None
        messages = page["messages"]
        if snapshot is None or snapshot["status"] in TERMINAL:
            self._end_run()
            self._join(page, messages)
            if snapshot is not None:
                self._tell_lost(snapshot, messages)
            return
        at = next((at for at, each in enumerate(messages) if each["info"]["id"] == snapshot["message_id"]), None)
        run_id = snapshot["run_id"]
        # What came behind the message that is being written is told by events, but for what was steered before.
        before, after = messages[:at], [] if at is None else messages[at + 1 :]
        self._join(page, before)
        own = [each for each in before if each["info"].get("run_id") == run_id]
        self._begin_run(run_id, snapshot["status"], own)
        self.steered = [each for each in after if each["info"]["role"] == "user"]
        self._begin_message(snapshot["message_id"])
        self._take_snapshot(snapshot)

    def take(self, push_method: str, params: dict[str, Any]) -> None:
        """A push of the session's watch. If `needs_page` is set afterwards, `repair` comes before the next one."""
        match push_method:
            case "run.events":
                for event in params["events"]:
                    self._take_event(params["run_id"], event)
            case "run.gap":
                self._gap_run = params["run_id"]
            case "run.snapshot":
                if self._gap_run == params["run_id"]:
                    self._gap_run = None
                    self._snapshot = params
                    self.needs_page = True
                elif params["status"] not in TERMINAL:  # else the page has it all
                    self._take_snapshot(params)
            case "session.changed":
                self.session = params["session"]
            case "watch.closed":
                self.closed = params["reason"]

    # -------------------------------------------------------------- older messages, texts that are not at hand
    def older(self, page: dict[str, Any]) -> None:
        """The page before all that is shown."""
        found = [pieces for message in page["messages"] if (pieces := self._new(message))]
        self.view.put_older(_stored(piece) for pieces in found for piece in pieces)
        self.places.put_older([[piece.id for piece in pieces] for pieces in found])
        for pieces in found:
            self._keep(pieces)
        self._mark(page)

    def cursor(self, id: str) -> str | None:
        """Of the page that has the entry, or (None) the newest; the page may lead on to one before it."""
        return self.places.cursor_of(id)

    def provide(self, page: dict[str, Any]) -> list[Piece]:
        """Texts that the view wants, from a page. What is longer than the page shows is returned: it goes to `supply`,
        when its text has been read."""
        self._mark(page)
        long: list[Piece] = []
        for message in page["messages"]:
            for piece in pieces_of(message, self._unfolded):
                if piece.id not in self.places or self.view.is_live(piece.id):
                    continue
                if piece.id not in self.view.wanted:
                    self._keep([piece])
                elif piece.handle is not None:
                    long.append(piece)
                else:
                    self.supply(piece)
        return long

    def supply(self, piece: Piece, made: Made | None = None) -> None:
        """The whole text of an entry, and its lines if they were made apart (`view.prepare`): those of a width that was
        changed meanwhile are of no use."""
        self._keep([piece])
        if made is None or not self.view.put(made):
            self.view.supply(piece.id, piece.text)

    def give_up(self, id: str) -> None:
        """There is no text of this entry to be had."""
        self.view.supply(id, "")

    # -------------------------------------------------------------- folding
    def is_unfolded(self, id: str) -> bool:
        return id in self._unfolded

    def fold(self, id: str, piece: Piece, unfolded: bool) -> None:
        """Show an entry as this piece, which was made folded or unfolded."""
        if id not in self.places or (unfolded and piece.part is None):
            return
        if unfolded:
            self._unfolded.add(id)
        else:
            self._unfolded.discard(id)
        self._update(piece)

    # -------------------------------------------------------------- events
    def _take_event(self, run_id: str, event: dict[str, Any]) -> None:
        match event["type"]:
            case "run.started":
                self._start_run(run_id, event["message"])
            case "run.status":
                if self.run is not None:
                    self.run.status = event["status"]
            case "turn.started":
                self._join_steered()
                self._drop_approvals(run_id)
                self._running(run_id).turns += 1
                self._begin_message(event["message_id"])
            case "part.started":
                self._start_part(event)
            case "part.delta":
                self._extend(event["part_id"], event["text"])
            case "part.finished":
                self._finish_part(event)
            case "tool.updated":
                self._update_call(event)
            case "tool.output":
                self._preview(event["call_id"], event["text"])
            case "approval.requested":
                self._ask(run_id, event)
            case "approval.resolved":
                self.approvals.pop((run_id, event["call_id"]), None)
                self.resolved.append((run_id, event))
            case "turn.finished":
                self._finish_turn(event["finish"])
            case "retry.scheduled":
                reason = texts.one_line(event["reason"], 60)
                attempt = f"{event['attempt']}/{event['max_attempts']}"
                self._running(run_id).note = f"{reason}: attempt {attempt} in {event['delay_ms'] / 1000:.0f} s"
                if self._failed is not None:
                    self._tell_end(self._failed, "error", {"message": event["reason"]})
            case "compaction.started":
                self._running(run_id).note = "the conversation is being summarised"
            case "compaction.finished":
                self._running(run_id).note = ""
            case "message.steered":
                self.steered.append(event["message"])
            case "run.finished":
                self._finish_run(run_id, event)

    def _start_run(self, run_id: str, message: dict[str, Any]) -> None:
        number = self.places.number(message["info"]["id"])
        if number is not None:
            self._cut(number)
        self.view.finalise()
        self._begin_run(run_id, "running", [])
        self._open_from = self.places.end
        self._append_message(message)

    def _begin_run(self, run_id: str, status: str, messages: list[dict[str, Any]]) -> None:
        """The run that is told from now on; `messages` are those of it that are shown already."""
        self._end_run()
        self.run = Running(run_id, status)
        for message in messages:
            number = next((n for p in pieces_of(message) if (n := self.places.number(p.id)) is not None), None)
            if number is not None:
                self._messages[message["info"]["id"]] = number
        self._open_from = min(self._messages.values(), default=self.places.end)

    def _end_run(self) -> None:
        self.run = None
        self._open_from = self._turn = self._failed = None
        self.steered = []
        for known in (self._messages, self._parts, self._calls, self._previews, self.approvals):
            known.clear()

    def _running(self, run_id: str) -> Running:
        if self.run is None or self.run.id != run_id:
            self._begin_run(run_id, "running", [])
        assert self.run is not None
        return self.run

    def _begin_message(self, message_id: str) -> None:
        known = self._messages.get(message_id)
        if known is not None:
            self._cut(known)
        self._calls.clear()
        self._previews.clear()
        self._turn = message_id
        self._messages[message_id] = self.places.end
        if self.run is not None:
            self.run.note = ""

    def _start_part(self, event: dict[str, Any]) -> None:
        id, kind = event["part_id"], event["kind"]
        if event["message_id"] not in self._messages:
            self._messages[event["message_id"]] = self.places.end
        self._parts[id] = event["message_id"]
        if kind in ("text", "reasoning"):
            self._put(_streaming(id, kind), event["message_id"])

    def _extend(self, id: str, text: str) -> None:
        if id not in self.places:
            return  # of a message that is not shown (any more)
        try:
            self.view.extend(id, text)
        except LookupError:
            # Finalised, and its text is not at hand: it is asked for again when it is looked at, as stored.
            self.cache.drop(id)

    def _finish_part(self, event: dict[str, Any]) -> None:
        part, message_id = event.get("part"), self._parts.pop(event["part_id"], self._turn or "")
        if part is not None and part["kind"] != "tool":
            piece = texts.piece_of(part)
            if piece is not None:
                self._put(piece, message_id)
        elif event["part_id"] in self.places and (text := self.view.text(event["part_id"])) is not None:
            self.cache.put(event["part_id"], text)

    def _update_call(self, event: dict[str, Any]) -> None:
        call_id = event["call_id"]
        part = {**self._calls.get(call_id, {}), **event, "id": event["part_id"], "kind": "tool"}
        if part["state"] in ENDED:
            self._calls.pop(call_id, None)
            self._previews.pop(call_id, None)
        else:
            self._calls[call_id] = part
        self._put_call(part)

    def _preview(self, call_id: str, text: str) -> None:
        part = self._calls.get(call_id)
        if part is not None:
            self._previews.setdefault(call_id, Preview()).take(text)
            self._put_call(part)

    def _put_call(self, part: dict[str, Any]) -> None:
        preview = self._previews.get(part["call_id"])
        text = texts.call_text(part, part["id"] in self._unfolded, preview.shown() if preview else None)
        self._put(Piece(id=part["id"], kind="tool", text=text, size=len(text)), self._turn or "")

    def _ask(self, run_id: str, request: dict[str, Any]) -> None:
        if len(self.approvals) < APPROVALS_MAX:
            key = (run_id, request["call_id"])
            self.approvals[key] = Approval(run_id=run_id, call_id=request["call_id"], request=request)

    def _drop_approvals(self, run_id: str) -> None:
        for key in [key for key in self.approvals if key[0] == run_id]:
            del self.approvals[key]

    def _finish_turn(self, finish: str) -> None:
        self._tell_end(self._turn, finish, None)
        self._failed = self._turn if finish == "error" else None
        self._join_steered()

    def _tell_end(self, message_id: str | None, finish: str, error: dict[str, Any] | None) -> None:
        """How a turn ended, if there is something to say."""
        ending = texts.ending_of(finish, error)
        if ending is not None and message_id is not None:
            self._put(_notice(end_id(message_id), ending), message_id)

    def _finish_run(self, run_id: str, event: dict[str, Any]) -> None:
        running = self._running(run_id)
        self._join_steered()
        error, status = event.get("error"), event["status"]
        if not running.turns:
            self.needs_page = True
        elif error is not None:
            self._tell_end(self._turn, "error" if status == "failed" else status, error)
        self.ended = event
        begin = self._open_from
        self._end_run()
        if self.needs_page:
            self._open_from = begin  # of which nothing may have been stored
        self.view.finalise()

    # -------------------------------------------------------------- snapshots
    def _take_snapshot(self, piece: dict[str, Any]) -> None:
        running = self._running(piece["run_id"])
        running.status = piece["status"]
        running.turns = max(running.turns, 1)
        for request in piece["pending_approvals"]:
            self._ask(piece["run_id"], request)
        part, message_id = piece.get("part"), piece["message_id"]
        if part is None or not message_id:
            return
        if part["kind"] in ("text", "reasoning"):
            if not piece["offset"]:
                self._put(_streaming(part["id"], part["kind"], piece.get("text", "")), message_id)
            else:
                self._extend(part["id"], piece.get("text", ""))
        elif part["kind"] == "tool":
            self._update_call({**part, "part_id": part["id"]})
        elif (shown := texts.piece_of(part)) is not None:
            self._put(shown, message_id)

    def _tell_lost(self, snapshot: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        """That a run was interrupted before anything of its answer was stored: no message of it tells."""
        last = messages[-1]["info"] if messages else {}
        if last.get("role") == "user" and last.get("run_id") == snapshot["run_id"]:
            self._tell_end(last["id"], snapshot["status"], None)

    # -------------------------------------------------------------- entries
    def _put(self, piece: Piece, message_id: str) -> None:
        """Show it, in place of what was shown under its id, else at the end."""
        if piece.id in self.places:
            self._update(piece)
            return
        number = self._messages.get(message_id, self.places.end)
        # What comes to a message that is not the last any more joins the last one: the daemon tells them in order.
        self.places.add(max(number, self.places.end - 1), piece.id)
        self.view.append(piece.id, piece.kind, piece.text)
        self._keep([piece])

    def _update(self, piece: Piece) -> None:
        self.cache.drop(piece.id)
        self.view.update(piece.id, piece.text)
        self._keep([piece])

    def _keep(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if piece.handle is None:
                self.cache.put(piece.id, piece.text)

    def _append_message(self, message: dict[str, Any]) -> None:
        self._messages[message["info"]["id"]] = self.places.end
        for piece in self._new(message):
            self._put(piece, message["info"]["id"])

    def _join_steered(self) -> None:
        steered, self.steered = self.steered, []
        for message in steered:
            self._append_message(message)

    def _new(self, message: dict[str, Any]) -> list[Piece]:
        return [piece for piece in pieces_of(message, self._unfolded) if piece.id not in self.places]

    def _cut(self, number: int) -> None:
        """Show nothing from this message on."""
        for id in self.places.cut(number):
            self.view.remove(id)
            self.cache.drop(id)
        self._messages = {id: at for id, at in self._messages.items() if at < number}

    def _join(self, page: dict[str, Any], messages: list[dict[str, Any]]) -> None:
        """Show the messages behind those that are shown already; if none of them is, instead of these."""
        known = [at for at, message in enumerate(messages) if self._is_shown(message)]
        if known:
            for message in messages[known[-1] + 1 :]:
                self._append_message(message)
        else:
            self._load(messages)
        self._messages.clear()
        self.view.finalise()
        self._mark(page)

    def _load(self, messages: list[dict[str, Any]]) -> None:
        self.places = Places()
        pieces = []
        for message in messages:
            number = self.places.end
            for piece in pieces_of(message, self._unfolded):
                self.places.add(number, piece.id)
                pieces.append(piece)
        self._keep(pieces)
        self.view.load(_stored(piece) for piece in pieces)

    def _is_shown(self, message: dict[str, Any]) -> bool:
        return any(piece.id in self.places for piece in pieces_of(message))

    def _mark(self, page: dict[str, Any]) -> None:
        if "next_cursor" in page:
            ids = (piece.id for message in page["messages"] for piece in pieces_of(message))
            self.places.mark(ids, page["next_cursor"])


def _stored(piece: Piece) -> Stored:
    return Stored(id=piece.id, kind=piece.kind, size=max(piece.size, 1))


def _streaming(id: str, kind: str, text: str = "") -> Piece:
    return Piece(id=id, kind="assistant" if kind == "text" else "reasoning", text=text, size=len(text))


def _notice(id: str, text: str) -> Piece:
    return Piece(id=id, kind="notice", text=text, size=len(text))
