"""What models share that are told interests of a user model: where they look them up.

Shape letter: M questions.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from plait.nn.interests import InterestFeatures, InterestLookup


class ReadsInterests:
    """Beside a model: the features that it reads, and where it looks interests up."""

    interest_features: InterestFeatures | None
    interests: InterestLookup | None  # training sets it

    @property
    def reads_interests(self) -> bool:
        return self.interest_features is not None

    @contextmanager
    def told(self, interests: InterestLookup | None) -> Iterator[None]:
        """Looks interests up there, for the time inside."""
        before, self.interests = self.interests, interests
        try:
            yield
        finally:
            self.interests = before
