"""The toolset `todo`: a list that belongs to the session, is shown to who watches it, and outlives the daemon."""

from __future__ import annotations

import trio

from actors._feed import Bell
from engine.commands import ForkSession
from engine.config import ToolsetConfig
from engine.runs.events import ToolUpdated
from engine.transcript.todo import Todo
from tests.actors.scripted import Stage, Staged, of, shown, staged

__all__ = ["staged"]

TODO = {"todo": ToolsetConfig(kind="builtin", tools=("read", "write"))}
PLAN = '{"todos":[{"text":"plan","status":"completed"},{"text":"build"}]}'
PLANNED = (Todo(text="plan", status="completed"), Todo(text="build"))


async def call(stage: Stage, session_id: str, *calls: tuple[str, str]) -> list[str]:
    """A run that makes these calls; what they gave."""
    run = await (await stage.engine.session(session_id)).start("do it")
    (await stage.models.call()).tools(*calls)
    (await stage.models.call()).end()
    assert (await run.wait()).status == "completed"
    found = [event for event in of(shown(run), ToolUpdated) if event.state in ("completed", "error")]
    return [event.output or event.error for event in found]


async def test_a_list_of_the_session(staged: Staged) -> None:
    async with staged(toolsets=TODO) as stage:
        session = await stage.engine.create_session()
        other = await stage.engine.create_session()
        assert await call(stage, session.id, ("todo__read", "{}")) == ["[the list is empty]"]
        revision = (await session.record()).revision
        assert await call(stage, session.id, ("todo__write", PLAN)) == ["[x] plan\n[ ] build"]
        assert (await session.record()).todos == PLANNED
        assert (await session.record()).revision > revision
        assert await call(stage, session.id, ("todo__read", "{}")) == ["[x] plan\n[ ] build"]
        (mistake,) = await call(stage, session.id, ("todo__write", '{"todos":[{"text":"a\\nb"}]}'))
        assert "todos[0].text" in mistake and (await session.record()).todos == PLANNED
        assert (await other.record()).todos == ()
        copy = await stage.registry.fork_session(ForkSession(session_id=session.id))
        assert copy.todos == PLANNED
        assert await call(stage, session.id, ("todo__write", '{"todos":[]}')) == ["[the list is empty]"]
        assert (await session.record()).todos == ()
        assert (await stage.registry.get_session(copy.id)).todos == PLANNED
        assert (await stage.registry.list_sessions(10)).items[0].todos == ()
    async with staged(toolsets=TODO) as stage:
        assert (await stage.registry.get_session(copy.id)).todos == PLANNED


async def test_watchers_are_told_while_the_run_goes_on(staged: Staged) -> None:
    async with staged(toolsets=TODO) as stage:
        run, model = await stage.begin()
        session_id = await stage.session_of(run)
        feed = await stage.registry.watch_session(session_id)
        bell = Bell()
        feed.attach(bell.ring)
        model.tools(("todo__write", PLAN))
        answer = await stage.models.call()
        while feed.session.todos != PLANNED:
            await bell.wait()
        assert feed.session.active_run_id == run.id
        feed.detach(bell.ring)
        answer.end()
        await run.wait()


async def test_a_session_that_is_deleted_has_no_list(staged: Staged) -> None:
    async with staged(toolsets=TODO) as stage:
        run, model = await stage.begin()
        session_id = await stage.session_of(run)
        model.tools(("todo__write", PLAN))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stage.registry.delete_session, session_id)
        assert run.record.status == "cancelled"
        assert (await stage.registry.list_sessions(10)).items == ()
