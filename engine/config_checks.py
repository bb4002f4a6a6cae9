"""Mistakes of a configuration that no type of a single field tells: what belongs together, and names that exist.

The checks look at the raw tables, so that they report together with what the codec found. Whatever has the wrong type
is skipped: the codec says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from engine.config_values import Listen, parse_listen, parse_quantity
from engine.tools.permissions import parse_rule

DEMO: Final = "demo"  # the model that is always there
# The built-in toolsets of this version with their tools.
BUILTIN_TOOLSETS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "files": ("read_file", "search_files", "list_directory", "write_file", "edit_file", "read_output"),
        "shell": ("run", "start", "list", "view", "stop"),
        "web": ("fetch",),
        "todo": ("read", "write"),
    }
)

ENTRIES_MAX: Final = 256  # models, toolsets, rules, hosts: each
Mistakes = list[tuple[str, str]]  # (path, message)


def _tables(raw: Mapping[str, Any], section: str) -> Iterator[tuple[str, dict[str, Any]]]:
    tables = raw.get(section)
    if isinstance(tables, dict):
        yield from ((name, table) for name, table in tables.items() if isinstance(table, dict))


# What a model of each provider has to say; anthropic has a service of its own for a base_url.
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"openai": ("base_url", "model"), "anthropic": ("model",)}
)


def models(raw: Mapping[str, Any]) -> Mistakes:
    mistakes: Mistakes = []
    for name, table in _tables(raw, "models"):
        place = f"models.{name}"
        provider = table.get("provider")
        if name == DEMO and provider != "demo":
            mistakes.append((place, "demo is the built-in model: give this one another name"))
        if isinstance(provider, str) and provider in _NEEDED:
            mistakes += [(f"{place}.{field}", "is missing") for field in _NEEDED[provider] if field not in table]
            if "api_key_env" in table and "api_key_file" in table:
                mistakes.append((f"{place}.api_key_file", "give api_key_env or api_key_file, not both"))
        elif provider == "demo":
            unused = ("base_url", "model", "api_key_env", "api_key_file")
            mistakes += [(f"{place}.{field}", "the demo model has none") for field in unused if field in table]
        if provider != "anthropic" and "max_output_tokens" in table:
            mistakes.append((f"{place}.max_output_tokens", "is for models of anthropic only"))
    default = raw.get("default_model")
    known = [*(name for name, _ in _tables(raw, "models")), DEMO]
    for name, table in _tables(raw, "models"):
        writer = table.get("compact_model")
        if isinstance(writer, str) and writer not in known:
            mistakes.append((f"models.{name}.compact_model", f"no such model{meant(writer, known)}"))
    if isinstance(default, str) and default not in known:
        mistakes.append(("default_model", f"no such model{meant(default, known)}"))
    return mistakes + _title_model(raw, known)


def _title_model(raw: Mapping[str, Any], known: list[str]) -> Mistakes:
    name = raw.get("title_model")
    if not isinstance(name, str):
        return []
    if name not in known:
        return [("title_model", f"no such model{meant(name, known)}")]
    if name == DEMO or any(table.get("provider") == "demo" for other, table in _tables(raw, "models") if other == name):
        return [("title_model", "the demo model is a script that makes no titles: name another one")]
    return []


def toolsets(raw: Mapping[str, Any]) -> Mistakes:
    mistakes: Mistakes = []
    for name, table in _tables(raw, "toolsets"):
        place = f"toolsets.{name}"
        if table.get("kind") == "mcp":
            mistakes += _server(name, place, table)
        elif table.get("kind") == "builtin" and name not in BUILTIN_TOOLSETS:
            mistakes.append((place, f"no such built-in toolset: this version has {', '.join(BUILTIN_TOOLSETS)}"))
        elif table.get("kind") == "builtin":
            unused = sorted(table.keys() & {"command", "args", "url", "headers_env", "env", "restart", "roots"})
            mistakes += [(f"{place}.{field}", "a built-in toolset has none") for field in unused]
            if name != "web" and "allow_networks" in table:
                mistakes.append((f"{place}.allow_networks", "is for the toolset web only"))
            tools = table.get("tools")
            for index, tool in enumerate(tools if isinstance(tools, list) else ()):
                if isinstance(tool, str) and tool not in BUILTIN_TOOLSETS[name]:
                    message = f"no such tool in {name}{meant(tool, BUILTIN_TOOLSETS[name])}"
                    mistakes.append((f"{place}.tools[{index}]", message))
    return mistakes


def _server(name: str, place: str, table: Mapping[str, Any]) -> Mistakes:
    """Of a tool server, which is a program or a service, not both."""
    mistakes: Mistakes = []
    if name in BUILTIN_TOOLSETS:
        mistakes.append((place, "is the name of a built-in toolset: give this one another name"))
    if "command" in table and "url" in table:
        mistakes.append((f"{place}.url", "give command or url, not both"))
    elif "command" not in table and "url" not in table:
        mistakes.append((f"{place}.command", "is missing: give command or url"))
    elif "command" in table and "headers_env" in table:
        mistakes.append((f"{place}.headers_env", "is for a server with url only"))
    elif "url" in table:
        unused = [field for field in ("args", "env") if field in table]
        mistakes += [(f"{place}.{field}", "is for a server with command only") for field in unused]
    if "allow_networks" in table:
        mistakes.append((f"{place}.allow_networks", "is for the toolset web only"))
    return mistakes


def permissions(raw: Mapping[str, Any]) -> Mistakes:
    """What is no rule."""
    table = raw.get("permissions")
    mistakes: Mistakes = []
    for verb in ("allow", "ask", "deny"):
        rules = table.get(verb) if isinstance(table, dict) else None
        for index, text in enumerate(rules[:ENTRIES_MAX] if isinstance(rules, list) else ()):
            if not isinstance(text, str):
                continue
            try:
                parse_rule(text)
            except ValueError as exc:
                mistakes.append((f"permissions.{verb}[{index}]", str(exc)))
    return mistakes


def places(raw: Mapping[str, Any]) -> Mistakes:
    listen = raw.get("listen")
    try:
        address = parse_listen(listen) if isinstance(listen, str) else Listen()
    except ValueError:
        return []
    mistakes: Mistakes = []
    if not address.loopback and "tls" not in raw and raw.get("insecure") is not True:
        mistakes.append(
            ("listen", "other machines can reach this address: give tls.cert_file and tls.key_file, or insecure = true")
        )
    if address.unix_path is not None and "tls" in raw:
        mistakes.append(("tls", "a Unix-domain socket has no TLS"))
    return mistakes


def call_timeouts(raw: dict[str, Any]) -> Mistakes:
    """Times of toolsets as seconds, in place; those that are none are taken out and reported."""
    mistakes: Mistakes = []
    for name, table in _tables(raw, "toolsets"):
        if "call_timeout" in table:
            try:
                table["call_timeout"] = parse_quantity(table["call_timeout"], "seconds")
            except ValueError as exc:
                del table["call_timeout"]
                mistakes.append((f"toolsets.{name}.call_timeout", str(exc)))
    return mistakes


def meant(name: str, known: Any) -> str:
    """What to add to a message about a name that is not known."""
    close = difflib.get_close_matches(name[:100], [*known], n=1)
    return f": did you mean {close[0]}?" if close else ""
