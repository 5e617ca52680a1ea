"""What every block of a trunk is given beside the streams.

Shape letters: R rows, L slots of a row, D width, N heads.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from plait.nn.positions import Angles
from plait.nn.visibility import Segments

# A block maps (x_RLD, ride_RLD, where) to the two streams: x, the tokens' residual stream, and the embeddings of
# the actions that ride beside them (None where none do).
Streams = tuple[Float[Tensor, "R L D"], Float[Tensor, "R L D"] | None]


@dataclass(frozen=True)
class Where:
    """The places of a batch's slots, computed once and shared by all blocks."""

    segments: Segments
    angles: Angles | None = None  # of RoPE
    slopes_N: Float[Tensor, " N"] | None = None  # of ALiBi
