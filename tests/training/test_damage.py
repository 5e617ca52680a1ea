"""No file of a dataset, world, run or model that is not the one that was written is believed, whoever reads it."""

import io
import json
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_runs import STEPS_PER_EPOCH, Killed, kill_before_step, settings_of, silent
from tiny import assert_caught, assert_not_vacuous, prepared, random_log

from plait import Recommender
from plait.cli import main
from plait.data import Dataset
from plait.data.simulator import World, simulate
from plait.data.storage.caches import open_if_whole
from plait.evaluation.run_files import ANSWERS, METRICS, MODEL, load_answers, load_result
from plait.files import HASHES
from plait.models.saving import RECORDED
from plait.training import loop
from plait.training.run import LOCK, run_training

DAMAGES = ("first bit", "middle bit", "last bit", "cut", "emptied", "swapped", "digit", "deleted")
MAY_CHANGE = {LOCK}  # is empty, and stays when a process ends
MAY_GO = {
    loop.CHECKPOINT,
    METRICS,
}  # of a run that is not finished: deleted, it starts over, and writes them again
ADVICE = re.compile(
    r"(prepare|simulate|save|train) .*again|delete |make one with|of save_pretrained|let it finish"
)


def flipped(content: bytes, at: int, bit: int = 0x10) -> bytes:
    return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]


def with_another_digit(content: bytes) -> bytes:
    """The last digit of a number of a JSON file becomes another."""
    found = list(re.finditer(rb"\d(?=[,\s\]}])", content))
    at = found[len(found) // 2].start() if found else None
    return (
        content
        if at is None
        else content[:at] + (b"1" if content[at : at + 1] != b"1" else b"2") + content[at + 1 :]
    )


def damaged(damage: str, content: bytes, other: Path, is_json: bool) -> bytes | None:
    """What is there after the damage; None where nothing is. The same content where there is no such damage."""
    match damage:
        case "first bit" | "middle bit" | "last bit" if content:
            at = {"first bit": 0, "middle bit": len(content) // 2, "last bit": len(content) - 1}[damage]
            return flipped(content, at)
        case "cut":
            return content[:-1]
        case "emptied":
            return b""
        case "swapped" if other.is_file():
            return other.read_bytes()
        case "digit" if is_json:
            return with_another_digit(content)
        case "deleted":
            return None
    return content


@contextmanager
def damage_done(path: Path, damage: str, other: Path) -> Iterator[bool]:
    """Whether there was anything to damage; the file is whole again afterwards."""
    content = path.read_bytes()
    bad = damaged(damage, content, other, path.suffix in (".json", ".jsonl"))
    try:
        if bad is None:
            path.unlink()
        elif bad != content:
            path.write_bytes(bad)
        yield bad != content
    finally:
        path.write_bytes(content)


def told(read: Callable[[], object]) -> str:
    """What a reader says about what it reads: an error or a warning; "" where it is content."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read()
        except (ValueError, UserWarning) as said:
            return str(said)
    return ""


def command(*words: object) -> None:
    """A command that succeeds, or fails with one message."""
    error = io.StringIO()
    with redirect_stderr(error), redirect_stdout(io.StringIO()):
        code = main([str(word) for word in words])
    if code:
        text = error.getvalue()
        assert code == 2 and text.count("plait: ") == 1 and "Traceback" not in text, text
        raise ValueError(text)


@dataclass(frozen=True)
class Kind:
    """A folder, another of its kind, and who reads which of its files: by reader, what matches their names."""

    folder: Path
    other: Path
    readers: dict[str, tuple[Callable[[], object], str]]
    is_going: bool = False

    def cases(self) -> Iterator[tuple[str, Callable[[], object], Path]]:
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            name = str(path.relative_to(self.folder))
            for reader, (read, reads) in self.readers.items():
                if name not in MAY_CHANGE and re.fullmatch(reads, name):
                    yield reader, read, path


def check_kind(kind: Kind) -> Counter[str]:
    met: Counter[str] = Counter(dict.fromkeys((*kind.readers, *DAMAGES), 0))
    for reader, (read, _) in kind.readers.items():
        if not kind.is_going:
            assert not told(read), f"{reader} of a whole folder"
    for reader, read, path in kind.cases():
        for damage in DAMAGES:
            if kind.is_going and damage == "deleted" and path.name in MAY_GO:
                continue
            with damage_done(path, damage, kind.other / path.relative_to(kind.folder)) as is_damaged:
                said = told(read) if is_damaged else None
            if said is not None:
                where = f"{reader}, {path}, {damage}: {said!r}"
                assert path.name in said or "version" in said, where  # of another Plait, to all appearances
                assert ADVICE.search(said) or f"has no {HASHES}" in said, where
                met[reader], met[damage] = met[reader] + 1, met[damage] + 1
    return met


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


@pytest.fixture(scope="module")
def datasets(place: Path) -> tuple[Path, Path]:
    return tuple(prepared(random_log(seed=seed), place / f"data{seed}").folder for seed in (7, 8))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def finished(datasets: tuple[Path, Path], place: Path) -> tuple[Path, Path]:
    for number, data in enumerate(datasets):
        run_training(Dataset.open(data), settings_of(max_epochs=1), place / f"run{number}", silent)
    return place / "run0", place / "run1"


def ask(run_folder: Path, data: Path) -> Callable[[], None]:
    return lambda: command("recommend", run_folder, "--user", "u03", "-k", 2, "--dataset", data)


def test_datasets(datasets: tuple[Path, Path], finished: tuple[Path, Path], place: Path) -> None:
    data, model = datasets[0], finished[0]
    items = random_log()["item"][0]

    readers = {
        "open": (lambda: Dataset.open(data), ".*"),
        "history": (lambda: Dataset.open(data).history(0), ".*"),
        "recommend": (ask(model, data), ".*"),
        "score": (
            lambda: command("score", model, "--user", "u03", "--items", items, "--dataset", data),
            ".*",
        ),
        "compare": (lambda: run_training(Dataset.open(data), settings_of(max_epochs=1), model, silent), ".*"),
    }
    met = check_kind(Kind(data, datasets[1], readers))
    assert_not_vacuous(met, above=4)
    assert met["open"] > 60


def test_finished_runs_and_their_models(datasets: tuple[Path, Path], finished: tuple[Path, Path]) -> None:
    folder, of_run = finished[0], r"[^/]+\.jsonl?"
    of_model = rf"{MODEL}/(?!{RECORDED}).*"  # which `plait check` alone reads: tests/engine/test_recorded.py
    result = load_result(folder)
    readers = {
        "evaluate": (lambda: command("evaluate", folder), rf"{of_run}|{ANSWERS}"),
        "recommend": (ask(folder, datasets[0]), rf"{of_run}|{of_model}"),
        "compare": (lambda: run_training(Dataset.open(datasets[0]), result.settings, folder, silent), of_run),
        "answers": (lambda: load_answers(folder, result.actions), ANSWERS),
        "load": (lambda: Recommender.from_pretrained(folder / MODEL), of_model),
    }
    assert_not_vacuous(check_kind(Kind(folder, finished[1], readers)), above=4)


def test_runs_that_are_not_finished(datasets: tuple[Path, Path], place: Path) -> None:
    folders = (place / "going0", place / "going1")
    for data, folder in zip(datasets, folders, strict=True):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
            kill_before_step(patch, STEPS_PER_EPOCH + 2)
            run_training(Dataset.open(data), settings_of(), folder, silent)
        assert {path.name for path in folder.iterdir()} >= {loop.CHECKPOINT, METRICS, HASHES}
    resume = {
        "resume": (lambda: run_training(Dataset.open(datasets[0]), settings_of(), folders[0], silent), ".*")
    }
    assert_not_vacuous(check_kind(Kind(*folders, resume, is_going=True)), above=1)
    assert run_training(Dataset.open(datasets[0]), settings_of(), folders[0], silent).epochs == 3, (
        "it goes on"
    )
    assert not list(folders[0].rglob("*.tmp"))


def test_worlds_and_what_is_kept(place: Path) -> None:
    worlds = [simulate(World.toy(seed=seed, num_users=30), place / f"world{seed}").folder for seed in (0, 1)]
    readers = {
        "world": (lambda: World.open(worlds[0]), rf"world\.json|{HASHES}"),
        "open": (lambda: Dataset.open(worlds[0]), ".*"),
    }
    assert_not_vacuous(check_kind(Kind(*worlds, readers)), above=1)


def test_a_damaged_dataset_in_the_cache_is_named_and_made_again(
    datasets: tuple[Path, Path], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in datasets[0].iterdir())
    for name in names:
        kept = shutil.copytree(datasets[0], place / "kept")
        assert open_if_whole(kept)
        (kept / name).write_bytes(flipped((kept / name).read_bytes(), -1 % (kept / name).stat().st_size))
        assert open_if_whole(kept) is None and not kept.exists()
        assert name in capsys.readouterr().err
    assert len(names) > 8


def test_readers_that_do_not_look_are_caught(
    datasets: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mutant: what this is about."""
    monkeypatch.setattr("plait.files.check_hashes", lambda *arguments: None)
    assert_caught(check_kind, Kind(*datasets, {"open": (lambda: Dataset.open(datasets[0]), ".*")}))


def test_a_world_with_another_digit_is_another_world(place: Path) -> None:
    folder = simulate(World.toy(num_users=30), place / "digit").folder
    path = folder / "world.json"
    changed = json.loads(path.read_bytes()) | {"seed": 1}
    path.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=rf"{path} is damaged .*simulate the world again"):
        World.open(folder)
