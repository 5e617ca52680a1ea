"""The hstu trunk against the published blocks written from their formulas; SiLU attention against the plain one."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from biased import CASES, MAX_POSITIONS, L, N, bias_of, inputs, out_and_gradients, settled, timed
from test_attention import SEGMENTS, STRICT, rows
from tiny import assert_caught, started

from plait.nn import blockwise, hstu, packed
from plait.nn.config import DLRM_V3, HstuSwitches, TrunkConfig
from plait.nn.hstu import HstuBlock, attend_silu, attend_silu_reference
from plait.nn.packed import Packed
from plait.nn.trunk import Trunk
from plait.nn.visibility import Clock, Segments, Visibility

DIM, LENGTHS = 18, (7, 11, 1)
RESEARCH_CONFIG = TrunkConfig(kind="hstu", dim=DIM, num_layers=3, num_heads=N, dropout=0.0, positions="rab")
DLRM_CONFIG = replace(RESEARCH_CONFIG, positions="learned", hstu=DLRM_V3)
POSITIONS = ("learned", "rope", "alibi", "rab", "genrank")


def trunk_of(config: TrunkConfig, std: float = 0.5) -> Trunk:
    """By default with scores far from 0, where SiLU is no line."""
    torch.manual_seed(0)
    trunk = started(Trunk(config, MAX_POSITIONS)).eval()
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return trunk


def padded() -> tuple[torch.Tensor, Segments]:
    """Users of different lengths, one per row, padded on the right."""
    torch.manual_seed(1)
    return torch.randn(len(LENGTHS), L, DIM), timed(rows(*((num,) for num in LENGTHS)))


def hidden_and_gradients(
    compute, trunk: Trunk, x: torch.Tensor, segments: Segments
) -> dict[str, torch.Tensor]:
    """Hidden states of real slots, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    hidden = compute(x, segments) * (segments.segment_RL >= 0)[..., None]
    torch.manual_seed(2)
    wanted = {"x": x, **dict(trunk.named_parameters())}
    gradients = torch.autograd.grad(hidden, list(wanted.values()), torch.randn(hidden.shape))
    return {"hidden": hidden.detach(), **dict(zip(wanted, gradients, strict=True))}


# ------------------------------------------------------------------------------------------ the published blocks


def research_trunk(
    trunk: Trunk,
    x: torch.Tensor,
    segments: Segments,
    norm_len: int = MAX_POSITIONS,
    log=math.log,
    anchor_shift: int = 1,
    silu_on="uvqk",
    mask_first: bool = False,
) -> torch.Tensor:
    """The HSTU paper's block as its code has it, on users padded to one length; the arguments break it.

    x = sqrt(d) E + P[t]. In each layer [U|V|Q|K] = SiLU(LN(x) W); A = SiLU(Q K' + b) / n * causal, with
    b = w_pos[(n - 1) + (j - i)] + w_time[bucket(t_(i+1) - t_j)]; x += (U * LN(A V)) W_o + b_o.
    """
    length, dim = x.shape[1:]
    x = math.sqrt(dim) * x + trunk.positions.learned.table.weight[:length]
    causal = torch.ones(length, length).tril()
    time = torch.cat([segments.clock.time_s_RL, segments.clock.anchor_s_RL[:, -1:]], dim=1).tolist()
    slot = range(length)
    bucket = [
        [[bucket_of(user[min(i + anchor_shift, length)] - user[j], log) for j in slot] for i in slot]
        for user in time
    ]
    step = torch.tensor([[trunk.blocks[0].bias.max_positions - 1 + j - i for j in slot] for i in slot])
    for block in trunk.blocks:
        bias = block.bias.position_P[step] + block.bias.time_P[torch.tensor(bucket)]
        parts = (F.layer_norm(x, (dim,), eps=1e-6) @ block.uvqk.weight.T).split(dim, dim=-1)
        u, v, q, k = (F.silu(p) if name in silu_on else p for name, p in zip("uvqk", parts, strict=True))
        heads = []
        for part in torch.arange(dim).split(dim // N):
            score = q[..., part] @ k[..., part].transpose(1, 2) + bias
            if mask_first:
                weight = F.silu(score.masked_fill(causal == 0, -torch.inf)) / norm_len
            else:
                weight = F.silu(score) / norm_len * causal
            heads.append(weight @ v[..., part])
        gated = u * F.layer_norm(torch.cat(heads, dim=-1), (dim,), eps=1e-6)
        x = gated @ block.out.weight.T + block.out.bias + x
    return x


def bucket_of(gap_s: int, log=math.log) -> int:
    return min(max(math.floor(log(max(abs(gap_s), 1)) / 0.301), 0), 128)


def dlrm_trunk(
    trunk: Trunk,
    x: torch.Tensor,
    segments: Segments,
    norm_len=MAX_POSITIONS,
    silu_on="u",
    alpha=None,
    affine=True,
):
    """DLRM-v3's block, likewise: norms with weights, a projection with bias, SiLU on U alone, scores times
    1 / sqrt(d_qk), no bias, x += [U, O, U * LN(O)] W_o; a norm at the end."""
    length, dim = x.shape[1:]
    width = dim // N
    alpha = width**-0.5 if alpha is None else alpha
    x = math.sqrt(dim) * x + trunk.positions.learned.table.weight[:length]
    causal = torch.ones(length, length).tril()

    def norm(y, layer):
        return F.layer_norm(y, (dim,), *((layer.weight, layer.bias) if affine else ()), eps=1e-6)

    for block in trunk.blocks:
        parts = (norm(x, block.norm) @ block.uvqk.weight.T + block.uvqk.bias).split(dim, dim=-1)
        u, v, q, k = (F.silu(p) if name in silu_on else p for name, p in zip("uvqk", parts, strict=True))
        q, k, v = (y.view(len(y), length, N, width).transpose(1, 2) for y in (q, k, v))
        weight = F.silu(alpha * q @ k.transpose(2, 3)) / norm_len * causal
        o = (weight @ v).transpose(1, 2).reshape(x.shape)
        x = torch.cat([u, o, u * norm(o, block.attended_norm)], dim=-1) @ block.out.weight.T + x
    return F.layer_norm(x, (dim,), trunk.norm.weight, trunk.norm.bias)


PUBLISHED = {"research": (RESEARCH_CONFIG, research_trunk), "dlrm": (DLRM_CONFIG, dlrm_trunk)}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("std", (0.5, 0.2))
def test_equals_the_published_arithmetic(name, std, small_blocks):
    """Hidden states and the gradients of everything, relative to the largest number of each."""
    config, published = PUBLISHED[name]
    trunk, (x, segments) = trunk_of(config, std), padded()
    found = hidden_and_gradients(trunk, trunk, x, segments)
    expected = hidden_and_gradients(partial(published, trunk), trunk, x, segments)
    assert len(expected) == 2 + len(list(trunk.parameters()))
    for part, plain in expected.items():
        assert (found[part] - plain).abs().max() < 1e-5 * plain.abs().max(), part
        assert plain.abs().max() > 0.01, f"{part}: a comparison of zeros proves nothing"


@pytest.mark.parametrize(
    ("name", "broken"),
    (
        ("research", {"norm_len": L}),  # the batch's own length
        ("research", {"mask_first": True}),
        ("research", {"log": math.log2}),
        ("research", {"anchor_shift": 0}),
        ("research", {"anchor_shift": 2}),
        ("research", {"silu_on": "uvk"}),
        ("research", {"silu_on": "u"}),
        ("dlrm", {"norm_len": L}),
        ("dlrm", {"silu_on": "uvqk"}),
        ("dlrm", {"alpha": 1.0}),
        ("dlrm", {"affine": False}),
    ),
    ids=str,
)
def test_other_arithmetic_would_be_noticed(name, broken):
    """The norm of O hides its scale but for its eps, so the research block shows its normaliser where O is small."""
    config, published = PUBLISHED[name]
    x, segments = padded()
    real, errors = segments.segment_RL >= 0, []
    for std in (0.5, 0.2):
        trunk = trunk_of(config, std)
        found, other = trunk(x, segments)[real], published(trunk, x, segments, **broken)[real]
        errors.append((found - other).abs().max() / found.abs().max())
    assert any(not error < 1e-4 for error in errors)  # nan is noticed, too


@pytest.mark.parametrize("name", PUBLISHED)
def test_starts_as_published(name):
    torch.manual_seed(0)
    config, _ = PUBLISHED[name]
    block = started(HstuBlock(replace(config, dim=96), max_positions=50))
    assert block.norm_len == 50 and block.norm.eps == block.attended_norm.eps == 1e-6
    assert block.uvqk.weight.std().item() == pytest.approx(0.02, rel=0.05)
    num_in = 96 if name == "research" else 288
    assert block.out.in_features == num_in
    assert block.out.weight.abs().max().item() == pytest.approx(math.sqrt(6 / (num_in + 96)), rel=0.01)
    assert (block.uvqk.bias is None, block.norm.weight is None, block.out.bias is None) == (
        (True, True, False) if name == "research" else (False, False, True)
    )


def test_learned_positions_start_as_published():
    torch.manual_seed(0)
    config = replace(PUBLISHED["research"][0], dim=96, positions="rab")
    for kind, std in (("hstu", math.sqrt(2 / (210 + 96))), ("gpt", 0.02)):
        positions = started(Trunk(replace(config, kind=kind), max_positions=210)).positions
        assert positions.learned.table.weight.std().item() == pytest.approx(std, rel=0.05)


# ------------------------------------------------------------------------------------------------- one trunk, whole


def agree(trunk: Trunk, tolerance: float = 1e-6) -> None:
    """Users in shared rows, padded, and each by itself."""
    x, segments = padded()
    packed = timed(rows((7, 1), (11,)))
    places = ((0, slice(0, 7)), (1, slice(0, 11)), (0, slice(7, 8)))  # of the padded users in packed rows
    packed_x, clock = torch.zeros(2, L, DIM), packed.clock
    for user, (row, slots) in enumerate(places):
        packed_x[row, slots] = x[user, : LENGTHS[user]]
        for name in ("time_s_RL", "anchor_s_RL"):
            getattr(clock, name)[row, slots] = getattr(segments.clock, name)[user, : LENGTHS[user]]
    in_padded, in_packed = trunk(x, segments), trunk(packed_x, packed)
    for user, (row, slots) in enumerate(places):
        num = LENGTHS[user]
        own_clock = Clock(*(y[user : user + 1, :num] for y in vars(segments.clock).values()))
        own = Segments(torch.zeros(1, num).long(), torch.arange(num)[None], clock=own_clock)
        alone = trunk(x[user : user + 1, :num], own)[0]
        scale = alone.abs().max().item()
        assert (in_padded[user, :num] - alone).abs().max() <= tolerance * scale
        assert (in_packed[row, slots] - alone).abs().max() <= tolerance * scale
        assert alone.std() > 0.1


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize(
    "switches", (HstuSwitches(), DLRM_V3, HstuSwitches(norm_len=5)), ids=("research", "dlrm", "5")
)
def test_batch_mates_change_nothing(positions, switches):
    agree(trunk_of(replace(RESEARCH_CONFIG, positions=positions, hstu=switches), std=0.2))


def test_the_batch_mate_test_can_fail(monkeypatch):
    trunk = trunk_of(RESEARCH_CONFIG, std=0.2)

    def by_batch_length(q, k, v, segments, *, norm_len, **others):
        return attend_silu(q, k, v, segments, norm_len=segments.segment_RL.shape[1], **others)

    with monkeypatch.context() as broken:
        broken.setattr(packed, "attend_silu", by_batch_length)
        assert_caught(agree, trunk)
    with monkeypatch.context() as broken:
        broken.setattr(Segments, "causality_is_all", True)
        assert_caught(agree, trunk)


@pytest.mark.parametrize("positions", POSITIONS)
def test_neither_the_future_nor_other_users_change_anything(positions):
    trunk, segments = trunk_of(replace(RESEARCH_CONFIG, positions=positions)), timed(rows((7, 4), (11,)))
    torch.manual_seed(1)
    x = torch.randn(2, L, DIM)
    changed = x.clone()
    changed[0, 4:] = torch.randn(7, DIM)
    before, after = trunk(x, segments), trunk(changed, segments)
    assert torch.equal(before[0, :4], after[0, :4]) and torch.equal(before[1], after[1])
    assert not torch.isclose(before[0, 4:], after[0, 4:]).all(-1).any()


def test_the_parts_make_the_whole():
    """What a caller with its own attention relies on."""
    trunk = trunk_of(replace(RESEARCH_CONFIG, positions="rope", hstu=DLRM_V3))
    x, segments = padded()
    where = trunk.where(segments)
    y = trunk.enter(x, segments)
    for block in trunk.blocks:
        u, q, k, v = block.project(y, where.angles)
        attended = attend_silu(q, k, v, segments, norm_len=block.norm_len, scale=block.scale)
        y = block.merge(y, u, attended)
    assert torch.equal(trunk.leave(y, None, where), trunk(x, segments))


def test_what_rides_passes_through():
    block, (x, segments) = trunk_of(replace(RESEARCH_CONFIG, positions="learned")).blocks[0], padded()
    action = torch.randn_like(x)
    assert block(x, action, Packed(segments))[1] is action


def test_bf16_autocast_is_near_fp32():
    for config in (RESEARCH_CONFIG, DLRM_CONFIG):
        trunk, (x, segments) = trunk_of(config, std=0.2), padded()
        exact = hidden_and_gradients(trunk, trunk, x, segments)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = hidden_and_gradients(trunk, trunk, x, segments)
        for part, value in exact.items():
            assert (rounded[part] - value).norm() < 0.03 * value.norm(), part
        assert not torch.equal(rounded["hidden"], exact["hidden"])


def test_dropout_only_in_training():
    trunk, (x, segments) = trunk_of(replace(RESEARCH_CONFIG, dropout=0.5)), padded()
    assert torch.equal(trunk(x, segments), trunk(x, segments))
    trunk.train()
    assert not torch.equal(trunk(x, segments), trunk(x, segments))


def test_a_normaliser_below_one_is_refused():
    with pytest.raises(ValueError, match=r"model.trunk.hstu.norm_len = 0: expected a number from 1"):
        HstuSwitches(norm_len=0)


# ---------------------------------------------------------------------------------------------------- attend_silu


@pytest.mark.parametrize("segments", CASES)
@pytest.mark.parametrize("alibi", (False, True), ids=("plain", "alibi"))
@pytest.mark.parametrize("reads", (None, "position", "both"))
@STRICT
def test_equals_the_reference_in_fp32(segments, alibi, reads, strict, small_blocks):
    bias, settings = bias_of(reads) if reads else None, {"alibi": alibi, "strict": strict}
    found = out_and_gradients(settled(attend_silu, **settings), inputs(), segments, bias)
    expected = out_and_gradients(settled(attend_silu_reference, **settings), inputs(), segments, bias)
    for name, slow in expected.items():
        torch.testing.assert_close(
            found[name], slow, rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )
        assert slow.abs().max() > 0.1, "a comparison of zeros proves nothing"


@pytest.mark.parametrize("segments", CASES)
@pytest.mark.parametrize("alibi", (False, True), ids=("plain", "alibi"))
def test_is_near_the_reference_in_bf16(segments, alibi, small_blocks):
    bias, rounded = bias_of(), inputs(torch.bfloat16)
    way, plain = settled(attend_silu, alibi=alibi), settled(attend_silu_reference, alibi=alibi)
    expected = out_and_gradients(plain, [x.float() for x in rounded], segments, bias)
    with torch.autocast("cpu", torch.bfloat16):
        found = out_and_gradients(way, rounded, segments, bias)
    for name, slow in expected.items():
        assert (found[name] - slow).norm() < 0.02 * slow.norm(), name


def test_the_parity_tests_can_fail(monkeypatch, small_blocks):
    segments = timed(SEGMENTS["candidates packed"])
    expected = out_and_gradients(settled(attend_silu_reference, alibi=True), inputs(), segments, None)

    def check() -> None:
        found = out_and_gradients(settled(attend_silu, alibi=True), inputs(), segments, None)
        assert all(torch.allclose(found[name], slow, rtol=1e-5, atol=1e-5) for name, slow in expected.items())

    check()
    for masked in (-3.0, -torch.inf, 0.0):
        with monkeypatch.context() as broken:
            broken.setattr(blockwise, "MASKED", masked)
            assert_caught(check)
    with monkeypatch.context() as broken:  # the row's own term of ALiBi left out, as a softmax would allow
        slots = torch.arange(L).expand(3, L)
        broken.setattr(hstu, "attend_blockwise", partial(key_term_alone, slots))
        assert_caught(check)


def key_term_alone(slots, q, k, v, visibility, *args, slopes_N, **others):
    """ALiBi of a query at slot 0, whatever its own slot is: only the key's term."""
    segments = visibility.queries
    moved = replace(segments, position_RL=segments.position_RL * 0)
    key_term = torch.cat([k, (slopes_N[:, None] * segments.position_RL[:, None])[..., None]], dim=-1)
    ones = torch.ones_like(q[..., :1]) / others["scale"]
    padded_v = F.pad(v, (0, 1))
    out = blockwise.attend_blockwise(
        torch.cat([q, ones], dim=-1),
        key_term,
        padded_v,
        Visibility(moved, moved),
        *args,
        slopes_N=None,
        **others,
    )
    return out[..., :-1]


def test_by_hand():
    """Scores of 0, 1 and 2 at the third slot: SiLU and a quarter of each value."""
    q, k, v = (torch.tensor(x).view(1, 1, 3, 1) for x in ([1.0] * 3, [0.0, 1.0, 2.0], [5.0, 7.0, 11.0]))
    out = attend_silu(q, k, v, rows((3,), length=3), norm_len=4, scale=1.0)
    silu = [x / (1 + math.exp(-x)) for x in (0.0, 1.0, 2.0)]
    expected = [0.0, silu[1] * 7 / 4, (silu[1] * 7 + silu[2] * 11) / 4]
    assert out.flatten().tolist() == pytest.approx(expected)
