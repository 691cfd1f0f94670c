"""Counts and times for Prometheus; a registry per service, so that tests and processes share nothing."""

from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from trainer.service.export import CurrentExport

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods that are counted by name. Clients may invent others, and each would be a series of its own."""


class Metrics:
    """What the service tells Prometheus."""

    def __init__(self, current: CurrentExport, overdue: Callable[[], int]) -> None:
        disable_created_metrics()  # a second series for each, which nobody asks for
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "shardtower_requests",
            "Requests that were answered",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "shardtower_request_seconds",
            "Seconds from the request's headers to the end of its answer",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("shardtower_requests_in_flight", "Requests in work", registry=self.registry)
        overdue_gauge = Gauge(
            "shardtower_computations_overdue",
            "Computations that still run although their request has been given up",
            registry=self.registry,
        )
        overdue_gauge.set_function(overdue)
        self.registry.register(_OfExport(current))
        ProcessCollector(registry=self.registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self.requests.labels(method if method in METHODS else "other", route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _OfExport(Collector):
    """The export that is served; read when Prometheus asks, so that a swap leaves no old series behind."""

    def __init__(self, current: CurrentExport) -> None:
        self._current = current

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        export = self._current.export
        info = GaugeMetricFamily(
            "shardtower_export_info", "The export that is served", labels=("name", "hash", "step")
        )
        info.add_metric((export.name, export.hash, "" if export.step is None else str(export.step)), 1)
        yield info
        yield GaugeMetricFamily(
            "shardtower_export_opened_timestamp_seconds", "When it was opened", value=export.opened
        )
        yield CounterMetricFamily(
            "shardtower_export_swaps", "Exports that took the place of another", value=self._current.swaps
        )
        yield CounterMetricFamily(
            "shardtower_export_refused", "New exports that were refused", value=self._current.refusals
        )
        yield GaugeMetricFamily(
            "shardtower_export_stale",
            "1 where the folder holds an export that was refused",
            value=int(self._current.refused is not None),
        )
