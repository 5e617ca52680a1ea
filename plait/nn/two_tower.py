"""What a user chooses of a two-tower retriever, and the mean of a user's last events.

Shape letters: M questions, N tokens, D width.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plait.limits import WIDTH, WINDOW, check_numbers
from plait.nn.interests import COUNT, InterestSettings
from plait.wording import setting

TwoTowerKind = Literal["none", "ebr"]


@dataclass(frozen=True, kw_only=True)
class TowerInterests:
    """Which fixed features of a user model the towers read (LUM paper, section 4.3). How well a user and an item match
    is none of them: a tower sees one of the two."""

    num_conditions: Annotated[int, COUNT] = 0
    """Interests of a user at an event, one for each condition; 0: none are read. The files of interests say it."""
    width: Annotated[int, COUNT] = 0
    """Of an interest and of an item's vector. The files of interests say it."""
    user: bool = True
    """Read the interests in the user's tower."""
    item: bool = True
    """Read the item's vector in the item's tower."""

    def __post_init__(self) -> None:
        check_numbers("model.two_tower.interests.", self)
        if bool(self.num_conditions) != bool(self.width):
            raise ValueError(
                f"{setting('model.two_tower.interests.width', self.width)} and "
                f"{setting('model.two_tower.interests.num_conditions', self.num_conditions)}: expected both or none; "
                "leave them out, the files of interests say them"
            )
        if self.width and not (self.user or self.item):
            raise ValueError("model.two_tower.interests: nothing of them is read; leave the files out")

    @property
    def of_user(self) -> InterestSettings | None:
        """As features of the user's tower; None where it reads none."""
        if not (self.width and self.user):
            return None
        return InterestSettings(num_conditions=self.num_conditions, width=self.width, match=False, item=False)

    @property
    def of_item(self) -> bool:
        return bool(self.width) and self.item


@dataclass(frozen=True, kw_only=True)
class TwoTowerSettings:
    """A two-tower retriever (embedding-based retrieval) in place of the trunk. It predicts items, and no action: so it
    is no ranker, and its settings are not a ranker's."""

    kind: TwoTowerKind = "none"
    """none: the trunk. ebr: the mean of the last events beside the user's features, through layers."""
    recent_events: Annotated[int, WINDOW] = 100
    """How many last events the user's tower takes the mean of."""
    hidden: Annotated[tuple[int, ...], WIDTH] = (128,)
    """Widths of the layers of each tower before its last, which is as wide as the embeddings."""

    interests: TowerInterests = TowerInterests()

    def __post_init__(self) -> None:
        check_numbers("model.two_tower.", self)

    @property
    def is_on(self) -> bool:
        """Whether there are towers in place of the trunk."""
        return self.kind != "none"


def mean_of_last(
    x_ND: Float[Tensor, "N D"],
    first_M: Int64[Tensor, " M"],
    last_M: Int64[Tensor, " M"],
    most: int,
) -> Float[Tensor, "M D"]:
    """The mean of rows `first : last + 1`, of the last `most` of them. Sums run in fp64, so that what stands before a
    user's rows is not seen in theirs.

    >>> x = torch.tensor([[1.0], [2.0], [4.0]])
    >>> mean_of_last(x, torch.tensor([0, 0]), torch.tensor([0, 2]), 2).tolist()
    [[1.0], [3.0]]
    """
    begin_M = torch.maximum(first_M, last_M + 1 - most)
    until_XD = torch.cat([x_ND.new_zeros(1, x_ND.shape[1], dtype=torch.float64), x_ND.double().cumsum(0)])
    sum_MD = until_XD.index_select(0, last_M + 1) - until_XD.index_select(0, begin_M)
    return (sum_MD / (last_M + 1 - begin_M)[:, None]).to(x_ND.dtype)
