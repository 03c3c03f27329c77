"""What Prometheus reads: requests by route and status, their durations, and how full the inference threads are."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voicevault.service.limits import Inference
from voicevault.service.problems import responses
from voicevault.vault import Vault

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
router = APIRouter(tags=["health"])


class Metrics:
    """The numbers of one application, in a registry of its own."""

    def __init__(self, inference: Inference, vault: Vault) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self.requests = Counter(
            "voicevault_http_requests", "Requests answered.", labels, registry=self.registry
        )
        self.seconds = Histogram(
            "voicevault_http_request_seconds",
            "Time to the end of the answer, the upload included.",
            ("method", "route"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        for name, help, value in (
            ("running", "Inferences under way.", lambda: inference.running),
            ("places_taken", "Recordings that run, wait or are being uploaded.", lambda: inference.taken),
            ("places", "Recordings that may.", lambda: inference.places),
            ("held_bytes", "Bytes of recordings in memory.", lambda: inference.held),
        ):
            Gauge(f"voicevault_inference_{name}", help, registry=self.registry).set_function(value)
        Gauge(
            "voicevault_index_rebuilds",
            "Indexes read from the database since the start: their file was missing, damaged or of another past.",
            registry=self.registry,
        ).set_function(lambda: vault.index_rebuilds)


class Measured:
    """ASGI middleware that counts. Paths are counted by their route: speaker ids never become labels."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sender)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"] if scope["method"] in KNOWN_METHODS else "other"
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.seconds.labels(method, route).observe(time.perf_counter() - start)


KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses=responses() | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(request: Request) -> Response:
    """Requests by route and status, durations, and how full the inference threads are."""
    found: Metrics = request.app.state.metrics
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)
