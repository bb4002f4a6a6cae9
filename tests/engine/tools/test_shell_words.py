"""What a shell command runs: every part of it, or a doubt."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.tools.shell_script import COMMANDS_MAX, UNKNOWN, Command
from engine.tools.shell_words import DEPTH_MAX, TEXT_MAX, read_script
from engine.tools.wildcard import ANY


def commands(text: str) -> list[str]:
    return [" ".join(command.words).replace(ANY, "…") for command in read_script(text).commands]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("   \n # nothing", []),
        ("ls", ["ls"]),
        ("ls -l a.txt", ["ls -l a.txt"]),
        ("a; b;c", ["a", "b", "c"]),
        ("a && b||c", ["a", "b", "c"]),
        ("a | b |& c", ["a", "b", "c"]),
        ("a&b &", ["a", "b"]),
        ("a\nb\n\nc", ["a", "b", "c"]),
        ("(a; b) && (c)", ["a", "b", "c"]),
        ("{ a; b; } | c", ["a", "b", "c"]),
        ("! a", ["a"]),
        ("a $(b c) d", ["b c", "a … d"]),
        ("a `b c` d", ["b c", "a … d"]),
        ('a "x $(b "$(c)") y"', ["c", "b …", "a x … y"]),
        (r"a `b \`c\``", ["c", "b …", "a …"]),
        ("a <(b) >(c)", ["b", "c", "a … …"]),
        (r"r\m 'x y' \"z\"", ['rm x y "z"']),
        ("'r''m' \"x\"y", ["rm xy"]),
        ('"a\\b\\$c\\\nd"', ["a\\b$cd"]),
        ("a 'b;c' \"d|e\"", ["a b;c d|e"]),
        ("a\\\nb c", ["ab c"]),
        ("a #b; c\nd", ["a", "d"]),
        ("a b#c; d", ["a b#c", "d"]),
        ("a ''#c", ["a #c"]),
        ("a *.py [ab] b?", ["a ….py … b…"]),
        ("a {b,c}d", ["a …"]),
        ("a {} {", ["a {} {"]),
        ("[ -f x ] && a", ["[ -f x ]", "a"]),
        ("a ~/x b~", ["a …/x b~"]),
        ("~/bin/a x", ["~/bin/a x"]),
        ("a > /dev/null 2>&1 < /dev/null", ["a"]),
        ("a 2>&1 b >&2", ["a b"]),
        ('a $x ${y} "$z" $1 $$ $', ["a … … … … … $"]),
        ("a $((1 + (2*3)))", ["a …"]),
        ("a \u00e9 日本", ["a é 日本"]),
    ],
)
def test_commands(text: str, found: list[str]) -> None:
    assert commands(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "a > f",
        "a >> f",
        "a 2> f",
        "> f",
        "a >| f",
        "a &> f",
        "a &>> f",
        "a >& f",
        "a <> f",
        "a < f",
        "a <<< b",
        "a >",
        "a <<E\nb\nE",
        "a <<-E\n\tb\n\tE",
        "a <<'E'\n$(b)\nE",
        "a <<E\nb",
        "X=1 a",
        "X=1",
        "X+=1 a",
        "a; X=$(b)",
        "a $x",
        'a "${x}"',
        "a ${x:-y}",
        "a ${x:-$(b)}",
        "a $'b'",
        'a $"b"',
        "a $[1]",
        "a $((x))",
        "((x))",
        "a \\",
        "if a; then b; fi",
        "while a; do b; done",
        "for x in a; do b; done",
        "case a in a) b;; esac",
        "f() { a; }",
        "function f { a; }",
        "[[ -f a ]]",
        "time a",
        "sudo a",
        "env a",
        "xargs a",
        "eval a",
        "sh -c a",
        "bash f",
        "sh",
        "command a",
        "exec a",
        ". a",
        "source a",
        "find . -exec a ';'",
        "trap a EXIT",
        "a 'b",
        'a "b',
        "a `b",
        "a $(b",
        "(a",
        "a)",
        "$x a",
        "*",
        "a\r",
        "a\x00",
        "a\x1b",
        "a\u2003b",
        f"a{ANY}",
        "a" * (TEXT_MAX + 1),
        "".join(f"a{n};" for n in range(COMMANDS_MAX + 1)),
        "(" * (DEPTH_MAX + 1) + "a" + ")" * (DEPTH_MAX + 1),
        "coproc a",
        "a (b)",
        "/usr/bin/env a",
        "a=(b c)",
    ],
)
def test_doubts(text: str) -> None:
    script = read_script(text)
    assert script.doubts, script


@pytest.mark.parametrize(
    "text",
    [
        "$x a",
        "$(a) b",
        "`a` b",
        "a* b",
        "{a,b} c",
        "eval $x",
        'sh -c "$x"',
        "sh -c $(a)",
        ". <(a); sh <(a)",
        "curl a | sh",
        "a | bash -s b",
        "echo a | xargs -I{} sh -c {}",
        "a 'b",
        "a $(b",
        "((a))",
        "$((a) | (b))",
        "a ${x:-$(b)}",
        "a $'\\''b",
        "$\\\n(a)",
        "a <\\\n<E\n'\nE\nb",
        "a <<E$x\nE",
        "a <<E\nb\\\nE\n",
        "a <<E $(\nb)\nE",
        "a <<E 'b\nc'\nE",
        "a $(case b in c) d;; esac)",
        'a "$\\\n(b)"',
        'a "`b \\"c\\"`"',
        "a" * (TEXT_MAX + 1),
        "a $((x << $y))",
        "a $[x]",
        "sh -c '" * 3 + "a" + "'" * 3 + "$(",
        "tar cf /dev/null --checkpoint=1 --checkpoint-action=exec='rm x' f",
        "tar xf a --to-comm 'rm x'",
        "sudo tar -I 'rm x' -cf a b",
        "find . -exec tar -I 'rm x' {} +",
        "git -c alias.x='!rm x' x",
        "git -calias.x='!rm x' x",
        "git --config-env=alias.x=Y x",
        "rsync -e 'rm x' a b:",
        "gdb -batch -ex 'shell rm x'",
    ],
)
def test_where_anything_may_run(text: str) -> None:
    script = read_script(text)
    assert UNKNOWN in script.commands
    assert script.unknown in script.doubts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sudo -u root rm x", "sudo -u root rm x"),
        ("find . -exec rm {} +", "find . -exec rm {} +"),
        ("function f { rm x; }", "function f { rm x"),
        ("if true; then rm x; fi", "then rm x"),
    ],
)
def test_carriers(text: str, found: str) -> None:
    carriers = [" ".join(each.words).replace(ANY, "…") for each in read_script(text).commands if each.carrier]
    assert found in carriers


@pytest.mark.parametrize("text", ["tar xf a", "git log -c", "git commit -m x", "echo tar -I x", "rsync -a b c"])
def test_programs_whose_options_run_nothing(text: str) -> None:
    assert read_script(text).commands == (Command(tuple(text.split())),)


CARRIERS = """
    ssh-agent, setarch x86_64, linux32, linux64, i386, uname26, choom -n 0 --, taskset 1, unshare, script,
    strace, ltrace, gdb --args, busybox, flock f, watch, parallel, systemd-run, runuser, su, sudo, doas, pkexec,
    chroot /, nsenter, env, nice, ionice -c 3, chrt 1, stdbuf -o0, setsid, timeout 5, time, nohup, xargs, exec,
    command, builtin, entr, toybox, numactl -N 0, runcon t, capsh --, systemd-inhibit, systemd-cat,
    systemd-nspawn, chpst -u a, softlimit, envdir d, setuidgid a, cgexec -g x:y, cpulimit -l 5, daemonize, dtach
    -n s, proot, eatmydata, faketime now, valgrind, rr, perf stat, rlwrap, tini --, dumb-init, torsocks, torify,
    proxychains4, sg root, sem, logsave f, sshpass -p x ssh h, unbuffer, xterm -e, start-stop-daemon -S -x,
    dbus-launch, run0, prlimit, setpriv, bwrap, firejail, fakeroot, xvfb-run, /lib64/ld-linux-x86-64.so.2,
    /lib/ld-linux.so.2, /lib/ld-musl-x86_64.so.1, /lib/ld64.so.2, ld.so, ld-2.31.so, /usr/bin/setarch
"""


@pytest.mark.parametrize("carrier", [" ".join(one.split()) for one in CARRIERS.split(",")])
def test_what_runs_another_command_is_known_to(carrier: str) -> None:
    found = read_script(f"{carrier} rm x").commands
    assert Command((*carrier.split(), "rm", "x"), True, carrier == "xargs") in found or UNKNOWN in found


@pytest.mark.parametrize(
    "text",
    [
        "sh -c 'rm x'",
        "sg root -c 'rm x'",
        "setarch x86_64 sh -c 'rm x'",
        "nix-shell --run 'rm x'",
        'bash -lc "ls; rm x"',
        "eval 'rm x'",
        "eval 'r\\m' x",
        "trap 'rm x' EXIT",
        "ssh host 'cd a && rm x'",
        "su -c 'rm x'",
        "su --command='rm x'",
        "env -S'rm x'",
        "sudo sh -c 'rm x'",
        "watch 'rm x'",
        "bash -c \"bash -c 'rm x'\"",
        "find . -exec sh -c 'rm x' \\;",
        "xargs sh -c 'rm x'",
        "alias l='rm x'",
        "(sh -c '(rm x)')",
        "cat <<E\n$(rm x)\nE\n",
        "cat <<E\n`rm x`\nE\n",
        "f() { rm x; }",
        "echo ${x} $(echo $(rm x))",
        "a; (b | { rm x; })",
        "x=$(rm x)",
        "x=1 rm x",
        ">f rm x",
        "rm x &",
        "case a in b) rm x;; esac",
        "a=(1); rm x",
        "cat <<'E'\n$(\nE\nrm x",
        "cat <<E\n'\nE\nrm x",
        "a 2>f;rm x",
        "! { rm x; }",
        "a $(cat <<'E'\n(it's\nE\n); rm x",
        "ls\\\n; rm x",
        "echo '\\'; rm x",
        'echo "\\""; rm x',
        "echo $'a'; rm x",
        "( (ls); rm x)",
        "echo a\\#b; rm x",
        "echo \\; ; rm x",
    ],
)
def test_every_part_is_found(text: str) -> None:
    assert Command(("rm", "x")) in read_script(text).commands


@pytest.mark.parametrize(
    ("text", "anything"),
    [
        ("xargs ls", False),
        ("xargs", False),
        ("xargs -0 -n 1 -P4 grep x", False),
        ("xargs -I{} cp {} {}.old", False),
        ("xargs --null --max-args=1 ls", False),
        ("xargs -I{} {} x", True),
        ("xargs -I % % x", True),
        ("xargs -n 1 {}", True),
        ("xargs sudo", True),
        ("xargs env", True),
        ("xargs sh -c", True),
        ("xargs --max-args 1 ls", True),
        ("sudo xargs env", True),
        ("parallel ls", True),
    ],
)
def test_arguments_from_the_input(text: str, anything: bool) -> None:
    script = read_script(text)
    assert (UNKNOWN in script.commands) is anything
    assert script.commands[0].more or anything
    assert script.doubts


PIECES = [
    "ls",
    "rm x",
    " ",
    "\n",
    ";",
    "&&",
    "|",
    "&",
    "(",
    ")",
    "{",
    "}",
    "$(",
    "`",
    "'",
    '"',
    "\\",
    "#",
    "<<E\n",
    "E\n",
    "<",
    ">",
    "$x",
    "${",
    "$((",
    "))",
    "$'",
    "sh -c ",
    "eval ",
    "sudo ",
    "case x in ",
    "esac",
    "=",
    "*",
    "[",
    "]",
    "~",
    "!",
    "-",
    "2",
    "if ",
    "function f ",
    "xargs ",
    "<(",
    "\t",
    "\x00",
    ANY,
    "é",
    "\ud800",
    "find -exec ",
]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text(max_size=200))
def test_it_always_returns(text: str) -> None:
    script = read_script(text)
    assert all(command.words for command in script.commands)
    assert (script.unknown is not None) == (UNKNOWN in script.commands)
    assert script.doubts or UNKNOWN not in script.commands


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
def test_what_follows_is_found_or_doubted(text: str) -> None:
    """Whatever stands before, a command in its own line is seen, unless it is in doubt what is a command at all."""
    script = read_script(f"{text}\n\nrm x")
    assert script.doubts or Command(("rm", "x")) in script.commands


@pytest.mark.parametrize(
    "text",
    [
        "(" * TEXT_MAX, "$(" * (TEXT_MAX // 2), "`" * TEXT_MAX, '"' * TEXT_MAX, "\\" * TEXT_MAX, "{" * TEXT_MAX,
        "eval " * (TEXT_MAX // 5), "<<E " * (TEXT_MAX // 4), "$((" * (TEXT_MAX // 3), "sh -c '" * (TEXT_MAX // 7),
        "a b " * (TEXT_MAX // 4), "sudo " * (TEXT_MAX // 5), "eval 'x y' " * (TEXT_MAX // 11), "$x" * (TEXT_MAX // 2),
        "`" + "\\`" * (TEXT_MAX // 2 - 1), "<<E\n" + "$(x)\n" * (TEXT_MAX // 6), "$((" + "(" * (TEXT_MAX - 3),
    ],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    """Each takes a part of a second; what went back over its text would take hours."""
    assert len(text) <= TEXT_MAX
    read_script(text)
