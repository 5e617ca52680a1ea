"""What every block of a trunk is given beside the streams.

Shape letters: R rows, L slots of a row, r and l those that are read (`Read`), D width, N heads, H head width.
"""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from plait.nn.config import TrunkConfig
from plait.nn.positions import Angles
from plait.nn.read import Read
from plait.nn.relative import RelativeBias
from plait.nn.visibility import Segments

# A block maps (x_RLD, action_RLD, where) to the two streams: x, the tokens' residual stream, and the embeddings of
# the actions that no token shows (None where tokens show all).
Streams = tuple[Float[Tensor, "r l D"], Float[Tensor, "R L D"] | None]
Heads = tuple[Float[Tensor, "r N l H"], Float[Tensor, "R N L H"], Float[Tensor, "R N L H"]]


class Where(ABC):
    """The places of a batch's slots, computed once and shared by all blocks, and what the slots attend to.

    A trunk attends in the same order in every pass.
    """

    segments: Segments
    angles: Angles | None  # of RoPE
    read: Read | None = None  # which slots are read of what comes out, and attend; None: all

    @abstractmethod
    def softmax(self, qkv: Heads, bias: RelativeBias | None, *, strict: bool) -> Float[Tensor, "r N l H"]:
        """Softmax attention, scores scaled by H ** -0.5, with whatever the positions add to them.

        Args:
            strict: no slot sees its own event; where nothing is left to see, the result is 0.
        """

    @abstractmethod
    def silu(
        self, qkv: Heads, bias: RelativeBias | None, *, scale: float, norm_len: int, strict: bool
    ) -> Float[Tensor, "r N l H"]:
        """The sum of values weighted by SiLU(scale * q.k + whatever the positions add), over norm_len; `strict` as in
        `softmax`."""


class Layer(nn.Module, ABC):
    """One layer of a trunk of some kind, and what that kind wants around its layers.

    Made from the trunk's settings and the tokens of the longest sequence.
    """

    num_attentions = 1

    @abstractmethod
    def __init__(self, config: TrunkConfig, max_positions: int) -> None:
        super().__init__()

    def forward(self, x_RLD: Float[Tensor, "R L D"], action_RLD: Tensor | None, where: Where) -> Streams:
        return self.update(x_RLD, where), action_RLD

    @abstractmethod
    def update(
        self, x_RLD: Float[Tensor, "R L D"], where: Where, mixed_RLD: Float[Tensor, "R L D"] | None = None
    ) -> Float[Tensor, "r l D"]:
        """The residual stream after the layer, of the slots that are read.

        Args:
            mixed_RLD: is added to the normalised states that values are made from; then no token sees its own event.
        """

    @staticmethod
    @abstractmethod
    def learned_std(config: TrunkConfig, max_positions: int) -> float:
        """What learned positions start with."""

    @staticmethod
    @abstractmethod
    def input_scale(config: TrunkConfig) -> float | None:
        """What embeddings are multiplied by before positions are added."""

    @staticmethod
    @abstractmethod
    def has_final_norm(config: TrunkConfig) -> bool:
        """Whether a norm follows the last layer."""
