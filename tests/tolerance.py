"""How far two computations of the same numbers may lie apart, and why.

Equal to the bit are results of one computation: the same seed resumed or repeated in one process configuration,
copies, whole numbers, sums of zeros. Two places of one matrix product are not one computation, nor is a row alone and
the same row in a batch: kernels choose the order of a sum by shape, place, threads and processor.
"""

import polars as pl
from polars.testing import assert_frame_equal

SAME_SUM = 1e-5  # relative: a few layers of fp32 sums of a dozen terms each, in another order


def assert_alike(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """Answers of two ways of computing them, such as an appended state's and an encoded one's: the same rows in order,
    and numbers that sums in another order would give."""
    assert_frame_equal(found, expected, rel_tol=SAME_SUM, abs_tol=SAME_SUM)
