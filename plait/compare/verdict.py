"""What a comparison decides: which layouts cannot be told from the best, the cheapest of them, and what could have
been seen. Page, terminal and summary say this and nothing else of who is better.

The cheapest is what takes the fewest training FLOPs in an epoch. Of a whole run they tell when it stopped, too, which
another seed changes.

Nothing is named a leader where nothing can be told apart, and nothing is decided where one seed stands alone.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from typing import Literal

from plait.compare.results import Comparison, Contrast, LayoutCard, Summary
from plait.compare.words import metric_label, number, times
from plait.metrics.intervals import Estimate
from plait.metrics.table import CHIEF_RETRIEVAL

Standing = Literal["best", "alike", "worse", "untold"]
LITTLE = 1.1  # a range that is narrower is told as one number
CHEAP_BY = "(by training FLOPs of an epoch)"
READS_ANSWERS = "reads its own answers"


@dataclass(frozen=True)
class Contender:
    """One of those that have a metric, and how it stands to the best of them."""

    name: str
    value: float
    epoch_flops: float  # of training
    num_seeds: int
    vs_best: Contrast | None  # None: it is the best
    why_not: str = ""  # why it cannot be recommended here, though it was measured
    scatters_apart: bool = False  # its seeds scatter more than those of the others

    @property
    def standing(self) -> Standing:
        if self.vs_best is None:
            return "best"
        if not self.vs_best.covers_seeds:
            return "untold"
        return "worse" if self.vs_best.is_significant else "alike"


@dataclass(frozen=True)
class Resolution:
    """How small a difference to the best a metric can tell."""

    num_users: int
    num_seeds: tuple[int, int]  # the fewest and the most of a layout
    least: float  # no smaller difference can be told
    surely: float  # every larger one is told, but of those that scatter apart
    apart: dict[str, float]  # by layout whose seeds scatter more than the others': from where on it is told
    users_for_half: float | None  # that would tell half of `least`; None: no number would
    with_one_seed_more: float  # about what `least` would be
    best_apart: str = ""  # the best, where its seeds scatter more than those of the others


@dataclass(frozen=True)
class MetricVerdict:
    """How everything that has a metric stands in it, the best first."""

    metric: str
    contenders: tuple[Contender, ...]
    resolution: Resolution | None  # None where nothing is told

    def of(self, standing: Standing) -> tuple[Contender, ...]:
        return tuple(its for its in self.contenders if its.standing == standing)

    @property
    def best(self) -> Contender:
        return self.of("best")[0]

    @property
    def among_best(self) -> tuple[Contender, ...]:
        """The best and all that cannot be told from it; empty where there is no verdict."""
        return (*self.of("best"), *self.of("alike")) if self.decides else ()

    @property
    def choice(self) -> tuple[Contender, ...]:
        """Those among the best that can be recommended, the cheapest first; of equally cheap ones the better."""
        able = [its for its in self.among_best if not its.why_not]
        return tuple(sorted(able, key=lambda its: its.epoch_flops))  # stable: the better stands first

    @property
    def decides(self) -> bool:
        """Whether something was tested: against a best that does not read its own answers."""
        return bool(self.of("alike") or self.of("worse")) and self.best.why_not != READS_ANSWERS

    @property
    def label(self) -> str:
        return metric_label(self.metric)


@dataclass(frozen=True)
class FloorVerdict:
    """How layouts stand to the best of the baselines in a metric."""

    metric: str
    name: str  # of the best baseline
    estimate: Estimate
    layouts: Mapping[str, Contrast]  # each minus that baseline

    @property
    def is_tested(self) -> bool:
        """Whether some layout has the seeds that it takes to be told from a count."""
        return any(contrast.covers_seeds for contrast in self.layouts.values())

    @property
    def is_beaten(self) -> bool:
        return any(self._standing(contrast) == "better" for contrast in self.layouts.values())

    @property
    def label(self) -> str:
        return metric_label(self.metric)

    @property
    def sentence(self) -> str:
        """Whether a model pays here."""
        standing: dict[str, list[str]] = {}
        for layout, contrast in self.layouts.items():
            standing.setdefault(self._standing(contrast), []).append(layout)
        told = "; ".join(f"{how}: {listed(names)}" for how, names in standing.items())
        bounds = self.estimate
        interval = "" if bounds.low is None else f" ({number(bounds.low)} to {number(bounds.high)})"
        first = f"{self.label}: the best count is {self.name} with {number(bounds.value)}{interval}."
        return f"{first} {told[:1].upper()}{told[1:]}."

    def _standing(self, contrast: Contrast) -> str:
        is_ahead = contrast.difference.value * (1 if self.estimate.better == "higher" else -1) > 0
        if not contrast.covers_seeds:
            return f"{'ahead of' if is_ahead else 'not ahead of'} it with one seed, which tells no difference"
        if not contrast.is_significant:
            return "not told apart from it"
        return "better" if is_ahead else "worse"


@dataclass(frozen=True)
class Verdict:
    """All that is decided, metric by metric and altogether."""

    metrics: tuple[MetricVerdict, ...]
    counted: tuple[FloorVerdict, ...] = ()  # where baselines were asked

    @property
    def deciding(self) -> tuple[MetricVerdict, ...]:
        return tuple(verdict for verdict in self.metrics if verdict.decides)

    @property
    def recommended(self) -> Contender | None:
        """The cheapest of those that are among the best in every metric that decides."""
        everywhere = self._everywhere()
        return everywhere[0] if everywhere else None

    def _everywhere(self) -> tuple[Contender, ...]:
        names = [{its.name for its in verdict.choice} for verdict in self.deciding]
        first = self.deciding[0].choice if self.deciding else ()
        return tuple(its for its in first if all(its.name in those for those in names))

    @property
    def recommended_counts(self) -> tuple[FloorVerdict, ...]:
        """The best baseline of each metric, where no layout is told to be better in any; they are recommended then."""
        tested = tuple(of for of in self.counted if of.is_tested)
        return () if any(of.is_beaten for of in tested) else tested

    @property
    def recommendation(self) -> str:
        """In one sentence, or why there is none. What trains nothing is the cheapest of all."""
        if self.recommended_counts:
            counts = listed(f"{of.name} for {of.label}" for of in self.recommended_counts)
            return f"Recommended: counting, which trains nothing ({counts}). No layout is told to be better."
        unbeaten = [of for of in self.counted if of.is_tested and not of.is_beaten]
        layout = self._recommended_layout()
        if not unbeaten:
            return layout
        counts = listed(f"{of.name} in {of.label}" for of in unbeaten)
        return f"{layout} But no layout is told to be better than counting: {counts}."

    def _recommended_layout(self) -> str:
        if not self.deciding:
            return _why_undecided(self.metrics)
        everywhere, labels = self._everywhere(), listed(verdict.label for verdict in self.deciding)
        if not everywhere:
            where = "in all of " if len(self.deciding) > 1 else "in "
            return f"No recommendation: nothing that can be used is among the best {where}{labels}."
        only = "the only one" if len(everywhere) == 1 else f"the cheapest {CHEAP_BY}"
        what = f"{only} that is best, or cannot be told from it, in {labels}"
        return f"Recommended: {everywhere[0].name}, {what}."

    @property
    def lines(self) -> list[str]:
        """Everything in plain sentences, the recommendation first."""
        counted = [of.sentence for of in self.counted]
        return [self.recommendation, *counted, *filter(None, map(_found, self.metrics)), *self.limits]

    @property
    def limits(self) -> list[str]:
        """What could have been seen, a line for each metric that decides."""
        return [
            _could_be_told(verdict.label, verdict.resolution)
            for verdict in self.deciding
            if verdict.resolution
        ]


def verdict_of(comparison: Comparison) -> Verdict:
    """The verdict on the first metric of retrieval and the first of every action, as far as they were measured."""
    found = (
        _in_metric(comparison, metric) for metric in chief_metrics(comparison.retrieval, comparison.scoring)
    )
    return Verdict(tuple(verdict for verdict in found if verdict.contenders), tuple(_counted(comparison)))


def _counted(comparison: Comparison) -> Iterator[FloorVerdict]:
    """The best baselines of the metrics that decide, where a layout has the metric, too."""
    counts = comparison.floor
    if counts is None:
        return
    for metric in chief_metrics(comparison.retrieval, comparison.scoring):
        best, layouts = counts.best(metric), counts.layouts.get(metric)
        if best is not None and layouts:
            yield FloorVerdict(metric, best.name, best.metrics[metric], layouts)


def chief_metrics(retrieval: Sequence[str], scoring: Sequence[str]) -> tuple[str, ...]:
    """The metrics that are decided by and drawn: one of retrieval, and the first of every action.

    >>> chief_metrics(["hr@10", "ndcg@10"], ["auc:click", "ne:click", "rmse:stars"])
    ('ndcg@10', 'auc:click', 'rmse:stars')
    """
    chief = [CHIEF_RETRIEVAL] if CHIEF_RETRIEVAL in retrieval else retrieval[:1]
    of_action: dict[str, str] = {}
    for metric in scoring:
        of_action.setdefault(metric.partition(":")[2], metric)
    return (*chief, *of_action.values())


def _in_metric(comparison: Comparison, metric: str) -> MetricVerdict:
    found = []
    for summary in comparison.summaries:
        card = next(card for card in comparison.layouts if card.name == summary.layout)
        contender = _contender(summary, metric, _why_not(card, metric in comparison.retrieval))
        found += [contender] if contender else []
    lower_first = any(
        s.metrics[metric].estimate.better == "lower" for s in comparison.summaries if metric in s.metrics
    )
    ranked = sorted(
        found, key=lambda its: (its.vs_best is not None, its.value if lower_first else -its.value)
    )
    users = [s.metrics[metric].estimate.num_users for s in comparison.summaries if metric in s.metrics]
    return MetricVerdict(metric, tuple(ranked), _resolution(ranked, min(users, default=0)))


def _contender(summary: Summary, metric: str, why_not: str) -> Contender | None:
    measured = summary.metrics.get(metric)
    if measured is None or measured.estimate.value is None:
        return None
    return Contender(
        summary.layout,
        measured.estimate.value,
        float(f"{summary.cost.epoch_flops:.6g}"),  # summed in another order they are the same
        summary.num_seeds,
        measured.vs_best,
        why_not,
        measured.scatters_apart,
    )


def _why_not(card: LayoutCard, is_retrieval: bool) -> str:
    if card.leaks:
        return READS_ANSWERS
    if is_retrieval:
        return "" if card.retrieves else "cannot retrieve"
    return "" if card.scores else "cannot score a given item"


def _resolution(contenders: Sequence[Contender], num_users: int) -> Resolution | None:
    """None where no test covers seeds, or where the draws or the users are too few for any."""
    told = [(its, its.vs_best) for its in contenders if its.vs_best is not None and its.vs_best.covers_seeds]
    known = [(its, against, against.sensitivity) for its, against in told if against.sensitivity is not None]
    if not known or not all(_agrees(against) for _, against in told):
        return None
    _, against, parts = min(known, key=lambda of: of[1].half_width)
    seeds = [of.num_seeds for of in (contenders[0], *(of for of, _ in told))]
    apart = {
        its.name: of.half_width
        for its, of in told
        if its.scatters_apart and of.half_width > LITTLE * against.half_width
    }
    return Resolution(
        num_users,
        (min(seeds), max(seeds)),
        against.half_width,
        max(of.half_width for its, of in told if its.name not in apart),
        apart,
        None if parts.users_for_half is None else parts.users_for_half * num_users,
        against.half_width * parts.with_one_seed_more,
        contenders[0].name if contenders[0].scatters_apart else "",
    )


def _agrees(contrast: Contrast) -> bool:
    """Whether interval and p say the same, which of a handful of users they do not, and some size is hard to tell."""
    sized = isfinite(contrast.half_width) and (contrast.half_width > 0 or contrast.difference.value == 0)
    return sized and contrast.is_significant == (not contrast.low <= 0 <= contrast.high)


def _found(verdict: MetricVerdict) -> str:
    """What was found in a metric, in a few sentences."""
    label = verdict.label
    if len(verdict.contenders) == 1:
        return f"{label}: only {verdict.best.name} was measured; there is nothing to compare it with."
    if verdict.best.why_not == READS_ANSWERS:
        return f"{label}: no verdict, since the best, {verdict.best.name}, reads its own answers."
    if not verdict.decides:
        return f"{label}: no verdict. {_untold(verdict)}"
    sentences = [f"{label}: {_standings(verdict)}", _cheapest(verdict), _untold(verdict)]
    return " ".join(sentence for sentence in sentences if sentence)


def _standings(verdict: MetricVerdict) -> str:
    best, worse = verdict.best, verdict.of("worse")
    equal = [best, *(its for its in verdict.of("alike") if its.value == best.value)]
    lower = [its for its in verdict.of("alike") if its not in equal]
    first = f"{listed(map(_named, equal))}{' (equal values)' if len(equal) > 1 else ''}"
    if not lower and not worse:
        return f"{listed(map(_named, equal))} have equal values."
    if not lower:
        return f"{first} {'are' if len(equal) > 1 else 'is'} better than {listed(map(_named, worse))}."
    if not worse and len(verdict.among_best) == 2:
        return f"{listed(map(_named, verdict.among_best))} cannot be told apart."
    if not worse:
        return f"none of {listed(map(_named, verdict.among_best))} can be told from the best of them."
    return (
        f"{listed(map(_named, lower))} cannot be told from the best, {first}. "
        f"Worse than the best: {listed(map(_named, worse))}."
    )


def _named(contender: Contender) -> str:
    return f"{contender.name} (which {contender.why_not})" if contender.why_not else contender.name


def _cheapest(verdict: MetricVerdict) -> str:
    choice = verdict.choice
    if not choice:
        return "None of the best can be recommended."
    cheapest, dearest = choice[0], choice[-1]
    if len(choice) == 1:
        return ""
    if cheapest.epoch_flops == dearest.epoch_flops:
        return "An epoch of each costs the same."
    share = times(cheapest.epoch_flops / dearest.epoch_flops)
    return f"The cheapest is {cheapest.name}: in an epoch, {share} the training FLOPs of {dearest.name}."


def _untold(verdict: MetricVerdict) -> str:
    """What one seed leaves open."""
    untold = verdict.of("untold")
    if not untold:
        return ""
    if verdict.best.num_seeds == 1:
        whose = (
            "Each has one seed"
            if all(its.num_seeds == 1 for its in untold)
            else f"{verdict.best.name} has one seed"
        )
        return f"{whose}, and another may turn the order round. A second seed would let differences be told."
    return f"Of one seed, so nothing is told of it: {listed(its.name for its in untold)}."


def _why_undecided(metrics: Sequence[MetricVerdict]) -> str:
    names = {its.name for verdict in metrics for its in verdict.contenders}
    if not names:
        return "No verdict: nothing was measured."
    if len(names) == 1:
        return f"No verdict: {names.pop()} alone was measured."
    if any(verdict.of("untold") for verdict in metrics):
        return "No verdict: one seed tells no difference between layouts."
    return "No verdict: nothing could be compared."


def _could_be_told(label: str, resolution: Resolution) -> str:
    fewest, most = resolution.num_seeds
    seeds = f"{fewest} seeds" if fewest == most else f"{fewest} to {most} seeds"
    least, surely, half = (
        rough(resolution.least, floor),
        rough(resolution.surely, ceil),
        rough(resolution.least / 2, floor),
    )
    fewer = "" if fewest == most else " or has fewer seeds"
    some = (
        f", nor those under {surely} of a layout whose users depart more from the best's{fewer}"
        if resolution.surely > LITTLE * resolution.least
        else ""
    )
    users = resolution.users_for_half
    needs = (
        f"no number of users would tell {half} with so few seeds"
        if users is None
        else f"{half} needs about {rough(users, round)} users"
    )
    later = rough(resolution.with_one_seed_more, round)
    return (
        f"{label}: with {resolution.num_users:,} users and {seeds}, differences to the best "
        f"under {least} cannot be told{some}; "
        f"{needs}. One seed more of each would tell about {later}.{_scattering(resolution)}"
    )


def _scattering(resolution: Resolution) -> str:
    """What seeds hide that scatter more than the others'."""
    found = [
        f" Of {name} none under {rough(size, ceil)} is told: its seeds scatter more than those of the others, so they "
        "alone say how far."
        for name, size in resolution.apart.items()
    ]
    best = resolution.best_apart
    if best:
        found.append(
            f" The seeds of the best, {best}, scatter more than those of the others: that hides differences."
        )
    return "".join(found)


def rough(value: float, rounded: Callable[[float], int]) -> str:
    """Two digits of a positive number.

    Args:
        rounded: up, down, or to the nearest: `ceil`, `floor` or `round`.

    >>> rough(0.00929, floor), rough(0.00921, ceil), rough(8051.0, round), rough(1.0, floor)
    ('0.0092', '0.0093', '8,100', '1.0')
    """
    decimals = 1 - floor(log10(value))
    whole = rounded(round(value * 10.0**decimals, 9))  # 0.29 * 100 is not quite 29
    return f"{whole / 10.0**decimals:,.{max(0, decimals)}f}"


def listed(names: Iterable[str]) -> str:
    """Names as a sentence lists them; those with commas of their own are kept apart by semicolons.

    >>> listed(["item", "pc", "lac"]), listed(["(i[t], a[t]) -> a[t+1]", "lac"]), listed(["lac"])
    ('item, pc and lac', '(i[t], a[t]) -> a[t+1]; lac', 'lac')
    """
    its = list(names)
    if any("," in name for name in its):
        return "; ".join(its)
    return " and ".join(part for part in (", ".join(its[:-1]), its[-1]) if part)
