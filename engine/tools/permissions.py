"""Permission rules: may a tool be called with these arguments, must a person be asked, or is it denied?

A rule is `toolset.tool`, `toolset.to*`, `toolset.*` or `toolset` (all of its tools), each with patterns for
arguments in parentheses: `shell(command=rm *)`, `files.write_file(path=docs/*, content=*)`; all of them have to
match. A pattern is of the whole value: `*` any text, `?` one character, a backslash takes the meaning of the next
character (also of a comma, which otherwise begins the next argument). An argument that is not given matches nothing.

The first that says something decides: deny rules, what a person allowed for the session, ask rules, allow rules,
the defaults. Where something is unknown, deny and ask take the worst case and allow the best of none:

- An argument named `command` is a shell command and is matched command by command (engine.tools.shell_words). It
  is denied if any part could match, allowed if all is understood and each part surely matches an allow pattern;
  a pattern without wildcards also allows the command that is exactly this text. `ls *` is also `ls`.
- Any other argument may be a path: deny and ask rules see it as written, with `.`, `..` and the session's folder
  resolved, and with links resolved as they are when it is judged. An allow rule has to match it as written and, if
  there is a link in it, the place that it leads to; with `..` in it, a pattern with wildcards does not allow it. They
  see an argument named `url` also as `fetch` reads it; an allow rule has to match its scheme and host by themselves.

A rule is about what a call says, not about what the program then does: a deny rule is no sandbox.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

import attrs
import orjson

from engine import codec
from engine.errors import CallerError
from engine.tools.fetch_rules import parse_url
from engine.tools.shell_script import UNKNOWN, Command, Script
from engine.tools.shell_words import read_script
from engine.tools.wildcard import ANY, Wildcard, escape

Ruling = Literal["allow", "ask", "deny"]
Arguments = Mapping[str, codec.Json]  # a call's input, decoded
# An absolute path with its links and `..` resolved, as os.path.realpath: what is not there is kept as it is written.
Resolve = Callable[[str], str]

RULE_CHARACTERS_MAX: Final = 1200
ARGUMENTS_MAX: Final = 8  # of one rule
_URL: Final = "url"
_PATH_BEGINS: Final = re.compile(r"[/?#]")
COMMAND: Final = "command"  # the argument that is a shell command, whatever the tool
_PATH_CHARACTERS: Final = 4096  # what is longer can be no path, and has no links
# Commands of a script that an explanation names.
_SHOWN_CHARACTERS: Final = 80

RULE_SAYS: Final = "a rule such as files.*, shell or shell(command=rm *)"
_HEAD: Final = re.compile(
    r"(?P<toolset>[A-Za-z0-9_-]{1,64})(?:\.(?P<tool>[A-Za-z0-9_-]{1,128}\*?|\*))?(?P<open>\()?", re.ASCII
)
_ARGUMENT: Final = re.compile(r"\s*(?P<name>[A-Za-z_][A-Za-z0-9_-]{0,63})=(?P<pattern>.+)", re.ASCII)
_ORIGIN: Final = re.compile(r"https?://[^/?#\\@\s]+(?=/|\Z)", re.IGNORECASE)
_NEEDS_QUOTES: Final = re.compile(r"[\s'\"\\;&|<>()$`#]|\A\Z")


# ------------------------------------------------------------------ rules
@attrs.frozen(slots=True)
class Rule:
    """One rule as it was written, taken apart. `tool` may end in `*`."""

    text: str
    toolset: str
    tool: str = "*"
    patterns: tuple[tuple[str, Wildcard], ...] = ()
    origin: Wildcard | None = None  # of a pattern for a URL: its part for the scheme and the host

    def names(self, toolset: str, tool: str) -> bool:
        """Whether the rule is about this tool, whatever the arguments."""
        prefix = self.tool.removesuffix("*")
        return self.toolset == toolset and (tool == prefix if prefix == self.tool else tool.startswith(prefix))


def parse_rule(text: str) -> Rule:
    """Raises ValueError saying what was expected."""
    head = _HEAD.match(text) if len(text) <= RULE_CHARACTERS_MAX and text.isprintable() else None
    if head is None:
        raise ValueError(f"expected {RULE_SAYS}")
    rest = text[head.end() :]
    patterns: dict[str, Wildcard] = {}
    origin: Wildcard | None = None
    if head["open"]:
        if not rest.endswith(")"):
            raise ValueError(f"expected {RULE_SAYS}, with a parenthesis at its end")
        for piece in _pieces(rest[:-1]):
            argument = _ARGUMENT.fullmatch(piece)
            if argument is None:
                raise ValueError(r"expected argument=pattern in the parentheses; a comma in a pattern is written \,")
            name = argument["name"]
            if name in patterns:
                raise ValueError(f"expected one pattern for {name}")
            patterns[name] = Wildcard(argument["pattern"], optional_tail=name == COMMAND)
            if name == _URL:
                origin = Wildcard(_origin_of_pattern(argument["pattern"]))
        if len(patterns) > ARGUMENTS_MAX:
            raise ValueError(f"expected at most {ARGUMENTS_MAX} arguments")
    elif rest:
        raise ValueError(f"expected {RULE_SAYS}")
    return Rule(text, head["toolset"], head["tool"] or "*", tuple(patterns.items()), origin)


def _pieces(text: str) -> list[str]:
    """Split at commas that no backslash stands before."""
    pieces = [""]
    escaped = False
    for character in text:
        if character == "," and not escaped:
            pieces.append("")
        else:
            pieces[-1] += character
        escaped = character == "\\" and not escaped
    return pieces


# Reading, the program's own functions, and the jobs that were allowed when they were started; everything else that no
# rule is about is asked.
_SAFE: Final = (
    "files.read_file files.search_files files.list_directory files.read_output functions"
    " shell.list shell.view shell.stop todo"
)
SAFE: Final = tuple(parse_rule(text) for text in _SAFE.split())


# ------------------------------------------------------------------ what a person allowed
@attrs.frozen(slots=True, kw_only=True)
class Grant:
    """What a person allowed for the rest of a session: this tool, whenever the arguments match the patterns."""

    tool: str  # toolset.tool
    patterns: dict[str, str] = attrs.field(factory=dict)
    at: int = 0  # milliseconds since the epoch

    def covers(self, tool: str, arguments: Arguments) -> bool:
        """Whether the call is one of those. Of a command the whole text has to be the same."""
        if tool != self.tool or (COMMAND in self.patterns and arguments.keys() != self.patterns.keys()):
            return False
        return all(
            name in arguments and Wildcard(pattern).must_match(_plainest(name, arguments[name]))
            for name, pattern in self.patterns.items()
        )

    def __str__(self) -> str:
        inside = ", ".join(f"{name}={pattern}" for name, pattern in self.patterns.items())
        return f"{self.tool}({inside})" if inside else self.tool


def grant_for(tool: str, arguments: Arguments, now: int) -> Grant:
    """What `allow_always` on this call means: a command exactly as it is with all its other arguments, a file by its
    path, an address by its host; any other tool as a whole."""
    patterns: dict[str, str] = {}
    if COMMAND in arguments:
        patterns = {name: escape(_plainest(name, value)) for name, value in arguments.items()}
    elif isinstance(arguments.get("path"), str):
        patterns = {"path": escape(_plainest("path", arguments["path"]))}
    elif isinstance(arguments.get("url"), str):
        url = _plainest("url", arguments["url"])
        origin = _ORIGIN.match(url)
        patterns = {"url": f"{escape(origin[0])}/*" if origin else escape(url)}
    return Grant(tool=tool, patterns=patterns, at=now)


def _plainest(name: str, value: codec.Json) -> str:
    """An argument as grants compare it."""
    text = _text(value)
    if name == "path" and ".." not in text:
        return os.path.normpath(text)
    origin = _ORIGIN.match(text) if name == "url" else None
    return f"{text}/" if origin and origin.end() == len(text) else text


# A session with more was allowed everything, one click at a time.
GRANTS_MAX: Final = 256
GRANT_BYTES_MAX: Final = 64 * 1024


@attrs.frozen(slots=True)
class Grants:
    """All grants of a session, the oldest first; beyond GRANTS_MAX the oldest is dropped, and asked again."""

    entries: tuple[Grant, ...] = ()

    def add(self, grant: Grant) -> Grants:
        """With this one too. One that is larger than GRANT_BYTES_MAX is not kept: its call is asked again."""
        if len(codec.dump(grant)) > GRANT_BYTES_MAX:
            return self
        others = (entry for entry in self.entries if (entry.tool, entry.patterns) != (grant.tool, grant.patterns))
        return Grants((*others, grant)[-GRANTS_MAX:])

    def find(self, tool: str, arguments: Arguments) -> Grant | None:
        return next((grant for grant in self.entries if grant.covers(tool, arguments)), None)

    def encode(self) -> bytes:
        """For the store."""
        return codec.dump(self)

    @classmethod
    def decode(cls, data: bytes) -> Grants:
        """What `encode` gave. Raises codec.DecodeError."""
        return codec.load(data, cls)


NO_GRANTS: Final = Grants()


# ------------------------------------------------------------------ the judge
@attrs.frozen(slots=True, kw_only=True)
class Verdict:
    """`rule` is the text of the rule that decided (of several commands those of all), None for the defaults. `why`
    is one sentence for a person."""

    decision: Ruling
    rule: str | None
    why: str


class Judge:
    """The rules of a configuration. Stateless: what a session was granted is given with each call."""

    def __init__(self, *, deny: Iterable[str] = (), ask: Iterable[str] = (), allow: Iterable[str] = ()) -> None:
        """Raises ValueError for what is no rule."""
        self._deny, self._ask, self._allow = (tuple(parse_rule(text) for text in texts) for texts in (deny, ask, allow))

    def looks_at_paths(self, tool: str) -> bool:
        """Whether a verdict on this tool may depend on where links lead to."""
        toolset, _, name = tool.partition(".")
        rules = (rule for rule in (*self._deny, *self._ask, *self._allow) if rule.names(toolset, name))
        return any(argument != COMMAND for rule in rules for argument, _ in rule.patterns)

    def verdict(
        self,
        tool: str,
        arguments: Arguments,
        *,
        cwd: str | None = None,
        grants: Grants = NO_GRANTS,
        resolve: Resolve | None = None,
    ) -> Verdict:
        """Judge one call. `tool` is `toolset.tool`; `cwd` the session's folder, absolute. Without `resolve` links are
        taken for what they are called. Never raises."""
        toolset, _, name = tool.partition(".")
        call = _Call(arguments, cwd, resolve)
        for rule in self._deny:
            if rule.names(toolset, name) and (part := call.may_match(rule)):
                return Verdict(decision="deny", rule=rule.text, why=f"{part} is denied by the rule {rule.text}")
        granted = grants.find(tool, arguments)
        if granted is not None:
            return Verdict(decision="allow", rule=str(granted), why="it was allowed for this session")
        for rule in self._ask:
            if rule.names(toolset, name) and (part := call.may_match(rule)):
                return Verdict(decision="ask", rule=rule.text, why=f"{part} has to be asked by the rule {rule.text}")
        allowing = [rule for rule in self._allow if rule.names(toolset, name)]
        if allowing:
            return call.allowed(allowing)
        if any(rule.names(toolset, name) for rule in SAFE):
            return Verdict(decision="allow", rule=None, why="it only reads, or is the program's own")
        return Verdict(decision="ask", rule=None, why=f"no rule is about {tool}")


class _Call:
    """One call as rules see it."""

    def __init__(self, arguments: Arguments, cwd: str | None, resolve: Resolve | None) -> None:
        self._arguments = arguments
        self._cwd = cwd
        self._resolve = resolve
        self._script: Script | None = None
        self._forms: dict[str, list[str]] = {}

    # ------------------------------------------------------------ deny and ask: the worst case
    def may_match(self, rule: Rule) -> str | None:
        """What of the call could match, in words; None: nothing could."""
        part = "the call"
        for name, pattern in rule.patterns:
            if name not in self._arguments:
                return None
            if name == COMMAND:
                command = self._matching_command(pattern)
                if command is None:
                    return None
                part = command
            elif not any(pattern.may_match(form) for form in self._values(name)):
                return None
        return part

    def _matching_command(self, pattern: Wildcard) -> str | None:
        for text in self._texts(self._arguments[COMMAND]):
            if pattern.may_match(text):
                return _shown(text)
        script = self._read()
        for command in script.commands:
            text = " ".join((*command.words, ANY) if command.more else command.words)
            if command is not UNKNOWN and pattern.may_match(text, _starts(command)):
                return _shown(text)
        # Every pattern may match what is not known.
        return f"a command that cannot be known, because {script.unknown}," if UNKNOWN in script.commands else None

    def _values(self, name: str) -> list[str]:
        """An argument in every form that it may take effect in."""
        if name not in self._forms:
            forms: list[str] = []
            for text in self._texts(self._arguments[name]):
                forms.append(text)
                resolved = _normal(os.path.join(self._cwd or "", text)) if "\0" not in text else text
                forms += [_normal(text), resolved]
                if self._cwd is not None and resolved.startswith(f"{self._cwd.rstrip('/')}/"):
                    forms.append(resolved[len(self._cwd.rstrip("/")) + 1 :])
                forms += self._real(text)
                if name == "url":
                    forms += _urls(text)
            self._forms[name] = list(dict.fromkeys(forms))
        return self._forms[name]

    def _real(self, text: str) -> list[str]:
        """A path with its links resolved: in full, and below the session's folder. Empty if it can be no path."""
        if self._resolve is None or self._cwd is None or len(text) > _PATH_CHARACTERS or "\0" in text:
            return []
        try:
            real = self._resolve(os.path.join(self._cwd, text))
        except UnicodeEncodeError:  # half a character
            return []
        below = os.path.relpath(real, self._resolve(self._cwd))
        return [real] if below.startswith("..") else [real, below]

    def _behind_links(self, text: str) -> list[str]:
        """As `_real`, of a path that leads elsewhere than it says."""
        plain = _normal(os.path.join(self._cwd or "", text))
        real = self._real(text)
        return [] if {plain, os.path.relpath(plain, self._cwd)} & set(real) else real

    def _texts(self, value: codec.Json) -> list[str]:
        """A value as text; of a list every element too."""
        elements = [_text(element) for element in value] if isinstance(value, list) else []
        return [_text(value), *elements]

    # ------------------------------------------------------------ allow: everything has to be sure
    def allowed(self, rules: Sequence[Rule]) -> Verdict:
        """Allow if the rules cover all of the call, else ask."""
        commands = []  # rules with a pattern for the command, of which each may cover a part
        for rule in rules:
            if not all(self._surely(name, pattern) for name, pattern in rule.patterns if name != COMMAND):
                continue
            if rule.origin is not None and not self._from(rule.origin, dict(rule.patterns)[_URL]):
                continue
            pattern = dict(rule.patterns).get(COMMAND)
            exact = None if pattern is None else pattern.exact
            if pattern is None or (exact is not None and exact == self._arguments.get(COMMAND)):
                return Verdict(decision="allow", rule=rule.text, why=f"it is allowed by the rule {rule.text}")
            commands.append((rule, pattern))
        if not commands or COMMAND not in self._arguments:
            return Verdict(decision="ask", rule=None, why="no allow rule has these arguments")
        return self._allowed_commands(commands)

    def _allowed_commands(self, rules: Sequence[tuple[Rule, Wildcard]]) -> Verdict:
        script = self._read()
        deciding: dict[str, None] = {}
        for command in script.commands:
            text = " ".join(_quoted(word) for word in command.words)
            rule = next((rule for rule, pattern in rules if pattern.must_match(text)), None)
            if rule is None:
                return Verdict(decision="ask", rule=None, why=f"no rule allows {_shown(text)}")
            deciding[rule.text] = None
        if script.doubts:
            return Verdict(decision="ask", rule=None, why=f"it cannot be allowed by a rule, because {script.doubts[0]}")
        if not deciding:
            return Verdict(decision="ask", rule=None, why="there is no command in it")
        texts = ", ".join(deciding)
        return Verdict(
            decision="allow", rule=texts, why=f"it is allowed by the rule{'s' * (len(deciding) > 1)} {texts}"
        )

    def _surely(self, name: str, pattern: Wildcard) -> bool:
        if name not in self._arguments:
            return False
        text = _text(self._arguments[name])
        if text != pattern.exact and (".." in re.split(r"[/\\]", text) or not pattern.must_match(text)):
            return False
        behind = self._behind_links(text)
        return not behind or any(pattern.must_match(form) for form in behind)

    def _from(self, origin: Wildcard, whole: Wildcard) -> bool:
        """Whether the URL's scheme and host match by themselves: a `*` for a part of the host is none for a path."""
        text = _text(self._arguments[_URL])
        if text == whole.exact:
            return True
        return "\\" not in text and "@" not in _origin(text) and origin.must_match(_origin(text))

    def _read(self) -> Script:
        if self._script is None:
            value = self._arguments.get(COMMAND)
            text = value if isinstance(value, str) else " ".join(self._texts(value)[1:])
            self._script = read_script(text)
            if not isinstance(value, str):
                self._script = attrs.evolve(self._script, doubts=(*self._script.doubts, "it is not a text"))
        return self._script


def _normal(path: str) -> str:
    """As os.path.normpath, which keeps two slashes at the begin; here they are one."""
    path = os.path.normpath(path)
    return path[1:] if path.startswith("//") else path


def _origin(text: str) -> str:
    """The beginning of a URL, up to its path."""
    end = _PATH_BEGINS.search(text, _behind_scheme(text))
    return text[: end.start()] if end else text


def _origin_of_pattern(pattern: str) -> str:
    """Likewise; without a slash behind the host what follows a `*` may be of the path."""
    end = pattern.find("/", _behind_scheme(pattern))
    return pattern[:end] if end >= 0 else pattern[: pattern.find("*") + 1] or pattern


def _behind_scheme(text: str) -> int:
    return text.find("://") + len("://") if "://" in text else 0


def _urls(text: str) -> list[str]:
    """A URL as `fetch` reads it: the host in lower case, without the port that it has anyway, with and without the
    dot that may end a name."""
    try:
        target = parse_url(text)
    except CallerError:
        return []
    return [str(target), str(attrs.evolve(target, host=target.host.rstrip(".")))]


def _starts(command: Command) -> frozenset[int]:
    """Where in the joined words a command may begin: at its name with or without the folder, of a carrier at any word
    and behind an equals sign."""
    starts: set[int] = set()
    at = 0
    for word in command.words:
        starts |= {at, at + word.rfind("/") + 1}
        if not command.carrier:
            break
        starts |= {at + word.find("=") + 1}
        at += len(word) + 1
    return frozenset(starts)


def _text(value: codec.Json) -> str:
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # nested deeper than it writes
        return ANY


def _quoted(word: str) -> str:
    """A word so that its blanks and quotes are not those between words."""
    return f"'{word}'" if _NEEDS_QUOTES.search(word) else word


def _shown(text: str) -> str:
    short = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
    return f"`{short.replace(ANY, '…')}`"
