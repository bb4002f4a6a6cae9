"""What the store has of all sessions, against what was asked, said and told."""

from __future__ import annotations

import json

from engine.errors import CallerError
from engine.runs.record import Run
from engine.transcript.records import AssistantMessage, Message, ToolPart
from engine.wire import objects
from tests.stress.queues import Queues
from tests.stress.seen import TERMINAL, Json


class Kept(Queues):
    async def _check_kept(self) -> None:
        runs = {run.id: run for run in (await self.registry.list_runs(None, None, 200)).items}
        for session_id in self.sessions:
            try:
                page = await self.registry.messages(session_id, 200)
            except CallerError:
                assert session_id in self.deleted
                continue
            assert page.next_cursor is None
            messages = [json.loads(message) for message in page.messages]
            order = list(dict.fromkeys(message["info"]["run_id"] for message in messages))
            for run_id in order:
                self._check_run(runs[run_id], [one for one in messages if one["info"]["run_id"] == run_id])
            assert [one["info"]["run_id"] for one in messages] == [
                run_id for run_id in order for one in messages if one["info"]["run_id"] == run_id
            ], "the messages of two runs are mixed"
            for run_id in {run.id for run in runs.values() if run.session_id == session_id} - set(order):
                assert run_id in self.enqueued[session_id] and run_id not in self.begun.get(session_id, [])
                await self._check_dropped(run_id)
            for tag, (run_id, message_id) in self.acknowledged.items():
                if self.session_of[run_id] == session_id and run_id in order:
                    found = [one for one in messages if one["info"]["id"] == message_id]
                    assert [part["text"] for one in found for part in one["parts"]] == [tag], "a message is lost"

    def _check_run(self, run: Run, messages: list[Json]) -> None:
        assert run.status in TERMINAL
        self.ended(run)
        assert messages[0]["info"]["role"] == "user"
        answers = [one for one in messages if one["info"]["role"] == "assistant"]
        said = [one["parts"][0]["text"] for one in messages if one["info"]["role"] == "user"]
        assert said == [self.tag_of[run.id], *self.steered.get(run.id, ())], "a message to the run is lost or doubled"
        if run.status == "completed":
            assert messages[-1]["info"]["role"] == "assistant", "a message to the run has no answer"
        script = self.script_of(run.id)
        for number, answer in enumerate(answers):
            assert answer["info"].get("finish"), "an answer without an end"
            told = script.turns[number] if number < len(script.turns) else []
            kept = [(part["kind"], part["text"]) for part in answer["parts"] if part["kind"] in ("text", "reasoning")]
            if run.status == "completed" or number < len(answers) - 1:
                assert kept == told, "the model said something else"
            elif kept:
                assert kept[:-1] == told[: len(kept) - 1], "the model said something else"
                assert kept[-1][0] == told[len(kept) - 1][0]
                assert told[len(kept) - 1][1].startswith(kept[-1][1]), "the model said something else"
            for part in answer["parts"]:
                if part["kind"] == "tool":
                    assert part["state"] in ("completed", "error"), "a call without a result"
                    assert (part.get("output") is None) != (part.get("error") is None)
        calls = [part["call_id"] for one in answers for part in one["parts"] if part["kind"] == "tool"]
        assert len(set(calls)) == len(calls)
        record = json.loads(objects.encode_run(run))
        for follower in self.followers:
            seen = follower.seen.get(run.id)
            if seen is not None and not follower.broken:
                seen.check(record, messages, complete=id(seen) in self.complete and not script.crashed)
                self.stats["compared"] += 1


def check_request(messages: tuple[Message, ...]) -> str:
    """The history is one that a provider takes; returns the run of the newest user message."""
    assert messages and messages[0].role == "user"
    for message in messages:
        if isinstance(message.info, AssistantMessage):
            assert message.info.finish is not None, "an answer without an end"
        for part in message.parts:
            assert not isinstance(part, ToolPart) or part.state in ("completed", "error"), "a call without a result"
    user = [message for message in messages if message.role == "user"][-1]
    assert user.info.run_id is not None
    return user.info.run_id
