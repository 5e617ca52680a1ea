"""The bias of items in the softmax: what it is, and that every loss reads it as a part of each item's logit."""

from dataclasses import replace

import pytest
import torch
from tiny import assert_caught, started

from plait.nn import losses
from plait.nn.encoders import ItemVectors
from plait.nn.item_bias import ItemBias
from plait.nn.losses import RetrievalLoss, retrieval_loss
from plait.training.optimiser import roles_of

M, D, V = 19, 5, 12  # V rows: the unknown item and eleven items
COUNTS = torch.tensor([7, 0, 3, 40, 1, 2, 1, 0, 9, 5, 1, 90])  # row 0: events of unknown items
NEW, RAREST = [1, 7], [4, 6, 10]


def counted(kind: str, count_V: torch.Tensor = COUNTS) -> ItemBias:
    bias = started(ItemBias(len(count_V) - 1, kind))
    bias.count(count_V)
    return bias


@pytest.mark.parametrize("kind", ["popularity", "learned"])
def test_a_bias_begins_as_the_logarithm_of_events_and_new_items_are_like_the_rarest(kind):
    bias_V = counted(kind)()
    known = [item for item in range(1, V) if item not in NEW]
    torch.testing.assert_close(bias_V[known], (COUNTS[known] + 0.5).log())
    torch.testing.assert_close(bias_V[NEW], torch.full((2,), 1.5).log())
    assert bias_V[0] == 0


def test_the_rarest_tenth_is_of_the_items_that_training_meets_and_takes_all_equals():
    count_V = torch.cat([torch.zeros(50, dtype=torch.int64), torch.arange(1, 31), torch.tensor([3, 3])])
    bias = counted("popularity", count_V)  # 32 known items: the four rarest have 1, 2, 3 and 3 events
    assert count_V[bias.is_rare_V].tolist() == [1, 2, 3, 3, 3]
    torch.testing.assert_close(bias()[1], (count_V[bias.is_rare_V] + 0.5).log().mean())


@pytest.mark.parametrize(("known", "rarest"), [(10, 1), (40, 4), (100, 10)])
def test_a_tenth_is_a_tenth(known, rarest):
    bias = counted("popularity", torch.arange(known + 1))
    assert bias.is_rare_V.nonzero()[:, 0].tolist() == list(range(1, rarest + 1))


def test_where_no_item_has_events_all_are_alike():
    for kind in ("popularity", "learned"):
        assert not counted(kind, torch.zeros(V, dtype=torch.int64))().any()


def test_what_is_learned_of_new_items_is_what_the_rarest_learned():
    bias = counted("learned")
    (gradient_V,) = torch.autograd.grad(bias().sum(), bias.learned_V)
    assert not gradient_V[NEW].any(), "nothing moves a new item by itself"
    assert gradient_V[RAREST].tolist() == [1.0] * 3, "and it moves no other"
    before_V = bias().detach()
    with torch.no_grad():
        bias.learned_V.copy_(torch.arange(float(V)))
    found_V = (bias() - before_V).tolist()
    assert found_V == pytest.approx([mean if v in NEW else v for v in range(V) for mean in [20 / 3]])


@pytest.mark.parametrize("kind", ["popularity", "learned"])
def test_added_items_have_the_bias_of_new_ones_and_the_others_keep_theirs(kind):
    bias = counted(kind)
    if bias.learned_V is not None:
        torch.nn.init.normal_(bias.learned_V)
    grown = bias.with_items(3).with_items(1)
    torch.testing.assert_close(grown()[:V], bias())
    torch.testing.assert_close(grown()[V:], bias()[NEW[0]].expand(4))
    assert grown.is_new_V[V:].all() and not grown.is_rare_V[V:].any()


def test_a_learned_bias_does_not_decay():
    assert roles_of(ItemBias(3, "learned")) == {"learned_V": "bias"}
    assert not list(ItemBias(3, "popularity").parameters())


CHOICES = (
    RetrievalLoss(kind="full"),
    RetrievalLoss(kind="full", l2_norm=True),
    RetrievalLoss(kind="sampled", num_negatives=7),
    RetrievalLoss(kind="sampled", num_negatives=7, log_q="both", l2_norm=True),
    RetrievalLoss(kind="sampled", num_negatives=7, sampler="uniform", log_q="none"),
    RetrievalLoss(kind="sampled", num_negatives=7, sampler="uniform"),
    RetrievalLoss(kind="info_nce"),
    RetrievalLoss(kind="info_nce", log_q="both"),
)


def check_bias(choice: RetrievalLoss, biased=retrieval_loss) -> None:
    """A bias is one coordinate more: a key's last one, where the last one of every query, after the temperature, is 1.
    Loss and all gradients say so, of the bias too."""
    torch.manual_seed(0)
    choice = replace(choice, temperature=0.3, item_bias="learned")
    hidden_MD, table_VD = torch.randn(M, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
    bias_V, target_M = torch.randn(V, requires_grad=True), torch.randint(0, V, (M,))
    sampler = choice.make_sampler(COUNTS, torch.Generator().manual_seed(1))
    negative_S = choice.draw_negatives(sampler)
    fast = biased(choice, hidden_MD, ItemVectors(table_VD), target_M, sampler, negative_S, bias_V)
    query_ME = torch.cat([choice.queries(hidden_MD), torch.ones(M, 1)], dim=1)
    key_VE = torch.cat([choice.keys(table_VD), bias_V[:, None]], dim=1)
    plain = replace(choice, temperature=1.0, l2_norm=False)
    slow = retrieval_loss(plain, query_ME, ItemVectors(key_VE), target_M, sampler, negative_S)
    torch.testing.assert_close(fast, slow)
    without = retrieval_loss(choice, hidden_MD, ItemVectors(table_VD), target_M, sampler, negative_S)
    assert abs(without - fast) > 0.01, "the bias counts"
    leaves = hidden_MD, table_VD, bias_V
    for found, expected in zip(*(torch.autograd.grad(x, leaves) for x in (fast, slow)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert expected.any()


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_loss_reads_a_bias_as_part_of_the_logit(choice):
    check_bias(choice)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_a_bias_that_the_temperature_divides_is_caught(choice):
    def divided(choice, *inputs):
        *others, bias_V = inputs
        return retrieval_loss(choice, *others, bias_V / choice.temperature)

    assert_caught(check_bias, choice, divided)


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice.kind == "sampled"], ids=str)
def test_a_bias_of_negatives_alone_is_caught(choice, monkeypatch):
    right = losses.sampled_softmax

    def of_negatives(*args, bias_of_target_M=None, **kwargs):
        none_M = None if bias_of_target_M is None else torch.zeros_like(bias_of_target_M)
        return right(*args, bias_of_target_M=none_M, **kwargs)

    monkeypatch.setattr(losses, "sampled_softmax", of_negatives)
    assert_caught(check_bias, choice)


def test_the_logits_that_rank_have_the_bias_too():
    torch.manual_seed(0)
    choice = RetrievalLoss(temperature=0.2)
    hidden_MD, table_VD, bias_V = torch.randn(M, D), torch.randn(V, D), counted("popularity")()
    logit_MV = choice.logits(hidden_MD, table_VD, bias_V)
    assert (logit_MV[:, 0] == -torch.inf).all()
    torch.testing.assert_close(logit_MV[:, 1:], (hidden_MD @ table_VD.T / 0.2 + bias_V)[:, 1:])


def test_a_model_that_knows_nothing_of_the_user_tells_popularity_by_its_bias_alone():
    choice, target_M = RetrievalLoss(kind="full", item_bias="popularity"), torch.arange(1, V)
    count_V = COUNTS + 1
    states_MD, items = torch.zeros(V - 1, D), ItemVectors(torch.zeros(V, D))
    found = retrieval_loss(choice, states_MD, items, target_M, bias_V=count_V.log())
    share_M = count_V[1:] / count_V[1:].sum()
    torch.testing.assert_close(found, -share_M.log().mean())


@pytest.mark.parametrize("item_bias", ["popularity", "learned"])
@pytest.mark.parametrize(
    "choice",
    [
        {"kind": "info_nce"},
        {"kind": "info_nce", "sampler": "uniform"},
        {"kind": "sampled"},
        {"kind": "auto"},
    ],
)
def test_a_loss_that_has_popularity_already_takes_no_bias(choice, item_bias):
    message = f"model.retrieval.item_bias = '{item_bias}' with model.retrieval.*log_q = 'none': popular items"
    with pytest.raises(ValueError, match=message):
        RetrievalLoss(**choice, item_bias=item_bias, log_q="none")
    assert RetrievalLoss(**choice, log_q="none") and RetrievalLoss(**choice, item_bias=item_bias)


def test_a_loss_without_popular_negatives_takes_a_bias_uncorrected():
    assert RetrievalLoss(kind="sampled", sampler="uniform", log_q="none", item_bias="learned")
    assert RetrievalLoss(kind="full", log_q="none", item_bias="learned")
