"""A part of LUM's studies: how recall grows with the size of a user model, or with its window.

R@10 = a log x + b is fitted by least squares to the means over seeds, with the natural logarithm. The interval of a and
b is that of the same fit to each joint draw of users and seeds (see `plait.compare.significance`).

Source: the LUM paper, section 5.5, equations 1 and 2, figure 7.

Shape letters: N points, D draws.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, assert_never

import msgspec
import numpy as np
from jaxtyping import Float64

from plait.compare.comparing import DRAWS, Compared
from plait.compare.significance import drawn, interval, value_of
from plait.compare.variants import Variant
from plait.compare.words import number, signed
from plait.papers.claims import ClaimVerdict, Outcome, sides_of
from plait.papers.logs import StudyLog
from plait.papers.study import Figure, Finding, Place, Trial, shrunk

RECALL = "hr@10"  # every list has one answer, so it is R@10
SLOPE, OFFSET = "a", "b"
SOURCE = "section 5.5, figure 7"
Grown = Literal["P", "L"]  # the model's size, in parameters; the window's length, in events


@dataclass(frozen=True)
class Line:
    """Recall against the logarithm of what grows, with 95 % intervals."""

    slope: float
    offset: float
    slope_range: tuple[float, float]
    offset_range: tuple[float, float]
    explained: float  # share of the points' variance, R squared
    covers_seeds: bool

    @property
    def outcome(self) -> Outcome:
        """Of the claim that recall rises."""
        low, high = self.slope_range
        if not self.covers_seeds or low <= 0 <= high:
            return "too close to tell"
        return "reproduced" if low > 0 else "not reproduced"


@dataclass(frozen=True, kw_only=True)
class ScalingLaw:
    """User models of which one thing grows, all else alike."""

    trial: Trial  # ascending
    grown: Grown
    paper: tuple[float, float]  # its slope and offset

    @property
    def name(self) -> str:
        return self.trial.name

    @property
    def logs(self) -> tuple[StudyLog, ...]:
        return self.trial.logs

    def quick(self) -> "ScalingLaw":
        variants = tuple(self._shrunk(nth, its) for nth, its in enumerate(self.trial.variants, start=1))
        return replace(self, trial=replace(self.trial.quick(), variants=variants))

    def run(self, study: str, place: Place) -> Finding:
        dataset = self.trial.log.open(place.logs, place.data)
        compared = self.trial.compared(dataset, study, place)
        found = self.trial.finding(dataset, compared, study, place)
        line = self.line_of(compared)
        if line is None:
            return found
        return msgspec.structs.replace(
            found,
            figures=(*found.figures, *self._figures(line)),
            verdicts=(*found.verdicts, self.verdict_of(line)),
            notes=(*found.notes, self._said(line)),
        )

    def line_of(self, compared: Compared) -> Line | None:
        """What is fitted to all sizes, or lengths, that finished; None of fewer than three."""
        sides = sides_of(compared.statistics, RECALL, DRAWS)
        names = [its.name for its in self.trial.variants if its.name in sides]
        if len(names) < 3:
            return None
        joint = drawn(sides)
        log_x_N = np.log([self._size(name, compared) for name in names])
        points_N = np.array([value_of(joint[name]) for name in names])
        draws_ND = np.stack([joint[name].value_D for name in names])
        return fitted(log_x_N, points_N, draws_ND, all(sides[name].covers_seeds for name in names))

    def verdict_of(self, line: Line) -> ClaimVerdict:
        """Whether recall rises with what grows."""
        low, high = line.slope_range
        why = f"{SLOPE} = {signed(line.slope)} ({signed(low)} to {signed(high)})"
        if not line.covers_seeds:
            why += "; but one seed does not tell noise from a difference"
        claim = f"R@10 rises with log {self.grown}"
        return ClaimVerdict(claim=claim, outcome=line.outcome, why=why, source=SOURCE)

    def _size(self, name: str, compared: Compared) -> float:
        match self.grown:
            case "P":
                rows = compared.comparison.rows
                return next(row.cost.num_parameters for row in rows if row.layout == name and row.cost)
            case "L":
                [variant] = (its for its in self.trial.variants if its.name == name)
                return variant.settings.protocol.max_events
            case never:
                assert_never(never)

    def _shrunk(self, nth: int, its: Variant) -> Variant:
        """Tiny, and still of different sizes or lengths."""
        settings = shrunk(its.settings)
        match self.grown:
            case "P":
                trunk = replace(settings.model.trunk, dim=8 * nth)
                return Variant(its.name, replace(settings, model=replace(settings.model, trunk=trunk)))
            case "L":
                protocol = replace(settings.protocol, max_events=2 * nth)
                return Variant(its.name, replace(settings, protocol=protocol))
            case never:
                assert_never(never)

    def _figures(self, line: Line) -> Iterator[Figure]:
        slope, offset = self.paper
        for name, paper, value, (low, high) in (
            (SLOPE, slope, line.slope, line.slope_range),
            (OFFSET, offset, line.offset, line.offset_range),
        ):
            yield Figure(
                variant=f"{name} of a log {self.grown} + b",
                metric=RECALL,
                paper=paper,
                value=value,
                low=low,
                high=high,
            )

    def _said(self, line: Line) -> str:
        slope, offset = self.paper
        return (
            f"R@10 = {number(line.slope)} log {self.grown} + {number(line.offset)}, the paper's {slope:g} log "
            f"{self.grown} + {offset:g}; natural logarithms (the paper does not say which). The line explains "
            f"{line.explained:.0%} of the variance of the points. Of another log, neither coefficient need be alike."
        )


def fitted(
    log_x_N: Float64[np.ndarray, " N"],
    points_N: Float64[np.ndarray, " N"],
    draws_ND: Float64[np.ndarray, "N D"],
    covers_seeds: bool,
) -> Line:
    """The line through the points by least squares, and where it lies in joint draws of them.

    >>> x_N, up_N = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0])
    >>> line = fitted(x_N, up_N, np.repeat(up_N[:, None], 100, axis=1), True)
    >>> round(line.slope, 6), round(line.offset, 6), round(line.explained, 6), line.outcome
    (2.0, 1.0, 1.0, 'reproduced')
    """
    design_N2 = np.stack([log_x_N, np.ones_like(log_x_N)], axis=1)
    solve_2N = np.linalg.pinv(design_N2)
    slope, offset = (solve_2N @ points_N).tolist()
    slope_D, offset_D = solve_2N @ draws_ND
    left_N = points_N - design_N2 @ (solve_2N @ points_N)
    spread = float(((points_N - points_N.mean()) ** 2).sum())
    return Line(
        slope,
        offset,
        interval(slope, slope_D),
        interval(offset, offset_D),
        1 - float((left_N**2).sum()) / spread if spread else 1.0,
        covers_seeds,
    )
