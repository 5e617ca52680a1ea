"""Which events a large user model was trained on: of these it knows more than it will know of tomorrow's."""

from pathlib import Path

from plait.data import Dataset, Temporal
from plait.data.dataset import EventPart
from plait.evaluation.run_files import Result

TOO_MUCH = (
    "it knows more of such events than of others, and a ranker that is trained on that trusts it too much"
)


def trained_until(result: Result, asked: Dataset, part: EventPart) -> tuple[int | None, str]:
    """From when on the model was trained on no event, in unix seconds, and what is to be said.

    The time is None where nothing has to be left out, or nobody can tell what; then the words say so.

    Args:
        result: of the model's run.
        asked: the dataset whose events it is asked about.
    """
    if result.refit is not None:
        return None, f"the model was trained on all rows of its log: {TOO_MUCH}"
    if asked.manifest.content_hash == result.content_hash:
        return (
            None,
            f"the model was trained on these events: {TOO_MUCH}; see --part" if part == "train" else "",
        )
    split = Dataset.open(result.dataset_folder).manifest.split if _is_there(result) else None
    if isinstance(split, Temporal):
        return split.cut_validation_s, ""
    why = (
        f"{result.dataset_folder} is not there"
        if split is None
        else "its data is not cut in time (--temporal)"
    )
    return None, f"whether the model was trained on these events cannot be told, since {why}: {TOO_MUCH}"


def _is_there(result: Result) -> bool:
    return Path(result.dataset_folder).is_dir()
