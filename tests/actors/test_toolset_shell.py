"""The shell toolset in its actor, with a real guard: commands, time, cancellation, jobs, and what is left of them."""

from __future__ import annotations

import hashlib
import os
import re
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from actors._actor import open_actor
from actors._guard import Guard, open_guard
from actors._spool import Spools
from actors._toolset_life import Preview
from actors.toolset import ToolsetActor, ToolsetRef
from actors.toolsets import shell as shell_module
from actors.toolsets.shell import ShellToolset, call_limit
from engine import codec
from engine.limits import KIB, MIB, Limits
from engine.tools.environment import child_environment
from engine.tools.spec import ToolContext, ToolResult
from tests.actors.cancelling import cancelled_at
from tests.actors.processes import descriptors, present, until, until_gone

DEADLINE = 60  # seconds until a hanging test fails


@attrs.frozen
class Shell:
    """A shell toolset at work, and what it stands on."""

    ref: ToolsetRef
    toolset: ShellToolset
    guard: Guard
    folder: Path

    async def call(
        self, tool: str, session: str = "ses_1", preview: Preview | None = None, **input: object
    ) -> ToolResult:
        context = ToolContext(session_id=session, run_id="run_1", call_id="call_1", cwd=str(self.folder))
        return await self.ref.call(tool, codec.dump(input), context, preview)

    async def run(self, command: str, preview: Preview | None = None, **input: object) -> ToolResult:
        return await self.call("run", preview=preview, command=command, **input)

    async def pid_in(self, name: str) -> int:
        """The number in a file of the folder, once it is there."""
        file = self.folder / name
        await until(lambda: file.exists() and file.read_bytes().endswith(b"\n"))
        return int(file.read_bytes())


@asynccontextmanager
async def opened(tmp_path: Path, limits: Limits | None = None) -> AsyncIterator[Shell]:
    limits = limits or Limits()
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "work").mkdir(exist_ok=True)
    spools = Spools(tmp_path / "data", limits)
    await spools.open()
    own = {**os.environ, "OPENAI_API_KEY": "secret"}
    with trio.fail_after(DEADLINE):
        async with open_guard(limits) as guard:
            spool = spools.of_toolset("shell")
            toolset = ShellToolset(guard, spool, env=child_environment(own), limits=limits)
            actor = ToolsetActor(toolset, limits=limits, call_timeout=call_limit(limits), spool=spool)
            async with open_actor(actor, "shell") as ref:
                yield Shell(ref, toolset, guard, tmp_path / "work")
            assert guard.statistics().processes == 0
    await spools.aclose()


@pytest.fixture
async def shell(tmp_path: Path) -> AsyncIterator[Shell]:
    async with opened(tmp_path) as shell:
        yield shell


# ------------------------------------------------------------ commands
async def test_a_command(shell: Shell) -> None:
    (shell.folder / "a file").touch()
    result = await shell.run("ls; echo err >&2; cat; echo $((20 + 3))")
    assert result == ToolResult(text="a file\nerr\n23\n", title="ls; echo err >&2; cat; echo $((20 + 3))")
    assert [spec.name for spec in await shell.ref.specs()] == [
        "shell.run",
        "shell.start",
        "shell.list",
        "shell.view",
        "shell.stop",
    ]


@pytest.mark.parametrize(
    ("command", "text", "is_error"),
    [
        ("true", "[no output]", False),
        ("printf x; exit 3", "x\n[exit code 3]", True),
        ("exit 3", "[exit code 3]", True),
        ("echo x; kill -SEGV $$", "x\n[killed by SIGSEGV]", True),
        ("printf 'a\\377b'", "a�b", False),
        ("-x", None, True),
    ],
)
async def test_how_a_command_ends(shell: Shell, command: str, text: str | None, is_error: bool) -> None:
    result = await shell.run(command)
    assert result.is_error == is_error
    assert text is None or result.text == text


async def test_it_sees_no_secret_and_no_terminal(shell: Shell) -> None:
    result = await shell.run("env; tty; echo $PWD")
    assert "OPENAI" not in result.text
    assert "TERM=dumb\n" in result.text
    assert f"not a tty\n{shell.folder}\n" in result.text
    assert f"PATH={os.environ['PATH']}\n" in result.text


async def test_much_output_is_shown_by_head_and_tail_with_exact_counts(shell: Shell) -> None:
    limits = Limits()
    result = await shell.run("echo first; seq -f %09.0f 300000; echo last")
    size, lines = 3_000_000 + 11, 300_002
    assert result.text.startswith("first\n000000001\n")
    head, _, note = result.text.rpartition("\n")
    assert head.endswith("\n000300000\nlast")
    assert note.startswith(f"[The whole output, {size:,} bytes in {lines:,} lines, is kept: read_output reads it")
    assert len(result.text.encode()) <= limits.tool_result_bytes
    whole = b"first\n" + b"".join(b"%09d\n" % number for number in range(1, 300_001)) + b"last\n"
    assert result.whole is not None
    assert (result.whole.size, result.whole.hash) == (size, hashlib.sha256(whole).hexdigest())
    assert result.whole.handle in note
    failed = await shell.run("seq 300000; exit 9")
    assert failed.text.endswith("\n[exit code 9]")
    assert len(failed.text.encode()) <= limits.tool_result_bytes
    assert "[exit code 9]" in failed.text and failed.text.count("cut …]") == 1


async def test_memory_does_not_grow_with_the_output(shell: Shell) -> None:
    await shell.run("head -c 1000000 /dev/zero")
    tracemalloc.start()
    try:
        result = await shell.run("head -c 100000000 /dev/zero")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "100,000,000 bytes" in result.text
    assert peak < MIB


async def test_what_a_command_leaves_running_is_ended_and_told(shell: Shell) -> None:
    result = await shell.run("sleep 1000 & setsid sleep 1000 & echo $! > pid; echo done")
    assert result.text == "done\n[2 processes that it left running were ended]"
    assert not result.is_error
    assert not present([await shell.pid_in("pid")])


async def test_a_command_that_takes_too_long_is_stopped_and_may_say_something(shell: Shell) -> None:
    result = await shell.run("trap 'echo bye; exit' TERM; echo begun; while :; do sleep 0.01; done", timeout=1)
    assert result.text.startswith("begun\n")
    assert result.text.endswith("\nbye\n[stopped after 1 s, before its end]")
    assert result.is_error


async def test_the_longest_time_is_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path, attrs.evolve(Limits(), shell_timeout=0.1, shell_timeout_max=0.2)) as shell:
        assert (await shell.run("sleep 1000")).text == "[stopped after 0.1 s, before its end]"
        assert (await shell.run("sleep 1000", timeout=1000)).text == "[stopped after 0.2 s, before its end]"


async def test_a_cancelled_command_gives_back_what_it_has_locked_and_leaves_nothing(shell: Shell) -> None:
    lock = shell.folder / "lock"
    text = "touch lock; trap 'rm lock; exit' TERM; setsid sleep 1000 & echo $! > pid; while :; do sleep 0.01; done"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shell.run, text)
        pid = await shell.pid_in("pid")
        assert lock.exists()
        nursery.cancel_scope.cancel()
    assert not lock.exists()
    assert not present([pid])
    assert shell.guard.statistics().processes == 0


async def test_a_command_cancelled_at_any_step_leaves_nothing(shell: Shell) -> None:
    context = ToolContext(session_id="ses_1", run_id="run_1", call_id="call_1", cwd=str(shell.folder))
    value = {"command": "echo $$ >> pids; seq 30000; sleep 0.02; seq 30000"}
    await shell.run("seq 30000")  # the guard is there, and the spool's folder
    before = descriptors()
    for step in range(1, 200):
        with trio.CancelScope() as scope, cancelled_at(scope, step):
            await shell.toolset.call("run", value, context, None)
        pids = shell.folder / "pids"
        assert not present(int(pid) for pid in pids.read_text().split()) if pids.exists() else True
        assert shell.guard.statistics().processes == 0
        assert descriptors() == before
        # A file that nobody took is removed with the next one.
        assert len([path for path in (shell.folder.parent / "data").rglob("*") if path.is_file()]) <= 1
        if not scope.cancelled_caught:
            break
    assert not scope.cancelled_caught
    assert step > 5


async def test_mistakes_are_results(tmp_path: Path) -> None:
    async with opened(tmp_path, attrs.evolve(Limits(), processes_max=1)) as shell:
        assert (await shell.run("")).text.startswith("The input of shell.run does not fit its schema:\n- command:")
        assert (await shell.call("view", job="job_9")).text == (
            "The input of shell.view does not fit its schema:\n- job: no job of this session; known are none"
        )
        await shell.call("start", command="sleep 1000")
        assert (await shell.run("true")).text == (
            "shell.run: '/bin/sh' cannot be started: 1 processes are there, the most that may be at once"
        )
        gone = attrs.evolve(shell, folder=shell.folder / "gone")
        await shell.call("stop", job="job_1")
        assert "its folder cannot be entered" in (await gone.run("true")).text


async def test_live_output_is_bounded_by_the_second(tmp_path: Path) -> None:
    async with opened(tmp_path, attrs.evolve(Limits(), preview_bytes=1000)) as shell:
        shown: list[str] = []
        began = trio.current_time()
        await shell.run("echo héllo; head -c 5000000 /dev/zero | tr '\\0' x; echo", preview=shown.append)
        seconds = int(trio.current_time() - began) + 1
        text = "".join(shown)
        assert text.startswith("héllo\nxxx")
        assert len(text.encode()) <= 1000 * seconds


async def test_descriptors_and_spool_files_are_back_at_their_number(tmp_path: Path) -> None:
    async with opened(tmp_path) as shell:
        await shell.run("true")
        before = descriptors()
        for command in ("true", "exit 2", "seq 100000", "sleep 1000 &"):
            await shell.run(command)
        with trio.move_on_after(0.05):
            await shell.run("seq 100000; sleep 1000")
        await shell.call("start", command="seq 100000; sleep 1000")
        await shell.call("view", job="job_1")
        await shell.call("stop", job="job_1")
        await shell.toolset.end_session("ses_1")
        assert descriptors() == before
    assert list((tmp_path / "data").iterdir()) == []


# ------------------------------------------------------------ jobs
async def test_a_job_is_viewed_piece_by_piece_and_stopped(shell: Shell) -> None:
    job = "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two; echo > gone; exec sleep 1000"
    result = await shell.call("start", command=job)
    assert result == ToolResult(text="[job_1 was started]", title=job)
    seen = await viewed(shell, "job_1", lambda text: text.startswith("one\n"))
    assert seen == "one\n"
    (shell.folder / "go").touch()
    assert await viewed(shell, "job_1", lambda text: text.startswith("two\n")) == "two\n"
    listed = await shell.call("list")
    assert re.match(r"job_1: running for \d+ s: echo one; while ", listed.text)
    stopped = await shell.call("stop", job="job_1")
    assert stopped.text == "[job_1: killed by SIGTERM]"
    assert (await shell.call("list")).text == f"job_1: killed by SIGTERM: {job}"
    assert (await shell.call("stop", job="job_1")).text == "[job_1: killed by SIGTERM]"


async def viewed(shell: Shell, job: str, enough: Callable[[str], bool]) -> str:
    """What views show, without their last lines, until it is enough."""
    text = ""
    while not enough(text):
        result = await shell.call("view", job=job)
        body, _, note = result.text.rpartition("[")
        assert note.startswith(f"{job}: running for ")
        text += body
    return text


async def test_a_job_that_ends_by_itself(shell: Shell) -> None:
    await shell.call("start", command="sleep 1000 & seq 100000; exit 4")
    await until(lambda: shell.guard.statistics().processes == 0)
    with trio.fail_after(DEADLINE):
        while "running" in (await shell.call("list")).text:
            await trio.lowlevel.checkpoint()
    result = await shell.call("view", job="job_1")
    assert result.text.startswith("1\n2\n")
    assert "588,895 bytes in 100,000 lines" in result.text
    assert result.whole is not None and result.whole.size == 588_895
    assert result.text.endswith("\n[job_1: exit code 4; a process that it left running was ended]")
    assert (await shell.call("view", job="job_1")).text.startswith("[job_1: exit code 4")


async def test_jobs_are_their_sessions_own(shell: Shell) -> None:
    await shell.call("start", command="echo $$ > first; exec sleep 1000")
    await shell.call("start", "ses_2", command="echo $$ > second; exec sleep 1000")
    first, second = await shell.pid_in("first"), await shell.pid_in("second")
    assert "known are job_1" in (await shell.call("view", job="job_2")).text
    assert "known are job_2" in (await shell.call("stop", "ses_2", job="job_1")).text
    assert (await shell.call("list", "ses_3")).text == "[no jobs]"
    async with trio.open_nursery() as nursery:
        for _ in range(3):  # all wait for the same end

            async def end() -> None:
                await shell.toolset.end_session("ses_1")
                assert not present([first])

            nursery.start_soon(end)
    assert present([second]) == [second]
    assert (await shell.call("list")).text == "[no jobs]"
    assert (await shell.call("list", "ses_2")).text.startswith("job_2: running")


async def test_the_end_of_the_toolset_ends_jobs(tmp_path: Path) -> None:
    async with opened(tmp_path) as shell:
        for number in range(3):
            command = f"trap '' TERM; echo $$ > pid{number}; setsid sh -c 'trap \"\" TERM; sleep 1000' & sleep 1000"
            await shell.call("start", f"ses_{number}", command=command)
        pids = [await shell.pid_in(f"pid{number}") for number in range(3)]
        assert (await shell.ref.restart()).state == "ready"
        assert not present(pids)
        assert (await shell.call("list", "ses_0")).text == "[no jobs]"
        await shell.call("start", command="trap 'touch saved; exit' TERM; echo $$ > pid; while :; do sleep 0.01; done")
        pid = await shell.pid_in("pid")
    assert not present([pid])
    assert (tmp_path / "work" / "saved").exists()


async def test_a_job_without_an_output_lives_on(shell: Shell) -> None:
    await shell.call("start", command="exec >&- 2>&-; touch closed; while [ ! -e go ]; do sleep 0.01; done; exit 5")
    await until((shell.folder / "closed").exists)
    assert "running" in (await shell.call("list")).text
    (shell.folder / "go").touch()
    with trio.fail_after(DEADLINE):
        while "running" in (await shell.call("list")).text:
            await trio.lowlevel.checkpoint()
    assert (await shell.call("view", job="job_1")).text == "[job_1: exit code 5]"


async def test_the_number_of_jobs_is_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path, attrs.evolve(Limits(), shell_jobs=2)) as shell:
        async with trio.open_nursery() as nursery:
            results: list[str] = []

            async def start() -> None:
                results.append((await shell.call("start", command="sleep 1000")).text)

            for _ in range(5):
                nursery.start_soon(start)
        refused = (
            "shell.start: 2 background commands of this session are running, the most that may be at once: stop one"
        )
        assert sorted(results) == sorted(["[job_1 was started]", "[job_2 was started]", *[refused] * 3])
        # One that has ended makes room.
        await shell.call("stop", job="job_1")
        assert (await shell.call("start", command="sleep 1000")).text == "[job_3 was started]"
        assert [line[:5] for line in (await shell.call("list")).text.splitlines()] == ["job_2", "job_3"]
        assert (await shell.call("start", "ses_2", command="true")).text == "[job_4 was started]"


async def test_jobs_that_ended_are_bounded_over_all_sessions(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_module, "KEPT_JOBS", 3)
    await shell.call("start", "ses_0", command="sleep 1000")
    for number in range(1, 5):
        session = f"ses_{number}"
        assert (await shell.call("start", session, command="true")).text == f"[job_{number + 1} was started]"
        await shell.call("stop", session, job=f"job_{number + 1}")
    kept = [(await shell.call("list", f"ses_{number}")).text for number in range(5)]
    assert [text.partition(":")[0] for text in kept] == ["job_1", "[no jobs]", "[no jobs]", "job_4", "job_5"]


async def test_a_cancelled_start_leaves_no_job_that_nobody_knows(shell: Shell) -> None:
    for steps in range(12):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(shell.call, "start", command="exec sleep 1000"))
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await shell.toolset.end_session("ses_1")
        assert shell.guard.statistics().processes == 0


async def test_a_job_is_read_while_nobody_views_it(shell: Shell) -> None:
    """It never waits for its reader."""
    await shell.call("start", command=f"head -c {3 * MIB} /dev/zero; echo $$ > pid; exec sleep 1000")
    pid = await shell.pid_in("pid")
    result = await shell.call("stop", job="job_1")
    assert f"{3 * MIB:,} bytes in 1 line" in result.text
    assert len(result.text.encode()) <= 50 * KIB
    await until_gone([pid])
