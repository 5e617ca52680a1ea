"""The line of everything that comparable results share."""

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import assert_never

from plait.data import Dataset, LeaveOneOut, SplitColumn, Temporal
from plait.data.facts import share
from plait.data.manifest import Split
from plait.evaluation.selection import Selection
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import Layout
from plait.models.generative import ModelSettings
from plait.nn.ranker_settings import settings_of_ranker

# Settings that the line tells in words of its own, or that change no result. Any other stands there by name where it
# differs from its default.
IN_WORDS = {
    "model": "retrieval_weight action_weights",
    "model.trunk": "kind dim num_layers num_heads positions dropout",
    "model.exposure": "same_request history time_anchor",
    "model.ranker": "kind recent_events top_k search category",
    "model.two_tower": "kind recent_events hidden",
    "model.retrieval": "kind l2_norm temperature",
    "model.tower": "kind gate",
    "model.late": "windows similar",
    "optim": "learning_rate schedule warmup_steps users_per_step precision",
    "protocol": "max_events window_step window patience select max_epochs max_tokens max_flops supervise "
    "candidate_requests sample requests_per_part asked_from_s filter_seen negatives rolling_history seed recorded",
}


def protocol_line(
    dataset: Dataset,
    model: ModelSettings,
    optim: Optim,
    protocol: Protocol,
    seeds: Sequence[int],
    layout: Layout | None = None,
) -> str:
    """Everything two results must share to be compared, and the seeds they were found with, in one line.

    Args:
        optim: with a definite precision.
        layout: whose result it is: some layouts read requests under settings under which others do not.
    """
    assert optim.precision != "auto", "the line says what matrices were multiplied in"
    note = note_on_requests(dataset, model, protocol, layout)
    parts = [
        *([dataset.manifest.note] if dataset.manifest.note else []),
        *_words_of_data(dataset),
        *_words_of_answers(dataset, model, protocol),
        *_words_of_conditions(dataset, layout),
        *_words_of_evaluation(model, protocol),
        *([note] if note else []),
        *_words_of_training(dataset, model, optim, protocol),
        *_other_settings(model, optim, protocol),
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}",
    ]
    return "; ".join(parts)


def note_on_requests(
    dataset: Dataset, model: ModelSettings, protocol: Protocol, layout: Layout | None = None
) -> str | None:
    """What to know where the settings or the layout read requests, and the log names none."""
    reads_requests = model.reads_requests or model.exposure.reads_requests
    reads_requests |= protocol.supervise == "candidates"
    if layout is not None:
        reads_requests |= protocol.plan(layout, model).reads_requests
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


def _words_of_answers(dataset: Dataset, model: ModelSettings, protocol: Protocol) -> list[str]:
    """What to know of the test's answers beside how the log was split."""
    found = []
    match dataset.manifest.split:
        case LeaveOneOut() if not protocol.rolling_history:
            pass  # a part has one event of a user
        case LeaveOneOut() | Temporal() | SplitColumn():
            found.append(_words_of_lists(model, protocol))
        case split:
            assert_never(split)
    if dataset.manifest.settings.time is not None and dataset.training_after_test:
        share_after = f"{100 * dataset.training_after_test:.2g} %"
        found.append(f"in the mean {share_after} of the training events happened after the test event")
    new, answers = dataset.new_answers
    if new:
        found.append(f"{share(new, answers)} of the test answers are items without a training event")
    return found


def _words_of_lists(model: ModelSettings, protocol: Protocol) -> str:
    """What a user's events of one part are asked from, and what they are answers to."""
    if not protocol.rolling_history:
        own_time = ", each asked about at its own time" if model.exposure.time_anchor != "current" else ""
        return (
            f"a user's events of a part are the answers to one list{own_time}, from what lay before the part"
        )
    match model.exposure.same_request:
        case "causal":
            one = "event"
        case "blind":
            one = "request"
        case _:
            assert_never(model.exposure.same_request)
    return f"histories roll on through a part: each {one} has a list of its own, from all that lay before it"


def _words_of_conditions(dataset: Dataset, layout: Layout | None) -> list[str]:
    """That answers are asked for under conditions, which tell of the answer."""
    if layout is None or "c" not in layout.fields:
        return []
    of_moment = [feature.name for feature in dataset.manifest.conditions]
    of_item = [f"{name} of the item" for name in dataset.item_conditions]
    return [f"condition known ({', '.join((*of_moment, *of_item))})"]


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
    time = "known where actions are predicted" if model.reads_time else "unknown"
    if exposure.time_anchor != "current":
        time = f"known (time_anchor = {exposure.time_anchor})"
    return [
        f"ranked against the {ranked}, seen items {seen}, ties count against the model",
        f"same_request = {exposure.same_request}, target time {time}"
        + (", history fully visible" if exposure.history == "full" else ""),
        f"T = {protocol.max_events} events, {protocol.window} window"
        + (f" that begins anew every S = {protocol.step} events" if protocol.step > 1 else ""),
    ]


def _words_of_training(dataset: Dataset, model: ModelSettings, optim: Optim, protocol: Protocol) -> list[str]:
    retrieval = model.retrieval.resolved(dataset.num_items)
    select = {
        Selection.EACH: "NDCG@10 for retrieval and normalised error for actions",
        Selection.AUTO: "NDCG@10 (loss of the actions where a layout does not retrieve)",
    }.get(protocol.select, protocol.select)
    last = "request" if protocol.candidate_requests == 1 else f"{protocol.candidate_requests} requests"
    asked = "every request" if protocol.candidate_requests > protocol.max_events else f"the last {last}"
    whose = "user" if protocol.sample == "part" else "window"
    candidates = f"{asked} of a {whose}, as candidates"
    supervised = f"every event of a window (where its token shows the answer: {candidates})"
    if protocol.supervise == "candidates":
        supervised = candidates
    return [
        _words_of_trunk(model),
        *_words_of_heads(dataset, model),
        f"retrieval loss {retrieval.kind} softmax, {'cosine' if retrieval.l2_norm else 'inner product'} / "
        f"{retrieval.temperature:g}",
        f"supervised on {supervised}"
        + _words_of_sample(protocol)
        + (
            ""
            if protocol.asked_from_s is None
            else f", from {protocol.asked_from_s} on; before, history alone"
        ),
        f"AdamW {optim.learning_rate:g} {optim.schedule}, {optim.warmup_steps} steps of warm-up, "
        f"{optim.users_per_step} users a step, {optim.precision}",
        f"selected by validation {select}, patience {protocol.patience}, cap {protocol.cap}",
    ]


def _words_of_sample(protocol: Protocol) -> str:
    """What is one sample, where that is not a user."""
    match protocol.sample:
        case "user":
            return ""
        case "part":
            return f", parts of {protocol.requests_per_part} requests as samples"
        case "event":
            return ", each a sample of its own"
        case _:
            assert_never(protocol.sample)


def _words_of_trunk(model: ModelSettings) -> str:
    trunk, ranker = model.trunk, model.ranker
    towers = model.two_tower
    if towers.is_on:
        layers = ", ".join(map(str, (*towers.hidden, trunk.dim)))
        return (
            f"two towers {towers.kind} d = {trunk.dim}, layers of {layers} in each, "
            f"the mean of the last {towers.recent_events} events"
        )
    if not ranker.is_on:
        return (
            f"trunk {trunk.kind} d = {trunk.dim}, {trunk.num_layers} layers, {trunk.num_heads} heads, "
            f"{trunk.positions} positions, dropout {trunk.dropout:g}"
        )
    read = settings_of_ranker(ranker.kind)
    heads = f", {trunk.num_heads} heads" if ranker.reads_time else ""
    shape = f"ranker {ranker.kind} d = {trunk.dim}{heads}, dropout {trunk.dropout:g}"
    search = f", {ranker.search} search" + (f" by {ranker.category}" if ranker.category else "")
    return (
        shape
        + (f", the last {ranker.recent_events} events" if "recent_events" in read else "")
        + (search if "search" in read else "")
        + (f" for {ranker.top_k} events" if "top_k" in read else "")
    )


def _words_of_heads(dataset: Dataset, model: ModelSettings) -> list[str]:
    """What enters beside items and actions, and what differs from the plain heads; nothing where nothing does."""
    manifest = dataset.manifest
    features = (*manifest.item_features, *manifest.user_features, *manifest.context)
    return [
        *([f"features {', '.join(feature.name for feature in features)}"] if features else []),
        *([] if model.two_tower.is_on else _words_of_actions(model)),
    ]


def _words_of_actions(model: ModelSettings) -> list[str]:
    """Of the heads that predict them. Two towers have none."""
    late = model.late
    counted = [f"the last {window} events" for window in late.windows]
    counted += [f"events of a like {late.similar}"] if late.similar else []
    weights = [f"{name} {weight:g}" for name, weight in sorted(model.action_weights.items())]
    return [
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


def changed(settings: object, name: str) -> Iterator[tuple[str, object]]:
    """The settings of a frozen dataclass, and of those inside it, that differ from their defaults: name and value.

    >>> list(changed(Protocol(window="random", seed=3), "protocol"))
    [('protocol.window', 'random'), ('protocol.seed', 3)]
    """
    for field in fields(settings):  # type: ignore[arg-type]
        factory = field.default_factory
        usual = field.default if factory is MISSING else factory()
        yield from _differing(getattr(settings, field.name), usual, f"{name}.{field.name}")


def _differing(value: object, usual: object, name: str) -> Iterator[tuple[str, object]]:
    if is_dataclass(value):
        for field in fields(value):
            of_field = getattr(value, field.name), getattr(usual, field.name)
            yield from _differing(*of_field, f"{name}.{field.name}")
    elif value != usual:
        yield name, value
