"""What a person sees of real runs, over real sockets: the transcript as it is stored, whatever happens on the way."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.api import SessionHandle
from actors.client import Client, NoDaemon, RemoteError, connect
from actors.terminal import conversation, pages, places
from actors.terminal.cache import Texts
from actors.terminal.talk import How, Talk
from engine.config import Permissions
from engine.errors import PeerError
from engine.limits import KIB
from tests.actors import scripted
from tests.actors.scripted import Stage, Staged, staged
from tests.actors.terminal.talking import Line, Watched, line_to, lines_of, talking, until_shown

__all__ = ["staged"]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def long(count: int) -> str:
    """Says much."""
    return "\n".join(f"line {number}" for number in range(count))


async def same_from_the_store(line: Line, talk: Talk, shown: list[str]) -> None:
    """Who comes now, and gets it from the store, sees the same."""
    async with talking(line, talk.session_id) as (other, screen):
        assert await lines_of(other, screen) == shown


async def ended(talk: Talk, screen: Watched) -> None:
    """A run has been told to its end."""
    await screen.until(lambda: talk.conversation.run is None and talk.conversation.ended is not None)


# ------------------------------------------------------------------ as it comes
async def test_an_answer_with_thoughts_and_a_call(staged: Staged) -> None:
    async with staged(tools=[add]) as stage, line_to(stage) as line, talking(line) as (talk, screen):
        talk.send("what is 1 + 2?", "queue")
        call = await stage.models.call()
        call.reasoning("hm")
        call.text("Let me ", "see.")
        await until_shown(talk, screen, "Let me see.")
        assert talk.busy and talk.conversation.view.live_holders() >= 1
        call.tools(("functions__add", '{"a": 1, "b": 2}'))
        call = await stage.models.call()
        call.text("It is **3**.")
        call.end()
        await ended(talk, screen)
        shown = await lines_of(talk, screen)
        assert shown == [
            "> what is 1 + 2?", ": hm", "Let me see.", '▸ ✓ functions.add {"a": 1, "b": 2} (1 line)', "It is 3.",
        ]  # fmt: skip
        assert talk.conversation.view.live_holders() == 0 and not talk.busy
        await same_from_the_store(line, talk, shown)


async def test_a_steered_message_stands_behind_the_turn_that_it_came_into(staged: Staged) -> None:
    async with staged(tools=[add]) as stage, line_to(stage) as line, talking(line) as (talk, screen):
        talk.send("begin", "queue")
        call = await stage.models.call()
        call.text("I beg")
        await until_shown(talk, screen, "I beg")
        talk.send("but hurry", "steer")
        await screen.until(lambda: talk.conversation.steered)
        assert "> but hurry" not in await lines_of(talk, screen)
        call.text("in.")
        call.tools(("functions__add", '{"a": 1, "b": 2}'))
        call = await stage.models.call()
        call.text("Done.")
        call.end()
        await ended(talk, screen)
        shown = await lines_of(talk, screen)
        assert shown == [
            "> begin", "I begin.", '▸ ✓ functions.add {"a": 1, "b": 2} (1 line)', "> but hurry", "Done.",
        ]  # fmt: skip
        await same_from_the_store(line, talk, shown)


async def test_a_turn_that_failed_and_was_made_again(
    staged: Staged, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted, "LIMIT", 1e6)  # on the clock that is moved
    async with staged() as stage, line_to(stage) as line, talking(line) as (talk, screen):
        talk.send("hello", "queue")
        call = await stage.models.call()
        call.text("I was ab")
        await until_shown(talk, screen, "I was ab")
        call.fail(PeerError("provider_error", "the service is overloaded", retry=True))
        await screen.until(lambda: talk.conversation.run is not None and "attempt 2" in talk.conversation.run.note)
        mock_clock.jump(3)
        call = await stage.models.call()
        call.text("I was about to say.")
        call.end()
        await ended(talk, screen)
        shown = await lines_of(talk, screen)
        assert shown[0:2] == ["> hello", "I was ab"] and shown[-1] == "I was about to say."
        assert "[the model call failed] the service is overloaded" in shown
        await same_from_the_store(line, talk, shown)


async def test_a_run_that_is_stopped(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line, talking(line) as (talk, screen):
        talk.send("count", "queue")
        call = await stage.models.call()
        call.text("1 2 3")
        await until_shown(talk, screen, "1 2 3")
        talk.stop_run()
        await ended(talk, screen)
        shown = await lines_of(talk, screen)
        assert shown == ["> count", "1 2 3", "[stopped]"]
        await same_from_the_store(line, talk, shown)


async def test_a_run_that_failed_says_why(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line, talking(line) as (talk, screen):
        talk.send("hello", "queue")
        call = await stage.models.call()
        call.fail(PeerError("provider_error", "no such\x1b[2J model"))
        await ended(talk, screen)
        shown = await lines_of(talk, screen)
        assert len(shown) == 2 and shown[0] == "> hello"
        assert "no such" in shown[1] and "model" in shown[1] and "\x1b" not in shown[1]
        await same_from_the_store(line, talk, shown)


async def test_a_compaction_stands_where_it_was_made_and_its_order_is_no_message(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line, talking(line) as (talk, screen):
        for text in ("first", "second", "third"):
            talk.send(text, "queue")
            call = await stage.models.call()
            call.text(text.upper() + " " + "x" * 4000)
            call.end()
            talk.conversation.ended = None
            await ended(talk, screen)
        talk.conversation.ended = None
        talk.compact()
        call = await stage.models.call()
        call.text("they spoke")
        call.end()
        await ended(talk, screen)
        shown = await lines_of(talk, screen)
        assert [line for line in shown if line.startswith(">")] == ["> first", "> second", "> third"]
        assert shown[-1] == "▸ [the model is shown a summary of what is above]"
        await same_from_the_store(line, talk, shown)


async def test_what_other_clients_do_is_shown(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line:
        session = await stage.engine.create_session()
        async with talking(line, session.id) as (talk, screen):
            run = await session.start("from elsewhere")
            call = await stage.models.call()
            call.text("Yes.")
            call.end()
            await run.wait()
            await ended(talk, screen)
            assert await lines_of(talk, screen) == ["> from elsewhere", "Yes."]


# ------------------------------------------------------------------ connections
async def test_a_cut_connection_loses_and_repeats_nothing(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line, talking(line) as (talk, screen):
        talk.send("count", "queue")
        call = await stage.models.call()
        call.text("one ")
        await until_shown(talk, screen, "one")
        await line.cut()
        call.text("two ")
        await screen.until(lambda: not talk.connected)
        call.text("three")
        await screen.until(lambda: talk.connected)
        await until_shown(talk, screen, "one two three")
        call.end()
        await ended(talk, screen)
        assert await lines_of(talk, screen) == ["> count", "one two three"]
        assert line.opened == 2


async def test_runs_that_came_and_went_meanwhile_are_shown(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line:
        session = await stage.engine.create_session()

        async def said(text: str) -> None:
            run = await session.start(text)
            call = await stage.models.call()
            call.text(text.upper())
            call.end()
            await run.wait()

        await said("one")
        async with talking(line, session.id) as (talk, screen):
            assert await lines_of(talk, screen) == ["> one", "ONE"]
            line.down = True
            await line.cut()
            await screen.until(lambda: talk.waiting is not None)
            await said("two")
            await said("three")
            line.down = False
            await screen.until(lambda: talk.connected)
            shown = await lines_of(talk, screen)
            assert shown == ["> one", "ONE", "> two", "TWO", "> three", "THREE"]


@pytest.mark.parametrize("entries", [8, 16])
async def test_after_a_gap_the_right_text_is_shown(staged: Staged, entries: int) -> None:
    """The log is short: who is away misses events, and gets the message that is being written as a whole."""
    async with (
        staged(tools=[add], run_log_entries=entries) as stage,
        line_to(stage) as line,
        talking(line) as (talk, screen),
    ):
        talk.send("begin", "queue")
        call = await stage.models.call()
        call.text("before ")
        await until_shown(talk, screen, "before")
        line.down = True
        await line.cut()
        await screen.until(lambda: talk.waiting is not None)
        call.text("the call")
        call.tools(("functions__add", '{"a": 1, "b": 2}'))
        call = await stage.models.call()
        call.reasoning("so it is three")
        for number in range(40):
            call.text(f"{number} ")
            await wait_all_tasks_blocked(0.0001)  # else they are one event
        line.down = False
        talk.connect_now()
        await screen.until(lambda: talk.connected)
        await until_shown(talk, screen, "38 39")
        call.text("and on")
        call.end()
        await ended(talk, screen)
        shown = await lines_of(talk, screen)
        assert shown[:4] == [
            "> begin", "before the call", '▸ ✓ functions.add {"a": 1, "b": 2} (1 line)', ": so it is three",
        ]  # fmt: skip
        assert " ".join(shown[4:]) == " ".join(map(str, range(40))) + " and on"
        await same_from_the_store(line, talk, shown)


async def test_who_comes_in_the_middle_of_a_long_run_sees_all_of_it(staged: Staged) -> None:
    """Its beginning has left the log: the page has what was before, a snapshot the message that is being written."""
    async with staged(tools=[add], run_log_entries=8) as stage, line_to(stage) as line:
        run, call = await stage.begin("begin")
        call.text("first")
        call.tools(("functions__add", '{"a": 1, "b": 2}'))
        call = await stage.models.call()
        for number in range(20):
            call.text(f"{number} ")
            await wait_all_tasks_blocked(0.0001)
        async with talking(line, await stage.session_of(run)) as (talk, screen):
            await until_shown(talk, screen, "18 19")
            assert talk.busy
            call.text("and on")
            call.end()
            await ended(talk, screen)
            shown = await lines_of(talk, screen)
            assert shown == [
                "> begin", "first", '▸ ✓ functions.add {"a": 1, "b": 2} (1 line)',
                " ".join(map(str, range(20))) + " and on",
            ]  # fmt: skip
            await same_from_the_store(line, talk, shown)


class Life:
    """An engine on the test's data, until it is ended."""

    def __init__(self, staged: Staged) -> None:
        self._staged = staged
        self._stop, self._over = trio.Event(), trio.Event()

    async def run(self, task_status: trio.TaskStatus[tuple[Stage, Line]]) -> None:
        async with self._staged() as stage, line_to(stage) as line:
            task_status.started((stage, line))
            await self._stop.wait()
        self._over.set()

    async def end(self) -> None:
        self._stop.set()
        await self._over.wait()


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_run_that_a_restart_has_ended_is_shown_as_it_is_stored(staged: Staged, goes_on: bool) -> None:
    async with trio.open_nursery() as nursery:
        first, second = Life(staged), Life(staged)
        stage, line = await nursery.start(first.run)
        async with talking(line) as (talk, screen):
            talk.send("begin", "queue")
            call = await stage.models.call()
            call.reasoning("a thought")
            call.text("a beginning")
            await until_shown(talk, screen, "a beginning")
            line.down = True
            await line.cut()
            await screen.until(lambda: talk.waiting is not None)
            await first.end()
            stage, again = await nursery.start(second.run)
            session = await stage.engine.session(talk.session_id or "")
            if goes_on:  # somebody else, before this client is back
                await said(stage, session, "more")
            line.url, line.down = again.url, False
            talk.connect_now()
            await screen.until(lambda: talk.connected)
            await until_shown(talk, screen, "to more" if goes_on else "[stopped]")
            await screen.until(lambda: not talk._cursors)  # all is told
            shown = await lines_of(talk, screen)
            more = ["> more", "to more"] if goes_on else []
            assert shown == ["> begin", ": a thought", "a beginning", "[stopped]", *more] and not talk.busy
            # The next one is told as it comes.
            await said(stage, session, "and more")
            await until_shown(talk, screen, "to and more")
            assert await lines_of(talk, screen) == [*shown, "> and more", "to and more"]
            await same_from_the_store(line, talk, [*shown, "> and more", "to and more"])
        await second.end()


async def test_what_was_steered_during_a_gap_stands_behind_its_turn(staged: Staged) -> None:
    async with (
        staged(tools=[add], run_log_entries=8) as stage,
        line_to(stage) as line,
        talking(line) as (talk, screen),
        talking(line) as (other, _),
    ):
        talk.send("begin", "queue")
        call = await stage.models.call()
        call.text("a ")
        await until_shown(talk, screen, "a")
        other.open_session(talk.session_id or "")
        line.down = True
        talk_client = line.clients[0]
        await line.cut(talk_client)
        await screen.until(lambda: talk.waiting is not None)
        await other._screen.until(lambda: other.busy)  # type: ignore[attr-defined]
        other.send("but hurry", "steer")
        await other._screen.until(lambda: other.conversation.steered)  # type: ignore[attr-defined]
        for number in range(20):
            call.text(f"{number} ")
            await wait_all_tasks_blocked(0.0001)
        line.down = False
        await screen.until(lambda: talk.connected)
        await until_shown(talk, screen, "18 19")
        assert talk.conversation.steered and "> but hurry" not in await lines_of(talk, screen)
        call.end()
        call = await stage.models.call()
        call.text("Done.")
        call.end()
        await ended(talk, screen)
        shown = await lines_of(talk, screen)
        assert shown == ["> begin", "a " + " ".join(map(str, range(20))), "> but hurry", "Done."]
        await same_from_the_store(line, talk, shown)


async def test_a_daemon_that_is_not_there_is_tried_again_and_that_is_told(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line, talking(line) as (talk, screen):
        line.down = True
        await line.cut()
        await screen.until(lambda: talk.waiting is not None and talk.gone)
        assert not talk.connected
        talk.new_session()
        talk.stop_run()
        talk.find_sessions("x")
        assert screen.notes == ["no connection"]
        line.down = False
        await screen.until(lambda: talk.connected)
        assert talk.waiting is None and not talk.gone


async def test_without_a_daemon_at_the_beginning_it_says_so() -> None:
    @contextlib.asynccontextmanager
    async def nobody(start: bool) -> AsyncIterator[Client]:
        async with connect("http://127.0.0.1:1", token="t") as client:
            yield client

    with pytest.RaisesGroup(NoDaemon, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(Talk(nobody, Watched(), cwd="/").run)


async def test_a_session_that_is_not_there_is_an_error_at_the_beginning_and_a_note_later(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line:
        with pytest.RaisesGroup(pytest.RaisesExc(RemoteError, match="unknown_session"), flatten_subgroups=True):
            async with talking(line, "ses_nothing"):
                raise AssertionError("it began")
        async with talking(line) as (talk, screen):
            talk.open_session("ses_nothing")
            await screen.until(lambda: screen.notes)
            assert screen.notes == ["the session is gone"] and talk.session_id is None
            talk.send("hello", "queue")
            (await stage.models.call()).end()
            await ended(talk, screen)
            assert await lines_of(talk, screen) == ["> hello"]


# ------------------------------------------------------------------ what is sent
async def test_a_message_whose_reply_was_lost_is_sent_again_and_starts_one_run(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line:
        session = await stage.engine.create_session()
        async with talking(line, session.id) as (talk, screen):
            line.deaf = True  # what the daemon replies from now on is not received
            talk.send("hello", "queue")
            call = await stage.models.call()  # it has got the message
            assert talk.outgoing is not None
            await line.cut()
            line.deaf = False
            call.text("Hi.")
            call.end()
            await screen.until(lambda: talk.outgoing is None)
            await until_shown(talk, screen, "Hi.")
            assert await lines_of(talk, screen) == ["> hello", "Hi."]
            assert len((await stage.registry.list_sessions(10)).items) == 1


async def test_what_the_daemon_refuses_is_given_back(staged: Staged) -> None:
    async with staged(message_characters=10) as stage, line_to(stage) as line, talking(line) as (talk, screen):
        talk.send("hello", "queue")
        call = await stage.models.call()
        await screen.until(lambda: talk.busy and talk.outgoing is None)
        talk.send("more than ten characters", "queue")
        await screen.until(lambda: screen.given_back)
        assert screen.given_back == ["more than ten characters"] and talk.outgoing is None
        talk.send("short", "queue")
        await screen.until(lambda: "queued: it waits at position 1" in screen.notes)
        call.end()
        (await stage.models.call()).end()


# ------------------------------------------------------------------ approvals
ASK = Permissions(ask=("functions",))


async def asked(stage: Stage, talk: Talk, screen: Watched) -> None:
    talk.send("add", "queue")
    (await stage.models.call()).tools(("functions__add", '{"a": 1, "b": 2}'))
    await screen.until(talk.pending)


@pytest.mark.parametrize(("decision", "mark"), [("allow", "✓"), ("deny", "✗")])
async def test_a_call_is_asked_and_answered(staged: Staged, decision: str, mark: str) -> None:
    async with staged(tools=[add], permissions=ASK) as stage, line_to(stage) as line, talking(line) as (talk, screen):
        await asked(stage, talk, screen)
        (approval,) = talk.pending()
        assert approval.request["tool"] == "functions.add" and approval.request["input"] == {"a": 1, "b": 2}
        talk.reply(approval.run_id, approval.call_id, decision=decision)
        (await stage.models.call()).end()
        await ended(talk, screen)
        assert talk.pending() == [] and not talk.conversation.approvals
        assert any(mark in line for line in await lines_of(talk, screen))
        assert screen.notes == []


async def test_what_another_client_answers_goes_with_a_note(staged: Staged) -> None:
    async with (
        staged(tools=[add], permissions=ASK) as stage,
        line_to(stage) as line,
        talking(line) as (talk, screen),
        talking(line) as (other, others),
    ):
        await asked(stage, talk, screen)
        other.open_session(talk.session_id or "")
        await others.until(other.pending)
        (approval,) = other.pending()
        other.reply(approval.run_id, approval.call_id, decision="allow")
        (await stage.models.call()).end()
        await ended(talk, screen)
        assert talk.pending() == [] and screen.notes == ["allow, by another client"] and others.notes == []


@pytest.mark.parametrize("how", ["allow", "deny"])
async def test_approve_answers_by_itself(staged: Staged, how: How) -> None:
    async with (
        staged(tools=[add], permissions=ASK) as stage,
        line_to(stage) as line,
        talking(line, approve=how) as (talk, screen),
    ):
        talk.send("add", "queue")
        (await stage.models.call()).tools(("functions__add", '{"a": 1, "b": 2}'))
        (await stage.models.call()).end()
        await ended(talk, screen)
        shown = await lines_of(talk, screen)
        assert any(("✓" if how == "allow" else "✗") in line for line in shown)


# ------------------------------------------------------------------ long sessions
@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a few messages, and next to nothing at hand."""
    monkeypatch.setattr(pages, "PAGE", 4)
    monkeypatch.setattr(pages, "OLDER_PAGE", 6)
    monkeypatch.setattr(places, "MARK_STEP", 3)
    monkeypatch.setattr(conversation, "Texts", lambda: Texts(2000))


async def said(stage: Stage, session: SessionHandle, text: str) -> None:
    run = await session.start(text)
    call = await stage.models.call()
    call.text(f"to {text}")
    call.end()
    await run.wait()


def both(count: int) -> list[str]:
    return [line for number in range(count) for line in (f"> {number}", f"to {number}")]


@pytest.mark.usefixtures("small")
async def test_a_long_session_comes_in_pages_to_its_beginning(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line:
        session = await stage.engine.create_session()
        for number in range(12):
            await said(stage, session, str(number))
        async with talking(line, session.id) as (talk, screen):
            assert await lines_of(talk, screen) == both(12)[-4:]
            counts = []
            while talk.conversation.places.before() is not None:
                talk.want_older()
                talk.want_older()  # one at a time
                await screen.until(lambda: not talk.loading)
                counts.append(len(talk.conversation.places))
            assert counts == [10, 16, 22, 24]
            assert await lines_of(talk, screen) == both(12)


@pytest.mark.usefixtures("small")
async def test_texts_that_are_not_at_hand_are_fetched_again(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line:
        session = await stage.engine.create_session()
        async with talking(line, session.id) as (talk, screen):
            talk.conversation.view._shelf._bound = 4000
            for number in range(20):
                await said(stage, session, str(number))
            await until_shown(talk, screen, "to 19")
            assert talk.conversation.cache.retained_bytes() <= 2000
            assert talk.conversation.cache.get("nothing") is None
            before = talk.conversation.view.statistics().rendered
            assert await lines_of(talk, screen) == both(20)
            assert talk.conversation.view.statistics().rendered > before


async def test_a_text_that_the_wire_cuts_is_read_whole(staged: Staged) -> None:
    text = " ".join(map(str, range(30_000)))
    assert len(text) > 160 * KIB
    async with staged() as stage, line_to(stage) as line:
        session = await stage.engine.create_session()
        run = await session.start("count")
        call = await stage.models.call()
        call.text(text)
        call.end()
        await run.wait()
        async with talking(line, session.id) as (talk, screen):
            assert " ".join((await lines_of(talk, screen))[1:]) == text
            (entry,) = [id for id in talk.conversation.places._numbers if id.startswith("prt_")]
            talk.copy(entry)
            await screen.until(lambda: screen.copied)
            assert screen.copied == [text]


async def test_a_call_is_unfolded_and_folded(staged: Staged) -> None:
    async with staged(tools=[long]) as stage, line_to(stage) as line, talking(line) as (talk, screen):
        talk.send("go", "queue")
        (await stage.models.call()).tools(("functions__long", '{"count": 3}'))
        (await stage.models.call()).end()
        await ended(talk, screen)
        folded = '▸ ✓ functions.long {"count": 3} (3 lines)'
        assert await lines_of(talk, screen) == ["> go", folded]
        (entry,) = [id for id in talk.conversation.places._numbers if id.startswith("prt_")]
        talk.unfold(entry)
        await screen.until(lambda: talk.conversation.is_unfolded(entry))
        assert await lines_of(talk, screen) == [
            "> go", '▾ ✓ functions.long {"count": 3}', "count: 3", "output:", "line 0", "line 1", "line 2",
        ]  # fmt: skip
        talk.unfold(entry)
        await screen.until(lambda: not talk.conversation.is_unfolded(entry))
        assert await lines_of(talk, screen) == ["> go", folded]


async def test_sessions_are_found_by_their_titles(staged: Staged) -> None:
    async with staged() as stage, line_to(stage) as line, talking(line) as (talk, screen):
        first = await stage.engine.create_session(title="about herons")
        second = await stage.engine.create_session(title="about owls")
        talk.find_sessions("")
        await screen.until(lambda: len(screen.found) == 1)
        talk.find_sessions("owl")
        await screen.until(lambda: len(screen.found) == 2)
        assert sorted(screen.found[0][1]) == sorted([first.id, second.id])
        assert screen.found[1] == ("owl", [second.id])
