"""The verbs, a function each. Settings are the frozen dataclasses of the rooms: `--optim.learning-rate 0.001`,
or in a file given with --config, a section `optim` with `learning_rate = 0.001`.
"""

import shlex
from dataclasses import astuple
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.table import Table
from rich.text import Text

from plait.cli.answering import open_dataset, state_of
from plait.cli.settings import split_layouts
from plait.cli.showing import console, say, show_dataset, show_table, training_bar
from plait.data import LeaveOneOut, Temporal, sources
from plait.data import prepare as prepare_log
from plait.layouts import Layout, draw, name_of, resolve
from plait.metrics.intervals import bootstrap
from plait.models.generative import ModelSettings
from plait.recommender import fit
from plait.schema import Action
from plait.studies.compare import compare as compare_layouts
from plait.studies.report import terminal_table
from plait.training.evaluate import measure
from plait.training.run import load_answers, load_result
from plait.training.settings import Optim, Protocol

CATALOGUE_COLUMNS = ("name", "notation", "tokens", "FLOPs", "retrieves", "scores", "P1", "P2", "source")

app = App(
    name="plait",
    help="Generative recommendation where the item/action layout is one line of data.",
    exit_on_error=False,
    print_error=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
)
layouts_app = App(name="layouts")
data_app = App(name="data", help="Datasets: those Plait knows, and your own logs.")
app.command(layouts_app)
app.command(data_app)


class Unfinished(Exception):
    """A command that did not do all of its work, and says what is left."""


@layouts_app.default
def list_layouts() -> None:
    """The catalogue of layouts with their audit.

    Example: plait layouts
    """
    rows = [astuple(row) for row in draw.catalogue_rows()]
    show_table(CATALOGUE_COLUMNS, rows, caption="; ".join(draw.CATALOGUE_HEADINGS[2:4]))


@layouts_app.command(name="show")
def show_layout(layout: str, /) -> None:
    """One layout explained: its tokens, its audit, what it costs, its mask.

    Example: plait layouts show "(i[t], a[t-1]) -> (i[t+1], a[t])"

    Parameters
    ----------
    layout
        A name of the catalogue, or a layout in notation.
    """
    say(draw.explain(resolve(layout)))


@data_app.command(name="list")
def list_data() -> None:
    """The datasets that Plait knows by name.

    Example: plait data list
    """
    rows = [(r.name, r.what, ", ".join(a.name for a in r.actions), r.origin) for r in sources.catalogue()]
    show_table(("name", "what", "actions", "from"), rows)


@data_app.command
def get(name: str, /, *, from_files: Path | None = None, cache: Path | None = None) -> None:
    """Downloads and prepares a dataset that Plait knows, once.

    Example: plait data get ml-1m --from-files ~/downloads/ml-1m

    Parameters
    ----------
    name
        A name of `plait data list`.
    from_files
        The owner's files (or archive) on disk, instead of a download.
    cache
        Where prepared datasets are kept; by default the user's cache folder.
    """
    show_dataset(sources.get(name, cache=cache, from_files=from_files))


@data_app.command
def prepare(
    log: Path,
    /,
    *,
    user: str,
    item: str,
    time: str,
    action: tuple[str, ...] = (),
    out: Path,
    request: str | None = None,
    order: str | None = None,
    time_unit: Literal["s", "ms"] = "s",
    note: str = "",
    min_user_events: int = 5,
    min_item_events: int = 5,
    deduplicate: bool = False,
    temporal: tuple[float, float] | None = None,
    on_bad_row: Literal["stop", "reject"] = "stop",
    overwrite: bool = False,
) -> None:
    """Prepares a log of your own: Parquet, CSV or Arrow, a file or a folder of them.

    Example: plait data prepare log.parquet --user user_id --item item_id --time timestamp
    --action rating:regression:1:5 --action liked:binary --out mine

    Parameters
    ----------
    log
        The file or folder.
    user
        The column of the user's id.
    item
        The column of the item's id.
    time
        The column of the time.
    action
        NAME:binary, NAME:regression:LOW:HIGH, NAME:amount or NAME:categorical:A,B; once for each column.
    out
        The prepared folder, made whole or not at all.
    request
        The column of the exposure's id; without it, a user's events at one time are one request.
    order
        A column that breaks ties of time; without it, the order of the rows.
    time_unit
        Of a time that is a number: seconds or milliseconds.
    note
        Kept in the protocol line of every result, for example "reconstructed".
    min_user_events
        Users with fewer events are left out.
    min_item_events
        Items with fewer events are left out; both again and again, until nothing changes.
    deduplicate
        Keep only the first of a user's events with the same item and time.
    temporal
        Shares of the events for validation and test, cut by time; without it the last event of each user
        is the test and the one before the validation.
    on_bad_row
        stop at rows that break a rule, or write them to rejects.parquet and go on.
    overwrite
        Replace a prepared folder.
    """
    split = Temporal(validation=temporal[0], test=temporal[1]) if temporal else LeaveOneOut()
    show_dataset(
        prepare_log(
            log,
            user=user,
            item=item,
            time=time,
            actions=[Action.parse(text) for text in action],
            out=out,
            request=request,
            order=order,
            time_unit=time_unit,
            note=note,
            min_user_events=min_user_events,
            min_item_events=min_item_events,
            deduplicate=deduplicate,
            split=split,
            on_bad_row=on_bad_row,
            overwrite=overwrite,
        )
    )


@app.command
def train(
    dataset: str,
    /,
    *,
    layout: str,
    out: Path,
    model: ModelSettings = ModelSettings(),
    optim: Optim = Optim(),
    protocol: Protocol = Protocol(),
) -> None:
    """Trains one layout and tests it; killed and started again, it goes on where it stopped.

    Example: plait train ml-100k --layout lac --out runs/lac --protocol.max-epochs 20

    Parameters
    ----------
    dataset
        A prepared folder, or a name of `plait data list`.
    layout
        A name of `plait layouts`, or a layout in notation.
    out
        The run's folder.
    """
    notation = str(resolve(layout, allow_leaks=model.allow_leaks))  # before a dataset is fetched for nothing
    opened, screen = open_dataset(dataset), console()
    with training_bar(screen) as watch:
        fit(
            opened,
            notation,
            model=model,
            optim=optim,
            protocol=protocol,
            out=out,
            report=lambda line: say(line, screen),
            watch=watch,
        )
    evaluate(out)


@app.command
def evaluate(run: Path, /) -> None:
    """Prints the test metrics of a finished run, with 95 % intervals over users.

    Example: plait evaluate runs/lac

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`.
    """
    result = load_result(run)
    table = Table(
        "metric",
        "value",
        "95 % interval",
        "users",
        title=Text(f"{name_of(Layout.parse(result.settings.layout, allow_leaks=True))} on {result.dataset}"),
        caption=f"epoch {result.best_epoch} of {result.epochs}, chosen by validation {result.selection}; "
        f"stopped: {result.why_stopped}",
    )
    for name, statistic in measure(load_answers(run, result.actions)).items():
        found = bootstrap(statistic).estimate
        value, interval = "not defined", "not defined"
        if found.value is not None:
            value = f"{found.value:.4f}"
        if found.low is not None:
            interval = f"{found.low:.4f} to {found.high:.4f}"
        table.add_row(name, value, interval, str(found.num_users))
    console().print(table)


@app.command
def compare(
    dataset: str,
    /,
    *,
    layouts: str,
    seeds: int = 3,
    out: Path,
    model: ModelSettings = ModelSettings(),
    optim: Optim = Optim(),
    protocol: Protocol = Protocol(),
    command_line: Annotated[tuple[str, ...], Parameter(parse=False)] = (),
) -> None:
    """Trains several layouts under one protocol, and says what each is worth and costs.

    Example: plait compare ml-100k --layouts item,interleaved,pc,lac --seeds 2 --out runs/ml-100k

    Parameters
    ----------
    dataset
        A prepared folder, or a name of `plait data list`.
    layouts
        Names of `plait layouts` or layouts in notation, separated by commas.
    seeds
        Runs of each layout, with the seeds from --protocol.seed on.
    out
        Folder of the runs, rows.jsonl, comparison.json and report.html. Started again, it goes on.
    """
    # Before a dataset is fetched for nothing:
    notations = [str(resolve(name, allow_leaks=model.allow_leaks)) for name in split_layouts(layouts)]
    opened, screen = open_dataset(dataset), console()
    show_dataset(opened)
    with training_bar(screen) as watch:
        comparison = compare_layouts(
            opened,
            notations,
            seeds,
            out,
            model,
            optim,
            protocol,
            command=shlex.join(command_line),
            report=lambda line: say(line, screen),
            watch=watch,
        )
    screen.print(terminal_table(comparison))
    say(f"page: {out / 'report.html'}", screen)
    failed = [f"{row.layout} with seed {row.seed}: {row.note}" for row in comparison.rows if row.cost is None]
    if failed:
        raise Unfinished("\n".join([f"{len(failed)} of {len(comparison.rows)} runs failed", *failed]))


@app.command
def recommend(
    run: Path,
    /,
    *,
    user: str,
    k: Annotated[int, Parameter(name="-k")] = 10,
    dataset: str | None = None,
) -> None:
    """The items that a user is most likely to meet next, without those already met.

    Example: plait recommend runs/lac --user 196 -k 10

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`.
    user
        The user's id, as the log spells it.
    k
        How many items.
    dataset
        A prepared folder, or a name of `plait data list`, with the user's history; without it, the dataset
        that the run was trained on.
    """
    model, state = state_of(run, user, dataset)
    found = model.retrieve(state, k).drop("user")
    show_table(found.columns, found.rows())


@app.command
def score(run: Path, /, *, user: str, items: str, dataset: str | None = None) -> None:
    """The actions that a user is expected to take on given items.

    Example: plait score runs/lac --user 196 --items 242,302

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`.
    user
        The user's id, as the log spells it.
    items
        Item ids as the log spells them, separated by commas.
    dataset
        A prepared folder, or a name of `plait data list`, with the user's history; without it, the dataset
        that the run was trained on.
    """
    model, state = state_of(run, user, dataset)
    found = model.score(state, [item.strip() for item in items.split(",")]).drop("user")
    show_table(found.columns, found.rows())
