"""The reference of greenroom.toml, made from the records that read it: every setting with its default, what it may be,
and what it is for. As a file to start from (`toml`) and as a document (`markdown`).

Types, defaults and what is checked come from engine.config, bounds with their units and reasons from engine.limits.
What the other settings are for is said here; the tests hold that against the records.
"""

from __future__ import annotations

import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import attrs

from engine.codec import Check
from engine.config import File
from engine.config_values import COUNT_MAX, RELATIONS, WIRE_LIMITS
from engine.limits import GIB, GROUPS, KIB, MIB, Limits, Unit

_WIDTH: Final = 100  # of a comment

SECTIONS: Final[Mapping[str, str]] = {
    "": "At the top of the file.",
    "models.NAME": "A model by the name that users give it; as many as there are. `demo` is always there.",
    "models.NAME.price": "What the model costs, in `currency`; without it no cost is told.",
    "toolsets.NAME": "A group of tools: a built-in one by its own name, or a tool server (MCP) by any other. "
    "Without any there are the built-in ones, whole.",
    "permissions": "Rules for tool calls: deny first, then ask, then allow. Reading is allowed, the rest is asked. A "
    "rule is `toolset`, `toolset.tool` or either with `(argument=pattern)`.",
    "tls": "Files for an address that other machines can reach.",
    "limits": "Every bound. None can be switched off. What one may be, unless more is said beside it:",
}

SAYS: Final[Mapping[str, str]] = {
    "listen": "Where the port is; port 0 picks a free one. Sockets that a supervisor has opened stand in for it.",
    "default_model": "The model of new sessions; without it the first of this file, else demo.",
    "title_model": "Makes titles of sessions; without it they are the beginning of the first message.",
    "currency": "Of all prices.",
    "insecure": "Listen beyond this machine without TLS all the same.",
    "allowed_hosts": "Names beside the machine's own by which the port may be called, such as that of a proxy.",
    "allowed_origins": "Web pages of others that may use the port.",
    "durability": "Whether what is acknowledged outlives the machine's power (full) or only the process (normal).",
    "log_level": "From which level on is logged, on standard error.",
    "models.NAME.provider": "Any service with chat completions; one with the messages of anthropic; or no network.",
    "models.NAME.base_url": "Where the service is. Needed for openai; without it anthropic is that service itself, "
    "then asked to cache the prompt.",
    "models.NAME.model": "The name that the service knows. Needed for openai and anthropic.",
    "models.NAME.api_key_env": "The daemon's environment variable that has the key. The key itself never stands here.",
    "models.NAME.api_key_file": "Or the file that has it.",
    "models.NAME.context_window": "Tokens that the model takes, its answer included.",
    "models.NAME.max_output_tokens": "Tokens of one answer, thinking included; as many of the window are left free. Of "
    "anthropic only.",
    "models.NAME.compact_at": "The part of the window from which on a conversation's beginning is summarised; 0: only "
    "when the service refuses it as too large.",
    "models.NAME.compact_model": "Who writes the summaries; without it the model itself.",
    "models.NAME.price.input": "Of tokens that are sent.",
    "models.NAME.price.output": "Of tokens that the model writes, thinking included.",
    "models.NAME.price.cache_read": "Of tokens that the service's cache had; without it as input.",
    "models.NAME.price.cache_write": "Of tokens that were put into it; without it as input.",
    "models.NAME.price.per": "How many tokens these are the prices of.",
    "toolsets.NAME.kind": "Part of greenroom, or a tool server.",
    "toolsets.NAME.tools": "Those that are used; without it all that there are.",
    "toolsets.NAME.command": "The tool server's program, by path or by name in PATH. Either this or url.",
    "toolsets.NAME.args": "What it is started with.",
    "toolsets.NAME.url": "Or the tool server over HTTP.",
    "toolsets.NAME.headers_env": "Headers that it is sent, by the daemon's environment variables that have them.",
    "toolsets.NAME.env": "The program's environment beside PATH, HOME and the like: it has none of the daemon's keys.",
    "toolsets.NAME.restart": "When a tool server that has ended is started again.",
    "toolsets.NAME.call_timeout": "One call of its tools; without it limits.tool_call_timeout.",
    "toolsets.NAME.roots": "Folders that a tool server is told of; without it those of the sessions that use it.",
    "toolsets.NAME.allow_networks": "What the toolset web may reach though it is not public.",
    "permissions.allow": "Calls that need nobody's consent.",
    "permissions.ask": "Calls that a person is asked for although a rule allows them.",
    "permissions.deny": "Calls that are refused.",
    "permissions.headless": "What becomes of a call that would be asked for when nobody is there.",
    "tls.cert_file": "The certificate with its chain (PEM).",
    "tls.key_file": "Its key (PEM), without a password.",
}

# Texts with a grammar of their own behind a type that does not tell.
_UNITS: Final[Mapping[str, Unit]] = {"toolsets.NAME.call_timeout": "seconds"}
_SIZES: Final = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))
_TIMES: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms"))
# The greatest of each: engine.config_values.
_RANGES: Final[Mapping[Unit, str]] = {
    "bytes": f'a size above 0, such as "64KiB", at most {COUNT_MAX // GIB} GiB',
    "seconds": 'a time above 0, such as "90s" or "15 min", at most ten years',
    "count": f"1 to {COUNT_MAX}",
    "characters": f"1 to {COUNT_MAX}",
}
_FIXED: Final = "fixed by the wire contract"
# Tables that may be empty: in the file they stand without #.
_LIVE: Final = ("permissions", "limits")


@attrs.frozen(slots=True, kw_only=True)
class Setting:
    """One key of the file. `default` is TOML, None without one; `values` is what it may be."""

    section: str
    name: str
    default: str | None
    required: bool
    values: str
    says: str
    reason: str = ""  # of a bound: why it is what it is


def settings() -> list[Setting]:
    """All of them, section by section."""
    found = [*_of_record("", File)]
    found += [_bound(field) for field in attrs.fields(Limits)]
    order = list(SECTIONS)
    return sorted(found, key=lambda setting: order.index(setting.section))


def _of_record(section: str, record: type[Any]) -> Iterator[Setting]:
    hints = get_type_hints(record, include_extras=True)
    for field in attrs.fields(record):
        path = f"{section}.{field.name}" if section else field.name
        kind, named = _record_in(hints[field.name])
        if path == "limits":
            continue
        if kind is not None:
            yield from _of_record(f"{path}.NAME" if named else path, kind)
            continue
        unit = _UNITS.get(path)
        yield Setting(
            section=section,
            name=field.name,
            default=_default(field.default),
            required=field.default is attrs.NOTHING,
            values=_values(hints[field.name]) if unit is None else _RANGES[unit],
            says=SAYS[path],
        )


def _bound(field: attrs.Attribute[Any]) -> Setting:
    unit: Unit = field.metadata["unit"]
    relations = [f", {relation} {other}: {why}" for name, relation, other, why in RELATIONS if name == field.name]
    assert field.default is not None, "each bound has a default"
    return Setting(
        section="limits",
        name=field.name,
        default=quantity(field.default, unit),
        required=False,
        values=_FIXED if field.name in WIRE_LIMITS else _RANGES[unit] + "".join(relations),
        says=_sentence(field.metadata["says"]),
        reason=_sentence(field.metadata["reason"]),
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _beside(bound: Setting) -> str:
    """What a bound may be beside what its unit says."""
    return bound.values.removeprefix(_RANGES[_unit(bound)]).removeprefix(", ")


def _unit(bound: Setting) -> Unit:
    unit: Unit = attrs.fields_dict(Limits)[bound.name].metadata["unit"]
    return unit


def quantity(value: float, unit: Unit) -> str:
    """A bound as TOML, in the largest unit that has it whole."""
    if unit == "bytes":
        return next((f'"{int(value) // size}{name}"' for size, name in _SIZES if value % size == 0), str(int(value)))
    if unit == "seconds":
        thousandths = round(value * 1000)
        return next(f'"{thousandths // size}{name}"' for size, name in _TIMES if thousandths % size == 0)
    return str(int(value))


# ------------------------------------------------------------------ types, as people read them
def _record_in(hint: Any) -> tuple[type[Any] | None, bool]:
    """The record that is a table of its own, and whether there is one by each name."""
    for part in _parts(hint):
        if isinstance(part, type) and attrs.has(part):
            return part, False
        if get_origin(part) is dict and attrs.has(get_args(part)[1]):
            return get_args(part)[1], True
    return None, False


def _parts(hint: Any) -> list[Any]:
    """A type without its checks, and without None."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _parts(get_args(hint)[0])
    if origin in (Union, types.UnionType):
        return [part for one in get_args(hint) if one is not type(None) for part in _parts(one)]
    return [hint]


def _values(hint: Any) -> str:
    """What is checked says it best; of a type without a check, its name."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        checks = [part.says for part in arguments[1:] if isinstance(part, Check)]
        inner = arguments[0]
        if get_origin(inner) in (tuple, dict):
            return ", ".join([_values(inner), *checks])
        return ", ".join(checks)
    if origin in (Union, types.UnionType):
        (one,) = (part for part in arguments if part is not type(None))
        return _values(one)
    if origin is Literal:
        return _either([_toml(value) for value in arguments])
    if origin is tuple:
        return f"a list, each: {_values(arguments[0])}"
    if origin is dict:
        return f"a table of {_values(arguments[0])} = {_values(arguments[1])}"
    return {bool: "true or false", str: "text", int: "a whole number", float: "a number"}[hint]


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _default(value: Any) -> str | None:
    return None if value is attrs.NOTHING or value is None else _toml(value)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        assert value.isprintable() and not set('"\\') & set(value), "a plain string"
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value)


# ------------------------------------------------------------------ as a file
def toml() -> str:
    """A greenroom.toml that changes nothing: all is in comments, each setting as `#name = default` below what it is
    for. A setting without a default stands as `#name =`."""
    lines = [
        *_comment(
            "Every setting of greenroom. Take away the # before what is to be changed; `greenroom config check` says "
            "whether it is right. No file is needed: what stands here are the defaults."
        )
    ]
    section = None
    for setting in settings():
        bound = setting.section == "limits"
        if setting.section != section:
            section = setting.section
            lines += ["", "", *_comment(SECTIONS[section])]
            lines += [f"# {line}" for line in _ranges()] if bound else []
            lines += [f"{'' if section in _LIVE else '#'}[{section}]"] if section else []
        if bound and setting.name in dict(GROUPS):
            lines += ["", f"# --- {dict(GROUPS)[setting.name]}"]
        values = _beside(setting) if bound else setting.values
        needed = " Needed." if setting.required else ""
        says = f"{setting.says} {setting.reason}".rstrip()
        lines += ["", *_comment(f"{says}{needed}{f' ({values})' if values else ''}")]
        lines.append(f"#{setting.name} = {setting.default or ''}".rstrip())
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)]


# ------------------------------------------------------------------ as a document
_HEAD: Final = """\
# The configuration of greenroom

Every setting of `greenroom.toml`. This document is made by `greenroom config --markdown`, and a test holds it against
the program. `greenroom config` prints the same as a file to start from, and `greenroom config check` reads a file and
names each mistake in it with its place. No file is needed; unknown keys are refused.

Sizes are numbers of bytes or text such as `"64KiB"` and `"1 MiB"`, times are seconds or text such as `"90s"` and
`"15 min"`.
"""


def markdown() -> str:
    lines = [_HEAD.rstrip("\n")]
    section = None
    for setting in settings():
        bound = setting.section == "limits"
        if setting.section != section:
            section = setting.section
            lines += ["", f"## `[{section}]`" if section else "## The file", "", SECTIONS[section], ""]
            lines += _ranges() if bound else _TABLE
        if bound and setting.name in dict(GROUPS):
            lines += ["", f"### {dict(GROUPS)[setting.name]}", "", *_BOUNDS]
        default = "needed" if setting.required else "" if setting.default is None else f"`{setting.default}`"
        more = (
            (_unit(setting), _beside(setting), setting.says, setting.reason)
            if bound
            else (setting.values, setting.says)
        )
        row = " | ".join(cell.replace("|", "\\|") for cell in (f"`{setting.name}`", default, *more))
        lines.append(f"| {row} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


_TABLE: Final = ("| key | default | what it may be | what it is for |", "|---|---|---|---|")
_BOUNDS: Final = ("| name | default | unit | beside | what it bounds | why it is so |", "|---|---|---|---|---|---|")


def _ranges() -> list[str]:
    return [f"- {unit}: {values}" for unit, values in _RANGES.items()]
