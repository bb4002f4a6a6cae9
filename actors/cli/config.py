"""`greenroom config`: every setting, and whether a file is right."""

from __future__ import annotations

from pathlib import Path

from actors.cli.arguments import Arguments
from actors.cli.exits import GOOD
from actors.cli.output import say, say_json
from actors.cli.settings import read_config
from actors.places import config_file
from engine.config import Config
from engine.config_reference import markdown, toml


def main(arguments: Arguments) -> int:
    if arguments.action == "check":
        return _check(arguments)
    print(markdown() if arguments.markdown else toml(), end="")
    return GOOD


def _check(arguments: Arguments) -> int:
    """The file that is named, else the one that the daemon would read. Mistakes are raised as Exit."""
    given: str | None = arguments.file or arguments.config
    config = read_config(given)
    path = Path(given).expanduser() if given is not None else config_file()
    if arguments.json:
        say_json({"file": str(path), "found": path.exists(), **_summary(config)})
    elif path.exists():
        summary = _summary(config)
        say(f"{path}: right")
        say(f"models    {' '.join(summary['models'])} (default: {summary['default_model']})")
        say(f"toolsets  {' '.join(summary['toolsets'])}")
        say(f"listen    {summary['listen']}")
    else:
        say(f"{path}: there is no such file, so that all is as `greenroom config` prints it")
    return GOOD


def _summary(config: Config) -> dict[str, list[str] | str]:
    return {
        "listen": str(config.listen),
        "default_model": config.default_model,
        "models": list(config.models),
        "toolsets": list(config.toolsets),
    }
