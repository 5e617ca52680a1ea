"""The shape of a trunk, and the sizes with names."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal, assert_never

from plait.limits import DEPTH, SHARE, WEIGHT, WHOLE, WIDTH, Between, check_numbers
from plait.nn.positions import Positions, PositionScheme, scheme_of
from plait.wording import setting

TrunkKind = Literal["gpt", "hstu"]
Rab = Literal["position", "time", "both"]


@dataclass(frozen=True, kw_only=True)
class HstuSwitches:
    """Where the published HSTU blocks differ. The defaults are the research block's (the HSTU paper's tables)."""

    silu: Literal["all", "u_only"] = "all"
    """Which of the projections U, V, Q, K pass a SiLU."""
    scale: Literal["none", "rsqrt"] = "none"
    """What scores are multiplied by. rsqrt: head_width ** -0.5."""
    norm_len: Annotated[int | None, WHOLE] = None
    """What attention weights are divided by. It is a constant, so that a score never depends on batch-mates. By
    default it is the number of positions that the trunk is built for."""
    out: Literal["gate", "concat3"] = "gate"
    """What the output projection reads: U * LN(O), or [U, O, U * LN(O)]."""
    ln_affine: bool = False
    """Whether both norms have a weight and a bias."""
    bias: bool = False
    """Whether the projection to U, V, Q, K has one."""
    scale_input: bool = True
    """Embeddings times sqrt(dim) before positions are added."""
    final_norm: Literal["none", "layer"] = "none"
    """Behind the last block."""

    def __post_init__(self) -> None:
        check_numbers("model.trunk.hstu.", self)


RESEARCH = HstuSwitches()
DLRM_V3 = HstuSwitches(  # its input is positions = "dlrm_v3"
    silu="u_only", scale="rsqrt", out="concat3", ln_affine=True, bias=True, final_norm="layer"
)


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """The shape of a trunk. The defaults are the tiny size, which trains in minutes on a CPU."""

    kind: TrunkKind = "gpt"
    """gpt: GPT-2's block. hstu: attention with SiLU, gated, without an MLP."""
    dim: Annotated[int, WIDTH] = 64
    """Width of a hidden state."""
    num_layers: Annotated[int, DEPTH] = 2
    """Blocks."""
    num_heads: Annotated[int, WIDTH] = 2
    """Attention heads of a block; dim is a multiple of it."""
    dropout: Annotated[float, SHARE] = 0.2
    """Share dropped from the input and from both branches of a block, never from attention weights. On a CPU it is
    rounded to 256ths."""
    positions: Positions = "learned"
    """How order and time enter."""
    rab: Rab = "both"
    """What the relative attention bias of positions = "rab" reads."""
    mlp_multiple: Annotated[int, Between(1, 64, "of the width")] = 4
    """Inner width of gpt's MLP over dim."""
    hstu: HstuSwitches = HstuSwitches()
    ride_weight: Annotated[float, WEIGHT] = 1.0
    """lambda of mixed values: v comes from H + lambda * a (AttnMVP, section 4)."""
    pool_fuses_item: bool | None = None
    """Whether heads see the item's state beside the action that a final pooling gives. By default only where actions
    enter the trunk, too: in AttnMVP and AttnDHN, not in AttnLFA."""

    def __post_init__(self) -> None:
        check_numbers("model.trunk.", self)
        if self.dim % self.num_heads:
            raise ValueError(
                f"{setting('model.trunk.dim', self.dim)}: expected a multiple of "
                f"{setting('model.trunk.num_heads', self.num_heads)}"
            )
        if not self.scheme.has_relative_bias and self.rab != "both":
            raise ValueError(
                f"{setting('model.trunk.rab', self.rab)}: is read by {setting('model.trunk.positions', 'rab')} alone, "
                f"and these are {self.positions}"
            )
        if self.scheme.turns and self.head_width % 2:
            raise ValueError(
                f"{setting('model.trunk.dim', self.dim)}: rope turns pairs of dimensions, and with "
                f"{setting('model.trunk.num_heads', self.num_heads)} a head width of {self.head_width} is odd"
            )

    def with_normaliser(self, num_positions: int) -> "TrunkConfig":
        """Where an hstu trunk has no `norm_len`, it is the number of positions."""
        match self.kind:
            case "gpt":
                return self
            case "hstu":
                norm_len = self.hstu.norm_len or num_positions
                return replace(self, hstu=replace(self.hstu, norm_len=norm_len))
            case _:
                assert_never(self.kind)

    @property
    def head_width(self) -> int:
        return self.dim // self.num_heads

    @property
    def scheme(self) -> PositionScheme:
        """What these positions add, and what they have to be told."""
        return scheme_of(self.positions)

    @property
    def reads_time(self) -> bool:
        """Whether positions depend on when events happened, a candidate's own among them."""
        return self.scheme.reads_time and self.rab != "position"

    @property
    def reads_requests(self) -> bool:
        """Whether positions depend on which events were exposed together."""
        return self.scheme.adds_requests


TrunkSize = Literal["tiny", "50m", "85m", "300m", "355m", "774m"]
HEAD_WIDTH = 64  # of the sizes with names, but for the tiny one

TINY = TrunkConfig()
# Width and blocks, for so many million parameters of the trunk. 85m is GPT-2 small's, as in the LAC paper; 300m is the
# LUM paper's (section 5.5). 355m and 774m are GPT-2's own totals, word embeddings included; here the widths are
# GPT-2's, and more blocks (28 for 24, 39 for 36) stand for those embeddings. A block of gpt has 12 dim ** 2 parameters,
# one of hstu 5.
GPT_SHAPES = {"50m": (512, 16), "85m": (768, 12), "300m": (1024, 24), "355m": (1024, 28), "774m": (1280, 39)}
HSTU_SHAPES = {
    "50m": (768, 17),
    "85m": (1024, 16),
    "300m": (1536, 25),
    "355m": (1536, 30),
    "774m": (2048, 37),
}


def trunk_of_size(trunk: TrunkConfig, size: TrunkSize) -> TrunkConfig:
    """The trunk in a size with a name.

    Raises:
        ValueError: its width, its blocks or its heads were chosen, too.

    >>> trunk_of_size(TrunkConfig(), "85m").num_layers
    12
    """
    for name in ("dim", "num_layers", "num_heads"):
        if (value := getattr(trunk, name)) != getattr(TrunkConfig(), name):
            raise ValueError(
                f"{setting('size', size)} decides width, blocks and heads, and {setting(f'model.trunk.{name}', value)} "
                "was given, too; leave out one of the two"
            )
    if size == "tiny":
        return trunk  # by its defaults
    match trunk.kind:
        case "gpt":
            dim, num_layers = GPT_SHAPES[size]
        case "hstu":
            dim, num_layers = HSTU_SHAPES[size]
        case _:
            assert_never(trunk.kind)
    return replace(trunk, dim=dim, num_layers=num_layers, num_heads=dim // HEAD_WIDTH)


TRUNKS = {  # with names, each in the tiny size
    "gpt": TrunkConfig(kind="gpt"),
    "hstu": TrunkConfig(kind="hstu", hstu=RESEARCH),
    "hstu (DLRM-v3)": TrunkConfig(kind="hstu", hstu=DLRM_V3),
}


def settings_of_kind(kind: TrunkKind) -> tuple[str, ...]:
    """The settings of a trunk that this kind alone reads.

    >>> settings_of_kind("gpt")
    ('mlp_multiple',)
    """
    match kind:
        case "gpt":
            return ("mlp_multiple",)
        case "hstu":
            return ("hstu",)
        case _:
            assert_never(kind)
