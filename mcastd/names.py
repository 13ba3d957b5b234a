"""The full name of a worker: its table in the configuration and its name there, as in ``inbound/news``."""

from __future__ import annotations


def table_of(worker: str) -> str:
    return worker.partition("/")[0]


def short_name(worker: str) -> str:
    return worker.partition("/")[2]


def as_table(worker: str) -> str:
    """``inbound.news``: as its table is called in the configuration."""
    return worker.replace("/", ".", 1)


def is_meant(worker: str, name: str) -> bool:
    """Return True if ``name``, as a person gives it, means this worker: its full name, or its short one."""
    return name in (worker, short_name(worker))
