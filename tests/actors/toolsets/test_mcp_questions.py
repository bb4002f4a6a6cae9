"""What a tool server asks for: questions to a person, folders, models, and what nobody knows."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from actors.toolsets.mcp_calls import ROOTS_MOST
from engine.limits import KIB
from engine.tools.spec import Answer, Question
from tests.actors.processes import until
from tests.actors.toolsets.hosting import LIMITS, hosted

FORM = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}, "required": ["name"]}
DECLINED = {"action": "decline"}
# One that comes by itself, as a line.
PARAMS = '{"message":"?","requestedSchema":{"type":"object"}}'
QUESTION = '{"jsonrpc":"2.0","id":"q","method":"elicitation/create","params":' + PARAMS + "}"


def elicit(message: Any = "Who?", schema: Any = FORM, **more: Any) -> dict[str, Any]:
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": schema, **more}}


class Person:
    """Answers when the test says how."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.withdrawn = 0
        self._send, self._answers = trio.open_memory_channel[Answer](16)

    def say(self, answer: Answer) -> None:
        self._send.send_nowait(answer)

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        try:
            return await self._answers.receive()
        except trio.Cancelled:
            self.withdrawn += 1
            raise

    async def asked(self, count: int = 1) -> None:
        await until(lambda: len(self.questions) >= count)


async def test_a_question_is_one_of_the_call_and_answered(tmp_path: Path) -> None:
    async with hosted(tmp_path) as world:
        for answer, told in (
            (Answer(action="accept", content={"name": "é漢"}), {"action": "accept", "content": {"name": "é漢"}}),
            (Answer(action="decline"), DECLINED),
            (Answer(action="cancel"), {"action": "cancel"}),
        ):
            person = Person()
            person.say(answer)
            assert await world.ask(elicit(), asks=person.ask) == [told]
            (question,) = person.questions
            assert (question.message, question.schema) == ("Who?", FORM)
            assert question.mistakes({"name": "longer"}) == [("name", "expected at most 5 characters")]
        (hello,) = world.received("initialize")
        assert hello["params"]["capabilities"] == {"elicitation": {}, "roots": {"listChanged": True}}


async def test_several_questions_of_a_call_at_a_time(tmp_path: Path) -> None:
    async with hosted(tmp_path) as world, trio.open_nursery() as nursery:
        person = Person()
        given: list[Any] = []

        async def call() -> None:
            given.extend(await world.ask(elicit("one"), elicit("two"), asks=person.ask))

        nursery.start_soon(call)
        await person.asked(2)
        person.say(Answer(action="decline"))
        person.say(Answer(action="cancel"))
        await until(lambda: len(given) == 2)
        assert sorted(answer["action"] for answer in given) == ["cancel", "decline"]


async def test_nobody_to_ask_or_a_page_to_open_is_declined(tmp_path: Path) -> None:
    async with hosted(tmp_path) as world:
        person = Person()
        page = {"method": "elicitation/create", "params": {"mode": "url", "url": "https://x", "message": "Open"}}
        assert await world.ask(elicit(), asks=None) == [DECLINED]
        assert await world.ask(page, asks=person.ask) == [DECLINED]
        assert person.questions == []


BAD: list[tuple[dict[str, Any], str]] = [
    (elicit(message=7), "no message"),
    (elicit(schema=None), "not one of an object"),
    (elicit(schema={"type": "object", "properties": {"a": {"type": "object"}}}), "'a'"),
    (elicit("m" * 100_000), "no message"),
    ({"method": "elicitation/create"}, "no message"),
]


async def test_questions_that_are_none_are_refused(tmp_path: Path) -> None:
    async with hosted(tmp_path) as world:
        person = Person()
        errors = await world.ask(*(asked for asked, _ in BAD), asks=person.ask)
        for error, (_, says) in zip(errors, BAD, strict=True):
            assert error["code"] == -32602 and says in error["message"]
        assert person.questions == []


async def test_a_question_at_its_bound_and_one_past_it(tmp_path: Path) -> None:
    limits = attrs.evolve(LIMITS, tool_question_bytes=KIB)
    async with hosted(tmp_path, limits=limits) as world:
        person = Person()
        fits = KIB - len('["",{"type":"object"}]')
        person.say(Answer(action="decline"))
        answers = await world.ask(
            elicit("m" * fits, {"type": "object"}), elicit("m" * (fits + 1), {"type": "object"}), asks=person.ask
        )
        assert [answer.get("action", answer.get("code")) for answer in answers] == ["decline", -32602]


async def test_a_question_outside_of_a_call_is_declined(tmp_path: Path) -> None:
    async with hosted(tmp_path, first=[QUESTION]) as world:
        await world.bad.specs()
        await until(lambda: '"q"' in world.record.read_text())
        assert '"result":{"action":"decline"}' in world.record.read_text().replace(" ", "")


async def test_calls_of_two_sessions_at_a_time_are_not_mixed(tmp_path: Path) -> None:
    async with hosted(tmp_path) as world, trio.open_nursery() as nursery:
        one, two = Person(), Person()

        async def wait() -> None:
            await world.do(session="ses_2", asks=two.ask, answer=None)

        nursery.start_soon(wait)
        await until(lambda: bool(world.received("tools/call")))
        assert await world.ask(elicit(), asks=one.ask) == [DECLINED]
        assert one.questions == two.questions == []
        nursery.cancel_scope.cancel()


async def test_a_call_that_is_cancelled_takes_its_question_with_it(tmp_path: Path) -> None:
    async with hosted(tmp_path) as world:
        person = Person()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def call() -> None:
                    await world.ask(elicit(), asks=person.ask)

                nursery.start_soon(call)
                await person.asked()
                scope.cancel()
        assert person.withdrawn == 1
        assert (await world.do()).is_error is False
        await until(lambda: '"action":"cancel"' in world.record.read_text().replace(" ", ""))
        await until(lambda: len(world.received("notifications/cancelled")) == 1)


async def test_a_server_that_answers_the_call_does_not_wait_for_the_answer(tmp_path: Path) -> None:
    answer = '{"jsonrpc":"2.0","id":@id@,"result":{"content":[]}}'
    async with hosted(tmp_path) as world:
        person = Person()
        assert not (await world.do(write=[QUESTION, answer], answer=None, asks=person.ask)).is_error
        assert person.withdrawn == len(person.questions)
        await wait_all_tasks_blocked()


async def test_a_server_that_crashes_takes_its_question_with_it(tmp_path: Path) -> None:
    async with hosted(tmp_path, beside=True) as world, trio.open_nursery() as nursery:
        person = Person()
        nursery.start_soon(functools.partial(world.do, ask=[elicit()], asks=person.ask))
        await person.asked()
        assert (await world.do(exit=3)).is_error
        await until(lambda: person.withdrawn == 1)
        assert not (await world.do()).is_error


async def test_a_toolset_that_is_restarted_takes_its_question_with_it(tmp_path: Path) -> None:
    async with hosted(tmp_path) as world, trio.open_nursery() as nursery:
        person = Person()
        nursery.start_soon(functools.partial(world.do, ask=[elicit()], asks=person.ask))
        await person.asked()
        await world.bad.restart()
        assert person.withdrawn == 1
        assert not (await world.do()).is_error


async def test_what_cannot_be_sent_on_is_no_question(tmp_path: Path) -> None:
    half = QUESTION.replace('"?"', '"\\ud83d"')
    async with hosted(tmp_path) as world:
        person = Person()
        assert not (await world.do(write=[half], asks=person.ask)).is_error
        await until(lambda: "cannot be sent on" in world.record.read_text())
        assert not (await world.do()).is_error and person.questions == []


async def test_a_server_that_takes_its_question_back(tmp_path: Path) -> None:
    async with hosted(tmp_path) as world, trio.open_nursery() as nursery:
        person = Person()
        number = 0

        async def call() -> None:
            await world.do(write=[QUESTION], answer=None, asks=person.ask)

        nursery.start_soon(call)
        await person.asked()
        (call_sent,) = world.received("tools/call")
        number = call_sent["id"]
        taken = '{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"q"}}'
        answer = f'{{"jsonrpc":"2.0","id":{number},"result":{{"content":[]}}}}'
        await world.do(write=[taken])
        await until(lambda: person.withdrawn == 1)
        assert nursery.child_tasks, "the call goes on"
        await world.do(write=[answer])


# ------------------------------------------------------------------ folders
ROOTS = {"method": "roots/list"}


async def test_the_folders_of_the_sessions_that_use_it(tmp_path: Path) -> None:
    async with hosted(tmp_path) as world:
        odd = "/a b/é#?%"
        assert await world.ask(ROOTS, cwd="/one") == [{"roots": [{"uri": "file:///one", "name": "one"}]}]
        assert await world.ask(ROOTS, cwd=odd) == [
            {
                "roots": [
                    {"uri": "file:///one", "name": "one"},
                    {"uri": "file:///a%20b/%C3%A9%23%3F%25", "name": "é#?%"},
                ]
            }
        ]
        assert len(world.received("notifications/roots/list_changed")) == 2
        await world.ask(ROOTS, cwd="/one")
        assert len(world.received("notifications/roots/list_changed")) == 2, "nothing has changed"


async def test_only_the_last_folders_are_kept(tmp_path: Path) -> None:
    async with hosted(tmp_path) as world:
        for number in range(ROOTS_MOST + 1):
            (answer,) = await world.ask(ROOTS, cwd=f"/{number}")
        assert [root["name"] for root in answer["roots"]] == [str(number) for number in range(1, ROOTS_MOST + 1)]


async def test_folders_that_are_configured_stay(tmp_path: Path) -> None:
    async with hosted(tmp_path, roots=("/data",)) as world:
        assert await world.ask(ROOTS, cwd="/one") == [{"roots": [{"uri": "file:///data", "name": "data"}]}]
        assert world.received("notifications/roots/list_changed") == []
    async with hosted(tmp_path, roots=()) as world:
        (error,) = await world.ask(ROOTS, cwd="/one")
        assert error["code"] == -32601


# ------------------------------------------------------------------ anything else
async def test_models_and_unknown_methods_are_refused(tmp_path: Path) -> None:
    async with hosted(tmp_path) as world:
        sampling, unknown, ping = await world.ask(
            {"method": "sampling/createMessage", "params": {"messages": []}}, {"method": "x/y"}, {"method": "ping"}
        )
        assert (sampling["code"], unknown["code"], ping) == (-32601, -32601, {})
        assert "models" in sampling["message"]
