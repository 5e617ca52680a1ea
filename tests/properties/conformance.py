"""What every combination of layout, trunk, positions and exposure is asked, and what its answers may know.

What a question may know is written down here from its definition, apart from the code that arranges tokens.
Shape letters: U users, E events, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch
from describing import described, describing_model
from tiny import batch_of, model_of, part_of
from torch import Tensor

from plait.layouts import CATALOGUE, Layout
from plait.layouts.audit import reader
from plait.layouts.facts import Field
from plait.layouts.packing import pack
from plait.models.combining import Combination, named_trunk
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.inputs import Inputs, Packer, query_inputs, training_inputs
from plait.schema import EventBatch

# The first user's window begins inside a request, the second user's last request is all but one event.
REQUESTS, LEADS = ((0, 0, 1, 1, 2, 2), (0, 1, 1), (0, 1, 2, 3, 4)), (1, 0, 1)
LENGTHS = tuple(map(len, REQUESTS))
LATER_S = 50_000_000  # far beyond the bucket of any gap of the batch

close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
States = dict[Field, Tensor]  # by field the state of the question about every event, NaN where none was asked


@cache
def a_log() -> EventBatch:
    """Three users; requests of several events, whose times differ inside of a request, too."""
    batch = batch_of(LENGTHS, LEADS)
    nth_E = np.concatenate([np.arange(length) for length in LENGTHS])
    back_s_E = 40 * 3 ** (max(LENGTHS) - nth_E) + batch.item_E  # every gap is a bucket of its own
    return replace(batch, request_E=np.concatenate(REQUESTS), time_s_E=1_600_000_000 - back_s_E)


@dataclass(frozen=True)
class Case:
    """A combination with its model, trained in one of two ways: on every event, or on candidates alone. The model
    reads ids and actions alone, or features of every kind besides."""

    combination: Combination
    model: GenerativeRecommender
    by_candidates: bool

    @property
    def layout(self) -> Layout:
        return self.model.layout

    @property
    def knows_time(self) -> bool:
        return self.combination.positions in ("rab", "genrank", "dlrm_v3")

    @property
    def knows_features(self) -> bool:
        return self.model.context is not None

    @property
    def knows_conditions(self) -> bool:
        return self.model.conditions is not None

    def told(self, batch: EventBatch) -> EventBatch:
        """The batch as the model takes it."""
        return described(batch) if self.knows_features else batch

    def training(self, batch: EventBatch, packer: Packer = pack) -> Inputs:
        supervise = "candidates" if self.by_candidates else "all"
        plan = replace(self.model.plan, supervise=supervise)
        return training_inputs(plan, batch, packer, late=self.model.late_statistics())

    def query(
        self,
        batch: EventBatch,
        num_candidates: Sequence[int] | None = None,
        fields: tuple[Field, ...] = ("i", "a"),
    ) -> Inputs:
        count_U = None if num_candidates is None else np.array(num_candidates)
        return query_inputs(
            self.model.plan,
            batch,
            fields,
            num_candidates_U=count_U,
            late=self.model.late_statistics(),
        )

    def states(self, inputs: Inputs) -> States:
        """What heads read for all questions, the state and late features, at the events that they are about."""
        found: States = {}
        for asked, state_MD in zip(inputs.questions, self.model(inputs), strict=True):
            if asked.late_MF is not None:
                state_MD = torch.cat([state_MD, asked.late_MF.nan_to_num(-1.0)], dim=1)
            state_ED = state_MD.new_full((len(inputs.item_E), state_MD.shape[1]), torch.nan)
            found[asked.target.fact.field] = state_ED.index_copy(0, asked.label_M, state_MD)
        return found


def cases(combination: Combination, knows_features: bool = False) -> list[Case]:
    """The ways to train a combination, over one model."""
    layout, exposure = CATALOGUE[combination.name].layout, combination.exposure
    config = named_trunk(
        combination.trunk, combination.positions, dim=8, num_layers=2, num_heads=2, dropout=0.0
    )
    settings = ModelSettings(trunk=config, exposure=exposure)
    model = describing_model(layout, settings) if knows_features else model_of(layout, settings=settings)
    ways = [True] if model.plan.asks_candidates else [False, True]
    return [Case(combination, model, way) for way in ways]


def begin_of_request(batch: EventBatch, event: int) -> int:
    begin = event
    start = batch.start_U1[batch.start_U1 <= event].max()
    while begin > start and batch.request_E[begin - 1] == batch.request_E[event]:
        begin -= 1
    return int(begin)


@dataclass(frozen=True)
class Known:
    """Which events' facts the question about an event may know."""

    item_E: np.ndarray
    action_E: np.ndarray
    time_E: np.ndarray
    condition_E: np.ndarray


def known_to(case: Case, batch: EventBatch, field: Field, event: int) -> Known:
    """Of its own user what lay before, for an action its item, and its condition; with requests that do not see
    themselves, and for a candidate, what lay before its request. Of times, in addition, what `time_anchor` promises."""
    event_E, exposure = np.arange(len(batch.item_E)), case.combination.exposure
    start = batch.start_U1[batch.start_U1 <= event].max()
    end = batch.start_U1[batch.start_U1 > event].min()
    apart = case.by_candidates or exposure.same_request == "blind"
    now = begin_of_request(batch, event) if apart else event
    before_E, own_E = (event_E >= start) & (event_E < now), event_E == event
    time_E = before_E.copy()
    asked = reader(case.layout, field)
    assert asked is not None
    if asked.target.offset == 0:
        time_E |= own_E
    if exposure.time_anchor == "next":
        time_E |= event_E == now
    if exposure.time_anchor == "request":
        time_E[begin_of_request(batch, end - 1)] = True
    return Known(before_E | (own_E & (field == "a")), before_E, time_E & case.knows_time, before_E | own_E)


def one_by_one(batch: EventBatch) -> list[EventBatch]:
    """Every user of a batch as a batch."""
    return [part_of(batch, user, lead=int(lead)) for user, lead in enumerate(batch.lead_U)]
