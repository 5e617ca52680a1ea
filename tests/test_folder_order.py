"""Nothing depends on the order in which a file system lists a folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from tiny import assert_not_vacuous, model_of, prepared, random_log

from plait import files
from plait.cli.runs import finished_run
from plait.data.sources.kuaishou import KUAIRAND_ACTIONS, read_kuairand
from plait.data.sources.recipe import find
from plait.data.storage.caches import file_stamps
from plait.evaluation.run_files import RESULT
from plait.layouts import resolve
from plait.models.saving import CONFIG, put_in_place, save_model

LISTING = ("iterdir", "glob", "rglob")


def of_parts(folder: Path) -> object:
    """A log in three files whose rows share their times: their order is that of the files."""
    log = random_log().with_columns(time=pl.lit(1_000_000))
    for n, name in enumerate("bca"):
        log.filter(pl.int_range(pl.len()) % 3 == n).write_parquet(folder / f"{name}.parquet")
    return prepared(folder, folder.parent / "made").manifest.content_hash  # type: ignore[arg-type]


def of_stamps(folder: Path) -> object:
    for name in "bca":
        (folder / name).mkdir()
        (folder / name / "file").touch()
    return [name for name, *_ in file_stamps(folder)]


def of_sources(folder: Path) -> object:
    for name in ("b", "a"):
        (folder / name).mkdir()
        (folder / name / "u.data").touch()
    return find(folder, "u.data")


def of_logs(folder: Path) -> object:
    columns = {
        "user_id": [1],
        "time_ms": [5],
        "tab": [1],
        **{action.name: [1] for action in KUAIRAND_ACTIONS},
    }
    for name in "312":
        pl.DataFrame(columns | {"video_id": [int(name)]}).write_csv(folder / f"log_standard_{name}.csv")
    return read_kuairand(folder).collect()["item_id"].to_list()


def of_runs(folder: Path) -> object:
    for name in "bca":
        (folder / "runs" / name).mkdir(parents=True)
        (folder / "runs" / name / RESULT).touch()
    with pytest.raises(ValueError, match="holds a comparison") as refused:
        finished_run(folder)
    return str(refused.value)


def of_saved(folder: Path) -> object:
    """The configuration comes last: until then nothing loads what may be of two models."""
    (folder / "draft").mkdir()
    save_model(model_of(resolve("item")), folder / "draft")
    for name in ("a-first", "z-last"):
        (folder / "draft" / name).touch()
    moved: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "move_listed", lambda path, _: moved.append(path.name))
        put_in_place(folder / "draft", folder)
    assert moved[-1] == CONFIG and len(moved) > 3
    return len(moved)


def listed(path: Path, name: str, backwards: bool, *pattern: str) -> Iterator[Path]:
    return iter(sorted(REAL[name](path, *pattern), reverse=backwards))


REAL = {name: getattr(Path, name) for name in LISTING}


def found(make: Callable[[Path], object], folder: Path, backwards: bool) -> str:
    """What is made of a folder that lists its files in this order, its own place apart."""
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        for name in LISTING:

            def listing(path: Path, *pattern: str, name: str = name) -> Iterator[Path]:
                calls.append(name)
                return listed(path, name, backwards, *pattern)

            patch.setattr(Path, name, listing)
        place = folder / ("backwards" if backwards else "forwards") / "folder"
        place.mkdir(parents=True)
        made = make(place)
    assert_not_vacuous({"listings": len(calls)})
    return str(made).replace(str(place), "")


@pytest.mark.parametrize("make", [of_parts, of_stamps, of_sources, of_logs, of_runs, of_saved])
def test_the_order_of_a_listing_changes_nothing(make: Callable[[Path], object], tmp_path: Path) -> None:
    assert found(make, tmp_path, backwards=False) == found(make, tmp_path, backwards=True)


def test_a_reader_that_takes_files_as_they_are_listed_is_caught(tmp_path: Path) -> None:
    def first(folder: Path) -> object:
        of_sources(folder)
        return next(folder.rglob("u.data"))

    assert found(first, tmp_path, backwards=False) != found(first, tmp_path, backwards=True)
