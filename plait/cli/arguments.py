"""Types of arguments that several verbs take, and the groups that they stand in under --help."""

from typing import Annotated, Literal

from cyclopts import Group, Parameter

Device = Literal["auto", "cpu", "cuda"]
Quiet = Annotated[
    bool, Parameter(name=("--quiet", "-q"), negative="", help="Results alone, and no progress.")
]
Json = Annotated[bool, Parameter(negative="", help="The answer as one JSON document.")]

Beyond = Annotated[
    bool,
    Parameter(
        negative="",
        help="Also what recommended lists hold, and metrics by how often training met items and users.",
    ),
]

Counting = Annotated[
    str | None,
    Parameter(
        name="--baseline",
        help="Ask a way of counting instead, named as in a comparison; RUN may then be a dataset, too.",
    ),
]

MODEL = Parameter(group=Group("Model", sort_key=1))
TRAINING = Parameter(group=Group("Training", sort_key=2))
PROTOCOL = Parameter(group=Group("Protocol", sort_key=3))
