"""Colours for fenced code: keywords, strings, comments and numbers of the common languages, a line at a time.

Not a parser: what goes from one line into the next is one small state (the end of an open comment or string), so that
code is coloured while it streams. A language that is not known is left plain.
"""

from __future__ import annotations

import functools
import re
from typing import Final

import attrs

from engine.rendering.styles import Role, Run, style

CODE: Final = style(Role.CODE)
_KEYWORD: Final = style(Role.KEYWORD)
_STRING: Final = style(Role.STRING)
_COMMENT: Final = style(Role.COMMENT)
_NUMBER: Final = style(Role.NUMBER)

State = tuple[str, int] | None  # what ends the string or comment that a line is in, and its style


@attrs.frozen(slots=True, kw_only=True)
class _Language:
    keywords: str
    line_comments: tuple[str, ...] = ()
    blocks: tuple[tuple[str, str], ...] = ()  # comments over lines
    texts: tuple[tuple[str, str], ...] = ()  # strings over lines
    quotes: str = "\"'"
    any_case: bool = False


_C_WORDS: Final = (
    "break case const continue default do else enum for goto if return sizeof static struct switch typedef union "
    "void volatile while char double float int long short signed unsigned true false NULL nullptr bool class namespace "
    "new delete private protected public template this throw try catch using virtual override auto constexpr "
)
_SLASHES: Final = ("//",)
_STARS: Final = (("/*", "*/"),)
_SCRIPT: Final = (
    "async await break case catch class const continue debugger default delete do else export extends false finally "
    "for from function if import in instanceof let new null of return static super switch this throw true try typeof "
    "undefined var void while with yield interface type enum implements namespace readonly declare abstract as any "
    "string number boolean never unknown keyof"
)
_LANGUAGES: Final = {
    "python": _Language(
        keywords="False None True and as assert async await break class continue def del elif else except finally for "
        "from global if import in is lambda match case nonlocal not or pass raise return try while with yield self",
        line_comments=("#",),
        texts=(('"""', '"""'), ("'''", "'''")),
    ),
    "c": _Language(keywords=_C_WORDS, line_comments=_SLASHES, blocks=_STARS),
    "java": _Language(
        keywords=_C_WORDS + "abstract boolean byte extends final finally implements import instanceof interface "
        "package super synchronized throws var record sealed null string decimal foreach in out ref async await "
        "get set",
        line_comments=_SLASHES,
        blocks=_STARS,
    ),
    "javascript": _Language(keywords=_SCRIPT, texts=(("`", "`"),), line_comments=_SLASHES, blocks=_STARS),
    "go": _Language(
        keywords="break case chan const continue default defer else fallthrough for func go goto if import interface "
        "map package range return select struct switch type var true false nil string int error bool byte rune any",
        texts=(("`", "`"),),
        line_comments=_SLASHES,
        blocks=_STARS,
    ),
    "rust": _Language(
        keywords="as async await break const continue crate dyn else enum extern false fn for if impl in let loop "
        "match mod move mut pub ref return self Self static struct super trait true type unsafe use where while",
        quotes='"',
        line_comments=_SLASHES,
        blocks=_STARS,
    ),
    "kotlin": _Language(
        keywords="as break class continue do else false for fun if in interface is null object package return super "
        "this throw true try typealias val var when while import override private public internal func let guard "
        "struct enum protocol extension self init nil switch case default where static",
        texts=(('"""', '"""'),),
        line_comments=_SLASHES,
        blocks=_STARS,
    ),
    "shell": _Language(
        keywords="if then else elif fi for while until do done case esac in function return local export readonly "
        "set unset shift exit echo cd source trap eval exec sudo",
        line_comments=("#",),
    ),
    "ruby": _Language(
        keywords="alias and begin break case class def do else elsif end ensure false for if in module next nil not "
        "or redo rescue retry return self super then true undef unless until when while yield require",
        line_comments=("#",),
    ),
    "php": _Language(
        keywords=_SCRIPT + " echo foreach elseif array public private protected use require include fn match",
        line_comments=("//", "#"),
        blocks=(("/*", "*/"),),
    ),
    "sql": _Language(
        keywords="add all alter and as asc begin between by case check column commit constraint create cross default "
        "delete desc distinct drop else end exists foreign from full group having if in index inner insert into is "
        "join key left like limit not null offset on or order outer primary references returning right rollback "
        "select set table then union unique update using values view when where with integer text real blob varchar",
        line_comments=("--",),
        blocks=(("/*", "*/"),),
        any_case=True,
    ),
    "json": _Language(keywords="true false null", quotes='"', line_comments=("//",)),
    "yaml": _Language(keywords="true false null yes no on off", line_comments=("#",)),
    "css": _Language(keywords="important media import keyframes supports root from to", blocks=(("/*", "*/"),)),
    "html": _Language(
        keywords="html head body div span a p ul ol li table tr td th script style link meta input form button img h1 "
        "h2 h3 class id href src type name",
        blocks=(("<!--", "-->"),),
    ),
    "lua": _Language(
        keywords="and break do else elseif end false for function goto if in local nil not or repeat return then true "
        "until while",
        blocks=(("--[[", "]]"),),
        line_comments=("--",),
    ),
}
_NAMES: Final = {
    "py": "python", "python3": "python", "pycon": "python", "cpp": "c", "c++": "c", "cc": "c", "h": "c", "hpp": "c",
    "objc": "c", "cs": "java", "csharp": "java", "c#": "java", "scala": "java", "dart": "java", "js": "javascript",
    "jsx": "javascript", "ts": "javascript", "tsx": "javascript", "typescript": "javascript", "mjs": "javascript",
    "golang": "go", "rs": "rust", "kt": "kotlin", "swift": "kotlin", "sh": "shell", "bash": "shell", "zsh": "shell",
    "console": "shell", "dockerfile": "shell", "makefile": "shell", "rb": "ruby", "jsonc": "json", "json5": "json",
    "yml": "yaml", "toml": "yaml", "ini": "yaml", "scss": "css", "less": "css", "xml": "html", "svg": "html",
    "vue": "html", "postgresql": "sql", "mysql": "sql", "sqlite": "sql", "patch": "diff",
}  # fmt: skip


class Highlighter:
    """Of one language. It is given by the first word of a fence, as it is written there; `name` is none for one that is
    not known."""

    __slots__ = ("_any_case", "_diff", "_ends", "_keywords", "_pattern", "name")

    def __init__(self, name: str) -> None:
        name = name.lower()
        name = _NAMES.get(name, name)
        self._diff = name == "diff"
        language = _LANGUAGES.get(name)
        self.name = name if self._diff or language is not None else ""
        self._pattern = None if language is None else _pattern(name)
        self._keywords = frozenset(language.keywords.split()) if language else frozenset()
        self._any_case = language is not None and language.any_case
        self._ends: dict[str, tuple[str, int]] = {}
        if language is not None:
            self._ends |= {begin: (end, _COMMENT) for begin, end in language.blocks}
            self._ends |= {begin: (end, _STRING) for begin, end in language.texts}

    def line(self, text: str, state: State) -> tuple[list[Run], State]:
        """The runs of a line (or of a piece of one), and the state after it. None is the state at the beginning."""
        if self._diff:
            return [(text, _diff_style(text))], None
        if self._pattern is None:
            return [(text, CODE)], None
        runs: list[Run] = []
        at = 0
        while True:
            if state is not None:
                end, value = state
                found = text.find(end, at)
                stop = len(text) if found < 0 else found + len(end)
                _add(runs, text[at:stop], value)
                if found < 0:
                    return runs, state
                at, state = stop, None
            for token in self._pattern.finditer(text, at):
                kind, piece = token.lastgroup, token[0]
                _add(runs, text[at : token.start()], CODE)
                at = token.end()
                if kind == "open":
                    _add(runs, piece, self._ends[piece][1])
                    state = self._ends[piece]
                    break
                _add(runs, piece, self._style(kind, piece))
            else:
                _add(runs, text[at:], CODE)
                return runs, None

    def state(self, end: str) -> State:
        """The state of what ends with this; None if nothing of this language does."""
        return next((state for state in self._ends.values() if state[0] == end), None)

    def _style(self, kind: str | None, piece: str) -> int:
        if kind == "word":
            return _KEYWORD if (piece.lower() if self._any_case else piece) in self._keywords else CODE
        return _COMMENT if kind == "comment" else _STRING if kind == "string" else _NUMBER


def _add(runs: list[Run], text: str, value: int) -> None:
    if not text:
        return
    if runs and runs[-1][1] == value:
        runs[-1] = (runs[-1][0] + text, value)
    else:
        runs.append((text, value))


def _diff_style(text: str) -> int:
    if text.startswith("+"):
        return style(Role.ADDED)
    if text.startswith("-"):
        return style(Role.REMOVED)
    return style(Role.COMMENT if text.startswith(("@@", "diff ", "index ")) else Role.CODE)


@functools.lru_cache(maxsize=32)  # more than there are languages
def _pattern(name: str) -> re.Pattern[str]:
    language = _LANGUAGES[name]
    parts = []
    opening = [begin for begin, _ in (*language.blocks, *language.texts)]
    if opening:
        parts.append(f"(?P<open>{'|'.join(map(re.escape, opening))})")
    if language.line_comments:
        # A sign within a word (`$#`, a colour, an address) begins no comment.
        parts.append(rf"(?P<comment>(?<![\w$:])(?:{'|'.join(map(re.escape, language.line_comments))}).*)")
    strings = "|".join(rf"{quote}(?:\\.|[^{quote}\\])*(?:{quote}|\\?$)" for quote in language.quotes)
    parts.append(f"(?P<string>{strings})")
    parts.append(r"(?P<number>\b\d[\w.]*)")
    parts.append(r"(?P<word>[^\W\d]\w*)")
    return re.compile("|".join(parts))
