"""Completion of verbs and options by the Tab key."""

from pathlib import Path
from typing import Literal

from cyclopts.completion.detect import ShellDetectionError

from plait.cli.app import app
from plait.cli.output import say


def install_completion(
    *, shell: Literal["zsh", "bash", "fish", "powershell"] | None = None, output: Path | None = None
) -> None:
    """Lets the Tab key complete verbs and options.

    Example: plait --install-completion --shell bash

    Parameters
    ----------
    shell
        Whose completion; without it, that of the shell which called.
    output
        A file for the script, and nothing else is changed; without it, the script goes where the shell looks, and the
        shell's start file reads it.
    """
    try:
        written = app.install_completion(shell=shell, output=output, add_to_startup=output is None)
    except ShellDetectionError as error:
        raise ValueError(f"{error}; say which with --shell") from None
    say(f"{written}: completion, from the next shell on")
