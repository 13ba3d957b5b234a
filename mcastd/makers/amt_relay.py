"""Makes AMT relays."""

from __future__ import annotations

from mcastd.amt_relay.worker import AmtRelayWorker
from mcastd.config import AmtRelaySettings
from mcastd.makers.parts import Parts
from mcastd.net.joins import Joins
from mcastd.net.membership import Memberships


def make(name: str, settings: AmtRelaySettings, parts: Parts) -> AmtRelayWorker:
    memberships = parts.memberships or Memberships()
    return AmtRelayWorker(name, settings, lambda: Joins(memberships), parts.host)
