"""Configuration for commands: every mistake on a line of its own, with its place; nothing is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.cli.exits import USAGE, Exit
from actors.cli.settings import read_config, seconds


@pytest.fixture(autouse=True)
def nobodys_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_no_file_is_needed() -> None:
    assert str(read_config(None).listen) == "127.0.0.1:8765"


def test_the_platforms_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "config" / "greenroom").mkdir(parents=True)
    (tmp_path / "config" / "greenroom" / "greenroom.toml").write_text('listen = "127.0.0.1:9"')
    assert str(read_config(None).listen) == "127.0.0.1:9"


def test_options_go_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('listen = "127.0.0.1:9"\nlog_level = "debug"')
    config = read_config(str(file), listen="127.0.0.1:0")
    assert (str(config.listen), config.log_level) == ("127.0.0.1:0", "debug")


def test_each_mistake_has_a_line_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('lisen = "x"\n[limits]\nrun_log_bytes = "much"\n[models.m]\nprovider = "openai"\n')
    with pytest.raises(Exit) as refused:
        read_config(str(file), listen="nowhere")
    assert refused.value.code == USAGE
    places = [line.removeprefix(f"{file}: ").partition(": ")[0] for line in refused.value.lines]
    assert sorted(places) == ["--listen", "limits.run_log_bytes", "lisen", "models.m.base_url", "models.m.model"]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (None, "there is no such file"),
        (b"\xff\xfe", "can't decode"),
        (b"= 3", "is not TOML"),
        (b"#" * 1_100_000, "larger"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, wanted: str) -> None:
    file = tmp_path / "c.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Exit) as refused:
        read_config(str(file))
    (line,) = refused.value.lines
    assert refused.value.code == USAGE and line.startswith(f"{file}: ") and wanted in line


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(Exit) as refused:
        read_config(str(tmp_path))
    assert refused.value.lines == (f"{tmp_path}: Is a directory",)


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90.0), ("0.5", 0.5), ("90s", 90.0), ("250ms", 0.25), ("1 min", 60.0)]
)
def test_times(text: str, value: float) -> None:
    assert seconds("--timeout", text) == value


@pytest.mark.parametrize("text", ["", "soon", "-1", "0", "nan", "inf", "1e400", "3 parsecs"])
def test_what_is_no_time_is_refused_with_its_option(text: str) -> None:
    with pytest.raises(Exit) as refused:
        seconds("--timeout", text)
    assert refused.value.code == USAGE and refused.value.lines[0].startswith("--timeout: expected a time")
