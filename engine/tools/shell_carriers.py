"""Commands that run other commands, named in their arguments: `sudo rm`, `xargs rm`, `sh -c 'rm x'`, `find -exec rm`.

Where in the arguments the other command begins depends on options that only the program knows, so it is taken to
begin at any of them. Words of the shell's own grammar are here too: what follows `then` or `do` is a command.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import attrs

from engine.tools.shell_programs import program, reads_script, runs, runs_words
from engine.tools.wildcard import ANY


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


KEYWORDS: Final = _names("if then elif else fi for while until do done case esac in select function time coproc [[ ]]")
_SHELLS: Final = _names(
    "sh bash dash ash zsh ksh mksh oksh fish csh tcsh rbash yash posh osh nu elvish xonsh pwsh rc es"
)
# These read arguments as scripts, or join them to one.
_CODE: Final = _SHELLS | _names(
    """eval trap alias ssh su runuser sg watch parallel sem script tmux screen env flock gdb lldb logsave nix-shell
    sshpass start-stop-daemon unbuffer xterm hyperfine concurrently mispipe pee xdg-terminal gnome-terminal konsole
    alacritty kitty wezterm urxvt rxvt foot terminator tilix x-terminal-emulator powershell watchexec
    let mapfile readarray compgen complete bind fc"""
)
_CARRIERS: Final = (
    KEYWORDS
    | _CODE
    | _names(
        """. source exec command builtin sudo doas pkexec nohup nice ionice chrt taskset timeout stdbuf setsid chroot
        unshare nsenter xargs busybox toybox strace ltrace fakeroot firejail bwrap entr systemd-run prlimit setpriv
        expect at batch xvfb-run dbus-run-session gosu su-exec caffeinate hash enable
        ssh-agent setarch linux32 linux64 i386 i486 i586 i686 x86_64 uname26 choom numactl runcon newgrp capsh run0
        systemd-inhibit systemd-cat systemd-nspawn setuidgid envuidgid envdir chpst softlimit cgexec cpulimit daemonize
        dtach abduco nsjail proot fakechroot faketime eatmydata valgrind perf rr rlwrap catchsegv tini dumb-init
        torsocks torify proxychains proxychains4 tsocks trickle pseudo dbus-launch xinit startx
        npx pnpx bunx uvx cross-env cross-env-shell dotenv dotenvx chronic ifne lckdo zrun ed red pdsh pssh clush"""
    )
)
# Options of xargs whose argument is the next word, and long ones without an argument.
_XARGS_TAKING: Final = _names("-a -d -E -I -L -n -P -s")
_XARGS_LONG: Final = _names("--null --no-run-if-empty --verbose --interactive --exit --open-tty")
# The dynamic linker, which runs the program that it is given.
_LINKER: Final = re.compile(r"ld\d*(-[\w.-]+)?\.so(\.\d+)?", re.ASCII)
# Options that name a command, by program: what they run is not looked at. Long ones may be shortened.
_OPTIONS: Final = {
    "tar": ("--checkpoint-a", "--to-c", "--use", "--info", "--new-v", "--rsh", "-I", "-F"),
    "git": ("alias.", "--config-env", "-calias."),
    "gdb": ("-ex", "--ex", "-x", "--command", "--eval", "-iex", "--init", "-ix"),
    "lldb": ("-o", "-O", "-s", "-S", "-Q", "--one", "--source"),
    "rsync": ("-e", "--rsh", "--rsync-path"),
    "man": ("-P", "-H", "--pager", "--html"),
}
_FIND_RUNS: Final = ("-exec", "-ok")

# Nothing in such a word changes when a shell reads it again.
PLAIN: Final = re.compile(r"[A-Za-z0-9_./:=,@%+^-]+", re.ASCII)


@attrs.frozen(slots=True)
class Carried:
    """`scripts` are to be read as scripts of their own. `more`: arguments follow that it reads from its input.
    `unknown`: it may run what stands nowhere in the command. `words`: what it runs may begin at any of its arguments.
    `hints` are code or settings, in which commands may be named."""

    why: str
    scripts: tuple[str, ...] = ()
    more: bool = False
    unknown: bool = False
    words: bool = True
    hints: tuple[str, ...] = ()


def carried(words: Sequence[str]) -> Carried | None:
    """What the simple command of these words (one or more, unquoted) carries; None: it runs itself only."""
    bases = [_base(word) for word in words]
    name = bases[0]
    known = name == "find" or _carries(name) or runs_words(program(name), words[1:])
    for named, options in _OPTIONS.items():
        among = bases if known else bases[:1]
        if named in among and any(word.startswith(options) for word in words[bases.index(named) + 1 :]):
            return Carried(f"an option of {named} runs another command", unknown=True)
    hints, reads = _inside(words, bases if known else bases[:1])
    if name == "find" and not hints and not any(word.startswith(_FIND_RUNS) for word in words):
        return None
    if not known:
        return (
            Carried(f"{name} runs what its arguments say", (), False, reads, False, hints) if hints or reads else None
        )
    why = "it has a control structure" if name in KEYWORDS else f"{name} runs another command"
    code = next((place for place, base in enumerate(bases) if base in _CODE), len(words))
    unknown = reads or "parallel" in bases or (not _SHELLS.isdisjoint(bases) and _reads_stdin(words, bases))
    more = "xargs" in bases
    if more:
        unknown = unknown or _runs_input(words[bases.index("xargs") + 1 :])
    return Carried(why, tuple(_scripts(words[code + 1 :])), more, unknown, True, hints)


def _inside(words: Sequence[str], bases: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """What the arguments of the programs at `bases` say of commands, and whether one reads a script from its input. Of
    a program that is named more than once the first place counts."""
    hints: list[str] = []
    reads = False
    for base, place in {base: place for place, base in reversed(list(enumerate(bases)))}.items():
        arguments = words[place + 1 :]
        reads = reads or reads_script(program(base), arguments)
        if runs(program(base), arguments):
            hints += dict.fromkeys((" ".join(arguments), *_odd(arguments)))
    return tuple(hints), reads


def _odd(arguments: Sequence[str]) -> list[str]:
    """Each argument that says something else when it is read again, and those that stand at an option or name
    (`-Sscript`, `--command=script`)."""
    odd = [word for word in arguments if not PLAIN.fullmatch(word)]
    after = [word.partition("=")[2] for word in odd if "=" in word]
    return [*odd, *after, *(word[length:] for word in odd if word.startswith("-") for length in (2, 3))]


def _carries(name: str) -> bool:
    return name in _CARRIERS or _LINKER.fullmatch(name) is not None


def _base(word: str) -> str:
    return word.rsplit("/", 1)[-1]


def _runs_input(arguments: Sequence[str]) -> bool:
    """Whether xargs may take the name of a command from its input: as the replaced word, or for another carrier."""
    replaced = "{}"
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        option = arguments[at]
        at += 2 if option in _XARGS_TAKING else 1
        if option.startswith("-I"):
            replaced = option[2:] or "".join(arguments[at - 1 : at])
        elif option.startswith("--") and "=" not in option and option not in _XARGS_LONG:
            return True
    command = arguments[at] if at < len(arguments) else ""
    return replaced in command or ANY in command or _carries(_base(command)) or command == "find"


def _scripts(arguments: Sequence[str]) -> list[str]:
    """What may be a script of its own: the arguments joined, and each that is odd."""
    odd = _odd(arguments)
    return [" ".join(arguments), *odd] if odd else []


def _reads_stdin(words: Sequence[str], bases: Sequence[str]) -> bool:
    """Whether the last shell named has no script: neither a file nor a text, or `-s`."""
    last = max(place for place, base in enumerate(bases) if base in _SHELLS)
    options = [word for word in words[last + 1 :] if word.startswith(("-", "+"))]
    return len(options) == len(words) - last - 1 or any("s" in word for word in options if word[:2] != "--")
