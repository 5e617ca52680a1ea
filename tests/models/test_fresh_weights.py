"""Every weight of a fresh model has the scale that is stated for it, whatever the model is made of.

What adds to the stream as it enters starts at 0.02, as GPT-2's tables do, so that every part counts alike at first.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from described import LATE
from tiny import ACTIONS, assert_caught, assert_not_vacuous, started
from torch import Tensor

from plait.layouts import resolve
from plait.models.building import built
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.questions import Exposure
from plait.nn.config import DLRM_V3, TrunkConfig
from plait.nn.ranker_settings import RankerSettings
from plait.nn.towers import TowerConfig
from plait.rankers.settings import layout_of
from plait.schema import FIRST_VALUE, Categories, Category, Feature, Number, Vector

LAYERS, CODE, FROZEN, DIM = 3, 16, 24, 32
NAMES = tuple(f"value {n}" for n in range(40))
FEATURES: Mapping[str, tuple[Feature, ...]] = {
    "item_features": (
        Feature("genre", Categories("|", NAMES, most=2)),
        Feature("year", Number(edges=tuple(map(float, range(9))))),
        Feature("text", Vector(width=FROZEN)),
    ),
    "user_features": (Feature("plan", Category(NAMES)),),
    "context": (Feature("device", Category(NAMES)),),
}


def fresh(
    layout: str,
    trunk: TrunkConfig,
    tower: TowerConfig = TowerConfig(),
    exposure: Exposure = Exposure(),
    **features: tuple[Feature, ...],
) -> GenerativeRecommender:
    late = LATE if tower.gate == "ppnet" else ModelSettings().late
    settings = ModelSettings(trunk=trunk, tower=tower, exposure=exposure, late=late)
    config = ModelConfig(
        layout=str(resolve(layout)),
        settings=settings,
        num_items=100,
        actions=ACTIONS,
        max_events=20,
        **features,
    )
    return started(GenerativeRecommender(config))


def models() -> list[GenerativeRecommender]:
    """Together they have every module."""
    gpt, hstu = (TrunkConfig(kind=kind, dim=DIM, num_layers=LAYERS, num_heads=2) for kind in ("gpt", "hstu"))
    at_end = Exposure(time_anchor="request")
    return [
        fresh("lac", gpt),
        fresh("pc", replace(hstu, positions="rab"), TowerConfig(kind="mmoe"), **FEATURES),
        fresh("attn_mvp", replace(gpt, positions="rab"), TowerConfig(kind="ple", gate="ppnet"), **FEATURES),
        fresh("attn_dhn", replace(gpt, positions="genrank")),
        fresh(
            "genrank", replace(hstu, positions="dlrm_v3", hstu=DLRM_V3), TowerConfig(kind="linear"), at_end
        ),
    ]


def rankers() -> list[GenerativeRecommender]:
    """One of every extractor."""
    trunk = TrunkConfig(dim=DIM, num_layers=LAYERS, num_heads=8)
    settings = ModelSettings(trunk=trunk, tower=TowerConfig(kind="linear"))
    extractors = [RankerSettings(kind=kind, hidden=(24, 40)) for kind in ("din", "dien", "sim", "twin")]
    extractors.append(RankerSettings(kind="rankmixer"))
    configs = [
        ModelConfig(
            layout=layout_of("actions"),
            settings=replace(settings, ranker=each),
            num_items=100,
            actions=ACTIONS,
            max_events=20,
        )
        for each in extractors
    ]
    return [started(built(config)) for config in configs]


@dataclass(frozen=True)
class Drawn:
    """Numbers of this standard deviation about 0, in all rows but some that are 0."""

    std: float
    num_zero_rows: int = 0

    def check(self, name: str, weight: Tensor) -> None:
        if self.num_zero_rows:
            is_zero = (weight == 0).all(1)
            assert int(is_zero.sum()) == self.num_zero_rows, name
            weight = weight[~is_zero]
        error = self.std / math.sqrt(2 * weight.numel())  # of a standard deviation that is estimated
        assert abs(weight.square().mean().sqrt().item() - self.std) < 5 * error, name


@dataclass(frozen=True)
class Constant:
    value: float

    def check(self, name: str, weight: Tensor) -> None:
        assert (weight == self.value).all(), name


def stated(kind: str, weight: Tensor) -> list[tuple[str, Drawn | Constant]]:
    """By the parameter's name; the first pattern that fits it holds."""
    table, unlearned = Drawn(0.02), FIRST_VALUE  # codes of every feature: missing and unseen values
    residual = Drawn(0.02 / math.sqrt(2 * LAYERS))  # of so many branches, which add up in the stream
    glorot, he = Drawn(math.sqrt(2 / sum(weight.shape))), Drawn(math.sqrt(2 / weight.shape[-1]))
    keeps_scale = Drawn(weight.shape[-1] ** -0.5)
    return [
        ("*norm.weight", Constant(1.0)),
        ("*.bias", Constant(0.0)),
        ("*.bias_?h_l0", Constant(0.0)),
        ("*heads.bias_K", Constant(0.0)),
        ("*.alpha_W", Constant(0.0)),
        ("extractor.attention.beta.weight", Drawn(1.0)),
        ("extractor.*.gaps.weight", table),
        ("extractor.*.weight*", keeps_scale),
        ("*layers.*.weight", he),
        ("items.embedding.weight", Drawn(0.02, num_zero_rows=1)),
        ("items.codes.*", Drawn(0.02, num_zero_rows=1 + 2 * unlearned)),
        ("users.codes.*", Drawn(0.02, num_zero_rows=1 + unlearned)),
        ("context.codes.*", Drawn(0.02, num_zero_rows=1 + unlearned)),
        ("trunk.positions.learned.*", glorot if kind == "hstu" else table),
        ("*.attention_out.weight", residual),
        ("*.mlp_out.weight", residual),
        ("trunk.pooling.value.weight", keeps_scale),
        ("trunk.pooling.out.weight", keeps_scale),
        ("trunk.blocks.*.out.weight", glorot),
        ("heads.tower.*experts.weight", he),
        ("heads.tower.hidden.weight", he),
        ("heads.tower.*_gate.inner.weight", he),
        *((pattern, table) for pattern in TABLES),
    ]


TABLES = (
    "items.new_item_D",
    "actions.table.weight",
    "specials.[ia]",
    "trunk.positions.requests.*",
    "trunk.positions.moment.*",
    "*.bias.position_P",
    "*.bias.time_P",
    "*.qkv.weight",
    "*.uvqk.weight",
    "trunk.pooling.qk.weight",
    "*.mlp_in.weight",
    "couplers.*.inner.weight",
    "couplers.*.outer.weight",
    "*heads.weight_KD",
    "heads.tower.shared.0.weight",
    "heads.tower.*gate*.weight",
)


def check_scales(model: GenerativeRecommender) -> Counter[str]:
    """How many weights each pattern was about."""
    met: Counter[str] = Counter()
    for name, weight in model.named_parameters():
        if name == "items.project.weight":
            check_projection(weight)
            continue
        rules = [
            rule for rule in stated(model.config.settings.trunk.kind, weight) if fnmatchcase(name, rule[0])
        ]
        assert rules, f"{name}: no scale is stated for it"
        pattern, scale = rules[0]
        scale.check(name, weight.detach())
        met[pattern] += 1
    return met


def check_projection(weight: Tensor) -> None:
    """Each part of an item's description alone gives a vector as large as an id's: what is learned starts at 0.02,
    what is frozen has length 1."""
    learned = DIM + 2 * CODE
    Drawn(learned**-0.5).check("of learned vectors", weight.detach()[:, :learned])
    Drawn(0.02).check("of frozen vectors", weight.detach()[:, learned:])


def test_every_fresh_weight_has_its_stated_scale() -> None:
    met = sum(map(check_scales, [*models(), *rankers()]), Counter())
    assert_not_vacuous({pattern: met[pattern] for pattern, _ in stated("gpt", torch.ones(1, 1))})


def check_is_caught(model: GenerativeRecommender, parameter: Tensor, factors: tuple[float, ...]) -> None:
    right = parameter.detach().clone()
    for factor in factors:
        parameter.data.copy_(right * factor if right.any() else right + factor)
        assert_caught(check_scales, model)
    parameter.data.copy_(right)


def test_a_weight_of_another_scale_is_caught() -> None:
    """Every weight in turn, a quarter or four times as large, or away from 0 where it should start there."""
    for model in models():
        for parameter in model.parameters():
            check_is_caught(model, parameter, (0.25, 4.0))


def test_a_weight_of_an_extractor_that_is_too_large_is_caught() -> None:
    """Some matrices are too small to tell what is less."""
    for model in rankers():
        for name, parameter in model.named_parameters():
            if name.startswith("extractor."):
                check_is_caught(model, parameter, (4.0,))
