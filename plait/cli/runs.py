"""Finished runs, by the folders that people name."""

from pathlib import Path

from plait.data import Dataset
from plait.evaluation.run_files import MODEL, RESULT, Result, load_result
from plait.models.saving import CONFIG


def finished_run(folder: Path) -> Result:
    """What a run found.

    Raises:
        ValueError: the folder holds no finished run; names the runs of a comparison.
    """
    runs = sorted(str(result.parent) for result in folder.glob(f"runs/*/{RESULT}"))
    if runs and not (folder / RESULT).exists():
        raise ValueError(f"{folder} holds a comparison; name one of its runs: {', '.join(runs)}")
    return load_result(folder)


def data_of(result: Result) -> Dataset | str:
    """What the run was trained on, or in words why it cannot be told."""
    try:
        dataset = Dataset.open(result.dataset_folder)
    except ValueError as error:
        return f"its data cannot be opened: {error}"
    if dataset.manifest.content_hash != result.content_hash:
        return f"{result.dataset_folder} holds other data than it was trained on"
    return dataset


def run_and_model(path: Path) -> tuple[Path, Path]:
    """A run's folder, and that of the model which people name by it: the deployed one, or another by its own folder.

    >>> run_and_model(Path("runs/lac"))[1].as_posix()
    'runs/lac/model'
    """
    if (path / CONFIG).is_file() and (path.parent / RESULT).is_file():
        return path.parent, path
    return path, path / MODEL
