import math
from dataclasses import replace

import pytest
import torch
from tiny import assert_caught, assert_not_vacuous

from plait.nn import attention, blockwise
from plait.nn.attention import attend, attend_blocked, attend_fused, attend_reference
from plait.nn.positions import alibi_slopes
from plait.nn.visibility import Segments, Visibility

N, H, L = 3, 8, 11
WAYS = (attend, attend_blocked, attend_fused)


def rows(*users_of_row: tuple[int, ...], length: int = L) -> Segments:
    """Rows with users of the given numbers of tokens, one after another; a negative number is padding."""
    segment = torch.full((len(users_of_row), length), -1)
    position = torch.zeros(len(users_of_row), length, dtype=torch.int64)
    user = 0
    for row, lengths in enumerate(users_of_row):
        at = 0
        for num in lengths:
            if num > 0:
                segment[row, at : at + num] = user
                position[row, at : at + num] = torch.arange(num)
                user += 1
            at += abs(num)
    return Segments(segment, position)


ALONE = (7,), (11,), (1,)
PACKED = (5, 3), (11,), (2, -3, 1, 5)  # padding at the end and in the middle
PADDING = (-11,), (4,), (-4, 7)  # a row without any user, and padding on the left


def inputs(num_rows: int, length: int = L, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    shape = (3, num_rows, N, length, H)
    return torch.randn(shape, dtype=torch.float32).to(dtype).unbind(0)


def with_requests(segments: Segments) -> Segments:
    """Two slots to an event, and every second event blind to the one before: as if they shared a request."""
    event = segments.index_RL // 2
    return replace(segments, event_RL=event, seen_RL=event // 2 * 4)


def with_candidates(segments: Segments, num: int = 2) -> Segments:
    """The last slots of every user, but for its first, do not see each other."""
    index = segments.index_RL
    same_user = segments.segment_RL[:, :, None] == segments.segment_RL[:, None, :]
    last = (index[:, None, :] * same_user).amax(-1)
    return replace(segments, seen_RL=torch.minimum(index, (last + 1 - num).clamp(min=1)).where(index > 0, 0))


def with_whole_history(segments: Segments) -> Segments:
    """Every slot sees the first five of its user."""
    return replace(segments, seen_RL=torch.where(segments.segment_RL >= 0, 5, 0))


def with_events(segments: Segments) -> Segments:
    """Two slots to an event, plainly causal."""
    return replace(segments, event_RL=segments.index_RL // 2)


SEGMENTS = {
    "alone": rows(*ALONE),
    "packed": rows(*PACKED),
    "padding": rows(*PADDING),
    "events": with_events(rows(*ALONE)),
    "events packed": with_events(rows(*PACKED)),
    "requests": with_requests(rows(*PACKED)),
    "candidates": with_candidates(rows(*ALONE)),
    "candidates packed": with_candidates(rows(*PACKED)),
}
AHEAD = {
    "history ahead": with_whole_history(rows(*ALONE)),
    "history ahead packed": with_whole_history(rows(*PACKED)),
}
EVERY = SEGMENTS | AHEAD
CASES = [
    pytest.param(way, segments, strict, id=f"{way.__name__}-{name}-{'strict' if strict else 'loose'}")
    for way in WAYS
    for name, segments in EVERY.items()
    for strict in (False, True)
    if way is not attend_fused or Visibility(segments, segments).is_causality(strict)
]
STRICT = pytest.mark.parametrize("strict", (False, True), ids=("loose", "strict"))
ALIBI = pytest.mark.parametrize("alibi", (False, True), ids=("plain", "alibi"))


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks in eleven slots."""
    monkeypatch.setattr(blockwise, "QUERY_BLOCK", 4)


def sees_nothing(segments: Segments) -> torch.Tensor:
    return ~segments.strictly_visible_RQK.any(-1)


def out_and_gradients(way, qkv, segments, slopes, strict=False):
    """What a way computes at real slots, and its gradients for a loss over real slots only."""
    qkv = [x.detach().clone().requires_grad_() for x in qkv]
    real = (segments.segment_RL >= 0)[:, None, :, None]
    out = way(*qkv, segments, slopes_N=slopes, strict=strict) * real
    torch.manual_seed(1)
    gradients = torch.autograd.grad(out, qkv, torch.randn(out.shape).to(out.dtype))
    return [x.float() for x in (out.detach(), *gradients)]


def check_parity_in_fp32(way, segments, alibi, strict):
    slopes = alibi_slopes(N) if alibi else None
    qkv = inputs(3)
    expected = out_and_gradients(attend_reference, qkv, segments, slopes, strict)
    for name, fast, slow in zip(
        ("o", "q", "k", "v"), out_and_gradients(way, qkv, segments, slopes, strict), expected, strict=True
    ):
        torch.testing.assert_close(
            fast, slow, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert_not_vacuous({name: slow.abs().max().item()}, above=0.1)


def test_every_way_meets_every_kind_of_segments():
    met = {way: dict.fromkeys((False, True), 0) for way in WAYS}
    for case in CASES:
        way, _, strict = case.values
        met[way][strict] += 1
    assert met[attend_fused] == {False: 2, True: 1} and met[attend_blocked] == {False: 10, True: 10}


@pytest.mark.parametrize(("way", "segments", "strict"), CASES)
@ALIBI
def test_every_way_equals_the_reference_in_fp32(way, segments, alibi, strict, small_blocks):
    check_parity_in_fp32(way, segments, alibi, strict)


@pytest.mark.parametrize(
    ("way", "segments", "strict"), [case for case in CASES if case.values[0] is not attend]
)
@ALIBI
def test_every_way_is_near_the_reference_in_bf16(way, segments, alibi, strict, small_blocks):
    """bf16 holds 8 bits: 1 % of the norm, forward and backward, against the fp32 reference on the same inputs."""
    slopes = alibi_slopes(N) if alibi else None
    qkv = inputs(3, dtype=torch.bfloat16)
    expected = out_and_gradients(attend_reference, [x.float() for x in qkv], segments, slopes, strict)
    for fast, slow in zip(out_and_gradients(way, qkv, segments, slopes, strict), expected, strict=True):
        assert (fast - slow).norm() < 0.01 * slow.norm()


def loose(q, *rest, **_):
    """Plain causality, whatever was asked for."""
    return attend_blocked(q, *rest)


def first_slot_sees_itself(q, k, v, segments, **options):
    out = attend_blocked(q, k, v, segments, **options)
    return torch.where(sees_nothing(segments)[:, None, :, None], v, out)


def shifted_across_users(q, k, v, segments, **_):
    """The query shift as the paper has it, for one user per row."""
    out = torch.nn.functional.scaled_dot_product_attention(
        q[:, :, 1:], k[:, :, :-1], v[:, :, :-1], is_causal=True
    )
    return torch.nn.functional.pad(out, (0, 0, 1, 0))


@pytest.mark.parametrize("mutant", (loose, first_slot_sees_itself, shifted_across_users))
def test_the_parity_test_notices_strictness_done_wrong(mutant):
    assert_caught(check_parity_in_fp32, mutant, SEGMENTS["packed"], False, True)


@pytest.mark.parametrize("name", ("events packed", "requests", "candidates", "candidates packed"))
def test_the_parity_test_notices_what_is_not_asked(name):
    """Events, requests and candidates taken for plain causality."""

    def plain(q, k, v, segments, **options):
        return attend(q, k, v, replace(segments, event_RL=None, seen_RL=None), **options)

    assert_caught(check_parity_in_fp32, plain, SEGMENTS[name], False, "events" in name)


def test_the_parity_test_can_fail(monkeypatch):
    """With the users of a row taken for one, the fast ways must leave the reference."""
    qkv = inputs(3)
    expected = attend_reference(*qkv, rows(*PACKED))
    monkeypatch.setattr(Segments, "one_user_per_row", True)
    for way in WAYS:
        assert (way(*qkv, rows(*PACKED)) - expected).abs().max() > 0.1


@STRICT
def test_a_user_in_a_packed_row_sees_what_it_sees_alone(strict):
    q, k, v = inputs(1)
    packed = attend(q, k, v, rows((5, 3, -1, 2)), strict=strict)
    for start, stop in ((0, 5), (5, 8), (9, 11)):
        own = [x[:, :, start:stop].contiguous() for x in (q, k, v)]
        alone = attend(*own, rows((stop - start,), length=stop - start), strict=strict)
        torch.testing.assert_close(packed[:, :, start:stop], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("way", (*WAYS, attend_reference))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@ALIBI
@STRICT
def test_padding_yields_numbers(way, dtype, alibi, strict):
    qkv = [x.requires_grad_() for x in inputs(3, dtype=dtype)]
    segments = rows(*(ALONE if way is attend_fused else PADDING))
    out = way(*qkv, segments, slopes_N=alibi_slopes(N) if alibi else None, strict=strict)
    gradients = torch.autograd.grad(out, qkv, torch.ones_like(out))
    assert all(x.isfinite().all() for x in (out, *gradients))


def test_what_stands_at_padding_does_not_reach_users():
    q, k, v = inputs(3)
    segments = rows(*PADDING)
    padding = (segments.segment_RL < 0)[:, None, :, None]
    before, after = attend(q, k, v, segments), attend(q, k + 9 * padding, v + 9 * padding, segments)
    torch.testing.assert_close(before * ~padding, after * ~padding, rtol=0, atol=0)
    assert not torch.equal(before, after)


def test_alibi_measures_positions_not_slots():
    """A user whose positions run twice as fast has its distances doubled: the same as doubled slopes."""
    qkv, segments, slopes = inputs(3), rows(*ALONE), alibi_slopes(N)
    fast = Segments(segments.segment_RL, 2 * segments.position_RL)
    for way in WAYS:
        doubled = way(*qkv, fast, slopes_N=slopes)
        torch.testing.assert_close(doubled, way(*qkv, segments, slopes_N=2 * slopes), rtol=1e-5, atol=1e-5)
        assert (doubled - way(*qkv, segments, slopes_N=slopes)).abs().max() > 0.01


def test_folded_alibi_stays_exact_where_bf16_cannot_hold_the_distance(monkeypatch):
    length = 300
    qkv, segments = inputs(1, length, torch.bfloat16), rows((length,), length=length)
    slopes = alibi_slopes(N)
    expected = attend_reference(*qkv, segments, slopes_N=slopes).float()

    def error() -> float:
        return (attend_fused(*qkv, segments, slopes_N=slopes).float() - expected).abs().max().item()

    assert error() < 0.02
    fold = attention._fold_alibi

    def without_remainder(*args):
        q, k, v = fold(*args)
        return q, torch.cat([k[..., :-1], torch.zeros_like(k[..., -1:])], dim=-1), v

    monkeypatch.setattr(attention, "_fold_alibi", without_remainder)
    assert error() > 0.1, "one dimension would have done"


@pytest.mark.parametrize(
    ("dtype", "segments", "strict", "expected"),
    (
        (torch.float32, SEGMENTS["alone"], False, "fused"),
        (torch.float32, SEGMENTS["alone"], True, "fused"),
        (torch.float32, SEGMENTS["events"], False, "fused"),
        (torch.float32, SEGMENTS["events"], True, "blocked"),
        (torch.float32, SEGMENTS["candidates"], False, "blocked"),
        (torch.float32, SEGMENTS["packed"], False, "blocked"),
        (torch.bfloat16, SEGMENTS["alone"], False, "blocked"),
        (torch.bfloat16, AHEAD["history ahead"], False, "blocked"),
    ),
)
def test_attend_takes_the_way_that_was_measured_to_win(dtype, segments, strict, expected, monkeypatch):
    taken = []
    for name in ("fused", "blocked"):
        monkeypatch.setattr(
            attention, f"attend_{name}", lambda q, *_, name=name, **__: taken.append(name) or q
        )
    attend(*inputs(3, dtype=dtype), segments, strict=strict)
    assert taken == [expected]


@pytest.mark.parametrize("kept", (0, 600, 1 << 20), ids=("none", "some", "all"))
@STRICT
def test_kept_probabilities_change_nothing(kept, strict, small_blocks, monkeypatch):
    monkeypatch.setattr(attention, "KEPT_PROBABILITIES_BYTES", kept)
    made = []
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda *x, **rest: made.append(x) or softmax(*x, **rest))
    check_parity_in_fp32(attend_blocked, SEGMENTS["packed"], True, strict)
    forward = 3
    assert len(made) == {0: 2 * forward, 600: 2 * forward - 1, 1 << 20: forward}[kept]


def test_kept_probabilities_are_counted_in_bytes_over_rows_heads_and_pairs(monkeypatch):
    """Not by a row's length alone; and nothing is kept where no gradient will be asked for."""
    held = []
    monkeypatch.setattr(attention, "KEPT_PROBABILITIES_BYTES", 3 * N * L * L * 4)

    def kept_by(num_rows: int) -> int:
        qkv = [x.requires_grad_() for x in inputs(num_rows)]
        out = attend_blocked(*qkv, rows(*[(5, 3)] * num_rows))
        if out.grad_fn is None:
            return 0
        node = out.grad_fn
        held.append(node)
        return sum(x.numel() for x in node.saved_tensors[3:])

    assert kept_by(3) == 3 * N * L * L and kept_by(4) == 0
    with torch.no_grad():
        assert kept_by(3) == 0


@pytest.mark.parametrize("strict", (False, True))
def test_the_fused_way_needs_no_mask_where_a_user_has_a_row(strict, monkeypatch):
    """The kernels' own causality is enough, for strictness with the queries shifted."""
    asked = []
    plain = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *qkv, **options: asked.append(options) or plain(*qkv, **options),
    )
    attend_fused(*inputs(3), rows(*ALONE), strict=strict)
    assert asked == [{"is_causal": True, "scale": H**-0.5}]


@pytest.mark.parametrize("way", (*WAYS, attend_reference))
def test_the_first_event_of_every_user_attends_to_nothing(way):
    of_fused = (SEGMENTS["alone"],)
    for segments in (
        of_fused if way is attend_fused else (*of_fused, SEGMENTS["packed"], SEGMENTS["events packed"])
    ):
        out = way(*inputs(3), segments, strict=True)
        first = sees_nothing(segments) & (segments.segment_RL >= 0)
        assert not out.transpose(1, 2)[first].any()
        later = ~first & (segments.segment_RL >= 0)
        assert (out.transpose(1, 2)[later].abs().amax((-1, -2)) > 0.1).all()


@pytest.mark.parametrize("way", WAYS)
def test_a_row_of_one_slot_attends_strictly_to_nothing(way):
    qkv = [x.requires_grad_() for x in inputs(2, length=1)]
    out = way(*qkv, rows((1,), (-1,), length=1), strict=True)
    assert out.shape == qkv[0].shape
    assert not out.any()
    assert not any(g.any() for g in torch.autograd.grad(out.sum(), qkv))


def test_the_kernels_refuse_what_takes_a_mask():
    for segments, strict in ((SEGMENTS["packed"], False), (SEGMENTS["events"], True)):
        with pytest.raises(AssertionError, match="a mask of all pairs, or mere causality"):
            attend_fused(*inputs(3), segments, strict=strict)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_autocast_around_the_blocks_changes_nothing(dtype):
    qkv, segments = inputs(3, dtype=dtype), rows(*PACKED)
    expected = out_and_gradients(attend_blocked, qkv, segments, None)
    with torch.autocast("cpu", torch.bfloat16):
        found = out_and_gradients(attend_blocked, qkv, segments, None)
    for under, plain in zip(found, expected, strict=True):
        assert torch.equal(under, plain)


def test_one_user_per_row_is_told_from_the_segments():
    assert rows(*ALONE).one_user_per_row
    assert rows((-11,), (4,)).one_user_per_row
    assert not rows((5, 3)).one_user_per_row
    assert not rows((-4, 7)).one_user_per_row, "padding on the left would be seen by the user"


def test_attention_of_equal_scores_is_a_running_mean():
    """By hand: with queries of zero every visible value counts the same."""
    values = torch.tensor([1.0, 3.0, 8.0, 5.0]).view(1, 1, 4, 1)
    zero = torch.zeros_like(values)
    out = attend(zero, zero, values, rows((3, 1), length=4))
    assert out.flatten().tolist() == pytest.approx([1.0, 2.0, 4.0, 5.0])
    out = attend(zero, zero, values, rows((3, 1), length=4), strict=True)
    assert out.flatten().tolist() == pytest.approx([0.0, 1.0, 2.0, 0.0])
    slopes = torch.tensor([math.log(2.0)])  # each step back halves the weight
    out = attend(zero, zero, values, rows((3, 1), length=4), slopes_N=slopes)
    assert out.flatten().tolist() == pytest.approx([1.0, (1 + 2 * 3) / 3, (1 + 2 * 3 + 4 * 8) / 7, 5.0])
