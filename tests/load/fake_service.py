"""A small service in the test's own loop, which answers as it is told: what took how long is known."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

MODEL = {
    "model": "fake",
    "version": "1",
    "layout": "lac",
    "items": 60,
    "actions": ["rating"],
    "can_retrieve": True,
    "can_score": True,
    "columns": {"user": "user", "item": "item", "time": "time"},
}
USERS, ITEMS = [f"u{n}" for n in range(9)], [str(n) for n in range(60)]
LAST_S = {user: 100 + place for place, user in enumerate(USERS)}
Answered = tuple[int, dict[str, Any] | str, dict[str, str]]  # status, body, headers


@dataclass
class FakeService:
    """Args:
    answer: what a question or an append gets, given its path and body; it may take its time.
    key: what it wants to see; nothing where it is empty.
    """

    answer: Callable[[str, Any], Awaitable[Answered]]
    key: str = ""
    model: Mapping[str, Any] = field(default_factory=lambda: MODEL)
    asked: list[tuple[str, Any]] = field(default_factory=list)  # questions and appends, as they came
    headers: list[str] = field(default_factory=list)  # heads of the requests
    num_connections: int = 0
    url: str = ""
    tells_lookups: bool = False
    tasks: list[Any] = field(default_factory=list)  # of the connections

    async def told(self, method: str, path: str, body: Any) -> Answered:
        if self.key and f"Bearer {self.key}" not in self.headers[-1]:
            return 401, {"detail": "give a key"}, {}
        route, _, query = path.partition("?")
        if method == "POST":
            if body == {"events": []}:
                return 422, {"detail": "empty"}, {}
            self.asked.append((path, body))
            return await self.answer(path, body)
        search = query.partition("search=")[2].partition("&")[0]
        if route == "/v1/models":
            return 200, {"models": [self.model]}, {}
        if route == "/v1/users":
            return 200, {"users": [user for user in USERS if user.startswith(search)][:50]}, {}
        if route == "/v1/items":
            found = [item for item in ITEMS if search and search in item]
            return 200, {"items": [{"id": item, "title": None} for item in found[:50]]}, {}
        if route.startswith("/v1/users/"):
            event = {"item": "3", "time": LAST_S[route.rpartition("/")[2]], "rating": 4}
            return 200, {"history": [{"id": "a", "event": event}]}, {}
        if route == "/metrics" and self.tells_lookups:
            return 200, self.lookups(), {}
        return 404, {"detail": "no such route"}, {}

    def lookups(self) -> str:
        """A state is there when its user was asked about before."""
        users = [body["user"] for path, body in self.asked if path != "/v1/events"]
        misses = len(set(users))
        told = (("yes", len(users) - misses), ("no", misses))
        return "".join(
            f'plait_state_lookups{{found="{found}",model="{model}"}} {count / 2:.1f}\n'
            for model in ("lac", "item")
            for found, count in told
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        self.tasks.append(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await self._one(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.headers.append(head)
        method, path, _ = head.split(" ", 2)
        length = next(
            (int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0
        )
        body = json.loads(await reader.readexactly(length)) if length else None
        status, said, headers = await self.told(method, path, body)
        content = (said if isinstance(said, str) else json.dumps(said)).encode()
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        await writer.drain()


async def at_once(path: str, body: Any) -> Answered:
    """By the model."""
    return 200, {"answered_by": "model"}, {"server-timing": "queue;dur=1, model;dur=2"}


@asynccontextmanager
async def fake_service(
    answer: Callable[[str, Any], Awaitable[Answered]] = at_once, **more: Any
) -> AsyncIterator[FakeService]:
    fake = FakeService(answer, **more)
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        server.close()
        await asyncio.gather(*fake.tasks)  # the clients have gone


def now_s() -> float:
    """On the clock of the loops."""
    return time.perf_counter()
