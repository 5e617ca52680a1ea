"""From the words on a command line to an exit code.

0 the work was done; 1 it could not be finished (disk full, training diverged), or a check did not hold; 2 the
command or its input is wrong; 130 interrupted. Whatever goes wrong, people see one message, and a traceback only where
Plait is at fault.
"""

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from cyclopts import CycloptsError, Group, MissingArgumentError, Parameter, UnknownCommandError

from plait.allocation import keep_freed_memory
from plait.cli.app import app, with_names_only
from plait.cli.encodings import encode_all
from plait.cli.settings_file import check_whole_numbers, settings_file
from plait.cli.unfinished import Disagreement, Unfinished
from plait.notices import Diverged
from plait.waiting_threads import let_waiting_threads_sleep
from plait.wording import asked_in_shell


def main(tokens: Sequence[str] | None = None) -> int:
    """Runs one command; `tokens` are the words after `plait`, those of the process where none are given."""
    keep_freed_memory()  # the process is ours, and so are its threads and streams
    let_waiting_threads_sleep()
    encode_all((sys.stdout, sys.stderr))
    try:
        with asked_in_shell():
            app.meta(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except UnknownCommandError as error:
        return _fail(with_names_only(error), 2)
    except (ValueError, CycloptsError) as error:
        return _fail(f"{error}{_hint(error)}", 2)
    except (OSError, ModuleNotFoundError, Diverged, Unfinished, Disagreement) as error:
        return _fail(error, 1)
    except KeyboardInterrupt as interrupt:
        where = str(interrupt) or "given again, the command goes on from the last checkpoint"
        return _fail(f"interrupted; {where}", 130)
    return 0


def _hint(error: Exception) -> str:
    """Where an option lacks its value: a word that begins with a hyphen could be meant as one.

    >>> _hint(MissingArgumentError(keyword="--user", root_input_tokens=["--user", "-x1", "-k", "3"]))
    ' If it is to be -x1, write --user=-x1'
    >>> _hint(MissingArgumentError(keyword="--user", root_input_tokens=["--user"]))
    ''
    """
    if not isinstance(error, MissingArgumentError) or error.keyword is None:
        return ""
    following = dict(pairwise(error.root_input_tokens or [])).get(error.keyword)
    return f" If it is to be {following}, write {error.keyword}={following}" if following else ""


def _fail(why: object, code: int) -> int:
    print(f"plait: {why}", file=sys.stderr)
    return code


def _flush_denormals() -> None:
    """Before the first tensor operation of a process that is ours."""
    from plait.nn.runtime import tune_process

    tune_process()


app.meta.suppress_keyboard_interrupt = False  # `main` answers for it


@app.meta.default
def _with_settings_file(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(group=Group("Every command", sort_key=9))] = None,
) -> Any:
    """
    Parameters
    ----------
    config
        TOML file with sections dataset, model, optim and protocol, of which a verb reads its own; the command line
        overrides it.
    """
    app.config = (check_whole_numbers,)
    if config is not None:
        from plait.cli.sections import SECTIONS  # of models, among others: they load torch

        words, apps, _ = app.parse_commands(tokens)
        from_file = settings_file(config, SECTIONS, apps[-1].default_command, " ".join(("plait", *words)))
        app.config = (from_file, check_whole_numbers)
    command, bound, injected = app.parse_args(tokens, exit_on_error=False, print_error=False)
    if "torch" in sys.modules:  # the verb computes, or else there is nothing to tune
        _flush_denormals()
    if "command_line" in injected:
        words = tokens if config is None else ("--config", str(config), *tokens)
        bound.arguments["command_line"] = ("plait", *words)
    return command(*bound.args, **bound.kwargs)
