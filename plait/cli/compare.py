"""The verb that compares layouts."""

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from plait.cli.arguments import MODEL, PROTOCOL, TRAINING, Beyond, Device, Quiet
from plait.cli.datasets import open_dataset, show_dataset
from plait.cli.output import console, progress_console, say, show
from plait.cli.progress import training_bar
from plait.cli.told_interests import read_interests
from plait.cli.unfinished import Unfinished
from plait.cli.verb_settings import VerbModelSettings, VerbProtocol, model_of_verb, protocol_of_verb
from plait.compare.comparing import compare as compare_layouts
from plait.compare.page import terminal_side_tables, terminal_table
from plait.compare.presentation import use
from plait.compare.side_tables import side_notes
from plait.compare.verdict import verdict_of
from plait.evaluation.settings import Optim
from plait.layouts import resolve
from plait.nn.config import TrunkKind, TrunkSize
from plait.nn.device import resolve_device
from plait.rankers.rows import layout_settings, ranker_rows


def compare(
    dataset: str,
    /,
    *,
    layouts: str | None = None,
    rankers: str | None = None,
    interests: tuple[Path, ...] = (),
    item_interests: Path | None = None,
    seeds: int = 3,
    out: Path,
    trunk: TrunkKind | None = None,
    size: TrunkSize | None = None,
    device: Device = "auto",
    baselines: bool = True,
    beyond_accuracy: Beyond = False,
    quiet: Quiet = False,
    model: Annotated[VerbModelSettings, MODEL] = VerbModelSettings(),
    optim: Annotated[Optim, TRAINING] = Optim(),
    protocol: Annotated[VerbProtocol, PROTOCOL] = VerbProtocol(),
    command_line: Annotated[tuple[str, ...], Parameter(parse=False)] = (),
) -> None:
    """Trains several layouts and rankers under one protocol, and says what each is worth and costs.

    Example: plait compare ml-100k --layouts item,interleaved,pc,lac --seeds 2 --out runs/ml-100k

    Rankers beside layouts: plait compare ml-100k --layouts lac,genrank --rankers din,sim --out runs/rankers

    Parameters
    ----------
    dataset
        A prepared folder, or a name of `plait data list`.
    layouts
        Names of `plait layouts` or layouts in notation, separated by commas.
    rankers
        din, dien, sim, twin or rankmixer, separated by commas; with +lum, +feature or +match, one that is told
        interests. ebr retrieves; with +lum, +user or +item, it is told them.
    interests
        What a user model said of users before their events, as `plait lum query --of events` writes it; one file or
        several, one for each part.
    item_interests
        What it says of items: `plait lum query --of items`.
    seeds
        Runs of each layout, with the seeds from --protocol.seed on.
    out
        Folder of the runs, rows.jsonl, comparison.json and report.html. Started again, it goes on.
    trunk
        Short for --model.trunk.kind.
    size
        Width, blocks and heads of the trunk, by about how many parameters they make.
    device
        What to train on; auto is cuda where there is one.
    baselines
        Hold the layouts against counting, which trains nothing.
    """
    # Before a dataset is fetched for nothing:
    on, its_model = resolve_device(device), model_of_verb(model, trunk, size)
    if layouts is None and rankers is None:
        raise ValueError("--layouts is missing: what to compare; name layouts, --rankers, or both")
    names = split_layouts(layouts) if layouts is not None else []
    resolved = [resolve(name, allow_leaks=its_model.allow_leaks) for name in names]
    opened, screen, told = open_dataset(dataset), console(), progress_console(quiet=quiet)
    show_dataset(opened, told)
    known, plain = read_interests(interests, item_interests, opened, told), protocol_of_verb(protocol)
    rows = (
        ranker_rows(split_layouts(rankers, "rankers"), its_model, optim, plain, known, bool(resolved))
        if rankers is not None
        else []
    )
    with training_bar(told) as watch:
        comparison = compare_layouts(
            opened,
            resolved,
            seeds,
            out,
            layout_settings(its_model, bool(rows)),
            optim,
            plain,
            command=shlex.join(command_line),
            device=on,
            report=lambda line: say(line, told),
            watch=watch,
            baselines=baselines,
            rankers=rows,
        )
    show(terminal_table(comparison, screen.width), screen)
    for table in terminal_side_tables(comparison) if beyond_accuracy else ():
        show(table, screen)
    if beyond_accuracy:
        say(side_notes(comparison), screen)
    verdict = verdict_of(comparison)
    for line in verdict.lines:
        say(line, screen)
    say(f"page: {out / 'report.html'}", screen)
    if found := use(comparison, verdict, out):
        say(f"next: {found.command}", screen)
    failed = [f"{row.layout} with seed {row.seed}: {row.note}" for row in comparison.rows if row.cost is None]
    if failed:
        raise Unfinished("\n".join([f"{len(failed)} of {len(comparison.rows)} runs failed", *failed]))


def split_layouts(text: str, what: str = "layouts") -> list[str]:
    """Names or notations between commas; the commas inside a notation's brackets are its own.

    Raises:
        ValueError: there is nothing before or after a comma.

    >>> split_layouts("item, (i[t], a[t-1]) -> (i[t+1], a[t]),pc")
    ['item', '(i[t], a[t-1]) -> (i[t+1], a[t])', 'pc']
    """
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    names = [part.strip() for part in parts]
    if not all(names):
        raise ValueError(f"--{what} {text!r}: one of {len(names)} {what} is empty; leave its comma out")
    return names
