"""Glob patterns as in .gitignore files, matched in bounded time whatever the pattern.

`*` and `?` stand inside one component of a path, `**` for any number of components, `[a-z]` for one character, a
backslash takes the meaning of the next. A component is matched by the expression that fnmatch makes, which never
goes back over what it has passed (since Python 3.9); components by walking a set of positions. Both take at most
name × pattern steps. That is why no library is used here: those at hand make one backtracking expression of a
pattern, and both a file of the session's folder and a model may say `*a*a*a*a*a*a*b`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Final

import attrs

# Longest pattern taken: a path of the longest length cannot need more.
PATTERN_MAX: Final = 4096
_SPECIAL: Final = re.compile(r"[*?\[\\]")
_ANY: Final = "**"


class Glob:
    """One pattern. With a slash inside or at its begin it is of the whole path, else of the last name."""

    __slots__ = ("_components", "_whole")

    def __init__(self, pattern: str) -> None:
        """`pattern` has 1 to PATTERN_MAX characters."""
        assert 0 < len(pattern) <= PATTERN_MAX
        pattern = pattern.rstrip("/") or "/"
        self._whole = "/" in pattern
        names = [name for name in pattern.split("/") if name]
        self._components = [name if name == _ANY else _component(name) for name in names]

    def matches(self, path: Sequence[str]) -> bool:
        """Whether it matches a path, given as its components."""
        if not self._whole:
            return bool(path) and _fits(self._components[0], path[-1])
        last = len(self._components) - 1
        positions = self._skip({0})
        for name in path:
            following: set[int] = set()
            for position in positions:
                if position > last:
                    continue
                component = self._components[position]
                if component == _ANY:
                    # At the end of a pattern it stands for what is inside, so for one component at least.
                    following.update((position, last + 1) if position == last else (position,))
                elif _fits(component, name):
                    following.add(position + 1)
            if not following:
                return False
            positions = self._skip(following)
        return last + 1 in positions

    def _skip(self, positions: set[int]) -> set[int]:
        """With the positions that are reached by letting `**` stand for nothing."""
        last = len(self._components) - 1
        for position in sorted(positions):
            while position < last and self._components[position] == _ANY:
                position += 1
                positions.add(position)
        return positions


@attrs.frozen(slots=True)
class _Rule:
    glob: Glob
    keeps: bool  # begins with !
    directories: bool  # ends with /


class IgnoreRules:
    """What one .gitignore file says; at most `rules_max` rules of it, the first ones."""

    __slots__ = ("_rules",)

    def __init__(self, text: str, rules_max: int) -> None:
        self._rules: list[_Rule] = []
        for line in text.removeprefix("\ufeff").split("\n"):
            if len(self._rules) >= rules_max:
                break
            rule = _rule(line.removesuffix("\r"))
            if rule is not None:
                self._rules.append(rule)

    def __len__(self) -> int:
        return len(self._rules)

    def ignores(self, path: Sequence[str], is_directory: bool) -> bool | None:
        """Whether a path below the file's folder, given as its components, is ignored; None: nothing is said."""
        for rule in reversed(self._rules):  # the last rule that matches decides
            if (is_directory or not rule.directories) and rule.glob.matches(path):
                return not rule.keeps
        return None


def _rule(line: str) -> _Rule | None:
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    keeps = line.startswith("!")
    pattern = line[keeps:]
    if line.startswith("#") or not pattern.strip("/") or len(pattern) > PATTERN_MAX:
        return None
    return _Rule(Glob(pattern), keeps, pattern.endswith("/"))


def _component(name: str) -> str | re.Pattern[str]:
    if not _SPECIAL.search(name):
        return name
    plain = ""
    position = 0
    while position < len(name):
        character = name[position]
        position += 1
        if character == "\\":
            following = name[position : position + 1]
            position += 1
            plain += f"[{following}]" if following in ("*", "?", "[") else following
        elif character == "[":
            # Through the closing bracket nothing is escaped; a bracket that comes first is a member.
            end = name.find("]", position + (2 if name[position : position + 1] in ("!", "^") else 1))
            members = name[position:end] if end > 0 else ""
            plain += f"[{'!' + members[1:] if members.startswith('^') else members}]" if members else "[[]"
            position = end + 1 if members else position
        else:
            plain += character
    return re.compile(fnmatch.translate(plain))


def _fits(component: str | re.Pattern[str], name: str) -> bool:
    return component == name if isinstance(component, str) else component.match(name) is not None
