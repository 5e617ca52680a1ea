import math

import pytest
import torch
import torch.nn.functional as F

from plait.nn import cross_entropy
from plait.nn.cross_entropy import chunked_cross_entropy

M, D, C = 23, 7, 31


def problem(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    query, key = (scale * torch.randn(n, D) for n in (M, C))
    return query.to(dtype).requires_grad_(), key.to(dtype).requires_grad_(), torch.randint(C, (M,))


def loss_and_gradients(function, query, key, *rest):
    loss = function(query, key, *rest)
    return [x.float() for x in (loss.detach(), *torch.autograd.grad(3 * loss, (query, key)))]


def plain(query, key, target, bias=None, target_bias=None):
    logit = query @ key.T
    if bias is not None:
        own = logit.gather(1, target[:, None])
        own = own + (bias[target] if target_bias is None else target_bias)[:, None]
        logit = (logit + bias).scatter(1, target[:, None], own)
    return F.cross_entropy(logit.float(), target)


@pytest.mark.parametrize("chunk", (1, 5, M, 10 * M))
@pytest.mark.parametrize("biases", (0, 1, 2))
def test_equals_plain_cross_entropy_for_every_chunk_size(chunk, biases, monkeypatch):
    monkeypatch.setattr(cross_entropy, "MIN_CHUNK_QUERIES", chunk)
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK_LOGITS", C)
    rest = (torch.randn(C), torch.randn(M))[:biases]
    found = loss_and_gradients(chunked_cross_entropy, *problem(), *rest)
    for fast, slow in zip(found, loss_and_gradients(plain, *problem(), *rest), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
        assert slow.abs().max() > 0.01


@pytest.mark.parametrize("chunk", (1, 5, 10 * M))
@pytest.mark.parametrize("learned", ((0,), (1,), (0, 1)))
def test_biases_that_are_learned_get_the_gradients_of_plain_cross_entropy(chunk, learned, monkeypatch):
    """Also where queries and keys are fixed, and where only one of the two biases is learned."""
    monkeypatch.setattr(cross_entropy, "MIN_CHUNK_QUERIES", chunk)
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK_LOGITS", C)
    query, key, target = (x.detach() for x in problem())
    biases = [torch.randn(C), torch.randn(M)]
    leaves = [biases[place].requires_grad_() for place in learned]
    for rest in (biases, biases[:1]) if 0 in learned else (biases,):
        asked = [leaf for leaf in leaves if any(leaf is bias for bias in rest)]
        fast, slow = (
            torch.autograd.grad(3 * function(query, key, target, *rest), asked)
            for function in (chunked_cross_entropy, plain)
        )
        for found, expected in zip(fast, slow, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
            assert expected.abs().max() > 0.01


@pytest.mark.parametrize(("most", "queries"), [(10 * C, 10), (C, 1), (C - 1, 1)])
def test_never_more_logits_at_a_time_than_the_most(most, queries, monkeypatch):
    """However few queries that leaves to a chunk."""
    right, held = cross_entropy._log_probabilities, []

    def log_probabilities(logit_BC, *more):
        held.append(len(logit_BC))
        return right(logit_BC, *more)

    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", most)
    monkeypatch.setattr(cross_entropy, "_log_probabilities", log_probabilities)
    found = loss_and_gradients(chunked_cross_entropy, *problem())
    assert max(held) == queries and sum(held) == M
    for fast, slow in zip(found, loss_and_gradients(plain, *problem()), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)


def test_the_biases_do_something():
    losses = [chunked_cross_entropy(*problem(), *rest) for rest in ((), (torch.ones(C).cumsum(0),))]
    assert abs(losses[0] - losses[1]) > 0.1
    bias, target_bias = torch.zeros(C), torch.ones(M)
    assert chunked_cross_entropy(*problem(), bias, target_bias) < losses[0]
    torch.testing.assert_close(
        chunked_cross_entropy(*problem(), None, target_bias), plain(*problem(), bias, target_bias)
    )


def test_a_candidate_with_bias_minus_infinity_is_out():
    query, key, target = problem()
    target = target.clamp(min=1)
    bias = torch.zeros(C).index_fill(0, torch.tensor([0]), -torch.inf)
    _, _, key_gradient = loss_and_gradients(chunked_cross_entropy, query, key, target, bias)
    torch.testing.assert_close(
        chunked_cross_entropy(query, key, target, bias), F.cross_entropy(query @ key[1:].T, target - 1)
    )
    assert not key_gradient[0].any() and key_gradient[1:].any()


def test_gradients_agree_with_differences():
    query, key, target = problem()
    _, gradient, _ = loss_and_gradients(chunked_cross_entropy, query, key, target)
    direction, step = torch.randn(M, D), 1e-2
    with torch.no_grad():
        up, down = (chunked_cross_entropy(query + s * direction, key, target) for s in (step, -step))
    assert 3 * (up - down).item() / (2 * step) == pytest.approx((gradient * direction).sum().item(), rel=1e-2)


@pytest.mark.parametrize("under_autocast", (False, True))
def test_bf16_gradients_are_within_one_percent(under_autocast):
    """Against fp32 on the same, rounded, inputs."""
    rounded = problem(torch.bfloat16)
    exact = loss_and_gradients(plain, *(x.detach().float().requires_grad_() for x in rounded[:2]), rounded[2])
    if under_autocast:
        with torch.autocast("cpu", torch.bfloat16):
            found = loss_and_gradients(chunked_cross_entropy, *problem())
    else:
        found = loss_and_gradients(chunked_cross_entropy, *rounded)
    for fast, slow in zip(found, exact, strict=True):
        assert 0 < (fast - slow).norm() < 0.01 * slow.norm()


def test_bf16_sums_are_made_in_fp32(monkeypatch):
    """600 equal queries in chunks of one: a sum in bf16 would stop growing at 256, and log(31) has 8 bits there."""
    monkeypatch.setattr(cross_entropy, "MIN_CHUNK_QUERIES", 1)
    monkeypatch.setattr(cross_entropy, "CPU_CHUNK_LOGITS", 1)
    query, key = torch.ones(600, D, dtype=torch.bfloat16), torch.zeros(C, D, dtype=torch.bfloat16)
    loss = chunked_cross_entropy(query, key.requires_grad_(), torch.zeros(600, dtype=torch.int64))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(C), rel=1e-5)
    expected = torch.full((C,), 1 / C) - torch.eye(C)[0]
    torch.testing.assert_close(key.grad[:, 0].float(), expected, rtol=0.01, atol=0)


def test_gradients_have_their_parameters_types():
    query, key, target = problem()
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_cross_entropy(query.bfloat16(), key, target)
    loss.backward()
    assert loss.dtype == key.grad.dtype == query.grad.dtype == torch.float32


def test_far_logits_stay_finite():
    found = loss_and_gradients(chunked_cross_entropy, *problem(scale=30.0))
    assert all(x.isfinite().all() for x in found) and found[0] > 100


def test_no_queries_no_loss():
    query, key = torch.empty(0, D, requires_grad=True), torch.randn(C, D, requires_grad=True)
    loss, _, key_gradient = loss_and_gradients(
        chunked_cross_entropy, query, key, torch.empty(0, dtype=torch.int64)
    )
    assert loss == 0 and not key_gradient.any()


def test_without_gradients_none_are_computed(monkeypatch):
    expected = chunked_cross_entropy(*problem()).item()
    monkeypatch.delattr(cross_entropy, "_minus_one_at")  # needed for gradients alone
    with torch.no_grad():
        assert chunked_cross_entropy(*problem()).item() == expected
    with pytest.raises(NameError):
        chunked_cross_entropy(*problem())
