"""Programs that run another command only if their arguments say so: `uv run`, `git -c core.pager=…`, `perl -e`.

Each has a pattern that the beginning of such an argument matches; long options may be shortened, short ones stand in
any order. A pattern that matches too much makes a call be asked that could have been allowed; the other mistake lets
something through, so where versions of a program differ the wider one is meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final


def _begins(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.ASCII | re.IGNORECASE)


def _exactly(text: str) -> str:
    """A pattern of whole words, each as it is."""
    return rf"(?:{'|'.join(map(re.escape, text.split()))})\Z"


def _short(letters: str) -> str:
    """A pattern of these options, behind others of one letter too."""
    return rf"-[a-z0-9]*(?-i:[{letters}])"


_RUN: Final = _begins(_exactly("run"))
_RUN_EXEC: Final = _begins(_exactly("run exec shell sh x"))
_COMPILER: Final = _begins("-+wrapper", "-+B", "-+fplugin", "-+specs", "@")
_EDITOR: Final = _begins(r"\+", _short("csSwW"), "--cmd")
_AWK: Final = _begins(r"(?s:.*(?:system|@|(?<!\|)\|(?!\|)))", "-[liE]", "--(?:l|inc|e|so)")
_REMOTE_FILES: Final = _begins(_short("SoDF"))
_PAGER: Final = _begins("--pager")
_OPTION_RUNS: Final = {
    # what fetches or prepares an environment and runs a program in it
    "uv": _RUN,
    "npm": _begins(_exactly("exec x explore init create innit"), "--script-shell", "--node-options"),
    "pnpm": _begins(_exactly("exec x dlx create"), "--script-shell", "-[a-z]*c"),
    "yarn": _begins(_exactly("exec dlx create node")),
    "bun": _begins(_exactly("x exec create"), "-[ep]", "--eval", "--print"),
    "deno": _begins(_exactly("eval repl")),
    "corepack": _begins("."),
    "go": _begins("--?exec", "--?toolexec", "--?vettool", _exactly("generate")),
    "cargo": _begins("--config"),
    "ip": _begins(_exactly("exec")),
    "cmake": _begins("-E", "-P", r"-D.*(?:launcher|compiler)", "--launch"),
    "ctest": _begins("--build-", "-S", "-D"),
    "kubectl": _begins(_exactly("exec run debug plugin")),
    "docker": _begins(_exactly("run exec create"), "--entrypoint", "--cli-plugin"),
    "nix": _begins(_exactly("run shell develop"), "--command", "-c"),
    "vagrant": _begins(_exactly("ssh"), "-c", "--command"),
    "adb": _begins(_exactly("shell exec-out exec-in")),
    "flatpak": _begins(_exactly("run enter")),
    "snap": _RUN,
    "machinectl": _begins(_exactly("shell login")),
    "make": _begins(r"[\w.-]+\s*[:+?!]*=", "--eva", "-E", r"-\Z", "-f-", "/dev/"),
    # interpreters: what is written in their arguments
    "python": _begins(_short("c")),
    "perl": _begins(r"-[a-z0-9.:,']*e", "-[MmxdI]"),
    "ruby": _begins(_short("er")),
    "node": _begins(_short("epr"), "--e", "--p", "--require", "--import", "--loader", "--experimental"),
    "php": _begins(_short("rRBEd"), "--run", "--process", "--define"),
    "lua": _begins(_short("el")),
    "julia": _begins(_short("eEL"), "--eval", "--print", "--load"),
    "r": _begins(_short("e"), "--eval"),
    "octave": _begins("--eval"),
    "gnuplot": _begins(_short("e")),
    "tclsh": _begins(r"-\Z"),
    "guile": _begins(_short("ecl")),
    "emacs": _begins("--?(?:ev|ex|f|l|s|in)"),
    "expect": _begins(_short("cd")),
    "rake": _begins(_short("epfr"), "--e", "--r"),
    "osascript": _begins("-e"),
    "m4": _begins(r"(?s:.*syscmd)"),
    "dc": _begins(r"(?s:.*!)"),
    "sqlite3": _begins(r"(?s:\s*\.)", "--?cmd", "--?init", r"(?s:.*\n[ \t]*\.)"),
    "psql": _begins(r"(?s:.*(?:\\|program))", "--?f"),
    "mysql": _begins(r"(?s:.*(?:\\!|system))", "--pager"),
    # options that name a program
    "sort": _begins("--co"),
    "split": _begins("--fi"),
    "install": _begins("--strip-p"),
    "zip": _begins(_short("T"), "--unz"),
    "cpio": _begins("--rs"),
    "tar": _begins(_short("IF"), "[a-z]*(?-i:[IF])[a-z]*\\Z", "--rm"),
    "rsync": _begins(_short("e")),
    "man": _begins(_short("PH")),
    "wget": _begins("--use-a", _short("e"), "--exe", "--conf"),
    "fd": _begins(_short("xX"), "--exec"),
    "rg": _begins("--pre", "--hostname-bin"),
    "fzf": _begins("--prev", "--bind", "--e", "--become"),
    "less": _begins(r"\+"),
    "tcpdump": _begins(_short("z")),
    "apt": _begins(_short("oc"), "--opt", "--conf"),
    "dpkg": _begins("--pre-inv", "--post-inv", "--inst.*=", "--status-l"),
    "socat": _begins(r"(?s:.*(?:exec|system|shell)\s*:)"),
    "nc": _begins(_short("ec"), "--?(?:exec|sh-exec|lua-exec)"),
    "lftp": _begins(_short("ecf"), "!"),
    "ansible": _begins(_short("am"), "--args", "--mod"),
    "nodemon": _begins(_short("x"), "--exec"),
    # the shell's own, which expand what stands in an index
    "printf": _begins("-v"),
    "test": _begins("-[vR]"),
    "read": _begins(r".*\["),
    "unset": _begins(r".*\["),
}  # fmt: skip
# Which pattern is also good for which programs.
_ALSO: Final = {
    _RUN: "poetry pdm hatch pipenv rye pixi pipx conda mamba micromamba toolbox foreman honcho doppler op chamber "
    "infisical rustup zellij dapr heroku fly flyctl",
    _RUN_EXEC: "bundle rbenv pyenv nodenv goenv asdf mise rtx direnv volta nvm fnm opam stack cabal lxc incus "
    "singularity apptainer devbox distrobox aws-vault nerdctl",
    _COMPILER: "gcc g++ cc c++ clang clang++ gfortran",
    _EDITOR: "vi vim nvim view ex gvim vimdiff rvim",
    _AWK: "awk gawk mawk nawk original-awk goawk",
    _REMOTE_FILES: "scp sftp sshfs mosh",
    _PAGER: "bat batcat ag ack delta journalctl systemctl",
}
_SAME: Final = {
    "docker": "podman docker-compose oc", "make": "gmake bmake", "python": "pypy", "node": "nodejs", "lua": "luajit",
    "r": "R Rscript", "tar": "gtar bsdtar", "sort": "gsort", "split": "gsplit", "fd": "fdfind", "nc": "netcat ncat",
    "apt": "apt-get apt-cache aptitude", "test": "[", "mysql": "mariadb", "less": "more most", "emacs": "emacsclient",
    "wget": "wget2", "sqlite3": "sqlite", "m4": "gm4", "psql": "pgcli",
}  # fmt: skip
_PATTERNS: Final = {
    **_OPTION_RUNS,
    **{name: pattern for pattern, names in _ALSO.items() for name in names.split()},
    **{name: _OPTION_RUNS[first] for first, names in _SAME.items() for name in names.split()},
}
# Of these the arguments go on with a command line.
_WORDS: Final = frozenset(
    "uv npm pnpm yarn bun ip cmake kubectl oc docker podman docker-compose nix adb flatpak snap machinectl corepack "
    f"git fd fdfind {_ALSO[_RUN]} {_ALSO[_RUN_EXEC]}".split()
)
_SED: Final = frozenset(("sed", "gsed", "ssed"))
# These take a script from their input if no argument names a file.
_FROM_INPUT: Final = frozenset(("python", "pypy", "perl", "ruby", "node", "nodejs", "php", "lua", "luajit", "tclsh"))
_VERSION: Final = re.compile(r"-?[\d.]+\Z", re.ASCII)


def program(base: str) -> str:
    """The name under which a program is known here, without its version: `python3.11` is `python`."""
    return base if base in _PATTERNS else _VERSION.sub("", base)


def runs(name: str, arguments: Sequence[str]) -> bool:
    """Whether a program, named as by `program`, runs with these arguments a command that stands in them."""
    pattern = _PATTERNS.get(name)
    if pattern is not None:
        return any(pattern.match(word) for word in arguments)
    special = _SPECIAL.get(name)
    return special is not None and special(arguments)


def runs_words(name: str, arguments: Sequence[str]) -> bool:
    """Whether the arguments go on with a whole command line, as those of `uv run` do."""
    return name in _WORDS and runs(name, arguments)


def reads_script(name: str, arguments: Sequence[str]) -> bool:
    """Whether an interpreter takes what it runs from its input."""
    return name in _FROM_INPUT and all(word == "-" for word in arguments)


# ------------------------------------------------------------------ git
_GIT_TAKING: Final = frozenset(("-C", "--git-dir", "--work-tree", "--namespace", "--super-prefix", "--attr-source"))
_ELSEWHERE: Final = r".*ext::"  # an address that is a command
_GIT: Final = {
    "bisect": _begins(_exactly("run")),
    "submodule": _begins(_exactly("foreach"), r".*(?:!|ext::)"),
    "filter-branch": _begins(""),
    "rebase": _begins(_short("x"), "--ex"),
    "difftool": _begins(_short("x"), "--ext"),
    "grep": _begins(_short("O"), "--op"),
    "send-email": _begins("--(?:smtp-server|sendmail|to-cmd|cc-cmd|header-cmd)"),
    "hook": _begins(_exactly("run")),
    "shell": _begins(""),
    "for-each-repo": _begins(""),
    "instaweb": _begins(_short("bd"), "--br", "--ht"),
    "config": _begins(
        r"[^.]+\..*(?:pager|editor|command|cmd|helper|program|external|textconv|clean|smudge|process|driver|hook|"
        r"fsmonitor|askpass|proxy|exec|pack|include|path|tool|template|alias|filter|variant)"
    ),
    "clone": _begins(_ELSEWHERE, "--up", "-[a-z]*u", "-c", "--conf"),
    "remote": _begins(_ELSEWHERE),
    **dict.fromkeys(("push", "send-pack"), _begins(_ELSEWHERE, "--rec", "--exe")),
    **dict.fromkeys(("fetch", "pull", "fetch-pack", "ls-remote", "archive"), _begins(_ELSEWHERE, "--up", "--exe")),
}  # fmt: skip


def _git(arguments: Sequence[str]) -> bool:
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        if arguments[at] == "-c" or arguments[at].startswith(("--exec-path=", "--config-env")):
            return True
        at += 2 if arguments[at] in _GIT_TAKING else 1
    pattern = _GIT.get(arguments[at]) if at < len(arguments) else None
    return pattern is not None and any(pattern.match(word) for word in arguments[at + 1 :])


# ------------------------------------------------------------------ sed
_BETWEEN: Final = r"(?:[^{0}\\\n]|\\[^\n])*"
_CHANGES: Final = "|".join(
    f"[sy]{mark}{between}{mark}{between}{mark}[gpiIM0-9]*"
    for mark in map(re.escape, "/|,#:@!%+_")
    for between in (_BETWEEN.format(mark),)
)
_ADDRESS: Final = rf"\d+(?:~\d+)?|\$|/{_BETWEEN.format('/')}/[IM]*"
# One step through a script: what is between commands, or one of the commands that run and write nothing, to its end.
_SED_STEP: Final = re.compile(
    rf"[\s;{{}}!]+|\#[^\n]*|(?:{_ADDRESS})(?:\s*,\s*(?:[+~]\d+|{_ADDRESS}))?"
    rf"|(?:[dDgGhHxnNpPlzF=]|[qQ]\s*\d*|[btT:]\s*\w*|[aic] [^\n\\]*|{_CHANGES})(?=[\s;}}]|\Z)",
    re.ASCII,
)
_SED_OPTIONS: Final = re.compile(r"-(?:-|(?P<letters>[nrEsuzbile]*))", re.ASCII)
_SED_LONG: Final = re.compile(r"--(?:expr[a-z]*)(?:=(?P<script>.*))?", re.ASCII | re.DOTALL)


def _sed(arguments: Sequence[str]) -> bool:
    return not all(map(_harmless, _sed_scripts(arguments)))


def _harmless(script: str) -> bool:
    """Whether all of a script for sed is understood, and nothing in it runs a command or writes a file."""
    marks = set(re.findall(r"[sy]([/|,#:@!%+_])", script))
    if re.search(r"(?:\A|[\s;,{}!])/", script):
        marks.add("/")
    for piece in script.split("]"):
        if "[" in piece and not marks.isdisjoint(piece[piece.index("[") :]):
            return False  # where such a text ends depends on the sed
    at = 0
    while at < len(script):
        step = _SED_STEP.match(script, at)
        if step is None:
            return False
        at = step.end()
    return True


def _sed_scripts(arguments: Sequence[str]) -> Iterator[str]:
    """The scripts among the arguments: those of `-e`, else the first that is no option."""
    first: str | None = None
    given = False
    place = 0
    while place < len(arguments):
        word = arguments[place]
        place += 1
        letters = _SED_OPTIONS.match(word)
        long = _SED_LONG.fullmatch(word)
        if long is not None or (letters is not None and "e" in (letters["letters"] or "")):
            given = True
            script = long["script"] if long is not None else word[word.index("e") + 1 :] or None
            if script is None:
                script = arguments[place] if place < len(arguments) else ""
                place += 1
            yield script
        elif letters is not None and (letters["letters"] or "").endswith("l") and letters.end() == len(word):
            place += 1  # the length of a line
        elif first is None and (letters is None or word == "-"):
            first = word
    if not given and first is not None:
        yield first


_SPECIAL: Final[dict[str, Callable[[Sequence[str]], bool]]] = {"git": _git, **dict.fromkeys(_SED, _sed)}
