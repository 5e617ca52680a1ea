"""When requests are due: as from many users who know nothing of each other.

Shape letters: R requests.
"""

import math

import numpy as np
from jaxtyping import Float64


def poisson_arrivals(per_s: float, seconds: float, rng: np.random.Generator) -> Float64[np.ndarray, " R"]:
    """Moments of a Poisson process, in seconds from its beginning: the gaps between them are exponential.

    >>> len(poisson_arrivals(100.0, 50.0, np.random.default_rng(0)))
    4913
    """
    mean = per_s * seconds
    enough = math.ceil(mean + 10 * math.sqrt(mean) + 10)  # ten deviations above the mean
    due_R = np.cumsum(rng.exponential(1 / per_s, enough))
    assert due_R[-1] >= seconds, "gaps ended before the time did"
    return due_R[due_R < seconds]
