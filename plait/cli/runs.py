"""Finished runs, by the folders that people name."""

from pathlib import Path

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


def run_and_model(path: Path) -> tuple[Path, Path]:
    """A run's folder, and that of the model which people name by it: the deployed one, or another by its own folder.

    >>> run_and_model(Path("runs/lac"))[1].as_posix()
    'runs/lac/model'
    """
    if (path / CONFIG).is_file() and (path.parent / RESULT).is_file():
        return path.parent, path
    return path, path / MODEL
