"""What step 3 of LUM costs against the size of step 1: a ranker that is told interests, by the size of the user model
that they come from, beside an end-to-end model of each size.

The user models are trained for an epoch: what they know changes no cost.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from plait.compare.comparing import compare_variants
from plait.compare.notes import origins
from plait.compare.results import Comparison, Summary
from plait.compare.variants import Variant
from plait.nn.config import TrunkConfig
from plait.papers.claims import ClaimVerdict
from plait.papers.logs import Simulated
from plait.papers.lum_trial import InterestTrial, cut_of
from plait.papers.study import Figure, Finding, Place, failures, words_of
from plait.rankers.rows import ranker_rows

FLOPS, TIME, LATENCY = "GFLOPs of an epoch", "s of an epoch", "ms for 100 candidates"
STEP_3, END_TO_END = "step 3", "end to end"
SOURCE = "section 5.4"


@dataclass(frozen=True, kw_only=True)
class StepThreeCost:
    """One ranker under user models of several sizes, and end-to-end models of these sizes."""

    name: str
    trial: InterestTrial  # its logs and settings; its first ranker that is told interests
    end_to_end: Variant  # of any size
    sizes: Mapping[str, TrunkConfig]  # ascending

    @property
    def logs(self) -> tuple[Simulated, ...]:
        return self.trial.logs

    def quick(self) -> "StepThreeCost":
        small = replace(next(iter(self.sizes.values())), num_layers=1, num_heads=2)
        sizes = {f"d = {dim}": replace(small, dim=dim) for dim in (12, 24)}
        trial = self.trial.quick()
        its = replace(self.end_to_end.settings, protocol=trial.protocol, optim=trial.optim)
        return replace(self, trial=trial, end_to_end=Variant(self.end_to_end.name, its), sizes=sizes)

    def run(self, study: str, place: Place) -> Finding:
        early, late = (log.open(place.logs, place.data) for log in self.logs)
        folder = place.folder_of(study, self.name)
        variants, lum_s = [], 0.0
        for size, trunk in self.sizes.items():
            of_size = self._of_size(trunk)
            interests, took_s = of_size.interests(early, late, folder / f"user-model-{trunk.dim}", place)
            protocol = replace(of_size.protocol, asked_from_s=cut_of(early))
            [row] = ranker_rows(self._ranker, of_size.model, of_size.optim, protocol, interests)
            its = self.end_to_end.settings
            model = replace(
                its.model,
                trunk=replace(trunk, kind=its.model.trunk.kind, positions=its.model.trunk.positions),
            )
            variants += [
                replace(row, name=named(STEP_3, size)),
                Variant(named(END_TO_END, size), replace(its, model=model)),
            ]
            lum_s += took_s
        comparison = compare_variants(
            late, variants, 1, folder, command=place.command, title=f"{study}, {self.name}",
            report=place.report, device=place.device, watch=place.watch,
        ).comparison  # fmt: skip
        page = str((folder / "report.html").relative_to(place.out))
        return self._finding(words_of(late), comparison, page, lum_s)

    @property
    def _ranker(self) -> tuple[str, ...]:
        return (next(name for name in self.trial.rankers if "+" in name),)

    def _of_size(self, trunk: TrunkConfig) -> InterestTrial:
        its = self.trial.lum
        once = replace(its.protocol, max_epochs=1, patience=1)
        lum = replace(its, model=replace(its.model, trunk=trunk), protocol=once)
        return replace(self.trial, lum=lum)

    def _finding(self, data: str, comparison: Comparison, page: str, lum_s: float) -> Finding:
        return Finding(
            part=self.name,
            data=data,
            protocol=comparison.protocol,
            metrics={FLOPS: "", TIME: "training of a day, figure 6 (a)", LATENCY: "latency, figure 6 (b)"},
            figures=tuple(
                figure for card in comparison.layouts for figure in _figures(comparison, card.name)
            ),
            verdicts=tuple(verdicts(comparison, list(self.sizes))),
            notes=(
                "Low and high of seconds are the range over epochs. Milliseconds are the median of one process, with "
                "the history encoded before; looking interests up is not in them.",
            ),
            failed=failures(comparison.rows),
            page=page,
            wall_s=lum_s + sum(row.cost.wall_s for row in comparison.rows if row.cost),
            origins=origins(comparison.rows),
        )


def named(what: str, size: str) -> str:
    """
    >>> named(STEP_3, "d = 64")
    'step 3, d = 64'
    """
    return f"{what}, {size}"


def _figures(comparison: Comparison, variant: str) -> Iterator[Figure]:
    summary = comparison.summary_of(variant)
    served = {cost.layout: cost for cost in comparison.serving.costs} if comparison.serving else {}
    median_s = served[variant].median_s.get("score 100") if variant in served else None
    latency = None if median_s is None else 1e3 * median_s
    if summary is not None:
        times = summary.epoch_times
        yield Figure(variant=variant, metric=FLOPS, value=summary.cost.epoch_flops / 1e9)
        yield Figure(variant=variant, metric=TIME, value=times.median_s, low=times.low_s, high=times.high_s)
        yield Figure(variant=variant, metric=LATENCY, value=latency)


def verdicts(comparison: Comparison, sizes: Sequence[str]) -> Iterator[ClaimVerdict]:
    """Of FLOPs, which nothing blurs: step 3's are flat, and those of end-to-end models are above them and rise."""
    found = {
        what: [comparison.summary_of(named(what, size)) for size in sizes] for what in (STEP_3, END_TO_END)
    }
    step_3, end_to_end = (_flops(of) for of in found.values())
    flat, above = (
        "step 3 costs the same FLOPs whatever the size of the user model",
        "end to end costs more at each size",
    )
    if len(step_3) < len(sizes) or len(end_to_end) < len(sizes):
        why = "a run did not finish"
        yield from (
            ClaimVerdict(claim=its, outcome="not measured", why=why, source=SOURCE) for its in (flat, above)
        )
        return
    ratios = [dear / cheap for cheap, dear in zip(step_3, end_to_end, strict=True)]
    is_flat, is_above = max(step_3) == min(step_3), min(ratios) > 1
    times = f"{max(step_3) / min(step_3):.3g} times from the cheapest to the dearest"
    yield ClaimVerdict(
        claim=flat, outcome="reproduced" if is_flat else "not reproduced", why=times, source=SOURCE
    )
    why = f"{', '.join(f'{ratio:.3g}' for ratio in ratios)} times step 3's"
    yield ClaimVerdict(
        claim=above, outcome="reproduced" if is_above else "not reproduced", why=why, source=SOURCE
    )


def _flops(summaries: Sequence[Summary | None]) -> list[float]:
    return [summary.cost.epoch_flops for summary in summaries if summary is not None]
