from dataclasses import replace

import pytest
import torch
from tiny import started

from plait.nn.attention import attend
from plait.nn.config import TrunkConfig
from plait.nn.trunk import Trunk
from plait.nn.visibility import Segments, Visibility

SMALL = TrunkConfig(dim=12, num_layers=2, num_heads=3, dropout=0.0)
POSITIONS = ("learned", "rope", "alibi")
USERS = {
    0: (0, slice(0, 5)),
    1: (0, slice(5, 8)),
    2: (1, slice(0, 7)),
}  # user: row and slots; the rest is padding


def trunk_of(positions: str, **changes) -> Trunk:
    torch.manual_seed(0)
    trunk = started(Trunk(replace(SMALL, positions=positions, **changes), max_positions=7))
    for name, parameter in trunk.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.5)  # attention far from uniform, so that every path shows
    return trunk.eval()


def packed() -> tuple[torch.Tensor, Segments]:
    segment, position = torch.full((2, 8), -1), torch.zeros(2, 8, dtype=torch.int64)
    for user, (row, slots) in USERS.items():
        segment[row, slots] = user
        position[row, slots] = torch.arange(slots.stop - slots.start)
    torch.manual_seed(1)
    return torch.randn(2, 8, SMALL.dim), Segments(segment, position)


def alone(num_tokens: int) -> Segments:
    return Segments(torch.zeros(1, num_tokens, dtype=torch.int64), torch.arange(num_tokens)[None])


@pytest.mark.parametrize("positions", POSITIONS)
def test_packed_padded_and_alone_agree(positions):
    trunk = trunk_of(positions)
    x, segments = packed()
    padded_x, segment, position = (
        torch.zeros(3, 7, SMALL.dim),
        torch.full((3, 7), -1),
        torch.zeros(3, 7).long(),
    )
    for user, (row, slots) in USERS.items():
        length = slots.stop - slots.start
        padded_x[user, :length] = x[row, slots]
        segment[user, :length], position[user, :length] = user, torch.arange(length)
    in_packed, in_padded = trunk(x, segments), trunk(padded_x, Segments(segment, position))
    for user, (row, slots) in USERS.items():
        length = slots.stop - slots.start
        by_itself = trunk(x[row : row + 1, slots], alone(length))[0]
        torch.testing.assert_close(in_packed[row, slots], by_itself, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(in_padded[user, :length], by_itself, rtol=1e-5, atol=1e-5)
        assert by_itself.std() > 0.5


def influence(trunk: Trunk, row: int, slot: int) -> torch.Tensor:
    """How much each slot's input moves the hidden state of one slot, by gradient."""
    x, segments = packed()
    x.requires_grad_()
    weight = torch.randn(SMALL.dim)  # a plain sum over a layer norm's output would be constant
    (gradient,) = torch.autograd.grad((trunk(x, segments)[row, slot] * weight).sum(), x)
    return gradient.abs().sum(-1)


def leaks(trunk: Trunk) -> bool:
    """Whether some token is moved by a later one or by another user's; all of its own past must move it."""
    for row, slots in USERS.values():
        for slot in range(slots.start, slots.stop):
            moved = influence(trunk, row, slot)
            own_past = torch.zeros(2, 8, dtype=torch.bool)
            own_past[row, slots.start : slot + 1] = True
            assert (moved[own_past] > 0).all(), "a state that does not read its past proves nothing"
            if moved[~own_past].any():
                return True
    return False


@pytest.mark.parametrize("positions", POSITIONS)
def test_no_gradient_from_the_future_or_from_other_users(positions):
    assert not leaks(trunk_of(positions))


@pytest.mark.parametrize("positions", ("learned", "rope"))
def test_the_gradient_test_notices_a_mask_without_users(positions, monkeypatch):
    monkeypatch.setattr(Segments, "one_user_per_row", True)
    assert leaks(trunk_of(positions))


def test_the_gradient_test_notices_a_look_ahead(monkeypatch):
    def whole_user(visibility, block, strict):
        segment_RL = visibility.queries.segment_RL[block.rows]
        return segment_RL[:, block.queries, None] == segment_RL[:, None, block.keys]

    monkeypatch.setattr(Visibility, "_visible", whole_user)
    assert leaks(trunk_of("learned"))


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_future_and_other_users_change_no_value(positions):
    trunk = trunk_of(positions)
    x, segments = packed()
    changed = x.clone()
    changed[0, 3:] = torch.randn(5, SMALL.dim)  # the end of user 0 and all of user 1
    before, after = trunk(x, segments), trunk(changed, segments)
    assert torch.equal(before[0, :3], after[0, :3])
    assert torch.equal(before[1], after[1])
    assert not torch.isclose(before[0, 3:], after[0, 3:]).all(-1).any()


def plain_trunk(trunk: Trunk, x_LD: torch.Tensor) -> torch.Tensor:
    """One user's hidden states, head by head and query by query, from the papers' formulas."""
    config, (length, dim) = trunk.config, x_LD.shape
    width = dim // config.num_heads
    if config.positions == "learned":
        x_LD = x_LD + trunk.positions.learned.table.weight[:length]
    for block in trunk.blocks:
        q_LD, k_LD, v_LD = block.qkv(block.attention_norm(x_LD)).split(dim, dim=1)
        heads = torch.zeros(length, dim)
        for head in range(config.num_heads):
            part = slice(head * width, (head + 1) * width)
            q_LH, k_LH = q_LD[:, part], k_LD[:, part]
            if config.positions == "rope":
                q_LH, k_LH = plain_rope(q_LH), plain_rope(k_LH)
            slope = 2.0 ** (-8 * (head + 1) / config.num_heads) if config.positions == "alibi" else 0.0
            for i in range(length):
                score = torch.stack([q_LH[i] @ k_LH[j] / width**0.5 - slope * (i - j) for j in range(i + 1)])
                heads[i, part] = score.softmax(0) @ v_LD[: i + 1, part]
        x_LD = x_LD + block.attention_out(heads)
        x_LD = x_LD + block.mlp_out(torch.nn.functional.gelu(block.mlp_in(block.mlp_norm(x_LD))))
    return trunk.norm(x_LD)


def plain_rope(x_LH: torch.Tensor) -> torch.Tensor:
    """Pairs as complex numbers, each turned by position * 10000 ** (-2f / H)."""
    length, width = x_LH.shape
    pairs = torch.complex(x_LH[:, : width // 2], x_LH[:, width // 2 :])
    frequency = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    turned = pairs * torch.polar(torch.tensor(1.0), torch.arange(length)[:, None] * frequency)
    return torch.cat([turned.real, turned.imag], dim=1)


@pytest.mark.parametrize("positions", POSITIONS)
def test_equals_the_formulas_written_plainly(positions):
    config = replace(SMALL, dim=16, num_heads=2)
    torch.manual_seed(0)
    trunk, x = (
        started(Trunk(replace(config, positions=positions), max_positions=7)).eval(),
        torch.randn(6, 16),
    )
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    hidden = trunk(x[None], alone(6))[0]
    torch.testing.assert_close(hidden, plain_trunk(trunk, x), rtol=1e-4, atol=1e-4)
    trunk.config = replace(config, positions="rope" if positions != "rope" else "alibi")
    assert (hidden - plain_trunk(trunk, x)).abs().max() > 0.01, "the kind of positions shows"


def test_the_parts_make_the_whole():
    """What a caller with its own attention relies on."""
    trunk = trunk_of("rope")
    x, segments = packed()
    expected = trunk(x, segments)
    x, where = trunk.enter(x, segments), trunk.where(segments)
    for block in trunk.blocks:
        x = block.merge(x, attend(*block.project(x, where.angles), segments))
    assert torch.equal(trunk.leave(x, None, where), expected)


def test_bf16_autocast_is_near_fp32():
    trunk = trunk_of("learned")
    x, segments = packed()
    exact = trunk(x, segments)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = trunk(x, segments)
    real = segments.segment_RL >= 0
    assert 0 < (rounded - exact)[real].norm() < 0.05 * exact[real].norm()


def test_dropout_only_in_training():
    trunk = trunk_of("learned", dropout=0.5)
    x, segments = packed()
    assert torch.equal(trunk(x, segments), trunk(x, segments))
    trunk.train()
    assert not torch.equal(trunk(x, segments), trunk(x, segments))


def test_trains_with_padding_to_finite_gradients():
    trunk = trunk_of("alibi", dropout=0.1).train()
    x, segments = packed()
    trunk(x, segments).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in trunk.parameters())


def test_a_sequence_beyond_the_learned_positions_is_refused():
    x, segments = torch.zeros(1, 8, SMALL.dim), alone(8)
    with pytest.raises(ValueError, match="a sequence of 8 tokens, but there are learned positions for 7"):
        trunk_of("learned")(x, segments)
    for positions in ("rope", "alibi"):
        assert trunk_of(positions)(x, segments).isfinite().all()


def test_starts_as_gpt2_does():
    torch.manual_seed(0)
    trunk = started(Trunk(TrunkConfig(dim=64, num_layers=8, num_heads=2), max_positions=50))
    block = trunk.blocks[3]
    for layer, std in (
        (block.qkv, 0.02),
        (block.mlp_in, 0.02),
        (block.attention_out, 0.005),
        (block.mlp_out, 0.005),
    ):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
        assert not layer.bias.any()
    assert trunk.positions.learned.table.weight.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        (
            {"dim": 64, "num_heads": 5},
            "model.trunk.dim = 64: expected a multiple of model.trunk.num_heads = 5",
        ),
        ({"num_layers": 0}, "model.trunk.num_layers = 0: expected a number from 1"),
        ({"dim": 6, "num_heads": 2, "positions": "rope"}, "a head width of 3 is odd"),
        ({"dropout": 1.0}, "model.trunk.dropout = 1.0: expected a number from 0 to below 1"),
    ),
)
def test_a_shape_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        TrunkConfig(**changes)
