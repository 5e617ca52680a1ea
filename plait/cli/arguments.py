"""Types of arguments that several verbs take."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
