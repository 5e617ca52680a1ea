"""A ranker: a recommender that reads the history of one candidate at a time, in place of a trunk.

It shares everything with layouts over a trunk but what stands between embeddings and heads: data, questions, heads,
late features, training, evaluation, serving. Its layout says what a history shows, and that candidates are asked about.

Shape letters: M questions (candidates), N tokens, S tokens of encoded histories, E events, D width, K code columns, X
width of what is read, W width of the last layer.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import assert_never

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from plait.layouts import Layout
from plait.layouts.facts import Field
from plait.models.generative import GenerativeRecommender, ModelConfig
from plait.models.inputs import Inputs, LaterInputs, Questions
from plait.models.told import ReadsInterests
from plait.nn.dice import Dice
from plait.nn.dropout import Dropout
from plait.nn.encoded import Encoded, Keys
from plait.nn.encoders import ItemVectors
from plait.nn.heads import ActionHeads
from plait.nn.initialising import Linear, normal
from plait.nn.interests import InterestFeatures, InterestLookup, InterestRows
from plait.nn.ranker_settings import RankerSettings
from plait.nn.rankers import Amounts, Asked, Behaviours, Interest, extractor_of
from plait.nn.target_attention import Moments
from plait.nn.token_mixer import TokenMixer
from plait.nn.towers import TowerConfig
from plait.schema import FIRST_VALUE, Feature, Vector, code_columns
from plait.wording import setting

AUXILIARY = "auxiliary"  # the name of the loss that an extractor has of its own
RANKED_LAYOUT = "genrank"  # of the catalogue: what rankers take


@dataclass(frozen=True, eq=False)
class _Events:
    """Tokens, as far as a ranker reads them."""

    item_ND: Float[Tensor, "N D"]
    action_ND: Float[Tensor, "N D"] | None
    time_s_N: Int64[Tensor, " N"]
    code_NK: Int64[Tensor, "N K"]

    def encoded(self, start_U1: Int64[np.ndarray, " U1"]) -> Encoded:
        """What is kept of histories: item and actions are one place's keys and values, and codes lie where a trunk has
        states. (They are whole numbers below 2^24, which fp32 holds.)"""
        item_S1D = self.item_ND.unsqueeze(1)
        action_S1D = item_S1D[..., :0] if self.action_ND is None else self.action_ND.unsqueeze(1)
        code_SK = self.code_NK.to(item_S1D.dtype)
        return Encoded.whole(
            start_U1, torch.zeros_like(self.time_s_N), self.time_s_N, (Keys(item_S1D, action_S1D),), code_SK
        )

    @classmethod
    def of(cls, encoded: Encoded) -> "_Events":
        (kept,) = encoded.keys
        action_S1D = kept.v_SNH if kept.v_SNH.shape[-1] else None
        action_SD = None if action_S1D is None else action_S1D.squeeze(1)
        return cls(kept.k_SNH.squeeze(1), action_SD, encoded.time_s_S, encoded.hidden_SD.long())


class Ranker(ReadsInterests, GenerativeRecommender):
    """Embeddings, an extractor, layers with Dice or blocks that mix tokens, and the heads of the actions.

    Raises:
        ValueError: the layout, the settings or the data are none for a ranker.
    """

    def __init__(self, config: ModelConfig) -> None:
        settings, trunk = config.settings.ranker, config.settings.trunk
        check_ranks(config.parsed_layout, settings, config.item_features)
        super().__init__(config)
        self.extractor = extractor_of(settings, trunk.dim, trunk.num_heads, self.actions is not None)
        num_in = self.extractor.num_out + trunk.dim * (1 if self.users is None else 2)
        self.interest_features: InterestFeatures | None = None
        self.interests: InterestLookup | None = None  # where they are looked up; training sets it
        if settings.interests.width:
            self.interest_features = InterestFeatures(settings.interests)
            num_in += self.interest_features.num_out
        self.layers = _between(num_in, settings, trunk.dropout)
        self.search_layers: nn.Sequential | None = None
        if settings.kind == "sim" and settings.search == "soft":
            self.search_layers = _layers(2 * trunk.dim, settings.hidden, trunk.dropout)
            self.search_heads = ActionHeads(config.actions, settings.hidden[-1], TowerConfig(kind="linear"))

    def forward(self, inputs: Inputs) -> list[Float[Tensor, "M W"]]:
        """For the questions of the inputs, what the heads read."""
        return self._states(inputs, None)

    def losses(self, inputs: Inputs) -> dict[str, Float[Tensor, ""]]:
        """Mean loss of every action, unweighted, and the extractor's own."""
        (asked,) = inputs.questions
        assert self.heads is not None, "a ranker has heads"
        happened = self._in_training(inputs, asked)
        interest, label_MA = self.extractor(happened), inputs.action_EA[asked.label_M]
        losses = self.heads.losses(self._read(inputs, asked, happened, interest), label_MA, asked.late_MF)
        if interest.loss is not None:
            losses[AUXILIARY] = interest.loss
        if self.search_layers is not None and interest.searched_MD is not None:
            read_MX = torch.cat([interest.searched_MD, happened.query_MD], dim=1)
            of_search = self.search_heads.losses(self.search_layers(read_MX), label_MA)
            losses[AUXILIARY] = torch.stack(list(super().weighted(of_search).values())).sum()
        return losses

    def weighted(self, losses: dict[str, Float[Tensor, ""]]) -> dict[str, Float[Tensor, ""]]:
        """The terms of the sum that training minimises, by task."""
        weight = self.config.settings.ranker.auxiliary_weight
        return {
            task: weight * loss if task == AUXILIARY else loss
            for task, loss in super().weighted(losses).items()
        }

    def encoded(self, histories: Inputs) -> Encoded:
        """What later candidates need of histories: the vectors of their events."""
        start_U1 = _starts(histories.user_N, len(histories.user_code_UK))
        return self._events(histories, self._facts(histories, None)).encoded(start_U1)

    def answered(self, later: LaterInputs, encoded: Encoded) -> list[Float[Tensor, "M W"]]:
        """As `forward`, of candidates that come after encoded histories."""
        inputs, lists = later.inputs, later.lists
        (asked,), own = inputs.questions, self._events(inputs, self._facts(inputs, None))
        first_B = encoded.start_U1[lists.user_B]
        places = Asked(
            *(np.repeat(x_B, lists.count_B) for x_B in (lists.user_B, first_B, first_B + lists.num_seen_B))
        )
        happened = self._behaviours(places, own, asked.cell_M, _Events.of(encoded))
        return [self._read(inputs, asked, happened, self.extractor(happened))]

    def followed(
        self, later: LaterInputs, encoded: Encoded, room_U: Int64[np.ndarray, " U"] | None = None
    ) -> Encoded:
        """Histories that go on with one event each."""
        inputs = later.inputs
        own = self._events(inputs, self._facts(inputs, None))
        more = own.encoded(np.arange(len(own.time_s_N) + 1))
        return encoded.followed_by(more, encoded.length_U if room_U is None else room_U)

    def flops(self, inputs: Inputs) -> float:
        """FLOPs of a forward pass up to what the heads read: every matrix product, of no embedding."""
        (asked,) = inputs.questions
        places = self._asked(inputs, self._token_of(inputs, asked))
        seen_M, (begin_U, end_U) = places.end_M - places.first_M, places.histories
        recent_M = np.minimum(seen_M, self.config.settings.ranker.recent_events)
        amounts = Amounts(
            tokens=inputs.num_tokens,
            events=int((end_U - begin_U).sum()),
            questions=len(seen_M),
            recent_pairs=int(recent_M.sum()),
            pairs=int(seen_M.sum()),
        )
        return self.extractor.flops(amounts) + len(seen_M) * self._flops_of_layers

    @property
    def _flops_of_layers(self) -> float:
        modules = (
            [self.layers]
            if self.search_layers is None
            else [self.layers, self.search_layers, self.search_heads]
        )
        return 2.0 * sum(p.numel() for module in modules for p in module.parameters() if p.ndim > 1)

    def _states(self, inputs: Inputs, items: ItemVectors | None) -> list[Float[Tensor, "M W"]]:
        found = []
        for asked in inputs.questions:
            happened = self._happened(inputs, asked, items)
            found.append(self._read(inputs, asked, happened, self.extractor(happened)))
        return found

    def _read(
        self, inputs: Inputs, asked: Questions, happened: Behaviours, interest: Interest
    ) -> Float[Tensor, "M W"]:
        read = [happened.query_MD, interest.read_MX]
        if self.users is not None:
            user_M = inputs.user_N[self._token_of(inputs, asked)]
            read.append(self.users(inputs.user_code_UK).index_select(0, user_M))
        if self.interest_features is not None:
            read.append(self.interest_features(self._interests(inputs, asked), len(asked.label_M)))
        return self.layers(torch.cat(read, dim=1))

    def _interests(self, inputs: Inputs, asked: Questions) -> InterestRows | None:
        if self.interests is None:
            return None
        event_M = asked.label_M.cpu().numpy()
        user_M = inputs.user_U[inputs.user_N[self._token_of(inputs, asked)].cpu().numpy()]
        item_M = inputs.item_E[asked.label_M].cpu().numpy()
        return self.interests.of(user_M, inputs.number_E[event_M], item_M).to(inputs.item_E.device)

    def _in_training(self, inputs: Inputs, asked: Questions) -> Behaviours:
        """With other items beside those of the events, where the extractor compares them."""
        assert self.items is not None, "a ranker reads items"
        other_E = self.extractor.others(inputs.item_E, self.config.num_items)
        if other_E is None:
            return self._happened(inputs, asked, None)
        items = self.items.vectors(torch.cat([inputs.item_E, other_E]))
        other_ND = items.of(other_E).index_select(0, inputs.event_N)
        return replace(self._happened(inputs, asked, items), other_ND=other_ND)

    def _happened(self, inputs: Inputs, asked: Questions, items: ItemVectors | None) -> Behaviours:
        token_M = self._token_of(inputs, asked)
        events = self._events(inputs, self._facts(inputs, items))
        return self._behaviours(self._asked(inputs, token_M), events, token_M, events)

    def _behaviours(
        self, places: Asked, own: _Events, token_M: Int64[Tensor, " M"], events: _Events
    ) -> Behaviours:
        return Behaviours(
            places,
            own.item_ND.index_select(0, token_M),
            events.item_ND,
            events.action_ND,
            Moments(own.time_s_N.index_select(0, token_M), events.time_s_N),
            own.code_NK.index_select(0, token_M),
            events.code_NK,
        )

    def _events(self, inputs: Inputs, facts: dict[Field, Tensor]) -> _Events:
        shown = {field: facts[field].index_select(0, source_N) for field, source_N in inputs.shown}
        clock = inputs.segments.clock
        assert clock is not None, "inputs have a clock"
        time_s_N = clock.time_s_RL.flatten().index_select(0, inputs.cell_N)
        return _Events(shown["i"], shown.get("a"), time_s_N, self._codes(inputs.item_E[inputs.event_N]))

    def _codes(self, item_N: Int64[Tensor, " N"]) -> Int64[Tensor, "N K"]:
        category = self.config.settings.ranker.category
        if category is None:
            return item_N.new_zeros((len(item_N), 0))
        assert self.items is not None, "a ranker reads items"
        code_VK = self.items.code_VC[:, code_columns([category], self.config.item_features)]
        return code_VK[item_N].long() - FIRST_VALUE

    def _token_of(self, inputs: Inputs, asked: Questions) -> Int64[Tensor, " M"]:
        """The number of the token at which each question is asked."""
        num_cells = inputs.segments.segment_RL.numel()
        token_C = torch.zeros(num_cells, dtype=torch.int64, device=inputs.cell_N.device)
        token_C[inputs.cell_N] = torch.arange(inputs.num_tokens, device=token_C.device)
        return token_C[asked.cell_M]

    def _asked(self, inputs: Inputs, token_M: Int64[Tensor, " M"]) -> Asked:
        segments = inputs.segments
        seen_RL = segments.index_RL if segments.seen_RL is None else segments.seen_RL
        seen_M = seen_RL.flatten()[inputs.cell_N[token_M]].cpu().numpy()
        user_M = inputs.user_N[token_M].cpu().numpy()
        first_M = _starts(inputs.user_N, len(inputs.user_code_UK))[user_M]
        return Asked(user_M, first_M, first_M + seen_M)


def check_ranks(layout: Layout, settings: RankerSettings, item_features: tuple[Feature, ...]) -> None:
    """Raises ValueError where a layout asks for anything but the actions on candidates, or hard search has nothing to
    go by."""
    kind = setting("model.ranker.kind", settings.kind)
    plain = len(layout.tokens) == len(layout.candidate) == 1 and not layout.rides and not layout.lag
    if not plain or layout.predicts != {"a"} or "i" not in layout.fields:
        raise ValueError(
            f"{kind} ranks candidates after a history of one token an event, such as '{RANKED_LAYOUT}' has, and layout "
            f"'{layout}' asks otherwise; use {RANKED_LAYOUT}, or leave the ranker out"
        )
    coded = [feature.name for feature in item_features if not isinstance(feature.kind, Vector)]
    if settings.category is not None and settings.category not in coded:
        raise ValueError(
            f"{setting('model.ranker.category', settings.category)}: expected an item feature with values to share, of "
            f"which the data has {', '.join(coded) or 'none'}; name one, or search softly"
        )


def _between(num_in: int, settings: RankerSettings, dropout: float) -> nn.Module:
    """What stands between all that is read and the heads."""
    match settings.kind:
        case "din" | "dien" | "sim" | "twin":
            return _layers(num_in, settings.hidden, dropout)
        case "rankmixer":
            return TokenMixer(num_in, settings.mixer, dropout)
        case "none":
            raise AssertionError("a model without a ranker has a trunk")
        case _:
            assert_never(settings.kind)


def _layers(num_in: int, hidden: tuple[int, ...], dropout: float) -> nn.Sequential:
    widths = (num_in, *hidden)
    return nn.Sequential(
        *(
            layer
            for one, next_one in pairwise(widths)
            for layer in (Linear(one, next_one, normal((2 / one) ** 0.5)), Dice(next_one), Dropout(dropout))
        )
    )


def _starts(user_N: Int64[Tensor, " N"], num_users: int) -> Int64[np.ndarray, " U1"]:
    """Where each user's tokens begin, and the last one's end."""
    return np.concatenate([[0], np.cumsum(np.bincount(user_N.cpu().numpy(), minlength=num_users))])
