"""What the tests of properties share."""

import jaxtyping
import pytest


@pytest.fixture
def shapes_are_not_checked():
    """The same calls come a thousand times here, with shapes that all other tests check."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
