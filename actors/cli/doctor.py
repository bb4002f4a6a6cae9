"""`greenroom doctor`: checks, and what to do about what they find."""

from __future__ import annotations

import contextlib
import math
import ssl
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from actors._guard import open_guard
from actors._http import HttpClient
from actors._spool import open_spools
from actors.cli import doctor_data, doctor_models, doctor_system, doctor_tools
from actors.cli.arguments import Arguments
from actors.cli.doctor_checks import Check, Result, failed, good, known, of, run, warning
from actors.cli.doctor_daemon import see
from actors.cli.exits import CANCELLED, FAILED, GOOD, USAGE, Exit
from actors.cli.output import columns, note, say, say_json
from actors.cli.settings import read_config, seconds
from actors.cli.stopping import until_signalled
from actors.gateway.listeners import tls_context
from actors.places import config_file, data_dir
from engine.config import Config, Tls

_STATES: Final = 8  # columns of a result's state
_TITLE: Final = 22  # and of its title, if it fits
_NOT_NOW: Final = (9, 10)  # OpenSSL's numbers for a certificate that holds not yet, or no more
_FLIGHTS: Final = 4  # that each side of a handshake has at the most
_DAYS: Final = 14  # before a certificate's end


def main(arguments: Arguments) -> int:
    limit = seconds("--timeout", arguments.timeout)
    report = _Report(arguments.json)
    config, mistakes = _read(arguments)
    work = partial(_examine, arguments, config, mistakes, limit, report)
    if not trio.run(until_signalled, work, False):  # programs that it has started have ended in any case
        return CANCELLED
    return report.close(USAGE if mistakes else None)


def _read(arguments: Arguments) -> tuple[Config, tuple[str, ...]]:
    """The configuration, or the defaults and what is wrong with it."""
    try:
        return read_config(arguments.config), ()
    except Exit as exc:
        return Config(), exc.lines


async def _examine(
    arguments: Arguments, config: Config, mistakes: Sequence[str], limit: float, report: _Report
) -> bool:
    folder = data_dir(arguments.data)
    await run(
        [*_of_config(arguments, config, mistakes), *doctor_data.checks(folder, config.limits)], limit, report, _wait
    )
    seen = await see(folder)
    checks = list(seen.checks)
    if seen.pid is None and not mistakes:
        checks.append(of("daemon", "address", lambda: doctor_data.address(config)))
    async with contextlib.AsyncExitStack() as stack:
        if not mistakes:
            http = await stack.enter_async_context(_http(config))
            temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="greenroom-doctor-")))
            spools = await stack.enter_async_context(open_spools(temporary, config.limits))
            guard = await stack.enter_async_context(open_guard(config.limits))
            checks += doctor_models.checks(
                config, http, offline=arguments.offline, call=arguments.call, daemon=seen.variables
            )
            checks += doctor_tools.checks(config, guard, spools, offline=arguments.offline, daemon=seen.toolsets)
        checks += doctor_system.checks(config.limits, seen.pid)
        await run(checks, limit, report, _wait)
    return True


@contextlib.asynccontextmanager
async def _http(config: Config) -> AsyncIterator[HttpClient]:
    client = HttpClient(config.limits)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        try:
            yield client
        except Exception as exc:  # noqa: BLE001 - raised again below, outside the nursery's group
            failure = exc
        nursery.cancel_scope.cancel(reason="all is checked")
    await client.aclose()
    if failure is not None:
        raise failure


def _of_config(arguments: Arguments, config: Config, mistakes: Sequence[str]) -> Iterator[Check]:
    path = Path(arguments.config).expanduser() if arguments.config is not None else config_file()
    for mistake in mistakes:
        advice = "correct it (`greenroom config` prints every setting); models and tools are checked then"
        yield known("configuration", "", failed(mistake, advice))
    if not mistakes:
        where = str(path) if path.exists() else f"{path} is not there, the defaults hold"
        what = (
            f"models {' '.join(config.models)} (default {config.default_model}), toolsets {' '.join(config.toolsets)}"
        )
        yield known("configuration", "", good(f"{where}: {what}"))
    tls = config.tls
    if tls is not None:
        yield of("configuration", "tls", lambda: _tls(tls))


def _tls(tls: Tls) -> Result:
    try:
        context = tls_context(tls)
    except OSError as exc:
        text = f"{exc.filename or tls.cert_file}: {exc.strerror or exc}"
        return failed(text, "correct cert_file and key_file in [tls]: both PEM, the key without a password")
    return _dates(tls, context)


def _dates(tls: Tls, context: ssl.SSLContext) -> Result:
    """As a client sees them that trusts this very certificate: a handshake in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(tls.cert_file)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, served = client.wrap_bio(back, there), context.wrap_bio(there, back, server_side=True)
    known = f"{tls.cert_file} with its key"
    renew = "renew it and start the daemon anew: clients refuse it"
    try:
        for side in (ours, served) * _FLIGHTS:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as exc:
        # Of what it is for, and who may trust it, nothing is known here.
        return failed(f"{known}: {exc.verify_message}", renew) if exc.verify_code in _NOT_NOW else good(known)
    except ssl.SSLError:
        return good(known)
    ends = str((ours.getpeercert() or {}).get("notAfter", ""))
    days = (ssl.cert_time_to_seconds(ends) - time.time()) / 86400 if ends else math.inf
    return warning(f"{known}: it ends on {ends}", "renew it") if days < _DAYS else good(known)


# ------------------------------------------------------------------ what is shown
def _wait(checks: Sequence[Check]) -> None:
    if checks:
        note(f"… waiting for {', '.join(check.title for check in checks)}")


class _Report:
    """Shows results as they come, or all of them as JSON at the end."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._checks: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()

    def __call__(self, check: Check, result: Result) -> None:
        self._counts[result.state] += 1
        if self._as_json:
            told = {"area": check.area, "name": check.name, "state": result.state, "text": result.text}
            self._checks.append({**told, "advice": list(result.advice)})
            return
        # In a pipe each sentence is one line, to be searched.
        for line in lines(check, result, columns() if sys.stdout.isatty() else sys.maxsize):
            say(line)

    def close(self, code: int | None) -> int:
        """The exit code, `code` if that is known already."""
        code = code if code is not None else FAILED if self._counts["failed"] else GOOD
        if self._as_json:
            say_json({"exit": code, **{state: self._counts[state] for state in _ALL}, "checks": self._checks})
        else:
            say(", ".join(f"{self._counts[state]} {state}" for state in _ALL if self._counts[state]))
        return code


_ALL: Final = ("good", "warning", "failed", "skipped")


def lines(check: Check, result: Result, width: int) -> list[str]:
    """A result as lines: state, title and text, and below them what to do."""
    before = f"{result.state:{_STATES}} {check.title:{_TITLE}} "
    indent = " " * (_STATES + 1)
    wide = max(width, 60)
    found: list[str] = []
    for number, line in enumerate(result.text.splitlines() or [""]):
        first = before if number == 0 else f"{indent}  "
        found += textwrap.wrap(line, wide, initial_indent=first, subsequent_indent=f"{indent}  ", **_WRAP) or [
            first.rstrip()
        ]
    for sentence in result.advice:
        found += textwrap.wrap(sentence, wide, initial_indent=f"{indent}→ ", subsequent_indent=f"{indent}  ", **_WRAP)
    return found


# What is to be copied (a path, a command's option) is not broken.
_WRAP: Final[Any] = {"break_long_words": False, "break_on_hyphens": False}
