"""``mcastctl send --flute``: the daemon's own channel of whole files, of a file or a directory."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping

from mcastd import clock
from mcastd.adhoc import Refused, file_report
from mcastd.adhoc.file_keys import keep_serials
from mcastd.adhoc.send import DEFAULT_RATE, PROGRESS_SECONDS
from mcastd.adhoc.session import INTERRUPTED, Session
from mcastd.adhoc.settings import configure_sender, endpoint
from mcastd.adhoc.sources import Outgoing
from mcastd.config import Config, FluteOutbound
from mcastd.console.live import write_all
from mcastd.makers import Parts, open_sender
from mcastd.status import ChannelStatus


def settings(
    group: str, path: str, *, protocol: Mapping[str, object], channel: Mapping[str, object]
) -> Config:
    """The configuration of one channel, from the command line: its settings, and those of its protocol.

    They are None where nothing is said. Raises Refused.
    """
    if path == "-":
        raise Refused("--flute sends a file or a directory: standard input is neither")
    address, port = endpoint(group)
    said = {key: value for key, value in protocol.items() if value is not None}
    flute = {"kind": "flute", **said}
    named = {"group": address, "port": port, "source": os.path.abspath(path), "protocol": flute}
    rate = channel.get("rate")
    return configure_sender({**named, **channel, "rate": DEFAULT_RATE if rate is None else rate})


def send(config: Config, *, as_json: bool) -> int:
    """Send until all passes have gone, or until told to stop; the exit status.

    0: all files went. 1: a file was not sent, or a datagram dropped. 128 and the number of the signal that
    ended what has an end of its own. Raises McastdError.
    """
    keep_serials()
    outgoing = Outgoing(numbers=False)
    parts = Parts(open_sender=lambda *settings: outgoing.by(open_sender(*settings)))
    with Session(config, parts) as session:
        _watch(session, config)
        status = session.status(ChannelStatus)
    result = file_report.sent(session.status(ChannelStatus), status, outgoing.last - outgoing.first)
    for line in file_report.sent_lines(result):
        session.line.say(line)
    if as_json:
        write_all(sys.stdout.fileno(), json.dumps({"summary": result}).encode() + b"\n")
    if session.ended_by and config.outbound["send"].repeat != "forever":
        return INTERRUPTED + session.ended_by
    return 0 if file_report.all_sent(result) else 1


def _watch(session: Session, config: Config) -> None:
    """Until the end: show the progress."""
    line, channel = session.line, config.outbound["send"]
    if line.on:
        assert isinstance(channel.protocol, FluteOutbound)
        status = session.status(ChannelStatus)
        for words in file_report.beginning(status, channel.rate or 0, channel.protocol):
            line.say(words)
    since, size = session.began, 0
    while session.view().state != "finished" and session.wait(
        since + PROGRESS_SECONDS if line.on else math.inf
    ):
        now = clock.monotonic()
        if line.on and now >= since + PROGRESS_SECONDS:
            status = session.status(ChannelStatus)
            bits = 8 * (status.counters.sent_bytes - size) / (now - since)
            line.show(file_report.going(status, bits, now - session.began))
            since, size = now, status.counters.sent_bytes
