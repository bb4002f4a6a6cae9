"""What programs that are started for a model see of the daemon's environment."""

from __future__ import annotations

from engine.tools.environment import child_environment


def test_what_programs_need_and_no_secret() -> None:
    own = {
        "PATH": "/bin",
        "HOME": "/home/me",
        "LC_ALL": "C",
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "OPENAI_API_KEY": "secret",
        "GREENROOM_TOKEN": "secret",
        "SSH_AUTH_SOCK": "/tmp/agent",
        "LD_PRELOAD": "/tmp/evil.so",
    }
    assert child_environment(own) == {
        "PATH": "/bin",
        "HOME": "/home/me",
        "LC_ALL": "C",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PAGER": "cat",
        "GIT_PAGER": "cat",
        "GIT_TERMINAL_PROMPT": "0",
    }
