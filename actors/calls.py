"""The tool calls of a run: each is judged, a person is asked where a rule says so, and it gets exactly one result.

Calls of a turn run at the same time up to a bound; one that waits for a person takes no place of it. What a person
decides is durable before it is shown and before the call goes on. With nobody there to be asked (no watcher within
`headless_grace`), the configuration decides; what was seen waits for its answer until it expires.

A tool may ask a question of its own in the middle of its call. That is shown and decided in the same way, under an id
of its own; with nobody there it is declined. It goes when its call ends.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final, Literal

import attrs
import trio

from actors._feed import RunFeed
from actors.blobs import Pins
from actors.preview import live_output
from actors.progress import Progress
from actors.services import Services
from actors.toolset import unknown_tool
from engine import codec, ids
from engine.errors import CallerError
from engine.limits import KIB
from engine.runs.approvals import Approvals, Resolution
from engine.runs.events import ApprovalResolved
from engine.runs.repeats import Repeats
from engine.runs.turn import Step, ToolChanged, Turn
from engine.storage.changes import AskApproval, PutPart, SettleApproval
from engine.tools.permissions import Grant, Grants, grant_for
from engine.tools.spec import Answer, Question, ToolContext
from engine.transcript.records import ToolPart
from engine.transcript.session import Session
from engine.transcript.tools import TERMINAL
from engine.wire import events as wire_events
from engine.wire.methods import InvalidParams

# An input up to this size is judged in well under a millisecond; a long one (a hostile command) may take 76.
_JUDGED_AT_ONCE: Final = KIB


# Between two attempts to decide what somebody else is deciding just now: longer than a commit takes.
_DECIDE_AGAIN: Final = 1.0


class Calls:
    """Of one run."""

    def __init__(
        self,
        services: Services,
        session: Session,
        feed: RunFeed,
        progress: Progress,
        pins: Pins,
    ) -> None:
        self._services = services
        self._limits = services.limits
        self._session = session
        self._feed = feed
        self._progress = progress
        self._pins = pins
        self._on_waiting: Callable[[bool], None] = _nobody
        self._told_waiting = False  # what was told last
        self._grants: Grants | None = None  # read with the first call
        self._decided: dict[str, trio.Event] = {}
        self._questions: dict[str, Question] = {}  # of tools, those that wait
        self._asked: Counter[str] = Counter()  # how many of them, by call
        self._nursery: trio.Nursery | None = None  # the turn's
        self._repeats = Repeats(services.limits.repeated_calls)
        self.approvals = Approvals()

    async def run(self, turn: Turn, known: Collection[str], on_waiting: Callable[[bool], None]) -> None:
        """Make all calls of the turn; each has its result when this returns. `known` are the tools that the model was
        told of. `on_waiting` is called, synchronously, when the first call begins and when the last one ceases to
        wait for a person."""
        self.approvals = Approvals()  # a model may give a later call the same id
        places = trio.CapacityLimiter(self._limits.parallel_tool_calls)
        self._on_waiting, self._told_waiting = on_waiting, False
        self._repeats.begin_turn()
        self._asked.clear()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for part in turn.calls:
                    nursery.start_soon(self._call, turn, part, known, places)
        finally:
            self._on_waiting = _nobody
            self._nursery = None

    async def _call(self, turn: Turn, part: ToolPart, known: Collection[str], places: trio.CapacityLimiter) -> None:
        now_ms = self._services.now_ms
        part, step = turn.read_call(part, now_ms())
        if part.tool not in known and part.state not in TERMINAL:
            part, step = turn.refuse_call(part, unknown_tool(part.tool, sorted(known)).text, now_ms())
        if part.state not in TERMINAL:
            circles = self._repeats.why_not(part)
            why_not = circles or await self._permit(part)
            if why_not is not None:
                part, step = turn.refuse_call(part, f"The call was not made: {why_not}.", now_ms())
                if circles is None:
                    self._repeats.ended(part)
        if part.state in TERMINAL:
            await self._progress.apply(step)
            return
        async with places:
            part, step = turn.start_call(part, now_ms())
            await self._progress.apply(step)
            context = ToolContext(
                session_id=self._session.id,
                run_id=self._feed.run.id,
                call_id=part.call_id,
                cwd=self._session.cwd,
                ask=functools.partial(self._question, part),
            )
            async with live_output(self._feed, self._progress, part.call_id, self._limits) as preview:
                result = await self._services.toolbox.call(
                    part.tool, part.input, context, toolsets=self._session.toolsets, preview=preview
                )
            result = await self._pins.keep(result)
            step = turn.end_call(part, result, now_ms())
            self._repeats.ended(next(call for call in turn.calls if call.id == part.id))
            await self._progress.apply(step)

    # ------------------------------------------------------------ may it be made?
    async def _permit(self, part: ToolPart) -> str | None:
        """None if the call may be made, else why not, as the end of a sentence."""
        if self._grants is None:
            self._grants = await self._services.store.grants(self._session.id)
        judge = functools.partial(
            self._services.judge.verdict,
            part.tool,
            codec.parse(part.input),
            cwd=self._session.cwd,
            grants=self._grants,
        )
        if self._services.judge.looks_at_paths(part.tool):
            judge.keywords["resolve"] = os.path.realpath  # asks the disk
            verdict = await self._services.toolbox.in_thread(judge)
        elif len(part.input) > _JUDGED_AT_ONCE:
            verdict = await self._services.toolbox.in_thread(judge)
        else:
            verdict = judge()
        if verdict.decision == "allow":
            return None
        if verdict.decision == "deny":
            return verdict.why
        resolution = await self._ask(part, verdict.why)
        if resolution.allows:
            return None
        reason = f" ({resolution.reason})" if resolution.reason else ""
        return {
            "expiry": "nobody answered whether it may be",
            "rule": "nobody is there to be asked, and the daemon is set to deny such calls",
        }.get(resolution.by, f"the user denied it{reason}")

    async def _ask(self, part: ToolPart, why: str) -> Resolution:
        call_id = part.call_id
        expires_at = self._services.now_ms() + round(self._limits.approval_timeout * 1000)
        request = wire_events.approval_requested(part, why, expires_at)
        decided = self._decided[call_id] = trio.Event()
        self.approvals.request(request)
        self._tell_waiting()
        await self._progress.apply(
            Step([PutPart(part), AskApproval(self._feed.run.id, call_id)], [ToolChanged(part), request], durable=True)
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._decide_in_time, call_id, self._services.headless)
            await decided.wait()
            nursery.cancel_scope.cancel(reason="it was decided")
        resolution = self.approvals.resolution(call_id)
        assert resolution is not None
        return resolution

    # ------------------------------------------------------------ a question of a tool's
    async def _question(self, part: ToolPart, question: Question) -> Answer:
        """See ToolContext.ask. This waits in a task of the toolset's; what becomes of the question is the turn's."""
        self._asked[part.call_id] += 1
        if self._nursery is None or self._asked[part.call_id] > self._limits.tool_questions:
            return Answer(action="decline")
        question_id = ids.new_id("ask")
        answered = self._decided[question_id] = trio.Event()
        withdrawn = trio.Event()
        self._nursery.start_soon(self._put, part, question_id, question, withdrawn)
        try:
            await answered.wait()
        finally:
            withdrawn.set()
            del self._decided[question_id]
        resolution = self.approvals.resolution(question_id)
        assert resolution is not None
        if resolution.allows:
            return Answer(action="accept", content=resolution.content)
        denied = resolution.decision == "deny" and resolution.by != "expiry"
        return Answer(action="decline" if denied else "cancel")

    async def _put(self, part: ToolPart, question_id: str, question: Question, withdrawn: trio.Event) -> None:
        """Show it, and see that it is decided."""
        expires_at = self._services.now_ms() + round(self._limits.approval_timeout * 1000)
        request = wire_events.question_asked(part, question_id, question, expires_at)
        self._questions[question_id] = question
        self.approvals.request(request)
        self._tell_waiting()
        try:
            await self._progress.apply(Step([AskApproval(self._feed.run.id, question_id)], [request], durable=True))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._decide_in_time, question_id, "deny")
                await withdrawn.wait()  # it was answered, or nobody waits for the answer any more
                nursery.cancel_scope.cancel(reason="nothing is left to decide")
            while not self.approvals.settled(question_id):
                with contextlib.suppress(CallerError):
                    await self.reply(question_id, Resolution(decision="cancel", by="call"))
                    break
                await trio.sleep(_DECIDE_AGAIN)  # a person decides it just now
        finally:
            del self._questions[question_id]

    def _fitting(self, question: Question, resolution: Resolution) -> Resolution:
        """The decision if the question can be answered so. Raises InvalidParams."""
        if resolution.decision == "allow_always":
            raise InvalidParams([("decision", "expected allow, deny or cancel: a question is answered once")])
        if not resolution.allows:
            return attrs.evolve(resolution, content=None)
        content = {} if resolution.content is None else resolution.content
        mistakes = question.mistakes(content)
        if mistakes:
            raise InvalidParams([(f"content.{name}" if name else "content", text) for name, text in mistakes])
        return attrs.evolve(resolution, content=content)

    def _tell_waiting(self) -> None:
        """Several may be decided in the time that it takes to store one decision."""
        waiting = bool(len(self.approvals))
        if waiting != self._told_waiting:
            self._told_waiting = waiting
            self._on_waiting(waiting)

    async def _decide_in_time(self, call_id: str, headless: Literal["allow", "deny"]) -> None:
        """The decision when no person makes one; `headless` if there is none."""
        grace = min(self._limits.headless_grace, self._limits.approval_timeout)
        with trio.move_on_after(grace):
            await self._feed.wait_watched()
            grace = 0
        if grace:
            by_rule = Resolution(decision=headless, by="rule", reason="nobody was there to be asked")
            await self._resolve(call_id, by_rule)
            return
        await trio.sleep(self._limits.approval_timeout)
        await self._resolve(call_id, Resolution(decision="deny", by="expiry"))

    async def _resolve(self, call_id: str, resolution: Resolution) -> None:
        while True:
            with contextlib.suppress(CallerError):
                await self.reply(call_id, resolution)
                return
            # A person was faster, which ends this task: unless the disk refuses what he decided.
            await trio.sleep(_DECIDE_AGAIN)

    async def reply(self, call_id: str, resolution: Resolution) -> Resolution:
        """Decide; durable and shown when this returns. After `cancel` the call waits for its run to be stopped.

        Raises CallerError unknown_approval, already_resolved; InvalidParams if a question cannot be answered so;
        EngineError if the disk refuses: it waits then as before, as it does if this is cancelled.
        """
        question = self._questions.get(call_id) if call_id in self.approvals.waiting else None
        if question is not None:
            resolution = self._fitting(question, resolution)
        fact = self.approvals.resolve(call_id, resolution)
        if fact is None:
            return resolution
        grant: Grant | None = None
        if question is None and resolution.decision == "allow_always":
            part = next(part for part in self._turn_calls() if part.call_id == call_id)
            grant = grant_for(part.tool, codec.parse(part.input), self._services.now_ms())
        try:
            await self._progress.reserve([fact])
            grants = await self._services.store.decide_approval(
                self._session.id, self._feed.run.id, call_id, resolution, grant
            )
        except BaseException:
            self.approvals.reopen(call_id)
            raise
        self.approvals.stored(call_id)
        self._grants = grants or self._grants
        self._progress.show([fact])
        self._tell_waiting()
        if call_id in self._decided and (resolution.decision != "cancel" or question is not None):
            self._decided[call_id].set()
        return resolution

    def _turn_calls(self) -> tuple[ToolPart, ...]:
        assert self._progress.turn is not None, "calls are of a turn"
        return self._progress.turn.calls

    def _settled(self, fact: ApprovalResolved, resolution: Resolution) -> Step:
        return Step([SettleApproval(self._feed.run.id, fact.call_id, resolution)], [fact], durable=True)

    def give_up(self) -> Step:
        """The run is stopped: whatever waits is decided by that."""
        step = Step()
        stopped = Resolution(decision="cancel", by="stop")
        for call_id in self.approvals.waiting:
            fact = self.approvals.resolve(call_id, stopped)
            assert fact is not None
            one = self._settled(fact, stopped)
            step.changes += one.changes
            step.facts += one.facts
        return step


def _nobody(waiting: bool) -> None:
    """Between two turns nothing waits."""
