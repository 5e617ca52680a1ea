"""Retrieval losses: how a hidden state learns to name the next item.

Shape letters: M hidden states (queries), D width, V rows of the item table (row 0 the unknown item),
S sampled negatives, U different targets of a batch.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from plait.limits import Between, check_numbers
from plait.nn.cross_entropy import chunked_cross_entropy
from plait.nn.encoders import ItemVectors
from plait.nn.sampling import Sampler, by_popularity, uniform
from plait.schema import UNKNOWN_ITEM
from plait.wording import setting

FULL_SOFTMAX_ITEMS = 20_000  # above, a full softmax costs more than the trunk that feeds it


@dataclass(frozen=True, kw_only=True)
class RetrievalLoss:
    """Which loss trains retrieval, and how a hidden state is compared with an item."""

    kind: Literal["auto", "full", "sampled", "info_nce"] = "auto"
    """full: a softmax over the catalogue. sampled: against drawn negatives. info_nce: against the batch's own targets.
    auto: full for a small catalogue, sampled for a large one (FULL_SOFTMAX_ITEMS)."""
    num_negatives: Annotated[int, Between(1, 2**24, "every position of a batch is compared with all")] = 256
    """How many "sampled" draws; all positions of a batch share them."""
    sampler: Literal["uniform", "popularity"] = "popularity"
    """How "sampled" draws them."""
    log_q: Literal["none", "negatives", "both"] = "negatives"
    """Correction of "sampled" and "info_nce" for how often an item serves as a negative. none: every negative
    counts as itself (SASRec, HSTU, LUM). negatives: each stands for 1 / its expected count, which is consistent with
    the full softmax. both: the target's score is corrected likewise (Yi et al., RecSys 2019)."""
    temperature: Annotated[float, Between(1e-4, 1e4, "beyond, logits overflow or are all alike")] = 1.0
    """What logits are divided by."""
    l2_norm: bool = False
    """Cosine instead of the inner product."""
    item_bias: Literal["none", "popularity", "learned"] = "none"
    """What is added to an item's logit, after the temperature. popularity: log(its training events + 0.5); a new item
    has the mean of the rarest tenth of the others. learned: the same and a trained term that starts at zero."""

    def __post_init__(self) -> None:
        check_numbers("model.retrieval.", self)
        self._check_bias()

    def _check_bias(self) -> None:
        """Raises ValueError where popular items serve as negatives more often, uncorrected: a bias by popularity is in
        such a loss already."""
        if self.item_bias == "none" or self.log_q != "none" or not self._draws_by_popularity:
            return
        drawn = setting("model.retrieval.sampler", "popularity")
        if self.kind == "info_nce":
            drawn = setting("model.retrieval.kind", "info_nce")
        raise ValueError(
            f"{setting('model.retrieval.item_bias', self.item_bias)} with {drawn} and "
            f"{setting('model.retrieval.log_q', 'none')}: popular items are negatives more often, and without a "
            f"correction such a loss has popularity already; take {setting('model.retrieval.log_q', 'negatives')}, or "
            f"{setting('model.retrieval.item_bias', 'none')}"
        )

    @property
    def _draws_by_popularity(self) -> bool:
        match self.kind:
            case "full":
                return False
            case "info_nce":
                return True
            case "sampled" | "auto":
                return self.sampler == "popularity"
            case _:
                assert_never(self.kind)

    def resolved(self, num_items: int) -> "RetrievalLoss":
        """`auto` made definite: exact up to FULL_SOFTMAX_ITEMS, sampled above.

        >>> RetrievalLoss(kind="auto").resolved(3_416).kind, RetrievalLoss(kind="auto").resolved(10**6).kind
        ('full', 'sampled')
        """
        if self.kind != "auto":
            return self
        return replace(self, kind="full" if num_items <= FULL_SOFTMAX_ITEMS else "sampled")

    def queries(self, hidden_MD: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
        """Hidden states, ready for an inner product with `keys`."""
        return (F.normalize(hidden_MD, dim=-1) if self.l2_norm else hidden_MD) / self.temperature

    def keys(self, item_VD: Float[Tensor, "V D"]) -> Float[Tensor, "V D"]:
        """Item vectors, ready for an inner product with `queries`."""
        return F.normalize(item_VD, dim=-1) if self.l2_norm else item_VD

    def logits(
        self,
        hidden_MD: Float[Tensor, "M D"],
        table_VD: Float[Tensor, "V D"],
        bias_V: Float[Tensor, " V"] | None = None,
    ) -> Float[Tensor, "M V"]:
        """Scores of the whole catalogue; column 0, the unknown item, is -inf."""
        logit_MV = (self.queries(hidden_MD) @ self.keys(table_VD).T).float()
        if bias_V is not None:
            logit_MV = logit_MV + bias_V
        logit_MV[:, UNKNOWN_ITEM] = -torch.inf
        return logit_MV

    def num_scored(self, num_items: int, num_queries: int) -> int:
        """Items that each query is compared with, at most: for counting FLOPs."""
        match self.resolved(num_items).kind:
            case "sampled":
                return 1 + self.num_negatives
            case "info_nce":
                return min(num_items, num_queries)
            case "full" | "auto":
                return num_items
            case kind:
                assert_never(kind)

    def make_sampler(self, count_V: Int64[Tensor, " V"], generator: torch.Generator) -> Sampler | None:
        """What `retrieval_loss` needs for this choice, from the training events of each item."""
        match self.resolved(len(count_V) - 1).kind:
            case "full" | "auto":
                return None
            case "info_nce":
                return None if self.log_q == "none" else by_popularity(count_V, generator)
            case "sampled" if self.sampler == "uniform":
                return uniform(len(count_V) - 1, generator)
            case "sampled":
                return by_popularity(count_V, generator)
            case kind:
                assert_never(kind)

    def draw_negatives(self, sampler: Sampler | None) -> Int64[Tensor, " S"] | None:
        """The negatives of a step, of a resolved choice; None where it compares with the whole catalogue, or with the
        batch's own targets."""
        assert self.kind != "auto", "resolved comes first"
        if self.kind != "sampled":
            return None
        assert sampler is not None, f"{self} takes a sampler: make_sampler(count_V)"
        return sampler.draw(self.num_negatives)


def retrieval_loss(
    choice: RetrievalLoss,
    hidden_MD: Float[Tensor, "M D"],
    items: ItemVectors,
    target_M: Int64[Tensor, " M"],
    sampler: Sampler | None = None,
    negative_S: Int64[Tensor, " S"] | None = None,
    bias_V: Float[Tensor, " V"] | None = None,
) -> Float[Tensor, ""]:
    """The mean loss over the positions whose target is known; 0 where there are none.

    Args:
        choice: resolved, not "auto".
        items: the whole catalogue for "full"; else the targets and the negatives are among them.
        target_M: the next item; positions where it is the unknown item do not count.
        sampler: what `choice.make_sampler` made.
        negative_S: what `choice.draw_negatives` drew.
        bias_V: what is added to the logit of each item of the catalogue.
    """
    if (target_M == UNKNOWN_ITEM).any():
        hidden_MD, target_M = hidden_MD[target_M != UNKNOWN_ITEM], target_M[target_M != UNKNOWN_ITEM]
    query_MD = choice.queries(hidden_MD)
    match choice.kind:
        case "full":
            assert items.item_U is None, "a full softmax is over the whole catalogue"
            return full_softmax(query_MD, choice.keys(items.vector_UD), target_M, bias_V)
        case "info_nce":
            positive_MD = choice.keys(items.of(target_M))
            if choice.log_q == "none":
                return in_batch_info_nce(query_MD, positive_MD, target_M, bias_M=_at(bias_V, target_M))
            log_q_M = _sampler_of(choice, sampler).log_q_V[target_M]
            corrects_target = choice.log_q == "both"
            return in_batch_info_nce(
                query_MD,
                positive_MD,
                target_M,
                log_q_M=log_q_M,
                correct_target=corrects_target,
                bias_M=_at(bias_V, target_M),
            )
        case "sampled":
            assert negative_S is not None, f"{choice} takes choice.draw_negatives(...)"
            log_q_V = _sampler_of(choice, sampler).log_q_V
            return sampled_softmax(
                query_MD,
                choice.keys(items.of(target_M)),
                choice.keys(items.of(negative_S)),
                target_M,
                negative_S,
                log_q_S=None if choice.log_q == "none" else log_q_V[negative_S],
                log_q_of_target_M=log_q_V[target_M] if choice.log_q == "both" else None,
                bias_S=_at(bias_V, negative_S),
                bias_of_target_M=_at(bias_V, target_M),
            )
        case "auto":
            raise AssertionError("resolved comes first")
        case _:
            assert_never(choice.kind)


def _at(bias_V: Tensor | None, item_N: Tensor) -> Tensor | None:
    return None if bias_V is None else bias_V[item_N]


def _sampler_of(choice: RetrievalLoss, sampler: Sampler | None) -> Sampler:
    assert sampler is not None, f"{choice} takes a sampler: choice.make_sampler(count_V, generator)"
    return sampler


def full_softmax(
    query_MD: Float[Tensor, "M D"],
    key_VD: Float[Tensor, "V D"],
    target_M: Int64[Tensor, " M"],
    bias_V: Float[Tensor, " V"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy over the whole catalogue, which begins at row 1, in chunks (`chunked_cross_entropy`)."""
    first = UNKNOWN_ITEM + 1
    bias_C = None if bias_V is None else bias_V[first:]
    return chunked_cross_entropy(query_MD, key_VD[first:], target_M - first, bias_C)


def sampled_softmax(
    query_MD: Float[Tensor, "M D"],
    positive_MD: Float[Tensor, "M D"],
    negative_SD: Float[Tensor, "S D"],
    target_M: Int64[Tensor, " M"],
    negative_S: Int64[Tensor, " S"],
    *,
    log_q_S: Float[Tensor, " S"] | None = None,
    log_q_of_target_M: Float[Tensor, " M"] | None = None,
    bias_S: Float[Tensor, " S"] | None = None,
    bias_of_target_M: Float[Tensor, " M"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of each target among itself and the negatives, which all queries share.

    A negative that is the query's own target (an accidental hit) does not compete.

    Args:
        log_q_S: log of the probability that one draw gives this negative. Its score is lowered by the log of
            its expected count, S * q, so that it stands for all the items that were not drawn: the softmax's
            denominator is then right in expectation. None: every negative counts as itself.
        log_q_of_target_M: the same of the target, to correct it like a negative (Yi et al., RecSys 2019,
            section 4.1; S cancels). None: the target is in the sum for certain, and keeps its score.
        bias_S, bias_of_target_M: part of the score of each negative and of each target.
    """
    score_M = (query_MD * positive_MD).sum(-1).float()
    score_MS = (query_MD @ negative_SD.T).float()
    if bias_S is not None and bias_of_target_M is not None:
        score_M, score_MS = score_M + bias_of_target_M, score_MS + bias_S
    if log_q_of_target_M is not None:
        score_M = score_M - log_q_of_target_M
    if log_q_S is not None:
        log_draws = math.log(len(negative_S)) if log_q_of_target_M is None else 0.0
        score_MS = score_MS - log_q_S - log_draws
    score_MS = score_MS.masked_fill(target_M[:, None] == negative_S, -torch.inf)
    normaliser_M = torch.cat([score_M[:, None], score_MS], dim=1).logsumexp(dim=1)
    return (normaliser_M - score_M).sum() / max(1, len(target_M))


def in_batch_info_nce(
    query_MD: Float[Tensor, "M D"],
    positive_MD: Float[Tensor, "M D"],
    target_M: Int64[Tensor, " M"],
    *,
    log_q_M: Float[Tensor, " M"] | None = None,
    correct_target: bool = False,
    bias_M: Float[Tensor, " M"] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of each target among the targets of the whole batch.

    Another position's target that is the same item (an accidental hit) does not compete. Computed over the
    different items, each weighted by how often it is there.

    Args:
        positive_MD: each target's vector; positions with the same target have the same vector.
        log_q_M: log of each target's share of the training events, because popular items are negatives more
            often. As `log_q_S` of `sampled_softmax`; `correct_target` makes it serve as `log_q_of_target_M`.
        bias_M: part of each target's score, for every query; positions with the same target have the same.
    """
    num_queries = len(target_M)
    place_M = torch.arange(num_queries, device=target_M.device)
    item_U, column_M, count_U = torch.unique(target_M, return_inverse=True, return_counts=True)
    first_U = torch.full_like(item_U, num_queries).scatter_reduce(0, column_M, place_M, "amin")
    bias_U, target_bias_M = count_U.float().log(), torch.zeros_like(target_M, dtype=torch.float32)
    if log_q_M is not None:
        log_draws = 0.0 if correct_target else math.log(max(1, num_queries - 1))
        bias_U = bias_U - log_q_M[first_U] - log_draws
        target_bias_M = -log_q_M if correct_target else target_bias_M
    if bias_M is not None:
        bias_U, target_bias_M = bias_U + bias_M[first_U], target_bias_M + bias_M
    return chunked_cross_entropy(query_MD, positive_MD[first_U], column_M, bias_U, target_bias_M)
