"""A service of a tiny model, and requests to it without a network."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
from tiny import model_of

import plait
from plait.data import Dataset
from plait.data.history import columns_read
from plait.layouts import resolve
from plait.recommender import Recommender
from plait.schema import Action, Regression
from plait.service.app import app_of
from plait.service.deployed import Deployed
from plait.service.fallback import Fallback
from plait.service.models import Model
from plait.service.service import Service, seed
from plait.service.settings import ServiceSettings
from plait.store.history import Retention, Store
from plait.store.lmdb_store import LmdbStore

RATING = (Action("rating", Regression(1, 5)),)
MANY_MS = {"plait-deadline-ms": "60000"}  # tests on a busy machine are about something else


def served_log(num_users: int = 9, seed: int = 5) -> pl.DataFrame:
    """Users 190, 191, ..., 17 items from 242 to 302, one event a minute, half the ratings missing."""
    rng = np.random.default_rng(seed)
    items = np.array([242, *range(280, 295), 302])
    length_U = rng.integers(6, 16, num_users)
    num_events = int(length_U.sum())
    return pl.DataFrame(
        {
            "user_id": np.repeat(190 + np.arange(num_users), length_U),
            "item_id": np.concatenate([items, rng.choice(items, num_events - len(items))]),
            "timestamp": 1_500_000_000 + 60 * np.arange(num_events),
            "rating": np.where(rng.random(num_events) < 0.5, rng.integers(1, 6, num_events), np.nan),
        }
    ).with_columns(pl.col("rating").fill_nan(None))


def prepared_log(folder: Path) -> Dataset:
    return plait.prepare(
        served_log(),
        user="user_id",
        item="item_id",
        time="timestamp",
        actions=list(RATING),
        out=folder / "data",
        min_item_events=1,
    )


def recommender_of(data: Dataset, layout: Any = "lac", scale: float = 1.0, **settings: Any) -> Recommender:
    """Weights as drawn; `scale` makes another version of them."""
    settings = {"max_events": 5, "window_step": 3, **settings}
    layout = resolve(layout) if isinstance(layout, str) else layout
    model = model_of(layout, actions=data.actions, **settings)
    for parameter in model.parameters():
        parameter.data.mul_(scale)
    return Recommender(model, data.items, columns_read(data))


def service_of(
    folder: Path,
    data: Dataset,
    recommender: Recommender | None = None,
    store: Store | None = None,
    **settings: Any,
) -> Service:
    """A service whose store has the data's histories."""
    recommender = recommender or recommender_of(data)
    if not (folder / "model").exists():
        recommender.save_pretrained(folder / "model")
    keeping = store or LmdbStore(folder / "store", "process", Retention())
    seed(keeping, data, recommender)
    return Service([Model("lac", folder / "model", data, "cpu")], keeping, ServiceSettings(**settings))


def deployed_of(folder: Path, data: Dataset, layout: Any, retention: Retention = Retention()) -> Deployed:
    recommender = recommender_of(data, layout)
    store = LmdbStore(folder / "store", "process", retention)
    seed(store, data, recommender)
    return Deployed("m", "v", recommender, store, Fallback.of(data, recommender), 10_000_000)


def ask(
    service: Service,
    path: str,
    body: Any = None,
    *,
    method: str = "POST",
    headers: Mapping[str, str] = MANY_MS,
    content: bytes | None = None,
) -> httpx.Response:
    """One request."""

    async def once() -> httpx.Response:
        async with client_of(service) as client:
            return await asked(client, path, body, method=method, headers=headers, content=content)

    return asyncio.run(once())


def client_of(service: Service) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app_of(service), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)


async def asked(
    client: httpx.AsyncClient,
    path: str,
    body: Any = None,
    *,
    method: str = "POST",
    headers: Mapping[str, str] = MANY_MS,
    content: bytes | None = None,
) -> httpx.Response:
    if content is not None:
        headers = {"content-type": "application/json", **headers}
        return await client.request(method, path, content=content, headers=headers)
    return await client.request(method, path, json=body, headers=headers)


def rating_event(
    id: str, user: Any, item: Any = 242, time: Any = 1_600_000_000, **columns: Any
) -> dict[str, Any]:
    return {"id": id, "user": user, "event": {"item_id": item, "timestamp": time, **columns}}
