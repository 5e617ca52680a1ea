"""The settings of a simulated world. A world and its seed say everything: parameters, log, and what is knowable."""

from pathlib import Path
from typing import Annotated

import msgspec

from plait import files
from plait.data.simulator.responses import Response
from plait.limits import SEED, WHOLE, WINDOW, Between, check_numbers
from plait.schema import Action, Amount, Binary, check_unique
from plait.wording import setting

WORLD = "world.json"
STATES = Between(1, 1_000, "chances of all states together are tables")
LENGTH = Between(6, WINDOW.most, WINDOW.why)
MEAN = Between(1, WINDOW.most, "a mean number of events")
TASTE = Between(-100, 100, "in logits, before their strength")
CORRELATION = Between(0, 1, "a correlation", below=True)
STRENGTH = Between(0, 100, "a strength in logits", below=True)

CLICK = Response(action=Action("click", Binary()), rate=0.4)
WATCH = Response(action=Action("watch_s", Amount()), size=3.4)
LIKE = Response(action=Action("like", Binary()), rate=0.2)
PURCHASE = Response(action=Action("purchase", Amount(zero_inflated=True)), rate=0.05, size=3.0)


class World(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who lives there, what there is, and how strongly one thing moves another.

    A user has a type for life, and a mood that holds for a request and then moves. A request has a scenario and
    exposes one or more items. The item's category depends on type, scenario and the last action; the item, within
    its category, on popularity. A query names the category, or at times any other. Responses depend on type, mood,
    scenario and item. Every strength is the number of logits by which one standard deviation of its cause moves a
    choice or a response; 0 switches it off and leaves the rest as it is.
    """

    seed: Annotated[int, SEED] = 0
    num_users: Annotated[int, WHOLE] = 5_000
    num_events: Annotated[int, LENGTH] = 60  # of an average user; from half to one and a half times as many
    num_items: Annotated[int, WHOLE] = 500
    num_categories: Annotated[int, STATES] = 8
    num_types: Annotated[int, STATES] = 6
    num_moods: Annotated[int, STATES] = 5
    num_scenarios: Annotated[int, STATES] = 3
    responses: tuple[Response, ...] = (CLICK, WATCH, LIKE, PURCHASE)
    # By type and category; None: drawn, of variance 1.
    tastes: Annotated[tuple[tuple[float, ...], ...] | None, TASTE] = None

    taste: Annotated[float, STRENGTH] = 1.5  # responses, by type and category
    choice: Annotated[float, STRENGTH] = 1.0  # the next item's category, by type
    follow: Annotated[float, STRENGTH] = (
        1.0  # ... towards the last action's category where `steer` was 1, away from it at 0
    )
    steer: str = "like"  # the binary response that does so
    mood: Annotated[float, STRENGTH] = 1.0  # responses, by mood
    persistence: Annotated[float, CORRELATION] = (
        0.9  # correlation of the moods of neighbouring requests; 0: no memory
    )
    request_events: Annotated[float, MEAN] = (
        2.0  # mean number of events in a request; 1: none shares its time
    )
    scenario: Annotated[float, STRENGTH] = 0.7  # responses, by scenario and category
    scenario_choice: Annotated[float, STRENGTH] = 0.7  # the next item's category, by scenario
    quality: Annotated[float, STRENGTH] = 0.7  # responses, by item
    popularity: Annotated[float, STRENGTH] = 0.7  # exponent of Zipf's law; 0: all items alike
    queries: Annotated[float, Between(0, 1, "a share")] = 0.0  # of the events: those that come with a query
    query_accuracy: Annotated[float, Between(0, 1, "a share")] = (
        0.8  # of the queries: those that name the item's category
    )
    overlap: Annotated[float, Between(0, 1, "a share")] = (
        0.8  # share of the causes' variance that all responses have in common; 1: they have the same
    )

    def __post_init__(self) -> None:
        check_numbers("world: ", self)
        self._check_sizes()
        check_unique([response.action.name for response in self.responses], "world: response")
        binary = [r.action.name for r in self.responses if isinstance(r.action.kind, Binary)]
        if self.steer not in binary:
            raise ValueError(
                f"{setting('world: steer', self.steer)} is no binary response; expected one of "
                f"{', '.join(binary) or '(none)'}"
            )

    @classmethod
    def toy(cls, *, seed: int = 0, num_users: int = 500) -> "World":
        """The smallest case: some users like every dog and no cat, the others every cat and no dog.

        Who they are cannot be read from the items they are shown, only from what they liked.

        Source: the AttnMVP paper, section 2 and figure 4.
        """
        return cls(
            seed=seed,
            num_users=num_users,
            num_events=12,
            num_items=10,
            num_categories=2,
            num_types=2,
            num_moods=1,
            num_scenarios=1,
            responses=(Response(action=LIKE.action, rate=0.5),),
            tastes=((1.0, -1.0), (-1.0, 1.0)),
            taste=8.0,
            choice=0.0,
            follow=0.0,
            mood=0.0,
            persistence=0.0,
            request_events=1.0,
            scenario=0.0,
            scenario_choice=0.0,
            quality=0.0,
            popularity=0.3,  # where items are all alike, the order of equals decides every ranking
            overlap=1.0,
        )

    @classmethod
    def of_tasks(cls, num_tasks: int = 12, *, overlap: float = 0.5, seed: int = 0) -> "World":
        """The usual world with many binary responses, from frequent to rare, which agree in part."""
        rates = [0.5 * 0.8**task for task in range(num_tasks)]
        responses = tuple(
            Response(action=Action(f"task_{task + 1}", Binary()), rate=rate)
            for task, rate in enumerate(rates)
        )
        return cls(seed=seed, responses=responses, steer="task_1", overlap=overlap)

    @classmethod
    def open(cls, folder: Path | str) -> "World":
        """The world that a simulated folder was drawn from.

        Raises:
            ValueError: the folder was not simulated, or its `world.json` is damaged.
        """
        path = Path(folder) / WORLD
        if not path.is_file():
            raise ValueError(
                f"{folder} was not simulated: it has no {WORLD}, so nobody knows its truth; make one with `simulate`"
            )
        files.check_hashes(path.parent, "simulate the world again", WORLD)
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path} is damaged ({error}); simulate the world again") from error

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    def _check_sizes(self) -> None:
        if self.num_items < self.num_categories:
            raise ValueError(
                f"{setting('world: num_items', self.num_items)}: expected at least "
                f"{self.num_categories}, one for each category"
            )
        shape = (self.num_types, self.num_categories)
        if self.tastes is not None and [len(row) for row in self.tastes] != [shape[1]] * shape[0]:
            rows = [len(row) for row in self.tastes]
            raise ValueError(
                f"world: tastes has rows of {rows} numbers; expected {shape[0]} rows (types) of {shape[1]} (categories)"
            )
