"""Where and when a token stands: learned positions, RoPE, ALiBi, and the embeddings of GenRank and of DLRM-v3.

Shape letters: R rows, L slots of a row, D width, N heads, H head width, h = H / 2 rotation frequencies.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, assert_never

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from plait.nn.initialising import VectorTable
from plait.nn.visibility import NO_REQUEST_BEFORE, Clock, Segments

Positions = Literal["learned", "rope", "alibi", "rab", "genrank", "dlrm_v3"]
TimeAnchor = Literal["current", "next", "request"]

LARGEST_MOMENT = 2048  # bucket of DLRM-v3's times
TIME_BUCKETS = 129  # of HSTU's bias and, with one more for "none before", of GenRank's pre-request time


@dataclass(frozen=True, kw_only=True)
class PositionScheme:
    """What a choice of positions adds, where it does, and what it has to be told."""

    adds_learned: bool = False
    """To the tokens' embeddings, a vector for every position."""
    adds_requests: bool = False
    """To the tokens' embeddings, vectors for the number of the request and the time before it."""
    adds_moment: bool = False
    """To the tokens' embeddings, vectors for what lies between a token and the moment that is asked about."""
    turns: bool = False
    """Queries and keys, by their positions (RoPE)."""
    falls_with_distance: bool = False
    """Attention, by a slope of each head (ALiBi): it measures how far back a key lies, and never ahead."""
    has_relative_bias: bool = False
    """Scores, by the distance and the time between query and key."""
    reads_time: bool = False
    time_anchors: tuple[TimeAnchor, ...] = ("current",)
    """What a token may take for now."""


def scheme_of(positions: Positions) -> PositionScheme:
    """All that the rest of Plait knows about a choice of positions.

    >>> scheme_of("alibi").falls_with_distance, scheme_of("rope").adds_learned
    (True, False)
    """
    match positions:
        case "learned":
            return PositionScheme(adds_learned=True)
        case "rope":
            return PositionScheme(turns=True)
        case "alibi":
            return PositionScheme(falls_with_distance=True)
        case "rab":  # with learned positions, too, as HSTU has them
            return PositionScheme(
                adds_learned=True,
                has_relative_bias=True,
                reads_time=True,
                time_anchors=("current", "next", "request"),
            )
        case "genrank":
            return PositionScheme(
                adds_learned=True, adds_requests=True, falls_with_distance=True, reads_time=True
            )
        case "dlrm_v3":
            return PositionScheme(adds_moment=True, reads_time=True, time_anchors=("request",))
        case _:
            assert_never(positions)


def time_bucket(gap_s: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """HSTU's bucket of a time difference: the natural logarithm of the seconds over 0.301, from 0 to 128.

    So each bucket reaches 1.35 times as far as the one before, not twice as far.

    >>> time_bucket(torch.tensor([0, 1, 2, 60, 86_400, -60])).tolist()
    [0, 0, 2, 13, 37, 13]
    """
    bucket = gap_s.double().abs_().clamp_(min=1).log_().div_(0.301)  # in place: one array, not six
    return bucket.clamp_(max=TIME_BUCKETS - 1).long()


class EnteringPositions(nn.Module):
    """What positions add to the tokens' embeddings before the first block: vectors of tables, or nothing.

    A relative bias and slopes belong to the blocks.

    Args:
        learned_std: what learned positions start with.
    """

    def __init__(self, positions: Positions, max_positions: int, dim: int, learned_std: float = 0.02) -> None:
        super().__init__()
        scheme = scheme_of(positions)
        self.learned = LearnedPositions(max_positions, dim, learned_std) if scheme.adds_learned else None
        self.requests = RequestPositions(max_positions, dim) if scheme.adds_requests else None
        self.moment = MomentPositions(max_positions, dim) if scheme.adds_moment else None

    def forward(self, x_RLD: Float[Tensor, "R L D"], segments: Segments) -> Float[Tensor, "R L D"]:
        """Raises ValueError where a position or a request has no vector."""
        if self.learned is not None:
            x_RLD = x_RLD + self.learned(segments.position_RL)
        if self.requests is not None:
            assert segments.clock is not None, "positions that know requests take inputs with a clock"
            x_RLD = x_RLD + self.requests(segments.clock)
        if self.moment is not None:
            assert segments.clock is not None, (
                "positions that count back from a moment take inputs with a clock"
            )
            x_RLD = x_RLD + self.moment(segments.clock)
        return x_RLD


class RequestPositions(nn.Module):
    """The number of an event's request, and the time since the request before it, as vectors.

    Source: the GenRank paper, section 4.2. The request counts itself; the first one has no time before it. The
    paper leaves the buckets open: these are HSTU's.
    """

    def __init__(self, max_requests: int, dim: int) -> None:
        super().__init__()
        self.index = VectorTable(max_requests + 1, dim)
        self.gap = VectorTable(1 + TIME_BUCKETS, dim)

    def forward(self, clock: Clock) -> Float[Tensor, "R L D"]:
        first = clock.gap_s_RL == NO_REQUEST_BEFORE
        bucket_RL = torch.where(first, 0, 1 + time_bucket(clock.gap_s_RL))
        return self.index(clock.request_RL) + self.gap(bucket_RL)


class MomentPositions(nn.Module):
    """How many tokens and how much time lie between a token and the moment that is asked about, as vectors.

    Candidates all stand at that moment. The bucket of a time is the square root of its minutes, rounded down.

    Source: the input of Meta's DLRM-v3 (its published code): distance from the end, and time before the query.
    """

    def __init__(self, max_positions: int, dim: int) -> None:
        super().__init__()
        self.left = LearnedPositions(max_positions + 1, dim)
        self.time = VectorTable(LARGEST_MOMENT + 1, dim)

    def forward(self, clock: Clock) -> Float[Tensor, "R L D"]:
        """Raises ValueError where a user has more tokens than there are positions."""
        return self.left(clock.left_RL) + self.time(moment_bucket(clock.anchor_s_RL - clock.time_s_RL))


def moment_bucket(gap_s: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """
    >>> moment_bucket(torch.tensor([-9, 59, 60, 239, 240, 10**9])).tolist()
    [0, 0, 1, 1, 2, 2048]
    """
    return (gap_s.clamp(min=0).double() / 60).sqrt().long().clamp(max=LARGEST_MOMENT)


class LearnedPositions(nn.Module):
    """One trained vector per token position."""

    def __init__(self, max_positions: int, dim: int, std: float = 0.02) -> None:
        super().__init__()
        self.table = VectorTable(max_positions, dim, std)

    def forward(self, position_RL: Int64[Tensor, "R L"]) -> Float[Tensor, "R L D"]:
        """Raises ValueError where a position has no vector; an exported program looks at no values."""
        if torch.compiler.is_exporting():
            return self.table(position_RL)
        num_found, num_learned = int(position_RL.max()) + 1, self.table.num_embeddings
        if num_found > num_learned:
            raise ValueError(
                f"a sequence of {num_found} tokens, but there are learned positions for {num_learned} "
                "(max_positions): shorten it, train with more, or use positions='rope' or 'alibi'"
            )
        return self.table(position_RL)


class Angles(NamedTuple):
    """RoPE's rotations of every slot, computed once per batch and used by all layers."""

    cos_R1Lh: Float[Tensor, "R 1 L h"]
    sin_R1Lh: Float[Tensor, "R 1 L h"]


def rope_angles(position_RL: Int64[Tensor, "R L"], head_width: int, base: float = 10_000.0) -> Angles:
    """The angle `position * base ** (-2f / H)` of each frequency f.

    Raises:
        ValueError: the head width is odd, so its dimensions do not form pairs.

    Source: Su et al., RoFormer, 2021, section 3.2.
    """
    if head_width % 2:
        raise ValueError(f"rope turns pairs of dimensions: a head width of {head_width} is odd")
    exponent_h = torch.arange(0, head_width, 2, dtype=torch.float32, device=position_RL.device) / head_width
    angle_R1Lh = position_RL[:, None, :, None] * base**-exponent_h
    return Angles(angle_R1Lh.cos(), angle_R1Lh.sin())


def rope(x_RNLH: Float[Tensor, "R N L H"], angles: Angles) -> Float[Tensor, "R N L H"]:
    """Queries or keys turned by their positions, so that their product depends on the difference alone.

    Dimension f turns together with dimension f + H / 2. The turn is made in fp32, the result in x's type.
    """
    first, second = x_RNLH.float().chunk(2, dim=-1)
    cos, sin = angles
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x_RNLH.dtype)


def alibi_slopes(num_heads: int) -> Float[Tensor, " {num_heads}"]:
    """How fast each head's attention falls with distance, per position.

    Source: Press et al., 2022, section 3, and their published code where num_heads is no power of two:
    the slopes of the next lower power, then every second one of the next higher.

    >>> alibi_slopes(4)
    tensor([0.2500, 0.0625, 0.0156, 0.0039])
    >>> alibi_slopes(3)
    tensor([0.0625, 0.0039, 0.2500])
    """
    lower = 1 << (num_heads.bit_length() - 1)
    slopes = _geometric(lower) + _geometric(2 * lower)[::2][: num_heads - lower]
    return torch.tensor(slopes, dtype=torch.float32)


def _geometric(num_heads: int) -> list[float]:
    return [2 ** (-8 * (head + 1) / num_heads) for head in range(num_heads)]
