"""Rows on recordings: what it costs to write one, and how true one is sent again."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Address, ip_address

from support.programs import program

from bench.context import Bench
from bench.daemon import Daemon, channel
from bench.lab import INTERFACE, SENDER, Address
from bench.measure import middle, ratio, steady
from bench.processes import REAL_TIME, has_real_time
from bench.receivers import Receiver
from bench.report import Check, Result, at_most, times
from bench.rows_receive import with_dumpcap
from bench.rows_send import Probe
from bench.rows_time import one_by_one, percentile
from bench.sending import random_file
from mcastd.config.groups import ethernet_address
from mcastd.protocols.pcapng import udp_headers

RATES = (10_000, 100_000)
SIZE = 1316
PCAPNG = "mcastd, pcapng"
C_EVENLY = "C sendto, evenly"
URGENT, URGENT_C = "mcastd, real-time priority", "C sendto, evenly, real-time priority"
BETWEEN = 256_000  # ns: 41 Mbit/s
WAVE = (0, 40_000, -30_000, 90_000, 10_000)  # ns by which datagrams came later than evenly, one after another
BEGAN = 1_764_019_199_000_000_000  # ns since the epoch
# On a machine that is not quiet the daemon takes longer than the recording.
SENT_WITHIN_SECONDS = 60.0


def record(bench: Bench) -> list[Result]:
    """At steady rates: CPU of raw and pcapng files, and of dumpcap."""
    return [_record(bench, rate) for rate in RATES]


def _record(bench: Bench, rate: int) -> Result:
    seconds = bench.choose(1.0, 0.5)

    def run(receiver: Receiver) -> dict[str, float]:
        return steady(receiver, size=SIZE, rate=rate, seconds=seconds)

    with contextlib.ExitStack() as stack:
        cast = bench.cast(stack)
        receivers = [cast.mcastd(), cast.mcastd(form="pcapng", name=PCAPNG)]
        contestants: dict[str, Callable[[], dict[str, float]]] = {
            one.name: partial(run, one) for one in receivers
        }
        contestants["dumpcap"] = partial(with_dumpcap, bench, run)
        samples = bench.interleave(f"record {SIZE} B at {rate:,}/s", contestants)
    of_dumpcap, of_raw = (ratio(samples, PCAPNG, name, "cpu") for name in ("dumpcap", "mcastd"))
    lost = sum(samples[PCAPNG]["lost"])
    return Result(
        f"record as pcapng, {SIZE} B at {rate:,}/s",
        samples,
        [
            *([at_most("CPU of dumpcap", of_dumpcap, 2)] if rate == RATES[-1] else []),
            Check("lost: 0", f"{lost:,.0f}", not lost),
        ],
        cpu=middle(samples, PCAPNG, "cpu"),
        of_peers=f"dumpcap {times(CPU=of_dumpcap)}; raw {times(CPU=of_raw)}",
    )


def replay(bench: Bench) -> list[Result]:
    """A recording of an uneven stream, sent by the daemon and by tcpreplay: how far from its times."""
    lab = bench.lab
    count = bench.choose(16_000, 6_000)
    came = [n * BETWEEN + WAVE[n % len(WAVE)] for n in range(count)]
    with contextlib.ExitStack() as stack:
        to, other, third = (lab.new_address() for _ in range(3))
        ours, theirs, evenly = (Probe(lab, address, stack) for address in (to, other, third))
        files = [lab.new_path(f"recording{n}") for n in range(2)]
        for path, address in zip(files, (to, other), strict=True):
            path.write_bytes(recording(address, came))
            stack.callback(path.unlink)
        plain = random_file(lab.new_path("file"), SIZE * count)
        stack.callback(plain.unlink)

        def mcastd(*, real_time: bool = False) -> dict[str, float]:
            with contextlib.ExitStack() as run:
                lab.keep_awake(run)
                settings = {"framing": '"capture"', "timing": '"capture"'}
                daemon = Daemon(
                    lab, bench.checkout, channel("again", *to, files[0], settings), run, host=lab.sender
                )
                if real_time:
                    run.enter_context(daemon.program.at_real_time())
                before = daemon.program.cpu()
                deadline = time.monotonic() + SENT_WITHIN_SECONDS
                while _sent(daemon) < count and time.monotonic() < deadline:
                    time.sleep(0.2)
                cpu = daemon.program.cpu() - before
            return {**_off(ours, came), "cpu": cpu / count}

        def tcpreplay() -> dict[str, float]:
            with contextlib.ExitStack() as run:
                command = (program("tcpreplay"), "--intf1", INTERFACE, str(files[1]))
                lab.start(lab.sender, *command, stack=run).process.wait(60)
            return _off(theirs, came)

        def in_c(priority: Sequence[str] = ()) -> dict[str, float]:
            at_its_time = str(SIZE * 8e9 / BETWEEN), "0"
            command = (lab.program("send"), str(plain), str(SIZE), INTERFACE, third.group, str(third.port))
            with contextlib.ExitStack() as run:
                lab.keep_awake(run)
                lab.start(lab.sender, *priority, *command, *at_its_time, stack=run).process.wait(60)
            return _off(evenly, range(0, count * BETWEEN, BETWEEN))

        players: dict[str, Callable[[], dict[str, float]]] = {
            "mcastd": mcastd,
            "tcpreplay": tcpreplay,
            C_EVENLY: in_c,
        }
        if has_real_time():
            players[URGENT] = partial(mcastd, real_time=True)
            players[URGENT_C] = partial(in_c, REAL_TIME)
        samples = bench.interleave("replay", players)
    p99, peer, of_c, urgent_p99, urgent_of_c = (
        middle(samples, name, "p99_us") for name in ("mcastd", "tcpreplay", C_EVENLY, URGENT, URGENT_C)
    )
    checks: list[Check] = [at_most("p99 off", p99, 100, " us", of_c=of_c)]
    if URGENT in players:
        checks.append(at_most("p99 off, real-time priority", urgent_p99, 100, " us", of_c=urgent_of_c))
    return [
        Result(
            f"replay, {SIZE} B, 41 Mbit/s, uneven",
            samples,
            checks,
            cpu=middle(samples, "mcastd", "cpu"),
            of_c="" if of_c is None else f"p99 {of_c:,.0f} us",
            of_peers="" if peer is None else f"tcpreplay: p99 {peer:,.0f} us",
            notes=[
                "off: how far from the recorded distance to the first datagram, without the median of that"
            ],
        )
    ]


def recording(to: Address, came: Sequence[int]) -> bytes:
    """A pcap file of Ethernet, with nanoseconds, of datagrams that came then."""
    group = ip_address(to.group)
    assert isinstance(group, IPv4Address)
    headers = udp_headers((ip_address(SENDER), 40_000), (group, to.port), 1, SIZE)
    frame = ethernet_address(group) + b"\x02\0\0\0\0\x09\x08\0" + headers + bytes(SIZE)
    head = struct.pack("<IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, 65_535, 1)
    records = (
        struct.pack("<IIII", *divmod(BEGAN + at, 1_000_000_000), len(frame), len(frame)) + frame
        for at in came
    )
    return head + b"".join(records)


def _sent(daemon: Daemon) -> int:
    (worker,) = daemon.call("List")["workers"]
    sent: int = worker["status"]["counters"]["sent"]
    return sent


def _off(probe: Probe, came: Sequence[int]) -> dict[str, float]:
    arrivals = one_by_one(probe.arrivals())
    if len(arrivals) != len(came):
        raise RuntimeError(f"{len(arrivals)} of {len(came)} arrived")
    off = [arrived - recorded for arrived, recorded in zip(arrivals, came, strict=True)]
    middle_of_all = percentile(off, 0.5)
    distances = [abs(each - middle_of_all) / 1000 for each in off]
    return {
        "p50_us": percentile(distances, 0.5),
        "p99_us": percentile(distances, 0.99),
        "max_us": max(distances),
    }
