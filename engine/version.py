"""The program's version: what `greenroom --version` and `initialize` say, and what the package is built as."""

from typing import Final

VERSION: Final = "0.1.0"
