"""The command line: `plait --help`."""

from plait.cli.running import main

__all__ = ["main"]
