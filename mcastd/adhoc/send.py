"""``mcastctl send``: the daemon's own channel; of a file, standard input, a text, or numbers alone."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from mcastd import clock
from mcastd.adhoc import Refused, numbered, report
from mcastd.adhoc.session import INTERRUPTED, Session
from mcastd.adhoc.settings import configure_sender, endpoint
from mcastd.adhoc.sources import ROOM, Headed, Outgoing, Repeated, StreamSource
from mcastd.config import Config, OutboundChannel
from mcastd.console.live import write_all
from mcastd.ip import MAX_DATAGRAM_BYTES
from mcastd.makers import Parts, open_sender
from mcastd.outbound.framing import make_framer
from mcastd.outbound.sources import Source, open_source
from mcastd.outbound.sources.file import FileSource
from mcastd.outbound.sources.recording import RecordingSource
from mcastd.printable import printable
from mcastd.status import ChannelStatus

STDIN = "/dev/stdin"
DEFAULT_RATE = "10Mbit"  # of a file: as fast as possible would drown receivers, and look like a bad network
DEFAULT_INTERVAL = "100ms"  # of a text, or of numbered datagrams
# Seconds between two looks at the progress.
PROGRESS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    config: Config
    payload: bytes | None = None  # sent again and again; None: there is a FILE, or standard input
    numbers: bool = False

    @property
    def channel(self) -> OutboundChannel:
        (channel,) = self.config.outbound.values()
        return channel

    @property
    def is_recording(self) -> bool:
        return self.channel.framing == "capture"

    @property
    def from_stdin(self) -> bool:
        return self.payload is None and self.channel.source.label == STDIN

    @property
    def endless(self) -> bool:
        """Return True if only the user ends it."""
        return self.channel.repeat == "forever" or (self.from_stdin and sys.stdin.isatty())


def plan(
    group: str,
    file: str | None,
    *,
    text: str | None = None,
    numbers: bool = False,
    size: int | None = None,
    keys: Mapping[str, object],
) -> Plan:
    """What the command line means; ``keys`` are a channel's, None where nothing is said. Raises Refused."""
    if keys.get("rate") is not None and keys.get("interval") is not None:
        raise Refused("--interval contradicts --rate; keep one of the two")
    if text is not None and file is not None:
        raise Refused("--text is sent instead of a FILE: give one of the two")
    made = text is not None or (numbers and file is None)
    if size is not None and (text is not None or not made):
        raise Refused("--size is for --numbered without a FILE; else --chunk says how long a datagram is")
    if made and keys.get("framing"):
        raise Refused("--chunk, --line and --file cut a FILE or standard input: there is none")
    from_stdin = not made and file in (None, "-")
    if from_stdin and keys.get("repeat"):
        raise Refused("--count is for what can be sent again: standard input cannot")
    address, port = endpoint(group)
    settings = {"group": address, "port": port, **keys}
    settings["source"] = STDIN if made or from_stdin else os.path.abspath(file or "")
    if settings.get("rate") is None and settings.get("interval") is None:
        settings["interval" if made else "rate"] = DEFAULT_INTERVAL if made else DEFAULT_RATE
    if text is None and made and settings.get("repeat") is None:
        settings["repeat"] = "forever"
    payload = _payload(text, numbers, size) if made else None
    config = configure_sender(settings)
    if numbers and not made and config.outbound["send"].max_datagram <= numbered.SIZE:
        raise Refused(f"--chunk must be more than {numbered.SIZE} bytes, which --numbered takes")
    return Plan(config, payload, numbers)


def _payload(text: str | None, numbers: bool, size: int | None) -> bytes:
    head = ROOM if numbers else b""
    if text is not None:
        payload = head + text.encode(errors="surrogateescape")
        if len(payload) > MAX_DATAGRAM_BYTES:
            raise Refused(f"--text is longer than {MAX_DATAGRAM_BYTES:,} bytes, the most that UDP carries")
        return payload
    size = numbered.SIZE if size is None else size
    if not numbered.SIZE <= size <= MAX_DATAGRAM_BYTES:
        raise Refused(f"--size must be from {numbered.SIZE} to {MAX_DATAGRAM_BYTES:,} bytes, not {size:,}")
    return head + b"\n".rjust(size - numbered.SIZE) if size > numbered.SIZE else head


def send(plan: Plan, *, as_json: bool) -> int:
    """Send until all is sent, or until told to stop; the exit status.

    0: all that there was went. 1: something was dropped, or a recording could not be read to its end. 128 and
    the number of the signal that ended what has an end of its own. Raises McastdError.
    """
    total = plan.channel.repeat if plan.payload is not None else "forever"
    outgoing = Outgoing(numbers=plan.numbers, total=total)

    source = _source(plan)
    parts = Parts(
        open_source=lambda *_: source,
        open_sender=lambda *settings: outgoing.by(open_sender(*settings)),
    )
    with Session(plan.config, parts, gives_up=plan.is_recording) as session:
        _watch(session, plan)
    counters = session.status(ChannelStatus).counters
    result = report.sent(counters, outgoing.last - outgoing.first)
    for line in report.sent_lines(result):
        session.line.say(line)
    if as_json:
        write_all(sys.stdout.fileno(), json.dumps({"summary": result}).encode() + b"\n")
    broken = source.broken if isinstance(source, RecordingSource) else None
    if broken is not None:
        name = printable(plan.channel.source.label)
        session.line.say(f"mcastctl: {name}: after {broken.offset:,} bytes {broken.cause}")
    if session.ended_by and not plan.endless:
        return INTERRUPTED + session.ended_by
    return 1 if result["dropped"] or not result["sent"] or broken is not None else 0


def _source(plan: Plan) -> Source:
    channel = plan.channel
    if plan.payload is not None:
        return Repeated(plan.payload, channel.repeat)
    if not plan.numbers and not plan.from_stdin:
        return open_source(channel)  # chunks go straight from the file
    room = numbered.SIZE if plan.numbers else 0
    framer = make_framer(channel.framing, channel.max_datagram - room)
    framer = Headed(framer) if plan.numbers else framer
    if plan.from_stdin or (path := channel.source.file) is None:
        return StreamSource(0, framer)
    return FileSource(path, framer, repeat=channel.repeat)


def _watch(session: Session, plan: Plan) -> None:
    """Until the end: show the progress."""
    line, channel = session.line, plan.channel
    live = line.on and not (plan.from_stdin and sys.stdin.isatty())  # where somebody types is no place for it
    if line.on:
        ways_out = "Ctrl-D ends it" if plan.from_stdin and sys.stdin.isatty() else "Ctrl-C ends it"
        link = session.status(ChannelStatus).link
        by = f" on {link.interface} from {link.address}" if link else ""
        line.say(f"sending to {channel.group} port {channel.port}{by}, ttl {channel.ttl}; {ways_out}")
    since, sent, size = session.began, 0, 0
    while session.view().state != "finished" and session.wait(since + PROGRESS_SECONDS if live else math.inf):
        now = clock.monotonic()
        if live and now >= since + PROGRESS_SECONDS:
            status = session.status(ChannelStatus)
            counters = status.counters
            part = _part(plan, status)
            per_second = (counters.sent - sent) / (now - since)
            bits = 8 * (counters.sent_bytes - size) / (now - since)
            line.show(report.going(per_second, bits, counters.sent, part, now - session.began))
            since, sent, size = now, counters.sent, counters.sent_bytes


def _part(plan: Plan, status: ChannelStatus) -> float | None:
    """How much of everything is sent, 0 to 1; None: nobody knows."""
    rounds = plan.channel.repeat
    if rounds == "forever" or plan.from_stdin:
        return None
    if plan.payload is not None:
        return status.counters.sent / rounds
    try:
        size = os.stat(plan.channel.source.label).st_size
    except OSError:
        return None
    done = status.counters.rounds + status.position / size if size else 0.0
    return min(1.0, done / rounds)
