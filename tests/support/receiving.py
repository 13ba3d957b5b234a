"""Receivers with ctypes, and without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from mcastd.net import arenas


@contextlib.contextmanager
def receiving_with(ctypes: bool, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In the block receivers have a recvmmsg, or do without. Other tests get none of their memory."""
    arenas.pools.clear()
    monkeypatch.setattr(arenas, "HAVE_RECVMMSG", ctypes)
    yield
    arenas.pools.clear()
