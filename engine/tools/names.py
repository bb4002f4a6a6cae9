"""Names of tools: `toolset.tool` inside, `toolset__tool` towards providers that allow few characters."""

from __future__ import annotations

import hashlib
import re
from typing import Final

PROVIDER_NAME_MAX: Final = 64
_ALLOWED: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_NOT_ALLOWED: Final = re.compile(r"[^A-Za-z0-9_-]", re.ASCII)
_HASH_CHARACTERS: Final = 8


def is_tool_name(name: str) -> bool:
    """Whether a toolset or a tool in it may have this name: 1 to 64 letters, digits, `_` and `-`."""
    return _ALLOWED.fullmatch(name) is not None


def to_provider(name: str) -> str:
    """`files.read_file` -> `files__read_file`; what does not fit is replaced and shortened with a hash, so that
    two different tools never share a name (up to a 32-bit collision inside one request, which the caller checks)."""
    toolset, _, tool = name.partition(".")
    plain = f"{toolset}__{tool}"
    if _ALLOWED.fullmatch(plain) and "__" not in toolset and "__" not in tool:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_CHARACTERS]
    clean = _NOT_ALLOWED.sub("_", plain)[: PROVIDER_NAME_MAX - _HASH_CHARACTERS - 1]
    return f"{clean}_{digest}"


def provider_names(names: list[str]) -> dict[str, str]:
    """Provider name -> full name for the tools of one request. Raises AssertionError on a hash collision."""
    table = {to_provider(name): name for name in names}
    assert len(table) == len(set(names)), "two tools share a provider name"
    return table
