"""What a user model said beforehand, as features of a ranker: interests of the user, and how a candidate matches them.

Shape letters: M questions (candidates), Q conditions, W width of an interest, X width of what is read.
"""

from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from plait.limits import Between, check_numbers
from plait.nn.initialising import unset
from plait.wording import setting

COUNT = Between(0, 4_096, "each is read by every candidate")


@dataclass(frozen=True, kw_only=True)
class InterestSettings:
    """Which fixed features of a user model a ranker reads (LUM paper, section 4.3)."""

    num_conditions: Annotated[int, COUNT] = 0
    """Interests of a user at an event, one for each condition; 0: none are read. The files of interests say it."""
    width: Annotated[int, COUNT] = 0
    """Of an interest and of an item's vector. The files of interests say it."""
    user: bool = True
    """Read the interests as they are: direct feature."""
    match: bool = True
    """Read the cosine of each interest and the candidate: interest matching."""
    item: bool = True
    """Read the candidate's vector as it is."""

    def __post_init__(self) -> None:
        check_numbers("model.ranker.interests.", self)
        if bool(self.num_conditions) != bool(self.width):
            raise ValueError(
                f"{setting('model.ranker.interests.width', self.width)} and "
                f"{setting('model.ranker.interests.num_conditions', self.num_conditions)}: expected both or none; "
                "leave them out, the files of interests say them"
            )
        if self.width and not (self.user or self.match or self.item):
            raise ValueError("model.ranker.interests: nothing of them is read; leave the files out")

    @property
    def num_out(self) -> int:
        """How many numbers a candidate comes with.

        >>> InterestSettings(num_conditions=2, width=8, item=False).num_out
        18
        """
        num, width = self.num_conditions, self.width
        return num * width * self.user + num * self.match + width * self.item * bool(num)


@dataclass(frozen=True, eq=False)
class InterestRows:
    """What is known of some questions; of what is not, the numbers mean nothing."""

    interest_MQW: Float[Tensor, "M Q W"]
    has_interest_MQ: Bool[Tensor, "M Q"]
    item_MW: Float[Tensor, "M W"]
    has_item_M: Bool[Tensor, " M"]

    def to(self, device: torch.device) -> "InterestRows":
        return InterestRows(**{name: tensor.to(device) for name, tensor in vars(self).items()})


class InterestLookup(Protocol):
    """Where interests are looked up, by what they are about: never copied into rows of a log."""

    def of(
        self,
        user_M: Int64[np.ndarray, " M"],
        number_M: Int64[np.ndarray, " M"],
        item_M: Int64[np.ndarray, " M"],
    ) -> InterestRows:
        """What is known of questions.

        Args:
            user_M, item_M: dense users and items.
            number_M: which event of its user it is, from 0.
        """
        ...


@runtime_checkable
class InterestSource(InterestLookup, Protocol):
    """Interests to train with."""

    @property
    def sha256(self) -> str:
        """Of all that it holds."""
        ...

    @property
    def conditions(self) -> tuple[str, ...]:
        """Under which the user model was asked, in the order of the vectors."""
        ...

    @property
    def version(self) -> str:
        """Of the user model; "" where nothing tells."""
        ...

    @property
    def rolling(self) -> bool:
        """Whether one about a held-out event was computed from events of the same part of its user."""
        ...


class InterestFeatures(nn.Module):
    """Interests beside what a ranker reads. They are fixed: no gradient reaches them. In the place of a missing one
    stands a learned *none*: of each condition a vector and a match, and a vector for items.

    Source: the LUM paper, section 4.3.
    """

    def __init__(self, settings: InterestSettings) -> None:
        super().__init__()
        num, width = settings.num_conditions, settings.width
        self.settings, self.num_out = settings, settings.num_out
        self.no_interest_QW = unset(num, width) if settings.user else None
        self.no_match_Q = unset(num) if settings.match else None
        self.no_item_W = unset(width) if settings.item else None

    def init_weights(self, generator: torch.Generator) -> None:
        for parameter in self.parameters(recurse=False):
            nn.init.zeros_(parameter)

    def forward(self, rows: InterestRows | None, num_questions: int) -> Float[Tensor, "M X"]:
        """What is read of every question.

        Args:
            rows: None where nothing is known of any question.
        """
        if rows is None:
            none = (self.no_interest_QW, self.no_match_Q, self.no_item_W)
            read_X = torch.cat([part.flatten() for part in none if part is not None])
            return read_X.expand(num_questions, -1)
        read = []
        if self.no_interest_QW is not None:
            has_MQ1 = rows.has_interest_MQ.unsqueeze(-1)
            read.append(torch.where(has_MQ1, rows.interest_MQW, self.no_interest_QW).flatten(1))
        if self.no_match_Q is not None:
            match_MQ = F.cosine_similarity(rows.interest_MQW, rows.item_MW.unsqueeze(1), dim=-1)
            has_MQ = rows.has_interest_MQ & rows.has_item_M[:, None]
            read.append(torch.where(has_MQ, match_MQ, self.no_match_Q))
        if self.no_item_W is not None:
            read.append(torch.where(rows.has_item_M[:, None], rows.item_MW, self.no_item_W))
        return torch.cat(read, dim=1)
