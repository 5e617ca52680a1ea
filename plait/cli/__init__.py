"""The command line: `plait --help`."""

from plait.cli.command_line import main

__all__ = ["main"]
