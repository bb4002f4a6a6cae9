"""Configuration: the text of greenroom.toml to one frozen Config, or every mistake of it at once.

The text is hostile like any input: whatever it holds, `parse` returns a Config or raises ConfigError. Messages
name the place and what was expected there, never the value. Secrets have no place in the file: a key is named by
its environment variable or its own file. Nothing is read from disk here; the caller reads the file.
"""

from __future__ import annotations

import os.path
import re
import tomllib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import attrs

from engine import codec, config_checks
from engine.codec import Check, DecodeError
from engine.config_checks import BUILTIN_TOOLSETS, DEMO, ENTRIES_MAX, Mistakes
from engine.config_values import (
    Listen,
    is_host,
    is_http_url,
    is_origin,
    parse_limits,
    parse_listen,
)
from engine.limits import MIB, Limits
from engine.prices import Price
from engine.tools.fetch_rules import parse_network
from engine.tools.permissions import RULE_CHARACTERS_MAX, Rule, parse_rule

# A file for people; beyond this it is something else.
FILE_BYTES: Final = MIB
# Mistakes that are reported; a page of them is enough even for a file that is no configuration at all.
MISTAKES_MAX: Final = 100
PATH_MAX: Final = 200  # characters of a mistake's path that are shown
CONTEXT_WINDOW: Final = 131_072  # tokens; what current open models have
# Tokens; the format of anthropic wants a bound, and all of the service's models since Claude 4 take this one.
MAX_OUTPUT_TOKENS: Final = 32_000
CURRENCY: Final = "USD"  # in which most services tell their prices
COMPACT_AT: Final = 0.8  # of the window: what follows a step, a few large results, still fits
_SECRET_NAMES: Final = frozenset({"api_key", "apikey", "key", "token", "secret", "password", "api_token"})
_UNKNOWN: Final = "is not a known field"


class ConfigError(Exception):
    """Every mistake of a configuration as (path, message); the path is empty for the file as a whole."""

    def __init__(self, fields: Mistakes) -> None:
        # A path holds keys of the file, which may be anything; it ends up on a terminal.
        self.fields = [(_printable(path), message) for path, message in fields]
        super().__init__("\n".join(f"{path}: {message}" if path else message for path, message in self.fields))


def _printable(path: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in path[:PATH_MAX])


def _matching(pattern: str, says: str) -> Check:
    compiled = re.compile(pattern, re.ASCII)
    return Check(says, lambda text: compiled.fullmatch(text) is not None)


def _text(most: int) -> Check:
    return Check(f"1 to {most} characters", lambda text: 1 <= len(text) <= most and "\0" not in text)


def _parses(parse: Any, says: str) -> Check:
    def holds(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return Check(says, holds)


_FEW: Final = Check(f"at most {ENTRIES_MAX} entries", lambda entries: len(entries) <= ENTRIES_MAX)

Text = Annotated[str, _text(4096)]
ModelName = Annotated[
    str, _matching(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}", "a name of 1 to 100 letters, digits and ._:/-")
]
ToolsetName = Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", "a name of 1 to 32 letters, digits, _ and -")]
ToolName = Annotated[str, _matching(r"[A-Za-z0-9_.-]{1,128}", "a tool's name")]
Variable = Annotated[
    str, _matching(r"[A-Za-z_][A-Za-z0-9_]{0,199}", "the name of an environment variable, not its value")
]
HeaderName = Annotated[str, _matching(r"[A-Za-z0-9-]{1,100}", "the name of a header")]
Url = Annotated[str, Check("an http or https URL without user, query and fragment", is_http_url)]
Host = Annotated[str, Check("a host without port", is_host)]
Origin = Annotated[str, Check("an origin such as https://host, in lower case", is_origin)]
Address = Annotated[str, _parses(parse_listen, "host:port, [address]:port or unix:/absolute/path")]
NetworkText = Annotated[str, _parses(parse_network, "an address or a network, such as 127.0.0.1 or 10.0.0.0/8")]
RootPath = Annotated[Text, Check("an absolute path", os.path.isabs)]
RuleText = Annotated[str, _text(RULE_CHARACTERS_MAX)]  # what is in it is said by _permissions
Tokens = Annotated[int, Check("1024 to 100000000", lambda tokens: 1024 <= tokens <= 100_000_000)]
CompactAt = Annotated[
    float, Check("0, or a part of the window from 0.1 to 1", lambda part: part == 0 or 0.1 <= part <= 1)
]
Currency = Annotated[str, _matching(r"[A-Z]{3}", "a currency's three letters, such as EUR")]
OutputTokens = Annotated[int, Check("1 to 1000000", lambda tokens: 1 <= tokens <= 1_000_000)]


# ------------------------------------------------------------------ the records
@attrs.frozen(slots=True, kw_only=True)
class ModelConfig:
    """A model by the name that users give it. `model` is the name that the endpoint knows; `base_url` absent is the
    provider's own service. `max_output_tokens` bounds one answer, thinking included (anthropic), and as much of the
    window is left free for it. From `compact_at` of the window on a conversation is summarised, by the model
    `compact_model` if one is named (0: only when a service refuses it as too large)."""

    provider: Literal["openai", "anthropic", "demo"]
    base_url: Url | None = None
    model: Text | None = None
    api_key_env: Variable | None = None
    api_key_file: Text | None = None
    context_window: Tokens = CONTEXT_WINDOW
    max_output_tokens: OutputTokens = MAX_OUTPUT_TOKENS
    price: Price | None = None
    compact_at: CompactAt = COMPACT_AT
    compact_model: ModelName | None = None


@attrs.frozen(slots=True, kw_only=True)
class ToolsetConfig:
    """A toolset. `tools` absent means all that it has; `call_timeout` absent means `limits.tool_call_timeout`.
    `roots` are the folders that a tool server is told of; absent, those of the sessions that use it.
    `allow_networks` (of `web` only) may be reached though they are not public."""

    kind: Literal["builtin", "mcp"]
    tools: Annotated[tuple[ToolName, ...], _FEW] | None = None
    command: Text | None = None
    args: Annotated[tuple[str, ...], _FEW] = ()
    url: Url | None = None
    headers_env: Annotated[dict[HeaderName, Variable], _FEW] | None = None
    env: Annotated[dict[Variable, str], _FEW] | None = None
    restart: Literal["on_failure", "always", "never"] = "on_failure"
    call_timeout: float | None = None
    roots: Annotated[tuple[RootPath, ...], _FEW] | None = None
    allow_networks: Annotated[tuple[NetworkText, ...], _FEW] = ()


@attrs.frozen(slots=True, kw_only=True)
class Permissions:
    """Rules by tool, deny first. `headless` decides what would be asked when nobody can answer."""

    allow: Annotated[tuple[RuleText, ...], _FEW] = ()
    ask: Annotated[tuple[RuleText, ...], _FEW] = ()
    deny: Annotated[tuple[RuleText, ...], _FEW] = ()
    headless: Literal["deny", "allow"] = "deny"


@attrs.frozen(slots=True, kw_only=True)
class Tls:
    """Files in PEM form: the certificate with its chain, and its key."""

    cert_file: Text
    key_file: Text


Durability = Literal["full", "normal"]
LogLevel = Literal["debug", "info", "warning", "error"]


@attrs.frozen(slots=True, kw_only=True)
class Config:
    """All settings. `models` always has `demo`; each built-in toolset lists the tools that it gives. `title_model`
    names sessions (absent: a title is the beginning of the first message); `currency` is that of all prices."""

    listen: Listen = attrs.field(factory=Listen)
    default_model: str = DEMO
    models: Mapping[str, ModelConfig] = MappingProxyType({DEMO: ModelConfig(provider="demo")})
    toolsets: Mapping[str, ToolsetConfig] = MappingProxyType(
        {name: ToolsetConfig(kind="builtin", tools=tools) for name, tools in BUILTIN_TOOLSETS.items()}
    )
    permissions: Permissions = Permissions()
    limits: Limits = attrs.field(factory=Limits)
    tls: Tls | None = None
    insecure: bool = False
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    durability: Durability = "full"
    log_level: LogLevel = "info"
    title_model: str | None = None
    currency: str = CURRENCY


@attrs.frozen(slots=True, kw_only=True)
class File:
    """greenroom.toml as it is written; `limits` are read by engine.config_values."""

    listen: Address = str(Listen())
    default_model: ModelName | None = None
    models: Annotated[dict[ModelName, ModelConfig], _FEW] | None = None
    toolsets: Annotated[dict[ToolsetName, ToolsetConfig], _FEW] | None = None
    permissions: Permissions = Permissions()
    limits: dict[str, Any] | None = None
    tls: Tls | None = None
    insecure: bool = False
    allowed_hosts: Annotated[tuple[Host, ...], _FEW] = ()
    allowed_origins: Annotated[tuple[Origin, ...], _FEW] = ()
    durability: Durability = "full"
    log_level: LogLevel = "info"
    title_model: ModelName | None = None
    currency: Currency = CURRENCY


# ------------------------------------------------------------------ reading
def parse(text: str, **overrides: object) -> Config:
    """The configuration of greenroom.toml's `text` (empty: the defaults). Raises ConfigError with every mistake.

    `overrides` replace top-level settings of the file, as options of the command line do (`listen`, `insecure`);
    they are checked like the file's.
    """
    raw = _read(text) | overrides
    mistakes: Mistakes = []
    table = raw.get("limits")
    limits, wrong = parse_limits(table if isinstance(table, dict) else {})
    mistakes += [(f"limits.{name}", message) for name, message in wrong]
    mistakes += _unknown_limits(raw)
    mistakes += config_checks.call_timeouts(raw)
    file: File | None = None
    try:
        file = codec.decode(raw, File, most=MISTAKES_MAX)
    except DecodeError as exc:
        mistakes += [(path, _advice(path, message)) for path, message in exc.fields]
    mistakes += config_checks.models(raw) + config_checks.toolsets(raw) + config_checks.places(raw)
    mistakes += config_checks.permissions(raw)
    if mistakes or file is None:
        raise ConfigError(mistakes[:MISTAKES_MAX])
    return _build(file, limits)


def _read(text: str) -> dict[str, Any]:
    if len(text) > FILE_BYTES:
        raise ConfigError([("", f"the file is larger than {FILE_BYTES} bytes")])
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError([("", "is not TOML that can be read: nested too deeply")]) from None
    except ValueError as exc:  # TOMLDecodeError names line and column; a number of 5,000 digits is a bare ValueError
        raise ConfigError([("", f"is not TOML: {exc}")]) from None


def _build(file: File, limits: Limits) -> Config:
    models = dict(file.models or {})
    # Who writes models down means the first of them, not the demo.
    default = file.default_model or next(iter(models), DEMO)
    models.setdefault(DEMO, ModelConfig(provider="demo"))
    toolsets = Config().toolsets if file.toolsets is None else file.toolsets
    denied = [parse_rule(rule) for rule in file.permissions.deny]
    return Config(
        listen=parse_listen(file.listen),
        default_model=default,
        models=MappingProxyType(models),
        toolsets=MappingProxyType({name: _allowed(name, toolset, denied) for name, toolset in toolsets.items()}),
        permissions=file.permissions,
        limits=limits,
        tls=file.tls,
        insecure=file.insecure,
        allowed_hosts=tuple(host.lower() for host in file.allowed_hosts),
        allowed_origins=file.allowed_origins,
        durability=file.durability,
        log_level=file.log_level,
        title_model=file.title_model,
        currency=file.currency,
    )


def _allowed(name: str, toolset: ToolsetConfig, denied: list[Rule]) -> ToolsetConfig:
    """The built-in toolset without what a rule denies: what is not there cannot be called. Of a tool server's tools
    nothing is known here; a rule denies the calls."""
    if toolset.kind == "mcp":
        return toolset
    tools = BUILTIN_TOOLSETS[name] if toolset.tools is None else toolset.tools
    whole = [rule for rule in denied if not rule.patterns]
    left = tuple(tool for tool in tools if not any(rule.names(name, tool) for rule in whole))
    return attrs.evolve(toolset, tools=left)


def _unknown_limits(raw: Mapping[str, Any]) -> Mistakes:
    table = raw.get("limits")
    known = attrs.fields_dict(Limits)
    names = table if isinstance(table, dict) else {}
    return [(f"limits.{name}", f"{_UNKNOWN}{config_checks.meant(name, known)}") for name in names if name not in known]


def _advice(path: str, message: str) -> str:
    """What the codec said, with what the writer may have meant."""
    if message != _UNKNOWN:
        return message
    section, _, rest = path.rpartition(".")
    if rest.lower() in _SECRET_NAMES:
        return "no key belongs in this file: name its environment variable in api_key_env or its file in api_key_file"
    records = {"": File, "models": ModelConfig, "toolsets": ToolsetConfig, "permissions": Permissions, "tls": Tls}
    record = records.get(section.partition(".")[0])
    return message + (config_checks.meant(rest, attrs.fields_dict(record)) if record else "")
