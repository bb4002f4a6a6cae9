# The command line. `main` reads the arguments, then imports the one command that was asked for: help, completion and
# mistakes in the arguments have to be there at once.

from actors.cli.entry import main

__all__ = ["main"]
