"""Actions in the values of attention: what a state may read of them.

Shape letters: R rows, L slots of a row, D width.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from action_trunks import (
    EVERY_FAMILY,
    EVERY_KIND,
    EVERY_POSITION,
    FAMILIES,
    SMALL,
    USERS,
    alone,
    packed_rows,
    timed,
    trunk_of,
)
from tiny import assert_caught, started
from torch import Tensor

from plait.nn import packed
from plait.nn.action_values import ActionPooling, DualHelixBlock, MixedValueBlock
from plait.nn.attention import attend
from plait.nn.block import Where
from plait.nn.hstu import HstuBlock
from plait.nn.trunk import TokensAndPairs, Trunk
from plait.nn.visibility import Segments


def check_no_leak(trunk: Trunk) -> None:
    """A state is moved by the actions strictly before it, by the tokens up to it, and by nothing else, by gradient.

    In AttnLFA items only weigh actions: of no action or of one, the weights are fixed, and no item moves them.
    """
    weighs_only = trunk.pooling is not None and not trunk.pooling.fuses_item
    x_RLD, action_RLD, segments = packed_rows()
    streams = x_RLD.requires_grad_(), action_RLD.requires_grad_()
    state_RLD = trunk(x_RLD, segments, action_RLD)
    weight_D = torch.randn(SMALL.dim)  # a plain sum over a layer norm's output would be constant
    unread = {"actions": 0, "tokens": 0}
    for row, slots in USERS.values():
        for slot in range(slots.start, slots.stop):
            state = (state_RLD[row, slot] * weight_D).sum()
            gradients = torch.autograd.grad(state, streams, retain_graph=True)
            by_token, by_action = (g.abs().sum(-1) for g in gradients)
            earlier = torch.zeros(2, 8, dtype=torch.bool)
            earlier[row, slots.start : slot] = True
            up_to_it = earlier.clone()
            up_to_it[row, slot] = True
            assert not by_action[~earlier].any(), f"state {row, slot} reads an action of itself or later"
            assert not by_token[~up_to_it].any(), f"state {row, slot} reads a later token"
            unread["actions"] += int((by_action[earlier] == 0).sum())
            if not weighs_only or slot > slots.start + 1:
                unread["tokens"] += int((by_token[up_to_it] == 0).sum())
    if any(unread.values()):
        pytest.fail(f"a state that does not read its past proves nothing: {unread}")


@EVERY_FAMILY
@EVERY_KIND
@EVERY_POSITION
def test_no_state_reads_its_own_action_or_a_later_one(family, kind, positions):
    check_no_leak(trunk_of(family, positions, kind=kind))


def loose(*qkv, strict, **options):
    return attend(*qkv, **options)


def shifted_across_users(q, k, v, segments, *, slopes_N, strict):
    """Rows of several users taken for one: the query shift without a thought for packing."""
    one = replace(segments, segment_RL=torch.zeros_like(segments.segment_RL))
    return attend(q, k, v, one, slopes_N=slopes_N, strict=strict)


@pytest.mark.parametrize("family", ("lfa", "mvp_early", "dhn"))
@pytest.mark.parametrize("mutant", (loose, shifted_across_users))
def test_the_leak_test_notices_a_wrong_mask(family, mutant, monkeypatch):
    monkeypatch.setattr(packed, "attend", mutant)
    assert_caught(check_no_leak, trunk_of(family))


@pytest.mark.parametrize("family", ("mvp_early", "dhn"))
def test_the_leak_test_notices_a_loose_hstu(family, monkeypatch):
    right = packed.attend_silu
    monkeypatch.setattr(packed, "attend_silu", lambda *qkv, strict, **rest: right(*qkv, **rest))
    assert_caught(check_no_leak, trunk_of(family, kind="hstu"))


@EVERY_KIND
def test_the_leak_test_notices_a_residual_over_the_values(kind, monkeypatch):
    def forward(block, x_RLD, action_RLD, where):
        return block.layer.update(x_RLD, where, block.mixed(action_RLD)) + action_RLD, action_RLD

    monkeypatch.setattr(MixedValueBlock, "forward", forward)
    assert_caught(check_no_leak, trunk_of("mvp_early", kind=kind))


def test_the_leak_test_notices_a_gate_of_mixed_values(monkeypatch):
    def _uvqk(block, own_RLD, mixed_RLD, read):
        return F.silu(block.uvqk(own_RLD if mixed_RLD is None else own_RLD + mixed_RLD)).chunk(4, dim=-1)

    monkeypatch.setattr(HstuBlock, "_uvqk", _uvqk)
    assert_caught(check_no_leak, trunk_of("mvp_early", kind="hstu"))


def test_the_leak_test_notices_a_head_that_reads_the_action_stream():
    """The action stream of AttnDHN holds the event's own action: fused unpooled, it would be told."""

    class ReadsOwnAction(ActionPooling):
        def forward(self, hidden_RLD, action_RLD, where):
            return super().forward(hidden_RLD, action_RLD, where) + action_RLD

    trunk = trunk_of("dhn")
    trunk.pooling.__class__ = ReadsOwnAction
    assert_caught(check_no_leak, trunk)


@EVERY_FAMILY
@EVERY_KIND
def test_actions_to_come_change_no_value(family, kind):
    """By value, not by gradient: the two miss different leaks."""
    trunk = trunk_of(family, kind=kind)
    x, action, segments = packed_rows()
    changed = action.clone()
    changed[0, 2:] = torch.randn(6, SMALL.dim)  # the last three actions of user 0, and all of user 1
    before, after = trunk(x, segments, action), trunk(x, segments, changed)
    assert torch.equal(before[0, :3], after[0, :3])
    assert torch.equal(before[0, 5], after[0, 5]), "a first event has no action before it"
    assert torch.equal(before[1], after[1])
    for slot in (3, 4, 6, 7):
        assert not torch.allclose(before[0, slot], after[0, slot])


@EVERY_FAMILY
@EVERY_KIND
@EVERY_POSITION
def test_packed_padded_and_alone_agree(family, kind, positions):
    trunk = trunk_of(family, positions, kind=kind)
    x, action, segments = packed_rows()
    padded_x, padded_action = torch.zeros(2, 3, 7, SMALL.dim)
    segment, position = torch.full((3, 7), -1), torch.zeros(3, 7).long()
    for user, (row, slots) in USERS.items():
        length = slots.stop - slots.start
        padded_x[user, :length], padded_action[user, :length] = x[row, slots], action[row, slots]
        segment[user, :length], position[user, :length] = user, torch.arange(length)
    in_packed = trunk(x, segments, action)
    in_padded = trunk(padded_x, timed(Segments(segment, position)), padded_action)
    for user, (row, slots) in USERS.items():
        length = slots.stop - slots.start
        by_itself = trunk(x[row : row + 1, slots], alone(length), action[row : row + 1, slots])[0]
        torch.testing.assert_close(in_packed[row, slots], by_itself, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(in_padded[user, :length], by_itself, rtol=1e-4, atol=1e-4)
        assert by_itself.std() > 0.2


@EVERY_FAMILY
@EVERY_KIND
@EVERY_POSITION
def test_candidates_answer_as_if_each_came_next(family, kind, positions):
    """One pass over a history and three candidates: each sees the history alone, and its action is not asked."""
    trunk = trunk_of(family, positions, kind=kind)
    num_history, num_candidates = 4, 3
    x, action = torch.randn(2, 1, num_history + num_candidates, SMALL.dim)
    position = torch.tensor([[0, 1, 2, 3, 4, 4, 4]])
    seen = torch.tensor([[0, 1, 2, 3, 4, 4, 4]])
    together = trunk(x, timed(Segments(torch.zeros_like(position), position, seen_RL=seen)), action)[0]
    for candidate in range(num_history, num_history + num_candidates):
        slots = [*range(num_history), candidate]
        next_x, next_action = x[:, slots], action[:, slots].clone()
        next_action[:, -1] = 0.0
        expected = trunk(next_x, alone(num_history + 1), next_action)[0, -1]
        torch.testing.assert_close(together[candidate], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(together[-1], together[-2])


@EVERY_FAMILY
@pytest.mark.parametrize("weight", (0.0, 0.7))
def test_without_weight_only_the_pooling_sees_actions(family, weight):
    trunk = trunk_of(family, ride_weight=weight)
    x, action, segments = packed_rows()
    hidden = []
    trunk.norm.register_forward_hook(lambda module, args, out: hidden.append(out))
    states = [trunk(x, segments, r) for r in (action, action.flip(1))]
    moved_in_trunk, moved = (not torch.equal(a, b) for a, b in (hidden, states))
    assert moved_in_trunk == {"lfa": False, "dhn": True}.get(family, weight > 0)
    assert moved == (moved_in_trunk or "pool" in FAMILIES[family])


@pytest.mark.parametrize(("positions", "actions_turn"), [("learned", False), ("rope", True)])
def test_learned_positions_enter_the_items_alone(positions, actions_turn):
    """By what the first layer of AttnDHN weighs its streams: RoPE, the paper's choice, orders both."""
    trunk = trunk_of("dhn", positions)
    x, action, segments = packed_rows()
    turned = Segments(segments.segment_RL, segments.position_RL.flip(1))
    of_items, of_actions = [], []
    for places in (segments, turned):
        angles, block = trunk.where(places).angles, trunk.blocks[0]
        entered = trunk.enter(x, places)
        of_items.append(block.items.layer.project(entered, angles, block.items.mixed(action))[:2])
        of_actions.append(block.actions.layer.project(action, angles, block.actions.mixed(entered))[:2])
    for found, expected in ((of_items, True), (of_actions, actions_turn)):
        (q, k), (turned_q, turned_k) = found
        assert torch.equal(q, turned_q) != expected and torch.equal(k, turned_k) != expected


def first_slots(state_RLD: Tensor) -> Tensor:
    return torch.stack([state_RLD[row, slots.start] for row, slots in USERS.values()])


def test_the_first_event_gets_nothing_from_strict_attention():
    x, action, segments = packed_rows()
    for fuses_item in (False, True):
        trunk = trunk_of("lfa", pool_fuses_item=fuses_item)
        trunk.pooling.out.bias.data.zero_()
        where = trunk.where(segments)
        pooled = trunk.pooling(x, action, where)
        torch.testing.assert_close(first_slots(pooled), first_slots(x) * fuses_item, rtol=0, atol=0)
        assert (pooled - x * fuses_item)[1, 1:7].abs().amax(-1).gt(0.1).all()
    block = trunk_of("mvp").blocks[0]
    untouched = block.layer.merge(x, torch.zeros(2, SMALL.num_heads, 8, SMALL.head_width))
    torch.testing.assert_close(first_slots(block(x, action, where)[0]), first_slots(untouched))


def test_items_are_fused_where_actions_ride_in_the_trunk_unless_told_otherwise():
    fused = {family: trunk_of(family).pooling for family in FAMILIES}
    assert fused.pop("mvp_early") is None
    assert {family: pooling.fuses_item for family, pooling in fused.items()} == {
        "lfa": False,
        "mvp": True,
        "dhn": True,
    }
    assert trunk_of("lfa", pool_fuses_item=True).pooling.fuses_item
    assert not trunk_of("mvp", pool_fuses_item=False).pooling.fuses_item


def strictly(block: MixedValueBlock, x: Tensor, action: Tensor, where: Where) -> Tensor:
    qkv = block.layer.project(x, where.angles, block.mixed(action))
    return block.layer.merge(x, attend(*qkv, where.segments, strict=True))


@EVERY_FAMILY
def test_the_parts_make_the_whole(family):
    """What a caller with its own attention relies on."""
    trunk = trunk_of(family, "rope")
    x, action, segments = packed_rows()
    expected, where = trunk(x, segments, action), trunk.where(segments)
    x = trunk.enter(x, segments)
    for block in trunk.blocks:
        match block:
            case MixedValueBlock():
                x = strictly(block, x, action, where)
            case DualHelixBlock(items=items, actions=actions):
                x = strictly(items, x, action, where)
                action = strictly(actions, action, x, where)
            case _:
                x = block.merge(x, attend(*block.project(x, where.angles), segments))
    state = trunk.norm(x)
    if trunk.pooling is not None:
        qkv = trunk.pooling.project(state, action, where.angles)
        state = trunk.pooling.merge(state, attend(*qkv, segments, strict=True))
    assert torch.equal(state, expected)


@EVERY_FAMILY
@EVERY_KIND
@pytest.mark.parametrize("positions", ("alibi", "rab"))
def test_every_parameter_learns(family, kind, positions):
    trunk = trunk_of(family, positions, kind=kind, dropout=0.1).train()
    x, action, segments = packed_rows()
    action[0, 1] = 0.0  # an event whose action is not known enters as zeros
    trunk(x, segments, action).square().sum().backward()
    for name, parameter in trunk.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_actions_are_of_the_states_size_from_the_start():
    """As embeddings start: actions fifty times smaller than what they are mixed with, and pooled for the heads."""
    torch.manual_seed(0)
    config = replace(SMALL, dim=64, num_heads=2)
    trunk = started(Trunk(config, 7, frozenset({"values", "pool"})))
    x, action = 0.02 * torch.randn(2, 5, 7, 64)
    where = trunk.where(Segments(torch.arange(5)[:, None].expand(5, 7), torch.arange(7).expand(5, 7)))
    block = trunk.blocks[0]
    values = [block.layer.project(x, None, block.mixed(r))[2] for r in (action, torch.zeros_like(action))]
    of_actions = (values[0] - values[1]).std() / values[1].std()
    assert of_actions.item() == pytest.approx(1.0, rel=0.1)
    pooled = trunk.pooling(trunk.norm(x), action, where) - trunk.norm(x)
    assert pooled[:, 1].std().item() == pytest.approx(1.0, rel=0.15), "one action, pooled"
    assert 0.2 < pooled[:, -1].std().item() < 0.6, "six unlike actions: their mean is shorter, and stays so"


@EVERY_FAMILY
def test_bf16_autocast_is_near_fp32(family):
    trunk = trunk_of(family)
    x, action, segments = packed_rows()
    exact = trunk(x, segments, action)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = trunk(x, segments, action)
    real = segments.segment_RL >= 0
    assert 0 < (rounded - exact)[real].norm() < 0.05 * exact[real].norm()


@EVERY_FAMILY
def test_flops_are_those_of_the_products_that_run(family):
    """Attention over all pairs apart, torch's own count is that of the linear layers."""
    trunk = trunk_of(family)
    x, action, segments = packed_rows()
    counted = 0

    def count(module, args, out):
        nonlocal counted
        counted += 2 * out.numel() * module.in_features

    for module in trunk.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(count)
    trunk(x, segments, action)
    num_layers, dim = SMALL.num_layers, SMALL.dim
    mixed = {"lfa": 0, "dhn": 2 * num_layers}.get(family, num_layers)
    counted += mixed * 2 * 16 * 3 * dim * dim  # their qkv runs in two parts, past the hooks
    assert trunk.flops(TokensAndPairs(16, 0.0, 0.0)) == counted
    attentions = {"lfa": 3, "mvp_early": 2, "mvp": 3, "dhn": 5}[family]
    assert trunk.flops(TokensAndPairs(0, 1.0, 1.0)) == 4 * dim * attentions
