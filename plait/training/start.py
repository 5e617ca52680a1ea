"""A training that goes on from a trained model's weights, with other events and other items.

Shape letters: V rows of the item table (row 0 the unknown item), R rows of a table, C codes of a feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, assert_never, cast

import msgspec
import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from plait.data import Dataset
from plait.data.history import load_vocabulary
from plait.data.vocabulary import Vocabulary
from plait.evaluation.run_files import MODEL, SETTINGS, RunSettings, read_file
from plait.evaluation.settings import Optim, Protocol
from plait.files import sha256
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.saving import CONFIG, WEIGHTS, load_model
from plait.nn.encoders import learned_part
from plait.schema import (
    FIRST_VALUE,
    MISSING_VALUE,
    UNKNOWN_ITEM,
    UNSEEN_VALUE,
    Action,
    Categories,
    Category,
    Feature,
    FeatureKind,
    Keyed,
    Number,
    Statistic,
    Vector,
)
from plait.wording import differences, setting

SHAPE_NOTHING = "retrieval_weight", "action_weights", "counts"  # of the model's settings: they may differ


@dataclass(frozen=True, eq=False)
class Start:
    """A trained model, and its items: what a training goes on from."""

    model: GenerativeRecommender
    items: Vocabulary
    settings: RunSettings  # of its run; of a model without one, those that are known
    folder: Path
    sha256: str  # of its weights

    @classmethod
    def of(cls, run: Path) -> "Start":
        """Of a finished run, or of a saved model. Raises ValueError where there is none, or one that is not whole."""
        folder = run if (run / CONFIG).is_file() else run / MODEL
        model = load_model(folder)
        items, _ = load_vocabulary(folder)
        of_run, config = folder.parent / SETTINGS, model.config
        protocol = Protocol(max_events=config.max_events, window_step=config.window_step)
        settings = RunSettings(layout=config.layout, model=config.settings, protocol=protocol)
        if of_run.is_file():
            settings = read_file(of_run, RunSettings)
        return cls(model, items, settings, folder, sha256(folder / WEIGHTS))

    def config_for(self, config: ModelConfig) -> ModelConfig:
        """The configuration of a model that goes on from this one: actions stay in the units that it knows.

        A ranker may read late features or interests that this one does without, or leave out those that it reads.

        Raises:
            ValueError: the layout, the model's settings or the schema of the data are others; says what differs.
        """
        _check_reads_beside(self.model.config.settings, config.settings)
        unlike = differences(_shape(self.model.config), _shape(config.with_normaliser()))
        if unlike:
            raise ValueError(
                f"{self.folder} holds a model that this training cannot go on from:\n{unlike}\n"
                "Train with its layout and settings on a log that was prepared alike, or train anew."
            )
        return replace(config, actions=self.model.config.actions)

    @torch.no_grad()
    def into(self, model: GenerativeRecommender, dataset: Dataset) -> None:
        """Gives a new model the weights. Items and values of features are found by their spelling. What the trained
        model lacks starts as what it takes for a new one: of items, the vector of a new item beside their features, or
        the mean of all where there are no features. Of a matrix that reads more than before, what reads the new weighs
        nothing yet; of one that reads less, what is left stays: the answers begin as those that are known."""
        ids = dataset.item_ids()
        place_V = np.concatenate([[UNKNOWN_ITEM], self.items.index_of(ids)]).astype(np.int64)
        weights, found = model.state_dict(), self.model.state_dict()
        of_data = {
            name
            for name in weights
            if name in OF_DATA or (name.startswith("conditions.keyed.") and name.endswith(".vector_KW"))
        }
        moved = self._items(found, place_V) | self._codes(model, found)
        for name in weights.keys() - of_data:
            if name in found:  # a ranker that reads more has weights of its own for that
                weights[name].copy_(_as_wide(moved.get(name, found[name]), weights[name]))

    def _items(self, found: dict[str, Tensor], place_V: Int64[np.ndarray, " V"]) -> dict[str, Tensor]:
        moved = {}
        if IDS in found:
            fill = found[NEW_ITEM] if NEW_ITEM in found else found[IDS][UNKNOWN_ITEM + 1 :].mean(0)
            is_new_V = found.get(IS_NEW, torch.zeros(len(found[IDS]), dtype=torch.bool))
            moved[IDS] = _rows(found[IDS], place_V, is_new_V, fill)
            moved[IDS][UNKNOWN_ITEM] = found[IDS][UNKNOWN_ITEM]
        if LEARNED_BIAS in found:
            bias_V, is_new_V = found[LEARNED_BIAS], found["item_bias.is_new_V"]
            moved[LEARNED_BIAS] = _rows(
                bias_V, place_V, is_new_V, bias_V[found["item_bias.is_rare_V"]].mean()
            )
            moved[LEARNED_BIAS][UNKNOWN_ITEM] = bias_V[UNKNOWN_ITEM]
        return moved

    def _codes(self, model: GenerativeRecommender, found: dict[str, Tensor]) -> dict[str, Tensor]:
        before, after = self.model.config, model.config
        described = {
            "items.codes.table.weight": (before.item_features, after.item_features),
            "users.codes.table.weight": (before.user_features, after.user_features),
            "context.codes.table.weight": (before.context, after.context),
            "conditions.codes.table.weight": (
                [learned_part(feature) for feature in before.conditions],
                [learned_part(feature) for feature in after.conditions],
            ),
        }
        return {
            name: found[name][torch.from_numpy(rows_before(*features))]
            for name, features in described.items()
            if name in found
        }


def settings_from(
    start: Start | None,
    layout: str | None,
    model: ModelSettings,
    optim: Optim,
    protocol: Protocol,
    usual: ModelSettings = ModelSettings(),
    usual_protocol: Protocol = Protocol(),
) -> RunSettings:
    """What is given; where a training goes on from a run, with that run's layout and settings in place of defaults.

    Args:
        layout: in notation.
        usual, usual_protocol: what there is where nothing was given.
    """
    if start is None:
        return RunSettings(layout=layout or str(resolve("lac")), model=model, optim=optim, protocol=protocol)
    run = start.settings
    return RunSettings(
        layout=layout or run.layout,
        model=_filled(model, run.model, usual),
        optim=_filled(optim, run.optim, Optim()),
        protocol=_filled(protocol, run.protocol, usual_protocol),
    )


Settings = TypeVar("Settings", ModelSettings, Optim, Protocol)


def _filled(given: Settings, run: Settings, usual: Settings) -> Settings:
    """
    >>> _filled(Protocol(patience=3), Protocol(patience=5, max_epochs=7), Protocol()).cap
    '7 epochs'
    """
    return cast(Settings, _filled_value(given, run, usual))


def _filled_value(given: Any, run: Any, usual: Any) -> Any:
    if not is_dataclass(given):
        return run if given == usual else given
    names = [field.name for field in fields(given)]
    filled = {name: _filled_value(*(getattr(its, name) for its in (given, run, usual))) for name in names}
    return replace(run, **filled)


IDS, NEW_ITEM, IS_NEW, LEARNED_BIAS = (
    "items.embedding.weight",
    "items.new_item_D",
    "items.is_new_V",
    "item_bias.learned_V",
)
OF_DATA = (  # what a model takes over from the data before its first step
    *("items.code_VC", "items.vector_VX", IS_NEW),
    *("item_bias.popularity_V", "item_bias.is_new_V", "item_bias.is_rare_V"),
    *("item_interest_VW", "has_item_interest_V"),
)


def _rows(table: Tensor, place_V: Int64[np.ndarray, " V"], is_new: Tensor, fill: Tensor) -> Tensor:
    """The rows at these places; `fill` where the place is that of the unknown item, or of one without training."""
    place = torch.from_numpy(place_V).to(table.device)
    moved = table[place].clone()
    moved[(place == UNKNOWN_ITEM) | is_new.to(table.device)[place]] = fill
    return moved


def rows_before(before: Sequence[Feature], after: Sequence[Feature]) -> Int64[np.ndarray, " R"]:
    """For every row of a table of coded features, the row of the same value in a table of the same features as fitted
    on other data."""
    rows, first = [np.zeros(1, dtype=np.int64)], 1  # the padding's
    for old, new in zip(before, after, strict=True):
        rows.append(first + codes_before(old, new))
        first += old.num_codes
    return np.concatenate(rows)


def codes_before(before: Feature, after: Feature) -> Int64[np.ndarray, " C"]:
    """For every code of a feature, the code of the same value as fitted on other data; that of unseen ones where it has
    none. A bucket of numbers takes the one that its middle falls into.

    >>> drinks = [Feature("drink", Category(values)) for values in (("tea", "water"), ("coffee", "water"))]
    >>> codes_before(*drinks).tolist()
    [0, 1, 1, 3]
    """
    match before.kind, after.kind:
        case (Category(values=old), Category(values=new)) | (Categories(values=old), Categories(values=new)):
            code_of = {value: code for code, value in enumerate(old, FIRST_VALUE)}
            found = [code_of.get(value, UNSEEN_VALUE) for value in new]
        case Number(edges=old_edges), Number(edges=new_edges):
            found = (FIRST_VALUE + np.searchsorted(old_edges, _middles(new_edges), side="right")).tolist()
        case Vector(), Vector():
            return np.zeros(0, dtype=np.int64)
        case _:
            raise AssertionError("features of other kinds were refused")
    return np.array([MISSING_VALUE, UNSEEN_VALUE, *found], dtype=np.int64)


def _as_wide(known: Tensor, new: Tensor) -> Tensor:
    """A matrix with as many columns as another: what a ranker reads beside comes last.

    >>> _as_wide(torch.ones(1, 2), torch.zeros(1, 3)).tolist(), _as_wide(torch.ones(1, 2), torch.zeros(1, 1)).tolist()
    ([[1.0, 1.0, 0.0]], [[1.0]])
    """
    if known.shape == new.shape:
        return known
    assert known.ndim == new.ndim == 2 and len(known) == len(new), "only what is read beside may differ"
    wide, shared = torch.zeros_like(new), min(known.shape[1], new.shape[1])
    wide[:, :shared] = known[:, :shared]
    return wide


def _check_reads_beside(before: ModelSettings, after: ModelSettings) -> None:
    """Raises ValueError where a ranker reads other late features or interests than the one before: it may read some
    where that one read none, or none of them any more."""
    if not (before.ranker.is_on and after.ranker.is_on):
        return
    for name, (old, new) in {
        "model.late": (before.late, after.late),
        "model.ranker.interests": (before.ranker.interests, after.ranker.interests),
    }.items():
        none = type(old)()
        if old != new and none not in (old, new):
            raise ValueError(
                f"{setting(name, new)}, and the model that the training goes on from has {old}: expected the same, or "
                "none in one of the two; leave them out, or train anew"
            )
    told, mixes = (before.ranker.interests, after.ranker.interests), after.ranker.kind == "rankmixer"
    if told[0] != told[1] and mixes and before.ranker.kind == after.ranker.kind:
        raise ValueError(
            f"{setting('model.ranker.interests', told[1])}, and the model that the training goes on from has "
            f"{told[0]}: tokens of rankmixer are cut from all that it reads; expected the same, or train anew"
        )
    if before.late != after.late and after.tower.kind != "linear":
        raise ValueError(
            f"{setting('model.late', after.late)}, and the model that the training goes on from has {before.late}: "
            f"its tower, {setting('model.tower.kind', after.tower.kind)}, is made for as many; expected a linear one"
        )


def _middles(edges: tuple[float, ...]) -> list[float]:
    """A number in every bucket.

    >>> _middles((1.0, 2.0))[1:]
    [1.5, 2.0]
    """
    if not edges:
        return [0.0]
    inner = [(low + high) / 2 for low, high in pairwise(edges)]
    return [float(np.nextafter(edges[0], -np.inf)), *inner, edges[-1]]


def _shape(config: ModelConfig) -> dict[str, Any]:
    """What two models must share so that one can take the weights of the other, as plain values."""
    settings: dict[str, Any] = msgspec.to_builtins(config.settings)
    if config.settings.ranker.is_on:  # what it reads beside is held against the other's apart
        settings.pop("late")
        settings["ranker"].pop("interests")
    features = {
        "item_features": config.item_features,
        "user_features": config.user_features,
        "context": config.context,
        "conditions": config.conditions,
    }
    return {
        "layout": config.layout,
        "model": {name: value for name, value in settings.items() if name not in SHAPE_NOTHING},
        "protocol.max_events": config.max_events,
        "protocol.window_step": config.window_step,
        "asked as candidates": config.asked_as_candidates,
        "actions": {action.name: msgspec.to_builtins(_declared_action(action)) for action in config.actions},
        "order of actions": [action.name for action in config.actions],
        **{
            name: {feature.name: msgspec.to_builtins(_declared(feature)) for feature in its}
            for name, its in features.items()
        },
        **{f"order of {name}": [feature.name for feature in its] for name, its in features.items()},
    }


def _declared_action(action: Action) -> Action:
    return msgspec.structs.replace(action, kind=action.kind.unfitted())


def _declared(feature: Feature) -> Feature:
    """Without what preparation fits: but a vector's width is that of the weights."""
    return msgspec.structs.replace(feature, kind=_declared_kind(feature.kind))


def _declared_kind(kind: FeatureKind) -> FeatureKind:
    match kind:
        case Keyed(width=width, encoder=encoder):
            return Keyed(width=width, encoder=encoder)
        case Category():
            return Category()
        case Categories(separator=separator):
            return Categories(separator)
        case Statistic(buckets=buckets):
            return Statistic(buckets)
        case Number(buckets=buckets):
            return Number(buckets)
        case Vector(width=width):
            return Vector(None, width)
        case _:
            assert_never(kind)
