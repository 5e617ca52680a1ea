"""What counts add to a model's answers, as modules of tensors alone: tables are gathered and added, as
`plait.counts.beside` and `plait.counts.actions` say.

Shape letters: U users, T events of a history (padded on the right), C candidates, V items of the catalogue (row 0 the
unknown item), N successors of an item that a table keeps, R the rarest items, A action columns, K columns of a part of
an action, S sums over a history, X columns of all parts.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy import sparse
from torch import Tensor, nn

from plait.counts.actions import ActionCounts, WeighedPart
from plait.counts.beside import SMOOTHING, Counts, ItemCounts, Tables
from plait.counts.effects import EffectScale, LogitEffects, NumberEffects, Shares
from plait.schema import UNKNOWN_ITEM, ActionKind, Amount

Columns = Callable[
    [Tensor], Tensor
]  # U x T values as U x T x K columns; of one that a part does not know, NaN


def item_counts(counts: Counts | None) -> ItemCounts | None:
    """Those that add to scores of items; None where none do."""
    return None if counts is None or counts.items is None or not counts.items.pay else counts.items


def action_counts(counts: Counts | None) -> ActionCounts | None:
    """Those that add to scores of actions; None where none do."""
    return None if counts is None or counts.actions is None or not counts.actions.pay else counts.actions


def met_items(
    tables: Tables,
    item_UT: Int64[Tensor, "U T"],
    length_U1: Int64[Tensor, "U 1"],
    inside_UT: Bool[Tensor, "U T"],
) -> tuple[Int64[Tensor, "U T"], Float[Tensor, "U T"]]:
    """The items of histories that were counted, 0 for others, and what each weighs in the rules: less for each step
    back, and 0 before the last few.

    Args:
        inside_UT: whether the counts may read the event.
    """
    is_met_UT = inside_UT & (item_UT < len(tables.popularity_V1)) & (item_UT != UNKNOWN_ITEM)
    back_UT = length_U1 - 1 - torch.arange(item_UT.shape[1])
    is_recent_UT = is_met_UT & (back_UT < tables.last)
    weight_UT = tables.decay ** back_UT.clamp(min=0).float()
    return torch.where(is_met_UT, item_UT, UNKNOWN_ITEM), torch.where(is_recent_UT, weight_UT, 0.0)


class Successors(nn.Module):
    """A sparse table with a row for each item, gathered and summed."""

    item_VN: Tensor
    value_VN: Tensor

    def __init__(self, table: sparse.csr_array, num_items: int) -> None:
        super().__init__()
        kept_V = np.diff(table.indptr)
        shape = num_items + 1, max(1, int(kept_V.max(initial=0)))
        row_P = np.repeat(np.arange(len(kept_V)), kept_V)
        place = row_P, np.arange(len(row_P)) - np.repeat(table.indptr[:-1], kept_V)
        item_VN, value_VN = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.float32)
        item_VN[place], value_VN[place] = table.indices, table.data
        self.register_buffer("item_VN", torch.from_numpy(item_VN))
        self.register_buffer("value_VN", torch.from_numpy(value_VN))

    def forward(self, item_UT: Int64[Tensor, "U T"], weight_UT: Float[Tensor, "U T"]) -> Float[Tensor, "U V"]:
        """What the items of histories say of every item."""
        to_UP = nn.functional.embedding(item_UT, self.item_VN).flatten(1).long()
        value_UTN = nn.functional.embedding(item_UT, self.value_VN) * weight_UT[..., None]
        return _summed(to_UP, value_UTN.flatten(1), len(self.item_VN))


class AddedToItems(nn.Module):
    """The weighted logits of a catalogue, and what counts add to them."""

    share_V: Tensor
    is_counted_V: Tensor
    rarest_R: Tensor

    def __init__(self, counts: ItemCounts, num_items: int) -> None:
        super().__init__()
        tables = counts.tables
        self.weight_T = [float(weight) for weight in counts.weight_T]
        self.rules = Successors(tables.rules, num_items)
        self.ease = None if tables.ease is None else Successors(tables.ease, num_items)
        self.reads_own = tables.reads_own
        added_later = (0, num_items + 1 - len(tables.popularity_V1))
        share_V = np.pad(tables.share_V1, added_later, constant_values=1.0)  # whatever: they are not counted
        is_counted_V = np.pad(tables.popularity_V1 > 0, added_later)
        self.register_buffer("share_V", torch.from_numpy(share_V.astype(np.float32)))
        self.register_buffer("is_counted_V", torch.from_numpy(is_counted_V))
        self.register_buffer("rarest_R", torch.from_numpy(tables.rarest))

    def forward(
        self,
        score_UV: Float[Tensor, "U V"],
        item_UT: Int64[Tensor, "U T"],
        weight_UT: Float[Tensor, "U T"],
    ) -> Float[Tensor, "U V"]:
        """
        Args:
            item_UT, weight_UT: as `met_items` gives them.
        """
        of_model, *of_counts = self.weight_T
        score_UV = of_model * score_UV
        for weight, term_UV in zip(of_counts, self._terms(item_UT, weight_UT), strict=True):
            score_UV = score_UV + weight * self._with_new(term_UV)
        return score_UV

    def _terms(self, item_UT: Tensor, weight_UT: Tensor) -> list[Float[Tensor, "U V"]]:
        total_U1 = weight_UT.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        followed_UV = self.rules(item_UT, weight_UT) / total_U1
        found = [torch.log((1 - SMOOTHING) * followed_UV + SMOOTHING * self.share_V)]
        is_met_UT = item_UT != UNKNOWN_ITEM
        if self.ease is not None:
            found.append(self.ease(item_UT, (is_met_UT & ~_is_repeated(item_UT)).float()))
        if self.reads_own:
            found.append(torch.log1p(_summed(item_UT, is_met_UT.float(), len(self.share_V))))
        return found

    def _with_new(self, term_UV: Float[Tensor, "U V"]) -> Float[Tensor, "U V"]:
        """An item without events gets the mean of the rarest."""
        if not len(self.rarest_R):
            return torch.zeros_like(term_UV)
        mean_U1 = term_UV[:, self.rarest_R].mean(1, keepdim=True)
        return torch.where(self.is_counted_V, term_UV, mean_U1)


class OfUsers(nn.Module):
    """What users' own events add to the scores of actions, whatever the candidate."""

    def __init__(self, counts: ActionCounts, num_items: int) -> None:
        super().__init__()
        paying = [(action.kind, part, nth) for action in counts.actions if action.pay
                  for nth, part in enumerate(action.parts)]  # fmt: skip
        self.parts = nn.ModuleList(
            OfUser(part, columns_of(kind, nth, part), num_items) for kind, part, nth in paying
        )

    def forward(
        self,
        item_UT: Int64[Tensor, "U T"],
        action_UTA: Float[Tensor, "U T A"],
        inside_UT: Bool[Tensor, "U T"],
    ) -> Float[Tensor, "U X"]:
        """
        Args:
            inside_UT: whether the counts may read the event.
        """
        return torch.cat([part(item_UT, action_UTA, inside_UT) for part in self.parts], dim=1)


class OfUser(nn.Module):
    """The same of one part of one action. In fp64, since chances near 1 leave little to 1."""

    mean_VK: Tensor

    def __init__(self, part: WeighedPart, columns: Columns, num_items: int) -> None:
        super().__init__()
        self.counted, self.weights, self.columns = part.counted, part.weights, columns
        mean_VK = part.counted.means(np.arange(num_items + 1))
        self.register_buffer("mean_VK", torch.from_numpy(mean_VK))

    def forward(self, item_UT: Tensor, action_UTA: Tensor, inside_UT: Tensor) -> Float[Tensor, "U K"]:
        counted = self.counted
        y_UTK = self.columns(action_UTA[..., counted.action].double())
        is_known_UT = inside_UT & ~y_UTK[..., 0].isnan()
        y_UTK = torch.where(is_known_UT[..., None], y_UTK, 0.0)
        lacking_UTS = _to_sum(counted.part.scale, y_UTK, nn.functional.embedding(item_UT, self.mean_VK))
        weight_UT = _decayed(is_known_UT, counted.damping.decay)
        assert counted.damping.user is not None, "users count beside a model"
        shift_U_ = _shift(
            counted.part.scale,
            (lacking_UTS * weight_UT[..., None]).sum(1),
            counted.damping.user,
            counted.totals.mean_K,
        )
        added_U_ = float(self.weights.weight_T[-1]) * shift_U_ + self.weights.constant
        return added_U_.float().expand(-1, counted.num_columns)


class AddedToActions(nn.Module):
    """What is added to the scores of candidates: their items' rows of a table, and what their user adds."""

    item_VX: Tensor

    def __init__(self, counts: ActionCounts, num_items: int) -> None:
        super().__init__()
        table = [_of_items(part, num_items) for part in counts.paying]
        self.register_buffer("item_VX", torch.from_numpy(np.concatenate(table, axis=1, dtype=np.float32)))

    def forward(self, item_UC: Int64[Tensor, "U C"], user_UX: Float[Tensor, "U X"]) -> Float[Tensor, "U C X"]:
        return nn.functional.embedding(item_UC, self.item_VX) + user_UX[:, None]


def columns_of(kind: ActionKind, nth: int, part: WeighedPart) -> Columns:
    """How the labels of a part of an action are counted."""
    if kind.outcomes:
        table_NK = part.counted.part.columns(np.arange(len(kind.outcomes), dtype=np.float64))
        return partial(_rows_of, torch.from_numpy(table_NK))
    if not isinstance(kind, Amount):
        return lambda raw_UT: raw_UT[..., None]
    if not kind.zero_inflated:
        return lambda raw_UT: torch.log1p(raw_UT)[..., None]
    if nth == 0:
        return lambda raw_UT: torch.where(raw_UT.isnan(), torch.nan, (raw_UT > 0).double())[..., None]
    return lambda raw_UT: torch.log1p(torch.where(raw_UT > 0, raw_UT, torch.nan))[..., None]


def _rows_of(table_NK: Tensor, code_UT: Tensor) -> Tensor:
    is_known_UT = ~code_UT.isnan()
    row_UTK = nn.functional.embedding(torch.where(is_known_UT, code_UT, 0.0).long(), table_NK)
    return torch.where(is_known_UT[..., None], row_UTK, torch.nan)


def _of_items(part: WeighedPart, num_items: int) -> np.ndarray:
    counted = part.counted
    if not counted.reads_item:
        return np.zeros((num_items + 1, counted.num_columns))
    mean_VK = counted.means(np.arange(num_items + 1))
    return part.weights.weight_T[1] * counted.part.scale.score_of(mean_VK)


def _summed(to_UP: Int64[Tensor, "U P"], value_UP: Float[Tensor, "U P"], size: int) -> Float[Tensor, "U V"]:
    return torch.zeros(to_UP.shape[0], size).scatter_add(1, to_UP, value_UP)


def _is_repeated(item_UT: Int64[Tensor, "U T"]) -> Bool[Tensor, "U T"]:
    """Whether the item came before in the row."""
    place_T = torch.arange(item_UT.shape[1])
    is_same_UTT = (item_UT[:, :, None] == item_UT[:, None]) & (place_T[:, None] > place_T)
    return is_same_UTT.any(2)


def _decayed(is_known_UT: Bool[Tensor, "U T"], decay: float) -> Float[Tensor, "U T"]:
    """What events weigh whose label is known: less for each such event that came later."""
    known_UT = is_known_UT.long()
    later_UT = known_UT.sum(1, keepdim=True) - known_UT.cumsum(1)
    return torch.where(is_known_UT, decay ** later_UT.double(), 0.0)


def _to_sum(scale: EffectScale, y_UTK: Tensor, expected_UTK: Tensor) -> Float[Tensor, "U T S"]:
    """`EffectScale.to_sum`, in tensors."""
    match scale:
        case NumberEffects():
            return torch.cat([y_UTK - expected_UTK, torch.ones_like(y_UTK[..., :1])], dim=-1)
        case LogitEffects():
            less_UT1 = (y_UTK - expected_UTK).sum(-1, keepdim=True)
            return torch.cat([less_UT1, _information(expected_UTK)], dim=-1)
        case Shares():
            return torch.cat([y_UTK, expected_UTK], dim=-1)
        case _:
            raise AssertionError(f"{scale} is no scale of effects")


def _shift(scale: EffectScale, sum_US: Tensor, damping: float, mean_K: np.ndarray) -> Float[Tensor, "U _"]:
    """`EffectScale.shift`, in tensors."""
    mean_1K = torch.from_numpy(mean_K)[None]
    match scale:
        case NumberEffects():
            return sum_US[:, :-1] / (sum_US[:, -1:] + damping)
        case LogitEffects():
            return sum_US[:, :1] / (sum_US[:, 1:] + damping * _information(mean_1K))
        case Shares():
            observed_UK, expected_UK = (sum_US + damping * torch.cat([mean_1K, mean_1K], dim=1)).chunk(
                2, dim=1
            )
            return torch.log(observed_UK / expected_UK)
        case _:
            raise AssertionError(f"{scale} is no scale of effects")


def _information(mean: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape 1"]:
    return (mean * (1 - mean)).sum(-1, keepdim=True)
