"""What the model and the tools do."""

from __future__ import annotations

from engine.errors import PeerError
from engine.limits import KIB
from engine.providers.base import AnswerFinished, ReasoningDelta, TextDelta, ToolCallStarted, ToolInputDelta
from tests.actors.scripted import ScriptedModels
from tests.stress.kept import check_request
from tests.stress.truth import Truth, pick

RUN_TEXT = 24 * KIB  # of one run: less than a page of messages and a string of the wire hold uncut


class Model(Truth):
    async def _answer_calls(self, models: ScriptedModels) -> None:
        while True:
            call = await models._calls.receive()
            tag = self.tag_of[check_request(call.request.messages)]
            # A call that faltered before it said anything is made again in the same turn.
            if tag not in self.faltered or self.scripts[tag].turns[-1]:
                self.scripts[tag].turns.append([])
            if tag in self.faltered:
                self.faltered.discard(tag)
                self.stats["tried again"] += 1
            self.calls[tag] = call

    async def do_model(self, index: int, what: str, amount: int) -> None:
        tags = [tag for tag, call in self.calls.items() if not call.closed.is_set() and id(call) not in self.answered]
        tag = pick(tags, index)
        if tag is None:
            return
        call, script = self.calls[tag], self.scripts[tag]
        self.stats[what] += 1
        match what:
            case "text" | "reasoning" | "burst":
                pieces = 1 if what != "burst" else 10 * (1 + amount % 8)
                for _ in range(pieces):
                    if script.size > RUN_TEXT:
                        break
                    self.said += 1
                    # Unique, and with what JSON escapes and UTF-8 makes longer.
                    text = f'<{self.said}>"é\n' + "x" * (amount * 7 % 150)
                    kind = "reasoning" if what == "reasoning" else "text"
                    script.say(kind, text)
                    call.send(TextDelta(text) if kind == "text" else ReasoningDelta(text))
            case "end":
                self.answered.add(id(call))
                call.end()
            case "fail":
                self.answered.add(id(call))
                call.fail(PeerError("provider_error", "the service is down, says the test"))
            case "falter":
                self.answered.add(id(call))
                self.faltered.add(tag)
                call.fail(PeerError("provider_error", "the service is overloaded, says the test", retry=True))
            case "tools":
                self.answered.add(id(call))
                chosen = [("echo", '{"text": "hi"}'), ("wait", "{}"), ("echo", "{"), ("nothing", "{}")]
                picked = [chosen[(amount + number) % 4] for number in range(1 + amount % 3)]
                for number, (name, given) in enumerate(picked):
                    call.send(ToolCallStarted(number, "", f"functions__{name}"), ToolInputDelta(number, given))
                call.send(AnswerFinished("tool_calls"))
                call._send.send_nowait(None)

    async def do_release(self) -> None:
        """Let the tools go that wait."""
        for let_go in self.tools:
            let_go.set()
        self.tools.clear()
