"""What a model is made of: every weight starts, is trained, and decays by its role, whatever the layout."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conformance import Case, cases
from describing import describing_model
from tiny import (
    ACTIONS,
    MAX_EVENTS,
    NUM_ITEMS,
    assert_caught,
    assert_not_vacuous,
    batch_of,
    model_of,
    started,
    trunk_of,
)
from torch import nn

from plait.evaluation.settings import Optim
from plait.layouts import CATALOGUE, audit
from plait.models.combining import Combination, combinations
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.late import LateSettings
from plait.nn.initialising import Linear, normal
from plait.nn.towers import TowerConfig
from plait.schema import Action, Amount, Categorical, Feature, FeatureTable, Vector
from plait.training import optimiser
from plait.training.optimiser import make_optimiser, roles_of

BUILT: dict[tuple[str, str, str], Combination] = {}  # one way to expose each layout x trunk x positions
for each in combinations():
    if not each.problems:
        BUILT.setdefault((each.name, each.trunk, each.positions), each)

TOWERS = tuple(
    TowerConfig(kind=kind, gate=gate)
    for kind in ("linear", "mlp", "mmoe", "ple")
    for gate in ("none", "ppnet")
)


def built(name: str) -> Iterator[Case]:
    """A layout over every trunk with all positions, as it is first exposed; some with features, where it takes all."""
    blind_to_items = (
        "a" in CATALOGUE[name].layout.predicts and audit(CATALOGUE[name].layout).can_score == "no"
    )
    for (layout, _, positions), combination in BUILT.items():
        if layout == name:
            yield cases(combination, knows_features=positions == "learned" and not blind_to_items)[0]


def check_all_trained(case: Case) -> int:
    """One step gives every parameter a gradient: none is there that the layout does not read."""
    model = case.model.train()
    batch = case.told(batch_of((7, 9, 5)))
    model.total(model.losses(case.training(batch))).backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not without, f"{case.combination}: {without}"
    return len(list(model.parameters()))


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_parameter_of_a_layout_is_trained(name):
    met = [check_all_trained(case) for case in built(name)]
    assert_not_vacuous({"trunks": len(met), "parameters": min(met)}, above=2)


def test_features_that_are_all_vectors_leave_no_parameter_untrained():
    features = (Feature("text", Vector(width=3)),)
    combination = BUILT["lac", "gpt", "rope"]
    model = model_of(CATALOGUE["lac"].layout, item_features=features)
    check_all_trained(Case(combination, model, by_candidates=False))


def test_a_parameter_that_nothing_reads_is_caught():
    case = next(built("item"))
    case.model.heads = started(nn.ModuleList([Linear(2, 3, normal(0.02))]))
    assert_caught(check_all_trained, case)


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("item", {"actions", "heads", "specials.a"}),
        ("action_in", {"heads"}),
        ("action_out", {"actions", "specials.a"}),
        ("lac", set()),
    ],
)
def test_only_what_the_layout_reads_is_built(name, lacks):
    model = next(built(name)).model
    there = {name.split(".")[0] for name in model.state_dict()} | {f"specials.{f}" for f in model.specials}
    optional = {"items", "actions", "heads", "specials.i", "specials.a"}
    assert optional - there == lacks


def test_a_layout_without_items_holds_no_catalogue():
    config = ModelConfig(
        layout="a[t] -> a[t+1]",
        settings=ModelSettings(trunk=trunk_of()),
        num_items=NUM_ITEMS,
        actions=ACTIONS,
        max_events=MAX_EVENTS,
    )
    model = GenerativeRecommender(config)
    assert not any(name.startswith(("items.", "specials.i")) for name in model.state_dict())
    with pytest.raises(ValueError, match="reads no items"):
        model.with_items(
            FeatureTable((), np.zeros((1, 0), dtype=np.int32), np.zeros((1, 0), dtype=np.float32))
        )


def kinds_of_models() -> Iterator[GenerativeRecommender]:
    """Tokens of both kinds and rides over every trunk, heads of every tower over all kinds of actions, all features."""
    for name in ("interleaved", "lac_patched", "attn_dhn"):
        yield from (case.model for case in built(name))
    late = LateSettings(windows=(2,))
    for tower in TOWERS:
        settings = ModelSettings(trunk=trunk_of(), tower=tower, late=late)
        yield describing_model(CATALOGUE["pc"].layout, settings)
        config = ModelConfig(
            layout=str(CATALOGUE["lac"].layout),
            settings=settings,
            num_items=NUM_ITEMS,
            actions=(
                *ACTIONS,
                Action("watched", Amount(True, 3.0)),
                Action("how", Categorical(("a", "b", "c"))),
            ),
            max_events=MAX_EVENTS,
        )
        yield GenerativeRecommender(config)


def check_decay(model: GenerativeRecommender) -> set[str]:
    """Every parameter is in one group: what decays are all the matrices, but no table and no learned fact."""
    decayed, free = make_optimiser(model, Optim(weight_decay=0.5)).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.5, 0.0)
    all_ids = [id(weight) for group in (decayed, free) for weight in group["params"]]
    assert sorted(all_ids) == sorted(map(id, model.parameters()))
    tables = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    tables |= set(map(id, model.specials.values()))
    matrices = {id(weight) for weight in model.parameters() if weight.ndim > 1} - tables
    assert {id(weight) for weight in decayed["params"]} == matrices
    roles = roles_of(model)
    assert roles.keys() == dict(model.named_parameters()).keys()
    return set(roles.values())


def test_matrices_decay_and_nothing_else():
    met: dict[str, int] = {}
    for model in kinds_of_models():
        for role in check_decay(model):
            met[role] = met.get(role, 0) + 1
    assert_not_vacuous(met, above=40)
    assert met.keys() == {"matrix", "embedding", "bias", "norm"}


def test_heads_that_do_not_decay_are_caught(monkeypatch):
    right = optimiser._role
    heads = "weight_KD"
    monkeypatch.setattr(
        optimiser, "_role", lambda owner, name: "bias" if name == heads else right(owner, name)
    )
    assert_caught(check_decay, next(built("lac")).model)


def test_what_nobody_gave_a_role_is_noticed():
    with pytest.raises(AssertionError, match="PReLU owns weight, and nobody said whether it decays"):
        roles_of(nn.PReLU())


def check_all_started(model: GenerativeRecommender) -> None:
    """Every weight is NaN until it is drawn or loaded, and none afterwards; a seed gives one model, two give two."""
    bare = GenerativeRecommender(model.config)
    norms = {
        id(weight)
        for part in bare.modules()
        if isinstance(part, nn.LayerNorm)
        for weight in part.parameters()
    }
    assert all(weight.isnan().all() for weight in bare.parameters() if id(weight) not in norms)
    first, again = (list(started(GenerativeRecommender(model.config)).parameters()) for _ in range(2))
    assert all(weight.isfinite().all() for weight in first)
    assert all(map(torch.equal, first, again))
    other = started(GenerativeRecommender(model.config), seed=1).parameters()
    drawn = [(one, two) for one, two in zip(first, other, strict=True) if one.ndim > 1]
    assert drawn and not any(torch.equal(one, two) for one, two in drawn)


def test_every_weight_starts():
    met = 0
    for model in kinds_of_models():
        check_all_started(model)
        met += 1
    assert_not_vacuous({"models": met}, above=40)


def test_a_weight_that_is_forgotten_is_caught(monkeypatch):
    model = next(built("lac")).model
    monkeypatch.setattr(GenerativeRecommender, "init_weights", lambda self, generator: None)
    assert_caught(check_all_started, model)
