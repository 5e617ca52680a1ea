"""The trunk: positions enter, blocks follow, a norm ends it; where actions are fused late, a final pooling, too.

Shape letters: R rows, L slots of a row, r and l those that are read (`Read`), D width, N heads.
"""

from collections.abc import Set
from typing import NamedTuple, assert_never

from jaxtyping import Float
from torch import Tensor, nn

from plait.layouts.facts import Ride
from plait.nn.action_values import ActionPooling, DualHelixBlock, MixedValueBlock
from plait.nn.block import Layer, Where
from plait.nn.config import TrunkConfig, TrunkKind
from plait.nn.dropout import Dropout
from plait.nn.gpt import GptBlock
from plait.nn.hstu import HstuBlock
from plait.nn.initialising import layer_norm
from plait.nn.packed import Packed
from plait.nn.positions import Angles, EnteringPositions, alibi_slopes, rope_angles
from plait.nn.read import Read
from plait.nn.visibility import Segments

Block = Layer | MixedValueBlock | DualHelixBlock


class TokensAndPairs(NamedTuple):
    """What a trunk's work grows with."""

    tokens: int
    pairs: float  # along which these tokens attend
    strict_pairs: float  # those that are left where no token sees its own event, whose action its value holds


class Trunk(nn.Module):
    """The stack of blocks. `forward` is `enter`, then every block, then `leave`: the parts serve callers that
    encode a history once and attend to it later.

    Args:
        max_positions: tokens of the longest sequence; only positions with a table are limited by it.
        rides: how actions enter that no token shows: late fusion (pool), mixed values, dual helix.
    """

    slopes_N: Tensor | None

    def __init__(self, config: TrunkConfig, max_positions: int, rides: Set[Ride] = frozenset()) -> None:
        super().__init__()
        self.config = config
        kind, scheme = layer_of(config.kind), config.scheme
        learned_std = kind.learned_std(config, max_positions)
        self.input_scale = kind.input_scale(config)
        self.positions = EnteringPositions(config.positions, max_positions, config.dim, learned_std)
        slopes_N = alibi_slopes(config.num_heads) if scheme.falls_with_distance else None
        self.register_buffer("slopes_N", slopes_N, persistent=False)
        self.dropout = Dropout(config.dropout)
        blocks = [_block(config, max_positions, rides) for _ in range(config.num_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.num_attentions = sum(block.num_attentions for block in blocks) + ("pool" in rides)
        strict_layers = bool(rides & {"values", "helix"})
        self.num_strict = self.num_attentions if strict_layers else int("pool" in rides)
        self.norm = layer_norm(config.dim) if kind.has_final_norm(config) else nn.Identity()
        self.pooling: ActionPooling | None = None
        if "pool" in rides:
            fuses_item = config.pool_fuses_item
            self.pooling = ActionPooling(
                config, max_positions, len(rides) > 1 if fuses_item is None else fuses_item
            )

    def forward(
        self,
        x_RLD: Float[Tensor, "R L D"],
        segments: Segments,
        action_RLD: Float[Tensor, "R L D"] | None = None,
        read: Read | None = None,
    ) -> Float[Tensor, "r l D"]:
        """Hidden states of the slots that are read.

        Args:
            x_RLD: the tokens' embeddings, without positions.
            action_RLD: the embeddings of the actions that no token shows, at the slots of their events.
            read: which slots are read: their states come in one row, in the order of their cells. By default all are,
                in the rows of `x_RLD`.

        Raises:
            ValueError: a user has more tokens than there are positions.
        """
        where = self.where(segments)
        return self.through(x_RLD, action_RLD, where, None if read is None else where.reading(read))

    def through(
        self,
        x_RLD: Float[Tensor, "R L D"],
        action_RLD: Float[Tensor, "R L D"] | None,
        where: Where,
        last: Where | None = None,
    ) -> Float[Tensor, "r l D"]:
        """As `forward`, attending as `where` says: to one another, or to histories encoded before (`OverKeys`).

        Args:
            last: the same, where only some slots are read. So the last place attends. (A pooling is the last place; its
                keys are made of the states of all slots, so of the blocks nothing can be left out.)
        """
        x_RLD = self.enter(x_RLD, where.segments)
        action_RLD = None if action_RLD is None else self.dropout(action_RLD)
        last = where if last is None else last
        of_last_block = last if self.pooling is None else where
        for number, block in enumerate(self.blocks, 1):
            at = of_last_block if number == len(self.blocks) else where
            x_RLD, action_RLD = block(x_RLD, action_RLD, at)
        return self.leave(x_RLD, action_RLD, last)

    def where(self, segments: Segments) -> Packed:
        """What all blocks share of a batch's places."""
        return Packed(segments, self.angles(segments), self.slopes_N)

    def angles(self, segments: Segments) -> Angles | None:
        """RoPE's, where positions are turned."""
        if not self.config.scheme.turns:
            return None
        return rope_angles(segments.position_RL, self.config.head_width)

    def enter(self, x_RLD: Float[Tensor, "R L D"], segments: Segments) -> Float[Tensor, "R L D"]:
        """The residual stream before the first block."""
        if self.input_scale is not None:
            x_RLD = x_RLD * self.input_scale
        return self.dropout(self.positions(x_RLD, segments))

    def leave(
        self, x_RLD: Float[Tensor, "r l D"], action_RLD: Float[Tensor, "R L D"] | None, where: Where
    ) -> Float[Tensor, "_ _ D"]:
        """Hidden states after the last block: normalised, with the actions pooled where they are fused late."""
        hidden_RLD = self.norm(x_RLD)
        return hidden_RLD if self.pooling is None else self.pooling(hidden_RLD, action_RLD, where)

    @property
    def places(self) -> tuple[str, ...]:
        """What each place is called where tokens attend, in their order."""
        found = []
        for number, block in enumerate(self.blocks, 1):
            if isinstance(block, DualHelixBlock):
                found += [f"layer {number}, items", f"layer {number}, actions"]
            else:
                found.append(f"layer {number}")
        return (*found, *(() if self.pooling is None else ("pooling",)))

    def flops(self, every: TokensAndPairs, read: TokensAndPairs | None = None) -> float:
        """FLOPs of a forward pass: every matrix product.

        Args:
            every: of all tokens.
            read: of those that are read, by default all: where tokens attend last, of others only keys and values are
                made.
        """
        dim, read = self.config.dim, every if read is None else read
        last = self.blocks[-1] if self.pooling is None else self.pooling
        of_last = _num_weights(last) - 2 * dim**2
        of_all = _num_weights(self) - of_last
        pairs = (self.num_attentions - self.num_strict) * every.pairs + self.num_strict * every.strict_pairs
        pairs += read.strict_pairs - every.strict_pairs if self.num_strict else read.pairs - every.pairs
        return 2.0 * (of_all * every.tokens + of_last * read.tokens) + 4.0 * dim * pairs


def _num_weights(module: nn.Module) -> int:
    """Of matrices."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def layer_of(kind: TrunkKind) -> type[Layer]:
    """The layers that a kind of trunk is made of."""
    match kind:
        case "gpt":
            return GptBlock
        case "hstu":
            return HstuBlock
        case _:
            assert_never(kind)


def _block(config: TrunkConfig, max_positions: int, rides: Set[Ride]) -> Block:
    def layer() -> Layer:
        return layer_of(config.kind)(config, max_positions)

    if "helix" in rides:
        return DualHelixBlock(layer(), layer(), config.dim)
    return MixedValueBlock(layer(), config.dim, config.ride_weight) if "values" in rides else layer()
