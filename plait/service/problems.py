"""What a request is told when it is not answered: problem details of RFC 9457, which repeat nothing of the request."""

import re
from collections.abc import Collection
from typing import Any, final

QUOTED = re.compile(r"(?<!\w)'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`[^`]*`")
EVENT, GIVEN_TIME = ", in the event ", re.compile(r"^at = .*?: ", re.DOTALL)


@final
class Problem(Exception):
    """An answer that is none.

    Args:
        name: of its kind, in its `type`.
        detail: what was found, expected, and what to do.
        headers: of the response.
        more: further members.
    """

    def __init__(
        self, status: int, name: str, detail: str, headers: dict[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status, self.name, self.detail = status, name, detail
        self.headers, self.more = headers or {}, more

    @property
    def body(self) -> dict[str, Any]:
        return {
            "type": f"urn:plait:problem:{self.name.replace(' ', '-')}",
            "title": self.name,
            "status": self.status,
            "detail": self.detail,
            **self.more,
        }


def without_values(message: str, known: Collection[str]) -> str:
    """A message of the library without what it quotes, but for names that the model knows.

    >>> without_values("the history has no column 'rating', and none is called 'secret'", {"rating"})
    "the history has no column 'rating', and none is called '…'"
    >>> without_values("rating is outside 1 to 5, in the event {'item': 3}", {"rating"})
    'rating is outside 1 to 5'
    >>> without_values("not among the model's 3, such as 'secret'", ())
    "not among the model's 3, such as '…'"
    """
    text = GIVEN_TIME.sub("at: ", message.partition(EVENT)[0])
    return QUOTED.sub(lambda found: found[0] if found[0][1:-1] in known else "'…'", text)


def refused(error: ValueError, known: Collection[str]) -> Problem:
    """What the library refused, as a problem."""
    return Problem(422, "cannot be answered", without_values(str(error), known))
