"""HTTP/1.1 over connections that are kept: as few as do, and as many as are needed at once."""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, final
from urllib.parse import urlsplit

import httptools

READ = 64 * 1024


@dataclass(frozen=True)
class Address:
    """Where a service is.

    Args:
        base: the path before all others, without a slash at its end.
    """

    host: str
    port: int
    is_safe: bool = False
    base: str = ""

    @classmethod
    def of(cls, url: str) -> "Address":
        """
        Raises:
            ValueError: it is no address of HTTP.

        >>> Address.of("http://localhost:8000/shop/")
        Address(host='localhost', port=8000, is_safe=False, base='/shop')
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url}: {error}; expected http://HOST:PORT") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url} is no address of a service; expected http://HOST:PORT")
        is_safe = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if is_safe else 80), is_safe, parts.path.rstrip("/"))

    def __str__(self) -> str:
        """
        >>> str(Address("::1", 80))
        'http://[::1]:80'
        """
        return f"http{'s' if self.is_safe else ''}://{self.name}{self.base}"

    @property
    def name(self) -> str:
        """Host and port, as the header `Host` has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass
class Reply:
    """An answer, filled as it comes; header names are in small letters."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class NoAnswer(Exception):
    """None came: the connection was refused or broke, or patience ended."""


@final
class Client:
    """Args:
    connections: at most so many at once; who finds none waits for one.
    patience_s: an answer that takes longer is given up.
    """

    def __init__(
        self, address: Address, key: str = "", connections: int = 1_000, patience_s: float = 30.0
    ) -> None:
        self.address, self._key, self._patience_s = address, key, patience_s
        self._free: list[_Connection] = []
        self._places = asyncio.Semaphore(connections)

    def message(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> bytes:
        """All bytes of a request."""
        lines = [f"{method} {self.address.base}{path} HTTP/1.1", f"host: {self.address.name}"]
        lines += [f"authorization: Bearer {self._key}"] if self._key else []
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines += ["content-type: application/json", f"content-length: {len(body)}"] if body else []
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def send(self, message: bytes) -> Reply:
        """
        Raises:
            NoAnswer
        """
        try:
            async with asyncio.timeout(self._patience_s), self._places:
                return await self._sent(message)
        except TimeoutError:
            raise NoAnswer(f"no answer within {self._patience_s:g} s") from None
        except (OSError, EOFError, httptools.HttpParserError) as error:
            raise NoAnswer(str(error) or type(error).__name__) from error

    async def _sent(self, message: bytes) -> Reply:
        """A kept connection may have been closed by the service meanwhile; then another is taken."""
        while True:
            is_kept = bool(self._free)
            connection = self._free.pop() if is_kept else await self._opened()
            try:
                reply, stays = await connection.ask(message)
            except BaseException as error:
                connection.close()
                if is_kept and isinstance(error, OSError | EOFError):
                    continue
                raise
            if stays:
                self._free.append(connection)
            else:
                connection.close()
            return reply

    async def _opened(self) -> "_Connection":
        context = ssl.create_default_context() if self.address.is_safe else None
        return _Connection(
            *await asyncio.open_connection(self.address.host, self.address.port, ssl=context, limit=READ)
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._free:
            await self._free.pop().closed()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, message: bytes) -> tuple[Reply, bool]:
        """An answer, and whether the connection goes on after it."""
        self._writer.write(message)
        parsing = _Parsing()
        while not parsing.is_whole:
            part = await self._reader.read(READ)
            if not part:
                raise EOFError("the service closed the connection before its answer ended")
            parsing.parser.feed_data(part)
        return parsing.reply, parsing.stays

    def close(self) -> None:
        self._writer.close()

    async def closed(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


class _Parsing:
    """What httptools calls as an answer comes."""

    def __init__(self) -> None:
        self.reply, self.is_whole, self.stays = Reply(), False, False
        self.parser: Any = httptools.HttpResponseParser(self)
        self._parts = list[bytes]()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        """Whether the connection stays is known here, and no longer when the parser has returned."""
        self.reply.status, self.reply.body = self.parser.get_status_code(), b"".join(self._parts)
        self.is_whole, self.stays = True, self.parser.should_keep_alive()
