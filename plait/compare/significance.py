"""What other seeds would have changed of a metric.

Shape letter: D draws.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from plait.metrics.intervals import Bootstrap

# For every draw of users: few would give each number of degrees of freedom one error of its own, always the same.
NOISE_DRAWS = 10


@dataclass(frozen=True)
class SeedNoise:
    """How one run differs from another of its variant, taken to be alike for all variants that train together."""

    variance: float = 0.0
    freedom: int = 0  # degrees, of the estimate: 0 where no variant has two seeds

    @classmethod
    def of(cls, seeds: Iterable[Sequence[float]]) -> "SeedNoise":
        """Pooled over the variants that have several seeds: few seeds of one variant tell too little of themselves.

        >>> SeedNoise.of([[1.0, 3.0], [7.0, 7.0], [9.0]])
        SeedNoise(variance=1.0, freedom=2)
        """
        several = [values for values in seeds if len(values) > 1]
        freedom = sum(len(values) - 1 for values in several)
        squares = sum(float(np.var(values)) * len(values) for values in several)
        return cls(squares / freedom, freedom) if freedom else cls()

    def added(self, mean: Bootstrap, num_seeds: int, side: int) -> Bootstrap:
        """A mean over seeds whose draws cover what other seeds would have made of it, beside what other users would.

        Each side's noise is its own, and all share the error of `variance`: a difference of two sides spreads as
        s * sqrt(1 / n1 + 1 / n2) * t, so its interval is that of a t test of the seeds where users are many.

        Args:
            side: tells the variants that are compared apart; the draws of a side do not depend on the others.
        """
        if not self.freedom:
            return mean
        value_D = np.tile(mean.value_D, NOISE_DRAWS)
        num_draws = len(value_D)
        error_D = self.freedom / np.random.default_rng(self.freedom).chisquare(self.freedom, num_draws)
        error_D = np.sqrt(self.variance * error_D / num_seeds)
        noise_D = np.random.default_rng((self.freedom, 1 + side)).standard_normal(num_draws)
        return replace(mean, value_D=value_D + error_D * noise_D)
