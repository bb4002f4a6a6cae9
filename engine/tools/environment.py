"""The environment of programs that are started for a model: what programs need, and none of the daemon's secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Who and where one is, where programs are, the language and the time. Anything else may be a key: API_KEY is not
# the only name that they have, so what is inherited is listed, not what is not.
_INHERITED: Final = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR")
_INHERITED_PREFIX: Final = "LC_"
# Nobody sits at a terminal: no colours, nothing that waits for a key, no question for a password.
_FIXED: Final = {"TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat", "GIT_TERMINAL_PROMPT": "0"}


def child_environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child of a process that has the environment `own`."""
    inherited = {name: value for name, value in own.items() if name in _INHERITED or name.startswith(_INHERITED_PREFIX)}
    return {**inherited, **_FIXED}
