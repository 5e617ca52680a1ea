"""One run from data to test metrics, in a folder (see `plait.evaluation.run_files`) that outlives a kill."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

from plait.counts.beside import Counts
from plait.data import Dataset
from plait.data.history import columns_read, save_vocabulary
from plait.data.storage.locks import kept_alone
from plait.data.storage.whole_folders import MANIFEST
from plait.evaluation.answers import Answers, answers_of
from plait.evaluation.combining import counted_again, counts_of
from plait.evaluation.protocol_line import protocol_line
from plait.evaluation.provenance import Provenance, provenance
from plait.evaluation.run_files import (
    ANEW,
    ANSWERS,
    CHECKPOINT,
    COUNTED_UNTIL_TEST,
    METRICS,
    MODEL,
    RESULT,
    SETTINGS,
    WITHOUT_COUNTS,
    OtherCheckpoint,
    Result,
    RunSettings,
    load_result,
    of_checkpoint,
    read_file,
    save_answers,
)
from plait.evaluation.settings import Protocol
from plait.files import check_hashes, is_listed, write_listed, write_whole
from plait.layouts import Layout
from plait.models.generative import GenerativeRecommender, ModelConfig
from plait.models.saving import save_model
from plait.nn.arithmetic import Arithmetic
from plait.nn.interests import InterestSource
from plait.nn.precision import autocast, products_by
from plait.nn.runtime import denormals_flushed
from plait.notices import Watch
from plait.training.arithmetic import arithmetic_of_run
from plait.training.loop import Fitted, train_model
from plait.training.memory import check_fits_memory, forget_peak_memory, peak_memory_mb
from plait.training.recorded import record_histories
from plait.training.start import Start
from plait.wording import differences, setting

LOCK = ".lock"


def run_training(
    dataset: Dataset,
    settings: RunSettings,
    folder: Path,
    report: Callable[[str], None] = print,
    device: str = "cpu",
    watch: Watch | None = None,
    arithmetic: Arithmetic | None = None,
    start: Start | None = None,
    interests: InterestSource | None = None,
) -> Result:
    """Trains and tests, or goes on where the folder stands; a finished run is only read.

    Args:
        arithmetic: what `optim.precision = auto` stands for in all runs that this one is compared with; without it,
            what the run began with, or what this machine multiplies fastest in.
        start: whose weights the run goes on from; without it, they are drawn.
        interests: what a ranker that reads interests looks them up in.

    Raises:
        ValueError: the folder holds a run of other settings or data, or one that another process trains just now, or
            is none for runs. Or the settings, the data and the device do not fit each other. Nothing was written then.
        Diverged, KeyboardInterrupt: as `plait.training.loop.train_model`.
    """
    settings = replace(settings, goes_on_from=start.sha256 if start else "")
    settings = replace(settings, interests=interests.sha256 if interests else "")
    config = config_of(dataset, settings)
    config = config if start is None else start.config_for(config)
    check_told_alike(interests, settings.protocol)
    if interests is not None:
        config = replace(config, told_conditions=interests.conditions, told_version=interests.version)
    check_fits_memory(config)
    if (folder / RESULT).exists():
        finished = _finished(dataset, settings, folder)
        report(f"{folder} holds this run, finished; nothing is trained")
        return finished
    check_takes_runs(folder)
    with kept_alone(folder / LOCK, busy_message(folder)) as alone, denormals_flushed():
        return _train(
            dataset, settings, config, folder, report, device, watch, alone, arithmetic, start, interests
        )


def _train(
    dataset: Dataset,
    settings: RunSettings,
    config: ModelConfig,
    folder: Path,
    report: Callable[[str], None],
    device: str,
    watch: Watch | None,
    alone: Callable[[], None],
    shared: Arithmetic | None,
    start: Start | None,
    interests: InterestSource | None,
) -> Result:
    check_begun(folder)
    arithmetic = arithmetic_of_run(settings, folder, device, shared)
    start_s, has_own_peak = time.perf_counter(), forget_peak_memory()
    origin = provenance(device, arithmetic)
    if not (folder / CHECKPOINT).exists():  # of a checkpoint, `fit` knows more: the data that it is of
        check_begun_alike(folder, settings)

    def begin() -> None:
        alone()
        check_begun_alike(folder, settings)  # once more: another process may have begun meanwhile
        write_listed_json(folder / SETTINGS, settings)

    fitted = train_model(
        dataset,
        config,
        settings.optim,
        settings.protocol,
        folder,
        report,
        device,
        watch,
        begin,
        arithmetic,
        start,
        interests,
    )
    _save_checkpoints(dataset, settings, fitted, folder, device, report)
    result = _result(
        dataset,
        settings,
        fitted,
        origin,
        wall_s=time.perf_counter() - start_s,
        peak_memory_mb=peak_memory_mb() if has_own_peak else None,
    )
    write_listed_json(folder / RESULT, result)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def _save_checkpoints(
    dataset: Dataset,
    settings: RunSettings,
    fitted: Fitted,
    folder: Path,
    device: str,
    report: Callable[[str], None],
) -> None:
    """Each checkpoint's model with the counts beside it, and its answers to the test; of one epoch they are computed
    once. The deployed one comes last, so that its weights are in the model again."""
    by_epoch: dict[float, _Tested] = {}
    for checkpoint, weights in reversed(fitted.weights.items()):
        fitted.model.load_state_dict(weights)
        epoch = fitted.progress.best[checkpoint].epoch
        if epoch not in by_epoch:
            precision = fitted.optim.precision
            with products_by(precision), autocast(precision, device):  # as validation ran
                by_epoch[epoch] = _tested(dataset, settings, fitted.model, device)
        tested = by_epoch[epoch]
        fitted.model.counts = tested.counts
        if tested.counts is not None:
            for said in tested.counts.said:
                report(f"{of_checkpoint(MODEL, checkpoint)}/: {said}")
            save_answers(folder / of_checkpoint(WITHOUT_COUNTS, checkpoint), tested.without)
        if tested.until_test is not None:
            save_answers(folder / of_checkpoint(COUNTED_UNTIL_TEST, checkpoint), tested.until_test)
        save_answers(folder / of_checkpoint(ANSWERS, checkpoint), tested.answers)
        model_folder = folder / of_checkpoint(MODEL, checkpoint)
        model_folder.mkdir(exist_ok=True)
        save_model(fitted.model, model_folder)
        save_vocabulary(model_folder, dataset.items, columns_read(dataset))
        protocol = settings.protocol
        record_histories(fitted.model, dataset, protocol.recorded, protocol.seed, model_folder)


@dataclass(frozen=True)
class _Tested:
    """A model's answers to the test, with the counts that belong beside it, and without them."""

    counts: Counts | None
    answers: Answers
    without: Answers
    until_test: (
        Answers | None
    )  # with counts of the validation's rows, too; None where the data is not cut in time


def _tested(dataset: Dataset, settings: RunSettings, model: GenerativeRecommender, device: str) -> _Tested:
    model.counts = None
    without = answers_of(model, dataset, "test", settings.protocol, device)
    if not model.takes_counts:
        return _Tested(None, without, without, None)
    counts = counts_of(model, dataset, settings.protocol, device)
    answers, until_test = without, None
    if counts.pay:
        model.counts = counts
        answers = answers_of(model, dataset, "test", settings.protocol, device)
        if dataset.training_ends_s is not None:
            model.counts = _counted_until_test(counts, dataset, settings)
            until_test = answers_of(model, dataset, "test", settings.protocol, device)
    return _Tested(counts, answers, without, until_test)


def _counted_until_test(counts: Counts, dataset: Dataset, settings: RunSettings) -> Counts:
    """The same counts of all rows before the test, as one who serves would have them."""
    same_request = settings.model.exposure.same_request
    return counted_again(counts, dataset, dataset.until_test(), settings.protocol, same_request)


def _beside(fitted: Fitted) -> OtherCheckpoint | None:
    for checkpoint, rule in fitted.rules.items():
        if checkpoint != "deployed":
            epoch = fitted.progress.best[checkpoint].epoch
            return OtherCheckpoint(best_for=checkpoint, selection=str(rule), best_epoch=epoch)
    return None


def _result(
    dataset: Dataset,
    settings: RunSettings,
    fitted: Fitted,
    origin: Provenance,
    *,
    wall_s: float,
    peak_memory_mb: float | None,
) -> Result:
    progress, protocol, begun = fitted.progress, settings.protocol, settings.goes_on_from
    line = protocol_line(
        dataset, settings.model, fitted.optim, protocol, [protocol.seed], fitted.model.layout
    )
    return Result(
        dataset=dataset.manifest.name,
        dataset_folder=str(dataset.folder.absolute()),
        content_hash=dataset.manifest.content_hash,
        settings=settings,
        selection=str(fitted.rules["deployed"]),
        actions=dataset.actions,
        num_parameters=sum(p.numel() for p in fitted.model.parameters()),
        epochs=fitted.epochs,
        best_epoch=progress.best["deployed"].epoch,
        why_stopped=progress.why_stopped,
        train_tokens=progress.spent.tokens,
        train_flops=progress.spent.flops,
        train_wall_s=progress.spent.train_wall_s,
        train_cpu_s=progress.spent.train_cpu_s,
        wall_s=wall_s,
        peak_memory_mb=peak_memory_mb,
        curve=progress.curve,
        protocol=line + (f"; goes on from weights {begun:.12}" if begun else ""),
        provenance=origin,
        beside=_beside(fitted),
    )


def busy_message(folder: Path) -> str:
    return f"{folder}: another process trains there; let it end or stop it, or use another folder"


def check_told_alike(interests: InterestSource | None, protocol: Protocol) -> None:
    """Raises ValueError where interests about held-out events know more of a user than the history that is shown."""
    if interests is not None and interests.rolling and not protocol.rolling_history:
        raise ValueError(
            "interests about events of validation or test were computed from earlier events of the same part, which no "
            "history of the ranker shows: what they add would be told too high. Ask for them from histories that end "
            f"where the part begins, as plait lum query does, or set {setting('protocol.rolling_history', True)}"
        )


def check_takes_runs(folder: Path) -> None:
    """Raises ValueError where a folder cannot be made, or is a prepared dataset's."""
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(
                f"{place} is a file; name a folder ({setting('out')}), which is made where it is missing"
            )
    if (folder / MANIFEST).exists():
        raise ValueError(
            f"{folder} holds a prepared dataset; name another folder for what is trained ({setting('out')})"
        )


def write_json(path: Path, value: object) -> None:
    write_whole(path, lambda aside: aside.write_bytes(_json(value)))


def write_listed_json(path: Path, value: object) -> None:
    write_listed(path, lambda aside: aside.write_bytes(_json(value)))


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value))


def config_of(dataset: Dataset, settings: RunSettings) -> ModelConfig:
    """What shapes the weights of a run, and how they are asked.

    Raises:
        ValueError: the model reads times, and the log has none.
    """
    ranker = settings.model.ranker
    if dataset.manifest.settings.time is None and ranker.is_on and ranker.reads_time:
        raise ValueError(
            f"{setting('model.ranker.kind', ranker.kind)} reads how long ago events happened, and the log has no "
            "times, only the order of its rows; use din, dien or rankmixer"
        )
    if dataset.manifest.settings.time is None and settings.model.reads_time:
        raise ValueError(
            f"positions = '{settings.model.trunk.positions}' read when events happened, and the log has no times, only "
            "the order of its rows; use positions that count events, such as learned or rope"
        )
    shows_conditions = "c" in Layout.parse(settings.layout, allow_leaks=True).fields
    return ModelConfig(
        layout=settings.layout,
        settings=settings.model,
        num_items=dataset.num_items,
        actions=dataset.actions,
        max_events=settings.protocol.max_events,
        item_features=dataset.manifest.item_features,
        user_features=dataset.manifest.user_features,
        context=dataset.context,
        conditions=dataset.conditions if shows_conditions else (),
        item_conditions=dataset.item_conditions if shows_conditions else (),
        asked_as_candidates=settings.protocol.supervise == "candidates",
        window_step=settings.protocol.step,
    )


def _finished(dataset: Dataset, settings: RunSettings, folder: Path) -> Result:
    result = load_result(folder)
    check_same(folder, "a finished run of other settings", result.settings, settings)
    of_run = {"content_hash": result.content_hash, "actions": result.actions, "refit": result.refit}
    asked = {"content_hash": dataset.manifest.content_hash, "actions": dataset.actions, "refit": None}
    check_same(folder, "a finished run of other data", of_run, asked)
    return result


def check_begun(folder: Path) -> None:
    """Raises ValueError where files of a run that was begun there are damaged, or are gone that a kill leaves."""
    is_going = (folder / CHECKPOINT).exists()
    if not is_going and is_listed(folder / RESULT):  # a checkpoint goes only after the result was there
        check_hashes(folder, ANEW, RESULT)
    if is_going or (folder / SETTINGS).exists():
        check_hashes(folder, ANEW, SETTINGS)
    if (folder / METRICS).exists():
        check_hashes(folder, f"delete {folder / METRICS}: it is written again from the checkpoint", METRICS)


def check_begun_alike(folder: Path, settings: RunSettings) -> None:
    """A run that was begun there, and has no checkpoint yet, must be this one."""
    if (folder / SETTINGS).exists():
        begun = read_file(folder / SETTINGS, RunSettings)
        check_same(folder, "the beginning of a run of other settings", begun, settings)


def check_same(folder: Path, what: str, found: object, asked: object) -> None:
    unlike = differences(_plain(found), _plain(asked))
    if unlike:
        raise ValueError(f"{folder} holds {what}:\n{unlike}\nUse another folder, or delete it.")


def _plain(settings: object) -> object:
    """With the defaults of settings that the file of an earlier version does not name: msgspec leaves them out."""
    known = asdict(settings) if isinstance(settings, RunSettings) else settings
    return msgspec.to_builtins(known)
