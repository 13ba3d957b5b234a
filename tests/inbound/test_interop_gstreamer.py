"""RTP over a bad network that GStreamer makes (netsim), as tshark and we count it."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import programs
import pytest
from support.daemon import RunningDaemon
from support.ports import free_port
from support.programs import program
from support.wait import wait_for

from mcastd.sequence.order import MAX_MISORDER

GROUP, PORT = "239.255.9.7", 9197
COUNT, SSRC, PAYLOAD_BYTES = 1200, 0x1234ABCD, 200
# The sequence number wraps among them.
FIRST = 65_000
# A second without news: what the network delays by some milliseconds has come.
SETTLED_SECONDS = 2.0  # more than a number is waited for: LATE_SECONDS
# Of two ways that lose a twentieth each, reordertp (multicat) has 0.26 % left: what both lose.
LEFT_MAX = COUNT // 100


def packet(number: int) -> bytes:
    """Of MPEG-TS, 90 steps of its clock after the one before it: one in a millisecond."""
    head = struct.pack(">BBHII", 0x80, 33, (FIRST + number) % 65_536, 90 * number, SSRC)
    return head + b"%06d" % number + bytes(PAYLOAD_BYTES - 6)


@contextlib.contextmanager
def network(into: int, faults: str, groups: Sequence[str] = (GROUP,)) -> Iterator[None]:
    """Datagrams to a port go to each group, unless something happens to them on the way to that."""
    ways = " ".join(
        f"t. ! queue ! netsim {faults} ! udpsink host={group} port={PORT}"
        " auto-multicast=true multicast-iface=lo sync=false async=false"
        for group in groups
    )
    pipeline = f"udpsrc address=127.0.0.1 port={into} caps=application/x-rtp ! tee name=t {ways}"
    for plugin in programs.GSTREAMER_PLUGINS:
        program(plugin)
    gst = subprocess.Popen(["timeout", "60", program("gst-launch-1.0"), "-q", *pipeline.split()])
    try:
        yield
    finally:
        gst.terminate()
        gst.wait(30)


def send(into: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", into))

        def is_there() -> bool:
            """A datagram to a port that nobody has is refused, which the next one is told."""
            try:
                sender.send(b"")
                time.sleep(0.01)
                sender.send(b"")
            except ConnectionRefusedError:
                return False
            return True

        wait_for(is_there, "GStreamer")
        begin = time.monotonic()
        for number in range(COUNT):
            time.sleep(max(0.0, begin + 0.001 * number - time.monotonic()))
            sender.send(packet(number))


def settled(daemon: RunningDaemon) -> dict[str, Any]:
    """The status of the subscription when nothing comes any more, and nothing is waited for."""

    def look() -> dict[str, Any] | None:
        before = daemon.worker("inbound/tv")["status"]
        time.sleep(SETTLED_SECONDS)
        after = daemon.worker("inbound/tv")["status"]
        same = before["counters"] == after["counters"] and not after["counters"]["held"]
        return after if same and after["counters"]["received"] > 0.9 * COUNT else None

    found = wait_for(look, "the end")
    assert found is not None
    return found


def streams(capture: Path, *options: str) -> list[str]:
    as_rtp = ["-d", f"udp.port=={PORT},rtp", *options]
    command = [program("tshark"), "-n", "-r", str(capture), *as_rtp]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()


def far_behind(places: Sequence[int]) -> set[int]:
    """Those that come when a hundred later ones have come: they count as lost, and are strays."""
    highest, found, seen = -1, set[int](), set[int]()
    for place in places:
        if place <= highest - MAX_MISORDER and place not in seen:
            found.add(place)
        seen.add(place)
        highest = max(highest, place)
    return found


@pytest.mark.parametrize(
    "faults",
    [
        "drop-probability=0",
        "drop-probability=0.02",
        "drop-probability=0.02 duplicate-probability=0.02 delay-probability=0.03 min-delay=2 max-delay=8",
    ],
    ids=["none", "drop", "all"],
)
def test_it_is_in_order_and_only_what_was_dropped_is_lost(tmp_path: Path, faults: str) -> None:
    table = f'group = "{GROUP}"\nport = {PORT}\ninterface = "lo"\ncoalesce = false\n'
    config = f"""
[inbound.tv]
{table}protocol = "rtp"
reorder = "500ms"
output = {{ kind = "file", path = "{tmp_path}/tv.ts", format = "payload" }}
[inbound.all]
{table}output = {{ kind = "file", path = "{tmp_path}/all.pcapng", format = "pcapng" }}
"""
    into = free_port()
    with RunningDaemon(tmp_path, config) as daemon, network(into, faults):
        send(into)
        status = settled(daemon)
        wait_for(lambda: daemon.worker("inbound/all")["status"]["counters"]["received"] >= 0.9 * COUNT)
    counters, (sender,) = status["sequence"]["counters"], status["sequence"]["senders"]
    came = streams(tmp_path / "all.pcapng", "-Y", "rtp", "-T", "fields", "-e", "rtp.seq")
    written = (tmp_path / "tv.ts").read_bytes()
    numbers = [int(written[at : at + 6]) for at in range(0, len(written), PAYLOAD_BYTES)]
    places = [(int(number) - FIRST) % 65_536 for number in came]
    # A busy machine may delay some by far more than it is told
    behind = far_behind(places)
    arrived = {place for place in places if place >= numbers[0]} - behind
    # Two in a row begin the stream: one before them that comes first is a stray, and later a duplicate
    early = [place for place in places if place < numbers[0]]
    lost_before = numbers[0] - min(places) - len(set(early))
    # Of what is dropped before the first or after the last that comes, nobody knows
    assert counters["lost"] == max(arrived) - min(arrived) + 1 - len(arrived)
    dropped = status["counters"]["dropped"]
    assert counters["duplicated"] == dropped.get("duplicate", 0)
    assert counters["duplicated"] + dropped.get("stray", 0) == len(places) - len(arrived) >= len(early)
    assert behind <= {*range(numbers[0], numbers[-1])}
    assert numbers == sorted(arrived)
    assert (counters["lost"] > 0) == ("0.02" in faults)
    if "delay" in faults:
        assert counters["reordered"] > 0
        return
    table = " ".join(streams(tmp_path / "all.pcapng", "-q", "-z", "rtp,streams"))
    found = re.search(r" (-?\d+) \([-.0-9]+%\)" + 6 * r" ([.0-9]+)", table)
    assert found is not None, table
    lost, *_, mean, most = found.groups()
    jitter = sender["jitter"]
    counted = int(lost) - lost_before, counters["duplicated"], counters["reordered"]
    assert counted == (counters["lost"], 0, 0)
    assert float(most) == pytest.approx(jitter["most_ms"], abs=0.0011)
    if not counters["lost"]:  # else the mean of tshark has the numbers that are missing in it
        assert float(mean) == pytest.approx(jitter["mean_ms"], abs=0.0011)


def test_what_one_way_loses_comes_by_the_other(tmp_path: Path) -> None:
    groups = GROUP, "239.255.9.8"
    legs = ", ".join(f'{{ group = "{group}", port = {PORT}, interface = "lo" }}' for group in groups)
    config = f"""
[inbound.tv]
legs = [{legs}]
protocol = "rtp"
max_skew = "500ms"
coalesce = false
output = {{ kind = "file", path = "{tmp_path}/tv.ts", format = "payload" }}
"""
    into = free_port()
    with RunningDaemon(tmp_path, config) as daemon, network(into, "drop-probability=0.05", groups):
        send(into)
        status = settled(daemon)
    left, right = status["legs"]
    lost = status["sequence"]["counters"]["lost"]
    written = (tmp_path / "tv.ts").read_bytes()
    numbers = [int(written[at : at + 6]) for at in range(0, len(written), PAYLOAD_BYTES)]
    assert numbers == sorted({*numbers}), "in order, each once"
    assert numbers[-1] - numbers[0] + 1 - len(numbers) == lost <= LEFT_MAX
    for leg in (left, right):
        assert 0.02 * COUNT < leg["lost"] < 0.09 * COUNT
        assert leg["received"] > 0.9 * COUNT
    assert left["first"] + right["first"] == len(numbers)
    dropped = status["counters"]["dropped"]
    # What was before the first, if only one way had that, is late; and each way has what looks for GStreamer
    assert dropped.keys() <= {"other-leg", "late", "stray", "not-rtp"}
    assert sum(dropped.values()) + len(numbers) == left["received"] + right["received"]
    assert (status["shared_interface"], status["shared_sender"]) == ("lo", left["sender"])
