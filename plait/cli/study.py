"""The verb that does a paper's table or figure again."""

import difflib
import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plait.cli.arguments import Device, Json, Quiet
from plait.cli.output import console, progress_console, say, show, show_json, show_rows
from plait.cli.progress import training_bar
from plait.cli.unfinished import Unfinished
from plait.nn.device import resolve_device
from plait.papers import STUDIES
from plait.papers.study import Place, Study, is_recorded, run_study
from plait.papers.tables import study_report


def study(
    name: str = "",
    /,
    *,
    out: Path = Path("studies"),
    data: Path | None = None,
    part: tuple[str, ...] = (),
    quick: bool = False,
    device: Device = "auto",
    quiet: Quiet = False,
    json: Json = False,
    command_line: Annotated[tuple[str, ...], Parameter(parse=False)] = (),
) -> None:
    """Does a paper's table or figure again, and says which of its claims hold here; without a name, lists them.

    Example: plait study lac-table-1 --out studies

    Parameters
    ----------
    name
        A study, as `plait study` lists them.
    out
        Folder of NAME.json, and of the runs under NAME/. Started again, it goes on.
    data
        Folder with logs of your own that cannot be downloaded; a study that wants one says which.
    part
        Only this part of the study, and those of further --part; records nothing unless all parts are named. What it
        trained is used again: parts that take times can run alone on a quiet machine.
    quick
        Seconds, on tiny worlds: shows that it runs, and records nothing.
    device
        What to train on; auto is cuda where there is one.
    """
    screen, told = console(), progress_console(quiet=quiet)
    if not name:
        rows = [(study.name, study.paper, study.question) for study in STUDIES]
        show_rows(("study", "of", "question"), rows, json=json)
        return
    if data is not None and not data.is_dir():
        raise ValueError(
            f"--data {data}: there is no such folder; name the one that holds your logs, or leave it out"
        )
    found, command = _find(name), shlex.join(command_line)
    with training_bar(told) as watch:
        place = Place(
            out=out,
            data=data,
            parts=part,
            quick=quick,
            command=command,
            device=resolve_device(device),
            report=lambda line: say(line, told),
            watch=watch,
        )
        result = run_study(found, place)
    if json:
        show_json(result)
    else:
        show(study_report(result, quick=quick), screen)
        for finding in result.findings:
            if finding.page:
                say(f"page: {out / finding.page}", screen)
    why = "quick" if quick else "not all parts"
    recorded = is_recorded(found, place)
    where = f"result: {out / f'{found.name}.json'}" if recorded else f"{why}: nothing was recorded"
    say(where, told if json else screen)
    undone = [*result.not_run.values(), *(run for finding in result.findings for run in finding.failed)]
    if undone:
        raise Unfinished("\n".join([f"{found.name} is not whole", *undone]))


def _find(name: str) -> Study:
    by_name = {study.name: study for study in STUDIES}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=1)
    raise ValueError(
        f"no study is named {name!r}"
        + (f"; did you mean {near[0]!r}?" if near else "; `plait study` lists those there are")
    )
