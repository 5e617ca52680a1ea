import pytest
import torch

from plait.nn.dropout import Dropout, draw_from, random_bytes

NUM = 100_003  # no multiple of eight


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dropout_of(p: float) -> Dropout:
    dropout = Dropout(p)
    draw_from(dropout, generator())
    return dropout


def lanes_are_uniform(byte: torch.Tensor) -> bool:
    """Whether each of the eight bytes of a word is below 51 as often as 51 / 256 says (5 standard errors)."""
    lane = (byte[: NUM // 8 * 8].view(-1, 8) < 51).float().mean(0)
    share = 51 / 256
    return bool(((lane - share).abs() < 5 * (share * (1 - share) / (NUM // 8)) ** 0.5).all())


def test_every_byte_of_a_word_is_random():
    assert random_bytes(NUM, generator()).shape == (NUM,)
    assert lanes_are_uniform(random_bytes(NUM, generator()))
    words = torch.empty((NUM + 7) // 8, dtype=torch.int64)
    positive = words.random_(generator=generator())  # torch's default leaves the sign out
    assert not lanes_are_uniform(positive.view(torch.uint8)), "the check must notice a constant bit"


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_drops_the_share_it_says_and_keeps_the_mean(dtype):
    out = dropout_of(0.2)(torch.ones(NUM, dtype=dtype))
    assert out.dtype == dtype
    keep = 1 - 51 / 256  # 0.2 rounded to a 256th
    assert out.unique().float().tolist() == pytest.approx(
        [0.0, 1 / keep], rel=1e-2 if dtype == torch.bfloat16 else 1e-6
    )
    assert (out > 0).float().mean().item() == pytest.approx(keep, abs=5 * (0.16 / NUM) ** 0.5)
    assert out.float().mean().item() == pytest.approx(1, abs=0.01)


def test_neighbours_are_dropped_independently():
    dropped = dropout_of(0.5)(torch.ones(NUM)) == 0
    both = (dropped[1:] & dropped[:-1]).float().mean().item()
    assert both == pytest.approx(0.25, abs=0.01)


def test_the_gradient_is_the_mask():
    torch.manual_seed(0)
    x = torch.randn(7, 5, 3, requires_grad=True)
    out = dropout_of(0.4)(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x, out, rtol=1e-6, atol=0)
    assert 0 < (x.grad == 0).float().mean() < 1


def test_its_own_generator_decides():
    dropout, x = Dropout(0.3), torch.ones(1000)
    draw_from(dropout, own := generator(3))
    first = dropout(x)
    state = own.get_state()
    second = dropout(x)
    assert not torch.equal(first, second)
    own.set_state(state)
    torch.rand(5)  # whoever else draws
    assert torch.equal(dropout(x), second)
    own.manual_seed(3)
    assert torch.equal(dropout(x), first)


def test_drops_nothing_without_a_generator():
    with pytest.raises(AssertionError, match="draw_from"):
        Dropout(0.3)(torch.ones(5))


def test_does_nothing_in_evaluation_or_at_zero():
    x = torch.ones(11)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


@pytest.mark.parametrize("p", (-0.1, 1.0, 0.999, 2.0))
def test_refuses_what_is_no_share(p):
    with pytest.raises(ValueError, match=rf"Dropout\(p={p}\)"):
        Dropout(p)


@pytest.mark.parametrize("p", (1e-9, 0.001, 1 / 512))
def test_a_share_is_never_rounded_to_none_in_silence(p):
    with pytest.raises(ValueError, match=rf"Dropout\(p={p}\).* rounds to one of 1/256 to 255/256"):
        Dropout(p)
    least = dropout_of(1 / 512 + 1e-6)
    assert (least(torch.ones(NUM)) == 0).sum() == pytest.approx(NUM / 256, rel=0.3)
