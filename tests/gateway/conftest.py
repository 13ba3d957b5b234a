"""Gateways that are closed when a test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.gateway import Gateway


@pytest.fixture
def gateway(no_fd_leak: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Gateway]]:
    # A player that closes its socket has closed one direction, as far as it shows.
    monkeypatch.setattr("mcastd.gateway.player.HALF_CLOSED_SECONDS", 0.05)
    made: list[Gateway] = []

    def make(**settings: Any) -> Gateway:
        made.append(Gateway(**settings))
        return made[-1]

    yield make
    for one in made:
        one.close()
