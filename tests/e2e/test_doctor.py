"""`greenroom doctor` as a command: on a machine where all is well, before a daemon, and where something is wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.e2e.raw import token_of
from tests.e2e.test_cli import COMMAND, LIMIT, alive, answer, environment, greenroom
from tests.e2e.wire import daemon
from tests.model_server import model_server

SERVER = Path(__file__).parents[1] / "actors" / "mcp_server.py"


def examine(folder: Path, *words: str, code: int = 0) -> dict[str, dict[str, Any]]:
    """Each check by its title. Where the address is taken does not matter here: it is another daemon's."""
    told = json.loads(answer(greenroom(folder, "doctor", "--json", "--timeout", "50s", *words), code))
    assert told["exit"] == code
    return {f"{one['area']} {one['name']}".strip(): one for one in told["checks"]}


def test_a_daemon_its_model_and_its_tool_server_are_well(tmp_path: Path) -> None:
    with model_server() as model:
        config = (
            f'listen = "127.0.0.1:0"\n'
            f'[models.local]\nprovider = "openai"\nbase_url = "{model.url}"\nmodel = "stream"\n'
            f'[toolsets.files]\nkind = "builtin"\n'
            f'[limits]\ntoolset_first_wait = "60s"\n'
            f'[toolsets.server]\nkind = "mcp"\ncommand = "{sys.executable}"\nargs = ["{SERVER}"]\n'
        )
        with daemon(tmp_path / "data", config) as process:
            before = (tmp_path / "data" / "daemon.json").read_bytes()
            told = examine(tmp_path / "data", "--config", str(tmp_path / "data.toml"), "--call")
            for title in (
                "configuration",
                "data directory",
                "data token",
                "data database",
                "daemon ready",
                "daemon access",
                "daemon version",
                "daemon memory",
                "model local",
                "model demo",
                "toolset files",
                "toolset server",
                "system python",
                "system sqlite",
            ):
                assert told[title]["state"] == "good", told[title]
            assert "11 tools" in told["toolset server"]["text"]
            assert "began to answer" in told["model local"]["text"]
            assert token_of(tmp_path / "data") not in json.dumps(told)
            # The daemon is as it was.
            assert (tmp_path / "data" / "daemon.json").read_bytes() == before
            assert process.process.poll() is None
            (tmp_path / "data" / "token").write_text("another-token-than-the-daemons\n")
            told = examine(tmp_path / "data", "--offline", code=1)
            assert told["daemon ready"]["state"] == "good"
            assert "is not the daemon's" in told["daemon access"]["advice"][0]


def test_before_the_first_start(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    file = tmp_path / "greenroom.toml"
    file.write_text('listen = "127.0.0.1:0"')
    told = examine(folder, "--config", str(file))
    assert told["daemon"]["state"] == "skipped"
    assert "greenroom serve" in told["daemon"]["advice"][0]
    assert told["daemon address"]["state"] == "good"
    assert not folder.exists(), "a look changes nothing"


def test_a_configuration_that_is_wrong_and_the_rest_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "greenroom.toml"
    file.write_text('[models.x]\nprovider = "openia"\n[limits]\nrun_log_bytes = "much"\n')
    ended = greenroom(tmp_path / "data", "doctor", "--config", str(file))
    said = answer(ended, 2)
    wrong = [line for line in said.splitlines() if line.startswith("failed")]
    assert len(wrong) == 2
    assert any("models.x.provider" in line for line in wrong)
    assert any("limits.run_log_bytes" in line for line in wrong)
    assert "system python" in said
    assert said.splitlines()[-1].endswith("skipped")


def test_what_failed_and_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "greenroom.toml"
    file.write_text(
        'listen = "127.0.0.1:0"\n'
        '[models.gone]\nprovider = "openai"\nbase_url = "http://127.0.0.1:1/v1"\nmodel = "m"\n'
        '[toolsets.none]\nkind = "mcp"\ncommand = "no-such-program-of-ours"\n'
    )
    ended = greenroom(tmp_path / "data", "doctor", "--config", str(file))
    said = answer(ended, 1)
    assert "failed   model gone" in said
    assert "→ start the service, or correct host and port" in said
    assert "failed   toolset none" in said
    assert "2 failed" in said.splitlines()[-1]


def test_ctrl_c_leaves_no_tool_server(tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.write_text(
        f"#!{sys.executable}\nimport os, time\nopen('{tmp_path}/pid', 'w').write(str(os.getpid()))\ntime.sleep(1000)"
    )
    server.chmod(0o755)
    file = tmp_path / "greenroom.toml"
    file.write_text(f'listen = "127.0.0.1:0"\n[toolsets.silent]\nkind = "mcp"\ncommand = "{server}"\n')
    process = subprocess.Popen(
        [*COMMAND, "doctor", "--config", str(file)],
        env=environment(GREENROOM_DATA=str(tmp_path / "data")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + LIMIT
    assert process.stderr is not None
    line = process.stderr.readline()  # what is waited for is told
    assert "waiting for toolset silent" in line
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 5, errors
    assert "Traceback" not in errors
    pid = int((tmp_path / "pid").read_text())
    while alive(pid):
        assert time.monotonic() < until
        time.sleep(0.01)
