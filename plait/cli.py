"""The command line: one verb, one function.

Settings are the frozen dataclasses of the rooms, spelled `--optim.learning-rate 0.001` or, in a TOML file given
with --config, as sections `model`, `optim` and `protocol` (never the name of a verb: such a section would be
dropped without a word).
"""

import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
import polars as pl
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plait.data import Dataset, sources
from plait.engine.state import State
from plait.layouts import draw, resolve
from plait.models.generative import ModelSettings
from plait.recommender import Recommender, fit
from plait.schema import Action
from plait.training.loop import Diverged
from plait.training.run import MODEL
from plait.training.settings import Optim, Protocol

app = App(
    name="plait",
    help="Generative recommendation where the item/action layout is one line of data.",
    help_on_error=False,
)
data_app = App(name="data", help="Datasets: those Plait knows, and your own logs.")
app.command(data_app)
# Off a terminal lines are as long as a wide one's, so that tables in logs stay whole.
console = Console(width=None if sys.stdout.isatty() else 140)
CATALOGUE_COLUMNS = ("name", "notation", "tokens", "FLOPs", "retrieves", "scores", "P1", "P2", "source")


def main(tokens: list[str] | None = None) -> int:
    """Runs a command; 0 only when its work was done. Mistakes end in one message, not in a traceback."""
    try:
        app.meta(tokens)
    except SystemExit as stop:
        return int(stop.code or 0)
    except (ValueError, OSError, Diverged) as error:
        print(f"plait: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("plait: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


@app.meta.default
def _with_config(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], config: Path | None = None
) -> Any:
    """
    Parameters
    ----------
    config
        TOML file with sections model, optim, protocol; the command line overrides it.
    """
    if config is not None:
        app.config = (cyclopts.config.Toml(config, must_exist=True, use_commands_as_keys=False),)
    return app(tokens)


@app.command
def layouts(action: Literal["list", "show"] = "list", layout: str | None = None, /) -> None:
    """The catalogue of layouts with their audit, or one layout explained.

    Example: plait layouts show "(i[t], a[t-1]) -> (i[t+1], a[t])"

    Parameters
    ----------
    action
        list prints the catalogue, show explains one layout.
    layout
        A name of the catalogue, or a layout in notation.
    """
    if action == "show":
        if layout is None:
            raise ValueError("plait layouts show: name a layout, such as lac or 'i[t] -> i[t+1]'")
        console.print(draw.explain(resolve(layout)), markup=False, highlight=False, soft_wrap=True)
        return
    rows = [astuple(row) for row in draw.catalogue_rows()]
    _print_table(CATALOGUE_COLUMNS, rows, caption="; ".join(draw.CATALOGUE_HEADINGS[2:4]))


@data_app.command(name="list")
def list_data() -> None:
    """The datasets that Plait knows by name."""
    rows = [(r.name, r.what, ", ".join(a.name for a in r.actions), r.origin) for r in sources.catalogue()]
    _print_table(("name", "what", "actions", "from"), rows)


@data_app.command
def get(name: str, *, from_files: Path | None = None, cache: Path | None = None) -> None:
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
    _show(sources.get(name, cache=cache, from_files=from_files))


@data_app.command
def prepare(
    log: Path,
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
    note
        Kept in the protocol line of every result, for example "reconstructed".
    temporal
        Shares of the events for validation and test, cut by time; without it the last event of each user
        is the test and the one before the validation.
    on_bad_row
        stop at rows that break a rule, or write them to rejects.parquet and go on.
    """
    from plait import data

    split = data.Temporal(validation=temporal[0], test=temporal[1]) if temporal else data.LeaveOneOut()
    _show(
        data.prepare(
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
    fit(_open(dataset), layout, model=model, optim=optim, protocol=protocol, out=out, report=_say)
    evaluate(out)


@app.command
def evaluate(run: Path) -> None:
    """Prints the test metrics of a finished run, with 95 % intervals over users.

    Example: plait evaluate runs/lac
    """
    from plait.metrics.intervals import bootstrap
    from plait.training.evaluate import measure
    from plait.training.run import load_answers, load_result

    result = load_result(run)
    table = Table(
        "metric", "value", "95 % interval", "users", title=f"{result.settings.layout} on {result.dataset}"
    )
    for name, statistic in measure(load_answers(run, result.actions)).items():
        estimate = bootstrap(statistic).estimate
        interval = f"{estimate.low:.4f} to {estimate.high:.4f}" if estimate.low is not None else "not defined"
        table.add_row(
            name,
            "not defined" if estimate.value is None else f"{estimate.value:.4f}",
            interval,
            str(estimate.num_users),
        )
    console.print(table)


@app.command
def compare(
    dataset: str,
    *,
    layouts: str,
    seeds: int = 3,
    out: Path,
    model: ModelSettings = ModelSettings(),
    optim: Optim = Optim(),
    protocol: Protocol = Protocol(),
) -> None:
    """Trains several layouts under one protocol, and says what each is worth and costs.

    Example: plait compare ml-100k --layouts item,interleaved,pc,lac --seeds 2 --out runs/ml-100k

    Parameters
    ----------
    dataset
        A prepared folder, or a name of `plait data list`.
    layouts
        Names of `plait layouts`, separated by commas, or layouts in notation separated by " & ".
    seeds
        Runs of each layout.
    out
        Folder of the runs, rows.jsonl, comparison.json and report.html. Started again, it goes on.
    """
    from plait.studies.compare import compare as compare_layouts
    from plait.studies.report import terminal_table

    comparison = compare_layouts(
        _open(dataset),
        [name.strip() for name in (layouts.split("&") if "[" in layouts else layouts.split(","))],
        seeds,
        out,
        model,
        optim,
        protocol,
        command="plait " + shlex.join(sys.argv[1:]),
        report=_say,
    )
    console.print(terminal_table(comparison))
    console.print(f"page: {out / 'report.html'}")


@app.command
def recommend(run: Path, *, dataset: str, user: str, k: Annotated[int, Parameter(alias="-k")] = 10) -> None:
    """The items that a user is most likely to meet next.

    Example: plait recommend runs/lac --dataset ml-100k --user 196 -k 10
    """
    model, state = _state_of(run, dataset, user)
    frame = model.retrieve(state, k)
    _print_table(frame.columns, frame.rows())


@app.command
def score(run: Path, *, dataset: str, user: str, items: str) -> None:
    """The actions that a user is expected to take on given items.

    Example: plait score runs/lac --dataset ml-100k --user 196 --items 242,302

    Parameters
    ----------
    items
        Item ids as the log spells them, separated by commas.
    """
    model, state = _state_of(run, dataset, user)
    frame = model.score(state, items.split(","))
    _print_table(frame.columns, frame.rows())


def _state_of(run: Path, dataset: str, user: str) -> tuple[Recommender, State]:
    data = _open(dataset)
    ids = data.user_ids()
    model = Recommender.from_pretrained(run / MODEL)
    index = data.user_index(user if ids.dtype == pl.String else _whole_number(user))
    return model, model.encode(data.history(index))


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"--user {text!r}: this dataset's user ids are whole numbers") from None


def _open(dataset: str) -> Dataset:
    """A prepared folder, else a dataset that Plait knows by name."""
    if Path(dataset).exists():
        return Dataset.open(dataset)
    return sources.get(dataset)


def _show(dataset: Dataset) -> None:
    manifest = dataset.manifest
    counts = manifest.counts
    console.print(
        f"{dataset.folder}: {counts.events:,} events, {counts.users:,} users, {counts.items:,} items; "
        f"{manifest.tied_share:.1%} of the events share a time with another of their user"
    )


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False)


def _print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> None:
    table = Table(*headings, box=None, pad_edge=False, caption=caption or None, caption_justify="left")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console.print(table)
