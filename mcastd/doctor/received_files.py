"""What keeps whole files from being received: no description, clocks, loss, no code, limits."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import DirectoryOutput, InboundSubscription
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity
from mcastd.doctor.quoting import command
from mcastd.doctor.seen import received_meanwhile
from mcastd.doctor.subject import Subject
from mcastd.inbound.flute import EXPIRED, NO_FDT
from mcastd.status import ObjectsStatus, OutputStatus, SubscriptionStatus

# A reason to refuse a file: it is larger than the output's max_size.
TOO_LARGE = "too-large"


def descriptions(subject: Subject[InboundSubscription], _evidence: Evidence) -> Iterator[Said]:
    """Check that what comes of files is described by an FDT (RFC 6726 section 3.4) that holds."""
    if not subject.settings.protocol.gives_objects or subject.earlier is None:
        return
    now, before = subject.now(SubscriptionStatus).counters, subject.before(SubscriptionStatus).counters
    grown = received_meanwhile(subject).dropped
    given_up, expired = grown[NO_FDT], now.dropped[EXPIRED]
    waits = given_up or (now.held and before.held)
    if grown[EXPIRED] or (waits and expired):
        yield Finding(
            "files-expired",
            Severity.BROKEN,
            "what is said of the files that come has expired when it comes: a clock is wrong, here or there",
            (f"dropped as {EXPIRED}: {expired} datagrams of FDT instances (status)",),
            f"compare the time here with the sender's: {command('timedatectl')}; of another sender of FLUTE"
            " also how long it says that its FDT holds (Expires)",
        )
    elif waits:
        yield Finding(
            "files-undescribed",
            Severity.BROKEN,
            "parts of files come, but nothing that says which files they are: no FDT (RFC 6726)",
            (f"waiting for an FDT: {now.held} datagrams, and {given_up} given up meanwhile (status)",),
            "see whether the sender sends its FDT (object 0) to the same group and port, and whether all"
            f" comes from one sender: sources in {subject.table}",
        )


def hindered(
    output: DirectoryOutput, said: str, state: OutputStatus, objects: ObjectsStatus
) -> Iterator[Finding]:
    """What keeps single files from a directory while others come. ``said`` is where it is configured."""
    path = output.label
    if objects.unrepaired:
        yield Finding(
            "files-unrepaired",
            Severity.WARNING,
            f"what is lost of the files for {path} comes only with another pass: {objects.unrepaired}",
            (said, f"unrepaired: {objects.unrepaired} (status)"),
            "install the library raptorq if it is missing: pip install 'mcastd[files]'",
        )
    if objects.short_blocks:
        loss = objects.loss_percent
        met = "not known yet" if loss is None else f"{loss:.1f} %"
        yield Finding(
            "loss-above-protection",
            Severity.WARNING,
            f"more is lost of the files for {path} than one pass can repair: they wait for the next ones",
            (said, f"loss: {met}; blocks that a pass did not complete: {objects.short_blocks} (status)"),
            "look for where it is lost, between here and the sender; or set protect there to more than that",
        )
    if refused := objects.states.get("refused", 0):
        fix = "the log says why for each, and what to do: object.refused"
        if state.counters.dropped[TOO_LARGE]:
            fix = f"max_size of this output is {output.max_size:,} bytes: raise it if they are wanted; {fix}"
        yield Finding(
            "files-refused",
            Severity.WARNING,
            f"{refused} of the files for {path} are refused",
            (said, f"states: {dict(objects.states)}; dropped: {dict(state.counters.dropped)} (status)"),
            fix,
        )
