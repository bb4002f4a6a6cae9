"""`greenroom doctor`: each model's service, asked what models it has, and if wanted for one word."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import attrs

from actors._http import HttpClient
from actors.cli.doctor_checks import Check, Result, failed, good, known, skipped, warning
from actors.models import Models, read_key, service
from engine.config import Config, ModelConfig
from engine.config_checks import meant
from engine.errors import PeerError
from engine.ids import message_id, part_id
from engine.limits import MIB, Limits
from engine.providers.base import ModelRequest, ReasoningDelta, TextDelta
from engine.providers.faults import error_from_status, printable
from engine.transcript.records import Message, TextPart, UserMessage

# Of a list of models: services with hundreds of them send some 100 KiB.
_LIST_BYTES: Final = 4 * MIB
_ERROR_BYTES: Final = 16 * 1024
# Names that are told when the one that is wanted is not among them.
_NAMES: Final = 10
# An answer of one word, with what a model may think before it.
_ANSWER_TOKENS: Final = 2048
_QUESTION: Final = "Answer with the one word: ready"


def checks(
    config: Config, http: HttpClient, *, offline: bool, call: bool, daemon: frozenset[str] | None
) -> Iterator[Check]:
    """`daemon` has the names of a running daemon's environment."""
    for name, model in config.models.items():
        if model.provider == "demo":
            yield known("model", name, good("needs no network"))
        elif offline:
            yield known("model", name, skipped("--offline"))
        else:
            work = partial(check, http, name, model, config.limits, call=call, daemon=daemon)
            yield Check(area="model", name=name, work=work)


async def check(
    http: HttpClient,
    name: str,
    config: ModelConfig,
    limits: Limits,
    *,
    call: bool = False,
    daemon: frozenset[str] | None = None,
) -> Result:
    place = f"[models.{name}]"
    try:
        key, source = await read_key(config, os.environ)
    except PeerError as exc:
        return failed(exc.message, _key_advice(config, place))
    base, headers = service(config, key)
    try:
        result = await _list(http, config, base, headers, place, source)
    except PeerError as exc:
        return failed(f"{base}: {exc.message}", _connect_advice(exc, place))
    if result.state != "failed" and call:
        result = await _call(name, config, limits, result)
    variable = config.api_key_env
    if result.state == "good" and variable is not None and daemon is not None and variable not in daemon:
        return warning(
            f"{result.text}; but the daemon that runs was started without {variable}",
            "set it where the daemon is started (EnvironmentFile= of its unit), and start it anew",
        )
    return result


def _key_advice(config: ModelConfig, place: str) -> str:
    if config.api_key_env is not None:
        return f"set {config.api_key_env} where the daemon is started, or name another variable in {place}"
    return f"put the key, one line, into {config.api_key_file}, or name another file in {place}"


def _connect_advice(exc: PeerError, place: str) -> str:
    said = exc.message.lower()
    if "refused" in said:
        return f"start the service, or correct host and port of base_url in {place}"
    if "certificate" in said:
        return "name who has signed its certificate in SSL_CERT_FILE, or correct the host of base_url"
    if any(word in said for word in ("name or service", "name resolution", "no address")):
        return f"correct the host of base_url in {place}, or look at this machine's network"
    return f"look at the network, a proxy (HTTPS_PROXY), and base_url in {place}"


async def _list(
    http: HttpClient, config: ModelConfig, base: str, headers: dict[str, str], place: str, source: str | None
) -> Result:
    url = f"{base}/models" + ("?limit=1000" if config.provider == "anthropic" else "")
    headers = {"accept": "application/json", "user-agent": "greenroom", **headers}
    async with http.get(url, headers) as answer:
        status, head = answer.status, await answer.head(_LIST_BYTES if answer.status == 200 else _ERROR_BYTES)
        answer_headers = answer.headers
    if status == 200:
        return _judge_list(config, base, head, place, source)
    if 300 <= status < 400:
        there = printable(answer_headers.get("location", "elsewhere"), 200)
        return failed(f"{base} sends on to {there}, and redirects are not followed", f"correct base_url in {place}")
    error = error_from_status(status, answer_headers, head, model=config.model or "", url=url, key_source=source)
    if status in (401, 403):
        if source is None:
            return failed(error.message, f"name the variable that has the key: api_key_env in {place}")
        return failed(error.message, f"put a key that the service takes into {source}")
    if status in (404, 405, 501):
        return warning(
            f"{base} answers, but lists no models (HTTP {status}): whether it has {config.model} is not known",
            f"greenroom doctor --call asks it; if that fails too, base_url in {place} is wrong (it mostly ends in /v1)",
        )
    if status == 429:
        return warning(error.message, "wait, or look at the account's limits at the service")
    return failed(error.message, "look at the service's own log or status page")


def _judge_list(config: ModelConfig, base: str, body: bytes, place: str, source: str | None) -> Result:
    names = _names(body)
    if names is None:
        return warning(
            f"{base} answers, but with no list of models",
            f"is base_url in {place} right? It mostly ends in /v1; greenroom doctor --call asks the model",
        )
    key = f", takes the key of {source}" if source is not None else ", without a key"
    if config.model in names:
        return good(f"{base} answers{key}, and has {config.model}")
    some = ", ".join(printable(name, 100) for name in sorted(names)[:_NAMES])
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return warning(
        f"{base} answers{key}, but does not list {config.model}{meant(config.model or '', names)}",
        f"correct `model` in {place}: it lists {some}{more}" if names else f"it lists none: correct {place}",
    )


def _names(body: bytes) -> list[str] | None:
    try:
        told: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    listed = told.get("data") if isinstance(told, dict) else None
    if not isinstance(listed, list):
        return None
    return [entry["id"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


async def _call(name: str, config: ModelConfig, limits: Limits, before: Result) -> Result:
    """A real call, left as soon as the model says anything."""
    config = attrs.evolve(config, max_output_tokens=min(config.max_output_tokens, _ANSWER_TOKENS))
    message = Message(info=UserMessage(id=message_id(), created_at=0), parts=(TextPart(id=part_id(), text=_QUESTION),))
    request = ModelRequest(model=name, instructions=None, messages=(message,), tools=())
    began = time.monotonic()
    try:
        async with Models({name: config}, limits) as models, models.open(name, request) as stream:
            while (events := await stream.receive()) is not None:
                if any(isinstance(event, TextDelta | ReasoningDelta) for event in events):
                    break
    except PeerError as exc:
        return failed(
            f"{before.text}; a call fails: {exc.message}",
            *before.advice,
            f"`model`, the key's rights, or the account: what the service says of [models.{name}] stands above",
        )
    text = f"{before.text}; it began to answer after {time.monotonic() - began:.1f} s"
    # It works: what its list says, or does not, is of no matter.
    return good(text)
