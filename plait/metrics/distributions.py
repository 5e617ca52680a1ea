"""Fisher's F, as far as tests need it; of one degree above it is the square of Student's t.

Shape letter: A angles.
"""

from functools import cache

import numpy as np
from jaxtyping import Float64

ANGLES = 20_000  # at which the density is summed


def f_tail(ratio: float, above: int, below: int) -> float:
    """The chance that a ratio of two mean squares of equal expectation exceeds `ratio`.

    Args:
        above: degrees of freedom of the ratio's numerator.
        below: and of its denominator.

    Student's t exceeds 2.776 to either side, with four degrees, one time in twenty:

    >>> round(f_tail(2.776**2, 1, 4), 3)
    0.05
    """
    angle_A, share_A = _density(above, below)
    return float(share_A[angle_A >= np.arctan(np.sqrt(ratio * above / below))].sum())


@cache
def f_critical(level: float, above: int, below: int) -> float:
    """The ratio that is exceeded with the chance `level`.

    >>> round(f_critical(0.05, 1, 4) ** 0.5, 3), round(f_critical(0.05, 4, 6), 2)
    (2.776, 4.53)
    """
    angle_A, share_A = _density(above, below)
    angle = angle_A[np.searchsorted(share_A.cumsum(), 1 - level)]
    return float(np.tan(angle) ** 2 * below / above)


def _density(above: int, below: int) -> tuple[Float64[np.ndarray, " A"], Float64[np.ndarray, " A"]]:
    """The angle whose squared tangent is the ratio of the two sums of squares has sin^(above - 1) cos^(below - 1)."""
    angle_A = (np.arange(ANGLES) + 0.5) * np.pi / (2 * ANGLES)
    share_A = np.sin(angle_A) ** (above - 1) * np.cos(angle_A) ** (below - 1)
    return angle_A, share_A / share_A.sum()
