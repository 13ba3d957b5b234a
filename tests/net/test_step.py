"""What one step takes of a subscription, a visit of the shared reader that finds a few datagrams, or of a
channel that is fed by others; and a visit of the shared sender.

At ten thousand datagrams a second there are a thousand such steps a second, each with cold caches: then each
function that is called costs about as much as a datagram.
"""

from __future__ import annotations

import ipaddress
import itertools
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from support.calls import counted_calls
from support.host import ip
from support.subscription import VisitedByHand
from support.wait import wait_for

from mcastd.config import InboundSubscription, OutboundChannel
from mcastd.inbound.subscription import Subscription
from mcastd.makers import Parts, build
from mcastd.net.payloads import ListPayloads
from mcastd.net.sender import SocketSender
from mcastd.net.sockets import free_port
from mcastd.outbound.channel import Channel
from mcastd.outbound.plan import BurstPlan
from mcastd.worker import Context, Signal

GROUP, OTHER_GROUP = "239.255.14.1", "239.255.14.2"
SENDER = "127.0.1.14"  # not the address that an output to a group has on the interface
DATAGRAMS = 10
VISITS = 6


@pytest.fixture
def stack(no_fd_leak: None) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def calls_of_a_step(stack: ExitStack, output: dict[str, object], **keys: Any) -> Counter[str]:
    """The functions of mcastd that a visit calls, if nothing else is due. ``keys`` are more settings."""
    ip(f"addr add {SENDER}/32 dev lo")
    stack.callback(ip, f"addr del {SENDER}/32 dev lo")
    port = free_port()
    reader, ready = VisitedByHand(), threading.Event()
    stack.callback(reader.close)
    context = Context(ready.set).open()
    stack.callback(context.close)
    to = {"group": GROUP, "port": port, "interface": "lo", "sources": [SENDER]}
    config = InboundSubscription.model_validate({**to, "output": [output], **keys})
    worker = build("inbound/step", config, Parts(reader=reader))
    assert isinstance(worker, Subscription)
    thread = threading.Thread(target=worker.run, args=(context,))
    thread.start()
    stack.callback(worker.close)
    stack.callback(thread.join)
    stack.callback(context.send, Signal.STOP)
    sender = SocketSender(ipaddress.ip_address(GROUP), port, interface=SENDER)
    stack.callback(sender.close)
    wait_for(lambda: reader.visited is not None, "its turn")
    visited = reader.visited
    assert visited is not None
    visits: list[Counter[str]] = []
    link = worker._turns.link
    assert link is not None
    numbers = itertools.count(65_530)
    for _ in range(VISITS):  # the first ones learn, and open; any may find that it is time to look at a path
        for number in itertools.islice(numbers, DATAGRAMS):  # each by itself
            head = struct.pack(">BBHII", 0x80, 33, number % 65_536, 24 * number, 7)
            sender.send(ListPayloads([head.ljust(1316, b".")]))
        wait_for(lambda: select.select([link], [], [], 0)[0], "datagrams")
        with counted_calls() as counts:
            taken = visited.visit(True)
        assert taken == DATAGRAMS
        visits.append(counts)
    (sink,) = worker.sinks
    sent = VISITS * DATAGRAMS
    assert (sink.counters.written, sink.counters.written_bytes) == (sent, sent * 1316)
    return min(visits, key=Counter.total)


def test_a_step_of_an_output_to_a_group(stack: ExitStack) -> None:
    output = {"kind": "group", "group": OTHER_GROUP, "port": 9, "interface": "lo", "ttl": 1, "loop": False}
    calls = calls_of_a_step(stack, output)
    assert calls.total() <= 30, calls


def test_a_step_of_a_raw_file(stack: ExitStack, tmp_path: Path) -> None:
    calls = calls_of_a_step(stack, {"kind": "file", "path": tmp_path / "out"})
    assert calls.total() <= 7, calls


def test_a_step_of_rtp_that_is_in_order(stack: ExitStack, tmp_path: Path) -> None:
    output = {"kind": "file", "path": tmp_path / "out"}
    calls = calls_of_a_step(stack, output, protocol={"kind": "rtp", "jitter": False}, reorder=0)
    assert calls.total() <= 25, calls


def test_a_step_of_a_channel_that_is_fed_by_udp(stack: ExitStack) -> None:
    at = "127.0.0.1", free_port()
    source = {"kind": "udp", "listen": f"{at[0]}:{at[1]}"}
    to = {"group": OTHER_GROUP, "port": 9, "interface": "lo", "loop": False}
    channel = build("outbound/step", OutboundChannel.model_validate({"source": source, **to}), Parts())
    assert isinstance(channel, Channel)
    stack.callback(channel.close)
    context = Context().open()
    stack.callback(context.close)
    link = stack.enter_context(closing(SocketSender(ipaddress.ip_address(OTHER_GROUP), 9, interface="lo")))
    outlet, opened = channel._outlet, channel._source
    assert not outlet.refill(context)
    feeder = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    feeder.connect(at)
    steps: list[Counter[str]] = []
    for _ in range(VISITS):
        for _ in range(DATAGRAMS):
            feeder.send(bytes(1316))
        wait_for(lambda: select.select([opened.fileno()], [], [], 0)[0], "datagrams")
        with counted_calls() as counts:
            outlet.send_due(context, link)
            channel._report(context, link)
        steps.append(counts)
    assert outlet.counters.sent == VISITS * DATAGRAMS
    calls = min(steps, key=Counter.total)
    assert calls.total() <= 36, calls


def test_a_visit_of_a_paced_channel_and_each_burst_of_its_plan(stack: ExitStack, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(1316) * 1000)
    to = {"group": OTHER_GROUP, "port": 9, "interface": "lo", "loop": False}
    pace = {"framing": "chunk", "max_datagram": 1316, "rate": "8Mbit", "repeat": "forever"}
    channel = build(
        "outbound/step", OutboundChannel.model_validate({"source": source, **to, **pace}), Parts()
    )
    assert isinstance(channel, Channel)
    stack.callback(channel.close)
    context = Context().open()
    stack.callback(context.close)
    link = stack.enter_context(closing(SocketSender(ipaddress.ip_address(OTHER_GROUP), 9, interface="lo")))
    outlet = channel._outlet
    outlet.send_due(context, link)  # opens the file
    outlet.send_due(context, link)  # the first datagram begins the schedule
    visits: list[Counter[str]] = []
    more_than_bursts = []  # calls in a plan; what was late has to be counted, too
    for _ in range(VISITS):
        with counted_calls() as counts:
            plan = outlet.visit(context, link, crowded=True)
        visits.append(counts)
        assert isinstance(plan, BurstPlan)
        with counted_calls() as counts:
            bursts = sum(1 for _ in plan)
        assert bursts > 1
        more_than_bursts.append(counts.total() - bursts)
    assert min(more_than_bursts) <= 2
    calls = min(visits, key=Counter.total)
    assert calls.total() <= 34, calls
