"""The verb that asks a large user model what users want: step 2."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, assert_never

from plait.cli.arguments import Device, Json
from plait.cli.asked_under import conditions_of, tables_by_name
from plait.cli.bulk import Asking, users_of
from plait.cli.lum.seen import trained_until
from plait.cli.lum.tables import InterestsOfEvents, InterestsOfItems, InterestsOfUsers, version_of
from plait.cli.output import progress_console, say, show_json
from plait.cli.parted import check_takes_table, parts_bar, write_in_parts
from plait.cli.runs import finished_run, run_and_model
from plait.cli.user_state import model_and_data
from plait.data.dataset import EventPart
from plait.engine.asking import answers_conditions
from plait.lum.interests import Asked, num_bytes, width_of

Of = Literal["users", "events", "items"]


def query(
    run: Path,
    /,
    *,
    out: Path,
    of: Of = "users",
    condition: tuple[str, ...] = (),
    conditions: Path | None = None,
    condition_vectors: tuple[str, ...] = (),
    own: bool = True,
    most: int = 4,
    users: str = "all",
    part: EventPart = "train",
    rolling_history: bool = False,
    at: str | None = None,
    dataset: str | None = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """What users want under conditions, as a table: of users as they are now, or at every event; and what items are.

    Example: plait lum query runs/lum --condition scenario=search --condition scenario=home --out interests.parquet

    For a ranker's training: plait lum query runs/lum --of events --part validation --out of-events.parquet

    Its items: plait lum query runs/lum --of items --out items.parquet

    Parameters
    ----------
    run
        The folder of `plait lum pretrain`.
    out
        FILE.parquet. Killed and started again, the command goes on.
    of
        users: as they are now, after all their events. events: at each event, from what lay before it. items: what the
        others are compared with.
    condition
        NAME=VALUE, several of one condition between commas; once for each condition.
    conditions
        A table with a row for each condition, and a column for each name.
    condition_vectors
        NAME=FILE.parquet: more values of a condition that is known by vectors, with theirs, beside those that the model
        was prepared with; once for each such condition.
    own
        Of events: ask under what each came with, too. What is of its item is not given: it would tell the item.
    most
        How many conditions a user or an event may have: the table grows with them.
    users
        A file with a row for each user, the column called as in the log, or user; or all.
    part
        Which events. Of those that the model was trained on it knows too much: a ranker is better trained on others.
        Of another dataset that is the same log, cut later in time, events before the end of its training are left out.
    rolling_history
        Of validation and test: ask about an event from all that lay before it, earlier events of its part among them.
        Without it a history ends where the part begins, as those of the rankers do that read the interests.
    at
        When users are asked about: a time as the log writes it. Needed by models that know the time.
    dataset
        A prepared folder, or a name of `plait data list`, with the histories; without it, the dataset that the model
        was trained on.
    device
        What the model runs on; auto is cuda where there is one.
    """
    check_takes_table(out)
    folder, model_folder = run_and_model(run)
    result, screen = finished_run(folder), progress_console()
    asking = Asking(*model_and_data(model_folder, result, dataset, device), model_folder)

    if condition_vectors:
        more = tables_by_name(condition_vectors)
        asking = replace(asking, model=asking.model.add_condition_vectors(**more))

    def report(line: str) -> None:
        say(line, screen)

    if of != "items":
        _check_takes_conditions(asking)
    asked = Asked.of(asking.model.model, conditions_of(condition, conditions))
    match of:
        case "users":
            _check_number(asking, len(asked.conditions), most)
            table: InterestsOfUsers | InterestsOfEvents | InterestsOfItems = InterestsOfUsers(
                asking, asked, users_of(users, asking, report), at
            )
        case "events":
            asks_own = own and bool(asking.data.manifest.conditions)
            _check_number(asking, len(asked.conditions) + asks_own, most)
            since_s, warned = trained_until(result, asking.data, part)
            if warned:
                report(warned)
            table = InterestsOfEvents(asking, asked, part, asks_own, since_s, rolling_history)
        case "items":
            table = InterestsOfItems(asking)
        case _:
            assert_never(of)
    size = num_bytes(asking.model.model, table.num_rows) / 1e6
    width = width_of(asking.model.model)
    report(f"{out}: {table.num_rows:,} interests of {width} numbers, {size:,.3g} MB beside their keys")
    with parts_bar(screen, table.num_parts) as watch:
        num_rows = write_in_parts(out, table.asked, table.num_parts, table.part, report, watch)
    if json:
        show_json({"out": str(out), "rows": num_rows, "version": version_of(asking), **table.counted})
    else:
        told = "".join(f"; {count:,} {what.replace('_', ' ')}" for what, count in table.counted.items())
        say(f"{out}: {num_rows:,} rows, model version {version_of(asking)}{told}")


def _check_takes_conditions(asking: Asking) -> None:
    """Raises ValueError where the model does not."""
    layout = asking.model.model.layout
    if not answers_conditions(layout):
        raise ValueError(
            f"layout '{layout}' is not asked under conditions; train layout 'lum' (plait lum pretrain)"
        )


def _check_number(asking: Asking, found: int, most: int) -> None:
    """Raises ValueError where a user or an event has no condition, or more than are meant."""
    if not found:
        names = ", ".join(feature.name for feature in asking.model.model.config.conditions)
        raise ValueError(
            f"--condition is missing: under which to ask, of {names}, such as --condition NAME=VALUE"
        )
    if found > most:
        raise ValueError(
            f"{found} conditions for each, and --most is {most}: each is one more vector in the table; name fewer, "
            f"or take --most {found}"
        )
