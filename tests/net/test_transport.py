"""A film on the wire: at the times of its clock, and without a seam, as programs not ours see it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import programs
import pytest
from support.captures import packets
from support.daemon import RunningDaemon
from support.frames import UdpFrames
from support.host import Host, connect
from support.programs import program
from support.transport import film
from support.wait import wait_for

from mcastd.protocols import ts
from mcastd.protocols.rtp import HEADER_BYTES, MPEG_TS_CLOCK_HZ, TIMESTAMPS, read_packet
from mcastd.protocols.ts import PACKET_BYTES, PCR_HZ

pytestmark = pytest.mark.root
GROUP, PORT = "239.192.1.1", 5004
ROUNDS = 8
PACKETS = 7  # in a datagram
# A machine that has other work may send a datagram that much after its time. Were all rounds sent at once,
# the last one would be seven seconds early.
SPREAD_MAX_SECONDS = 5.0


class Played(NamedTuple):
    times: Sequence[float]  # when each datagram was on the wire, in seconds
    payloads: Sequence[bytes]
    status: dict[str, Any]  # of the channel
    capture: Path


def configuration(source: Path, settings: Mapping[str, object]) -> str:
    keys = {"source": str(source), "group": GROUP, "port": PORT, "interface": "eth0", "framing": "ts"}
    keys |= {"timing": "pcr", **settings}
    return "\n".join(["[outbound.tv]", *(f"{key} = {value!r}" for key, value in keys.items()), ""])


def play(directory: Path, source: Path, **settings: object) -> Played:
    """Have a channel send a film, and dumpcap see it at the other end of a cable."""
    capture = directory / "wire.pcapng"
    datagrams = ROUNDS * -(-source.stat().st_size // (PACKETS * PACKET_BYTES))
    text = configuration(source, {"repeat": ROUNDS, **settings})
    with Host() as left, Host() as right:
        connect(left, "eth0", right, "eth0")
        left.ip("address add 10.0.0.1/24 dev eth0")
        command = [program("dumpcap"), "-q", "-i", "eth0", "-f", f"udp port {PORT}", "-c", str(datagrams)]
        with subprocess.Popen(
            right.enter([*command, "-w", str(capture)]), stderr=subprocess.DEVNULL
        ) as dumpcap:
            try:
                wait_for(lambda: capture.exists() and capture.stat().st_size, "dumpcap's capture begun")
                with RunningDaemon(directory, text, enter=left.enter(())) as daemon:
                    status = daemon.wait_state("outbound/tv", "finished")["status"]
                assert dumpcap.wait(60) == 0
            finally:
                dumpcap.terminate()
    rows = packets(capture, "frame.time_epoch", "udp.payload")
    times, payloads = zip(*((float(time), bytes.fromhex(payload)) for time, payload in rows), strict=True)
    return Played(times, payloads, status, capture)


def assert_in_time(times: Sequence[float], payloads: Sequence[bytes], rate: float) -> None:
    """Each clock value came at its time, but for its place in the datagram, of which all comes at once."""
    places = [
        (time, (sample.pcr / PCR_HZ) - sample.at * 8 / rate)
        for time, payload in zip(times, payloads, strict=True)
        for sample in ts.clocks(payload)
    ]
    assert len(places) > 40
    delays = [time - due for time, due in places]
    assert max(delays) - min(delays) < SPREAD_MAX_SECONDS


def decode(data: bytes, path: Path) -> str:
    """What ffmpeg has to say of a stream."""
    path.write_bytes(data)
    command = [program("ffmpeg"), "-v", "warning", "-i", str(path), "-f", "null", "-"]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=True
    ).stderr


@pytest.mark.parametrize("muxrate", ["1M", None])
def test_a_film_that_is_repeated_comes_in_time_and_has_no_seam(tmp_path: Path, muxrate: str | None) -> None:
    source = film(tmp_path / "film.ts", seconds=1, muxrate=muxrate)
    played = play(tmp_path, source)
    data = b"".join(played.payloads)
    assert len(data) == ROUNDS * source.stat().st_size
    assert {len(payload) % PACKET_BYTES for payload in played.payloads} == {0}
    clocks = [sample.pcr for sample in ts.clocks(data)]
    seconds = (clocks[-1] - clocks[0]) / PCR_HZ
    assert (ROUNDS - 1) * 0.9 < seconds < ROUNDS * 1.1
    assert_in_time(played.times, played.payloads, 8 * len(data) / seconds)
    assert played.status["counters"]["rounds"] == ROUNDS
    assert played.status["rate"] == pytest.approx(8 * len(data) / seconds, rel=0.2)
    assert decode(data, tmp_path / "seen.ts") == ""


def test_gstreamer_receives_it_by_rtp(tmp_path: Path) -> None:
    program(programs.GST_RTP)
    source, seen = film(tmp_path / "film.ts", seconds=1), tmp_path / "seen.ts"
    datagrams = -(-source.stat().st_size // (PACKETS * PACKET_BYTES))
    caps = f"application/x-rtp,media=video,clock-rate={MPEG_TS_CLOCK_HZ},encoding-name=MP2T,payload=33"
    receiver = ("udpsrc", f"multicast-group={GROUP}", f"port={PORT}", "multicast-iface=eth0", f"caps={caps}")
    elements = ("!", "rtpjitterbuffer", "!", "rtpmp2tdepay", "!", "filesink", f"location={seen}")
    with Host() as left, Host() as right:
        connect(left, "eth0", right, "eth0")
        for host, address in ((left, "10.0.0.1"), (right, "10.0.0.2")):
            host.ip(f"address add {address}/24 dev eth0")
        counted = (*receiver, f"num-buffers={datagrams}", *elements)
        player = right.start("gst-launch-1.0", "-q", *counted, stdout=subprocess.DEVNULL)
        wait_for(lambda: joined(right), "GStreamer has joined the group")
        settings = {"protocol": "rtp", "repeat": 1}
        with RunningDaemon(tmp_path, configuration(source, settings), enter=left.enter(())) as daemon:
            daemon.wait_state("outbound/tv", "finished")
            assert player.wait(60) == 0
    assert seen.read_bytes() == source.read_bytes()


def test_a_copy_has_the_same_packets_and_goes_on_alone(tmp_path: Path) -> None:
    source, copy = film(tmp_path / "film.ts", seconds=1), "239.193.1.1"
    text = configuration(source, {"protocol": "rtp", "repeat": 1, "interface": "eth1"})
    text += f'copies = [{{ group = "{copy}", interface = "eth0" }}]\n'
    with Host() as left, Host() as right:
        for name, address in (("eth0", "10.0.0.1"), ("eth1", "10.0.1.1")):
            connect(left, name, right, name)
            left.ip(f"address add {address}/24 dev {name}")
        with (
            UdpFrames(right, "eth1", GROUP) as own,
            UdpFrames(right, "eth0", copy) as copied,
            RunningDaemon(tmp_path, text, enter=left.enter(())) as daemon,
        ):
            daemon.wait_state("outbound/tv", "finished")
            wait_for(lambda: len(own.all()) == len(copied.all()) > 0, "both have arrived")
            assert own.payloads() == copied.payloads()
            first, second = daemon.worker("outbound/tv")["status"]["legs"]
            assert first["sent"] == second["sent"] == len(own.all())
            left.ip("link set eth1 down")
            assert daemon.ctl("start-worker", "outbound/tv").returncode == 0
            wait_for(lambda: len(copied.all()) == 2 * len(own.all()), "the other has gone on")
            bodies = [payload[HEADER_BYTES:] for payload in copied.payloads()]
    assert b"".join(bodies) == 2 * source.read_bytes()


def joined(host: Host) -> bool:
    command = host.enter(["ip", "maddress", "show", "dev", "eth0"])
    return GROUP in subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def test_rtp_is_complete_and_in_time_over_all_seams(tmp_path: Path) -> None:
    source = film(tmp_path / "film.ts", seconds=1)
    played = play(tmp_path, source, protocol="rtp")
    bodies = [payload[HEADER_BYTES:] for payload in played.payloads]
    assert decode(b"".join(bodies), tmp_path / "seen.ts") == ""
    command = [program("tshark"), "-n", "-r", str(played.capture), "-d", f"udp.port=={PORT},rtp"]
    ran = subprocess.run(
        [*command, "-q", "-z", "rtp,streams"], capture_output=True, text=True, timeout=60, check=True
    )
    (row,) = [line.split() for line in ran.stdout.splitlines() if GROUP in line]
    assert str(len(bodies)) in row
    assert row[row.index(str(len(bodies))) + 1 :][:2] == ["0", "(0.0%)"], ran.stdout
    headers = [packet for packet in map(read_packet, played.payloads) if packet is not None]
    stamps = [(packet.timestamp - headers[0].timestamp) % TIMESTAMPS / MPEG_TS_CLOCK_HZ for packet in headers]
    delays = [time - stamp for time, stamp in zip(played.times, stamps, strict=True)]
    assert max(delays) - min(delays) < SPREAD_MAX_SECONDS
    clocks = [
        (stamp, sample.pcr / PCR_HZ)
        for stamp, body in zip(stamps, bodies, strict=True)
        for sample in ts.clocks(body)
    ]
    (first, first_pcr), (last, last_pcr) = clocks[0], clocks[-1]
    assert last - first == pytest.approx(last_pcr - first_pcr, rel=0.01)
