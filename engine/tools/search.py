"""The tool `search_files`: literal content search below the session's folder, bounded in every direction.

There are no regular expressions here: one from a model can take for ever in the backtracking engine at hand, with
the interpreter's lock held. A literal is found in linear time.
"""

from __future__ import annotations

import heapq
import os
import stat
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Final

import attrs

from engine import codec
from engine.errors import CallerError
from engine.limits import DEFAULT, KIB, Limits
from engine.tools import paths
from engine.tools.glob import PATTERN_MAX, Glob, IgnoreRules
from engine.tools.read import Checkpoint, blocks, is_binary
from engine.tools.schema import input_schema
from engine.tools.spec import ToolResult, ToolSpec

# A pattern is a word or a line of code; longer ones are pasted by mistake.
_PATTERN_CHARACTERS: Final = 1000
# Of a matching line so much is shown, around the match.
_LINE_CHARACTERS: Final = 300
_BEFORE_MATCH: Final = 100
# A line up to this is looked at as a whole; a longer one in overlapping pieces.
_LINE_BYTES: Final = 32 * KIB
# An ignore file is read up to this, and at most so many rules are in force at once (a rule takes about 1 KiB).
_IGNORE_BYTES: Final = 64 * KIB
_IGNORE_RULES: Final = 2000
# Room for the last lines of the result, which count what was found and left out.
_SUMMARY_ROOM: Final = KIB
_SUMMARY_LINES: Final = 2

_Pattern = Annotated[
    str,
    codec.Check(
        f"1 to {_PATTERN_CHARACTERS} characters without a line end",
        lambda value: 0 < len(value) <= _PATTERN_CHARACTERS and "\n" not in value,
    ),
]
_GlobText = Annotated[str, codec.Check(f"1 to {PATTERN_MAX} characters", lambda value: 0 < len(value) <= PATTERN_MAX)]


@attrs.frozen(slots=True, kw_only=True)
class SearchFiles:
    pattern: _Pattern = attrs.field(
        metadata={"description": "The text to find, literally (not a regular expression), inside one line."}
    )
    path: str = attrs.field(
        default=".", metadata={"description": "The folder or file to search, relative to the session's folder."}
    )
    glob: _GlobText | None = attrs.field(
        default=None, metadata={"description": "Only files that match, as in .gitignore: *.py or src/**/*.js."}
    )
    ignore_case: bool = attrs.field(default=False, metadata={"description": "Take upper and lower case as equal."})


SEARCH_FILES: Final = ToolSpec(
    name="search_files",
    description="Find text in the files of the session's folder. Each line found is given as path:line: text. "
    "Binary files, links, .git and what .gitignore files exclude are left out.",
    input_schema=input_schema(SearchFiles),
)


def search_files(folder: str, asked: SearchFiles, checkpoint: Checkpoint, limits: Limits = DEFAULT) -> ToolResult:
    """Lines with the pattern, files in the order of their names, then a summary. Raises CallerError("invalid_path").

    Memory is bounded by `limits`, whatever the files are; see the constants above for what else is.
    """
    descriptor, names = paths.open_path(folder, asked.path)
    search = _Search(asked, checkpoint, limits)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            search.file(descriptor, names)
        else:
            search.tree(folder, descriptor, names)
    except OSError as exc:
        raise CallerError("invalid_path", f"{asked.path!r} cannot be searched: {exc.strerror}") from exc
    finally:
        os.close(descriptor)
    return search.result()


@attrs.frozen(slots=True)
class _Level:
    """An open directory of the walk. `rules` are in force in it, the nearest last, each with its folder's depth."""

    descriptor: int
    names: tuple[str, ...]
    entries: Iterator[str]
    rules: tuple[tuple[int, IgnoreRules], ...]


class _Search:
    def __init__(self, asked: SearchFiles, checkpoint: Checkpoint, limits: Limits) -> None:
        self._asked = asked
        self._needle = asked.pattern.casefold() if asked.ignore_case else asked.pattern
        # Bytes that pieces of a long line share, so that no match is lost between them: a character has at most 4.
        self._overlap = 4 * (len(self._needle) + _BEFORE_MATCH)
        self._glob = Glob(asked.glob) if asked.glob else None
        self._checkpoint = checkpoint
        self._limits = limits
        self._found: list[str] = []
        self._room = limits.tool_result_bytes - _SUMMARY_ROOM
        self._matches_max = min(limits.search_matches, limits.tool_result_lines - _SUMMARY_LINES)
        self._names_room = limits.search_files_max
        self._searched = 0
        self._with_match = 0
        self._skipped: Counter[str] = Counter()
        self._stopped: str | None = None

    # ------------------------------------------------------------ the walk
    def tree(self, folder: str, descriptor: int, names: tuple[str, ...]) -> None:
        """Search below an open directory. The levels below it are opened and closed here."""
        levels = [self._level(descriptor, names, self._rules_above(folder, names))]
        try:
            while levels and self._stopped is None:
                level = levels[-1]
                name = next(level.entries, None)
                if name is None:
                    levels.pop()
                    if levels:
                        os.close(level.descriptor)
                    continue
                self._checkpoint()
                try:
                    below = self._entry(level, name, len(levels))
                except OSError:
                    self._skipped["unreadable"] += 1
                    continue
                if below is not None:
                    levels.append(below)
        finally:
            for level in levels[1:]:
                os.close(level.descriptor)

    def _entry(self, level: _Level, name: str, depth: int) -> _Level | None:
        """Search one file, or open one directory. Raises OSError."""
        mode = os.stat(name, dir_fd=level.descriptor, follow_symlinks=False).st_mode
        names = (*level.names, name)
        is_directory = stat.S_ISDIR(mode)
        if not is_directory and not stat.S_ISREG(mode):
            self._skipped["link" if stat.S_ISLNK(mode) else "special"] += 1
        elif name == ".git" or _ignored(level.rules, names, is_directory):
            self._skipped["ignored"] += 1
        elif is_directory and depth >= paths.DEPTH_MAX:
            self._skipped["too deep"] += 1
        elif is_directory:
            descriptor = paths.open_directory(level.descriptor, name)
            try:
                return self._level(descriptor, names, level.rules)
            except BaseException:
                os.close(descriptor)
                raise
        elif self._glob is None or self._glob.matches(names):
            descriptor = paths.open_entry(level.descriptor, name)
            try:
                self.file(descriptor, names)
            finally:
                os.close(descriptor)
        return None

    def _level(self, descriptor: int, names: tuple[str, ...], rules: tuple[tuple[int, IgnoreRules], ...]) -> _Level:
        entries = heapq.nsmallest(self._names_room + 1, self._listed(descriptor))
        if len(entries) > self._names_room:
            entries.pop()
            self._skipped[f"folder only in part (the bound is {self._limits.search_files_max:,} names)"] += 1
        self._names_room -= len(entries)
        rules = self._with_rules_of(descriptor, len(names), rules)
        return _Level(descriptor, names, iter(entries), rules)

    def _listed(self, descriptor: int) -> Iterator[str]:
        with os.scandir(descriptor) as entries:
            for number, entry in enumerate(entries):
                if number % 50 == 0:
                    self._checkpoint()
                yield entry.name

    # ------------------------------------------------------------ ignore files
    def _rules_above(self, folder: str, names: tuple[str, ...]) -> tuple[tuple[int, IgnoreRules], ...]:
        """What the folders above the one to search say, unless they ignore it: it was asked for by name."""
        rules: tuple[tuple[int, IgnoreRules], ...] = ()
        for depth in range(len(names)):
            try:
                descriptor, _ = paths.open_path(folder, "/".join(names[:depth]) or ".")
            except CallerError:
                return ()  # renamed meanwhile
            try:
                rules = self._with_rules_of(descriptor, depth, rules)
            finally:
                os.close(descriptor)
            if _ignored(rules, names[: depth + 1], True):
                return ()
        return rules

    def _with_rules_of(
        self, directory: int, depth: int, rules: tuple[tuple[int, IgnoreRules], ...]
    ) -> tuple[tuple[int, IgnoreRules], ...]:
        try:
            descriptor = paths.open_entry(directory, ".gitignore")
        except OSError:
            return rules
        try:
            data = os.read(descriptor, _IGNORE_BYTES)
        finally:
            os.close(descriptor)
        self._checkpoint()
        if len(data) == _IGNORE_BYTES:  # half a pattern would say something else
            data = data[: data.rfind(b"\n") + 1]
        own = IgnoreRules(data.decode(errors="surrogateescape"), _IGNORE_RULES - sum(len(one) for _, one in rules))
        return (*rules, (depth, own)) if len(own) else rules

    # ------------------------------------------------------------ one file
    def file(self, descriptor: int, names: tuple[str, ...]) -> None:
        """Search an open file. Holds one block and one line of at most 32 KiB of it."""
        if os.fstat(descriptor).st_size > self._limits.file_tool_bytes:
            self._skipped["too large"] += 1
            return
        shown = paths.shown(names)
        before = len(self._found)
        held = b""  # an incomplete line, or the last part of a long one
        line = 1
        reported = 0
        left = self._limits.file_tool_bytes  # it may grow while it is read
        for block in blocks(descriptor, self._checkpoint):
            if left == self._limits.file_tool_bytes and is_binary(block):
                self._skipped["binary"] += 1
                return
            left -= len(block)
            data = held + block
            end = data.rfind(b"\n") + 1
            held = data[end:]
            if len(held) > _LINE_BYTES:
                end, held = len(data), held[-self._overlap :]
            line, reported = self._piece(data[:end], shown, line, reported)
            if self._stopped is not None or left < 0:
                break
        else:
            self._piece(held, shown, line, reported)
        self._searched += 1
        self._with_match += len(self._found) > before

    def _piece(self, data: bytes, shown: str, line: int, reported: int) -> tuple[int, int]:
        """Search a piece that begins in `line`. Returns the line it ends in and the last line reported."""
        text = data.decode(errors="replace")
        folded = text.casefold() if self._asked.ignore_case else text
        if self._needle in folded:
            originals = text.split("\n")
            for number, candidate in enumerate(folded.split("\n"), line):
                if number != reported and self._needle in candidate and self._stopped is None:
                    reported = number
                    self._report(shown, number, originals[number - line], candidate.find(self._needle))
        return line + data.count(b"\n"), reported

    def _report(self, shown: str, number: int, text: str, at: int) -> None:
        begin = max(0, at - _BEFORE_MATCH) if len(text) > _LINE_CHARACTERS else 0
        end = begin + _LINE_CHARACTERS
        excerpt = f"{'…' if begin else ''}{text[begin:end].rstrip()}{'…' if len(text) > end else ''}"
        found = f"{shown}:{number}: {excerpt}"
        size = len(found.encode()) + 1
        if len(self._found) >= self._matches_max:
            self._stopped = f"at {self._matches_max:,} matches"
        elif size > self._room:
            self._stopped = "because the result is full"
        else:
            self._found.append(found)
            self._room -= size

    # ------------------------------------------------------------ the end
    def result(self) -> ToolResult:
        found = len(self._found)
        summary = f"{_count(found, 'match', 'es')} in {_count(self._with_match, 'file')}"
        summary += f"; {_count(self._searched, 'file')} searched"
        if self._skipped:
            summary += "; skipped: " + ", ".join(f"{count:,} {why}" for why, count in sorted(self._skipped.items()))
        lines = [*self._found, f"[{summary}]"]
        if self._stopped is not None:
            lines.append(f"[Stopped {self._stopped}; there are more. Search a narrower path or pattern.]")
        pattern = self._asked.pattern
        return ToolResult(text="\n".join(lines), title=f"{pattern[:60]!r} in {self._asked.path}")


def _ignored(rules: tuple[tuple[int, IgnoreRules], ...], names: tuple[str, ...], is_directory: bool) -> bool:
    for depth, rule in reversed(rules):
        said = rule.ignores(names[depth:], is_directory)
        if said is not None:
            return said
    return False


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number:,} {noun}{'' if number == 1 else plural}"
