"""Finished runs, by the folders that people name."""

from pathlib import Path

from plait.evaluation.run_files import RESULT, Result, load_result


def finished_run(folder: Path) -> Result:
    """What a run found.

    Raises:
        ValueError: the folder holds no finished run; names the runs of a comparison.
    """
    runs = sorted(str(result.parent) for result in folder.glob(f"runs/*/{RESULT}"))
    if runs and not (folder / RESULT).exists():
        raise ValueError(f"{folder} holds a comparison; name one of its runs: {', '.join(runs)}")
    return load_result(folder)
