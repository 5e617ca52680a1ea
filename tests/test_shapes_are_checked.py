"""Calls with arrays of other shapes are refused while the package is tested, however they are annotated."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from shape_checker import names_a_shape

from plait.data.queries import met_before
from plait.nn.attention import softmax_weights
from plait.nn.hstu import silu_weights
from plait.wording import setting


@pytest.mark.parametrize("function", [met_before, softmax_weights, silu_weights])
def test_functions_that_name_a_shape_are_known(function):
    assert names_a_shape(function) and not names_a_shape(setting)


def test_a_call_with_another_shape_is_refused():
    user_Q, short = np.array([0, 0]), np.array([1])
    start_U1, item_E = np.array([0, 4]), np.array([7, 5, 7, 5])
    met_before(start_U1, item_E, user_Q, user_Q + 2, user_Q + 1)
    with pytest.raises(TypeCheckError):
        met_before(start_U1, item_E, user_Q, short, user_Q + 1)
