"""The reference has every setting, each with its reason, and the document beside the code says the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from engine.config import Config, ConfigError, File, ModelConfig, Permissions, Tls, ToolsetConfig, parse
from engine.config_reference import SAYS, Setting, markdown, quantity, settings, toml
from engine.config_values import parse_quantity
from engine.limits import GROUPS, KIB, MIB, Limits
from engine.prices import Price

DOCUMENT = Path(__file__).parents[2] / "engine" / "CONFIG.md"
BY_PATH = {f"{one.section}.{one.name}".removeprefix("."): one for one in settings()}
TABLES = {"models", "toolsets", "permissions", "limits", "tls", "price"}


def names(record: type[Any]) -> set[str]:
    return {field.name for field in attrs.fields(record)} - TABLES


def test_everything_that_can_be_set_is_there_once() -> None:
    assert len(BY_PATH) == len(settings())
    wanted = {
        "": names(File),
        "models.NAME": names(ModelConfig),
        "models.NAME.price": names(Price),
        "toolsets.NAME": names(ToolsetConfig),
        "permissions": names(Permissions),
        "tls": names(Tls),
        "limits": names(Limits),
    }
    assert {(one.section, one.name) for one in settings()} == {
        (section, name) for section, found in wanted.items() for name in found
    }
    # The file's own record is not to have more than the program's, nor less.
    assert names(File) == names(Config)


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: setting.name)
def test_each_setting_says_what_it_is_for(setting: Setting) -> None:
    assert re.fullmatch(r"[A-Z`].{8,}\.", setting.says), setting.says
    assert setting.values
    assert bool(setting.reason) == (setting.section == "limits")
    assert not (setting.required and setting.default)


def test_nothing_is_explained_that_is_not_there() -> None:
    assert set(SAYS) == {path for path in BY_PATH if not path.startswith("limits.")}


def test_a_bound_without_a_reason_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SAYS, "listen")  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        settings()


def test_the_reasons_of_bounds_are_those_in_the_code() -> None:
    assert BY_PATH["limits.mailbox_messages"] == Setting(
        section="limits",
        name="mailbox_messages",
        default="64",
        required=False,
        values="1 to 1099511627776",
        says="Messages that wait for one actor; beyond it their senders wait.",
        reason="A burst of one busy connection fits.",
    )
    assert BY_PATH["limits.frame_bytes"].values == "fixed by the wire contract"
    assert BY_PATH["limits.memory_soft"].values.endswith(
        ", at most memory_hard: what can be dropped goes before runs are refused"
    )


def test_groups_begin_with_bounds_in_their_order() -> None:
    order = [field.name for field in attrs.fields(Limits)]
    places = [order.index(first) for first, _ in GROUPS]
    assert places == sorted(places)
    assert places[0] == 0


# ------------------------------------------------------------------ the file
def test_the_file_changes_nothing() -> None:
    assert parse(toml()) == Config()


def uncommented() -> str:
    """The file with all of its defaults set. Tables whose settings are needed are left out."""
    lines = []
    table = ""
    for line in toml().splitlines():
        heading = re.fullmatch(r"#?\[([\w.]+)\]", line)
        if heading:
            table = heading[1]
        if table.split(".")[0] in ("models", "toolsets", "tls"):
            continue
        lines.append(re.sub(r"^#(?=\w+ = \S)", "", line))
    return "\n".join(lines)


def test_its_defaults_are_the_programs() -> None:
    text = uncommented()
    assert text.count('\nrun_log_bytes = "1MiB"\n') == 1
    assert parse(text) == Config()
    # And they are set, not passed over.
    assert parse(text.replace('run_log_bytes = "1MiB"', 'run_log_bytes = "2MiB"')).limits.run_log_bytes == 2 * MIB


def test_each_bound_in_it_is_read() -> None:
    for field in attrs.fields(Limits):
        with pytest.raises(ConfigError) as refused:
            parse(re.sub(rf"^{field.name} = .*$", f'{field.name} = "nonsense"', uncommented(), flags=re.MULTILINE))
        assert [path for path, _ in refused.value.fields] == [f"limits.{field.name}"]


def test_what_it_says_of_values_is_what_is_checked() -> None:
    for path, wrong in (("durability", '"fast"'), ("currency", '"euro"'), ("insecure", '"yes"')):
        with pytest.raises(ConfigError):
            parse(f"{path} = {wrong}")
    assert BY_PATH["durability"].values == '"full" or "normal"'
    assert BY_PATH["log_level"].values == '"debug", "info", "warning" or "error"'
    assert BY_PATH["insecure"].values == "true or false"
    assert BY_PATH["models.NAME.price.input"].values == "0 to 1000000"
    assert BY_PATH["models.NAME.compact_at"].default == "0.8"
    assert BY_PATH["toolsets.NAME.call_timeout"].values.startswith("a time above 0")
    assert (
        BY_PATH["toolsets.NAME.roots"].values
        == "a list, each: 1 to 4096 characters, an absolute path, at most 256 entries"
    )
    assert BY_PATH["permissions.allow"].default == "[]"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (KIB, "bytes", '"1KiB"'),
        (KIB + 1, "bytes", "1025"),
        (3 * MIB // 2, "bytes", '"1536KiB"'),
        (0.25, "seconds", '"250ms"'),
        (90.0, "seconds", '"90s"'),
        (86_400.0, "seconds", '"1d"'),
        (7, "count", "7"),
    ],
)
def test_quantities(value: float, unit: Any, text: str) -> None:
    assert quantity(value, unit) == text
    assert parse_quantity(text.strip('"') if '"' in text else int(text), unit) == value


# ------------------------------------------------------------------ the document
def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text() == markdown(), "write it anew: greenroom config --markdown > engine/CONFIG.md"


def test_the_document_has_every_setting_with_its_reason() -> None:
    text = DOCUMENT.read_text().partition("## `[limits]`")[2]
    for field in attrs.fields(Limits):
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{field.name}` |")]
        for told in ("says", "reason"):
            assert field.metadata[told][1:].replace("|", "\\|") in row
        assert f"| {field.metadata['unit']} |" in row
