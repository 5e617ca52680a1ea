"""`simulate`: a world's log as a prepared folder like any other, with its truth beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from plait.data.dataset import Dataset
from plait.data.manifest import LeaveOneOut, Split
from plait.data.preparation.pipeline import prepare
from plait.data.preparation.prepared_folder import prepared_alone
from plait.data.simulator.drawing import DrawnLog, draw_log
from plait.data.simulator.world import WORLD, World
from plait.data.storage.whole_folders import whole_folder, write_bytes, write_table
from plait.limits import WHOLE, check_fits, check_number
from plait.schema import Action, Category, Vector
from plait.wording import setting

TRUTH = "truth.parquet"  # row by row what no model is told: type, mood, scenario, query, trace
SCENARIO, QUERY = "scenario", "query"  # columns of both
KNOWN_BEFORE = (SCENARIO, QUERY)  # what a world has to ask under
QUERIES = "queries.parquet"  # the vectors of queries
WORDINGS = 12  # of a category, where queries have vectors
NUMBERS_PER_EVENT = 12  # of 8 bytes, held at once while a log is drawn, beside two for each response
NOTE = "simulated; world.json holds the settings and the seed"


@dataclass(frozen=True)
class WordedQueries:
    """What events ask for, in words of many kinds."""

    text_E: pl.Series
    table: pl.DataFrame  # a vector for every wording


def simulate(
    world: World,
    out: Path | str,
    *,
    split: Split = LeaveOneOut(),
    shows_scenario: bool = False,
    conditions: Sequence[str] = (),
    query_width: int = 0,
    name: str | None = None,
    overwrite: bool = False,
) -> Dataset:
    """Draws a log and prepares it; no event is dropped, and the log's item ids are the world's, from 1.

    Args:
        shows_scenario: gives models the scenario, as a context feature of the event.
        conditions: what models may be asked under, of "scenario" and "query".
        query_width: numbers of a query's vector: queries are then texts of many wordings, and what they have in common
            stands in their vectors, a mixture of categories plus noise. 0: a query is the name of its category.

    Raises:
        ValueError: `out` is taken, the split leaves a segment empty, or the world has no such conditions.
        OSError: `out` cannot be written.
    """
    out = Path(out)
    _check_fits(world)
    _check_conditions(world, conditions)
    if query_width and QUERY not in conditions:
        raise ValueError(
            f"{setting('query_width', query_width)}: queries are no condition here; take {setting('condition')} query"
        )
    if query_width and query_width < world.num_categories:
        raise ValueError(
            f"{setting('query_width', query_width)}: expected at least {world.num_categories}, one for each category"
        )
    with prepared_alone(out, overwrite) as alone:
        log = draw_log(world)
        queries = worded_queries(world, log, query_width) if query_width else None
        _write(world, log, out, alone, split, shows_scenario, conditions, name or out.name, queries)
    return Dataset.open(out)


def _write(
    world: World,
    log: DrawnLog,
    out: Path,
    alone: Callable[[], None],
    split: Split,
    shows_scenario: bool,
    conditions: Sequence[str],
    name: str,
    queries: WordedQueries | None,
) -> None:
    with whole_folder(out) as folder:
        alone()
        prepare(
            visible(world, log) if queries is None else visible(world, log).with_columns(queries.text_E),
            user="user_id",
            item="item_id",
            time="timestamp",
            request="request_id",
            actions=[response.action for response in world.responses],
            context={SCENARIO: Category()} if shows_scenario else {},
            conditions={
                condition: Vector() if queries is not None and condition == QUERY else Category()
                for condition in conditions
            },
            condition_vectors={QUERY: queries.table} if queries is not None else {},
            out=folder,
            name=name,
            note=NOTE,
            min_user_events=2,
            min_item_events=1,
            split=split,
        )
        write_bytes(folder / WORLD, world.to_json())
        write_table(folder / TRUTH, _hidden(log))
        if queries is not None:
            write_table(folder / QUERIES, queries.table)


def worded_queries(world: World, log: DrawnLog, width: int) -> WordedQueries:
    """Queries in one of `WORDINGS` wordings of their category; the last of each no event has.

    A wording's vector is its category's axis, a mixture of all categories, and noise.
    """
    rng = np.random.default_rng([world.seed, width])
    B = world.num_categories
    category_K = np.repeat(np.arange(B), WORDINGS)
    mixture_KB = 0.8 * np.eye(B)[category_K] + 0.2 * rng.dirichlet(np.ones(B), len(category_K))
    vector_KW = np.pad(mixture_KB, ((0, 0), (0, width - B))) + rng.normal(
        scale=0.2 / np.sqrt(width), size=(len(category_K), width)
    )
    texts = [
        f"category {1 + place // WORDINGS}, wording {1 + place % WORDINGS}"
        for place in range(len(category_K))
    ]
    wording_E = rng.integers(0, WORDINGS - 1, len(log.query_E))
    asked = zip(log.query_E.tolist(), wording_E.tolist(), strict=True)
    text_E = [texts[(query - 1) * WORDINGS + wording] if query else None for query, wording in asked]
    table = pl.DataFrame({"text": texts, "vector": vector_KW.astype(np.float32)})
    return WordedQueries(pl.Series(QUERY, text_E, dtype=pl.String), table)


def _check_conditions(world: World, conditions: Sequence[str]) -> None:
    for name in conditions:
        if name not in KNOWN_BEFORE:
            raise ValueError(
                f"condition {name!r}: a world is asked under {' and '.join(KNOWN_BEFORE)}, known before the item"
            )
        if name == QUERY and not world.queries:
            raise ValueError(
                f"condition {QUERY!r}: no event of this world comes with a query; take {setting('world: queries', 0.5)}"
            )


def _spelt_queries(log: DrawnLog) -> list[str | None]:
    return [f"category {query}" if query else None for query in log.query_E.tolist()]


def _check_fits(world: World) -> None:
    """Raises ValueError where drawing the log would take more numbers or memory than there are."""
    A, B, longest = len(world.responses), world.num_categories, world.num_events + world.num_events // 2
    check_number("world: num_users * num_events", world.num_users * longest, WHOLE)
    of_events = world.num_users * longest * (NUMBERS_PER_EVENT + 2 * A)
    of_items = world.num_items * (2 * A + 4)
    of_states = world.num_types * world.num_scenarios * B * (3 * (1 + 2 * B) + 2 * A * world.num_moods)
    advice = "lower num_users, num_events, num_items or the numbers of categories, types, moods and scenarios"
    check_fits("this world", 8.0 * (of_events + of_items + of_states), advice)


def visible(world: World, log: DrawnLog) -> pl.DataFrame:
    """A log as others have one, without what nobody is told: users from 0, items from 1, requests within their user."""
    columns = {
        "user_id": log.user_E,
        "item_id": log.item_E + 1,
        "timestamp": log.time_s_E,
        "request_id": log.request_E,
        SCENARIO: log.scenario_E,
        QUERY: _spelt_queries(log),
    }
    actions = {
        r.action.name: _as_logged(r.action, log.action_EA[:, column])
        for column, r in enumerate(world.responses)
    }
    return pl.DataFrame(columns | actions)


def _as_logged(action: Action, value_E: np.ndarray) -> np.ndarray:
    """What a log holds: the value itself in place of its index."""
    outcomes = action.kind.outcomes
    return np.array(outcomes)[value_E.astype(np.int64)] if outcomes else value_E


def _hidden(log: DrawnLog) -> pl.DataFrame:
    columns = {"type": log.type_E, "mood": log.mood_E, SCENARIO: log.scenario_E, QUERY: log.query_E}
    columns["trace"] = log.trace_E
    return pl.DataFrame({name: column.astype(np.int16) for name, column in columns.items()})
