"""What a user chooses of a ranker: which one, and how far it looks."""

from dataclasses import dataclass
from typing import Annotated, Literal, assert_never

from plait.limits import WIDTH, WINDOW, Between, check_numbers
from plait.nn.interests import InterestSettings
from plait.nn.token_mixer import MixerSettings
from plait.wording import setting

RankerKind = Literal["none", "din", "dien", "sim", "twin", "rankmixer"]
Search = Literal["soft", "hard"]


@dataclass(frozen=True, kw_only=True)
class RankerSettings:
    """A discriminative ranker in place of the trunk. It reads a history for one candidate at a time.

    Sources: DIN (Zhou et al., KDD 2018), DIEN (Zhou et al., AAAI 2019), SIM (Pi et al., CIKM 2020), TWIN (Chang et al.,
    KDD 2023), RankMixer (Zhu et al., CIKM 2025).
    """

    kind: RankerKind = "none"
    """none: the trunk. din: activation units. dien: interests that evolve. sim: search, then attention. twin: the same
    attention searches and attends. rankmixer: what din reads, mixed as tokens."""
    recent_events: Annotated[int, WINDOW] = 100
    """How many last events din, dien, rankmixer and the short-term parts of sim and twin look at."""
    top_k: Annotated[int, WINDOW] = 50
    """How many events of the whole history sim and twin attend to, once they have searched."""
    search: Search = "soft"
    """How sim searches. soft: by inner product. hard: the last events that share a value of `category` with the
    candidate."""
    category: str | None = None
    """An item feature: what hard search goes by."""
    unit_width: Annotated[int, WIDTH] = 36
    """Inner width of the activation unit of din and rankmixer."""
    hidden: Annotated[tuple[int, ...], WIDTH] = (200, 80)
    """Widths of the layers between what is read and the heads."""
    auxiliary_weight: Annotated[float, Between(0, 1e6, "of a loss")] = 1.0
    """Weight of the loss that dien's extractor, or the soft search of sim, has of its own."""

    mixer: MixerSettings = MixerSettings()
    interests: InterestSettings = InterestSettings()

    def __post_init__(self) -> None:
        check_numbers("model.ranker.", self)
        if not self.hidden:
            raise ValueError(f"{setting('model.ranker.hidden', ())}: expected at least one layer")
        if (self.search == "hard") != (self.category is not None):
            raise ValueError(
                f"{setting('model.ranker.search', 'hard')} goes by an item feature, and soft search by none: give "
                f"{setting('model.ranker.category')} with hard search alone"
            )

    @property
    def is_on(self) -> bool:
        """Whether there is a ranker in place of the trunk."""
        return self.kind != "none"

    @property
    def state_width(self) -> int:
        """Width of what the heads read."""
        return self.mixer.token_width if self.kind == "rankmixer" else self.hidden[-1]

    @property
    def reads_time(self) -> bool:
        """Whether it matters how long before the candidate an event was."""
        return self.kind in ("sim", "twin")


def settings_of_ranker(kind: RankerKind) -> tuple[str, ...]:
    """The settings that this kind reads, beside its own name.

    >>> settings_of_ranker("twin")
    ('interests', 'hidden', 'recent_events', 'top_k')
    """
    layered = "interests", "hidden"
    match kind:
        case "none":
            return ()
        case "din":
            return *layered, "recent_events", "unit_width"
        case "dien":
            return *layered, "recent_events", "auxiliary_weight"
        case "sim":
            return *layered, "recent_events", "top_k", "search", "category", "auxiliary_weight"
        case "twin":
            return *layered, "recent_events", "top_k"
        case "rankmixer":
            return "interests", "recent_events", "unit_width", "mixer"
        case _:
            assert_never(kind)
