"""The verb that makes a dataset whose best answers are known."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Group, Parameter

from plait.cli.output import say, show_table
from plait.compare.regret import metrics_of
from plait.data import Dataset, LeaveOneOut, Temporal
from plait.data.simulator import Knows, World, oracle
from plait.data.simulator import simulate as simulate_world
from plait.evaluation.settings import Protocol
from plait.limits import Between, check_setting


@dataclass(frozen=True, kw_only=True)
class WorldChanges:
    """What is to be different from the world that is begun with. In brackets what the usual world has."""

    seed: int | None = None
    """The seed of the world and its log. [0]"""
    num_users: int | None = None
    """Users of the world. [5000]"""
    num_events: int | None = None
    """Events of an average user; users have from half to one and a half times as many. [60]"""
    num_items: int | None = None
    """Items of the catalogue. [500]"""
    num_categories: int | None = None
    """Categories of items. [8]"""
    num_types: int | None = None
    """Types of users, each with a taste for every category. [6]"""
    num_moods: int | None = None
    """Steps on which a mood moves. [5]"""
    num_scenarios: int | None = None
    """Scenarios in which requests are made. [3]"""
    taste: float | None = None
    """Moves responses, by type and category. Like all strengths, in logits per standard deviation; 0: off. [1.5]"""
    choice: float | None = None
    """Moves the next item's category, by type. [1.0]"""
    follow: float | None = None
    """Moves it towards the last item's category where the action that steers was 1, away from it at 0. [1.0]"""
    steer: str | None = None
    """The binary action that does so. [like]"""
    mood: float | None = None
    """Moves responses, by mood. [1.0]"""
    persistence: float | None = None
    """Correlation of the moods of neighbouring requests; 0: no memory. [0.9]"""
    request_events: float | None = None
    """Mean number of events that share time, mood and scenario; 1: each has its own. [2.0]"""
    scenario: float | None = None
    """Moves responses, by scenario and category. [0.7]"""
    scenario_choice: float | None = None
    """Moves the next item's category, by scenario. [0.7]"""
    quality: float | None = None
    """Moves responses, by item. [0.7]"""
    popularity: float | None = None
    """Exponent of Zipf's law; 0: all items alike. [0.7]"""
    queries: float | None = None
    """Share of the events that come with a query, which is known before the item. [0.0]"""
    query_accuracy: float | None = None
    """Share of the queries that name the category of the item; the others name any. [0.8]"""
    overlap: float | None = None
    """Share of their causes that the actions have in common. [0.8]"""

    def of(self, world: World) -> World:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return msgspec.structs.replace(world, **given)


def simulate(
    *,
    out: Path,
    toy: bool = False,
    tasks: int | None = None,
    temporal: tuple[float, float] | None = None,
    shows_scenario: bool = False,
    condition: tuple[Literal["scenario", "query"], ...] = (),
    query_width: int = 0,
    overwrite: bool = False,
    changes: Annotated[WorldChanges, Parameter(name="*", group=Group("World", sort_key=1))] = WorldChanges(),
) -> None:
    """Draws the log of a world whose truth is known, and says how well anyone could predict it.

    Example: plait simulate --out world --num-users 2000 --follow 0

    Parameters
    ----------
    out
        The prepared folder, made whole or not at all.
    toy
        Begin with the smallest world: some users like every dog, the others every cat.
    tasks
        Begin with a world of so many binary actions, from frequent to rare, which agree in part.
    temporal
        Shares of the events for validation and test, cut by time. Without it, each user's last event is the test, and
        the one before it the validation.
    shows_scenario
        Models see the scenario, as a feature of the event.
    condition
        scenario or query: what models may be asked under, before the item is known; once for each.
    query_width
        Numbers of a query's vector: queries are then texts of many wordings, known by their vectors. 0: a query is the
        name of its category.
    overwrite
        Replace a prepared folder.
    """
    world = changes.of(_begin(toy, tasks))
    split = Temporal(validation=temporal[0], test=temporal[1]) if temporal else LeaveOneOut()
    dataset = simulate_world(
        world,
        out,
        split=split,
        shows_scenario=shows_scenario,
        conditions=condition,
        query_width=query_width,
        overwrite=overwrite,
    )
    counts = dataset.manifest.counts
    say(
        f"{dataset.folder}: {counts.events:,} events, {counts.users:,} users, {counts.items:,} items, "
        f"actions {', '.join(action.name for action in dataset.actions)}; seed {world.seed}"
    )
    show_table(("metric", "from the history", "from the truth"), _rows(dataset))
    say(
        "the best that anyone can expect on the test; seen items are ranked, too, since users come back to items"
    )


def _rows(dataset: Dataset) -> list[tuple[str, float, float]]:
    """The metrics that the test defines: of who knows the histories, and of who knows the hidden truth, too."""
    protocol = Protocol(filter_seen=False)
    seen, told = (
        metrics_of(oracle(dataset, "test", knows), dataset, protocol)
        for knows in (Knows(), Knows(latents=True))
    )
    values = ((name, seen[name].value, told[name].value) for name in seen)
    return [(name, a, b) for name, a, b in values if a is not None and b is not None]


def _begin(toy: bool, tasks: int | None) -> World:
    if toy and tasks is not None:
        raise ValueError("--toy and --tasks begin with different worlds; give one of them")
    if tasks is not None:
        check_setting("tasks", tasks, Between(1, 100, "each is rarer than the one before by a fifth"))
        return World.of_tasks(tasks)
    return World.toy() if toy else World()
