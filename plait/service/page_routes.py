"""The page, and what it alone asks for: the catalogue, users, the layout, and the comparison that a run lies in.

The files of the page are open, as they hold nothing of anybody. All that they ask for needs a key where there are keys.
"""

import asyncio
from functools import cache
from importlib.resources import files
from typing import Any

import orjson
from fastapi import FastAPI, Query, Response

from plait.layouts import audit, draw
from plait.layouts.notation import Layout
from plait.schema import Categories, Category, Feature, Number
from plait.service.catalogue import MOST_FOUND, Catalogues
from plait.service.comparison import comparison_of, report_of, summary_of
from plait.service.problems import Problem
from plait.service.service import Service, unavailable
from plait.store.history import StoreUnavailable

PAGE, FOLDER, INDEX = "/page", "/page/", "index.html"
MOST_TEXT, MOST_LOOKED_AT = 200, 200
MOST_NAMED = 100  # ids in one address
MOST_VALUES = 1_000  # of a condition, to choose from
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
# A report has its script and style inside. Sandboxed, it is of no origin, so it can ask this service nothing.
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def is_of_page(path: str) -> bool:
    """
    >>> is_of_page("/"), is_of_page("/page/app.js"), is_of_page("/v1/items")
    (True, True, False)
    """
    return path == "/" or path.startswith(FOLDER)


@cache
def page_files() -> dict[str, bytes]:
    """The files of the page by name, as they lie in the package."""
    lying = (files("plait.service") / "page").iterdir()
    return {file.name: file.read_bytes() for file in lying if file.is_file()}


def add_page(app: FastAPI, service: Service) -> None:
    """The routes."""
    _add_files(app)
    _add_lookups(app, service)
    _add_comparison(app, service)


def _add_files(app: FastAPI) -> None:
    @app.get("/", summary="The page", include_in_schema=False)
    async def index() -> Response:
        return _file(INDEX)

    @app.get("/page/{name}", summary="A file of the page", include_in_schema=False)
    async def file(name: str) -> Response:
        return _file(name)


def _add_lookups(app: FastAPI, service: Service) -> None:
    catalogues = Catalogues(service)

    @app.get(
        "/v1/items", summary="Items whose id or title holds a text, the very id first; or those of given ids"
    )
    async def items(
        search: str = Query("", max_length=MOST_TEXT),
        k: int = Query(20, ge=1, le=MOST_FOUND),
        id: list[str] = Query([], max_length=MOST_NAMED),
        model: str | None = Query(None, max_length=MOST_TEXT),
    ) -> Response:
        found = await asyncio.to_thread(lambda: catalogues.of(model).found(search, k, id))
        return _json({"items": found})

    @app.get(
        "/v1/users",
        summary="Some users of the prepared data who have a history, by the beginning of their ids",
    )
    async def users(
        search: str = Query("", max_length=MOST_TEXT), k: int = Query(10, ge=1, le=MOST_FOUND)
    ) -> Response:
        return _json({"users": await asyncio.to_thread(_users, service, search, k)})

    @app.get("/v1/conditions", summary="What a model is asked under, and the values that it knows")
    async def conditions(model: str | None = Query(None, max_length=MOST_TEXT)) -> Response:
        config = service.of(model).deployed.recommender.model.config
        return _json({"conditions": [condition_said(feature) for feature in config.conditions]})

    @app.get("/v1/layout", summary="The layout: its tokens, who sees whom, and its audit")
    async def layout(model: str | None = Query(None, max_length=MOST_TEXT)) -> Response:
        return _json(_drawn(service.of(model).deployed.recommender.model.layout))


def _add_comparison(app: FastAPI, service: Service) -> None:
    folder = comparison_of(service.first.model.folder)

    @app.get("/v1/comparison", summary="What the comparison found that the run lies in")
    async def comparison() -> Response:
        return _json(await asyncio.to_thread(summary_of, folder))

    @app.get("/v1/comparison/report.html", summary="The whole report of that comparison")
    async def report() -> Response:
        found = await asyncio.to_thread(report_of, folder)
        return Response(found, media_type=KINDS[".html"], headers={"content-security-policy": REPORT_POLICY})


def _file(name: str) -> Response:
    found = page_files().get(name)
    if found is None:
        raise Problem(404, "no such file", "the page has no such file; it begins at /")
    kind = KINDS["." + name.rpartition(".")[2]]
    return Response(found, media_type=kind, headers={"content-security-policy": PAGE_POLICY})


def _users(service: Service, search: str, most: int) -> list[str]:
    """Nobody who was deleted is among them."""
    dataset = service.first.model.dataset
    if dataset is None:
        return []
    ids = dataset.user_ids().cast(str)
    begin = ids.filter(ids.str.starts_with(search)).head(MOST_LOOKED_AT).to_list()
    found: list[str] = []
    try:
        for id in begin:
            head = service.store.head(id) if len(found) < most else None
            if head is not None and head.count:
                found.append(id)
    except StoreUnavailable as error:
        raise unavailable(error) from error
    return found


def condition_said(feature: Feature) -> dict[str, Any]:
    """Its name, its kind, some of the values that training events have, and how many more there are.

    >>> condition_said(Feature("scenario", Category(("home", "search"))))
    {'name': 'scenario', 'kind': 'category', 'values': ('home', 'search'), 'more': 0}
    """
    values = feature.kind.values if isinstance(feature.kind, Category | Categories) else ()
    kind = "number" if isinstance(feature.kind, Number) else "category"
    shown = values[:MOST_VALUES]
    return {"name": feature.name, "kind": kind, "values": shown, "more": len(values) - len(shown)}


def _drawn(layout: Layout) -> dict[str, Any]:
    verdict = audit(layout)
    return {
        "layout": str(layout),
        "tokens": draw.token_labels(layout),
        "predicts": draw.predicted_of(layout),
        "mask": ["".join("1" if sees else "0" for sees in row) for row in draw.mask_of(layout)],
        "audit": {
            "P1 information": verdict.information,
            "P2 action given item": verdict.conditioning,
            "P3 no leak": "; ".join(verdict.leaks) or "no target can be read from what its token sees",
            "retrieves": "yes" if verdict.can_retrieve else "no: it predicts no item",
            "scores a candidate": verdict.can_score
            if verdict.can_score != "no"
            else f"no: {verdict.why_not_score}",
            "tokens per event": str(verdict.tokens_per_event),
        },
    }


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
