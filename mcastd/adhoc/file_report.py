"""What ``mcastctl listen --flute`` and ``send --flute`` say. Pure: statuses in, words and JSON out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from mcastd.adhoc import report
from mcastd.adhoc.outcomes import FileOutcomes, size_of
from mcastd.adhoc.report import Summary
from mcastd.codec import as_json
from mcastd.config import FluteOutbound
from mcastd.console.text import bar, plural, scaled, span
from mcastd.delivery.received import ObjectState, Outcome
from mcastd.printable import printable
from mcastd.protocols import raptorq
from mcastd.protocols.manifest import ManifestReason
from mcastd.protocols.seal import SealReason
from mcastd.status import NO_MANIFEST, ChannelStatus, ObjectsStatus, SubscriptionStatus

# Of files that did not come, or were not sent, this many are named.
NAMED_FILES = 5
# States of files of which nothing is awaited.
_ENDED = {ObjectState.LANDED, ObjectState.REFUSED, ObjectState.EXPIRED}


# -- sending


def beginning(status: ChannelStatus, rate: int, protocol: FluteOutbound) -> Iterator[str]:
    """The first lines of a sender: ``rate`` in bits per second."""
    by = f" on {status.link.interface} from {status.link.address}" if status.link else ""
    to = f"{status.group} port {status.port}{by}, ttl {status.ttl}"
    yield f"sending {printable(status.source)} to {to}; Ctrl-C ends it"
    loss = f"for receivers that lose up to {protocol.protect:g}% (--protect)"
    yield f"  at {scaled(rate, 'bit/s')} (--rate), {loss}"
    if protocol.is_secured:
        signed = "signed (--sign-key)" if protocol.sign_key else ""
        sealed = "sealed (--key)" if protocol.key else ""
        yield f"  {' and '.join(filter(None, (signed, sealed)))}, on channel {protocol.channel} (--channel)"


def going(status: ChannelStatus, bits: float, elapsed: float) -> str:
    """The live line of a sender: how far it is, and the last second's rate in bits per second."""
    files = status.files
    if files is None or not files.pass_number:
        return printable(status.source_state)
    passed = files.pass_percent / 100
    if isinstance(status.repeat, str):  # forever
        return "  ".join((bar(passed), f"of pass {files.pass_number}", scaled(bits, "bit/s")))
    part = (files.pass_number - 1 + passed) / status.repeat
    words = [bar(part), plural(files.files, "file"), scaled(bits, "bit/s")]
    if status.repeat > 1:
        words.insert(1, f"pass {files.pass_number} of {status.repeat}")
    if 0 < part < 1:
        words.append(f"{span(elapsed / part - elapsed)} to go")
    return "  ".join(words)


def sent(status: ChannelStatus, before: ChannelStatus, seconds: float) -> Summary:
    """What went in ``seconds``, from the first datagram to the last.

    ``before`` is the status at the end of the work, ``status`` the one after all was counted.
    """
    return {
        "files": as_json(before.files),
        "passes": status.counters.rounds,
        **report.sent(status.counters, seconds),
    }


def all_sent(result: Summary) -> bool:
    files = result["files"]
    return bool(result["sent"]) and not (result["dropped"] or files["refused"] or files["given_up"])


def sent_lines(result: Summary) -> Iterator[str]:
    """The report for people."""
    files, passes = result["files"], result["passes"]
    what = f"{plural(files['files'], 'file')}, {plural(files['total_bytes'], 'byte')}"
    if passes:
        repair = f", with {files['repair_percent']:.0f}% of repair" if files["repair_percent"] else ""
        yield f"sent {what}, {'once' if passes == 1 else f'{passes:,} times'}{repair}"
    if files["pass_number"] > passes:
        yield f"stopped at {files['pass_percent']:.0f}% of pass {files['pass_number']} of {what}"
    yield from report.sent_lines(result)
    for refusal in files["refusals"][:NAMED_FILES]:
        yield f"not sent: {printable(refusal)}"
    if (more := sum(files["refused"].values()) - NAMED_FILES) > 0:
        yield f"not sent: {more:,} more"
    if files["given_up"]:
        yield f"not sent whole in the last pass: {plural(files['given_up'], 'file')} that changed under way"


# -- receiving


def outcome_line(outcome: Outcome) -> str:
    """A line on a file that has landed or was refused."""
    name = printable(outcome.description.path)
    if (refused := outcome.refused) is not None:
        return f"refused {name}: {printable('; '.join(filter(None, (refused.cause, refused.way_out))))}"
    return f"landed {name}, {plural(size_of(outcome), 'byte')}{', unchanged' if outcome.unchanged else ''}"


def outcome_record(outcome: Outcome, directory: str) -> Summary:
    """The same for programs."""
    name = outcome.description.path
    if (refused := outcome.refused) is not None:
        return {"refused": name, "reason": refused.reason, "error": str(refused)}
    return {
        "landed": name,
        "path": os.path.join(directory, name),
        "bytes": size_of(outcome),
        "unchanged": outcome.unchanged,
    }


def coming(status: SubscriptionStatus, bits: float) -> str:
    """The live line of a listener: how much of what is described is there, and the last second's rate."""
    objects, manifest = _objects(status), status.manifest or NO_MANIFEST
    # What a manifest lists is described when something of it comes
    total_bytes = max(objects.total_bytes, manifest.total_bytes)
    if not total_bytes:
        return f"{status.counters.received:,} datagrams received  {scaled(bits, 'bit/s')}"
    left = total_bytes - objects.present_bytes
    landed = objects.states.get(ObjectState.LANDED, 0)
    files = max(landed + _unfinished(objects), manifest.files)
    words = [
        bar(objects.present_bytes / total_bytes),
        f"{landed:,} of {plural(files, 'file')}",
        scaled(bits, "bit/s"),
    ]
    if not left and not _unfinished(objects):
        words.append("Ctrl-C ends it")
    elif left and bits:
        words.append(f"{span(8 * left / bits)} to go")
    words += [printable(one.name) for one in objects.receiving[:1]]
    return "  ".join(words)


class Hints:
    """What to do while nothing comes, is described, can be repaired, or comes any more: each is said once."""

    def __init__(self, patience: float, *, repairs: bool) -> None:
        """``patience`` is in seconds; ``repairs``: the library that repairs files is installed."""
        self._patience = patience
        self._said_silent = self._said_undescribed = self._said_over = False
        self._said_unrepaired = repairs

    def lines(self, status: SubscriptionStatus, elapsed: float) -> Sequence[str]:
        """What is to be said now, ``elapsed`` seconds after the beginning."""
        objects, received, age = _objects(status), status.counters.received, status.last_datagram_age
        if not received and elapsed >= self._patience and not self._said_silent:
            self._said_silent = True
            return report.silence(status, self._patience)
        if received and elapsed >= self._patience and not any(objects.states.values()):
            said, self._said_undescribed = self._said_undescribed, True
            return [] if said else _undescribed(status)
        if objects.unrepaired and not self._said_unrepaired:
            self._said_unrepaired = True
            return [f"  {raptorq.INSTALL} on this host; without it, another pass brings what is missing"]
        missing = _unfinished(objects) + _not_begun(status)
        over = age is not None and age >= self._patience and missing > 0
        said, self._said_over = self._said_over, over
        return _over(missing, self._patience) if over and not said else []


def _undescribed(status: SubscriptionStatus) -> Sequence[str]:
    dropped = _dropped(status)
    reasons = f" (dropped: {report.by_reason(dropped)})" if dropped else ""
    way_out = '  is it sent by `mcastctl send --flute`, or by a channel with protocol = "flute"?'
    if dropped[SealReason.WRONG_KEY]:
        way_out = "  it is sealed: give --key the group key that the sender has"
    elif status.manifest is not None and status.manifest.refused:
        way_out = f"  a manifest came, which is not taken: {printable(status.manifest.refusal)}"
        if status.manifest.refused in {ManifestReason.OTHER_CHANNEL, SealReason.FORGED}:
            way_out += "; give --channel as the sender has it"
    return [
        f"{plural(status.counters.received, 'datagram')} came, and none tells of a file{reasons}",
        way_out,
    ]


def _over(missing: int, seconds: float) -> Sequence[str]:
    are = "is" if missing == 1 else "are"
    return [
        f"nothing came for {seconds:g} s, and {plural(missing, 'file')} {are} incomplete",
        "  what is missing comes with another pass: let the sender --repeat, or --protect against more loss",
    ]


def received(
    outcomes: FileOutcomes, before: SubscriptionStatus, status: SubscriptionStatus, listened: float
) -> Summary:
    """What came in ``listened`` seconds.

    ``before`` is the status at the end of the work, ``status`` the one after all was counted.
    """
    objects, counters = _objects(before), status.counters
    return {
        "landed": outcomes.landed,
        "landed_bytes": outcomes.landed_bytes,
        "unchanged": outcomes.unchanged,
        "refused": {name: refused.reason for name, refused in outcomes.refused.items()},
        "incomplete": _unfinished(objects),
        "not_begun": _not_begun(before),
        "receiving": [{"name": one.name, "percent": round(one.percent, 1)} for one in objects.receiving],
        "unrepaired": objects.unrepaired,
        "listened": round(listened, 3),
        "received": counters.received,
        "received_bytes": counters.received_bytes,
        "restored": objects.restored,
        "loss_percent": objects.loss_percent,
        "dropped": dict(_dropped(status)),
        "overflow": counters.overflow,
        "receive_buffer": as_json(before.receive_buffer),
    }


def all_landed(result: Summary) -> bool:
    return bool(result["landed"]) and not (result["refused"] or result["incomplete"] or result["not_begun"])


def received_lines(result: Summary) -> Iterator[str]:
    """The report for people."""
    if not result["received"]:
        yield f"received nothing in {result['listened']:.1f} s"
        return
    unchanged = f", {result['unchanged']:,} of them unchanged" if result["unchanged"] else ""
    yield f"landed {plural(result['landed'], 'file')}, {plural(result['landed_bytes'], 'byte')}{unchanged}"
    if result["refused"]:
        yield f"refused {plural(len(result['refused']), 'file')}: {_named(result['refused'])}"
    if result["incomplete"]:
        parts = [f"{one['name']} ({one['percent']:.0f}%)" for one in result["receiving"]]
        names = f": {_named(parts)}" if parts else ""
        yield f"incomplete, and gone: {plural(result['incomplete'], 'file')}{names}"
    if result["not_begun"]:
        yield f"nothing came of {plural(result['not_begun'], 'file')} that the manifest lists"
    if result["unrepaired"]:
        yield f"  {printable(result['unrepaired'])}"
    restored = f"; {result['restored']:,} that were lost are restored" if result["restored"] else ""
    amounts = f"{plural(result['received'], 'datagram')}, {plural(result['received_bytes'], 'byte')}"
    yield f"received {amounts} in {result['listened']:,.3g} s{restored}"
    if result["dropped"]:
        yield f"  dropped: {report.by_reason(result['dropped'])}"
    yield from report.overflow_lines(result)


def _objects(status: SubscriptionStatus) -> ObjectsStatus:
    (output,) = status.outputs
    assert output.objects is not None, "it is an output that takes files"
    return output.objects


def _unfinished(objects: ObjectsStatus) -> int:
    """Files that are described, and are not there yet."""
    return sum(number for state, number in objects.states.items() if state not in _ENDED)


def _not_begun(status: SubscriptionStatus) -> int:
    """Files that a manifest lists, and of which nothing has come."""
    objects, manifest = _objects(status), status.manifest or NO_MANIFEST
    ended = objects.states.get(ObjectState.LANDED, 0) + objects.states.get(ObjectState.REFUSED, 0)
    return max(0, manifest.files - ended - _unfinished(objects))


def _dropped(status: SubscriptionStatus) -> Counter[str]:
    """Datagrams by reason, those of the protocol and of the output."""
    dropped = Counter(status.counters.dropped)
    for output in status.outputs:
        dropped.update(output.counters.dropped)
    return dropped


def _named(names: Collection[str]) -> str:
    """Some of these names."""
    first = ", ".join(map(printable, list(names)[:NAMED_FILES]))
    return f"{first}, and {len(names) - NAMED_FILES:,} more" if len(names) > NAMED_FILES else first
