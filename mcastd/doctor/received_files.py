"""What keeps whole files from being received: no description, keys, clocks, loss, no code, no room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from mcastd.config import DirectoryOutput, FluteInbound, InboundSubscription
from mcastd.delivery.manifest_reception import FOREIGN_SESSION, REFUSED, REPLAYED
from mcastd.delivery.received import ObjectState
from mcastd.delivery.refused import TOO_LARGE, TOO_MANY
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Said, Severity
from mcastd.doctor.quoting import command, counted
from mcastd.doctor.seen import received_meanwhile
from mcastd.doctor.subject import Subject
from mcastd.inbound.given import EXPIRED, NO_FDT
from mcastd.protocols import raptorq
from mcastd.protocols.manifest import ManifestReason
from mcastd.protocols.seal import SealReason
from mcastd.status import NO_MANIFEST, ManifestStatus, ObjectsStatus, OutputStatus, SubscriptionStatus

# Reasons to refuse a manifest that a clock is to blame for.
OF_CLOCKS = {ManifestReason.EXPIRED, ManifestReason.NOT_YET_VALID}
COMPARE_CLOCKS = f"compare the time here with the sender's: {command('timedatectl')}"


def descriptions(subject: Subject[InboundSubscription], _evidence: Evidence) -> Iterator[Said]:
    """Check that what comes of files is described: by a manifest that is taken, or by an FDT that holds."""
    protocol = subject.settings.protocol
    if not isinstance(protocol, FluteInbound) or subject.earlier is None:
        return
    manifest = subject.now(SubscriptionStatus).manifest or NO_MANIFEST
    if manifest.serial is not None:  # it goes by that, whatever else comes
        # Who is not trusted gets no manifest as far as a look at its times
        if manifest.refused in OF_CLOCKS and received_meanwhile(subject).dropped[REFUSED]:
            yield _clock_wrong(manifest, Severity.WARNING)
        return
    if protocol.session is not None and _is_elsewhere(subject):
        foreign = subject.now(SubscriptionStatus).counters.dropped[FOREIGN_SESSION]
        yield Finding(
            "wrong-session",
            Severity.BROKEN,
            "what comes is of another session than the one that it is to receive",
            (
                f"session = {protocol.session} (protocol in {subject.table})",
                f"dropped as {FOREIGN_SESSION}: {foreign} datagrams (status)",
            ),
            f"set session of protocol in {subject.table} to the one of the channel that sends, which is 1 if"
            " that says none; or take it away: then the first session that is heard is received",
        )
    elif sealed := _dropped(subject, SealReason.WRONG_KEY):
        here = "none of its keys opens them" if protocol.keys else "it has no key"
        yield Finding(
            "wrong-key",
            Severity.BROKEN,
            f"the files that come are sealed, and {here}",
            (f"dropped as {SealReason.WRONG_KEY}: {sealed} datagrams (status)",),
            f"compare {command('sha256sum', *protocol.keys)} with the sender's, copy that to this host, then:"
            f" {_started_again(subject)}"
            if protocol.keys
            else f"copy the sender's key file to this host, and name it in keys in {subject.table}",
        )
    elif protocol.is_secured:
        yield from _by_manifest(subject, manifest)
    else:
        yield from _by_fdt(subject)


def _by_fdt(subject: Subject[InboundSubscription]) -> Iterator[Finding]:
    """What keeps files from being described without keys (RFC 6726 section 3.4)."""
    if expired := _dropped(subject, EXPIRED):
        yield Finding(
            "clock-wrong",
            Severity.BROKEN,
            "what is said of the files that come has expired when it comes: a clock is wrong, here or there",
            (f"dropped as {EXPIRED}: {expired} datagrams of FDT instances (status)",),
            f"{COMPARE_CLOCKS}; of another sender of FLUTE also for how long its FDT holds (Expires)",
        )
    elif waits := _waits(subject):
        yield Finding(
            "files-undescribed",
            Severity.BROKEN,
            "parts of files come, but nothing that says which files they are: no FDT (RFC 6726)",
            (waits,),
            "see whether the sender sends its FDT (object 0) to the same group and port, and whether all"
            f" comes from one sender: sources in {subject.table}",
        )


def _by_manifest(subject: Subject[InboundSubscription], manifest: ManifestStatus) -> Iterator[Finding]:
    """Why no manifest is taken, where keys ask for one."""
    replayed = _dropped(subject, REPLAYED)
    refused, said = manifest.refused, _refusal(manifest)
    if refused == ManifestReason.SIGNATURE:
        yield Finding(
            "wrong-key",
            Severity.BROKEN,
            "the manifest that comes is signed by another key than those in verify_keys",
            (said,),
            f"copy the file beside the sender's sign_key, which ends in .pub, to this host, and name it in"
            f" verify_keys of protocol in {subject.table}; then: {_started_again(subject)}",
        )
    elif refused in OF_CLOCKS:
        yield _clock_wrong(manifest, Severity.BROKEN)
    elif refused or replayed:
        yield Finding(
            "manifest-refused",
            Severity.BROKEN,
            f"the manifest that comes is not taken: {manifest.refusal or 'a newer one was taken before'}",
            (said if refused else f"dropped as {REPLAYED}: {replayed} datagrams (status)",),
            _to_have_taken(subject, refused),
        )
    elif waits := _waits(subject):
        yield Finding(
            "files-undescribed",
            Severity.BROKEN,
            "parts of files come, but no manifest that says which files they are",
            (waits,),
            "see whether the sender has keys (sign_key, key), and sends to the same group and port",
        )


def _clock_wrong(manifest: ManifestStatus, severity: Severity) -> Finding:
    conclusion = f"the manifest that comes does not hold now: {manifest.refusal}"
    return Finding("clock-wrong", severity, conclusion, (_refusal(manifest),), COMPARE_CLOCKS)


def _refusal(manifest: ManifestStatus) -> str:
    return f"manifest: {manifest.refused}: {manifest.refusal} (status)"


def _to_have_taken(subject: Subject[InboundSubscription], refused: str) -> str:
    """What to do about a manifest that is refused: for this reason, or as it is older ("")."""
    channel = f"set channel of protocol in {subject.table} to the name of the channel that sends"
    if refused == ManifestReason.OTHER_CHANNEL:
        return channel
    if refused == SealReason.FORGED:
        return f"{channel}; if that has no key, give it the one of keys here"
    return (
        "set the sender's clock, which numbers its manifests; if somebody replays what was sent before,"
        " nothing is wrong here"
    )


def _is_elsewhere(subject: Subject[InboundSubscription]) -> bool:
    """Return True if what comes is of other sessions, and nothing of the one that is named was described."""
    status = subject.now(SubscriptionStatus)
    described = any(output.objects is not None and output.objects.states for output in status.outputs)
    return bool(status.counters.dropped[FOREIGN_SESSION]) and not described and not status.counters.held


def _dropped(subject: Subject[InboundSubscription], reason: str) -> int:
    """Datagrams that were dropped for a reason; 0 if none was lately, and nothing waits to be described."""
    lately = received_meanwhile(subject).dropped[reason]
    return subject.now(SubscriptionStatus).counters.dropped[reason] if lately or _waits(subject) else 0


def _waits(subject: Subject[InboundSubscription]) -> str:
    """What waits for a description, in words; "" if nothing does for long."""
    now, before = subject.now(SubscriptionStatus).counters, subject.before(SubscriptionStatus).counters
    given_up = received_meanwhile(subject).dropped[NO_FDT]
    if not given_up and not (now.held and before.held):
        return ""
    return f"waiting to be described: {now.held} datagrams, and {given_up} given up meanwhile (status)"


def _started_again(subject: Subject[InboundSubscription]) -> str:
    """The commands after which a worker has read its keys again."""
    return f"mcastctl stop-worker {subject.name}; mcastctl start-worker {subject.name}"


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
            f"install the library raptorq if it is missing: {raptorq.INSTALL}",
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
    yield from _room(output, said, objects)
    if refused := objects.states.get(ObjectState.REFUSED, 0):
        fix = "the log says why for each, and what to do: object.refused"
        if state.counters.dropped[TOO_LARGE]:
            fix = f"max_size of this output is {output.max_size:,} bytes: raise it if they are wanted; {fix}"
        elif state.counters.dropped[TOO_MANY]:
            fix = f"max_files of this output is {output.max_files:,}: raise it, or remove some files; {fix}"
        yield Finding(
            "files-refused",
            Severity.WARNING,
            f"{refused} of the files for {path} {'is' if refused == 1 else 'are'} refused",
            (
                said,
                f"states: {counted(objects.states)} (status)",
                f"dropped: {counted(state.counters.dropped)} (status)",
            ),
            fix,
        )


def _room(output: DirectoryOutput, said: str, objects: ObjectsStatus) -> Iterator[Finding]:
    """Compare what is still to come with what is free."""
    missing = objects.total_bytes - objects.present_bytes
    with suppress(OSError):  # what is wrong with the directory is told apart
        found = os.statvfs(output.path)
        free = (found.f_bfree if os.geteuid() == 0 else found.f_bavail) * found.f_frsize
        if found.f_blocks and found.f_frsize <= free < missing:
            yield Finding(
                "no-room",
                Severity.WARNING,
                f"the files for {output.path} have no room: {missing} bytes are to come, {free} are free",
                (
                    said,
                    f"present: {objects.present_bytes} of {objects.total_bytes} bytes (status)",
                    f"free: {free} bytes (statvfs {output.path})",
                ),
                f"make room: {command('du', '-x', output.path.parent)}; or name a directory elsewhere",
            )
