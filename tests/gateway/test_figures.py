"""What the manual says in figures is what the gateway does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcastd.config import GatewaySettings
from mcastd.gateway.pages import REFRESH_SECONDS
from mcastd.gateway.player import HALF_CLOSED_SECONDS, REQUEST_SECONDS
from mcastd.gateway.players import ASKING_MAX
from mcastd.gateway.stream_start import WAIT_MAX_SECONDS
from mcastd.protocols.http_request import HEAD_MAX_BYTES

MANUAL = " ".join((Path(__file__).parents[2] / "docs" / "CONFIGURATION.md").read_text().split())
DEFAULTS = {key: field.default for key, field in GatewaySettings.model_fields.items()}


@pytest.mark.parametrize(
    "said",
    [
        f"with a head of {HEAD_MAX_BYTES >> 10} KiB at most, within {REQUEST_SECONDS:.0f} s",
        f"something at least every {HALF_CLOSED_SECONDS:.0f} s",
        f"Connections that do not ask cost nothing: {ASKING_MAX} are kept",
        f"which a browser has anew each {REFRESH_SECONDS} s",
        f"without one within {'a second' if WAIT_MAX_SECONDS == 1 else WAIT_MAX_SECONDS},",
        f"`max_per_address` ({DEFAULTS['max_per_address']})",
        f"`stall` ({DEFAULTS['stall']:.0f} s)",
        f"`max_latency` ({1000 * DEFAULTS['max_latency']:.0f} ms)",
    ],
)
def test_the_manual_has_the_figures(said: str) -> None:
    assert said in MANUAL
