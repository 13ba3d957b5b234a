"""The metrics of subscriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mcastd.counters import InboundCounters, SequenceCounters
from mcastd.metrics.family import (
    NO_COUNTS,
    RECEIVED,
    WORKER,
    Family,
    ScrapedWorker,
    counter,
    counts,
    gauge,
    of_manifest,
    within,
)
from mcastd.status import KeptStatus
from mcastd.worker import LegBooks, TransportBooks

OfSubscription = ScrapedWorker[InboundCounters]


def _of_sequence(value: Callable[[SequenceCounters], int]) -> Callable[[OfSubscription], Any]:
    """Takes a value of what the numbers of datagrams say; None if they have none."""
    return lambda of: None if of.books.sequence is None else value(of.books.sequence)


def _by_leg(
    value: Callable[[LegBooks], float | None],
) -> Callable[[ScrapedWorker[InboundCounters]], Mapping[str, float]]:
    """Takes a value of each leg, by its place among them from 1; nothing where there is none."""

    def take(of: ScrapedWorker[InboundCounters]) -> Mapping[str, float]:
        found = ((str(place), value(leg)) for place, leg in enumerate(of.books.legs, 1))
        return {place: number for place, number in found if number is not None}

    return take


def _of_legs(
    name: str, kind: str, text: str, value: Callable[[LegBooks], float | None], form: str = "%s"
) -> Family[ScrapedWorker[InboundCounters]]:
    return Family(f"mcastd_{name}", kind, text, _by_leg(value), "leg", form, known=lambda _: ())


def _of_ts(value: Callable[[TransportBooks], Any], without: Any = None) -> Callable[[OfSubscription], Any]:
    """Takes a value of a transport stream; ``without`` if none is checked."""
    return lambda of: without if of.books.ts is None else value(of.books.ts)


def _of_kept(value: Callable[[KeptStatus], int]) -> Callable[[ScrapedWorker[InboundCounters]], Any]:
    """Takes a value of what is kept; None if nothing is."""
    return lambda of: None if of.books.kept is None else value(of.books.kept)


def _refused_manifests(of: OfSubscription) -> Mapping[str, int]:
    return of.books.refused_manifests


SUBSCRIPTION: tuple[Family[OfSubscription], ...] = (
    *WORKER,
    *RECEIVED,
    counter(
        "truncated_datagrams",
        "Datagrams cut because they were longer than a receive slot.",
        lambda of: of.counters.truncated,
    ),
    gauge("held_datagrams", "Datagrams that the protocol keeps for now.", lambda of: of.counters.held),
    gauge(
        "subscription_stale",
        "1 while nothing has come for longer than expect_every.",
        lambda of: int(of.books.stale),
    ),
    gauge(
        "memberships_wanted",
        "Interfaces on which a subscription at work is to join its group.",
        lambda of: of.books.memberships_wanted,
    ),
    gauge("memberships", "Interfaces on which the group is joined.", lambda of: of.books.memberships),
    gauge(
        "receive_buffer_asked_bytes",
        "The receive buffer that was asked for.",
        lambda of: of.books.receive_buffer_asked,
    ),
    gauge(
        "receive_buffer_bytes",
        "The receive buffer that the kernel gave: the smallest, if several.",
        lambda of: of.books.receive_buffer,
    ),
    *within(
        lambda of: of.books.sequence,
        counter(
            "lost_numbers",
            "Numbers of datagrams, or of messages in them, that the network did not deliver.",
            _of_sequence(lambda counters: counters.lost),
        ),
        counter(
            "duplicated_datagrams",
            "Datagrams that the network delivered again.",
            _of_sequence(lambda counters: counters.duplicated),
        ),
        counter(
            "reordered_datagrams",
            "Datagrams that the network delivered after later ones.",
            _of_sequence(lambda counters: counters.reordered),
        ),
        counter(
            "sequence_restarts",
            "Times that a sender began to number anew, or another one took its place.",
            _of_sequence(lambda counters: counters.restarts),
        ),
    ),
    counter(
        "repaired_datagrams",
        "Datagrams that the network did not deliver, and that were made of repair (fec).",
        lambda of: of.books.repaired,
    ),
    gauge("jitter_seconds", "The jitter of RTP (RFC 3550).", lambda of: of.books.jitter, form="%.9f"),
    *within(
        lambda of: of.books.legs,
        _of_legs(
            "leg_datagrams_total",
            "counter",
            "Datagrams that came by each leg of a subscription.",
            lambda leg: leg.received,
        ),
        _of_legs(
            "leg_first_datagrams_total",
            "counter",
            "Of these, those that no other leg had brought before.",
            lambda leg: leg.first,
        ),
        _of_legs(
            "leg_lost_numbers_total",
            "counter",
            "Numbers, or datagrams without numbers, that a leg did not bring.",
            lambda leg: leg.lost,
        ),
        _of_legs(
            "leg_skew_seconds",
            "gauge",
            "How much later than by the first leg the last copy that was timed came.",
            lambda leg: leg.skew,
            "%.6f",
        ),
        _of_legs(
            "leg_silent",
            "gauge",
            "1 while a leg brings nothing, and another goes on.",
            lambda leg: int(leg.silent),
        ),
        gauge(
            "legs_unprotected",
            "1 while all legs come by one interface or from one sender, so that they fail together.",
            lambda of: int(of.books.legs_share) if of.books.legs else None,
        ),
    ),
    *within(
        lambda of: of.books.ts,
        counts(
            "ts_errors",
            "Errors of the transport stream in a subscription's datagrams, by the check of TR 101 290.",
            _of_ts(lambda ts: ts.counters.errors, NO_COUNTS),
            "check",
            lambda _: (),
        ),
        counter(
            "ts_packets",
            "Packets of the transport stream that came.",
            _of_ts(lambda ts: ts.counters.packets),
        ),
        counter(
            "ts_lost_packets",
            "Packets of it that are missing by their continuity counters, which count to 16.",
            _of_ts(lambda ts: ts.counters.lost),
        ),
        gauge(
            "ts_bytes_per_second",
            "Its rate as it arrives.",
            _of_ts(lambda ts: ts.bit_rate / 8),
            form="%.0f",
        ),
        gauge(
            "ts_clock_jitter_seconds",
            "How far its program clock arrived from its time in a second, from the earliest to the latest.",
            _of_ts(lambda ts: ts.clock_jitter),
            form="%.6f",
        ),
        gauge(
            "mdi_delay_factor_seconds",
            "The delay factor of it in a second (RFC 4445): what a buffer has to hold.",
            _of_ts(lambda ts: ts.delay_factor),
            form="%.6f",
        ),
    ),
    *within(
        lambda of: of.books.kept,
        gauge(
            "kept_bytes",
            "Memory of what is kept of what came last, for captures.",
            _of_kept(lambda kept: kept.memory_bytes),
        ),
        counter("captures", "Captures of a loss that were written.", _of_kept(lambda kept: kept.captures)),
        counter(
            "failed_captures",
            "Captures of a loss that could not be written.",
            _of_kept(lambda kept: kept.failed),
        ),
    ),
    *of_manifest(lambda books: books.manifest),
    *within(
        _refused_manifests,
        counts(
            "refused_manifests",
            "Manifests that came whole and were not taken, by reason.",
            _refused_manifests,
            "reason",
            lambda _: (),
        ),
    ),
)
