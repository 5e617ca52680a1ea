"""Items, actions, users and contexts as vectors.

Shape letters: E events, A action columns, D width, V rows of the item table (row 0 the unknown item),
J rows of the action table that an event reads. Of what is described by features: U items, users or moments that are
encoded, F coded features, C code columns (one for each feature, several where it has several values), W width of one
coded feature, X width of a row's frozen vectors side by side, Y width of all that is learned of it.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor, nn

from plait.limits import SHARE, WIDTH, check_numbers
from plait.nn.action_kinds import modelled
from plait.nn.actions import scaled
from plait.nn.dropout import DrawingModule
from plait.nn.initialising import Linear, VectorTable, init_columns, normal, unset
from plait.schema import (
    FIRST_VALUE,
    MISSING_VALUE,
    PADDING,
    UNKNOWN_ITEM,
    Action,
    Category,
    Feature,
    FeatureTable,
    Keyed,
)

MISSING = -1.0  # stands where a missing value's knot is


@dataclass(frozen=True, kw_only=True)
class ItemEncoding:
    """How an item with features becomes a vector. Without features, an item is its id alone."""

    use_id: bool = True
    """Give every item a trained vector of its own, beside its features."""
    feature_dim: Annotated[int, WIDTH] = 16
    """Width of a category's or a number's vector before the projection."""
    id_dropout: Annotated[float, SHARE] = 0.1
    """Share of the items that each step of training takes for new ones, known by their features only."""

    def __post_init__(self) -> None:
        check_numbers("model.items.", self)


class CodeEmbedding(nn.Module):
    """A trained vector for every value of every coded feature; a feature's several values are averaged.

    Missing and unseen values start at zero and so add nothing, unless training meets them.
    """

    offset_C: Tensor

    def __init__(self, features: Sequence[Feature], width: int) -> None:
        super().__init__()
        coded = [feature for feature in features if feature.num_columns]
        first_row_F = 1 + np.cumsum([0, *(feature.num_codes for feature in coded)])  # row 0 is the padding's
        self.columns_F = [feature.num_columns for feature in coded]
        self.width = width
        offset_C = torch.from_numpy(np.repeat(first_row_F[:-1], self.columns_F))
        self.register_buffer("offset_C", offset_C.to(torch.int64), persistent=False)
        unlearned = [first + code for first in first_row_F[:-1].tolist() for code in range(FIRST_VALUE)]
        self.table = VectorTable(int(first_row_F[-1]), width, zero_rows=(0, *unlearned), padding_idx=0)

    def forward(self, code_UC: Int[Tensor, "U C"]) -> Float[Tensor, "U F W"]:
        """Raises ValueError where there are more or fewer columns than the features have."""
        if code_UC.shape[1] != len(self.offset_C):
            raise ValueError(
                f"{code_UC.shape[1]} columns of feature codes, and the model was built for {len(self.offset_C)}; "
                "give the features that it was trained with"
            )
        row_UC = torch.where(code_UC == PADDING, 0, code_UC + self.offset_C)
        vectors = [
            F.embedding_bag(row_Uc, self.table.weight, mode="mean", padding_idx=0)
            for row_Uc in row_UC.split(self.columns_F, dim=1)
        ]
        if not vectors:
            return self.table(row_UC)  # of no width, but with a gradient: zero
        return torch.stack(vectors, dim=1)


class FeatureEncoder(nn.Module):
    """The sum over coded features of one vector each: what is known about a user, or about a moment."""

    def __init__(self, features: Sequence[Feature], dim: int) -> None:
        super().__init__()
        self.codes = CodeEmbedding([learned_part(feature) for feature in features], dim)
        ends = np.cumsum([feature.num_columns for feature in features]).tolist()
        self.keyed = nn.ModuleDict(
            {
                str(end - 1): KeyedEmbedding(feature.num_codes, feature.kind.width, dim)
                for end, feature in zip(ends, features, strict=True)
                if isinstance(feature.kind, Keyed)
            }
        )

    def describe(
        self, features: Sequence[Feature], vectors: Mapping[str, Float32[np.ndarray, "K W"]]
    ) -> None:
        """Takes over the frozen vectors of features that have them, by name."""
        ends = np.cumsum([feature.num_columns for feature in features]).tolist()
        for end, feature in zip(ends, features, strict=True):
            if isinstance(feature.kind, Keyed):
                self._keyed_at(str(end - 1)).vector_KW[FIRST_VALUE:] = torch.tensor(vectors[feature.name])

    def with_more(
        self, features: Sequence[Feature], vectors: Mapping[str, Float32[np.ndarray, "K W"]]
    ) -> "FeatureEncoder":
        """An encoder with these frozen vectors, by feature, behind the others of it. It shares the weights."""
        grown = copy.copy(self)
        grown._modules = dict(self._modules)
        ends = np.cumsum([feature.num_columns for feature in features]).tolist()
        more = {str(end - 1): vectors.get(feature.name) for end, feature in zip(ends, features, strict=True)}
        grown.keyed = nn.ModuleDict(
            {column: self._keyed_at(column).with_more(more[column]) for column in self.keyed}
        )
        return grown

    def forward(self, code_UC: Int[Tensor, "U C"]) -> Float[Tensor, "U D"]:
        """Raises ValueError where there are more or fewer columns than the features have."""
        if not self.keyed:
            return self.codes(code_UC).sum(1)
        learned_UC = code_UC.clone()
        for place in map(int, self.keyed):
            learned_UC[:, place].masked_fill_(code_UC[:, place] >= FIRST_VALUE, PADDING)
        vector_UD = self.codes(learned_UC).sum(1)
        for column, embedding in self.keyed.items():
            vector_UD = vector_UD + embedding(code_UC[:, int(column)])
        return vector_UD

    def _keyed_at(self, column: str) -> "KeyedEmbedding":
        embedding = self.keyed[column]
        assert isinstance(embedding, KeyedEmbedding), "columns of codes are of no other module here"
        return embedding


class KeyedEmbedding(nn.Module):
    """Frozen vectors by key, projected (LUM paper, section 4.1.2: the query text of a condition token). Missing and
    unseen values are zero here."""

    vector_KW: Tensor

    def __init__(self, num_codes: int, width: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("vector_KW", torch.zeros(num_codes, width, dtype=torch.float32))
        self.project = Linear(width, dim, normal(0.02), bias=False)  # of length 1: like a learned vector

    def with_more(self, vector_KW: Float32[np.ndarray, "K W"] | None) -> "KeyedEmbedding":
        """With these vectors behind the others; it shares the weights."""
        if vector_KW is None:
            return self
        grown = copy.copy(self)
        grown._buffers = {
            "vector_KW": torch.cat([self.vector_KW, torch.tensor(vector_KW).to(self.vector_KW)])
        }
        return grown

    def forward(self, code_U: Int[Tensor, " U"]) -> Float[Tensor, "U D"]:
        return self.project(self.vector_KW[code_U].to(self.project.weight.dtype))


def learned_part(feature: Feature) -> Feature:
    """What of a feature has trained vectors: of one with frozen vectors, only missing and unseen."""
    return Feature(feature.name, Category()) if isinstance(feature.kind, Keyed) else feature


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """Vectors of the items that a step names, each encoded once."""

    vector_UD: Float[Tensor, "U D"]
    item_U: Int64[Tensor, " U"] | None = None
    """Whose vectors they are, ascending; None: all of the catalogue's, in its order."""

    def of(self, item_E: Int64[Tensor, " E"]) -> Float[Tensor, "E D"]:
        """The vectors of items that are among them.

        >>> ItemVectors(torch.tensor([[3.0], [7.0]]), torch.tensor([3, 7])).of(torch.tensor([7, 3, 7])).tolist()
        [[7.0], [3.0], [7.0]]
        """
        row_E = item_E if self.item_U is None else torch.searchsorted(self.item_U, item_E)
        return F.embedding(row_E, self.vector_UD)


class ItemEncoder(DrawingModule):
    """One vector per item: of its id alone or, where it has features, of all that is known about it.

    With features: the id's vector, the vectors of its coded features and its frozen vectors, concatenated and
    projected (LUM paper, section 4.1.2). An item without training events has no id vector of its own: it takes
    that of a *new item*, which `id_dropout` trains by taking known items for new ones. So an item that comes
    after training needs its features only. The unknown item is a new one without any feature.

    Without features, an unknown item adds nothing: training never meets one to learn from.

    Codes and frozen vectors are buffers: a saved model holds them. `describe` fills them once before training.
    """

    code_VC: Tensor
    vector_VX: Tensor
    is_new_V: Tensor

    def __init__(
        self,
        num_items: int,
        dim: int,
        features: Sequence[Feature] = (),
        encoding: ItemEncoding = ItemEncoding(),
    ) -> None:
        super().__init__()
        self.num_items, self.dim = num_items, dim
        self.features, self.encoding = tuple(features), encoding
        self.embedding: VectorTable | None = None
        if encoding.use_id or not features:
            self.embedding = VectorTable(num_items + 1, dim, zero_rows=(UNKNOWN_ITEM,))
        if features:
            self._add_features()

    def _add_features(self) -> None:
        features, width = self.features, self.encoding.feature_dim
        rows, num_columns = self.num_items + 1, sum(feature.num_columns for feature in features)
        num_coded = sum(feature.num_columns > 0 for feature in features)
        self.codes = CodeEmbedding(features, width)
        learned = num_coded * width
        if self.embedding is not None:
            learned += self.dim
            self.new_item_D = unset(self.dim)
        frozen = sum(feature.width for feature in features)
        # Each part alone would give vectors as large as an id's: those learned start at 0.02, the frozen have length 1.
        draw = partial(init_columns, num_first=learned, std=(max(learned, 1) ** -0.5, 0.02))
        self.project = Linear(learned + frozen, self.dim, draw, bias=False)
        missing = torch.full((rows, num_columns), MISSING_VALUE, dtype=torch.int32)
        self.register_buffer("code_VC", missing)
        self.register_buffer("vector_VX", torch.zeros(rows, frozen, dtype=torch.float32))
        self.register_buffer("is_new_V", torch.ones(rows, dtype=torch.bool))

    def init_weights(self, generator: torch.Generator) -> None:
        if self.features and self.embedding is not None:
            nn.init.normal_(self.new_item_D, std=0.02, generator=generator)

    def describe(self, table: FeatureTable, train_events_V: Int64[np.ndarray, " V"]) -> None:
        """Takes over what is known about the catalogue, and which of its items training meets.

        Raises:
            ValueError: the table's features or rows are not those that the encoder was built for.
        """
        if table.features != self.features or len(table) != self.num_items + 1:
            raise ValueError(
                f"the item features are {_names(table.features)} of {len(table) - 1} items; the model was built for "
                f"{_names(self.features)} of {self.num_items} items: use the dataset it was built for"
            )
        if self.features:
            self.code_VC.copy_(torch.tensor(table.code_NK))
            self.vector_VX.copy_(torch.tensor(table.vector_NW))
            self.is_new_V.copy_(torch.from_numpy(train_events_V == 0))

    def with_items(self, table: FeatureTable) -> "ItemEncoder":
        """An encoder with these items behind the others, as new ones; it holds copies of all weights.

        Args:
            table: one row for every added item, none for the unknown one.

        Raises:
            ValueError: the encoder has no features, or the table has others.
        """
        if not self.features:
            raise ValueError("items without training events are known by features, and this model has none")
        if table.features != self.features:
            raise ValueError(
                f"the added items have {_names(table.features)}; the model was built for {_names(self.features)} "
                "as fitted in preparation"
            )
        grown = ItemEncoder(self.num_items + len(table), self.dim, self.features, self.encoding)
        state = self.state_dict()
        added = {
            "code_VC": torch.tensor(table.code_NK),
            "vector_VX": torch.tensor(table.vector_NW),
            "is_new_V": torch.ones(len(table), dtype=torch.bool),
            "embedding.weight": self.project.weight.new_zeros(
                len(table), self.dim
            ),  # never used: they are new
        }
        state |= {
            name: torch.cat([state[name], rows.to(state[name])])
            for name, rows in added.items()
            if name in state
        }
        grown.to(self.project.weight).load_state_dict(state)
        return grown.train(self.training)

    def forward(self, item_E: Int64[Tensor, " E"]) -> Float[Tensor, "E D"]:
        """Vectors of items."""
        return self.vectors(item_E).of(item_E)

    def table(self) -> Float[Tensor, "V D"]:
        """The vectors of the whole catalogue, to rank it by: row i is item i, row 0 the unknown item."""
        return self.vectors().vector_UD

    def vectors(self, item_E: Int64[Tensor, " E"] | None = None) -> ItemVectors:
        """The vectors of the items that are named; without any, of the whole catalogue.

        With features they are computed at every call, and in training mode other items are taken for new ones each
        time: call it once in a step. Without, they are the table itself, where nothing is to be computed.
        """
        if not self.features:
            assert self.embedding is not None
            return ItemVectors(self.embedding.weight)
        if item_E is None:
            return ItemVectors(self._vectors(None, self._taken_for_new()))
        item_U = item_E.unique()
        return ItemVectors(self._vectors(item_U, self._taken_for_new()[item_U]), item_U)

    def _taken_for_new(self) -> Bool[Tensor, " V"]:
        if not (self.training and self.encoding.id_dropout):
            return self.is_new_V
        generator = self.own_generator
        share_V = torch.rand(
            len(self.is_new_V), dtype=torch.float32, device=generator.device, generator=generator
        )
        return self.is_new_V | (share_V < self.encoding.id_dropout)

    def _vectors(
        self, item_U: Int64[Tensor, " U"] | None, is_new_U: Bool[Tensor, " U"]
    ) -> Float[Tensor, "U D"]:
        """The vectors of these items; all items' where `item_U` is None."""
        code_UC, frozen_UX = self.code_VC, self.vector_VX
        if item_U is not None:
            code_UC, frozen_UX = code_UC[item_U], frozen_UX[item_U]
        learned = [self.codes(code_UC).flatten(1)]
        if self.embedding is not None:
            id_UD = self.embedding.weight if item_U is None else self.embedding(item_U)
            learned.insert(0, torch.where(is_new_U[:, None], self.new_item_D, id_UD))
        learned_UY = torch.cat(learned, dim=1)
        weight = self.project.weight
        # Two products in place of one: the frozen vectors then need no gradient and no copy beside the others.
        split = [learned_UY.shape[1], frozen_UX.shape[1]]
        of_learned, of_frozen = weight.split(split, dim=1)
        vector_UD = F.linear(learned_UY, of_learned) + F.linear(frozen_UX, of_frozen)
        return vector_UD.to(weight.dtype)  # under autocast too, like an id table: gradients add up in it


class ActionEncoder(nn.Module):
    """The sum over the actions of one vector each.

    One of several values has a vector of its own. A number lies between two of 17 knots, evenly
    spaced over [0, 1] at model scale, and its vector is interpolated between theirs (above 1 it is the last
    knot's). A missing value has its own vector, one per action.
    """

    missing_row_A: Tensor
    last_knot_A: Tensor
    knots_per_unit_A: Tensor

    def __init__(self, actions: Sequence[Action], dim: int) -> None:
        super().__init__()
        self.actions = tuple(actions)
        knots_A = [modelled(action.kind).knots for action in self.actions]
        num_rows_A = [1 + knots.number for knots in knots_A]  # that of a missing value, then its knots
        buffers = {
            "missing_row_A": torch.tensor(np.cumsum([0, *num_rows_A])[:-1], dtype=torch.int64),
            "last_knot_A": torch.tensor([knots.number - 1.0 for knots in knots_A], dtype=torch.float32),
            "knots_per_unit_A": torch.tensor([knots.per_unit for knots in knots_A], dtype=torch.float32),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)
        self.table = VectorTable(sum(num_rows_A), dim)

    def forward(self, raw_EA: Float[Tensor, "E A"]) -> Float[Tensor, "E D"]:
        """Vectors of action values in the log's units, NaN where missing.

        Raises:
            ValueError: a value is outside its action's range.
        """
        if not self.actions:
            return self.table.weight.new_zeros(len(raw_EA), self.table.embedding_dim)
        row_EJ, weight_EJ = self.rows(raw_EA)
        weight_EJ = weight_EJ.to(self.table.weight.dtype)
        return F.embedding_bag(row_EJ, self.table.weight, mode="sum", per_sample_weights=weight_EJ)

    def rows(self, raw_EA: Float[Tensor, "E A"]) -> tuple[Int64[Tensor, "E J"], Float[Tensor, "E J"]]:
        """The J = 2 A rows of the table that each event reads, and how much of each: per action 1 in all."""
        return self.rows_at(scaled(self.actions, raw_EA))

    def rows_at(self, unit_EA: Float[Tensor, "*E A"]) -> tuple[Int64[Tensor, "*E J"], Float[Tensor, "*E J"]]:
        """As `rows`, of values at model scale, which are not held against their ranges."""
        place_EA = (unit_EA * self.knots_per_unit_A).minimum(self.last_knot_A)
        place_EA = torch.where(unit_EA.isnan(), MISSING, place_EA)
        below_EA = place_EA.floor()
        row_EA = self.missing_row_A + below_EA.long() - round(MISSING)
        share_EA = place_EA - below_EA  # of the next row, which is of the same action where there is a share
        next_EA = row_EA + (share_EA > 0)
        return torch.cat([row_EA, next_EA], dim=-1), torch.cat([1 - share_EA, share_EA], dim=-1)


def _names(features: Sequence[Feature]) -> str:
    return ", ".join(feature.name for feature in features) or "none"
