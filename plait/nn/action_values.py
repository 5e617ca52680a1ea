"""Attention whose values hold actions that no token shows: mixed values (AttnMVP), the dual helix (AttnDHN), and late
fusion by pooling (AttnLFA).

Everywhere here the attention is strict: an event sees earlier events alone, never itself, for its own value holds
the very action that is predicted at it. Actions enter through a LayerNorm of their own: they are embeddings, and
start about fifty times smaller than the normalised states that they are added to.

Shape letters: R rows, L slots of a row, r and l those that are read (`Read`), D width, N heads, H head width.
"""

from jaxtyping import Float
from torch import Tensor, nn

from plait.nn.block import Heads, Layer, Streams, Where
from plait.nn.config import TrunkConfig
from plait.nn.gpt import heads_of
from plait.nn.initialising import layer_norm
from plait.nn.linear import linear, part_of
from plait.nn.positions import Angles
from plait.nn.read import Read, read_of
from plait.nn.relative import relative_bias


class MixedValueBlock(nn.Module):
    """AttnMVP's layer: any block, but strict, and with values that carry the actions of their events.

    q and k come from h = LN(x), v from h + ride_weight * LN(action), through one projection. The paper mixes the
    streams themselves, H + lambda * a; mixed before the norm, an action would fade as H grows from layer to layer.
    The residual is x alone: one over the values would hand every event its own action, and so would a gate (HSTU's)
    made from them. The action leaves as it came, so each layer mixes in the original action.

    Source: the AttnMVP paper, section 4; for HSTU's block, Plait.

    Args:
        layer: of width `dim`.
    """

    num_attentions = 1

    def __init__(self, layer: Layer, dim: int, ride_weight: float) -> None:
        super().__init__()
        self.ride_weight = ride_weight
        self.ride_norm = layer_norm(dim)
        self.layer = layer

    def forward(
        self, x_RLD: Float[Tensor, "R L D"], action_RLD: Float[Tensor, "R L D"], where: Where
    ) -> Streams:
        return self.layer.update(x_RLD, where, self.mixed(action_RLD)), action_RLD

    def mixed(self, action_RLD: Float[Tensor, "R L D"]) -> Float[Tensor, "R L D"]:
        """What is added to the normalised states that values are made from."""
        return self.ride_weight * self.ride_norm(action_RLD)


class DualHelixBlock(nn.Module):
    """AttnDHN's layer: items are updated from (q, k, v) = (i, i, i + a), then actions from (a, a, i + a).

    Both updates are AttnMVP's layer with equal weights, MLP included; the second one takes the items just updated.
    Its residual keeps a[n] in the action stream at event n, so whatever predicts a[n] may read that stream at
    earlier events alone: both updates of the next layer do, and so does the pooling.

    Source: the AttnMVP paper, section 5.
    """

    num_attentions = 2

    def __init__(self, item_layer: Layer, action_layer: Layer, dim: int) -> None:
        super().__init__()
        self.items = MixedValueBlock(item_layer, dim, ride_weight=1.0)  # the paper's lambda is AttnMVP's
        self.actions = MixedValueBlock(action_layer, dim, ride_weight=1.0)

    def forward(
        self, x_RLD: Float[Tensor, "R L D"], action_RLD: Float[Tensor, "R L D"], where: Where
    ) -> Streams:
        assert where.read is None, "both streams of all slots are read: a pooling follows"
        x_RLD, _ = self.items(x_RLD, action_RLD, where)
        action_RLD, _ = self.actions(action_RLD, x_RLD, where)
        return x_RLD, action_RLD


class ActionPooling(nn.Module):
    """AttnLFA's pooling: what the user did with earlier items, each counted by its likeness to this one.

    q and k come from the items' hidden states, v from the actions. The first event pools nothing: zeros, before
    the output projection's bias. No norm follows, for the length of a mean of actions tells how far they agree;
    instead v and output projection start with weights that keep the scale, so that heads read a pooled action
    as large as any hidden state.

    Args:
        fuses_item: the result is the item's hidden state plus the pooled action, not the pooled action alone.

    Source: the AttnMVP paper, section 3; for the fusion its section 4, which leaves the form open.
    """

    def __init__(self, config: TrunkConfig, max_positions: int, fuses_item: bool) -> None:
        super().__init__()
        dim = config.dim
        self.num_heads = config.num_heads
        self.fuses_item = fuses_item
        self.ride_norm = layer_norm(dim)
        self.qk = linear(dim, 2 * dim)
        self.value = linear(dim, dim, dim**-0.5)
        self.out = linear(dim, dim, dim**-0.5)
        self.bias = relative_bias(config, max_positions)

    def forward(
        self, hidden_RLD: Float[Tensor, "R L D"], action_RLD: Float[Tensor, "R L D"], where: Where
    ) -> Float[Tensor, "r l D"]:
        qkv = self.project(hidden_RLD, action_RLD, where.angles, where.read)
        return self.merge(read_of(hidden_RLD, where.read), where.softmax(qkv, self.bias, strict=True))

    def project(
        self,
        hidden_RLD: Float[Tensor, "R L D"],
        action_RLD: Float[Tensor, "R L D"],
        angles: Angles | None,
        read: Read | None = None,
    ) -> Heads:
        """Queries and keys of items, values of actions; with `angles`, queries and keys turned.

        Args:
            read: which slots have queries; by default all.
        """
        dim, v_RLD = hidden_RLD.shape[-1], self.value(self.ride_norm(action_RLD))
        if read is None:
            q_rlD, k_RLD = self.qk(hidden_RLD).chunk(2, dim=-1)
        else:
            q_rlD = part_of(self.qk, slice(dim), read.of_cells(hidden_RLD))
            k_RLD = part_of(self.qk, slice(dim, None), hidden_RLD)
        return heads_of(q_rlD, k_RLD, v_RLD, self.num_heads, angles, read)

    def merge(
        self, hidden_RLD: Float[Tensor, "R L D"], pooled_RNLH: Float[Tensor, "R N L H"]
    ) -> Float[Tensor, "R L D"]:
        """What heads read."""
        pooled_RLD = self.out(pooled_RNLH.transpose(1, 2).flatten(2))
        return hidden_RLD + pooled_RLD if self.fuses_item else pooled_RLD
