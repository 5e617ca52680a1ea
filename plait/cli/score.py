"""The verb that tells the actions on given items."""

from pathlib import Path

from plait.cli.arguments import Counting, Device, Json
from plait.cli.bulk import Asking, BulkPairs, pairs_of, write_answers
from plait.cli.counted import asked_of
from plait.cli.output import progress_console, say, show_rows
from plait.cli.parted import check_takes_table
from plait.cli.runs import finished_run, run_and_model
from plait.cli.user_state import model_and_data, state_of, value_of_formula
from plait.counting_recommender import CountingScorer
from plait.schema import check_unique, split_quoted


def score(
    run: Path,
    /,
    *,
    user: str | None = None,
    items: str | None = None,
    pairs: Path | None = None,
    out: Path | None = None,
    at: str | None = None,
    context: tuple[str, ...] = (),
    value: str | None = None,
    item_numbers: Path | None = None,
    dataset: str | None = None,
    baseline: Counting = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """The actions that a user is expected to take on given items, or many users on items of their own.

    Example: plait score runs/lac --user 196 --items 242,302

    Or from a baseline, where nothing was trained: plait score ml-100k --baseline "item and user" --user 196 --items 242

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`: the model that it deploys answers
        (model/). Where another lies beside it, RUN/model-actions names that.
    user
        The user's id, as the log spells it.
    items
        Item ids as the log spells them, separated by commas; one that holds a comma, or a blank at an end, in double
        quotes.
    pairs
        In place of both: a file with a row for each question, its columns called as the log's of users and items, or
        user and item.
    out
        Where the answers to --pairs go, a row for each: FILE.parquet. Killed and started again, the command goes on.
    at
        When they are shown: a time as the log writes it. Needed by models that know the time.
    context
        NAME=VALUE, of that moment; once for each column of the context. Missing where not given.
    value
        A formula over the actions, such as "0.7 * liked + 0.3 * log1p(watch_s)"; its values are a last column. Names of
        several words stand in quotes.
    item_numbers
        A file with a row per item: the log's item column, and the columns of numbers that the formula names.
    dataset
        A prepared folder, or a name of `plait data list`, with the users' histories; without it, the dataset
        that the run was trained on.
    device
        What the model runs on; auto is cuda where there is one.
    """
    if baseline is not None:
        unread = {
            "at": at, "context": context, "value": value, "item-numbers": item_numbers, "pairs": pairs, "out": out,
            "dataset": dataset,
        }  # fmt: skip
        by_counts = asked_of(run, None, **unread)
        if user is None or items is None:
            raise ValueError("give --user and --items: a baseline answers one user at a time")
        counts = CountingScorer.fit(by_counts.dataset, baseline, same_request=by_counts.same_request)
        found = counts.score(counts.encode(by_counts.history(user)), split_items(items)).drop("user")
        show_rows(found.columns, found.rows(), json=json)
        return
    if pairs is None:
        if user is None or items is None or out is not None:
            raise ValueError(
                "give --user and --items for one answer, which is printed, or --pairs and --out for a table of many"
            )
        folder, model_folder = run_and_model(run)
        model, state = state_of(model_folder, finished_run(folder), user, dataset, device)
        ranking, asked = value_of_formula(model, value, item_numbers), split_items(items)
        found = model.score(state, asked, at=at, context=_values_of(context), value=ranking).drop("user")
        show_rows(found.columns, found.rows(), json=json)
        return
    if out is None or user is not None or items is not None:
        raise ValueError(
            f"--pairs {pairs}: name the table that is written (--out FILE.parquet), and no user or items"
        )
    check_takes_table(out)
    folder, model_folder = run_and_model(run)
    asking = Asking(*model_and_data(model_folder, finished_run(folder), dataset, device), model_folder)
    screen = progress_console()
    user_M, item_M = pairs_of(pairs, asking, lambda line: say(line, screen))
    question = BulkPairs(asking, user_M, item_M, at, _values_of(context), value, item_numbers)
    write_answers(question, out, screen, json=json)


def split_items(text: str) -> list[str]:
    """Ids between commas; commas and blanks inside double quotes are an id's own.

    Raises:
        ValueError: a quoted id has no end, or goes on after it.

    >>> split_items('i05, "Heat, 1995"')
    ['i05', 'Heat, 1995']
    """
    try:
        return split_quoted(text)
    except ValueError as error:
        raise ValueError(f'--items {error}; expected ids between commas, such as i05,"Heat, 1995"') from None


def _values_of(context: tuple[str, ...]) -> dict[str, str]:
    for text in context:
        if "=" not in text:
            raise ValueError(f"--context {text!r}: expected NAME=VALUE")
    check_unique([text.partition("=")[0] for text in context], "--context")
    return dict(text.split("=", 1) for text in context)
