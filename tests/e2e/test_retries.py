"""Faults of a model's service in another process: attempts and their time are bounded, each wait is seen, stop is
not held up, and what is stored is whole."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from engine import ids
from tests.e2e.wire import DaemonProcess, Wire, connect, daemon
from tests.model_server import ModelServer, model_server

LIMIT = 120.0
ATTEMPTS = 3


@attrs.frozen
class Fault:
    """What the service does, and what comes of it."""

    text: str
    code: str = "provider_error"
    attempts: int = ATTEMPTS
    shown: str = ""  # of each attempt's answer
    says: str = ""
    model: str = "real"
    hangs: bool = False  # the service goes on until the client leaves

    def __str__(self) -> str:
        return f"{self.text} {self.model}"


FAULTS = [
    Fault("hello", model="refused", says="Connection refused"),
    Fault("!hang", "provider_timeout", hangs=True),
    Fault("!slow_head", "provider_timeout", hangs=True),
    Fault("!silence", "provider_timeout", shown="partial ", hangs=True),
    Fault("!status code=500", says="500"),
    Fault("!status code=429", says="429"),
    Fault("!status code=429 retry_after=604800", says="a pause of 7 days"),
    Fault("!status code=503 retry_after=1"),
    Fault("!cut", shown="partial "),
    Fault("!cut where=chunk", shown="partial "),
    Fault("!cut where=head"),
    Fault("!ended", shown="partial "),
    Fault("!error_midstream", shown="partial ", says="overloaded"),
    Fault("!html", attempts=1, says="a web page"),
    Fault("!error200", attempts=1, says="no such deployment"),
    Fault("!error200 kind=overloaded_error", says="no such deployment"),
    Fault("!status code=401", attempts=1, says="401"),
    Fault("!status code=529 kind=overloaded_error", model="messages", says="529"),
    Fault("!silence", "provider_timeout", shown="partial ", model="messages", hangs=True),
    Fault("!cut", shown="partial ", model="messages"),
    Fault("!html", attempts=1, model="messages", says="a web page"),
    Fault("!error200", attempts=1, model="messages", says="no such deployment"),
]
each_fault = pytest.mark.parametrize("fault", FAULTS, ids=str)


@pytest.fixture(scope="module")
def service() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture(scope="module")
def refusing() -> Iterator[int]:
    """A port that is taken and does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def config(service: ModelServer, refusing: int, limits: str) -> str:
    return f"""
        default_model = "real"
        [models.real]
        provider = "openai"
        base_url = "{service.url}"
        model = "theirs"
        [models.messages]
        provider = "anthropic"
        base_url = "{service.url}"
        model = "theirs"
        [models.refused]
        provider = "openai"
        base_url = "http://127.0.0.1:{refusing}/v1"
        model = "theirs"
        [limits]
        model_attempts = {ATTEMPTS}
        {limits}
    """


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, service: ModelServer, refusing: int) -> Iterator[DaemonProcess]:
    """A daemon that waits next to nothing."""
    limits = """
        progress_timeout = "800ms"
        retry_delay_first = "5ms"
        retry_delay_max = "20ms"
        retry_after_max = "30ms"
    """
    with daemon(tmp_path_factory.mktemp("quick") / "data", config(service, refusing, limits)) as process:
        yield process


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, service: ModelServer, refusing: int) -> Iterator[DaemonProcess]:
    """A daemon whose waits are longer than any test."""
    limits = """
        progress_timeout = "10min"
        retry_delay_first = "2min"
        retry_delay_max = "10min"
        retry_after_max = "10min"
    """
    with daemon(tmp_path_factory.mktemp("patient") / "data", config(service, refusing, limits)) as process:
        yield process


class Run:
    """One run and its watcher."""

    def __init__(self, wire: Wire, started: dict[str, Any], word: str) -> None:
        self.wire = wire
        self.id = started["run"]["id"]
        self.session = started["run"]["session_id"]
        self.watch = started["watch_id"]
        self.word = word  # in what the service is sent
        self.told: list[dict[str, Any]] = []

    @classmethod
    async def start(cls, wire: Wire, text: str, model: str, folder: Path) -> Run:
        session = (await wire.request("session.create", cwd=str(folder), model=model))["session"]
        word = ids.new_id("w").removeprefix("w_")
        started = await wire.request("run.start", session_id=session["id"], text=f"{text} id={word}", watch=True)
        return cls(wire, started, word)

    async def until(self, kind: str) -> None:
        while not self.told or self.told[-1]["type"] != kind:
            event = await self.wire.event(self.watch)
            assert event is not None, self.told
            self.told.append(event)

    async def finish(self) -> dict[str, Any]:
        self.told += await self.wire.events(self.watch)
        assert self.told[-1]["type"] == "run.finished"
        return self.told[-1]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.told if event["type"] == kind]

    async def answers(self) -> list[dict[str, Any]]:
        """The stored answers, after each was found whole: finished, its marks in place, every call with its result,
        and the text that was shown."""
        page = await self.wire.request("session.messages", session_id=self.session)
        messages: list[dict[str, Any]] = page["messages"]
        assert messages[0]["info"]["role"] == "user"
        shown = {part["part_id"]: "" for part in self.of("part.started")}
        for delta in self.of("part.delta"):
            shown[delta["part_id"]] += delta["text"]
        stored = {}
        for message in messages[1:]:
            first, *middle, last = message["parts"]
            assert message["info"]["finished_at"] and message["info"]["finish"] == last["finish"]
            assert (first["kind"], last["kind"]) == ("step-start", "step-finish")
            for part in middle:
                assert part["kind"] in ("retry", "text", "reasoning", "tool")
                assert part["kind"] != "tool" or (part["state"] in ("completed", "error"))
                if part["kind"] != "retry":
                    stored[part["id"]] = part.get("text", "")
        assert stored == shown and [p["part_id"] for p in self.of("part.finished")] == list(stored)
        assert [m["info"]["id"] for m in messages[1:]] == [turn["message_id"] for turn in self.of("turn.started")]
        return messages[1:]

    async def goes_on(self) -> None:
        """The session takes the next message, with a history that a service accepts."""
        again = await self.wire.request("run.start", session_id=self.session, text="hello", model="real", watch=True)
        assert (await self.wire.events(again["watch_id"]))[-1]["status"] == "completed"


@each_fault
async def test_a_fault_that_stays_ends_the_run(
    quick: DaemonProcess, service: ModelServer, tmp_path: Path, fault: Fault
) -> None:
    with trio.fail_after(LIMIT):
        async with connect(quick.folder) as wire:
            run = await Run.start(wire, fault.text, fault.model, tmp_path)
            end = await run.finish()
            assert (end["status"], end["error"]["code"]) == ("failed", fault.code)
            assert fault.says in end["error"]["message"]
            assert (f"given up after {ATTEMPTS} attempts" in end["error"]["message"]) is (fault.attempts > 1)
            retries = run.of("retry.scheduled")
            assert [(r["attempt"], r["max_attempts"]) for r in retries] == [
                (attempt, ATTEMPTS) for attempt in range(2, fault.attempts + 1)
            ]
            for retry in retries:
                assert 5 <= retry["delay_ms"] <= 30 and fault.says in retry["reason"]
            if fault.model != "refused":
                asked = [one for one in service.requests() if run.word in str(one["body"])]
                assert len(asked) == fault.attempts
                assert all(one["body"] == asked[0]["body"] for one in asked), "each attempt is shown the same"
            answers = await run.answers()
            assert len(answers) == (fault.attempts if fault.shown else 1)
            for answer in answers:
                assert answer["info"]["finish"] == "error" and answer["info"]["error"]["code"] == fault.code
                texts = [part["text"] for part in answer["parts"] if part["kind"] == "text"]
                assert texts == ([fault.shown] if fault.shown else [])
            assert [turn["turn"] for turn in run.of("turn.started")] == [1] * len(answers)
            kept = [part for answer in answers for part in answer["parts"] if part["kind"] == "retry"]
            assert [(r["attempt"], r["delay_ms"]) for r in kept] == [(r["attempt"], r["delay_ms"]) for r in retries]
            await run.goes_on()


@each_fault
async def test_stop_is_not_held_up(patient: DaemonProcess, service: ModelServer, tmp_path: Path, fault: Fault) -> None:
    """Whatever the run waits for would last longer than the test."""
    with trio.fail_after(LIMIT):
        async with connect(patient.folder) as wire, connect(patient.folder) as other:
            run = await Run.start(wire, fault.text, fault.model, tmp_path)
            if fault.hangs:
                asked = await trio.to_thread.run_sync(service.asked, run.word, abandon_on_cancel=True)
                if fault.shown:
                    await run.until("part.delta")
            elif fault.attempts > 1:
                await run.until("retry.scheduled")
                (waiting,) = (await wire.request("run.list", session_id=run.session, active=True))["runs"]
                assert waiting["status"] == "running"
            stopped = (await other.request("run.stop", run_id=run.id, reason="enough"))["run"]
            if fault.attempts > 1:
                assert stopped["status"] == "cancelled" == (await run.finish())["status"]
            else:  # such a run may have ended by itself meanwhile
                assert stopped["status"] in ("cancelled", "failed")
                await run.finish()
            if fault.hangs:
                ended = await trio.to_thread.run_sync(service.ended, asked["number"], abandon_on_cancel=True)
                assert ended["end"] == "closed"
            answers = await run.answers()
            retried = len(run.of("retry.scheduled"))
            assert [answer["info"]["finish"] for answer in answers[:-1]] == ["error"] * (retried if fault.shown else 0)
            await run.goes_on()


@pytest.mark.parametrize("how", ["status", "cut", "error_midstream", "silence"])
@pytest.mark.parametrize("model", ["real", "messages"])
async def test_a_fault_that_passes_is_passed_over(
    quick: DaemonProcess, service: ModelServer, tmp_path: Path, how: str, model: str
) -> None:
    with trio.fail_after(LIMIT):
        async with connect(quick.folder) as wire:
            run = await Run.start(wire, f"!flaky fails=2 how={how}", model, tmp_path)
            end = await run.finish()
            assert end["status"] == "completed" and len(run.of("retry.scheduled")) == 2
            answers = await run.answers()
            partial = [] if how == "status" else ["partial "] * 2
            texts = [part["text"] for answer in answers for part in answer["parts"] if part["kind"] == "text"]
            assert texts == [*partial, "Hello from the model server."]
            finishes = [answer["info"]["finish"] for answer in answers]
            assert finishes == ["error"] * len(partial) + ["stop"]
            await run.goes_on()
            # The next run shows what was said in the end, and none of the attempts that failed.
            (last,) = service.requests()[-1:]
            assert "Hello from the model server." in str(last["body"]) and "partial" not in str(last["body"])
