"""What packing saves step 1 of LUM, and group queries step 2: counted in tokens and FLOPs, and timed in turns.

One thread of a processor, fp32, wherever a study trains. Tokens are slots that are computed, padding included. FLOPs
are those of the trunk over them, with n^2 / 2 pairs in a row of n slots (LAC paper, section 5.4).

Source: the LUM paper, sections 4.1.3 and 4.2, table 6.

Shape letters: U users, N conditions of a user, G columns of conditions, B batches, R rounds.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from plait.compare.notes import origins_of
from plait.compare.words import duration
from plait.data import Dataset
from plait.engine import one_pass, plain
from plait.engine.state import State, before, encode, some_users
from plait.evaluation.protocol_line import protocol_line
from plait.evaluation.provenance import provenance
from plait.evaluation.run_files import RunSettings
from plait.layouts.cost import BACKWARD, trunk_flops
from plait.layouts.packing import pack, pad
from plait.lum.interests import Asked
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import Packer, training_inputs
from plait.nn.dropout import draw_from
from plait.nn.initialising import initialised
from plait.papers.claims import ClaimVerdict, Repeated, judge_repeated
from plait.papers.logs import Simulated
from plait.papers.speed import SAVING, THEORY, saving
from plait.papers.study import Figure, Finding, Place, shrunk, words_of
from plait.papers.timing import Step, in_turns, one_thread, whole_step
from plait.schema import Category, EventBatch
from plait.training.run import config_of

TOKENS, WITHOUT_S, WITH_S = "saving in tokens", "s without", "s with"
SEED = 0  # of weights, and of the lengths of histories


@dataclass(frozen=True)
class Way:
    """A way to do something: what it computes, and the thing itself."""

    tokens: int
    flops: float
    run: Step


@dataclass(frozen=True)
class Technique:
    """The same work with a technique and without it."""

    name: str
    paper: float  # % of the time that the paper's saves
    source: str
    fast: Way
    plain: Way

    @property
    def claim(self) -> str:
        return f"{self.name} saves time"


def packing(model: GenerativeRecommender, batches: Sequence[EventBatch], row_length: int) -> Technique:
    """A training step for each batch: on packed rows, as training has them, against a row for each user, padded to
    `row_length` tokens."""
    packed, padded = (
        _steps(model, batches, packer) for packer in (pack, partial(pad, row_length=row_length))
    )
    return Technique("step 1, packing", 82, "section 5.3, table 6", packed, padded)


def _steps(model: GenerativeRecommender, batches: Sequence[EventBatch], packer: Packer) -> Way:
    inputs = [training_inputs(model.plan, each, packer) for each in batches]
    shape_B2 = [its.segments.segment_RL.shape for its in inputs]
    tokens, pairs = (sum(rows * length**power for rows, length in shape_B2) for power in (1, 2))
    trunk = model.config.settings.trunk
    flops = (1 + BACKWARD) * trunk_flops(tokens, pairs / 2, trunk.dim, trunk.num_layers)
    return Way(tokens, flops, whole_step(model, inputs))


def group_query(
    model: GenerativeRecommender, state: State, condition_UNG: Int64[np.ndarray, "U N G"]
) -> Technique:
    """N conditions of every user in one pass, its history encoded within it, against a sequence for each of them.

    Args:
        state: histories, without keys.
    """
    length_U = state.events.num_events_U * model.layout.tokens_per_event
    num = condition_UNG.shape[1]
    grouped_pairs = float((length_U**2 / 2 + num * length_U).sum())
    alone_pairs = float(num * ((length_U + 1) ** 2 / 2).sum())
    tokens = int((length_U + num).sum()), int(num * (length_U + 1).sum())
    trunk = model.config.settings.trunk
    flops = (
        trunk_flops(count, pairs, trunk.dim, trunk.num_layers)
        for count, pairs in zip(tokens, (grouped_pairs, alone_pairs), strict=True)
    )
    runs = (partial(ask, model, state, condition_UNG) for ask in (one_pass.query, plain.query))
    ways = (Way(*its) for its in zip(tokens, flops, runs, strict=True))
    return Technique(f"step 2, group query of {num}", 78, "section 5.3, table 6", *ways)


def power_law_lengths(num_users: int = 4096, mean: float = 9.0, longest: int = 50) -> Int64[np.ndarray, " U"]:
    """Lengths from 2 to `longest` with probability length ** -s, s chosen for the mean."""
    length = np.arange(2, longest + 1)
    low, high = 0.0, 5.0
    p = np.full(len(length), 1 / len(length))
    for _ in range(50):
        s = (low + high) / 2
        p = length**-s / (length**-s).sum()
        low, high = (s, high) if (p * length).sum() > mean else (low, s)
    return np.random.default_rng(SEED).choice(length, num_users, p=p)


@dataclass(frozen=True, kw_only=True)
class PackingAndQueries:
    """Steps 1 and 2 over the users of a log, round after round; the first round warms up and does not count.

    Of each user's events only the first are taken, as many as a power law says: most histories are then much shorter
    than the window, as the paper has it.
    """

    name: str
    log: Simulated
    lum: RunSettings
    mean_share: float = 0.2  # of the window, what a history holds on average
    num_queries: tuple[int, ...] = (5, 10)
    num_rounds: int = 5

    @property
    def logs(self) -> tuple[Simulated, ...]:
        return (self.log,)

    def quick(self) -> "PackingAndQueries":
        return replace(self, log=self.log.quick(), lum=shrunk(self.lum), num_rounds=1)

    def run(self, study: str, place: Place) -> Finding:
        dataset = self.log.open(place.logs, place.data)
        with one_thread():
            techniques = list(self.techniques(dataset))
            taken_ms = {}
            for its in techniques:
                place.report(its.name)
                taken_ms[its.name] = in_turns(
                    {WITH_S: its.fast.run, WITHOUT_S: its.plain.run}, self.num_rounds
                )
        seconds = {
            name: {way: np.array(of) / 1e3 for way, of in its.items()} for name, its in taken_ms.items()
        }
        return self._finding(dataset, techniques, seconds)

    def techniques(self, dataset: Dataset) -> Iterator[Technique]:
        """Each with and without, of the same model and histories.

        Raises:
            ValueError: the log has fewer conditions than a user is to be asked under.
        """
        model, histories = untrained(dataset, self.lum), self.histories(dataset)
        num_users, size = histories.num_users, self.lum.optim.users_per_step
        batches = [some_users(histories, slice(at, at + size)) for at in range(0, num_users, size)]
        row_length = self.lum.protocol.max_events * model.layout.tokens_per_event
        yield packing(model, batches, row_length)
        model = untrained(dataset, self.lum).eval()
        state = encode(histories, model.plan.window, model.plan.lead)
        for num in self.num_queries:
            asked = Asked.of(model, some_conditions(dataset, num))
            yield group_query(model, state, asked.of_users(num_users))

    def histories(self, dataset: Dataset) -> EventBatch:
        """The first events of every user, up to the window."""
        whole = dataset.histories(np.arange(dataset.num_users))
        longest = min(self.lum.protocol.max_events, int(whole.num_events_U.min()))
        length_U = power_law_lengths(whole.num_users, self.mean_share * longest, longest)
        return before(whole, whole.num_events_U - length_U)

    def _finding(
        self,
        dataset: Dataset,
        techniques: Sequence[Technique],
        seconds: Mapping[str, Mapping[str, Float64[np.ndarray, " R"]]],
    ) -> Finding:
        optim, its = replace(self.lum.optim, precision="fp32"), self.lum
        line = protocol_line(dataset, its.model, optim, its.protocol, (SEED,), its.parsed_layout)
        origin = provenance("cpu")
        total_s = sum(float(of.sum()) for its in seconds.values() for of in its.values())
        return Finding(
            part=self.name,
            data=words_of(dataset),
            protocol=line,
            metrics={SAVING: "time cost, table 6", TOKENS: "", THEORY: "", WITHOUT_S: "", WITH_S: ""},
            figures=tuple(figure for its in techniques for figure in figures_of(its, seconds[its.name])),
            verdicts=verdicts_of(techniques, {name: savings_of(its) for name, its in seconds.items()}),
            notes=(
                f"Median of {self.num_rounds} rounds that take turns, after one that warms up; low and high are the "
                f"range. Processor time of one thread, {duration(total_s)} in all. Seconds of a shared machine are no "
                "figures; their ratios within a round are.",
                "The paper: 151 to 26 hours for step 1, 17 to 3.6 hours for step 2, of a day of industrial data.",
            ),
            wall_s=total_s,
            origins=origins_of([(self.name, SEED, origin)]),
        )


def untrained(dataset: Dataset, settings: RunSettings) -> GenerativeRecommender:
    """A model as a training starts it, on a processor: what it knows changes no cost."""
    model = initialised(
        GenerativeRecommender(config_of(dataset, settings)), torch.Generator().manual_seed(SEED)
    )
    drawing = torch.Generator().manual_seed(SEED)
    draw_from(model, drawing)
    model.sampler = model.retrieval.make_sampler(torch.from_numpy(dataset.train_item_counts()), drawing)
    return model


def some_conditions(dataset: Dataset, num: int) -> list[dict[str, Any]]:
    """The first combinations of what the log is asked under.

    Raises:
        ValueError: the log has fewer.
    """
    values = {its.name: its.kind.values for its in dataset.conditions if isinstance(its.kind, Category)}
    found = [dict(zip(values, each, strict=True)) for each in islice(product(*values.values()), num)]
    if len(found) < num:
        raise ValueError(
            f"{dataset.folder}: {len(found)} conditions to ask under, of {', '.join(values) or 'none'}, and "
            f"{num} are to be asked; ask fewer, or prepare the log with more"
        )
    return found


def savings_of(seconds: Mapping[str, Float64[np.ndarray, " R"]]) -> list[float]:
    """In % of the time without, round by round."""
    return [
        saving(fast_s, plain_s)
        for fast_s, plain_s in zip(seconds[WITH_S].tolist(), seconds[WITHOUT_S].tolist(), strict=True)
    ]


def figures_of(its: Technique, seconds: Mapping[str, Float64[np.ndarray, " R"]]) -> Iterator[Figure]:
    """A line of the table."""
    saved = savings_of(seconds)
    yield Figure(
        variant=its.name,
        metric=SAVING,
        paper=its.paper,
        value=statistics.median(saved),
        low=min(saved),
        high=max(saved),
    )
    yield Figure(variant=its.name, metric=TOKENS, value=saving(its.fast.tokens, its.plain.tokens))
    yield Figure(variant=its.name, metric=THEORY, value=saving(its.fast.flops, its.plain.flops))
    for way in (WITHOUT_S, WITH_S):
        yield Figure(variant=its.name, metric=way, value=float(np.median(seconds[way])))


def verdicts_of(
    techniques: Sequence[Technique], savings: Mapping[str, Sequence[float]]
) -> tuple[ClaimVerdict, ...]:
    """What each saves, round by round in %, against nothing: the paper prints figures, and no bar for others."""
    return judge_repeated(
        [
            Repeated(
                claim=its.claim,
                value_N=np.array(saved),
                unit="round",
                words=f"{min(saved):.1f} to {max(saved):.1f} % in {len(saved)} rounds",
                source=its.source,
            )
            for its in techniques
            for saved in (savings[its.name],)
        ]
    )
