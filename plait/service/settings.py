"""How a service is set up, in numbers with their ranges."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from plait.limits import Between, check_numbers

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What decides how requests are taken and answered.

    Raises:
        ValueError: a number is out of its range, or anybody could ask from outside.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Between(0, 65_535, "0 takes a free one")] = 8000
    keys: Path | None = None  # API keys; without them, only this machine may ask
    deadline_ms: Annotated[float, Between(1, 600_000, "ten minutes")] = 500.0  # of requests that name none
    most_waiting: Annotated[int, Between(1, 1_000_000, "questions in memory")] = 64
    batch_wait_ms: Annotated[float, Between(0, 1_000, "every answer waits so long")] = 0.0
    most_together: Annotated[int, Between(1, 1_024, "users in one pass")] = 16
    state_memory_mb: Annotated[float, Between(0, 1e7, "10 TB")] = 256.0
    most_body_mb: Annotated[float, Between(0.001, 1_024, "a request is held in memory")] = 4.0
    most_per_s: Annotated[float, Between(0, 1e9, "0 sets no limit")] = 0.0  # requests of one key
    drain_s: Annotated[float, Between(0, 3_600, "an hour")] = 10.0

    def __post_init__(self) -> None:
        check_numbers("", self)
        if self.keys is None and self.host not in LOOPBACK:
            raise ValueError(
                f"host {self.host!r} lets other machines ask, and no keys are set, so anybody could: make some "
                "(plait new-key), name their file, or stay on 127.0.0.1"
            )
