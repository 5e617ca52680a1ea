import math

import pytest
import torch
import torch.nn.functional as F

from plait.nn.encoders import ItemVectors
from plait.nn.losses import RetrievalLoss, full_softmax, in_batch_info_nce, retrieval_loss, sampled_softmax
from plait.nn.sampling import by_popularity, uniform

M, D, V = 19, 5, 12  # V rows: the unknown item and eleven items


def problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(M, D, requires_grad=True),
        torch.randn(V, D, requires_grad=True),
        torch.randint(1, V, (M,)),
    )


def counts() -> torch.Tensor:
    return torch.arange(V) ** 2


def loss_of(choice, hidden, table, target, sampler=None) -> torch.Tensor:
    """With the vectors of the whole catalogue, and negatives drawn as a step draws them."""
    choice = choice.resolved(V - 1)
    negative = choice.draw_negatives(sampler)
    return retrieval_loss(choice, hidden, ItemVectors(table), target, sampler, negative)


def same(fast: torch.Tensor, slow: torch.Tensor, hidden: torch.Tensor, table: torch.Tensor) -> None:
    torch.testing.assert_close(fast, slow)
    gradients = [torch.autograd.grad(loss, (hidden, table)) for loss in (fast, slow)]
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right)
        assert right.any()


def test_full_softmax_leaves_the_unknown_item_out():
    hidden, table, target = problem()
    same(
        full_softmax(hidden, table, target), F.cross_entropy(hidden @ table[1:].T, target - 1), hidden, table
    )
    assert not torch.autograd.grad(full_softmax(hidden, table, target), table)[0][0].any()
    with_row_0 = F.cross_entropy(hidden @ table.T, target)
    assert not torch.isclose(full_softmax(hidden, table, target), with_row_0), "row 0 would have counted"


@pytest.mark.parametrize("choice", (RetrievalLoss(), RetrievalLoss(l2_norm=True, temperature=0.05)))
def test_the_loss_trains_the_logits_that_rank(choice):
    hidden, table, target = problem()
    logits = choice.logits(hidden, table)
    assert (logits[:, 0] == -torch.inf).all()
    same(loss_of(choice, hidden, table, target), F.cross_entropy(logits, target), hidden, table)


def test_l2_norm_compares_directions_only():
    hidden, table, target = problem()
    choice = RetrievalLoss(l2_norm=True, temperature=0.5)
    loss = loss_of(choice, hidden, table, target)
    torch.testing.assert_close(loss_of(choice, 7 * hidden, table / 3, target), loss)
    cosine = F.cosine_similarity(hidden[:, None], table[None], dim=-1)
    torch.testing.assert_close(choice.logits(hidden, table)[:, 1:], cosine[:, 1:] / 0.5)


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(1)


KINDS = (
    RetrievalLoss(),
    RetrievalLoss(kind="sampled", num_negatives=7),
    RetrievalLoss(kind="sampled", num_negatives=7, sampler="uniform", log_q="none"),
    RetrievalLoss(kind="info_nce", log_q="none"),
    RetrievalLoss(kind="info_nce", log_q="both"),
)


@pytest.mark.parametrize("choice", KINDS)
def test_positions_with_an_unknown_target_do_not_count(choice):
    hidden, table, target = problem()
    gaps = torch.cat([target, torch.zeros(3, dtype=torch.int64)])
    longer = torch.cat([hidden, torch.randn(3, D)])
    losses = []
    for states, targets in ((hidden, target), (longer, gaps)):
        sampler = choice.make_sampler(counts(), draws())  # the same negatives
        losses.append(loss_of(choice, states, table, targets, sampler))
    assert losses[0] == losses[1] > 0
    nothing = loss_of(choice, longer, table, torch.zeros_like(gaps), sampler)
    assert nothing == 0
    assert not torch.autograd.grad(nothing, table)[0].any()


@pytest.mark.parametrize("choice", KINDS)
def test_every_kind_teaches_the_targets(choice):
    """A gradient step raises the targets' log-probability over the whole catalogue."""
    hidden, table, target = problem()
    loss = loss_of(choice, hidden, table, target, choice.make_sampler(counts(), draws()))
    gradient = torch.autograd.grad(loss, hidden)[0]
    before, after = (full_softmax(hidden - step * gradient, table, target) for step in (0.0, 1.0))
    assert after < before


@pytest.mark.parametrize("correct_target", (False, True))
def test_all_items_as_negatives_are_the_full_softmax(correct_target):
    hidden, table, target = problem()
    negative = torch.arange(1, V)
    log_q = uniform(V - 1, draws()).log_q_V
    sampled = sampled_softmax(
        hidden,
        table[target],
        table[negative],
        target,
        negative,
        log_q_S=log_q[negative],
        log_q_of_target_M=log_q[target] if correct_target else None,
    )
    same(sampled, full_softmax(hidden, table, target), hidden, table)


def test_drawing_the_target_does_not_make_it_its_own_rival():
    hidden, table, target = problem()
    hidden, target = hidden[:1], target[:1]
    negative = torch.arange(1, V)
    own = target.expand(100)
    without = sampled_softmax(hidden, table[target], table[negative], target, negative)
    crowded = torch.cat([negative, own])
    torch.testing.assert_close(
        sampled_softmax(hidden, table[target], table[crowded], target, crowded), without
    )
    assert sampled_softmax(hidden, table[target], table[own], target, own) == 0


def test_corrected_popular_negatives_approach_the_full_softmax():
    """With many draws; uncorrected, popular items weigh too much and the loss is another one."""
    hidden, table, target = problem()
    full = full_softmax(hidden, table, target).item()

    def loss(log_q: str) -> float:
        choice = RetrievalLoss(kind="sampled", num_negatives=100_000, log_q=log_q)
        return loss_of(choice, hidden, table, target, choice.make_sampler(counts(), draws())).item()

    assert loss("negatives") == pytest.approx(full, rel=0.01)
    assert abs(loss("none") - full) > 1
    assert abs(loss("both") - full) > 0.05


def test_in_batch_negatives_by_the_plain_matrix():
    """Every position's target against all others of the batch; the batch repeats items."""
    hidden, table, target = problem()
    assert len(target.unique()) < M
    hit = (target[:, None] == target) & ~torch.eye(M, dtype=torch.bool)
    log_q = by_popularity(counts(), draws()).log_q_V[target]
    shifts = {
        (None, False): torch.zeros(M, M),
        (log_q, True): -log_q.expand(M, M),
        (log_q, False): (-log_q - math.log(M - 1)).expand(M, M) * ~torch.eye(M, dtype=torch.bool),
    }
    losses = []
    for (log_q_M, correct_target), shift in shifts.items():
        plain = F.cross_entropy(
            (hidden @ table[target].T + shift).masked_fill(hit, -torch.inf), torch.arange(M)
        )
        fast = in_batch_info_nce(
            hidden, table[target], target, log_q_M=log_q_M, correct_target=correct_target
        )
        same(fast, plain, hidden, table)
        losses.append(fast.item())
    assert len({round(loss, 3) for loss in losses}) == 3, "the corrections differ"


def test_one_position_has_no_rivals():
    hidden, table, target = problem()
    log_q = uniform(V - 1, draws()).log_q_V[target[:1]]
    assert in_batch_info_nce(hidden[:1], table[target[:1]], target[:1], log_q_M=log_q) == 0


@pytest.mark.parametrize(
    "sampler", (uniform(V - 1, draws()), by_popularity(counts(), draws())), ids=("uniform", "popularity")
)
def test_draws_follow_the_probabilities(sampler):
    num = 200_000
    share = torch.bincount(sampler.draw(num), minlength=V) / num
    probability = sampler.log_q_V.exp()
    assert share[0] == 0
    assert ((share - probability).abs() <= 5 * (probability / num) ** 0.5).all()
    assert probability.sum().item() == pytest.approx(1)
    assert (probability[1:] > 0).all(), "no item is impossible"


def test_the_lowest_point_is_the_first_item_not_the_unknown_one(monkeypatch):
    def lowest(num, *, dtype, device, generator):
        return torch.zeros(num, dtype=dtype, device=device)

    monkeypatch.setattr(torch, "rand", lowest)
    assert uniform(3, draws()).draw(2).tolist() == [1, 1]


def test_popularity_is_the_count_plus_one():
    probability = by_popularity(torch.tensor([9, 0, 3]), draws()).log_q_V.exp()
    torch.testing.assert_close(probability, torch.tensor([0.0, 0.2, 0.8]))


def test_a_sampler_is_made_where_one_is_needed():
    made = [choice.make_sampler(counts(), draws()) for choice in KINDS]
    assert [sampler is None for sampler in made] == [True, False, False, True, False]
    assert made[2].log_q_V[1:].unique().numel() == 1 < made[1].log_q_V[1:].unique().numel()
    with pytest.raises(AssertionError, match="takes a sampler"):
        loss_of(KINDS[1], *problem())


def test_scored_items_are_counted():
    assert [choice.num_scored(11, M) for choice in KINDS] == [11, 8, 8, 11, 11]
    assert KINDS[3].num_scored(11, 3) == 3


@pytest.mark.parametrize("changes", ({"temperature": 0.0}, {"num_negatives": 0}))
def test_settings_without_meaning_are_refused(changes):
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=rf"model.retrieval.{name} = {value}: expected"):
        RetrievalLoss(**changes)
