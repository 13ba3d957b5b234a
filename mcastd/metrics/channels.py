"""The metrics of channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mcastd.counters import OutboundCounters
from mcastd.metrics.family import (
    DROPPED,
    NO_COUNTS,
    OVERFLOW,
    RECEIVED_BYTES,
    RECEIVED_DATAGRAMS,
    WORKER,
    Family,
    ScrapedWorker,
    counter,
    counts,
    gauge,
    of_manifest,
    within,
)
from mcastd.status import AnnouncementStatus, FilesStatus
from mcastd.worker import ReceptionBooks, SentLegBooks

OfChannel = ScrapedWorker[OutboundCounters]


def _of_files(value: Callable[[FilesStatus], Any], without: Any = None) -> Callable[[OfChannel], Any]:
    """Takes a value of a channel's files; ``without`` if it sends none whole."""
    return lambda of: without if of.books.files is None else value(of.books.files)


def _of_reception(value: Callable[[ReceptionBooks], int]) -> Callable[[OfChannel], Any]:
    """Takes a value of what came to a channel's source; None if it is not what others send."""
    return lambda of: None if of.books.reception is None else value(of.books.reception)


def _of_announcement(value: Callable[[AnnouncementStatus], int]) -> Callable[[OfChannel], Any]:
    """Takes a value of a channel's announcement; None if it is not announced."""
    return lambda of: None if of.books.announcement is None else value(of.books.announcement)


def _of_sent_legs(name: str, kind: str, text: str, value: Callable[[SentLegBooks], int]) -> Family[OfChannel]:
    """Takes a value of each way of a channel with copies, by its place among them from 1."""

    def take(of: OfChannel) -> Mapping[str, int]:
        return {str(place): value(leg) for place, leg in enumerate(of.books.sent_legs, 1)}

    return Family(f"mcastd_{name}", kind, text, take, "leg", known=lambda _: ())


CHANNEL: tuple[Family[OfChannel], ...] = (
    *WORKER,
    counter(
        "sent_datagrams",
        "Datagrams that the kernel took for an interface with a carrier.",
        lambda of: of.counters.sent,
    ),
    counter("sent_bytes", "Payload of these datagrams.", lambda of: of.counters.sent_bytes),
    counter(
        "late_datagrams",
        "Datagrams sent more than a millisecond after their time; of whole files, a tenth of a second.",
        lambda of: of.counters.late,
    ),
    counter(
        "split_lines",
        "Lines longer than max_datagram, each sent as several datagrams.",
        lambda of: of.counters.lines_split,
    ),
    counter(
        "skipped_bytes",
        "Bytes between the packets of a transport stream, which were left out.",
        lambda of: of.counters.skipped_bytes,
    ),
    counter("source_rounds", "Times that the whole source has been sent.", lambda of: of.counters.rounds),
    gauge(
        "pending_datagrams",
        "Datagrams that were read from the source and not sent yet.",
        lambda of: of.books.pending,
    ),
    counts(
        "refused_sends",
        "Times that the kernel refused to send, by errno; tried again or dropped.",
        lambda of: of.counters.refused,
        "errno",
        lambda identity: identity.refusals,
    ),
    counts(*DROPPED, lambda of: of.counters.dropped, "reason", lambda identity: identity.reasons),
    *within(
        lambda of: of.books.reception,  # of one whose source is what others send
        counter(*RECEIVED_DATAGRAMS, _of_reception(lambda one: one.received)),
        counter(*RECEIVED_BYTES, _of_reception(lambda one: one.received_bytes)),
        counter(*OVERFLOW, _of_reception(lambda one: one.overflow)),
    ),
    *within(
        lambda of: of.books.files,
        gauge("source_files", "Files of the pass under way.", _of_files(lambda files: files.files)),
        gauge("source_bytes", "Bytes of these.", _of_files(lambda files: files.total_bytes)),
        gauge(
            "pass_number",
            "The pass over all files that is under way, from 1.",
            _of_files(lambda files: files.pass_number),
        ),
        gauge(
            "pass_ratio",
            "How much of it has gone, from 0 to 1.",
            _of_files(lambda files: files.pass_percent / 100),
        ),
        Family(
            "mcastd_unsent_files",
            "gauge",
            "Files below the source that are not sent, by reason.",
            _of_files(lambda files: files.refused, NO_COUNTS),
            "reason",
            known=lambda _: (),
        ),
    ),
    *of_manifest(lambda books: None if books.files is None else books.files.manifest),
    *within(
        lambda of: of.books.announcement,
        counter(
            "announcements",
            "Announcements of the channel that were sent, by SAP.",
            _of_announcement(lambda one: one.sent),
        ),
        counter(
            "failed_announcements",
            "Announcements that could not be sent.",
            _of_announcement(lambda one: one.failed),
        ),
    ),
    *within(
        lambda of: of.books.sent_legs,
        _of_sent_legs(
            "leg_sent_datagrams_total",
            "counter",
            "Datagrams that the kernel took for each leg of a channel with copies.",
            lambda leg: leg.sent,
        ),
        _of_sent_legs(
            "leg_dropped_datagrams_total",
            "counter",
            "Datagrams that another leg of the channel has sent and this one has not.",
            lambda leg: leg.dropped,
        ),
        _of_sent_legs(
            "leg_works",
            "gauge",
            "1 for a leg by which the channel can send, 0 for one that is down.",
            lambda leg: int(leg.works),
        ),
    ),
)
