"""Calls with arrays of other shapes are refused while the package is tested, however they are annotated."""

from dataclasses import dataclass

import numpy as np
import pytest
from guards import Case
from jaxtyping import Float64, TypeCheckError
from shape_checker import check_shapes, checked, compiled, decorator, names_a_shape

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


decorate = decorator(typechecker=checked)
X_UD, Y_D = np.ones((2, 3)), np.ones(3)


def times(x_UD: Float64[np.ndarray, "U D"], y_D: Float64[np.ndarray, " D"]) -> Float64[np.ndarray, " U"]:
    return x_UD @ y_D


def quoted(x_UD: "Float64[np.ndarray, 'U D']", y_D: "Float64[np.ndarray, ' D']") -> None:
    """Shapes as text."""


@dataclass
class Fields:
    x_UD: Float64[np.ndarray, "U D"]
    y_D: Float64[np.ndarray, " D"]


def inside(factor, decorate=decorate):
    @decorate
    def scaled(x_UD: Float64[np.ndarray, "U D"], y_D: Float64[np.ndarray, " D"]) -> Float64[np.ndarray, " U"]:
        return factor * (x_UD @ y_D)[: len(x_UD) if factor else 1]

    return scaled


def is_refused(function, *arguments):
    try:
        function(*arguments)
    except TypeCheckError:
        return True
    except ValueError:  # of numpy, where nothing is checked
        return False
    return False


@pytest.mark.parametrize("function", [times, quoted, Fields, inside(2.0, lambda its: its)])
def test_what_names_a_shape_is_checked_once_it_is_decorated(function):
    assert not is_refused(function, X_UD, Y_D) and not is_refused(function, X_UD, Y_D[:2])
    found = decorate(function)
    assert not is_refused(found, X_UD, Y_D) and is_refused(found, X_UD, Y_D[:2])


def num_compiled_here() -> int:
    """Of this file alone: threads of tests that ran before may still compile others."""
    return sum(module == __name__ for module, *_ in compiled)


def test_a_function_inside_a_function_is_checked_at_every_call_and_compiled_once():
    for factor in (1.0, 0.0):  # a check is compiled when it is first asked, and a refusal's as well
        is_refused(inside(factor), X_UD, Y_D)
    assert is_refused(inside(1.0), X_UD, Y_D[:2])
    before = num_compiled_here()
    for factor in (1.0, 2.0):
        scaled = inside(factor)
        np.testing.assert_array_equal(scaled(X_UD, Y_D), factor * X_UD @ Y_D)
        assert is_refused(scaled, X_UD, Y_D[:2])
    assert is_refused(inside(0.0), X_UD, Y_D), "one answer for two users"
    assert num_compiled_here() == before > 0


def test_while_nothing_is_checked_functions_inside_functions_alone_are_left():
    check_shapes(False)
    left, found = inside(2.0), decorate(times)
    check_shapes(True)
    assert not is_refused(left, X_UD, Y_D[:2]) and is_refused(found, X_UD, Y_D[:2])


def test_what_names_no_shape_is_left_as_it_was():
    def plain(x: int, *rest: "str") -> list[int]:
        return [x]

    assert decorate(plain) is plain and decorate(Case) is Case and decorate(lambda x: x)(3) == 3
