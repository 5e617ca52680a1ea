"""The verb that makes a log of what a service showed and what users did."""

from pathlib import Path

from plait.cli.output import say
from plait.cli.parted import check_takes_table
from plait.cli.runs import run_and_model
from plait.data.storage.whole_folders import parquet_bytes
from plait.files import write_whole


def shown(
    answers: Path,
    /,
    *,
    run: Path,
    out: Path,
    first: int | None = None,
    untaken: tuple[str, ...] = (),
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
    """
    check_takes_table(out)
    values = dict(_value_of(text) for text in untaken)
    from plait.recommender import Recommender
    from plait.service.shown import shown_log

    _, model = run_and_model(run)
    found = shown_log(answers, Recommender.from_pretrained(model, "cpu"), first, values)
    content = parquet_bytes(found.table)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, lambda aside: aside.write_bytes(content))
    say(str(found))
    say(f"log: {out}")


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
