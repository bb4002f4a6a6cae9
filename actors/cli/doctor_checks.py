"""What `greenroom doctor` is made of: a check, what came of it, and all of them side by side, each with a deadline.

What is shown comes from servers, files and the system: it passes `clean`, so that nothing of it is obeyed by a terminal
and no secret that is known is shown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Literal

import attrs
import trio

from actors.cli.output import neutral
from actors.logs import redact
from engine.tools.explain import explain

State = Literal["good", "warning", "failed", "skipped"]

# Checks at the same time: programs of tool servers are started by some.
AT_ONCE: Final = 8
# Seconds after which is told what is waited for.
PROGRESS: Final = 2.0
# Of a text from outside: a server's last lines are of some hundred characters.
_CHARACTERS: Final = 2000
_LINES: Final = 12


def clean(text: str) -> str:
    """Bounded, without what a terminal obeys and without known secrets; its lines stay."""
    lines = [line.rstrip() for line in neutral(redact(text)[: 2 * _CHARACTERS]).replace("\t", " ").splitlines()]
    kept = "\n".join([line for line in lines if line][:_LINES])
    return kept if len(kept) <= _CHARACTERS else kept[: _CHARACTERS - 1] + "…"


def _clean_all(sentences: Iterable[str]) -> tuple[str, ...]:
    return tuple(clean(sentence) for sentence in sentences)


@attrs.frozen(slots=True)
class Result:
    """`advice` is what to do, a sentence each."""

    state: State
    text: str = attrs.field(converter=clean)
    advice: tuple[str, ...] = attrs.field(default=(), converter=_clean_all)


def good(text: str) -> Result:
    return Result("good", text)


def warning(text: str, *advice: str) -> Result:
    return Result("warning", text, advice)


def failed(text: str, *advice: str) -> Result:
    return Result("failed", text, advice)


def skipped(text: str, *advice: str) -> Result:
    return Result("skipped", text, advice)


@attrs.frozen(slots=True, kw_only=True)
class Check:
    """`work` may raise; whatever it does is cancelled at the deadline and then has given back what it took."""

    area: str
    name: str
    work: Callable[[], Awaitable[Result]]

    @property
    def title(self) -> str:
        return f"{self.area} {self.name}".strip()


def known(area: str, name: str, result: Result) -> Check:
    """A check whose result is there already."""

    async def work() -> Result:
        await trio.lowlevel.checkpoint()
        return result

    return Check(area=area, name=name, work=work)


def of(area: str, name: str, look: Callable[[], Result]) -> Check:
    """A check that looks at files or the system, in a thread: a disk may be stuck. Then the thread is left behind."""

    async def work() -> Result:
        return await trio.to_thread.run_sync(look, abandon_on_cancel=True)

    return Check(area=area, name=name, work=work)


async def run(
    checks: Sequence[Check],
    seconds: float,
    told: Callable[[Check, Result], None],
    waiting: Callable[[Sequence[Check]], None] = lambda checks: None,
) -> None:
    """Run all of them. `told` gets each with its result, in their order, as soon as those before it are done;
    `waiting` now and then those that are at work. A check gets `seconds`."""
    results: dict[int, Result] = {}
    at_work: dict[int, Check] = {}
    changed = trio.Event()
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def one(number: int, check: Check) -> None:
        nonlocal changed
        async with limiter:
            at_work[number] = check
            results[number] = await _result(check, seconds)
            del at_work[number]
        changed.set()
        changed = trio.Event()

    async def progress() -> None:
        while True:
            await trio.sleep(PROGRESS)
            waiting([at_work[number] for number in sorted(at_work)])

    async with trio.open_nursery() as nursery:
        for number, check in enumerate(checks):
            nursery.start_soon(one, number, check)
        nursery.start_soon(progress)
        for number, check in enumerate(checks):
            while number not in results:
                await changed.wait()
            told(check, results[number])
        nursery.cancel_scope.cancel(reason="all checks are done")


async def _result(check: Check, seconds: float) -> Result:
    try:
        with trio.move_on_after(seconds):
            return await check.work()
    except Exception as exc:  # noqa: BLE001 - one check that fails must not end the others
        return failed(explain(exc))
    return failed(f"no result within {seconds:g} s", "look why it is so slow, or give it longer: --timeout")
