"""The direction of imports, over whole files: imports inside functions count, and imports by literal name too.

    python scripts/import_rules.py [ROOT]      prints each broken rule as file:line: text; exit 1 if there is one

The rules (their reasons are in the comments at the tables):

1. `engine` imports what ENGINE_MAY names and itself; sqlite3 and file locks in engine/storage alone.
2. Parts of engine import only parts above them in ENGINE_ORDER.
3. A module of `actors` imports engine and the modules above it in ACTORS_ORDER. A new module has to be placed.
4. No module below a package's `__init__` imports the package itself: names come from where they are defined.
5. LAZY modules are imported inside functions (or for types only); ONLY_IN modules nowhere but in the files named.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# What rules need: data structures, text, numbers, randomness, JSON. Whatever is not here can wait, know the time,
# start something or reach a network; adding a line is a decision about the layer.
ENGINE_MAY = frozenset(
    {
        "__future__", "abc", "array", "ast", "attrs", "base64", "binascii", "bisect", "cattrs", "codecs", "collections",
        "contextlib", "copy", "dataclasses", "decimal", "difflib", "email", "enum", "errno", "fnmatch", "functools",
        "hashlib", "heapq", "hmac", "html", "inspect", "ipaddress", "itertools", "json", "keyword", "math",
        "mimetypes", "numbers", "operator", "orjson", "os", "pathlib", "random", "re", "secrets", "stat", "string",
        "struct", "sys", "textwrap", "tomllib", "types", "typing", "unicodedata", "urllib", "uuid", "zlib",
    }
)  # fmt: skip
# Modules that engine may use in some of its parts only: what touches the disk is engine/storage, and engine/tools
# (called in a thread, with a checkpoint). `os` is elsewhere only for what is text, such as os.path.isabs.
ENGINE_DISK = {
    "sqlite3": ("engine.storage",),
    "fcntl": ("engine.storage",),
    "shutil": ("engine.storage", "engine.tools"),
    "tempfile": ("engine.storage", "engine.tools"),
    "pathlib": ("engine.storage", "engine.tools"),
}
# Functions of `os` that are not work with files: the rest is for the parts that touch the disk.
ENGINE_DISK_PARTS = ("engine.storage", "engine.tools")
OS_TEXT = frozenset({"path", "fspath", "fsencode", "fsdecode", "sep", "PathLike"})
OS_PATH_TEXT = frozenset(
    {"isabs", "join", "split", "splitext", "basename", "dirname", "normpath", "commonprefix", "commonpath"}
)

# From the bottom up; parts on one line do not know each other. The longest name that fits is a module's place.
ENGINE_ORDER = (
    ("errors", "ids", "limits", "log_lines", "redaction", "restart", "version"),
    ("codec", "memory"),
    ("transcript",),
    ("tools",),
    ("providers",),
    ("runs",),
    ("storage.changes",),  # what is to be stored, as data: a turn says it, the store does it
    ("runs.turn",),
    ("commands",),
    ("config_values", "prices"),
    ("config_checks",),
    ("config", "mcp", "rendering"),
    ("config_reference",),
    ("wire",),
    ("storage",),  # reads rows as the wire shows them, so that a long text is never whole in memory
)

# From the bottom up: what waits at the bottom, what is used by people at the top.
ACTORS_ORDER = (
    "_clock", "_memory", "_descriptors", "_log_context", "_tally", "_statistics", "_ending", "_ask", "_mailbox", "_ref",
    "_actor", "_supervisor", "_feed", "_disk", "_arrivals", "_http", "_guard_main", "_guard_link", "_guard",
    "_spool", "logs",
    "places", "blobs", "journal", "paged", "models", "store_ref", "store", "snapshots", "_call_time", "_toolset_life",
    "_toolset_shared", "toolset", "toolsets", "inputs", "queue", "progress", "preview", "answers", "titles", "services",
    "windows", "compaction", "calls", "ends", "run", "session_ref", "session", "admission", "creating", "idle",
    "registry_ref", "registry", "composition", "governor", "owners", "recorder", "metrics", "gateway", "notify",
    "daemon", "api", "client", "terminal", "cli",
)  # fmt: skip

# Expensive or optional: a daemon that does not need them does not pay for them.
LAZY = {
    "httpx2": "0.2 s and a TLS context: imported at the first model call",
    "httpcore2": "comes with httpx2",
    "shtab": "needed by one command",
    "prometheus_client": "1.5 MiB and 12 ms: imported at the first scrape",
    "mcp": "46 MiB: imported when such a toolset is configured",
    "mcp_types": "comes with mcp",
    "anyio": "comes with mcp",
    "rich": "for the terminal client",
    "textual": "for the terminal client",
}
# Parts that subclass what such a library has import it at their top, and are imported inside functions themselves.
LAZY_PARTS = {"actors.terminal.ui": ("rich", "textual")}
# Behind one module each, so that its ways never spread.
ONLY_IN = {
    "trio_websocket": ("actors.gateway.websocket", "actors.client.dial"),
    "h11": ("actors.gateway", "actors.toolsets.web", "actors.toolsets.mcp_socket"),
    "ssl": ("actors._http", "actors.gateway", "actors.client.dial", "actors.toolsets", "actors.cli.doctor"),
    "httpx2": ("actors._http",),
    "httpcore2": ("actors._http",),
    "sqlite3": ("engine.storage", "actors._disk", "actors.store", "actors.store_ref"),
    "shtab": ("actors.cli.completion",),
    "prometheus_client": ("actors.metrics",),
    "threading": ("actors._disk", "actors.logs"),
    "asyncio": ("actors.terminal",),  # the loop of textual, on which trio is a guest
    "rich": ("actors.terminal",),
    "textual": ("actors.terminal",),
    "anyio": ("actors.toolsets",),  # the official client takes anyio's streams and knows its errors
    "mcp": ("actors.toolsets",),
    "mcp_types": ("actors.toolsets",),
}


class Import(NamedTuple):
    """One imported name: `module` as dotted text, `name` if it came by `from module import name`."""

    line: int
    module: str
    name: str | None
    lazy: bool  # inside a function, or under `if TYPE_CHECKING`


class Module(NamedTuple):
    name: str
    path: Path
    is_package: bool
    source: bytes


class Seen(NamedTuple):
    """What the rules want to know of a file."""

    imports: tuple[Import, ...]
    system: tuple[tuple[int, str], ...]  # lines that work with files through `os`


def check(root: Path) -> list[str]:
    """Every broken rule below `root` as `file:line: text`."""
    modules = [read(root, path) for package in ("engine", "actors") for path in sorted((root / package).rglob("*.py"))]
    names = {module.name for module in modules}
    found: list[str] = []
    for module in modules:
        where = module.path.relative_to(root)
        rules = engine_rules if in_part(module.name, "engine") else actors_rules
        seen = look(module.name, module.is_package, module.source)
        for imported in seen.imports:
            texts = (*rules(module, imported, names), *library_rules(module, imported))
            found += [f"{where}:{imported.line}: {text}" for text in texts]
        if in_part(module.name, "engine"):
            found += [f"{where}:{line}: {text}" for line, text in sorted(os_rules(module, seen))]
        elif module.name != "actors" and position(module.name) is None:
            found.append(f"{where}:1: {module.name} has no place: add it to ACTORS_ORDER in scripts/import_rules.py")
    if not modules:
        found.append(f"{root}: no engine and no actors here")
    return list(dict.fromkeys(found))  # one import of several names breaks a rule once


# ------------------------------------------------------------------ reading
def read(root: Path, path: Path) -> Module:
    parts = path.relative_to(root).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    return Module(name, path, is_package, path.read_bytes())


@functools.cache  # the tests look at almost the same tree again and again
def look(name: str, is_package: bool, source: bytes) -> Seen:
    tree = ast.parse(source, name)
    return Seen(tuple(_imports(name, is_package, tree, lazy=False)), tuple(_system(tree)))


def _imports(name: str, is_package: bool, node: ast.AST, *, lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(child.lineno, alias.name, None, lazy)
        elif isinstance(child, ast.ImportFrom):
            base = absolute(name, is_package, child)
            for alias in child.names:
                yield Import(child.lineno, base, alias.name, lazy)
        elif isinstance(child, ast.Call) and (meant := literal_import(child)) is not None:
            yield Import(child.lineno, meant, None, lazy)
        deferred = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(child)
        yield from _imports(name, is_package, child, lazy=lazy or deferred)


def absolute(name: str, is_package: bool, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = name.split(".")
    kept = parts[: len(parts) - node.level + is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def literal_import(call: ast.Call) -> str | None:
    """The name in `__import__("x")`, `import_module("x")` and `importlib.import_module("x")`."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name not in ("__import__", "import_module") or not call.args:
        return None
    first = call.args[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def in_part(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def target(imported: Import, names: set[str]) -> str:
    """The module that is meant: `from engine import codec` is engine.codec."""
    deeper = f"{imported.module}.{imported.name}"
    return deeper if deeper in names else imported.module


# ------------------------------------------------------------------ rules
def engine_rules(module: Module, imported: Import, names: set[str]) -> Iterator[str]:
    meant = target(imported, names)
    top = meant.partition(".")[0]
    if top != "engine":
        places = ENGINE_DISK.get(top)
        if places is not None:
            if not any(in_part(module.name, place) for place in places):
                yield f"engine imports {meant} in {', '.join(places)} only: what touches the disk is there"
        elif top not in ENGINE_MAY:
            yield f"engine must not import {meant}: rules never wait, know no time and start nothing"
        return
    if meant == "engine":
        yield "a module of engine imports from where a name is defined, not from the package"
        return
    own, other = engine_place(module.name), engine_place(meant)
    if own is None or other is None:
        yield f"{module.name if own is None else meant} has no place: add it to ENGINE_ORDER"
    elif own != other and ENGINE_RANK[other] >= ENGINE_RANK[own]:
        yield f"{module.name} must not import {meant}, which is not below it in ENGINE_ORDER"


ENGINE_RANK = {part: rank for rank, parts in enumerate(ENGINE_ORDER) for part in parts}


def engine_place(name: str) -> str | None:
    fitting = [part for part in ENGINE_RANK if in_part(name, f"engine.{part}")]
    return max(fitting, key=len, default=None)


def os_rules(module: Module, seen: Seen) -> Iterator[tuple[int, str]]:
    """Work with files through `os`, in parts of engine that do not touch the disk."""
    if not any(in_part(module.name, part) for part in ENGINE_DISK_PARTS):
        yield from seen.system


def _system(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            base = node.value
            if isinstance(base, ast.Attribute) and base.attr == "path" and is_os(base.value):
                allowed = node.attr in OS_PATH_TEXT
            else:
                allowed = not is_os(base) or node.attr in OS_TEXT
            if not allowed:
                yield node.lineno, f"{ast.unparse(node)} touches the system: that is for {', '.join(ENGINE_DISK_PARTS)}"
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "os.path"):
            yield node.lineno, "write `import os`, so that each use can be seen"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            yield node.lineno, f"open() touches the disk: that is for {', '.join(ENGINE_DISK_PARTS)}"


def is_os(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "os"


def actors_rules(module: Module, imported: Import, names: set[str]) -> Iterator[str]:
    meant = target(imported, names)
    top = meant.partition(".")[0]
    if top == "engine" and meant == "engine":
        yield "import from the module of engine where a name is defined"
    elif top == "actors" and module.name != "actors":
        own, other = position(module.name), position(meant)
        if imported.module == "actors":
            yield "a module of actors imports from where a name is defined, not from the package"
        if own is not None and other is not None and other > own:
            yield f"{module.name} must not import {meant}, which is above it in ACTORS_ORDER"
    elif top in ("tests", "scripts"):
        yield f"product code must not import {meant}"


def position(name: str) -> int | None:
    _, _, rest = name.partition(".")
    part = rest.partition(".")[0]
    return ACTORS_ORDER.index(part) if part in ACTORS_ORDER else None


def library_rules(module: Module, imported: Import) -> Iterator[str]:
    top = imported.module.partition(".")[0]
    home = any(in_part(module.name, part) and top in libraries for part, libraries in LAZY_PARTS.items())
    if top in LAZY and not imported.lazy and not home:
        yield f"{top} is imported inside functions only ({LAZY[top]})"
    for part in LAZY_PARTS:
        if in_part(f"{imported.module}.{imported.name}", part) and not in_part(module.name, part) and not imported.lazy:
            yield f"{part} is imported inside functions only (it imports {', '.join(LAZY_PARTS[part])})"
    if top in ONLY_IN and not any(in_part(module.name, place) for place in ONLY_IN[top]):
        yield f"{top} is imported in {', '.join(ONLY_IN[top]) or 'no place'} only"


def main(arguments: list[str]) -> int:
    found = check(Path(arguments[0] if arguments else ".").resolve())
    for line in found:
        print(line)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
