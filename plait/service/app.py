"""The routes."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plait.service.asking import Answered
from plait.service.examples import EXAMPLES
from plait.service.keys import Scope as KeyScope
from plait.service.keys import holder
from plait.service.models import Served
from plait.service.page_routes import PAGE, add_page, is_of_page
from plait.service.problems import Problem
from plait.service.rows import unpacked
from plait.service.service import Service, schema_of, unavailable
from plait.service.settings import LOOPBACK
from plait.service.wire import (
    AppendRequest,
    InterestsRequest,
    QueryRequest,
    RetrieveRequest,
    ScoreRequest,
    WhyRequest,
    decoded,
)
from plait.store.history import MOST_ID_BYTES, StoreUnavailable

DEADLINE, REQUEST_ID = "plait-deadline-ms", "plait-request-id"
MOST_NAME = 512  # letters of a model's name
PROBLEM_TYPE = "application/problem+json"
OPEN = "/healthz", "/readyz"
QUESTIONS = "/v1/retrieve", "/v1/score", "/v1/why", "/v1/query", "/v1/interests"
SAFE_HEADERS = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
BODIES: dict[str, type] = {
    "/v1/events": AppendRequest,
    "/v1/retrieve": RetrieveRequest,
    "/v1/score": ScoreRequest,
    "/v1/why": WhyRequest,
    "/v1/query": QueryRequest,
    "/v1/interests": InterestsRequest,
}


def app_of(service: Service) -> ASGIApp:
    """The service as an ASGI application."""
    app = FastAPI(title="Plait", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _query_problem)
    app.add_exception_handler(Exception, _our_mistake)
    _add_questions(app, service)
    _add_users(app, service)
    _add_operations(app, service)
    add_page(app, service)
    return _Guarded(app, service)


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/events", summary="Append events of users; answered when they are safe")
    async def events(request: Request) -> Response:
        asked = decoded(await _body(request, service), AppendRequest)
        outcomes = await service.append(asked)
        if service.answer_log is not None:
            service.answer_log.stored(asked.events, outcomes)
        done = [
            {"id": sent.id, "status": status} for sent, status in zip(asked.events, outcomes, strict=True)
        ]
        return _json({"events": done})

    @app.post("/v1/retrieve", summary="The items most likely to come next")
    async def retrieve(request: Request) -> Response:
        return await _answer(request, RetrieveRequest)

    @app.post("/v1/score", summary="What a user is expected to do with given items")
    async def score(request: Request) -> Response:
        return await _answer(request, ScoreRequest)

    @app.post("/v1/why", summary="What the token that answers attends to in the history")
    async def why(request: Request) -> Response:
        return await _answer(request, WhyRequest)

    @app.post("/v1/query", summary="The items most likely to come next, under each of some conditions")
    async def query(request: Request) -> Response:
        return await _answer(request, QueryRequest)

    @app.post(
        "/v1/interests", summary="A user's interest under each of some conditions, for a ranker to read"
    )
    async def interests(request: Request) -> Response:
        return await _answer(request, InterestsRequest)

    async def _answer(request: Request, kind: type[Any]) -> Response:
        asked = decoded(await _body(request, service), kind)
        answered = await service.answer(asked, request.state.deadline_s, request.state.request_id)
        if service.answer_log is not None:
            service.answer_log.answered(request.state.request_id, asked, answered)
        response = _json({"request_id": request.state.request_id, **answered.found})
        response.headers["server-timing"] = server_timing(answered)
        return response


def _add_users(app: FastAPI, service: Service) -> None:
    @app.get("/v1/users/{user:path}", summary="A user's history as it is kept")
    async def user_of(user: str) -> Response:
        kept = await _stored(service.history, user)
        if kept is None:
            raise Problem(404, "unknown user", "nothing is known of this user; append events first")
        history = [{"id": event.id, "event": unpacked(event.content)} for event in kept.events]
        return _json({"user": kept.head.user, "before": kept.head.before, "history": history})

    @app.delete("/v1/users/{user:path}", summary="Forget a user wholly")
    async def forget(user: str) -> Response:
        if not await _stored(service.forget, user):
            raise Problem(404, "unknown user", "nothing is known of this user")
        return Response(status_code=204)

    async def _stored(ask: Callable[[str], Awaitable[Any]], user: str) -> Any:
        if user.startswith("\0") or not 0 < len(user.encode()) <= MOST_ID_BYTES:
            raise Problem(404, "unknown user", f"no user is called so; ids have 1 to {MOST_ID_BYTES} bytes")
        try:
            return await ask(user)
        except StoreUnavailable as error:
            raise unavailable(error) from error


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", summary="What is served, and what it can")
    async def models() -> Response:
        return _json({"models": [_described(service, served) for served in service.served.values()]})

    @app.post("/v1/models/reload", summary="Take the versions that lie in the runs' folders now")
    async def reload(model: str | None = Query(None, max_length=MOST_NAME)) -> Response:
        return _json({"models": await asyncio.to_thread(service.reload, model)})

    @app.get("/healthz", summary="Whether the process answers")
    async def health() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz", summary="Whether it takes questions")
    async def ready() -> Response:
        if not service.is_ready:
            raise Problem(503, "not ready", "the service is starting or going down")
        return _json({"status": "ready"})

    @app.get("/metrics", summary="For Prometheus")
    async def metrics() -> Response:
        counters = service.counters
        counters.waiting.set(service.asking.num_waiting)
        for name, served in service.served.items():
            states = served.deployed.states
            counters.states.labels(name).set(len(states))
            counters.state_bytes.labels(name).set(states.nbytes)
            for found, number in (("yes", states.hits), ("no", states.misses)):
                counters.lookups.labels(name, found).set(number)
        return Response(counters.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json", summary="This interface")
    async def openapi() -> Response:
        return _json(described_interface(app))


def described_interface(app: FastAPI) -> dict[str, Any]:
    """OpenAPI of the routes, with the schemas of their bodies and the examples that the tests send."""
    found = app.openapi()
    refs, components = schema_of(list(BODIES.values()), "#/components/schemas/{name}")
    for (path, _), ref in zip(BODIES.items(), refs, strict=True):
        content = {
            "schema": ref,
            "examples": {name: {"value": value} for name, value in EXAMPLES[path].items()},
        }
        found["paths"][path]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": content},
        }
    problem = {
        "description": "A problem of RFC 9457",
        "content": {PROBLEM_TYPE: {"schema": {"type": "object"}}},
    }
    for operations in found["paths"].values():
        for operation in operations.values():
            operation["responses"] = {"200": {"description": "The answer"}, "default": problem}
    found["components"] = {"schemas": components}
    return found


def _described(service: Service, served: Served) -> dict[str, Any]:
    deployed = served.deployed
    config = deployed.recommender.model.config
    return {
        "model": deployed.name,
        "share": dict(service.traffic.split.share).get(deployed.name, 0.0),
        "is_shadow": service.traffic.shadow == deployed.name,
        "version": deployed.version,
        "layout": config.layout,
        "items": config.num_items,
        "actions": [action.name for action in config.actions],
        "can_retrieve": deployed.can_retrieve,
        "can_score": deployed.can_score,
        "conditions": [feature.name for feature in config.conditions] if deployed.answers_conditions else [],
        "reads_condition": deployed.reads_condition,
        "reads_interests": deployed.reads_interests,
        "told_by": service.telling.teller_name(deployed.name),
        "window": [config.max_events, config.window_step],
        "columns": {"user": deployed.recommender.columns.user, "item": deployed.recommender.columns.item,
                    "time": deployed.recommender.columns.time},
    }  # fmt: skip


def server_timing(answered: Answered) -> str:
    """The header `Server-Timing` (W3C), in milliseconds.

    >>> server_timing(Answered({}, waited_s=0.00125, model_s=0.02))
    'queue;dur=1.250, model;dur=20.000'
    """
    return f"queue;dur={answered.waited_s * 1e3:.3f}, model;dur={answered.model_s * 1e3:.3f}"


async def _body(request: Request, service: Service) -> bytes:
    """
    Raises:
        Problem: it is too large, or no JSON.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "wrong content type", "send application/json")
    most, parts, size = int(service.settings.most_body_mb * 1e6), [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Problem(
                413, "body too large", f"the body has more than {most:,} bytes; send less at a time"
            )
        parts.append(part)
    return b"".join(parts)


def _deadline_s(request: Request, service: Service) -> float:
    """On `time.monotonic`'s clock: the request's budget from its arrival on. Raises Problem where it is no number."""
    given = request.headers.get(DEADLINE)
    budget_ms = service.settings.deadline_ms
    if given is not None:
        try:
            budget_ms = float(given)
        except ValueError:
            budget_ms = -1.0
        if not 0 < budget_ms <= 600_000:
            raise Problem(
                422, "wrong deadline", f"the header {DEADLINE} holds no number from above 0 to 600000"
            )
    return float(request.state.arrived_s) + budget_ms / 1e3


def _json(value: Any, status: int = 200) -> Response:
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, media_type="application/json")


def _response(problem: Problem) -> Response:
    return Response(orjson.dumps(problem.body), problem.status, problem.headers, media_type=PROBLEM_TYPE)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _response(error)


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: "no such route", 405: "no such method"}.get(error.status_code, "refused")
    headers = {"Allow": _allowed(request)} if error.status_code == 405 else {}
    return _response(Problem(error.status_code, what, "see /openapi.json for what can be asked", headers))


def _allowed(request: Request) -> str:
    """The methods of a path, whose routes are one for each."""
    found = [route for route in request.app.routes if isinstance(route, Route)]
    methods = {m for route in found if route.path_regex.match(request.url.path) for m in route.methods or ()}
    return ", ".join(sorted(methods))


async def _query_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    names = sorted({str(its["loc"][-1]) for its in error.errors() if its["loc"][0] == "query"})
    return _response(Problem(422, "wrong query", f"see /openapi.json for what {', '.join(names)} may be"))


async def _our_mistake(request: Request, error: Exception) -> Response:
    return _response(Problem(500, "our mistake", "the service failed; its log says where"))


class _Guarded:
    """Before the routes: who may ask, how often; after them: safe headers, and what is counted."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self._buckets: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        arrived_s, status = time.monotonic(), 500
        request = Request(scope)
        request_id = request.headers.get(REQUEST_ID, "")
        if not (0 < len(request_id) <= 64 and request_id.isascii() and request_id.replace("-", "").isalnum()):
            request_id = uuid.uuid4().hex
        scope.setdefault("state", {}).update(arrived_s=arrived_s, request_id=request_id)

        async def send_safely(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(header for header in SAFE_HEADERS if header[0] not in own),
                    (REQUEST_ID.encode(), request_id.encode()),
                ]
            await send(message)

        route = _route(scope["path"])
        try:
            self._check(request, route)
            await self.app(scope, receive, send_safely)
        except Problem as problem:
            await _response(problem)(scope, receive, send_safely)
        finally:
            self.service.counters.requests.labels(route, str(status)).inc()
            self.service.counters.latency.labels(route).observe(time.monotonic() - arrived_s)

    def _check(self, request: Request, route: str) -> None:
        """Raises Problem where the request may not be answered."""
        if route in OPEN or (
            route == PAGE and self.service.keys
        ):  # a browser opens it, and then asks for a key
            return
        if route in QUESTIONS:  # before its body is read
            request.state.deadline_s = _deadline_s(request, self.service)
            self.service.asking.check_has_room(request.state.deadline_s)
        if not self.service.keys:
            host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
            if host.strip("[]") not in LOOPBACK:
                raise Problem(
                    403, "wrong host", "without keys, only this machine may ask, as 127.0.0.1 or localhost"
                )
            if route != PAGE:
                self._check_rate("")
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        found = holder(self.service.keys, given.strip()) if kind.lower() == "bearer" else None
        if found is None:
            raise Problem(
                401, "no key", "give a key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
            )
        needed = scope_of(route, request.method)
        if needed not in found.scopes:
            raise Problem(403, "key without scope", f"the key may not do this; it needs the scope {needed}")
        self._check_rate(found.name)

    def _check_rate(self, name: str) -> None:
        """A bucket for each key, which holds the requests of one second."""
        rate = self.service.settings.most_per_s
        if not rate:
            return
        now_s = time.monotonic()
        left, last_s = self._buckets.get(name, (max(1.0, rate), now_s))
        left = min(max(1.0, rate), left + rate * (now_s - last_s))
        if left < 1:
            raise Problem(429, "too many requests", "the key asks too often; slow down", {"Retry-After": "1"})
        self._buckets[name] = (left - 1, now_s)


def _route(path: str) -> str:
    """A path as it is counted: users are not named."""
    for route in (
        "/v1/events",
        *QUESTIONS,
        "/v1/items",
        "/v1/conditions",
        "/v1/layout",
        "/v1/comparison",
        "/v1/models",
        "/v1/models/reload",
        "/metrics",
        *OPEN,
    ):
        if path == route:
            return route
    if is_of_page(path):
        return PAGE
    return (
        "/v1/users"
        if path.startswith("/v1/users/") or path == "/v1/users"
        else "/openapi.json"
        if path == "/openapi.json"
        else "other"
    )


def scope_of(route: str, method: str) -> KeyScope:
    """What a key must be allowed.

    >>> scope_of("/v1/score", "POST"), scope_of("/v1/users", "DELETE"), scope_of("/v1/models/reload", "POST")
    ('ask', 'users', 'admin')
    """
    if route == "/v1/events":
        return "append"
    if route == "/v1/users":
        return "users"
    return "admin" if route in ("/v1/models/reload", "/metrics") else "ask"
