"""The catalogue in order of its scores: the best items, and where one item stands.

Equal scores are ranked by catalogue order. Items that are described alike share one vector and so one score, to the
bit, but for their bias where the model has one: which is why a list of any length begins with the shorter one, whatever
else is asked at the same time.

Shape letters: U users, V items of the catalogue, W different vectors among them, D width, C items of a part of the
catalogue, I rows of the item table (row 0 the unknown item), K items returned, F items found so far, S seen items of
all users laid end to end, N rows, X numbers that describe an item, J groups of G columns.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plait.engine import steps
from plait.models.generative import GenerativeRecommender
from plait.models.two_tower import TwoTower
from plait.nn.encoders import ItemEncoder
from plait.nn.losses import RetrievalLoss
from plait.schema import UNKNOWN_ITEM, EventBatch

FIRST_ITEM = UNKNOWN_ITEM + 1
GROUP = 128  # scores of which the highest is looked at first
WORTH_GROUPING = 4  # times as many groups as are wanted items, before that pays


@dataclass(frozen=True)
class Seen:
    """Items that users do not want to see again: user u those of `item_S[start_U1[u] : start_U1[u + 1]]`."""

    start_U1: Int64[np.ndarray, " U1"]
    item_S: Int64[np.ndarray, " S"]

    @classmethod
    def joined(cls, seen_U: Sequence[Int64[np.ndarray, " _"]]) -> "Seen":
        return cls(np.cumsum([0, *map(len, seen_U)]), np.concatenate(seen_U))

    def of(self, users: slice) -> "Seen":
        start_u1 = self.start_U1[users.start : users.stop + 1]
        return Seen(start_u1 - start_u1[0], self.item_S[start_u1[0] : start_u1[-1]])


@dataclass(frozen=True)
class Scores:
    """Some items of the catalogue and their scores."""

    item_C: Int64[Tensor, " C"]
    score_UC: Float[Tensor, "U C"]


@dataclass(frozen=True)
class AddedScores:
    """What counts add to the scores of the catalogue."""

    model_weight: float  # of the logits
    added_UI: Float[Tensor, "U I"]  # by dense item

    def to(self, score_UC: Float[Tensor, "U C"], item_C: Int64[Tensor, " C"]) -> Float[Tensor, "U C"]:
        return self.model_weight * score_UC + self.added_UI[:, item_C]


def beside_of(model: GenerativeRecommender, histories: EventBatch) -> AddedScores | None:
    """What counts say after histories as the model reads them, its window and no more; None where none are combined."""
    counts = None if model.counts is None else model.counts.items
    if counts is None or not counts.pay:
        return None
    added_UI = counts.added(histories.item_E, histories.start_U1, model.config.num_items)
    device = next(model.parameters()).device
    return AddedScores(float(counts.weight_T[0]), torch.from_numpy(added_UI).to(device))


@dataclass(frozen=True)
class Catalogue:
    """The items to rank. Computed once for many questions, while the weights stay as they are."""

    retrieval: RetrievalLoss
    key_WD: Float[Tensor, "W D"]
    item_V: Int64[Tensor, " V"]  # every item once, those of one vector together
    start_W1: Int64[np.ndarray, " W1"]  # where the items of each vector begin
    bias_I: Float[Tensor, " I"] | None = None  # added to each item's score, whoever asks

    def __len__(self) -> int:
        return len(self.item_V)

    @property
    def users_per_step(self) -> int:
        """How many users are scored at a time: depends on nothing that is asked, so that no answer does."""
        return steps.rows_per_step(len(self))

    def scored(
        self, state_UD: Float[Tensor, "U D"], beside: AddedScores | None = None
    ) -> Callable[[], Iterable[Scores]]:
        """Gives the scores as `parts` does, at every call the same; computed once where they are a single part."""
        if len(self) > steps.rows_per_step(len(state_UD)):
            return partial(self.parts, state_UD, beside)
        whole = tuple(self.parts(state_UD, beside))
        return lambda: whole

    def parts(self, state_UD: Float[Tensor, "U D"], beside: AddedScores | None = None) -> Iterator[Scores]:
        """The scores of all items, in fp32, as many at a time as `STEP_LOGITS` allows.

        Args:
            beside: of the same users, where counts are combined with the model.

        Raises:
            ValueError: a score is NaN.
        """
        query_UD, most = self.retrieval.queries(state_UD), steps.rows_per_step(len(state_UD))
        for vectors in steps.even(len(self.key_WD), most):
            score_Uw = (query_UD @ self.key_WD[vectors].T).float()
            _check_scores(score_Uw)
            first, last = (int(self.start_W1[at]) for at in (vectors.start, vectors.stop))
            for places in steps.even(last - first, most):
                item_C = self.item_V[first + places.start : first + places.stop]
                score_UC = score_Uw
                if last - first > score_Uw.shape[1]:
                    score_UC = score_Uw.index_select(1, self._vectors_of(vectors, first, places))
                if self.bias_I is not None:
                    score_UC = score_UC + self.bias_I[item_C]
                    _check_scores(score_UC)
                yield Scores(item_C, score_UC if beside is None else beside.to(score_UC, item_C))

    def _vectors_of(self, vectors: slice, first: int, places: slice) -> Tensor:
        """Which of some vectors the items at these places have."""
        end_W = self.start_W1[vectors.start + 1 : vectors.stop + 1] - first
        vector_C = np.searchsorted(end_W, np.arange(places.start, places.stop), side="right")
        return torch.from_numpy(vector_C).to(self.item_V.device)


@torch.no_grad()
def keys_of_items(model: GenerativeRecommender) -> Float[Tensor, "V D"]:
    """What interests are compared with, for every item of the catalogue in its order: the inner product with what
    `query` answers is their similarity.

    Source: the LUM paper, section 4.3: e_i.
    """
    catalogue = catalogue_of(model)
    length_W = torch.from_numpy(np.diff(catalogue.start_W1)).to(catalogue.item_V.device)
    key_VD = catalogue.key_WD.repeat_interleave(length_W, dim=0)
    return key_VD[catalogue.item_V.argsort()]


@torch.no_grad()
def catalogue_of(model: GenerativeRecommender) -> Catalogue:
    """All items of a model in evaluation mode, outside of autocast."""
    items, retrieval = model.items, model.retrieval
    assert items is not None, "a layout that predicts items reads them"
    bias_I = model.bias_of_items()
    if not items.features:
        table_VD = items.table()[FIRST_ITEM:]
        item_V = torch.arange(FIRST_ITEM, items.num_items + 1, device=table_VD.device)
        key_VD = retrieval.keys(model.compared(table_VD, item_V))
        return Catalogue(retrieval, key_VD, item_V, np.arange(len(item_V) + 1), bias_I)
    like_V = first_alike(items)
    if isinstance(model, TwoTower):  # a user model tells apart what has features alike
        like_V = torch.arange(FIRST_ITEM, items.num_items + 1, device=like_V.device)
    first_W, count_W = like_V.unique(return_counts=True)
    at_a_time = steps.even(len(first_W), steps.rows_per_step(items.project.in_features))
    key_WD = retrieval.keys(
        torch.cat([model.compared(items(first_W[part]), first_W[part]) for part in at_a_time])
    )
    start_W1 = np.concatenate([[0], count_W.cumsum(0).cpu().numpy()])
    return Catalogue(retrieval, key_WD, like_V.argsort(stable=True) + FIRST_ITEM, start_W1, bias_I)


def first_alike(items: ItemEncoder) -> Int64[Tensor, " V"]:
    """For every item of the catalogue the first one that is described as it is; itself where it has an id's vector."""
    like_V = torch.arange(FIRST_ITEM, items.num_items + 1, device=items.is_new_V.device)
    if items.embedding is not None:
        item_N = like_V[items.is_new_V[FIRST_ITEM:]]
    else:
        item_N = like_V
    if not len(item_N):
        return like_V
    width = items.code_VC.shape[1] + items.vector_VX.shape[1]
    at_a_time = list(steps.even(len(item_N), steps.rows_per_step(4 * width)))
    digest_N = torch.cat([_digests(_description(items, item_N[part])) for part in at_a_time])
    _, group_N = digest_N.unique(return_inverse=True)
    first_N = torch.full_like(item_N, items.num_items).scatter_reduce(0, group_N, item_N, "amin")[group_N]
    same_N = torch.cat(
        [
            (_description(items, item_N[part]) == _description(items, first_N[part])).all(1)
            for part in at_a_time
        ]
    )
    like_V[item_N - FIRST_ITEM] = torch.where(same_N, first_N, item_N)  # unlike: two digests met by chance
    return like_V


def _description(items: ItemEncoder, item_N: Tensor) -> Int64[Tensor, "N X"]:
    """All that the vectors of new items are made from, bit by bit."""
    bits_NX = items.vector_VX[item_N].float().view(torch.int32)
    return torch.cat([items.code_VC[item_N].long(), bits_NX.long()], dim=1)


def _digests(bits_NX: Int64[Tensor, "N X"]) -> Int64[Tensor, " N"]:
    """Equal for equal rows, and nearly never else: integer sums are exact, in any order."""
    odd_X = torch.arange(1, bits_NX.shape[1] + 1, device=bits_NX.device) * 0x1E3779B97F4A7C15 | 1
    return ((bits_NX + 0x51ED270B) * odd_X * 0x2545F4914F6CDD1D).sum(1)


def _check_scores(score_UC: Tensor) -> None:
    bad_U = score_UC.amax(1).isnan().nonzero()
    if len(bad_U):
        user = int(bad_U[0])
        raise ValueError(
            f"query {user} has NaN for {int(score_UC[user].isnan().sum())} of {score_UC.shape[1]} scores; a NaN has no "
            "rank, look for the step in which the model diverged"
        )


def without(part: Scores, seen: Seen | None) -> Scores:
    """The part itself, in which the items that a user has seen score -inf from now on: what serving filters, and what
    evaluation does."""
    if seen is None:
        return part
    place_I = places(part, int(seen.item_S.max(initial=0)))
    of_user_S = np.repeat(np.arange(len(seen.start_U1) - 1), np.diff(seen.start_U1))
    user_S, item_S = (torch.from_numpy(x).to(place_I.device) for x in (of_user_S, seen.item_S))
    place_S = place_I[item_S]
    inside_S = place_S >= 0  # the unknown item is in no part
    part.score_UC[user_S[inside_S], place_S[inside_S]] = -torch.inf
    return part


def places(part: Scores, last: int) -> Int64[Tensor, " I"]:
    """The column of each item up to the last one, -1 where it is not in the part."""
    last = max(last, int(part.item_C.max()))
    place_I = torch.full((last + 1,), -1, device=part.item_C.device)
    place_I[part.item_C] = torch.arange(len(part.item_C), device=part.item_C.device)
    return place_I


def best(
    score_UC: Float[Tensor, "U C"], item_UC: Int64[Tensor, "U C"], k: int
) -> tuple[Float[Tensor, "U K"], Int64[Tensor, "U K"]]:
    """The `k` highest scores of every user and their items, best first; of equal ones the lower item first.

    `torch.topk` alone promises nothing about equal scores: which of them it takes depends on `k` and the place.

    >>> best(torch.tensor([[0.5, 2.0, 0.5, 0.5]]), torch.tensor([[4, 7, 9, 1]]), 3)
    (tensor([[2.0000, 0.5000, 0.5000]]), tensor([[7, 1, 4]]))
    """
    score_UC, item_UC = _narrowed(score_UC, item_UC, k)
    top = score_UC.topk(k)
    column_UK, least_U1 = top.indices, top.values[:, -1:]
    for user in ((score_UC >= least_U1).sum(1) > k).nonzero()[:, 0].tolist():
        above = int((top.values[user] > least_U1[user]).sum())
        tied_C = (score_UC[user] == least_U1[user]).nonzero()[:, 0]
        column_UK[user, above:] = tied_C[item_UC[user, tied_C].argsort()[: k - above]]
    item_UK, by_item_UK = item_UC.gather(1, column_UK).sort(dim=1)
    score_UK = score_UC.gather(1, column_UK.gather(1, by_item_UK))
    score_UK, by_score_UK = score_UK.sort(dim=1, descending=True, stable=True)
    return score_UK, item_UK.gather(1, by_score_UK)


def _narrowed(
    score_UC: Float[Tensor, "U C"], item_UC: Int64[Tensor, "U C"], k: int
) -> tuple[Float[Tensor, "U c"], Int64[Tensor, "U c"]]:
    """Fewer columns, where there are many, that hold all scores as high as the k-th one. It stands in a group whose
    highest is as high: of those there are k, but where groups tie."""
    num_grouped = score_UC.shape[1] // GROUP * GROUP
    if num_grouped < WORTH_GROUPING * k * GROUP:
        return score_UC, item_UC
    score_UJG, item_UJG = (x_UC[:, :num_grouped].unflatten(1, (-1, GROUP)) for x_UC in (score_UC, item_UC))
    group_Uj = _highest_groups(score_UJG.amax(2), k)
    if group_Uj is None:
        return score_UC, item_UC
    group_UjG = group_Uj[:, :, None].expand(-1, -1, GROUP)
    rest_Ur = score_UC[:, num_grouped:], item_UC[:, num_grouped:]
    pairs = zip((score_UJG, item_UJG), rest_Ur, strict=True)
    score_Uc, item_Uc = (torch.cat([x.gather(1, group_UjG).flatten(1), rest], dim=1) for x, rest in pairs)
    return score_Uc, item_Uc


def _highest_groups(highest_UJ: Float[Tensor, "U J"], k: int) -> Int64[Tensor, "U j"] | None:
    """The groups whose highest score is as high as the k-th one; None where many tie."""
    least_U1 = highest_UJ.topk(k).values[:, -1:]
    num_chosen = int((highest_UJ >= least_U1).sum(1).max())
    return highest_UJ.topk(num_chosen).indices if num_chosen <= 2 * k else None


def best_of_parts(parts: Iterable[Scores], k: int) -> tuple[Float[Tensor, "U K"], Int64[Tensor, "U K"]]:
    """As `best`, of the whole catalogue."""
    found: tuple[Tensor, Tensor] | None = None
    for part in parts:
        found = joined_best(found, part, k)
    assert found is not None and found[0].shape[1] == k, "the caller checks that so many items are left"
    return found


def joined_best(
    found: tuple[Float[Tensor, "U F"], Int64[Tensor, "U F"]] | None, part: Scores, k: int
) -> tuple[Float[Tensor, "U K"], Int64[Tensor, "U K"]]:
    """As `best`, of one part of the catalogue more than what was found; of fewer than `k` items all."""
    item_UC = part.item_C.expand_as(part.score_UC)
    of_part = best(part.score_UC, item_UC, min(k, len(part.item_C)))
    if found is None:
        return of_part
    score_UC, item_UC = (torch.cat(pair, dim=1) for pair in zip(found, of_part, strict=True))
    return best(score_UC, item_UC, min(k, score_UC.shape[1]))


def scores_at(parts: Iterable[Scores], item_UN: Int64[np.ndarray, "U N"]) -> Float[Tensor, "U N"]:
    """The scores of some items of each user, read from those of the catalogue: two kernels round one product
    differently, and an item would stand above or below itself."""
    found_UN: Tensor | None = None
    for part in parts:
        place_I = places(part, int(item_UN.max()))
        place_UN = place_I[torch.from_numpy(item_UN).to(place_I.device)]
        score_UN = part.score_UC.gather(1, place_UN.clamp(min=0))
        if found_UN is None:
            found_UN = torch.full_like(score_UN, torch.nan)
        found_UN = torch.where(place_UN >= 0, score_UN, found_UN)
    assert found_UN is not None, "a catalogue has items"
    return found_UN
