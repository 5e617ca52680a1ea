"""The verb that makes a log of what a service showed and what users did."""

from pathlib import Path
from typing import TYPE_CHECKING

from plait.cli.output import say
from plait.cli.parted import check_takes_table
from plait.cli.runs import run_and_model
from plait.data.storage.whole_folders import parquet_bytes
from plait.files import write_whole

if TYPE_CHECKING:
    import polars as pl


def shown(
    answers: Path,
    /,
    *,
    run: Path,
    out: Path,
    first: int | None = None,
    untaken: tuple[str, ...] = (),
    interests: Path | None = None,
) -> None:
    """Joins what `plait serve --log-answers` wrote into a log: a row for each item that a user was shown, with what the
    user did.

    Example: plait data shown answers --run runs/lac --out shown.parquet

    Events that name no answer are rows, too. `plait data prepare` reads the file, with --request and the log's columns.

    Parameters
    ----------
    answers
        The folder of --log-answers.
    run
        The run that was served.
    out
        The log: FILE.parquet.
    first
        How many items of each retrieved list users were shown; by default all of it. 0: those that events name.
    untaken
        ACTION=VALUE where nothing was done, once for each; by default binary actions are 0, and all others missing.
    interests
        FILE.parquet for what rankers read of users while they answered: `plait rank train --interests` takes it, for a
        dataset that is prepared from the log.
    """
    check_takes_table(out)
    if interests is not None:
        check_takes_table(interests)
    values = dict(_value_of(text) for text in untaken)
    from plait.recommender import Recommender
    from plait.service.shown import shown_log
    from plait.service.shown_interests import read_interests_of

    recommender = Recommender.from_pretrained(run_and_model(run)[1], "cpu")
    found = shown_log(answers, recommender, first, values)
    read = None if interests is None else read_interests_of(answers, recommender, found)
    _write(found.table, out)
    say(str(found))
    say(f"log: {out}")
    if read is not None and interests is not None:
        _write(read.table, interests)
        say(str(read))
        say(f"interests: {interests}")


def _write(table: "pl.DataFrame", out: Path) -> None:
    content = parquet_bytes(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, lambda aside: aside.write_bytes(content))


def _value_of(text: str) -> tuple[str, float | str]:
    """
    >>> _value_of("watch_s=0"), _value_of("seen=no")
    (('watch_s', 0.0), ('seen', 'no'))
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--untaken {text}: expected ACTION=VALUE, such as watch_s=0")
    try:
        return name, float(value)
    except ValueError:
        return name, value
