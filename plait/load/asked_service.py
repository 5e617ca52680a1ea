"""What a service tells of itself: its model, users, items, histories, and how often it had a user's state."""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from plait.load.answers import read_body
from plait.load.client import Client, NoAnswer, Reply
from plait.load.mix import KINDS, Kind, Mix
from plait.load.population import EventForm

DEFAULT_MIX: Mix = {"append": 0.5, "score": 0.3, "retrieve": 0.2}
AT_ONCE = 50  # users or items in one answer of the service
MOST_SEARCHES = 2_000
LOOKUPS = re.compile(r'^plait_state_lookups\{found="(yes|no)",.*\} ([\d.e+]+)$', re.MULTILINE)


class _LogColumns(msgspec.Struct, frozen=True):
    user: str
    item: str
    time: str | None


class Described(msgspec.Struct, frozen=True):
    """The model that a service serves."""

    model: str
    version: str
    layout: str
    items: int
    can_retrieve: bool
    can_score: bool
    actions: list[str]
    columns: _LogColumns


class _Models(msgspec.Struct):
    models: list[Described]


class _Item(msgspec.Struct):
    id: str


class _Found(msgspec.Struct):
    """Of a search: items or users."""

    items: list[_Item] = []
    users: list[str] = []


class _Kept(msgspec.Struct):
    event: dict[str, Any]


class _History(msgspec.Struct):
    history: list[_Kept]


@dataclass(frozen=True)
class Lookups:
    """How often the service looked for a user's state, and found it."""

    hits: float
    misses: float

    def rate_since(self, before: "Lookups") -> float | None:
        """The share that was found since; None where none was looked for."""
        hits, misses = self.hits - before.hits, self.misses - before.misses
        return round(hits / (hits + misses), 4) if hits + misses else None


async def described_service(client: Client) -> Described:
    """
    Raises:
        ValueError: nothing answers there, the key is wrong, or it is no service of Plait.
    """
    reply = await got(client, "/v1/models")
    try:
        return msgspec.json.decode(reply.body, type=_Models).models[0]
    except (msgspec.MsgspecError, UnicodeDecodeError, IndexError):
        raise ValueError(
            f"{client.address} answers, but not as `plait serve` of this version does: its /v1/models tells no model"
        ) from None


def default_mix(described: Described, *, appends: bool) -> Mix:
    """What the model can: three scores for two retrieves, and as many appends as both.

    Args:
        appends: whether events may be appended. In a service of others they would stay.
    """
    can: dict[Kind, bool] = {
        "append": appends,
        "score": described.can_score,
        "retrieve": described.can_retrieve,
    }
    found = {kind: DEFAULT_MIX[kind] for kind in KINDS if can[kind]}
    return {kind: share / sum(found.values()) for kind, share in found.items()}


async def check_can_be_asked(client: Client, described: Described, mix: Mix) -> None:
    """
    Raises:
        ValueError: the model or the key cannot do what the mix asks.
    """
    for kind, can in (("score", described.can_score), ("retrieve", described.can_retrieve)):
        if kind in mix and not can:
            raise ValueError(f"the mix asks to {kind}, and layout '{described.layout}' cannot; leave it out")
    if "append" in mix:  # nothing is stored of this
        reply = await replied(client, client.message("POST", "/v1/events", b'{"events":[]}'))
        if reply.status in (401, 403):
            raise ValueError(refusal(client, "/v1/events", reply))


async def got(client: Client, path: str) -> Reply:
    """An answer to a GET.

    Raises:
        ValueError: none came, or a refusal.
    """
    reply = await replied(client, client.message("GET", path))
    if reply.status != 200:
        raise ValueError(refusal(client, path, reply))
    return reply


async def replied(client: Client, message: bytes) -> Reply:
    """
    Raises:
        ValueError: none came.
    """
    try:
        return await client.send(message)
    except NoAnswer as error:
        raise ValueError(
            f"{client.address} does not answer ({error}); see that a service runs there: plait serve RUN"
        ) from None


def refusal(client: Client, path: str, reply: Reply) -> str:
    """What to do about an answer that is none."""
    said = read_body(reply.body).detail or "without a word"
    where = f"{client.address}{path.partition('?')[0]}"
    if reply.status == 401:
        return f"{where} refuses the key ({said}); give one that `plait new-key` made for it"
    if reply.status == 403:
        return f"{where} refuses ({said}); a load needs a key with the scopes ask, users, append where it appends"
    return f"{where} answers {reply.status} ({said}); expected an answer of `plait serve`"


async def told_users(client: Client, least: int, most: int) -> list[str]:
    """Users who have a history: at least so many, and more as the service tells them.

    Raises:
        ValueError: it knows of too few.
    """
    found = await _searched(client, "/v1/users", [""], most)
    if len(found) < least:
        raise ValueError(
            f"{client.address} tells of {len(found)} users with a history, and {least} are needed; ask about fewer "
            "users, or serve with the run's data"
        )
    return found


async def told_items(client: Client, most: int) -> list[str]:
    """Items of the catalogue, as searches find them.

    Raises:
        ValueError: none were found.
    """
    found = await _searched(client, "/v1/items", list("0123456789abcdefghijklmnopqrstuvwxyz"), most)
    if not found:
        raise ValueError(
            f"{client.address} finds no items by digits or letters; load the run's folder instead"
        )
    return found


async def _searched(client: Client, path: str, begin: Sequence[str], most: int) -> list[str]:
    """Ids that searches find; a search that is full is done again with one more character of what it found."""
    waiting, found = deque(begin), dict[str, None]()
    for _ in range(MOST_SEARCHES):
        if not waiting or len(found) >= most:
            break
        text = waiting.popleft()
        reply = await got(client, f"{path}?{urlencode({'search': text, 'k': AT_ONCE})}")
        answer = msgspec.json.decode(reply.body, type=_Found)
        ids = [*answer.users, *(item.id for item in answer.items)]
        found |= dict.fromkeys(ids)
        if len(ids) >= AT_ONCE:
            waiting += longer(text, ids)
    return list(found)


def longer(text: str, ids: Sequence[str]) -> list[str]:
    """Searches that tell apart what one search found.

    >>> longer("1", ["1", "1b2"])[-2:]
    ['19', '1b']
    """
    after = {id[len(text)] for id in ids if id.startswith(text) and len(id) > len(text)}
    return [text + character for character in sorted(after | set("0123456789"))]


async def event_form(client: Client, described: Described, users: Sequence[str]) -> EventForm:
    """How an event of this log looks, from the histories of those who are appended to.

    Raises:
        ValueError: they have none.
    """
    columns, latest, last = described.columns, None, None
    for user in users:
        reply = await got(client, f"/v1/users/{quote(user, safe='')}")
        for kept in msgspec.json.decode(reply.body, type=_History).history[-1:]:
            time = kept.event.get(columns.time or "")
            if latest is None or (time is not None and time > last):
                latest, last = kept.event, time
    if latest is None:
        raise ValueError(f"{client.address}: none of the users has an event; append some first")
    return EventForm(latest, columns.item, columns.time, last)


async def lookups_of(client: Client) -> Lookups | None:
    """None where the key may not know: it needs the scope `admin`."""
    try:
        reply = await client.send(client.message("GET", "/metrics"))
    except NoAnswer:
        return None
    told = LOOKUPS.findall(reply.body.decode(errors="replace")) if reply.status == 200 else []
    hits, misses = (sum(float(count) for found, count in told if found == which) for which in ("yes", "no"))
    return Lookups(hits, misses) if told else None
