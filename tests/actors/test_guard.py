"""Child processes through the guard: what they are given, how they are told to end, what is left of them: nothing."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import termios
from pathlib import Path

import pytest
import trio

from actors._guard import Guard, Process
from actors._guard_link import REQUEST_BYTES, Ended
from engine.errors import CallerError, PeerError
from engine.limits import MIB, Limits
from tests.actors.cancelling import cancelled_at
from tests.actors.processes import (
    ALL_TRICKS,
    DEADLINE,
    ENV,
    anonymous_kib,
    children,
    descriptors,
    guarded,
    has_ended,
    in_group,
    nasty,
    parent,
    present,
    read_all,
    read_until,
    shell,
    spawn_nasty,
    stat_fields,
    until,
    until_gone,
)

# What a pipe holds: so many blocks are read without a turn for others.
AT_ONCE, BLOCK = 8, 65_536
ROOT = str(Path(__file__).resolve().parents[2])


# ------------------------------------------------------------ what a child is given
async def test_a_program_runs_with_what_it_is_given(tmp_path: Path) -> None:
    text = 'read line; echo "$line"; echo "$PWD"; env; echo to stderr >&2; exit 7'
    async with guarded() as guard:
        env = {"PATH": ENV["PATH"], "ODD": "é \udcff"}  # a byte that is no UTF-8
        async with await guard.spawn(["sh", "-c", text], cwd=str(tmp_path), env=env, stdin="pipe") as process:
            assert process.stdin is not None and process.stderr is not None
            await process.stdin.send_all(b"a line\n")
            lines = (await read_all(process.stdout)).splitlines()
            ended = await process.wait()
            assert await read_all(process.stderr) == b"to stderr\n"
        assert lines[:2] == [b"a line", os.fsencode(tmp_path)]
        assert set(lines[2:]) - {b"PWD=" + os.fsencode(tmp_path), b"OLDPWD=/", b"SHLVL=0", b"_=/usr/bin/env"} == {
            b"PATH=" + os.fsencode(ENV["PATH"]),
            "ODD=é ".encode() + b"\xff",
        }
        assert (ended.code, ended.signal, ended.error, ended.killed) == (7, None, None, 0)
        assert ended.max_rss > 0
        assert str(ended) == "exit code 7"


async def test_it_leads_a_session_with_clean_signals_and_no_descriptor_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GREENROOM_SECRET", "x")
    old = signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # what the daemon ignores
    try:
        async with guarded() as guard:
            other = await shell(guard, "cat")  # its pipes must not reach the next one
            text = "echo $$; grep -E '^Sig(Ign|Blk)' /proc/self/status; ls /proc/self/fd; env"
            process = await shell(guard, f"{text}; read wait")
            out = await read_until(process.stdout, b"\n")
            state = stat_fields(process.pid)
            assert process.stdin is not None
            await process.stdin.aclose()
            out += await read_all(process.stdout)
            await process.aclose()
            await other.aclose()
    finally:
        signal.signal(signal.SIGUSR2, old)
    assert state[2] == state[3] == str(process.pid)
    lines = out.decode().split("\n")
    assert lines[:7] == [str(process.pid), "SigBlk:\t" + "0" * 16, "SigIgn:\t" + "0" * 16, "0", "1", "2", "3"]
    assert "GREENROOM_SECRET=x" not in lines


async def test_stderr_and_stdin_as_asked() -> None:
    async with guarded() as guard:
        text = "cat; echo out; echo err >&2"
        async with await guard.spawn(["sh", "-c", text], cwd="/", env=ENV, stderr="stdout") as process:
            assert (process.stdin, process.stderr) == (None, None)
            assert await read_all(process.stdout) == b"out\nerr\n"
        async with await guard.spawn(["sh", "-c", text], cwd="/", env=ENV, stderr="null") as process:
            assert await read_all(process.stdout) == b"out\n"


@pytest.mark.parametrize(
    ("command", "cwd", "says"),
    [
        (["no-such-program", "x"], "/", "'no-such-program' cannot be started: No such file or directory"),
        (["./nothing"], "/", "'./nothing' cannot be started: No such file or directory"),
        (["/etc/passwd"], "/", "'/etc/passwd' cannot be started: Permission denied"),
        (["true"], "/no/folder", "'true' cannot be started: its folder cannot be entered: No such file or directory"),
        (["true"], "/etc/passwd", "'true' cannot be started: its folder cannot be entered: Not a directory"),
        (["true", "a\0b"], "/", "'true' cannot be started: Invalid argument"),
        (["true", "a\ud800"], "/", "'true' cannot be started: 'a\\ud800' is no text"),
        (["true", "x" * 140_000], "/", "'true' cannot be started: Argument list too long"),
    ],
)
async def test_what_cannot_be_started_says_why(command: list[str], cwd: str, says: str) -> None:
    async with guarded() as guard:
        before = descriptors()
        with pytest.raises(PeerError) as caught:
            await guard.spawn(command, cwd=cwd, env=ENV)
        assert (caught.value.code, caught.value.message) == ("tool_error", says)
        assert guard.statistics().processes == 0
        assert len(descriptors() - before) <= 2  # the guard's socket, and trio's look at its end
        # The next one is started.
        async with await shell(guard, "exit 4") as process:
            assert (await process.wait()).code == 4


async def test_a_command_over_the_bound_is_refused() -> None:
    async with guarded() as guard:
        with pytest.raises(CallerError) as caught:
            await guard.spawn(["echo", "x" * REQUEST_BYTES], cwd="/", env=ENV)
        assert caught.value.code == "payload_too_large"
        assert guard.statistics().processes == 0


async def test_no_more_than_the_limit_at_once() -> None:
    async with guarded(Limits(processes_max=2)) as guard:
        first, second = await shell(guard, "cat"), await shell(guard, "cat")
        with pytest.raises(CallerError) as caught:
            await shell(guard, "cat")
        assert caught.value.code == "overloaded"
        await first.aclose()
        async with await shell(guard, "exit 0") as third:
            assert (await third.wait()).code == 0
        await second.aclose()
        assert guard.statistics().processes == 0
        assert guard.statistics().spawned == 3


@pytest.mark.parametrize("python", ["/no/python", "/bin/false"])
async def test_a_guard_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    why = {"/no/python": "No such file or directory", "/bin/false": "the guard of child processes died"}
    async with guarded() as guard:
        await (await shell(guard, "true")).aclose()
        os.kill(await guard_pid(guard), signal.SIGKILL)
        await until(lambda: guard.statistics().pid is None)
        before = descriptors()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", python)
            for _ in range(2):
                with pytest.raises(PeerError) as caught:
                    await shell(guard, "true")
                assert caught.value.message == f"'sh' cannot be started: {why[python]}"
        await until(lambda: descriptors() <= before)
        async with await shell(guard, "exit 4") as process:
            assert (await process.wait()).code == 4


async def test_much_output_is_read_in_several_blocks_at_a_time_between_which_others_have_their_turn() -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with guarded() as guard, await shell(guard, f"head -c {32 * MIB} /dev/zero; read wait") as process:
        await until(lambda: waiting_in(process.stdout.fileno()) >= AT_ONCE * BLOCK)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_turns)
            await process.read()
            before = turns
            for _ in range(AT_ONCE - 1):
                assert len(await process.read()) == BLOCK
            assert turns == before
            reads = AT_ONCE
            size = AT_ONCE * BLOCK
            while size < 32 * MIB:
                size += len(await process.read())
                reads += 1
            assert size == 32 * MIB and turns >= reads // AT_ONCE
            nursery.cancel_scope.cancel()


def waiting_in(descriptor: int) -> int:
    """Bytes that can be read."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)


# ------------------------------------------------------------ ends
async def test_a_program_may_end_in_its_own_way_at_sigterm() -> None:
    async with guarded() as guard:
        process = await shell(guard, "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done")
        await read_until(process.stdout, b"ready\n")
        assert (await process.stop(10)).code == 3
        assert await read_all(process.stdout) == b"bye\n"
        await process.aclose()


async def test_a_program_deaf_to_sigterm_is_killed_after_the_grace() -> None:
    async with guarded() as guard:
        process, tree = await spawn_nasty(guard, "deaf")
        ended = await process.stop(0.05)
        assert (ended.code, ended.signal, str(ended)) == (None, signal.SIGKILL, "killed by SIGKILL")
        assert not present(tree)
        await process.aclose()


async def test_a_stopped_program_takes_the_sigterm() -> None:
    async with guarded() as guard:
        process = await shell(guard, "trap 'exit 3' TERM; echo ready; kill -STOP $$; read line")
        await read_until(process.stdout, b"ready\n")
        await until(lambda: stat_fields(process.pid)[0] == "T")
        assert (await process.stop(10)).code == 3
        await process.aclose()


async def test_the_grace_is_for_the_whole_group() -> None:
    async with guarded() as guard:
        member = "(trap 'sleep 0.1; echo saved; exit' TERM; echo ready; while :; do sleep 0.01; done)"
        process = await shell(guard, f"{member} & exec cat")
        await read_until(process.stdout, b"ready\n")
        ended = await process.stop(20)
        assert (ended.signal, ended.killed) == (signal.SIGTERM, 0)
        assert await read_all(process.stdout) == b"saved\n"
        await process.aclose()


async def test_a_signal_goes_to_the_group() -> None:
    async with guarded() as guard:
        process = await shell(guard, "trap 'echo got; exit 5' INT; echo ready; while :; do sleep 0.01; done")
        await read_until(process.stdout, b"ready\n")
        await process.signal(signal.SIGINT)
        assert (await process.wait()).code == 5
        await process.signal(signal.SIGINT)  # it is over: nothing happens
        await process.aclose()


@pytest.mark.parametrize("trick", [*ALL_TRICKS, "all"])
async def test_stop_leaves_nothing(trick: str) -> None:
    async with guarded() as guard:
        process, tree = await spawn_nasty(guard, *(ALL_TRICKS if trick == "all" else [trick]))
        assert present(tree) == tree
        await process.stop(0.05)
        assert not present(tree)
        await process.aclose()


async def test_a_leader_that_ends_leaves_nothing() -> None:
    async with guarded() as guard:
        process, tree = await spawn_nasty(guard, *ALL_TRICKS, "leave")
        ended = await process.wait()
        assert (ended.code, ended.killed) == (3, len(tree) - 1)
        assert not present(tree)
        # Its children held the output open.
        assert await read_all(process.stdout) == b""
        await process.aclose()


async def test_a_process_that_is_another_one_all_the_time_is_caught() -> None:
    async with guarded() as guard:
        process, tree = await spawn_nasty(guard, "comet")
        assert (await process.stop(0.05)).signal == signal.SIGTERM
        assert not in_group(tree[-1])
        await process.aclose()


async def test_all_that_a_process_said_is_read_and_no_more_than_that() -> None:
    async with guarded() as guard:
        # Its last words are in the pipe when it has ended, and somebody else holds that.
        process = await shell(guard, "head -c 50000 /dev/zero; read line; head -c 5000 /dev/zero")
        held = os.open(f"/proc/{process.pid}/fd/1", os.O_WRONLY)
        try:
            sizes = []
            while sum(sizes) < 50_000:
                sizes.append(len(await process.read()))
            assert process.stdin is not None
            await process.stdin.aclose()
            assert (await process.wait()).code == 0
            assert len(await process.read()) == 5000
            assert await process.read() == b""
        finally:
            os.close(held)
            await process.aclose()


async def test_a_read_that_waits_comes_to_its_end_with_the_process() -> None:
    async with guarded() as guard:
        process = await shell(guard, "read line")
        held = os.open(f"/proc/{process.pid}/fd/1", os.O_WRONLY)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.stop)
                assert await process.read() == b""
            assert process.ended is not None
            # One who goes on writing is not read for ever.
            total = 0

            async def write() -> None:
                while True:
                    await trio.to_thread.run_sync(os.write, held, bytes(60_000), abandon_on_cancel=True)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                while data := await process.read():
                    total += len(data)
                nursery.cancel_scope.cancel()
            assert total == MIB
        finally:
            await process.aclose()
            os.close(held)


async def test_aclose_leaves_nothing_even_when_cancelled() -> None:
    async with guarded() as guard:
        with trio.CancelScope() as scope:
            process, tree = await spawn_nasty(guard, *ALL_TRICKS)
            async with process:
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert not present(tree)


async def test_the_end_of_the_guard_is_the_end_of_all() -> None:
    async with guarded() as guard:
        process, tree = await spawn_nasty(guard, *ALL_TRICKS)
        pid = guard.statistics().pid
        assert pid is not None
        tree += [pid, *children(pid)]
    assert not present(tree)
    assert (await process.wait()).signal == signal.SIGKILL
    with pytest.raises(PeerError, match="the daemon is ending"):
        await shell(guard, "true")
    await process.aclose()


async def test_every_caller_of_stop_waits_for_the_same_end_and_the_shortest_grace_holds() -> None:
    async with guarded() as guard:
        process, tree = await spawn_nasty(guard, "deaf", "session")
        ends: list[Ended] = []

        async def stop(grace: float) -> None:
            ends.append(await process.stop(grace))
            assert not present(tree)

        async with trio.open_nursery() as nursery:
            for grace in (3600, 3600, 0.05, 3600):
                nursery.start_soon(stop, grace)
        ends += [await process.stop(3600), await process.wait()]
        assert len(ends) == 6
        assert all(ended is ends[0] for ended in ends)
        await process.aclose()


async def test_a_cancelled_stop_kills_at_once_and_is_complete() -> None:
    async with guarded() as guard:
        process, tree = await spawn_nasty(guard, *ALL_TRICKS)
        with trio.move_on_after(0.05) as scope:
            await process.stop(3600)
        assert scope.cancelled_caught
        assert not present(tree)
        await process.aclose()


async def test_fifty_at_once() -> None:
    async with guarded(Limits(processes_max=50)) as guard:
        trees: list[int] = []

        async def use(number: int) -> None:
            process, tree = await spawn_nasty(guard, "session", "daemon")
            trees.extend(tree)
            async with process:
                if number % 2:
                    await process.stop(0.05)
                elif process.stdin is not None:
                    await process.stdin.aclose()
                    assert (await process.wait()).code == 0

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(use, number)
        assert len(trees) == 150
        assert not present(trees)


async def test_orphans_are_reaped_while_their_leader_lives() -> None:
    async with guarded() as guard:
        process = await shell(guard, "(setsid sh -c 'echo $$; read line </dev/null' &) ; cat")
        orphan = int(await read_until(process.stdout, b"\n"))
        await until_gone([orphan])
        assert process.ended is None
        await process.aclose()


# ------------------------------------------------------------ cancelled starts
async def test_a_spawn_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    """Cancelled at every checkpoint that it has, the start of the guard included, and before it."""
    told = tmp_path / "pids"
    begun = 0
    for at in range(1, 60):
        async with guarded() as guard:
            with trio.CancelScope() as scope, cancelled_at(scope, at):
                text = f"echo $$ >> {told}; exec sleep 1000"
                process: Process | None = await guard.spawn(["sh", "-c", text], cwd="/", env=ENV)
            if not scope.cancelled_caught:
                assert process is not None
                await process.aclose()
                begun += 1
            assert guard.statistics().processes == 0
            pids = [int(line) for line in told.read_text().splitlines()] if told.exists() else []
            assert not present(pids)
        if begun:
            break
    assert begun, "no start had fewer than 60 steps"
    assert at > 3


# ------------------------------------------------------------ deaths
async def guard_pid(guard: Guard) -> int:
    pid = guard.statistics().pid
    assert pid is not None
    return pid


async def test_a_killed_guard_takes_all_with_it_and_the_next_child_gets_a_new_one() -> None:
    async with guarded() as guard:
        before = descriptors()
        trees, processes = [], []
        for _ in range(3):
            process, tree = await spawn_nasty(guard, *ALL_TRICKS)
            processes.append(process)
            trees += tree
        old = await guard_pid(guard)
        os.kill(old, signal.SIGKILL)
        for process in processes:
            ended = await process.wait()
            assert (ended.code, ended.error) == (None, "the guard of child processes died")
        assert not present(trees)
        for process in processes:
            await process.stop()
            await process.aclose()
        async with await shell(guard, "exit 6") as process:
            assert (await process.wait()).code == 6
        assert await guard_pid(guard) != old
        assert guard.statistics().guards == 2
        assert len(descriptors() - before) <= 2


async def test_a_killed_keeper_takes_its_child_with_it_and_no_other() -> None:
    async with guarded() as guard:
        other, other_tree = await spawn_nasty(guard, *ALL_TRICKS)
        process, tree = await spawn_nasty(guard, *ALL_TRICKS)
        os.kill(parent(process.pid), signal.SIGKILL)
        assert (await process.wait()).error == "its keeper was killed"
        await until_gone(tree)
        assert present(other_tree) == other_tree
        assert other.ended is None
        await process.aclose()
        await other.aclose()


async def test_children_die_with_guard_and_keepers_killed_together() -> None:
    async with guarded() as guard:
        processes = [await shell(guard, "cat") for _ in range(3)]
        pids = [await guard_pid(guard), *(parent(process.pid) for process in processes)]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # none of them can do anything about it
            for pid in pids:
                os.kill(pid, number)
        for process in processes:
            assert (await process.wait()).error == "the guard of child processes died"
            await until(lambda pid=process.pid: has_ended(pid))
            await process.aclose()


async def test_the_guard_is_light_in_a_session_of_its_own_and_started_with_the_first_child() -> None:
    others = set(children(os.getpid()))
    async with guarded() as guard:
        assert guard.statistics().guards == 0
        assert set(children(os.getpid())) <= others
        process = await shell(guard, "cat")
        pid = await guard_pid(guard)
        assert stat_fields(pid)[3] == str(pid)
        assert anonymous_kib(pid) < 6 * 1024
        # What ends the daemon is sent to the guard as well by some (a service manager): it waits for the daemon.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
            os.kill(parent(process.pid), number)
        assert process.stdin is not None
        await process.stdin.send_all(b"still here\n")
        await read_until(process.stdout, b"still here\n")
        await process.aclose()
    assert not present([pid])


DAEMON = """
import os, sys, trio
sys.path[:0] = sys.argv[1:2]
from tests.actors.processes import *

async def main():
    async with open_guard() as guard:
        trees, held = [], []
        for _ in range(2):
            process, tree = await spawn_nasty(guard, *ALL_TRICKS)
            held.append(process)
            trees += tree
        pid = guard.statistics().pid
        print(pid, *children(pid), *trees, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_nothing_survives_a_killed_daemon() -> None:
    with trio.fail_after(DEADLINE):
        daemon = await trio.lowlevel.open_process([sys.executable, "-c", DAEMON, ROOT], stdout=-1)
        assert daemon.stdout is not None
        async with daemon.stdout:
            try:
                pids = [int(pid) for pid in (await read_until(daemon.stdout, b"\n")).split()]
                assert len(pids) == 3 + 2 * 16
                assert present(pids) == pids
            finally:
                daemon.kill()
                await daemon.wait()
            with trio.fail_after(DEADLINE):
                await until_gone(pids[1:])
                await until(lambda: has_ended(pids[0]))  # when it is reaped is the init process's matter


ADOPTING = """
import os, signal, sys, trio
sys.path[0:0] = sys.argv[1:2]
from tests.actors.processes import *

async def main():
    with trio.fail_after(60):
        async with open_guard(adopts=True) as guard:
            first, _ = await spawn_nasty(guard, *ALL_TRICKS)
            await first.aclose()
            alone = [guard.statistics().pid]
            assert children(os.getpid()) == alone, "what ends in good order is no child of ours"
            spawned = [await spawn_nasty(guard, *ALL_TRICKS, "comet") for _ in range(2)]
            pids = [*alone, *(parent(process.pid) for process, _ in spawned)]
            for number in (signal.SIGSTOP, signal.SIGKILL):  # none of them can do anything about it
                for pid in pids:
                    os.kill(pid, number)
            async with trio.open_nursery() as nursery:
                for process, tree in spawned:
                    assert (await process.wait()).error == "the guard of child processes died"
                    assert not present(tree), "all are gone when that is told"
                    nursery.start_soon(process.aclose)
            assert children(os.getpid()) == []
            async with await shell(guard, "exit 6") as process:
                assert (await process.wait()).code == 6
            os.kill(guard.statistics().pid, signal.SIGKILL)  # and keepers have nothing to do
            await until(lambda: not children(os.getpid()))
        assert children(os.getpid()) == []
    if os.path.exists("/proc/self"):
        orphan = "import os; os.fork() or os.setsid(); os.execvp('sleep', ['sleep', '1000'])"
        parent_of_it = await trio.lowlevel.open_process([sys.executable, "-c", orphan])
        await until(lambda: bool(children(parent_of_it.pid)))
        (left,) = children(parent_of_it.pid)
        parent_of_it.kill()
        await parent_of_it.wait()
        try:
            assert left not in children(os.getpid()), "nobody would wait for it any more"
        finally:
            os.kill(left, signal.SIGKILL)
    print("as it should be")

trio.run(main)
"""


async def test_a_daemon_ends_what_guard_and_keepers_killed_together_leave() -> None:
    """In a process of its own: it kills all children that it did not start."""
    done = await trio.run_process([sys.executable, "-c", ADOPTING, ROOT], capture_stdout=True)
    assert done.stdout == b"as it should be\n"


CLOSED = """
import os, sys, trio
sys.path[:0] = sys.argv[1:2]
from tests.actors.processes import *

async def main():
    async with open_guard() as guard:
        async with await guard.spawn(["sh", "-c", "cat; echo out; echo err >&2"], cwd="/", env=ENV) as process:
            out, err = await read_all(process.stdout), await read_all(process.stderr)
            with open(sys.argv[2], "wb") as file:
                file.write(out + err + str(await process.wait()).encode())

for number in (0, 1, 2):
    os.close(number)
trio.run(main)
"""


async def test_it_works_when_the_daemon_has_no_standard_streams(tmp_path: Path) -> None:
    with trio.fail_after(DEADLINE):
        await trio.run_process([sys.executable, "-c", CLOSED, ROOT, str(tmp_path / "out")])
    assert (tmp_path / "out").read_bytes() == b"out\nerr\nexit code 0"


async def test_descriptors_are_back_at_their_number() -> None:
    with trio.fail_after(DEADLINE):
        before = descriptors()
        for _ in range(2):
            async with guarded() as guard:
                for tricks in (["leave"], ["session"], ["daemon"]):
                    process, _ = await spawn_nasty(guard, *tricks)
                    await process.aclose()
                with pytest.raises(PeerError):
                    await guard.spawn(["no-such-program"], cwd="/", env=ENV)
                with trio.move_on_after(0):
                    await guard.spawn(nasty(), cwd="/", env=ENV)
        assert descriptors() == before
