"""Where a result comes from: code, machine, date; and the line of everything that comparable results share."""

import datetime
import importlib.metadata
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import assert_never

import msgspec
import torch

from plait.data import Dataset, LeaveOneOut, SplitColumn, Temporal
from plait.data.manifest import Split
from plait.layouts import Layout
from plait.models.generative import ModelSettings
from plait.training.batches import asks_candidates
from plait.training.precision import resolve_precision
from plait.training.selection import Selection
from plait.training.settings import Optim, Protocol
from plait.training.unread import changed

# Settings that the line tells in words of its own. Any other stands there by name where it differs from its default.
IN_WORDS = {
    "model": "retrieval_weight action_weights",
    "model.trunk": "kind dim num_layers num_heads positions dropout",
    "model.exposure": "same_request history time_anchor",
    "model.retrieval": "kind l2_norm temperature",
    "model.tower": "kind gate",
    "model.late": "windows similar",
    "optim": "learning_rate schedule warmup_steps users_per_step precision",
    "protocol": "max_events window patience select max_epochs max_tokens max_flops supervise candidate_requests "
    "sample filter_seen negatives seed",
}


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """The code and the machine of a run; "" where it was not recorded, or (a commit) there was none."""

    version: str = ""  # of plait
    commit: str = ""
    machine: str = ""
    date: str = ""  # on which it ended

    def __str__(self) -> str:
        """In one line.

        >>> str(Provenance(version="1.2", commit="0a1b", machine="a processor, 2 threads", date="2030-01-31"))
        'plait 1.2, commit 0a1b, a processor, 2 threads, 2030-01-31'
        >>> str(Provenance())
        'not recorded'
        """
        parts = (self.version and f"plait {self.version}", self.commit and f"commit {self.commit}")
        return ", ".join(part for part in (*parts, self.machine, self.date) if part) or "not recorded"


def provenance(device: str) -> Provenance:
    """Of a run that ends now, on this machine's `device`."""
    return Provenance(
        version=importlib.metadata.version("plait"),
        commit=_commit(),
        machine=", ".join(
            [
                *([torch.cuda.get_device_name(device)] if torch.device(device).type == "cuda" else []),
                _processor(),
                f"{torch.get_num_threads()} threads",
                f"torch {torch.__version__}",
            ]
        ),
        date=datetime.date.today().isoformat(),
    )


def protocol_line(
    dataset: Dataset,
    model: ModelSettings,
    optim: Optim,
    protocol: Protocol,
    seeds: Sequence[int],
    device: str = "cpu",
    layout: Layout | None = None,
) -> str:
    """Everything two results must share to be compared, and the seeds they were found with, in one line.

    Args:
        layout: whose result it is: some layouts read requests under settings under which others do not.
    """
    note = note_on_requests(dataset, model, protocol, layout)
    parts = [
        *([dataset.manifest.note] if dataset.manifest.note else []),
        *_words_of_data(dataset),
        *_words_of_evaluation(model, protocol),
        *([note] if note else []),
        *_words_of_training(dataset, model, optim, protocol, device),
        *_other_settings(model, optim, protocol),
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}",
    ]
    return "; ".join(parts)


def note_on_requests(
    dataset: Dataset, model: ModelSettings, protocol: Protocol, layout: Layout | None = None
) -> str | None:
    """What to know where the settings or the layout read requests, and the log names none."""
    reads_requests = model.reads_requests or protocol.supervise == "candidates"
    if layout is not None:
        reads_requests |= asks_candidates(layout, model.exposure, protocol)
    if dataset.manifest.settings.request is not None or not reads_requests:
        return None
    return "no request column: events of one time count as one request"


def _words_of_data(dataset: Dataset) -> list[str]:
    settings = dataset.manifest.settings
    return [
        f"split {_words_of_split(dataset.manifest.split)}",
        f"users and items with at least {settings.min_user_events} and {settings.min_item_events} events",
        f"order (user, time, {settings.order or 'original order'})",
    ]


def _words_of_split(split: Split) -> str:
    match split:
        case LeaveOneOut():
            return "leave-one-out (last event = test, one before = validation)"
        case Temporal():
            return f"temporal (validation from {split.cut_validation_s}, test from {split.cut_test_s})"
        case SplitColumn():
            return f"by column {split.column} ({' / '.join(','.join(values) for values in split.values)})"
        case _:
            assert_never(split)


def _words_of_evaluation(model: ModelSettings, protocol: Protocol) -> list[str]:
    sampled = f"{protocol.negatives} sampled {'unseen ' if protocol.filter_seen else ''}items"
    ranked = sampled if protocol.negatives else "full catalogue"
    seen = "filtered (an answer seen before is a miss)" if protocol.filter_seen else "kept"
    exposure = model.exposure
    time = "known where actions are predicted" if model.trunk.reads_time else "unknown"
    if exposure.time_anchor != "current":
        time = f"known (time_anchor = {exposure.time_anchor})"
    return [
        f"ranked against the {ranked}, seen items {seen}, ties count against the model",
        f"same_request = {exposure.same_request}, target time {time}"
        + (", history fully visible" if exposure.history == "full" else ""),
        f"T = {protocol.max_events} events, {protocol.window} window",
    ]


def _words_of_training(
    dataset: Dataset, model: ModelSettings, optim: Optim, protocol: Protocol, device: str
) -> list[str]:
    trunk, retrieval = model.trunk, model.retrieval.resolved(dataset.num_items)
    select = "NDCG@10 (loss of the actions where a layout does not retrieve)"
    if protocol.select != Selection.AUTO:
        select = protocol.select
    last = "request" if protocol.candidate_requests == 1 else f"{protocol.candidate_requests} requests"
    candidates = f"the last {last} of a window, as candidates"
    supervised = f"every event of a window (where its token shows the answer: {candidates})"
    if protocol.supervise == "candidates":
        supervised = candidates
    return [
        f"trunk {trunk.kind} d = {trunk.dim}, {trunk.num_layers} layers, {trunk.num_heads} heads, "
        f"{trunk.positions} positions, dropout {trunk.dropout:g}",
        *_words_of_heads(dataset, model),
        f"retrieval loss {retrieval.kind} softmax, {'cosine' if retrieval.l2_norm else 'inner product'} / "
        f"{retrieval.temperature:g}",
        f"supervised on {supervised}" + (", each a sample of its own" if protocol.sample == "event" else ""),
        f"AdamW {optim.learning_rate:g} {optim.schedule}, {optim.warmup_steps} steps of warm-up, "
        f"{optim.users_per_step} users a step, {resolve_precision(optim.precision, device)}",
        f"selected by validation {select}, patience {protocol.patience}, cap {protocol.cap}",
    ]


def _words_of_heads(dataset: Dataset, model: ModelSettings) -> list[str]:
    """What enters beside items and actions, and what differs from the plain heads; nothing where nothing does."""
    manifest, late = dataset.manifest, model.late
    features = (*manifest.item_features, *manifest.user_features, *manifest.context)
    counted = [f"the last {window} events" for window in late.windows]
    counted += [f"events of a like {late.similar}"] if late.similar else []
    weights = [f"{name} {weight:g}" for name, weight in sorted(model.action_weights.items())]
    return [
        *([f"features {', '.join(feature.name for feature in features)}"] if features else []),
        *([f"late features of {', '.join(counted)}"] if counted else []),
        *([f"{model.tower.kind} tower"] if model.tower.kind != "mlp" else []),
        *([f"{model.tower.gate} gate"] if model.tower.gate != "none" else []),
        *([f"action weights {', '.join(weights)}"] if weights else []),
        *([f"retrieval weight {model.retrieval_weight:g}"] if model.retrieval_weight != 1 else []),
    ]


def _other_settings(model: ModelSettings, optim: Optim, protocol: Protocol) -> list[str]:
    """Those without words, by name, where they differ from their defaults."""
    sections = {"model": model, "optim": optim, "protocol": protocol}
    said = {f"{section}.{name}" for section, names in IN_WORDS.items() for name in names.split()}
    found = [setting for name, settings in sections.items() for setting in changed(settings, name)]
    return [f"{name} = {value}" for name, value in found if name not in said]


def _processor() -> str:
    """Its name where the kernel tells it (Linux), else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


@cache
def _commit() -> str:
    """The commit of the checkout that runs, as this process first saw it, with a mark where files had changed since;
    "" outside a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
        )
    except OSError:  # no git here
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
