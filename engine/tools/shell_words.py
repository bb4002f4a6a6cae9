"""What a shell command would run, as far as that can be known without running it.

`read_script` takes the text apart as sh and bash do and gives every simple command in it: of lists, pipelines,
subshells, groups, substitutions, control structures and functions, and those inside the arguments of commands that
run others (`sudo`, `xargs`, `sh -c`). Words come unquoted; what only the shell will know (a variable, a file
pattern, the output of a command) is ANY in them.

It is made for permission rules, so its mistakes are on one side. Whatever is not understood, or has an effect
beside running the commands listed, is a doubt: with one, nothing may be allowed. Where even the commands may be
others than those listed, UNKNOWN is among them, which every pattern may match. It always returns, whatever the
text: length, depth, number of commands and all reading together are bounded, and beyond a bound stands UNKNOWN.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from engine.limits import KIB
from engine.tools.shell_carriers import PLAIN, carried
from engine.tools.shell_script import UNKNOWN, Command, Found, Lost, Script
from engine.tools.wildcard import ANY

# Of a longer command nothing is read: it is a program in disguise, for a person to look at.
TEXT_MAX: Final = 16 * KIB
# Substitutions in each other, and scripts in arguments. People write three.
DEPTH_MAX: Final = 16
# Characters of arguments and backticks that are read again as scripts, in one command.
_AGAIN_MAX: Final = 2 * TEXT_MAX

_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\[[^\]]*\])?\+?=", re.ASCII)
_SETTING: Final = frozenset(("export", "readonly", "declare", "typeset", "local"))
# Variables whose text programs run, or expand: pagers, editors, prompts. What the shell itself runs of a variable is
# unknown where it is used.
_RUN_BY_PROGRAMS: Final = re.compile(
    r"PAGER|EDITOR|VISUAL|BROWSER|SHELL|COMMAND|CMD|ASKPASS|LESSOPEN|LESSCLOSE|RSH|SSH|OPT|FLAGS|ENV|PS[0-4]|EXEC|WRAP"
    r"|LAUNCH|PRELOAD|PROGRAM|HELPER|FILTER|HOOK|TOOL|PROXY|\AGIT_|\A(CC|CXX|LD|AR|CPP|AS)\b",
    re.ASCII | re.IGNORECASE,
)
_REDIRECTION: Final = re.compile(r"<<<|<<-|<<|<>|<&|>>|>\||>&|<|>")
_DESCRIPTOR: Final = re.compile(r"[0-9]{1,4}-?|-", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+", re.ASCII)
_DELIMITER: Final = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_ARITHMETIC: Final = re.compile(r"[A-Za-z0-9_ \t+*/%<>=&|^!~?:,()-]*", re.ASCII)
_VARIABLE: Final = re.compile(r"\$(?:[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-])", re.ASCII)
# Without what could hold a command: quotes, substitutions, nesting, and the operator that expands a value again.
_BRACED: Final = re.compile(r"\$\{[^{}'\"`\\$\n@]*\}|\$\{@\}")
_ANSI_C: Final = re.compile(r"\$'(?:[^'\\]|\\[^'])*'")
_TOKENS: Final = re.compile(r"[\s\"'`(){}\[\]<>;|&!,=#\\]+")  # what stands between the words of code
_BACKTICKS: Final = re.compile(r"`((?:[^`\\]|\\.)*)`", re.DOTALL)
_DOUBLE_QUOTED: Final = re.compile(r"[^\"\\$`]+")


def read_script(text: str) -> Script:
    """All commands of a script. Never raises."""
    found = Found()
    if len(text) > TEXT_MAX:
        found.unknown(f"it is longer than {TEXT_MAX:,} characters")
    else:
        if ANY in text or "\0" in text:
            found.unknown("it has a character that no command has")
        _Reader(text, found, 0).script()
    return found.script()


@attrs.define(slots=True)
class _Simple:
    """The simple command that is being read."""

    words: list[str] = attrs.field(factory=list)
    word: list[str] | None = None  # the parts of the present word; None: between words
    quoted: bool = False  # a part of the present word was
    expands: bool = False  # the present word has an open brace or bracket
    redirection: str | None = None  # the operator whose word comes next


class _Reader:
    def __init__(self, text: str, found: Found, depth: int) -> None:
        self._text = text
        self._at = 0
        self._found = found
        self._depth = depth
        self._simple = _Simple()
        self._closing = ""  # what ends the commands that are read
        self._here: list[tuple[str, bool, bool]] = []  # (delimiter, tabs are taken off, quoted) of documents to come

    def script(self) -> None:
        try:
            self._commands("")
        except Lost as exc:
            self._found.unknown(str(exc))

    # ------------------------------------------------------------ commands
    def _commands(self, closing: str) -> None:
        """Read commands through the closing parenthesis, or to the end of the text."""
        outer, self._simple, self._closing = (self._simple, self._closing), _Simple(), closing
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise Lost(f"it is nested more than {DEPTH_MAX} deep")
        if self._here:
            raise Lost("a here-document begins outside of a nested command")
        while (character := self._text[self._at : self._at + 1]) and character != closing:
            self._next(character)
        if closing and not character:
            raise Lost("a parenthesis is not closed")
        self._at += len(character)
        self._end_command()
        if self._here:
            raise Lost("a here-document does not end")
        self._depth -= 1
        self._simple, self._closing = outer

    def _next(self, character: str) -> None:
        simple = self._simple
        if character in " \t":
            self._end_word()
            self._at += 1
        elif character == "\n":
            self._end_command()
            self._at += 1
            self._documents()
        elif character == "#" and simple.word is None:
            end = self._text.find("\n", self._at)
            self._at = end if end >= 0 else len(self._text)
        elif character == "(":
            self._parenthesis()
        elif character in ";&|)":
            if self._text.startswith("&>", self._at):
                self._found.doubt("it redirects output")  # or starts a background command, as the shell sees it
            elif character == ")":
                self._found.doubt("it has a control structure")
            self._end_command()
            self._at += 1
        elif character in "<>":
            self._redirection()
        else:
            self._part(character)

    def _parenthesis(self) -> None:
        if self._text.startswith("((", self._at):  # arithmetic for some shells, subshells for others
            raise Lost("its parentheses are not understood")
        if self._simple.word is not None or self._simple.words:
            self._found.doubt("it has a function or an array")
        self._end_command()
        self._at += 1
        self._commands(")")

    def _end_command(self) -> None:
        self._end_word()
        simple = self._simple
        if simple.redirection is not None:
            self._found.doubt("a redirection names nothing")
            simple.redirection = None
        words, simple.words = simple.words, []
        while words and (assignment := _ASSIGNMENT.match(words[0])):
            self._variable(words[0], assignment)
            del words[0]
        if words:
            self._take(words)

    def _take(self, words: list[str]) -> None:
        """Note a command, and those that its arguments are."""
        found = self._found
        if ANY in words[0]:
            found.unknown("the name of a command is not known before it runs")
            return
        if words[0] in _SETTING:
            found.doubt("it sets a variable")
            for word in words[1:]:
                if assignment := _ASSIGNMENT.match(word):
                    self._variable(word, assignment)
        if "case" in words and self._closing:
            raise Lost("a parenthesis may close the pattern of a case or a command")
        carrier = carried(words)
        if carrier is None:
            found.command(Command(tuple(words)))
            return
        found.doubt(carrier.why)
        found.command(Command(tuple(words), carrier.words, carrier.more))
        if carrier.unknown:
            found.unknown(f"{words[0]} reads commands from its input")
        for script in carrier.scripts:
            if ANY in script:
                found.unknown("a script in it is not known before it runs")
            self._again(script)
        for hint in carrier.hints:
            self._hint(hint)

    def _variable(self, word: str, assignment: re.Match[str]) -> None:
        self._found.doubt("it sets a variable")
        if _RUN_BY_PROGRAMS.search(assignment[0]):
            self._hint(word[assignment.end() :])

    def _hint(self, text: str) -> None:
        """Note what may be a command in a text that is code of any language, or a setting."""
        tokens = [token for token in _TOKENS.split(text) if token and ANY not in token]
        if tokens:
            self._found.command(Command(tuple(tokens), True))
        apart = Found()
        apart.again = self._found.again
        self._again(text, apart)
        self._found.again = apart.again
        for command in apart.script().commands:
            if command is not UNKNOWN:
                self._found.command(command)

    def _again(self, text: str, found: Found | None = None) -> None:
        """Read a part of what was read as a script of its own."""
        found = found or self._found
        found.again += len(text)
        if found.again > _AGAIN_MAX:
            raise Lost("it has too many scripts in each other")
        _Reader(text, found, self._depth).script()

    # ------------------------------------------------------------ words
    def _add(self, text: str) -> None:
        if self._simple.word is None:
            self._simple.word = []
        self._simple.word.append(text)

    def _end_word(self) -> None:
        simple = self._simple
        if simple.word is None:
            return
        word, quoted = "".join(simple.word), simple.quoted
        if simple.expands and word not in ("{", "[", "[[") and ("{" in word.replace("{}", "") or "]" in word):
            word = ANY
        simple.word, simple.quoted, simple.expands = None, False, False
        if simple.redirection is not None:
            operator, simple.redirection = simple.redirection, None
            self._redirected(operator, word, quoted)
        elif simple.words or quoted or word not in ("{", "}", "!"):
            simple.words.append(word)

    def _part(self, character: str) -> None:
        """The next part of a word outside of quotes."""
        simple, text = self._simple, self._text
        plain = PLAIN.match(text, self._at)
        if plain:
            self._add(plain[0])
            self._at = plain.end()
        elif character == "\\":
            following = text[self._at + 1 : self._at + 2]
            self._at += 2
            if not following:
                self._found.doubt("it ends in a backslash")
            elif following != "\n":
                self._add(following)
                simple.quoted = True
            elif text[self._at - 3 : self._at - 2] in tuple("$<>("):
                raise Lost("an operator goes on in the next line")
        elif character == "'":
            end = text.find("'", self._at + 1)
            if end < 0:
                raise Lost("a quote is not closed")
            self._add(text[self._at + 1 : end])
            self._end_quote(self._at, end + 1)
        elif character == '"':
            begin, self._at = self._at, self._at + 1
            self._add("")
            self._quoted('"')
            self._end_quote(begin, self._at)
        elif character == "$":
            self._dollar(quoted=False)
        elif character == "`":
            self._backticks(quoted=False)
        else:
            self._at += 1
            if character in "*?" or (character == "~" and simple.word is None and simple.words):
                character = ANY  # the home folder of a command's own name hides nothing of the name
            elif character in "{[":
                simple.expands = True
            elif character.isspace() or not (character.isprintable() or character == ANY):
                self._found.doubt("it has an unusual character")
            self._add(character)

    def _end_quote(self, begin: int, end: int) -> None:
        if self._here and "\n" in self._text[begin:end]:
            raise Lost("a here-document begins before a quote of several lines")
        self._simple.quoted = True
        self._at = end

    def _quoted(self, closing: str) -> None:
        """The rest of what stands in double quotes, or of a here-document, to its end."""
        text = self._text
        while (character := text[self._at : self._at + 1]) != closing:
            if not character:
                raise Lost("a quote is not closed")
            if character == "\\":
                following = text[self._at + 1 : self._at + 2]
                if following and following in '$`"\\':
                    self._add(following)
                elif following != "\n":
                    self._add(character + following)
                elif text[self._at - 1 : self._at] == "$":
                    raise Lost("an expansion goes on in the next line")
                self._at += 2
            elif character == "$":
                self._dollar(quoted=True)
            elif character == "`":
                self._backticks(quoted=True)
            elif run := _DOUBLE_QUOTED.match(text, self._at):
                self._add(run[0])
                self._at = run.end()
            else:
                self._add(character)
                self._at += 1
        self._at += len(character)

    def _dollar(self, *, quoted: bool) -> None:
        text, at = self._text, self._at
        following = text[at + 1 : at + 2]
        if following == "(":
            end = self._arithmetic_end(at + 3) if text.startswith("((", at + 1) else 0
            if end:
                self._found.doubt("it computes")
                self._at = end
            elif text.startswith("((", at + 1):
                raise Lost("its parentheses are not understood")
            else:
                self._at = at + 2
                self._commands(")")
            self._add(ANY)
        elif found := _VARIABLE.match(text, at) or _BRACED.match(text, at):
            self._found.doubt("it uses a variable")
            self._at = found.end()
            self._add(ANY)
        elif following == "'" and not quoted:
            found = _ANSI_C.match(text, at)
            if not found:
                raise Lost("a quote is not understood")
            self._found.doubt("it has a quote that shells read differently")
            self._at = found.end()
            self._add(ANY)
        elif following and following in "{['":
            if quoted and following != "{":
                self._add("$")
                self._at += 1
                self._found.doubt("it computes")
            else:
                raise Lost("an expansion is not understood")
        else:
            if following == '"' and not quoted:
                self._found.doubt("it has a quote that shells read differently")
                self._add(ANY)
            else:
                self._add("$")
            self._at += 1

    def _backticks(self, *, quoted: bool) -> None:
        found = _BACKTICKS.match(self._text, self._at)
        if not found or (quoted and '\\"' in found[1]):
            raise Lost("a backtick is not understood")
        self._at = found.end()
        self._add(ANY)
        self._again(re.sub(r"\\([$`\\])", r"\1", found[1]))

    def _arithmetic_end(self, begin: int) -> int:
        """Where `…))` of plain arithmetic ends, or 0."""
        run = _ARITHMETIC.match(self._text, begin)
        assert run is not None, "it matches nothing too"
        depth = 1
        for place in range(begin, run.end()):
            depth += {"(": 1, ")": -1}.get(self._text[place], 0)
            if not depth:
                return place + 2 if self._text.startswith("))", place) else 0
        return 0

    # ------------------------------------------------------------ redirections
    def _redirection(self) -> None:
        simple, text = self._simple, self._text
        if text.startswith("(", self._at + 1):  # a process whose pipe is given as a file
            self._at += 2
            self._commands(")")
            self._add(ANY)
            return
        operator = _REDIRECTION.match(text, self._at)
        assert operator is not None, "it begins with < or >"
        self._at = operator.end()
        if simple.word is not None and not simple.quoted and _NUMBER.fullmatch("".join(simple.word)):
            simple.word = None  # the descriptor
        self._end_word()
        if simple.redirection is not None:
            self._found.doubt("a redirection names nothing")
        simple.redirection = operator[0]

    def _redirected(self, operator: str, word: str, quoted: bool) -> None:
        if operator in ("<<", "<<-"):
            self._found.doubt("it has a here-document")
            if not _DELIMITER.fullmatch(word):
                raise Lost("the end of a here-document is not understood")
            self._here.append((word, operator == "<<-", quoted))
        elif operator == "<<<":
            self._found.doubt("it gives text to a command")
        elif operator in ("<&", ">&") and _DESCRIPTOR.fullmatch(word):
            pass
        elif word != "/dev/null":
            self._found.doubt("it reads a file by redirection" if operator == "<" else "it redirects output")

    def _documents(self) -> None:
        """Read the here-documents that begin in this line."""
        for delimiter, tabs, quoted in self._here:
            begin = self._at
            while True:
                if self._at >= len(self._text):
                    raise Lost("a here-document does not end")
                start, end = self._at, self._text.find("\n", self._at)
                line = self._text[start : end if end >= 0 else len(self._text)]
                self._at = end + 1 if end >= 0 else len(self._text)
                if (line.lstrip("\t") if tabs else line) == delimiter:
                    break
                if line.endswith("\\") and not quoted:
                    raise Lost("a here-document is not understood")
            if not quoted:
                body = _Reader(self._text[begin:start], self._found, self._depth)
                body._quoted("")
        self._here.clear()
