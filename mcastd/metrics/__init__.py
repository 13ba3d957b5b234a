"""Metrics for Prometheus: what the workers have counted, nothing counted twice, served over HTTP."""

from mcastd.metrics.server import MetricsServer

__all__ = ["MetricsServer"]
