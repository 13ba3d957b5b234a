"""The metrics of gateways for players."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcastd.counters import GatewayCounters
from mcastd.metrics.family import RECEIVED, WORKER, Family, ScrapedWorker, counter, counts, gauge
from mcastd.worker import GatewayBooks

# Codes of the answers that a gateway gives (RFC 9110 section 15).
ANSWERS = (
    *("200", "400", "401", "403", "404", "405", "408", "413", "417", "421", "429", "431"),
    *("501", "503", "504", "505"),
)
# Reasons for which connections and requests are refused, and for which the stream of a player ends.
REFUSED_REASONS = (
    *("client", "full", "group", "name", "no-way", "per-address", "request", "shortage", "silent"),
    "token",
)
ENDED_REASONS = ("gone", "not-allowed", "stalled", "stopped", "unreachable")


def _of_gateway(value: Callable[[GatewayBooks], Any]) -> Callable[[ScrapedWorker[GatewayCounters]], Any]:
    return lambda of: None if of.books.gateway is None else value(of.books.gateway)


GATEWAY: tuple[Family[ScrapedWorker[GatewayCounters]], ...] = (
    *WORKER,
    *RECEIVED,
    gauge("players", "Players that a gateway serves.", _of_gateway(lambda gateway: gateway.players)),
    gauge(
        "played_groups",
        "Groups that a gateway has joined for players, those that linger included.",
        _of_gateway(lambda gateway: gateway.groups),
    ),
    gauge(
        "lingering_groups",
        "Of these, those that no player has any more.",
        _of_gateway(lambda gateway: gateway.lingering),
    ),
    counter(
        "played_datagrams", "Datagrams sent to players, once for each of these.", lambda of: of.counters.sent
    ),
    counter(
        "played_bytes",
        "Bytes sent to players, with all that was answered.",
        lambda of: of.counters.sent_bytes,
    ),
    counts(
        "http_answers",
        "Answers of a gateway, by the code of their status.",
        lambda of: of.counters.answered,
        "status",
        lambda _: ANSWERS,
    ),
    counts(
        "refused_players",
        "Connections and requests that a gateway has not served, by reason.",
        lambda of: of.counters.refused,
        "reason",
        lambda _: REFUSED_REASONS,
    ),
    counts(
        "ended_players",
        "Players whose stream had begun and has ended, by reason.",
        lambda of: of.counters.ended,
        "reason",
        lambda _: ENDED_REASONS,
    ),
)
