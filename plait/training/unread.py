"""Settings that differ from their defaults, and those among them that nothing reads.

What other settings or the data leave unread is refused. What only the layout leaves unread is said and no more:
`plait compare` trains many layouts under the same settings, and some are meant for one of them.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple, get_args

from plait.evaluation.protocol_line import changed
from plait.evaluation.settings import Protocol
from plait.models.generative import ModelConfig
from plait.nn.config import TrunkConfig, TrunkKind, settings_of_kind
from plait.nn.losses import RetrievalLoss
from plait.nn.ranker_settings import RankerKind, RankerSettings, settings_of_ranker
from plait.wording import setting

# Not the bias: verbs choose it for every layout (`plait.cli.verb_settings`), and nobody has to hear of it.
_LOSS_OF_ITEMS = tuple(
    f"model.retrieval.{field.name}" for field in fields(RetrievalLoss) if field.name != "item_bias"
)

_OF_TRUNK = tuple(
    f"model.trunk.{field.name}"
    for field in fields(TrunkConfig)
    if field.name not in ("dim", "num_heads", "dropout")
)


def check_read(config: ModelConfig, protocol: Protocol) -> None:
    """Raises ValueError where a setting was changed that no layout would read under the others and with this data."""
    readers = [*_by_choice(config, protocol), *_by_data(config)]
    for problem in _unread(config, protocol, readers):
        raise ValueError(f"{problem}; leave it out")


def notes_on_unread(config: ModelConfig, protocol: Protocol) -> list[str]:
    """The settings that were changed and that this layout does not read, a line each."""
    return [f"not read: {problem}" for problem in _unread(config, protocol, _by_layout(config, protocol))]


class _Reader(NamedTuple):
    """What reads some settings. "model.tower" stands for all settings of a tower."""

    reads: bool
    settings: tuple[str, ...]
    who: str
    found: str  # instead


def _unread(config: ModelConfig, protocol: Protocol, readers: list[_Reader]) -> Iterator[str]:
    for name, value in (*changed(config.settings, "model"), *changed(protocol, "protocol")):
        for reader in readers:
            if not reader.reads and any(f"{name}.".startswith(f"{read}.") for read in reader.settings):
                yield f"{setting(name, value)}: is read by {reader.who} alone, and {reader.found}"
                break


def _by_choice(config: ModelConfig, protocol: Protocol) -> list[_Reader]:
    """Where one setting decides whether another is read."""
    trunk, tower, items = config.settings.trunk, config.settings.tower, config.settings.items
    ranker = config.settings.ranker
    kind, experts = f"here it is {trunk.kind}", f"here it is {tower.kind}"
    shared = "model.tower.num_shared_experts", "model.tower.expert_multiple"
    own = "model.tower.num_task_experts", "model.tower.num_levels"
    return [
        *(
            _Reader(
                trunk.kind == each,
                tuple(f"model.trunk.{name}" for name in settings_of_kind(each)),
                setting("model.trunk.kind", each),
                kind,
            )
            for each in get_args(TrunkKind)
        ),
        _Reader(
            config.settings.two_tower.is_on or not [*changed(config.settings.two_tower, "")],
            ("model.two_tower",),
            setting("model.two_tower.kind", "ebr"),
            "here it is none",
        ),
        _Reader(
            not config.settings.two_tower.is_on,
            (*_OF_TRUNK, "model.trunk.num_heads", "model.trunk.dropout"),
            setting("model.two_tower.kind", "none"),
            f"here it is {config.settings.two_tower.kind}",
        ),
        _Reader(
            not ranker.is_on, _OF_TRUNK, setting("model.ranker.kind", "none"), f"here it is {ranker.kind}"
        ),
        _Reader(
            not ranker.is_on or ranker.reads_time,
            ("model.trunk.num_heads",),
            f"a trunk, sim or twin ({setting('model.ranker.kind')})",
            f"here it is {ranker.kind}",
        ),
        *(
            _Reader(
                name in settings_of_ranker(ranker.kind),
                (f"model.ranker.{name}",),
                f"{_either_kind(name)} ({setting('model.ranker.kind')})",
                f"here it is {ranker.kind}",
            )
            for name in (field.name for field in fields(RankerSettings))
            if name != "kind"
        ),
        _Reader(tower.mixes_experts, shared, f"{setting('model.tower.kind', 'mmoe')} or ple", experts),
        _Reader(tower.kind == "ple", own, setting("model.tower.kind", "ple"), experts),
        _Reader(
            items.use_id, ("model.items.id_dropout",), setting("model.items.use_id", True), "here it is False"
        ),
        _Reader(
            protocol.selection.is_each,
            ("protocol.deploy", "protocol.judge"),
            setting("protocol.select", "each"),
            f"here it is {protocol.select}",
        ),
        _Reader(
            protocol.sample == "part",
            ("protocol.requests_per_part",),
            setting("protocol.sample", "part"),
            f"here it is {protocol.sample}",
        ),
        # A sample of one event has the history before that event, wherever it lies.
        _Reader(
            protocol.sample != "event",
            ("protocol.window",),
            setting("protocol.sample", "user"),
            "here it is event",
        ),
    ]


def _either_kind(name: str) -> str:
    """The rankers that read one of their settings.

    >>> _either_kind("top_k"), _either_kind("recent_events")
    ('sim or twin', 'din, dien, sim, twin or rankmixer')
    """
    kinds = [kind for kind in get_args(RankerKind) if name in settings_of_ranker(kind)]
    return " or ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))


def _by_data(config: ModelConfig) -> list[_Reader]:
    """Where the data decides."""
    features, retrieval = config.item_features, config.settings.retrieval
    kind = retrieval.resolved(config.num_items).kind
    coded = any(feature.num_columns for feature in features)
    found = (
        f"for {config.num_items:,} items auto is {kind}" if retrieval.kind == "auto" else f"here it is {kind}"
    )
    of_sampled = "model.retrieval.num_negatives", "model.retrieval.sampler"
    sampled = setting("model.retrieval.kind", "sampled")
    return [
        _Reader(kind == "sampled", of_sampled, sampled, found),
        _Reader(kind != "full", ("model.retrieval.log_q",), f"{sampled} or info_nce", found),
        _Reader(bool(features), ("model.items",), "items with features", "the data has no item features"),
        _Reader(
            coded, ("model.items.feature_dim",), "categories and numbers", "all item features are vectors"
        ),
        _Reader(bool(config.actions), ("model.tower",), "heads of actions", "the data has no actions"),
    ]


def _by_layout(config: ModelConfig, protocol: Protocol) -> list[_Reader]:
    """Where only the layout decides."""
    layout = config.parsed_layout
    asks = protocol.plan(layout, config.settings).asks_candidates
    of_items = *_LOSS_OF_ITEMS, "model.retrieval_weight", "protocol.negatives", "protocol.filter_seen"
    of_actions = "model.tower", "model.late", "model.action_weights"
    mixed, pooled = "values" in layout.rides, "pool" in layout.rides
    none = f"layout '{layout}' has none"
    return [
        _Reader(mixed, ("model.trunk.ride_weight",), "mixed values (AttnMVP)", none),
        _Reader(pooled, ("model.trunk.pool_fuses_item",), "late fusion, a final pooling of actions", none),
        _Reader("i" in layout.predicts, of_items, "predicted items", none),
        _Reader(
            {"i", "a"} <= set(layout.predicts),
            ("protocol.deploy", "protocol.judge"),
            "predicted items beside predicted actions",
            none,
        ),
        _Reader("a" in layout.predicts, of_actions, "predicted actions", none),
        _Reader(
            asks,
            ("protocol.candidate_requests", "protocol.sample", "protocol.requests_per_part"),
            f"candidates ({setting('protocol.supervise', 'candidates')})",
            none,
        ),
    ]
