"""Runs that start commands and jobs: whose they are, what ends them, and what is left of them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson
import pytest
import trio

from actors._guard import open_guard
from actors.api import open_engine
from engine.config import Config, Permissions, ToolsetConfig
from engine.errors import CallerError
from engine.transcript.records import ToolPart
from tests.actors.processes import children, descriptors, present, until
from tests.actors.scripted import Stage, Staged, names, staged

__all__ = ["staged"]

ALLOWED = Permissions(allow=("shell",))
SHELL = {"shell": ToolsetConfig(kind="builtin")}
JOB = "echo $$ >> pids; exec sleep 1000"


async def called(stage: Stage, session_id: str, tool: str, **given: object) -> str:
    """What one call of the shell's in a run of its own gives."""
    run = await (await stage.engine.session(session_id)).start("go")
    call = await stage.models.call()
    call.tools((f"shell__{tool}", orjson.dumps(given).decode()))
    following = await stage.models.call()
    (part,) = [part for part in following.request.messages[-1].parts if isinstance(part, ToolPart)]
    following.text("done")
    following.end()
    assert (await run.wait()).status == "completed"
    return str(part.output or part.error)


async def job(stage: Stage, session_id: str, folder: Path) -> int:
    """Start one; its process."""
    file = folder / "pids"
    before = file.read_text().count("\n") if file.exists() else 0
    assert "was started" in await called(stage, session_id, "start", command=JOB)
    await until(lambda: file.exists() and file.read_text().count("\n") > before)
    return int(file.read_text().splitlines()[-1])


async def test_jobs_go_on_after_their_run_and_end_with_their_session(staged: Staged, tmp_path: Path) -> None:
    async with staged(permissions=ALLOWED, toolsets=SHELL) as stage:
        one = await stage.engine.create_session(cwd=str(tmp_path))
        other = await stage.engine.create_session(cwd=str(tmp_path))
        await called(stage, one.id, "run", command="true")
        before = descriptors()
        first, second = await job(stage, one.id, tmp_path), await job(stage, one.id, tmp_path)
        third = await job(stage, other.id, tmp_path)
        listed = await called(stage, one.id, "list")
        assert [line.split(":")[0] for line in listed.splitlines()] == ["job_1", "job_2"] and "running" in listed
        await stage.registry.delete_session(one.id)
        assert present([first, second]) == [], "deleted is ended"
        assert present([third]) == [third]
        assert "job_3: running" in await called(stage, other.id, "list")
        await stage.registry.delete_session(other.id)
        assert present([third]) == []
        assert descriptors() == before


async def test_a_session_that_many_delete_while_its_command_runs_leaves_no_process(
    staged: Staged, tmp_path: Path
) -> None:
    async with staged(permissions=ALLOWED, toolsets=SHELL) as stage:
        session = await stage.engine.create_session(cwd=str(tmp_path))
        background = await job(stage, session.id, tmp_path)
        run = await session.start("run it")
        (await stage.models.call()).tools(("shell__run", orjson.dumps({"command": JOB}).decode()))
        await until(lambda: (tmp_path / "pids").read_text().count("\n") > 1)
        command = int((tmp_path / "pids").read_text().splitlines()[-1])
        assert present([background, command]) == [background, command]
        codes: list[str] = []

        async def attempt(work: Callable[[], Awaitable[object]]) -> None:
            try:
                await work()
                codes.append("done")
            except CallerError as exc:
                codes.append(exc.code)

        async with trio.open_nursery() as nursery:
            for work in (session.delete, session.delete, session.fork, session.delete):
                nursery.start_soon(attempt, work)
        assert run.record.status == "cancelled"
        assert present([background, command]) == []
        assert sorted(codes)[-2:] == ["unknown_session"] * 2 and codes.count("done") in (1, 2)
        left = (await stage.registry.list_sessions(10)).items
        assert [one.parent_id for one in left] == [session.id] * (codes.count("done") - 1)


async def test_a_session_that_leaves_memory_keeps_its_jobs_and_a_deleted_one_none(
    staged: Staged, tmp_path: Path
) -> None:
    async with staged(permissions=ALLOWED, toolsets=SHELL, passivate_after=0.05) as stage:
        session = await stage.engine.create_session(cwd=str(tmp_path))
        pid = await job(stage, session.id, tmp_path)
        await until(lambda: session.id not in names(stage.engine.tree()))
        assert present([pid]) == [pid]
        assert "job_1: running" in await called(stage, session.id, "list")
        await until(lambda: session.id not in names(stage.engine.tree()))
        await stage.registry.delete_session(session.id)
        assert present([pid]) == []


async def test_a_call_timeout_stops_the_command_and_what_it_wrote_is_told(staged: Staged, tmp_path: Path) -> None:
    short = {"shell": ToolsetConfig(kind="builtin", call_timeout=1.5)}
    async with staged(permissions=ALLOWED, toolsets=short) as stage:
        session = await stage.engine.create_session(cwd=str(tmp_path))
        told = await called(stage, session.id, "run", command="echo begun; exec sleep 1000", timeout=600)
        assert told.startswith("begun\n[stopped after 1.5 s")


async def test_only_the_tools_that_are_configured(staged: Staged, tmp_path: Path) -> None:
    few = {"shell": ToolsetConfig(kind="builtin", tools=("run",))}
    async with staged(permissions=ALLOWED, toolsets=few) as stage:
        session = await stage.engine.create_session(cwd=str(tmp_path))
        assert "Known are: shell.run." in await called(stage, session.id, "start", command=JOB)
        assert not (tmp_path / "pids").exists()


async def test_the_end_of_the_engine_is_the_end_of_its_processes(staged: Staged, tmp_path: Path) -> None:
    before, running = descriptors(), set(children(os.getpid()))
    async with staged(permissions=ALLOWED, toolsets=SHELL) as stage:
        session = await stage.engine.create_session(cwd=str(tmp_path))
        pid = await job(stage, session.id, tmp_path)
        assert len(set(children(os.getpid())) - running) == 1, "the guard"
    assert present([pid]) == [] and set(children(os.getpid())) == running and descriptors() == before


async def test_what_a_block_raises_comes_out_as_it_is(tmp_path: Path) -> None:
    with trio.fail_after(60):
        with pytest.raises(ZeroDivisionError):
            async with open_engine(Config(), data_dir=tmp_path / "data"):
                raise ZeroDivisionError
        with pytest.raises(ZeroDivisionError):
            async with open_guard() as guard:
                await guard.spawn(["sleep", "1000"], cwd="/", env={"PATH": "/bin:/usr/bin"})
                raise ZeroDivisionError
