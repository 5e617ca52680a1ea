"""The verb that tells the actions on given items."""

from pathlib import Path

from plait.cli.arguments import Counting, Device, Json
from plait.cli.counted import asked_of
from plait.cli.output import show_rows
from plait.cli.runs import finished_run, run_and_model
from plait.cli.user_state import state_of
from plait.counting_recommender import CountingScorer
from plait.schema import check_unique, split_quoted


def score(
    run: Path,
    /,
    *,
    user: str,
    items: str,
    at: str | None = None,
    context: tuple[str, ...] = (),
    dataset: str | None = None,
    baseline: Counting = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """The actions that a user is expected to take on given items.

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
    at
        When they are shown: a time as the log writes it. Needed by models that know the time.
    context
        NAME=VALUE, of that moment; once for each column of the context. Missing where not given.
    dataset
        A prepared folder, or a name of `plait data list`, with the user's history; without it, the dataset
        that the run was trained on.
    device
        What the model runs on; auto is cuda where there is one.
    """
    if baseline is not None:
        asked = asked_of(run, None, at=at, context=context, dataset=dataset)
        counts = CountingScorer.fit(asked.dataset, baseline, same_request=asked.same_request)
        found = counts.score(counts.encode(asked.history(user)), split_items(items))
    else:
        folder, model_folder = run_and_model(run)
        model, state = state_of(model_folder, finished_run(folder), user, dataset, device)
        found = model.score(state, split_items(items), at=at, context=_values_of(context))
    found = found.drop("user")
    show_rows(found.columns, found.rows(), json=json)


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
