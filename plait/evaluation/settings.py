"""Everything that two results must share to be compared, beside the data and the model's shape."""

from dataclasses import dataclass
from typing import Annotated, Literal

from plait.evaluation.selection import Selection
from plait.layouts import Layout
from plait.limits import MOST_CODES, SECONDS, SEED, SHARE, WHOLE, WINDOW, Between, check_numbers
from plait.metrics.table import CHIEF_LIST, CHIEF_RETRIEVAL, LISTS, Lists, Task
from plait.models.generative import ModelSettings
from plait.models.questions import QuestionPlan, Sample, Supervise
from plait.nn.precision import Precision
from plait.wording import setting


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW with warm-up; see `plait.training.optimiser`."""

    learning_rate: Annotated[float, Between(0, 1e30, "weights are float32", above=True)] = 1e-3
    """After warm-up."""
    betas: Annotated[tuple[float, float], SHARE] = (0.9, 0.98)
    """AdamW's decay of the means of gradients and of their squares."""
    weight_decay: Annotated[float, Between(0, 1e3, "times the learning rate, what a step takes off")] = 0.0
    """On the matrices of trunk and heads only."""
    warmup_steps: Annotated[int, Between(0, MOST_CODES, "they are counted by 32 bits")] = 100
    """At most a tenth of all steps, as many as the caps allow."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Cosine ends with the first of protocol's caps."""
    clip_norm: Annotated[float, Between(0, 1e30, "gradients are float32", above=True)] = 1.0
    """Longest gradient of a step, all weights together; a longer one is shortened."""
    users_per_step: Annotated[int, WINDOW] = 16
    """Whose windows are one step."""
    precision: Precision = "auto"
    """What matrices are multiplied in; weights and optimiser stay fp32. fp32_onednn: fp32 by oneDNN in place of MKL,
    where it is exact. auto: what a probe of a few milliseconds finds fastest, for all runs of a comparison together."""

    def __post_init__(self) -> None:
        check_numbers("optim.", self)


# Of a protocol, what decides how answers are judged: beside other values, no two results stand in one table.
JUDGED_BY = "filter_seen", "negatives", "rolling_history"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a model is trained and judged: everything two results must share to be compared."""

    max_events: Annotated[int, WINDOW] = 100
    """T: the window, in events."""
    window_step: Annotated[int | None, WINDOW] = 1
    """S: a user's window begins anew every S events, and holds T to T + S - 1 of them. 1: it is the last T. None: an
    eighth of T, the default of verbs."""
    window: Literal["last", "random"] = "last"
    """What training takes. last: each user's last events. random: as many at a random place, drawn anew every epoch."""
    patience: Annotated[int, WHOLE] = 10
    """Validations without a rise, of whatever chooses a checkpoint, before training stops; those during warm-up not
    counted."""
    validate_every: Annotated[int, WHOLE] = 1
    """Epochs between two validations."""
    select: str = Selection.EACH
    """each: two checkpoints, the best for retrieval (NDCG@10) and the best for actions (their normalised errors); of a
    layout that does one of the two, one. Else one checkpoint, by validation metrics to rise: "ndcg@10", or
    "ndcg@10=1,auc:liked=0.5". auto: by NDCG@10, or by loss:actions where the layout does not retrieve."""
    deploy: Task = "retrieval"
    """Which of two checkpoints is the run's model/; the other lies beside it."""
    judge: Literal["each", "deployed"] = "each"
    """Whose answers are measured. each: of the checkpoint that is best for what is measured. deployed: of model/."""
    max_epochs: Annotated[int, WHOLE] = 200
    """A run ends with the step in which it reaches the first of the caps, and a validation."""
    max_tokens: Annotated[float | None, Between(0, 1e18, "no training has read as many", above=True)] = None
    """A cap, too: tokens that training reads."""
    max_flops: Annotated[float | None, Between(0, 1e30, "no training has cost as many", above=True)] = None
    """A cap, too: FLOPs that training takes."""
    supervise: Supervise = "all"
    """all: every event of a window where it stands. candidates: the events of its last requests, each from what lay
    before its request, as in serving (GenRank paper, section 3.1). Some layouts allow nothing else."""
    candidate_requests: Annotated[int, WINDOW] = 1
    """How many requests, from the last, supervise = candidates takes."""
    sample: Sample = "user"
    """What is one sample where candidates are asked about. user: all candidates of a user. part: those of some
    consecutive requests, so that a step has more users. event: each for itself, in an order of its own (GenRank paper,
    section 3.1: point-wise order)."""
    requests_per_part: Annotated[int, WINDOW] = 8
    """How many requests sample = part takes together; of candidate_requests, as many whole parts as hold them."""
    asked_from_s: Annotated[int | None, SECONDS] = None
    """Training asks about no event before this time (unix seconds): earlier ones are history alone. Where a user model
    was trained on the events before a cut, that is the cut: what it says of them is of events that it saw."""
    filter_seen: bool = True
    """Items that a user has met are not recommended; an answer among them is a miss."""
    negatives: Annotated[int | None, WHOLE] = None
    """Rank against this many sampled items instead of the full catalogue."""
    rolling_history: bool = False
    """A held-out event is asked about from all that its user did before it, events of its own part among them. Else
    every history ends where the part begins."""
    lists: Annotated[Lists, WHOLE] = LISTS
    """Lengths k of HR@k, NDCG@k and recall@k, ascending; 10 is one of them, since NDCG@10 stands for retrieval. A
    comparison shows those from 10 on."""
    recorded: Annotated[int, Between(0, 4096, "a few dozen are enough to check a model by")] = 32
    """Users whose histories are kept beside the model, so that it can be checked without the data. They are real ones.
    0: none."""
    seed: Annotated[int, SEED] = 0
    """What every random draw follows from."""

    def __post_init__(self) -> None:
        check_numbers("protocol.", self)
        if self.sample == "event" and self.supervise != "candidates":
            raise ValueError(
                f"{setting('protocol.sample', 'event')}: samples of one event take "
                f"{setting('protocol.supervise', 'candidates')}"
            )
        if self.step > self.max_events:
            raise ValueError(
                f"{setting('protocol.window_step', self.step)}: expected at most "
                f"{setting('protocol.max_events', self.max_events)}, the events of a window"
            )
        if self.sample == "part" and self.window != "last":
            raise ValueError(
                f"{setting('protocol.sample', 'part')}: a part ends where its requests end; expected "
                f"{setting('protocol.window', 'last')}, or {setting('protocol.sample', 'user')}"
            )
        if self.asked_from_s is not None and (self.sample == "event" or self.window != "last"):
            raise ValueError(
                f"{setting('protocol.asked_from_s', self.asked_from_s)} is for {setting('protocol.sample', 'user')} "
                f"or part and {setting('protocol.window', 'last')}: other windows may end before that time"
            )
        self._check_lists()
        _ = self.selection

    @property
    def step(self) -> int:
        """S, as a number of events."""
        return max(1, self.max_events // 8) if self.window_step is None else self.window_step

    def _check_lists(self) -> None:
        asked = setting("protocol.lists", self.lists)
        if list(self.lists) != sorted(set(self.lists)):
            raise ValueError(f"{asked}: expected different lengths of lists, in ascending order")
        if CHIEF_LIST not in self.lists:
            raise ValueError(
                f"{asked}: expected {CHIEF_LIST} among the lengths, since {CHIEF_RETRIEVAL} stands for retrieval where "
                "one metric has to; add it"
            )

    @property
    def selection(self) -> Selection:
        """What `select` says. Raises ValueError where it says nothing that is measured."""
        return Selection.parse(self.select, self.lists)

    @property
    def judged_by(self) -> tuple[object, ...]:
        """The values of `JUDGED_BY`."""
        return tuple(getattr(self, name) for name in JUDGED_BY)

    def plan(self, layout: Layout, model: ModelSettings) -> QuestionPlan:
        """How models of this layout and these settings are asked, in training and after it."""
        return QuestionPlan(
            layout=layout,
            window=model.window(self.max_events, self.step),
            exposure=model.exposure,
            supervise=self.supervise,
            candidate_requests=self.candidate_requests,
            sample=self.sample,
            requests_per_part=self.requests_per_part,
            asked_from_s=self.asked_from_s,
        )

    def check_asks(self, plan: QuestionPlan) -> None:
        """Raises ValueError where models that are asked by a plan would be asked otherwise under this protocol: their
        answers would be those to questions that they were not trained for.

        >>> from plait.layouts import resolve
        >>> from plait.window_rule import WindowRule
        >>> Protocol(max_events=20).check_asks(QuestionPlan(layout=resolve("lac"), window=WindowRule(9)))
        Traceback (most recent call last):
            ...
        ValueError: protocol.max_events = 20: the model is asked from at most 9 events; give the protocol that it was \
trained under, or train one under this
        """
        own = self.plan(plan.layout, ModelSettings(exposure=plan.exposure))
        advice = "give the protocol that it was trained under, or train one under this"
        if own.window.max_events != plan.window.max_events:
            raise ValueError(
                f"protocol.max_events = {own.window.max_events}: the model is asked from at most "
                f"{plan.window.max_events} events; {advice}"
            )
        if own.window.step != plan.window.step:
            raise ValueError(
                f"protocol.window_step = {own.window.step}: the model is asked from windows that begin anew every "
                f"{plan.window.step} events; {advice}"
            )
        if own.context_ends_before != plan.context_ends_before:
            raise ValueError(
                f"protocol.supervise = '{self.supervise}': questions see what lies before their "
                f"{own.context_ends_before}, and the model is asked from what lies before its "
                f"{plan.context_ends_before}; {advice}"
            )

    @property
    def cap(self) -> str:
        """The caps in words.

        >>> Protocol(max_epochs=20, max_flops=1e15).cap
        '20 epochs, 1e+15 FLOPs'
        """
        return ", ".join(f"{amount:g} {unit}" for unit, amount in self.caps.items())

    @property
    def caps(self) -> dict[str, float]:
        """Those that are set, by unit."""
        caps = {"epochs": self.max_epochs, "tokens": self.max_tokens, "FLOPs": self.max_flops}
        return {unit: float(amount) for unit, amount in caps.items() if amount is not None}
