"""Tunnels that bring nothing, made for real: see test_gallery.py. The relay is on the other host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.amt_relay import SmallRelay, datagram
from support.gallery import Case, Lab, show
from support.inside import inside
from support.wait import wait_for

from mcastd.protocols import amt

RELAY = "10.6.0.2"
CONFIG = f"""[inbound.news]
group = "232.1.1.1"
port = 5004
via = {{ kind = "amt", relay = "{RELAY}" }}
output = "DIR/news.log"
"""


class Relayed:
    """A relay on the other host that brings a datagram with each look that the test takes."""

    def __init__(self) -> None:
        self.relay: SmallRelay | None = None
        self.brings = True

    @contextlib.contextmanager
    def there(self, lab: Lab) -> Iterator[None]:
        with inside(lab.there):
            self.relay = relay = SmallRelay(RELAY)
        relay.stream = lambda: [datagram(b"news")] if self.brings else []
        lab.talking.clear()
        try:
            yield
        finally:
            relay.close()
            lab.talking.set()

    def tunnel(self, lab: Lab) -> dict[str, Any]:
        link = lab.daemon.worker("inbound/news")["status"]["link"]
        found: dict[str, Any] = link["tunnel"] if link else {}
        return found

    @contextlib.contextmanager
    def changed(self, lab: Lab, **changes: Any) -> Iterator[None]:
        """The relay is another, and forgets this host."""
        relay = self.relay
        assert relay is not None
        relay.answers = changes.get("answers", relay.answers)
        relay.full = changes.get("full", False)
        relay.gateways.clear()
        self.brings = False
        yield
        relay.answers, relay.full, self.brings = (lambda _: True), False, True


def refusing(
    relayed: Relayed, is_made: Callable[[dict[str, Any]], object], **changes: Any
) -> Callable[[Lab], contextlib.AbstractContextManager[None]]:
    """The relay is another, for a tunnel that is new, since its port is."""

    @contextlib.contextmanager
    def fault(lab: Lab) -> Iterator[None]:
        with relayed.changed(lab, **changes):
            lab.reload(CONFIG.replace(" }\n", ", local_port = 4268 }\n", 1))
            wait_for(lambda: (tunnel := relayed.tunnel(lab)) and is_made(tunnel), "what the relay does")
            yield

    return fault


def in_phase(phase: str) -> Callable[[dict[str, Any]], object]:
    return lambda tunnel: tunnel["phase"] == phase and tunnel["unanswered"] >= 3


BY_HAND = "it is the relay's"
AWAY, SILENT, REFUSING, FULL, DRY = (Relayed() for _ in range(5))


@contextlib.contextmanager
def dry(lab: Lab) -> Iterator[None]:
    DRY.brings = False
    yield
    DRY.brings = True


@contextlib.contextmanager
def no_route(lab: Lab) -> Iterator[None]:
    lab.reload(CONFIG.replace(RELAY, "198.51.100.9"))
    wait_for(lambda: AWAY.tunnel(lab).get("hindrance"), "what the kernel says")
    yield


CASES = [
    Case(
        "relay-unreachable",
        "broken",
        CONFIG,
        no_route,
        prepare=AWAY.there,
        by_hand="it is a route of the host's, or an address of the relay's",
    ),
    Case(
        "relay-silent",
        "broken",
        CONFIG,
        refusing(SILENT, in_phase("discovering"), answers=lambda _: False),
        prepare=SILENT.there,
        by_hand=BY_HAND,
    ),
    Case(
        "relay-refuses",
        "broken",
        CONFIG,
        refusing(
            REFUSING,
            in_phase("requesting"),
            answers=lambda message: isinstance(message, amt.RelayDiscovery),
        ),
        prepare=REFUSING.there,
        by_hand=BY_HAND,
    ),
    Case(
        "relay-full",
        "broken",
        CONFIG,
        refusing(FULL, lambda tunnel: tunnel["full"], full=True),
        prepare=FULL.there,
        by_hand=BY_HAND,
    ),
    Case("tunnel-dry", "warning", CONFIG, dry, prepare=DRY.there, by_hand=BY_HAND),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_keeps_a_tunnel_from_bringing_anything_is_named(
    case: Case, lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    show(case, lab, tmp_path, record_property)
