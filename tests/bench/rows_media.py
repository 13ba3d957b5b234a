"""The row on films: how close to its clock each packet of a transport stream is sent, beside other players.

One plays at a time, and dumpcap sees it at the other host. All have the same film: constant rate, a clock
value every 20 ms. Where it is permitted, and not quick, all have a real-time priority in a second part.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

import dpkt
from support.programs import program
from support.transport import film

from bench.context import Bench
from bench.daemon import Daemon, channel
from bench.lab import INTERFACE, SENDER, Address, Lab
from bench.measure import Samples, middle, ratio
from bench.processes import REAL_TIME, has_real_time
from bench.report import Check, Result, at_most
from mcastd.protocols import ts

RATES = {"8M": 8_000_000, "40M": 40_000_000}  # bits a second, by what the film is made with
SKIPPED = 0.5  # seconds at the beginning: each player starts in its own way
FIRST_PID = 256  # of the pictures of a film that ffmpeg has made; they have the clock
DATAGRAM = 1316
ETHERNET, IPV4, UDP = 14, 20, 8  # bytes of headers
TOLERABLE = 100  # us
CLOCKS_MIN = 20  # values in a second, of some 50: of fewer nothing is told
C = "C sendto"


class Seen(NamedTuple):
    when: float  # seconds
    payload: bytes


class Show(NamedTuple):
    """What is to be played."""

    lab: Lab
    film: Path
    to: Address
    rate: str  # a key of RATES
    priority: Sequence[str]  # what a command begins with to have it


class Player(NamedTuple):
    """Begins to play, until the stack is unwound."""

    name: str
    play: Callable[[Show, contextlib.ExitStack], None]


def spread(seen: Sequence[Seen], rate: float) -> dict[str, float]:
    """How far clock values are from their time, in us, peak to peak: in the middle one of all seconds, and in
    the worst.

    A clock value is taken at its place in its datagram, since all of that arrives at once. Rates of two
    clocks differ: the line through all values of a second (least squares) is their time.
    """
    start = seen[0].when + SKIPPED
    seconds: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for one in seen:
        if one.when >= start:
            for sample in ts.clocks(one.payload):
                seconds[int(one.when - start)].append(
                    (sample.pcr / ts.PCR_HZ - sample.at * 8 / rate, one.when)
                )
    spreads = [_peak_to_peak(points) for points in seconds.values() if len(points) >= CLOCKS_MIN]
    return {"spread_us": median(spreads), "worst_us": max(spreads)} if spreads else {}


def _peak_to_peak(points: Sequence[tuple[float, float]]) -> float:
    x_mean, y_mean = fmean(x for x, _ in points), fmean(y for _, y in points)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in points) / sum((x - x_mean) ** 2 for x, _ in points)
    off = [1e6 * (y - y_mean - slope * (x - x_mean)) for x, y in points]
    return max(off) - min(off)


def read(capture: Path, port: int) -> list[Seen]:
    with capture.open("rb") as file:
        return [
            Seen(float(when), frame[ETHERNET + IPV4 + UDP :])
            for when, frame in dpkt.pcapng.Reader(file)
            if int.from_bytes(frame[ETHERNET + IPV4 + 2 :][:2]) == port
        ]


def _program(name: str, words: Callable[[Show], Sequence[str]]) -> Player:
    """A program that is started for it, by these words."""

    def play(show: Show, stack: contextlib.ExitStack) -> None:
        command, *arguments = words(show)
        show.lab.start(show.lab.sender, *show.priority, program(command), *arguments, stack=stack)

    return Player(name, play)


def _c(show: Show) -> Sequence[str]:
    """Each datagram at its time by the rate, in 40 lines of C: what this machine's timers can do."""
    to = (show.to.group, str(show.to.port))
    return (
        show.lab.program("send"),
        str(show.film),
        str(DATAGRAM),
        INTERFACE,
        *to,
        str(RATES[show.rate]),
        "0",
    )


def _multicat(show: Show) -> Sequence[str]:
    return ("multicat", "-u", "-U", str(show.film), f"{show.to.group}:{show.to.port}")


def _ffmpeg(show: Show) -> Sequence[str]:
    url = f"udp://{show.to.group}:{show.to.port}?pkt_size={DATAGRAM}&localaddr={SENDER}"
    reading = ("-v", "error", "-re", "-i", str(show.film), "-map", "0", "-c", "copy", "-muxrate", show.rate)
    return ("ffmpeg", *reading, "-f", "mpegts", url)


def _ffmpeg_at_rate(show: Show) -> Sequence[str]:
    *command, url = _ffmpeg(show)
    return (*command, f"{url}&bitrate={RATES[show.rate]}&burst_bits={8 * DATAGRAM}")


def _gstreamer(show: Show) -> Sequence[str]:
    to = (f"host={show.to.group}", f"port={show.to.port}", f"multicast-iface={INTERFACE}", "sync=true")
    stamped = ("tsparse", "set-timestamps=true", "alignment=7")
    return ("gst-launch-1.0", "-q", "filesrc", f"location={show.film}", "!", *stamped, "!", "udpsink", *to)


def _mcastd(bench: Bench) -> Player:
    def play(show: Show, stack: contextlib.ExitStack) -> None:
        settings = {"framing": '"ts"', "timing": '"pcr"'}
        text = channel("tv", *show.to, show.film, settings)
        daemon = Daemon(show.lab, bench.checkout, text, stack, host=show.lab.sender)
        if show.priority:
            stack.enter_context(daemon.program.at_real_time())

    return Player("mcastd", play)


def _of_rate(bench: Bench, rate: str, priority: Sequence[str]) -> Samples:
    lab, seconds = bench.lab, bench.choose(8.0, 2.0)
    path = film(lab.new_path("film"), seconds=seconds + SKIPPED + 3, muxrate=rate)
    aux = [program("ingests"), "-p", str(FIRST_PID), str(path)]
    subprocess.run(aux, check=True, capture_output=True, timeout=60)

    def run(player: Player) -> dict[str, float]:
        to, capture = lab.new_address(), lab.new_path("wire")
        with contextlib.ExitStack() as stack:
            lab.keep_awake(stack)
            filtered = ("-q", "-i", INTERFACE, "-f", f"udp port {to.port}", "-w", str(capture))
            dumpcap = lab.start(lab.receiver, program("dumpcap"), *filtered, stack=stack)
            lab.wait_for(lambda: capture.exists() and capture.stat().st_size > 0, "dumpcap's file")
            empty = capture.stat().st_size
            player.play(Show(lab, path, to, rate, priority), stack)
            lab.wait_for(lambda: capture.stat().st_size > empty, f"the first datagrams of {player.name}")
            time.sleep(seconds + SKIPPED)
            dumpcap.stop()
        seen = read(capture, to.port)
        capture.unlink()
        return spread(seen, RATES[rate]) if seen else {}

    players = (
        _mcastd(bench),
        _program(C, _c),
        _program("multicat", _multicat),
        _program("ffmpeg -re", _ffmpeg),
        _program("ffmpeg bitrate=", _ffmpeg_at_rate),
        _program("gst", _gstreamer),
    )
    what = f"a film of {rate}bit/s" + (", real-time priority" if priority else "")
    try:
        return bench.interleave(what, {player.name: lambda player=player: run(player) for player in players})
    finally:
        path.unlink()


def films(bench: Bench) -> list[Result]:
    """A film of 8 and of 40 Mbit/s, by its clock."""
    results = []
    for priority in ((), REAL_TIME) if bench.choose(True, False) and has_real_time() else ((),):
        for rate in RATES:
            samples = _of_rate(bench, rate, priority)
            of_multicat, least = (ratio(samples, name, "multicat", "spread_us") for name in ("mcastd", C))
            checks: list[Check] = [
                at_most("spread of multicat's", of_multicat, 0.5 if priority else 1, of_c=least)
            ]
            if priority:
                ours, least = (middle(samples, name, "spread_us") for name in ("mcastd", C))
                checks.append(at_most("spread", ours, TOLERABLE, " us", of_c=least))
            shown = (
                f"{name} {value:,.0f}"
                for name in samples
                if (value := middle(samples, name, "spread_us")) is not None
            )
            results.append(
                Result(
                    f"a film of {rate}bit/s" + (", SCHED_FIFO" if priority else ""),
                    samples,
                    checks,
                    notes=[f"us from the earliest to the latest clock value of a second: {'; '.join(shown)}"],
                )
            )
    return results
