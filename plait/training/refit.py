"""The chosen settings, trained once more on every row: what goes into service.

No row is held out, so nothing can choose an epoch or judge the model. It takes the steps that the named checkpoint
took, at the same learning rates. The answers beside it are those of that checkpoint, and the result says so.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from plait.data import Dataset
from plait.data.history import columns_read, save_vocabulary
from plait.data.storage.locks import kept_alone
from plait.evaluation.checkpoints import Checkpoint
from plait.evaluation.combining import counted_again
from plait.evaluation.provenance import provenance
from plait.evaluation.run_files import (
    ANSWERS,
    CHECKPOINT,
    MODEL,
    RESULT,
    SETTINGS,
    WITHOUT_COUNTS,
    Refit,
    Result,
    answers_of_run,
    load_answers,
    load_result,
    of_checkpoint,
    save_answers,
)
from plait.models.generative import ModelConfig
from plait.models.saving import load_model, save_model
from plait.nn.runtime import denormals_flushed
from plait.notices import Watch
from plait.training.arithmetic import arithmetic_of_run, recorded_arithmetic
from plait.training.batches import num_steps
from plait.training.budget import Caps, Steps
from plait.training.loop import Fitted, train_steps
from plait.training.memory import check_fits_memory, forget_peak_memory, peak_memory_mb
from plait.training.progress import Progress, Spent
from plait.training.recorded import record_histories
from plait.training.run import (
    LOCK,
    busy_message,
    check_begun,
    check_begun_alike,
    check_same,
    check_takes_runs,
    config_of,
    write_listed_json,
)
from plait.training.start import Start


def run_refit(
    run: Path,
    dataset: Dataset,
    folder: Path,
    checkpoint: Checkpoint = "deployed",
    report: Callable[[str], None] = print,
    device: str = "cpu",
    watch: Watch | None = None,
    start: Start | None = None,
) -> Result:
    """Trains the settings of a finished run on all rows of its data, or goes on where the folder stands.

    Args:
        checkpoint: whose steps it takes, and whose evaluation stands beside it.
        start: what the run went on from, where it did.

    Raises:
        ValueError: the run is not finished, has no such checkpoint or is a refit itself; the data is other data; or
            as `plait.training.run.run_training`.
    """
    held_out = load_result(run)
    refit = _refit_of(run, held_out, dataset, checkpoint)
    _check_start(run, held_out, start)
    if (folder / RESULT).exists():
        result = load_result(folder)
        check_same(folder, "a finished run", {"refit": result.refit}, {"refit": refit})
        report(f"{folder} holds this run, finished; nothing is trained")
        return result
    config = config_of(dataset, held_out.settings)
    config = config if start is None else start.config_for(config)
    check_fits_memory(config)
    check_takes_runs(folder)
    with kept_alone(folder / LOCK, busy_message(folder)) as alone, denormals_flushed():
        return _train(run, held_out, refit, dataset, config, folder, report, device, watch, start, alone)


def _refit_of(run: Path, result: Result, dataset: Dataset, checkpoint: Checkpoint) -> Refit:
    """Raises ValueError where the run has no such checkpoint, or was trained on other data or on all rows."""
    if result.refit is not None:
        raise ValueError(
            f"{run} is trained on all rows already; name the run that it is of: {result.refit.run}"
        )
    if result.content_hash != dataset.manifest.content_hash:
        raise ValueError(
            f"{run} was trained on {result.dataset_folder} (content {result.content_hash:.12}), and {dataset.folder} "
            f"holds other data ({dataset.manifest.content_hash:.12}): a refit is of the same log"
        )
    beside = result.beside
    best: dict[Checkpoint, float] = {"deployed": result.best_epoch}
    best |= {beside.best_for: beside.best_epoch} if beside else {}
    if checkpoint not in best:
        raise ValueError(f"{run} has no checkpoint {checkpoint!r}; it has {', '.join(best)}")
    [*found] = (row for row in result.curve if row["epoch"] == best[checkpoint])
    if not found:
        raise ValueError(
            f"{run}: no validation of checkpoint {checkpoint!r} rose, so it took no step to repeat"
        )
    return Refit(run=str(run.absolute()), checkpoint=checkpoint, steps=int(found[0]["steps"]))


def _check_start(run: Path, held_out: Result, start: Start | None) -> None:
    begun, given = held_out.settings.goes_on_from, start.sha256 if start else ""
    if begun != given:
        began, asked = (f"weights {its:.12}" if its else "no other model" for its in (begun, given))
        raise ValueError(
            f"{run} went on from {began}, and its refit is to go on from {asked}: give it what the run was given"
        )


def _train(
    run: Path,
    held_out: Result,
    refit: Refit,
    dataset: Dataset,
    config: ModelConfig,
    folder: Path,
    report: Callable[[str], None],
    device: str,
    watch: Watch | None,
    start: Start | None,
    alone: Callable[[], None],
) -> Result:
    check_begun(folder)
    settings, start_s, has_own_peak = held_out.settings, time.perf_counter(), forget_peak_memory()
    arithmetic = arithmetic_of_run(settings, folder, device, recorded_arithmetic(run))
    origin, whole = provenance(device, arithmetic), dataset.whole()

    def begin() -> None:
        alone()
        check_begun_alike(folder, settings)
        write_listed_json(folder / SETTINGS, settings)

    steps = Steps(refit.steps, _steps_of_all(held_out, refit, dataset))
    training = (
        settings.optim,
        settings.protocol,
        steps,
        folder,
        report,
        device,
        watch,
        begin,
        arithmetic,
        start,
    )
    fitted = train_steps(whole, config, *training)
    _save(run, refit, held_out, whole, fitted, folder, report)
    progress = fitted.progress
    result = replace(
        held_out,
        refit=refit,
        beside=None,
        epochs=fitted.epochs,
        best_epoch=fitted.epochs,
        why_stopped=progress.why_stopped,
        train_tokens=progress.spent.tokens,
        train_flops=progress.spent.flops,
        train_wall_s=progress.spent.train_wall_s,
        train_cpu_s=progress.spent.train_cpu_s,
        wall_s=time.perf_counter() - start_s,
        peak_memory_mb=peak_memory_mb() if has_own_peak else None,
        curve=[],
        provenance=origin,
    )
    write_listed_json(folder / RESULT, result)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def _steps_of_all(held_out: Result, refit: Refit, dataset: Dataset) -> int:
    """Steps that the run might have taken, as it knew them at the checkpoint."""
    row = next(row for row in held_out.curve if int(row["steps"]) == refit.steps)
    spent = Spent(steps=refit.steps, tokens=int(row["tokens"]), flops=row["flops"])
    settings = held_out.settings
    plan = settings.protocol.plan(settings.parsed_layout, settings.model)
    per_epoch = num_steps(dataset, plan, settings.optim.users_per_step, settings.protocol)
    return Caps(settings.protocol).max_steps(Progress(spent=spent), per_epoch)


def _save(
    run: Path,
    refit: Refit,
    held_out: Result,
    whole: Dataset,
    fitted: Fitted,
    folder: Path,
    report: Callable[[str], None],
) -> None:
    """The model, and beside it what the checkpoint answered that the held-out rows were kept from."""
    if fitted.model.takes_counts:
        counts = load_model(run / of_checkpoint(MODEL, refit.checkpoint)).counts
        assert counts is not None, "a model that takes counts is saved with them"
        protocol, same_request = held_out.settings.protocol, held_out.settings.model.exposure.same_request
        before = Dataset.open(whole.folder)
        fitted.model.counts = counted_again(counts, before, whole, protocol, same_request)
        for line in fitted.model.counts.said:
            report(f"{MODEL}/: {line}")
    answers = answers_of_run(run, held_out, refit.checkpoint)
    save_answers(folder / ANSWERS, answers)
    if (run / of_checkpoint(WITHOUT_COUNTS, refit.checkpoint)).is_file():
        lists = held_out.settings.protocol.lists
        without = load_answers(run, held_out.actions, refit.checkpoint, lists, WITHOUT_COUNTS)
        save_answers(folder / WITHOUT_COUNTS, without)
    (folder / MODEL).mkdir(exist_ok=True)
    save_model(fitted.model, folder / MODEL)
    save_vocabulary(folder / MODEL, whole.items, columns_read(whole))
    protocol = held_out.settings.protocol
    record_histories(fitted.model, whole, protocol.recorded, protocol.seed, folder / MODEL)
