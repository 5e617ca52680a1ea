"""The generative recommender: any layout over any trunk, one set of weights for retrieval and scoring.

Shape letters: E events, A action columns, N tokens, M questions, S negatives, R rows, L slots of a row, C cells (the
slots of all rows), D width, W width at which states and items are compared, P special facts and events (what sources
point into), V items of the catalogue (with row 0 for unknown items).
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Literal, assert_never

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from plait.counts.beside import Counts
from plait.layouts import Layout
from plait.layouts.arrange import MASK, NOTHING, SPECIALS, START
from plait.layouts.audit import reader
from plait.layouts.facts import Field, Target
from plait.limits import WEIGHT, WIDTH, check_numbers
from plait.models.combining import check_supported
from plait.models.counted_actions import with_counts
from plait.models.inputs import Counting, Inputs, LaterInputs, Questions
from plait.models.late import LateSettings, LateStatistics, check_late
from plait.models.questions import Exposure, QuestionPlan
from plait.nn.cached import Keeping, OverKeys
from plait.nn.config import TINY, TrunkConfig
from plait.nn.encoded import Encoded
from plait.nn.encoders import ActionEncoder, FeatureEncoder, ItemEncoder, ItemEncoding, ItemVectors
from plait.nn.heads import ActionHeads, Coupler
from plait.nn.initialising import Linear, normal, unset
from plait.nn.item_bias import ItemBias
from plait.nn.losses import RetrievalLoss, retrieval_loss
from plait.nn.precision import Multiplied
from plait.nn.ranker_settings import RankerSettings
from plait.nn.read import Read
from plait.nn.sampling import Sampler
from plait.nn.towers import TowerConfig
from plait.nn.trunk import Trunk
from plait.nn.two_tower import TwoTowerSettings
from plait.nn.watched import Watching
from plait.schema import Action, Feature, FeatureTable, code_columns
from plait.window_rule import WindowRule

TASKS = (
    "retrieval",
    "actions",
    "auxiliary",
)  # names of losses beside those of the actions: of the items, of all actions, and a ranker's own
LEARNED = (START, MASK)  # the special facts that have an embedding; NOTHING adds zero
assert (NOTHING, *LEARNED) == (0, 1, 2), "sources point into [zero, start, mask, events...]"


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What a user chooses of a recommender, beside its layout."""

    trunk: TrunkConfig = TINY
    exposure: Exposure = Exposure()
    retrieval: RetrievalLoss = RetrievalLoss()
    tower: TowerConfig = TowerConfig()
    items: ItemEncoding = ItemEncoding()
    late: LateSettings = LateSettings()
    ranker: RankerSettings = RankerSettings()
    two_tower: TwoTowerSettings = TwoTowerSettings()
    counts: Literal["none", "auto"] = "none"
    """Whether what counting knows is added to what is predicted, after training. auto: as far as the validation says
    that it helps. Not in training, where the network would overfit what counts leave."""
    retrieval_weight: Annotated[float, WEIGHT] = 1.0
    """Weight of the next item's loss; 0 trains actions alone."""
    action_weights: Annotated[dict[str, float], WEIGHT] = field(default_factory=dict)
    """By action name; 1 where not named."""
    interest_dim: Annotated[int | None, WIDTH] = None
    """Width at which a state and an item are compared, each projected to it; by default the trunk's, unprojected."""
    allow_leaks: bool = False
    """Train a layout that reads its own answers, to study it; every table marks it."""

    def __post_init__(self) -> None:
        check_numbers("model.", self)

    def window(self, max_events: int, window_step: int) -> WindowRule:
        """The windows of a protocol as such models read them: where positions know requests, they begin with one."""
        return WindowRule(max_events, window_step, opens_with_request=self.reads_requests)

    @property
    def reads_time(self) -> bool:
        """Whether it matters when events happened, a candidate's own among them."""
        if self.ranker.is_on:
            return self.ranker.reads_time
        return self.has_trunk and self.trunk.reads_time

    @property
    def reads_requests(self) -> bool:
        """Whether positions depend on which events were exposed together."""
        return self.trunk.reads_requests and self.has_trunk

    @property
    def has_trunk(self) -> bool:
        """Whether neither a ranker nor two towers stand in its place."""
        return not (self.ranker.is_on or self.two_tower.is_on)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Layout and settings, and what follows from the data and the protocol: all that shapes the weights, and how
    they were trained to be asked."""

    layout: str  # in notation
    settings: ModelSettings
    num_items: int
    actions: tuple[Action, ...]
    max_events: int  # T; the trunk's positions follow from it, the layout and S
    item_features: tuple[Feature, ...] = ()  # as fitted in preparation, all three
    user_features: tuple[Feature, ...] = ()
    context: tuple[Feature, ...] = ()
    conditions: tuple[
        Feature, ...
    ] = ()  # those of the moment, then those of items; none where the layout shows none
    item_conditions: tuple[str, ...] = ()  # those of items, by name
    asked_as_candidates: bool = False
    """Trained to answer from what lay before a request, by choice: layouts that allow nothing else are so anyway."""
    arithmetic: Multiplied | None = None
    """What matrices were multiplied in when it was trained and tested; None where that was not recorded."""
    window_step: int = 1  # S: windows begin anew every so many events
    told_conditions: tuple[str, ...] = ()
    """Of a ranker that reads interests: under which conditions those were that it was trained with, in their order."""
    told_version: str = ""
    """The version of the user model that they were of."""

    def __post_init__(self) -> None:
        for action in self.actions:
            if action.name in TASKS:
                raise ValueError(
                    f"action {action.name!r} has the name of a loss of Plait's own; rename the column"
                )
        unknown = sorted(set(self.settings.action_weights) - {action.name for action in self.actions})
        if unknown:
            raise ValueError(
                f"model.action_weights names {unknown[0]!r}; the data's actions are "
                f"{', '.join(action.name for action in self.actions) or 'none'}"
            )
        self._check_trained()

    @cached_property
    def parsed_layout(self) -> Layout:
        return Layout.parse(self.layout, allow_leaks=self.settings.allow_leaks)

    @property
    def plan(self) -> QuestionPlan:
        """How the model is asked."""
        return QuestionPlan(
            layout=self.parsed_layout,
            window=self.settings.window(self.max_events, self.window_step),
            exposure=self.settings.exposure,
            supervise="candidates" if self.asked_as_candidates else "all",
        )

    @property
    def num_positions(self) -> int:
        """Tokens of the longest sequence of one user."""
        plan = self.plan
        return plan.layout.tokens_per_event * plan.window.longest + plan.tokens_to_come

    def with_normaliser(self) -> "ModelConfig":
        """What the weights of attention are divided by in an hstu trunk is part of the model. Where nobody chose it, it
        is the number of positions: of models that were saved without it, too."""
        trunk = self.settings.trunk.with_normaliser(self.num_positions)
        return (
            self
            if trunk == self.settings.trunk
            else replace(self, settings=replace(self.settings, trunk=trunk))
        )

    def _check_trained(self) -> None:
        """Raises ValueError where nothing that the layout predicts has a weight."""
        layout = self.parsed_layout
        weights = [self.settings.retrieval_weight] if "i" in layout.predicts else []
        if "a" in layout.predicts:
            weights += [self.settings.action_weights.get(action.name, 1.0) for action in self.actions]
        if weights and not any(weights):
            raise ValueError(
                f"layout '{layout}' is trained for nothing: all that it predicts has weight 0; raise "
                f"model.{'retrieval_weight' if 'i' in layout.predicts else 'action_weights'}, or leave the layout out"
            )


class GenerativeRecommender(nn.Module):
    """Event encoders, a trunk, and a head for every target of the layout: what it reads, and nothing else. Its weights
    wait for `initialised`, or for those of a saved model.

    Raises:
        ValueError: the layout asks for something this model does not carry, and what to use instead.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        settings, layout = config.settings, config.parsed_layout
        check_supported(layout, config.actions, settings.trunk, settings.exposure, config.conditions)
        check_late(settings.late, layout, config.actions, config.item_features, config.max_events)
        config = config.with_normaliser()
        settings = config.settings
        self.config = config
        self.layout = layout
        self.plan = config.plan
        dim = settings.trunk.dim
        embedded = layout.embedded
        self.items: ItemEncoder | None = None
        if "i" in layout.fields:
            self.items = ItemEncoder(config.num_items, dim, config.item_features, settings.items)
        self.users = FeatureEncoder(config.user_features, dim) if config.user_features else None
        has_context = bool(config.context) and "i" in embedded  # it comes with an item
        self.context = FeatureEncoder(config.context, dim) if has_context else None
        self.conditions = FeatureEncoder(config.conditions, dim) if "c" in embedded else None
        self.actions = ActionEncoder(config.actions, dim) if "a" in embedded else None
        self.specials = nn.ParameterDict({field: unset(len(LEARNED), dim) for field in sorted(embedded)})
        if settings.has_trunk:
            self.trunk = Trunk(settings.trunk, config.num_positions, layout.rides)
        self.heads: ActionHeads | None = None
        if "a" in layout.predicts:
            num_late = settings.late.num_features(config.actions)
            width = settings.ranker.state_width if settings.ranker.is_on else dim
            self.heads = ActionHeads(config.actions, width, settings.tower, num_late)
        self.retrieval = settings.retrieval.resolved(config.num_items)
        self.state_interest: Linear | None = None
        self.item_interest: Linear | None = None
        interest_dim = settings.interest_dim
        if interest_dim is not None and interest_dim != dim and "i" in layout.predicts:
            self.state_interest, self.item_interest = (
                Linear(dim, interest_dim, normal(dim**-0.5), bias=False) for _ in range(2)
            )
        self.item_bias: ItemBias | None = None
        if self.retrieval.item_bias != "none" and "i" in layout.predicts:
            self.item_bias = ItemBias(config.num_items, self.retrieval.item_bias)
        self.counts: Counts | None = (
            None  # beside the model; set after training where settings.counts asks for them
        )
        self.sampler: Sampler | None = None  # of negatives; training sets it where the loss needs one
        self.couplers = nn.ModuleDict(
            {_key(t): nn.ModuleList(Coupler(dim) for _ in t.given) for t in layout.targets if t.given}
        )

    def init_weights(self, generator: torch.Generator) -> None:
        for special in self.specials.values():
            nn.init.normal_(special, std=0.02, generator=generator)

    def forward(self, inputs: Inputs) -> list[Float[Tensor, "M D"]]:
        """For every question of the inputs, the state its head reads: after the trunk and the couplers."""
        return self._states(inputs, None)

    def encoded(self, histories: Inputs) -> Encoded:
        """What later events need of histories (`history_inputs`)."""
        x_RLD, action_RLD = self._embedded(histories, self._facts(histories, None))
        where, read = Keeping.of(self.trunk.where(histories.segments), histories.cell_N), histories.read
        last = None if read is None else where.reading(read)
        hidden_rlD = self.trunk.through(x_RLD, action_RLD, where, last)
        length_U = torch.bincount(histories.user_N, minlength=len(histories.user_code_UK)).cpu().numpy()
        return where.encoded(hidden_rlD, np.concatenate([[0], np.cumsum(length_U)]), read)

    def watched(self, inputs: Inputs, slot_R1: Int64[Tensor, "R 1"]) -> Watching:
        """A forward pass in which one slot of every row is watched: what it gives to the others (`Watching`)."""
        x_RLD, action_RLD = self._embedded(inputs, self._facts(inputs, None))
        where = Watching.of(self.trunk.where(inputs.segments), slot_R1)
        self.trunk.through(x_RLD, action_RLD, where)
        return where

    def answered(self, later: LaterInputs, encoded: Encoded) -> list[Float[Tensor, "M D"]]:
        """As `forward`, of events that come after encoded histories (`candidate_inputs`)."""
        inputs = later.inputs
        facts, hidden_CD = self._facts(inputs, None), encoded.hidden_SD
        if not later.reads_history:
            x_RLD, action_RLD = self._embedded(inputs, facts)
            hidden_CD = self.trunk.through(x_RLD, action_RLD, self._over(later, encoded)).flatten(0, 1)
        return [self._state(questions, hidden_CD, facts) for questions in inputs.questions]

    def followed(
        self, later: LaterInputs, encoded: Encoded, room_U: Int64[np.ndarray, " U"] | None = None
    ) -> Encoded:
        """Histories that go on with one event each (`next_inputs`).

        Args:
            room_U: how many tokens of each there shall be room for, where keys have to be copied; by default no more.
        """
        inputs = later.inputs
        x_RLD, action_RLD = self._embedded(inputs, self._facts(inputs, None))
        where = Keeping.of(self._over(later, encoded), inputs.cell_N)
        hidden_RLD = self.trunk.through(x_RLD, action_RLD, where)
        own_B1 = np.concatenate([[0], np.cumsum(later.lists.count_B * later.lists.num_own)])
        more = where.encoded(hidden_RLD, own_B1)
        return encoded.followed_by(more, encoded.length_U if room_U is None else room_U)

    def _over(self, later: LaterInputs, encoded: Encoded) -> OverKeys:
        segments = later.inputs.segments
        return OverKeys.of(encoded, later.lists, segments, self.trunk.angles(segments), self.trunk.slopes_N)

    @property
    def reads_requests(self) -> bool:
        """Whether it matters to the model which events were exposed together."""
        return self.config.settings.reads_requests or self.plan.reads_requests

    def losses(self, inputs: Inputs) -> dict[str, Float[Tensor, ""]]:
        """Mean loss per task, unweighted: "retrieval" and one for every action. A task without a label is 0."""
        losses: dict[str, Tensor] = {}
        negative_S, items = self._items_of_step(inputs)
        bias_V = self.bias_of_items()
        for questions, state_MD in zip(inputs.questions, self._states(inputs, items), strict=True):
            match questions.target.fact.field:
                case "i":
                    assert items is not None, "a layout that predicts items reads them"
                    items = ItemVectors(self.compared(items.vector_UD, items.item_U), items.item_U)
                    item_M = inputs.item_E[questions.label_M]
                    losses["retrieval"] = retrieval_loss(
                        self.retrieval, state_MD, items, item_M, self.sampler, negative_S, bias_V
                    )
                case "a":
                    assert self.heads is not None, "a layout that predicts actions has heads"
                    label_MA = inputs.action_EA[questions.label_M]
                    losses.update(self.heads.losses(state_MD, label_MA, questions.late_MF))
                case "c":
                    raise AssertionError("a layout that predicts conditions is refused")
                case field:
                    assert_never(field)
        return losses

    def _items_of_step(self, inputs: Inputs) -> tuple[Int64[Tensor, " S"] | None, ItemVectors | None]:
        """The negatives that retrieval is trained against, and the vectors of all items that the step names: the
        batch's and those, or the whole catalogue where the loss compares with it. None where the layout reads none."""
        if self.items is None:
            return None, None
        negative_S = None
        if any(each.target.fact.field == "i" for each in inputs.questions):
            if self.retrieval.kind == "full":
                return None, self.items.vectors()
            negative_S = self.retrieval.draw_negatives(self.sampler)
        named = [inputs.item_E] if negative_S is None else [inputs.item_E, negative_S]
        return negative_S, self.items.vectors(torch.cat(named))

    def total(self, losses: dict[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The weighted sum that training minimises (LAC paper, table 4 varies these weights)."""
        return torch.stack(list(self.weighted(losses).values())).sum()

    def weighted(self, losses: dict[str, Float[Tensor, ""]]) -> dict[str, Float[Tensor, ""]]:
        """The terms of that sum, by task."""
        settings = self.config.settings
        weights = {"retrieval": settings.retrieval_weight} | settings.action_weights
        return {task: weights.get(task, 1.0) * loss for task, loss in losses.items()}

    def item_scores(self, state_MD: Float[Tensor, "M D"]) -> Float[Tensor, "M V"]:
        """Logits of the next item over the catalogue; column 0, the unknown item, is -inf."""
        assert self.items is not None, "a layout that predicts items reads them"
        return self.retrieval.logits(state_MD, self.compared(self.items.table()), self.bias_of_items())

    def compared(
        self, item_UD: Float[Tensor, "U D"], item_U: Int64[Tensor, " U"] | None = None
    ) -> Float[Tensor, "U W"]:
        """Vectors of items as they are compared with states: projected, where the settings say so.

        Args:
            item_U: whose vectors they are; by default all of the catalogue's, in its order.
        """
        return item_UD if self.item_interest is None else self.item_interest(item_UD)

    def bias_of_items(self) -> Float[Tensor, " V"] | None:
        """What is added to the logit of each item, whatever the user; None where the settings ask for none."""
        return None if self.item_bias is None else self.item_bias()

    @property
    def takes_counts(self) -> bool:
        """Whether counts belong to the model: without them, it would answer otherwise than it was tested."""
        return self.config.settings.counts == "auto" and (self.retrieves or self.predicts_actions)

    @property
    def retrieves(self) -> bool:
        """Whether it ranks the items of an event to come."""
        return reader(self.layout, "i") is not None

    @property
    def predicts_actions(self) -> bool:
        """Whether it predicts the actions of an event to come, be it without its item."""
        return bool(self.config.actions) and reader(self.layout, "a") is not None

    @property
    def counting(self) -> Counting | None:
        """What `query_inputs` needs to count actions beside the model; None where that adds nothing."""
        counts = None if self.counts is None else self.counts.actions
        return counts.added if counts is not None and counts.pay else None

    def action_outputs(
        self, questions: Questions, state_MD: Float[Tensor, "M D"]
    ) -> tuple[Float[Tensor, "M _"], ...]:
        """Raw outputs of each action for questions about actions, with what counts add to them."""
        assert self.heads is not None, "a layout that predicts actions has heads"
        out = self.heads(state_MD, questions.late_MF)
        if questions.counted_MX is None:
            return out
        assert self.counts is not None and self.counts.actions is not None, "something is counted"
        return with_counts(self.heads.kinds, out, self.counts.actions, questions.counted_MX)

    def late_statistics(self) -> LateStatistics | None:
        """What `training_inputs` and `query_inputs` need to count late features; None where the heads take none."""
        late = self.config.settings.late
        if self.heads is None or not late.num_groups:
            return None
        code_VK = np.zeros((0, 0), dtype=np.int32)
        if late.similar is not None:
            assert self.items is not None, "what is similar to an item is for layouts that read items"
            columns = code_columns([late.similar], self.config.item_features)
            code_VK = self.items.code_VC[:, columns].cpu().numpy()
        return LateStatistics(late, self.config.actions, code_VK)

    def with_items(self, table: FeatureTable) -> "GenerativeRecommender":
        """A model with these items behind the others of the catalogue, untrained; it holds copies of all weights.

        Args:
            table: one row for every added item, none for the unknown one.

        Raises:
            ValueError: the model has no item features, or the table has others.
        """
        if self.items is None:
            raise ValueError(f"layout '{self.layout}' reads no items: there is nothing to add them to")
        items = self.items.with_items(table)
        grown = type(self)(replace(self.config, num_items=items.num_items))
        weights = self.state_dict()
        weights |= {f"items.{name}": tensor for name, tensor in items.state_dict().items()}
        if self.item_bias is not None:
            of_bias = self.item_bias.with_items(len(table)).state_dict()
            weights |= {f"item_bias.{name}": tensor for name, tensor in of_bias.items()}
        grown.load_state_dict(weights)
        grown.counts = self.counts
        return grown.to(next(self.parameters()).device).train(self.training)

    def with_condition_vectors(
        self, conditions: tuple[Feature, ...], vectors: Mapping[str, Float32[np.ndarray, "K W"]]
    ) -> "GenerativeRecommender":
        """A model that knows more keys of conditions; it shares all weights with this one.

        Args:
            conditions: the model's own, with more values behind theirs.
            vectors: of length 1, of the values that are added, by condition.
        """
        assert self.conditions is not None, "only models that show conditions are given vectors of them"
        grown = copy.copy(self)
        grown._modules = dict(self._modules)
        grown.conditions = self.conditions.with_more(conditions, vectors)
        grown.config = replace(self.config, conditions=conditions)
        return grown

    def without_unread(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A saved model's weights but for those of modules that its layout does not read, which nothing trained. Models
        held them as long as every module was built for every layout. Whatever else does not fit stays, to be refused.
        """
        modules = {
            "items": self.items,
            "context": self.context,
            "conditions": self.conditions,
            "actions": self.actions,
            "heads": self.heads,
        }
        unread = {name for name, module in modules.items() if module is None}
        unread |= {f"specials.{field}" for field in ("i", "a") if field not in self.specials}
        return {
            name: weight
            for name, weight in weights.items()
            if not any(f"{name}.".startswith(f"{module}.") for module in unread)
        }

    def _states(self, inputs: Inputs, items: ItemVectors | None) -> list[Float[Tensor, "M D"]]:
        facts, read = self._facts(inputs, items), inputs.read
        x_RLD, action_RLD = self._embedded(inputs, facts)
        hidden_CD = self.trunk(x_RLD, inputs.segments, action_RLD, read).flatten(0, 1)
        return [self._state(questions, hidden_CD, facts, read) for questions in inputs.questions]

    def _embedded(
        self, inputs: Inputs, facts: dict[Field, Tensor]
    ) -> tuple[Float[Tensor, "R L D"], Float[Tensor, "R L D"] | None]:
        """What tokens show, and the actions that ride beside them, in rows."""
        shown = [facts[field].index_select(0, source_N) for field, source_N in inputs.shown]
        x_ND = torch.stack(shown).sum(0) if len(shown) > 1 else shown[0]
        if self.users is not None:
            x_ND = x_ND + self.users(inputs.user_code_UK).index_select(0, inputs.user_N)
        action_RLD = None
        if self.layout.rides:
            action_RLD = _in_rows(inputs, facts["a"].index_select(0, inputs.event_N + SPECIALS))
        return _in_rows(inputs, x_ND), action_RLD

    def _state(
        self,
        questions: Questions,
        hidden_CD: Tensor,
        facts: dict[Field, Tensor],
        read: Read | None = None,
    ) -> Float[Tensor, "M D"]:
        """
        Args:
            hidden_CD: states of all cells, or of those that are read.
        """
        cell_M = questions.cell_M if read is None else read.numbers(questions.cell_M)
        state_MD = hidden_CD.index_select(0, cell_M)
        if questions.given_M:
            couplers = self.couplers[_key(questions.target)]
            assert isinstance(couplers, nn.ModuleList)
            for coupler, (field, source_M) in zip(couplers, questions.given_M, strict=True):
                state_MD = coupler(state_MD, facts[field].index_select(0, source_M))
        if self.state_interest is not None and questions.target.fact.field == "i":
            return self.state_interest(state_MD)
        return state_MD

    def _facts(self, inputs: Inputs, items: ItemVectors | None) -> dict[Field, Float[Tensor, "P D"]]:
        """Per field its special facts, then its embedding of every event: what sources point into.

        An item comes with its context: both are known at once.

        Args:
            items: the vectors of the batch's items, where a caller has them.
        """
        used = {"a"} if self.layout.rides else set()
        used |= {field for field, _ in inputs.shown} | {
            f for each in inputs.questions for f, _ in each.given_M
        }
        events: dict[Field, Tensor] = {}
        if "i" in used:
            assert self.items is not None
            events["i"] = self.items(inputs.item_E) if items is None else items.of(inputs.item_E)
            if self.context is not None:
                events["i"] = events["i"] + self.context(inputs.context_EF)
        if "c" in used:
            assert self.conditions is not None
            events["c"] = self.conditions(inputs.condition_EG)
        if "a" in used:
            assert self.actions is not None
            events["a"] = self.actions(inputs.action_EA)
        return {
            field: torch.cat([event_ED.new_zeros(1, event_ED.shape[1]), self.specials[field], event_ED])
            for field, event_ED in events.items()
        }


def _in_rows(inputs: Inputs, x_ND: Float[Tensor, "N D"]) -> Float[Tensor, "R L D"]:
    shape = inputs.segments.segment_RL.shape
    x_CD = x_ND.new_zeros(shape.numel(), x_ND.shape[-1]).index_copy(0, inputs.cell_N, x_ND)
    return x_CD.unflatten(0, shape)


def _key(target: Target) -> str:
    """A module's name for a target: `nn.ModuleDict` allows no dots, and the notation has none."""
    return str(target)
