"""The receiver's own figures, in the format of Prometheus."""

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from responder.store import Store

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Figures:
    """What this process has answered, and how the store stands when it is asked."""

    def __init__(self, store: Store) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter(
            "incident_requests", "Requests answered.", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "incident_request_seconds", "Until the answer.", ("route",), buckets=BUCKETS, registry=self.registry
        )
        self.registry.register(_Backlog(store))


class Counted:
    """Counts each answer by its route (never by the path, of which there is no end) and status."""

    def __init__(self, app: ASGIApp, figures: Figures) -> None:
        self._app, self._figures = app, figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, seen)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._figures.answers.labels(route, str(status)).inc()
            self._figures.seconds.labels(route).observe(time.perf_counter() - began)


class _Backlog(Collector):
    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterable[Metric]:
        count, oldest_s = self._store.backlog()
        yield GaugeMetricFamily("incident_receipts_waiting", "Alerts about which nothing is decided yet.", count)
        yield GaugeMetricFamily("incident_receipts_oldest_seconds", "How long the oldest of them waits.", oldest_s)
        alive = self._store.keeper_alive()
        yield GaugeMetricFamily("incident_keeper_alive", "Whether a keeper was seen lately.", int(alive))
