"""The application: which path is answered by what. What each part does is in its own module."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from shortlist.errors import MissingExtraError

try:
    from fastapi import FastAPI
except ImportError as error:
    raise MissingExtraError("fastapi", "gateway") from error
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from shortlist.events.transport import open_sink
from shortlist.gateway.audit import Audit
from shortlist.gateway.documents import describe
from shortlist.gateway.gate import Gate
from shortlist.gateway.guard import Guard
from shortlist.gateway.intake import Intake
from shortlist.gateway.keys import ADMIN
from shortlist.gateway.live import Changes, Live
from shortlist.gateway.metrics import CONTENT_TYPE, Metrics
from shortlist.gateway.pages import Pages
from shortlist.gateway.people import People
from shortlist.gateway.recommend import Recommender
from shortlist.gateway.refusals import HttpError, answer, on_anything, on_http, on_problem
from shortlist.gateway.settings import Settings
from shortlist.gateway.standby import Standby
from shortlist.serving.client import AsyncClient


def create_app(settings: Settings) -> FastAPI:
    """The gateway as an ASGI application. It opens the log of events at once, Triton and the store when it is started.

    Raises ConfigError for settings that do not go together or files that cannot be used, TransportError for a log that
    somebody else writes.
    """
    settings.check()
    metrics = Metrics()
    gate, audit = Gate(settings, metrics), Audit(settings.audit, metrics)
    people = People(settings.profiles, gate, metrics) if settings.profiles else None
    changes = Changes(people, metrics) if people else None
    recommender = Recommender(gate, Standby(people.store, metrics) if people else None, metrics)
    live = Live(gate, recommender, people, changes, dict(settings.titles), metrics)
    intake = Intake(gate, open_sink(settings.events, settings.kafka) if settings.events else None, metrics)
    metrics.gauge("shortlist_gateway_live", "WebSockets open now", lambda: len(changes) if changes else 0)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.callback(audit.close)
            stack.push_async_callback(intake.close)
            if people and changes:
                stack.push_async_callback(people.close)
                stack.push_async_callback(changes.close)
            recommender.client = await stack.enter_async_context(AsyncClient(settings.grpc, tls=settings.grpc_tls))
            yield

    app = FastAPI(title="Shortlist gateway", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_exception_handler(HttpError, on_problem)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_anything)
    app.add_api_route("/v1/recommend", recommender.post, methods=["POST"])
    app.add_api_route("/v1/events", intake.post, methods=["POST"])
    if people:
        app.add_api_route("/v1/profile/{user:path}", people.get)
    app.add_api_websocket_route("/v1/live", live.socket)
    _add_rest(app, gate, metrics)
    describe(app)
    if settings.origins:
        headers = ["authorization", "content-type"]
        app.add_middleware(CORSMiddleware, allow_origins=settings.origins, allow_methods=["*"], allow_headers=headers)
    app.add_middleware(Guard, settings=settings, metrics=metrics, audit=audit)
    return app


def _add_rest(app: FastAPI, gate: Gate, metrics: Metrics) -> None:
    """Health, metrics and the files for browsers."""

    async def healthz(_: Request) -> Response:
        """Whether the gateway runs; whether Triton does, its own metrics say."""
        return answer({"status": "ok"})

    async def show_metrics(request: Request) -> Response:
        """The gateway's metrics, for Prometheus."""
        gate.admit(request, ADMIN)
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    pages = Pages()
    app.add_api_route("/healthz", healthz)
    app.add_api_route("/metrics", show_metrics)
    hidden: dict[str, Callable[..., Any]] = {
        "/": pages.home,
        "/docs": pages.docs,
        "/tracker.js": pages.tracker,
        "/static/{name}": pages.static,
    }
    for path, handler in hidden.items():
        app.add_api_route(path, handler, include_in_schema=False)
