"""The formulas of the AttnMVP paper for one user, head by head and event by event, and its toy.

Shape letters: R rows, L slots of a row, D width, H head width.
"""

import math
from collections.abc import Callable
from itertools import cycle

import pytest
import torch
import torch.nn.functional as F
from action_trunks import (
    EVERY_FAMILY,
    EVERY_KIND,
    EVERY_POSITION,
    MAX_POSITIONS,
    USERS,
    packed_rows,
    trunk_of,
)
from tiny import assert_caught, started
from torch import Tensor

from plait.nn import gpt
from plait.nn.action_values import ActionPooling, DualHelixBlock, MixedValueBlock
from plait.nn.config import TrunkConfig
from plait.nn.positions import Angles
from plait.nn.relative import RelativeBias
from plait.nn.trunk import Trunk
from plait.nn.visibility import Segments


def plain_attention(
    q_LD: Tensor,
    k_LD: Tensor,
    v_LD: Tensor,
    config: TrunkConfig,
    first_key: Callable[[int], int],
    bias: RelativeBias | None,
    silu: bool = False,
) -> Tensor:
    """Event n over the events before `first_key(n)`; zeros where there are none. Weights from a softmax, or HSTU's."""
    (length, dim), width = q_LD.shape, config.head_width
    scale = 1.0 if silu else width**-0.5
    out_LD = torch.zeros(length, dim)
    for head in range(config.num_heads):
        part = slice(head * width, (head + 1) * width)
        slope = 2.0 ** (-8 * (head + 1) / config.num_heads) if config.positions == "alibi" else 0.0
        q_LH, k_LH = q_LD[:, part], k_LD[:, part]
        if config.positions == "rope":
            q_LH, k_LH = plain_rope(q_LH), plain_rope(k_LH)
        for n in range(length):
            pairs = [(n, m) for m in range(first_key(n))]
            score = [q_LH[n] @ k_LH[m] * scale - slope * (n - m) + plain_bias(bias, n, m) for n, m in pairs]
            if score:
                weight = F.silu(torch.stack(score)) / MAX_POSITIONS if silu else torch.stack(score).softmax(0)
                out_LD[n, part] = weight @ v_LD[: first_key(n), part]
    return out_LD


def plain_bias(bias: RelativeBias | None, n: int, m: int) -> Tensor | float:
    """Of steps back, and of the time from event m to event n (`timed`)."""
    if bias is None:
        return 0.0
    gap_s = 1800 * (n * (n + 1) - m * (m + 1))
    bucket = math.floor(math.log(max(gap_s, 1)) / 0.301)
    return bias.position_P[MAX_POSITIONS - 1 + m - n] + bias.time_P[bucket]


def plain_rope(x_LH: Tensor) -> Tensor:
    """Pairs as complex numbers, each turned by position * 10000 ** (-2f / H)."""
    length, width = x_LH.shape
    pairs = torch.complex(x_LH[:, : width // 2], x_LH[:, width // 2 :])
    speed = 10_000.0 ** (-torch.arange(width // 2) * 2 / width)
    turned = pairs * torch.exp(1j * torch.arange(length)[:, None] * speed)
    return torch.cat([turned.real, turned.imag], dim=1)


def plain_mlp(gpt, x_LD: Tensor) -> Tensor:
    return x_LD + gpt.mlp_out(F.gelu(gpt.mlp_in(gpt.mlp_norm(x_LD))))


def plain_item_layer(block, x_LD: Tensor, config: TrunkConfig) -> Tensor:
    """AttnLFA's trunk: plain causal attention among items."""
    if config.kind == "hstu":
        return plain_hstu(block, x_LD, torch.zeros_like(x_LD), config, lambda n: n + 1)
    q_LD, k_LD, v_LD = block.qkv(block.attention_norm(x_LD)).chunk(3, dim=1)
    attended_LD = plain_attention(q_LD, k_LD, v_LD, config, lambda n: n + 1, block.bias)
    return plain_mlp(block, x_LD + block.attention_out(attended_LD))


def plain_hstu(block, x_LD: Tensor, mixed_LD: Tensor, config: TrunkConfig, first_key) -> Tensor:
    """[U|V|Q|K] = SiLU(LN(x) W), V of LN(x) + what is mixed in; x += (U * LN(A V)) W_o + b_o."""
    h_LD = F.layer_norm(x_LD, x_LD.shape[-1:], eps=1e-6)
    u_LD, _, q_LD, k_LD = F.silu(h_LD @ block.uvqk.weight.T).chunk(4, dim=1)
    v_LD = F.silu((h_LD + mixed_LD) @ block.uvqk.weight.T).chunk(4, dim=1)[1]
    attended_LD = plain_attention(q_LD, k_LD, v_LD, config, first_key, block.bias, silu=True)
    gated_LD = u_LD * F.layer_norm(attended_LD, x_LD.shape[-1:], eps=1e-6)
    return x_LD + gated_LD @ block.out.weight.T + block.out.bias


def plain_mixed(block, x_LD: Tensor, a_LD: Tensor, config: TrunkConfig, weight: float) -> Tensor:
    """(q, k, v) = (x, x, x + weight * a), strictly; the residual on x."""
    layer, a_LD = block.layer, weight * block.ride_norm(a_LD)
    if config.kind == "hstu":
        return plain_hstu(layer, x_LD, a_LD, config, lambda n: n)
    h_LD = layer.attention_norm(x_LD)
    q_LD, k_LD, _ = layer.qkv(h_LD).chunk(3, dim=1)
    _, _, v_LD = layer.qkv(h_LD + a_LD).chunk(3, dim=1)
    attended_LD = plain_attention(q_LD, k_LD, v_LD, config, lambda n: n, layer.bias)
    return plain_mlp(layer, x_LD + layer.attention_out(attended_LD))


def plain_pooling(pooling: ActionPooling, hidden_LD: Tensor, a_LD: Tensor, config: TrunkConfig) -> Tensor:
    q_LD, k_LD = pooling.qk(hidden_LD).chunk(2, dim=1)
    v_LD = pooling.value(pooling.ride_norm(a_LD))
    return pooling.out(plain_attention(q_LD, k_LD, v_LD, config, lambda n: n, pooling.bias))


def plain_trunk(trunk: Trunk, x_LD: Tensor, a_LD: Tensor, family: str) -> Tensor:
    config, original_LD = trunk.config, a_LD
    if config.kind == "hstu":
        x_LD = config.dim**0.5 * x_LD
    if config.positions in ("learned", "rab"):
        x_LD = x_LD + trunk.positions.learned.table.weight[: len(x_LD)]
    for block in trunk.blocks:
        match family:
            case "lfa":
                x_LD = plain_item_layer(block, x_LD, config)
            case "mvp" | "mvp_early":
                x_LD = plain_mixed(block, x_LD, original_LD, config, config.ride_weight)
            case "dhn":
                x_LD = plain_mixed(block.items, x_LD, a_LD, config, 1.0)
                a_LD = plain_mixed(block.actions, a_LD, x_LD, config, 1.0)
    hidden_LD = trunk.norm(x_LD)
    if trunk.pooling is None:
        return hidden_LD
    pooled_LD = plain_pooling(trunk.pooling, hidden_LD, a_LD, config)
    return pooled_LD if family == "lfa" else hidden_LD + pooled_LD


def check_formulas(family: str, positions: str, kind: str = "gpt") -> None:
    trunk = trunk_of(family, positions, kind=kind, ride_weight=0.7)
    x, action, segments = packed_rows()
    states = trunk(x, segments, action)
    for row, slots in USERS.values():
        expected = plain_trunk(trunk, x[row, slots], action[row, slots], family)
        torch.testing.assert_close(states[row, slots], expected, rtol=1e-4, atol=1e-4)


@EVERY_FAMILY
@EVERY_KIND
@EVERY_POSITION
def test_equals_the_formulas_written_plainly(family, kind, positions):
    check_formulas(family, positions, kind)


def updates_the_actions(block, x_RLD, action_RLD, where):
    """AttnMVP with the mixed values handed on in place of the original actions."""
    return block.layer.update(x_RLD, where, block.mixed(action_RLD)), x_RLD + action_RLD


def takes_items_before_their_update(block, x_RLD, action_RLD, where):
    return block.items(x_RLD, action_RLD, where)[0], block.actions(action_RLD, x_RLD, where)[0]


@pytest.mark.parametrize(
    ("block", "mutant", "family"),
    (
        (MixedValueBlock, updates_the_actions, "mvp_early"),
        (DualHelixBlock, takes_items_before_their_update, "dhn"),
    ),
)
def test_the_formulas_notice_another_order_of_updates(block, mutant, family, monkeypatch):
    monkeypatch.setattr(block, "forward", mutant)
    assert_caught(check_formulas, family, "learned")


def test_the_formulas_notice_turns_after_the_shift(monkeypatch):
    """Queries turned to the positions of the keys that they are shifted to are off by one event."""
    turn, of_queries = gpt.rope, cycle((True, False))  # queries, then keys

    def one_late(x_RNLH, angles):
        late = Angles(*(angle.roll(1, dims=2) for angle in angles))
        return turn(x_RNLH, late if next(of_queries) else angles)

    monkeypatch.setattr(gpt, "rope", one_late)
    assert_caught(check_formulas, "mvp", "rope")


# The paper's toy: one user likes dogs and not cats, the other the reverse.

DOG, CAT = 0, 1


def toy_world(num_users: int) -> tuple[Tensor, Tensor]:
    """Items and likes of users of either kind, nine events each."""
    item_RL = torch.randint(2, (num_users, 9))
    taste_R1 = torch.arange(num_users)[:, None] % 2
    return item_RL, (item_RL == taste_R1).long()


class Toy(torch.nn.Module):
    """A one-layer AttnLFA over embeddings of two items and of two actions."""

    def __init__(self) -> None:
        super().__init__()
        config = TrunkConfig(dim=8, num_layers=1, num_heads=1, dropout=0.0, positions="rope")
        self.item, self.action = torch.nn.Embedding(2, 8), torch.nn.Embedding(2, 8)
        self.trunk = started(Trunk(config, 9, frozenset({"pool"})), seed=4)
        self.head = torch.nn.Linear(8, 1)

    def forward(self, item_RL: Tensor, like_RL: Tensor) -> Tensor:
        slot_RL = torch.arange(9).expand_as(item_RL)
        segments = Segments(torch.arange(len(item_RL))[:, None].expand_as(item_RL), slot_RL)
        return self.head(self.trunk(self.item(item_RL), segments, self.action(like_RL))).squeeze(-1)


def test_learns_who_likes_dogs():
    """In 100 steps, for items that the user has met before; told another user's actions, it answers for them."""
    torch.manual_seed(4)
    toy = Toy()
    optimizer = torch.optim.Adam(toy.parameters(), lr=0.02)
    for _ in range(100):
        item_RL, like_RL = toy_world(31)
        loss = F.binary_cross_entropy_with_logits(toy(item_RL, like_RL), like_RL.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    item_RL, like_RL = toy_world(31)
    met_before_RL = torch.stack([(item_RL[:, :n] == item_RL[:, n, None]).any(1) for n in range(9)], dim=1)
    with torch.no_grad():
        own_RL, others_RL = (toy(item_RL, told_RL) > 0 for told_RL in (like_RL, 1 - like_RL))
    assert (own_RL == like_RL.bool())[met_before_RL].float().mean() > 0.97
    assert (others_RL == like_RL.bool())[met_before_RL].float().mean() < 0.03
