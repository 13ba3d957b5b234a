"""The Prometheus endpoint: a collector over the workers' own counters; nothing is counted twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from mcastd import __version__
from mcastd.worker import WorkerView

Views = Callable[[], Sequence[WorkerView]]

COUNTERS = {  # key of a worker's counters: what it counts
    "sent": ("mcastd_sent_datagrams", "Datagrams that the kernel took"),
    "sent_bytes": ("mcastd_sent_bytes", "Payload that the kernel took"),
    "refused": ("mcastd_refused_datagrams", "Times that the kernel refused a datagram, by errno"),
    "received": ("mcastd_received_datagrams", "Datagrams received"),
    "received_bytes": ("mcastd_received_bytes", "Payload received"),
    "overflow": ("mcastd_overflow_datagrams", "Datagrams that the kernel dropped at a full receive buffer"),
    "truncated": ("mcastd_truncated_datagrams", "Datagrams cut because they were longer than a receive slot"),
    "written": ("mcastd_written_datagrams", "Datagrams written to an output"),
    "written_bytes": ("mcastd_written_bytes", "Bytes written to an output, framing included"),
    "dropped": ("mcastd_dropped_datagrams", "Datagrams given up, by reason"),
    "late": ("mcastd_late_datagrams", "Datagrams sent after their pacing deadline"),
    "lines_split": ("mcastd_split_lines", "Lines longer than max_datagram, sent as several datagrams"),
}


class MetricsServer:
    """Serves ``GET /metrics`` on ``address`` ("HOST:PORT") until closed. Raises OSError if it cannot."""

    def __init__(self, address: str, views: Views) -> None:
        host, _, port = address.rpartition(":")
        registry = CollectorRegistry()
        registry.register(WorkerCollector(views))
        self._server, self._thread = start_http_server(int(port), host.strip("[]"), registry)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class WorkerCollector(Collector):
    """Reads the counters when asked. Labels are bounded: none of their values comes from the network."""

    def __init__(self, views: Views) -> None:
        self._views = views

    def collect(self) -> Iterable[Metric]:
        views = self._views()
        yield InfoMetricFamily("mcastd_build", "What runs", {"version": __version__})
        states = GaugeMetricFamily(
            "mcastd_worker_state", "1 for the state that it is in", labels=["worker", "state"]
        )
        restarts = CounterMetricFamily("mcastd_worker_restarts", "Runs that failed", labels=["worker"])
        for view in views:
            states.add_metric([view.name, view.state], 1)
            restarts.add_metric([view.name], view.restarts)
        yield from (states, restarts)
        yield from self._counters(views)

    def _counters(self, views: Sequence[WorkerView]) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily] = {}
        for view in views:
            for output, counters in _counters_of(view.status):
                for key, value in counters.items():
                    if key not in COUNTERS:
                        continue
                    name, documentation = COUNTERS[key]
                    by_reason = isinstance(value, Mapping)
                    labels = ["worker", "output", "reason"] if by_reason else ["worker", "output"]
                    family = families.setdefault(key, CounterMetricFamily(name, documentation, labels=labels))
                    for reasons, count in (
                        [([r], n) for r, n in value.items()] if by_reason else [([], value)]
                    ):
                        family.add_metric([view.name, output, *reasons], count)
        yield from families.values()


def _counters_of(status: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A worker's own counters (no output), then those of each of its outputs (labelled by path)."""
    yield "", status.get("counters", {})
    for output in status.get("outputs", ()):
        yield str(output.get("path", "")), output.get("counters", {})
