"""Rows on what comes by unicast and goes out as multicast: by UDP, by TCP, and by sockets at a path."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from support.programs import program

from bench.context import Bench
from bench.daemon import Daemon
from bench.lab import RECEIVER, Address
from bench.measure import Samples, ratio
from bench.processes import Program
from bench.report import Check, Result, at_most, times
from bench.rows_relay import BUFFER, OUT, OUT_ADDRESS, arrived, second_wire

FEEDING = Path(__file__).with_name("feeding.py")
SIZE = 1316
# Datagrams a second by UDP, and what is to be reached of multicat's CPU, as for what is relayed.
RATES = {10_000: 1.1, 100_000: 0.7}
# Of socat's CPU, for what programs of this host send as fast as it is taken.
GOAL = 1.0
STREAMS = ("tcp", "unix", "unix-stream")


def sources(bench: Bench) -> list[Result]:
    """By UDP at two rates; by the others as fast as it goes."""
    with second_wire(bench):
        results = [_by_udp(bench, rate, goal) for rate, goal in RATES.items()]
        return [*results, *(_by_program(bench, kind) for kind in STREAMS)]


def _channel(bench: Bench, source: str, more: str, stack: contextlib.ExitStack) -> Program:
    group, port = bench.lab.new_address()
    text = f"""[outbound.one]
source = {source}
group = "{group}"
port = {port}
interface = "{OUT}"
ttl = 8
loop = false
{more}
"""
    daemon = Daemon(bench.lab, bench.checkout, text, stack)
    daemon.wait_state("outbound/one", "active")
    return daemon.program


def _given(to: Address) -> str:
    """Where socat sends datagrams."""
    return f"UDP4-DATAGRAM:{to.group}:{to.port},ip-multicast-if={OUT_ADDRESS},ip-multicast-loop=0"


# -- by UDP: what another host sends


def _by_udp(bench: Bench, rate: int, goal: float) -> Result:
    lab = bench.lab
    ends = {name: Address(RECEIVER, lab.new_address().port) for name in ("mcastd", "multicat", "socat")}
    env = {"LD_PRELOAD": lab.program("rcvbuf.so"), "RCVBUF": str(BUFFER)}
    with contextlib.ExitStack() as stack:
        source = f'{{ kind = "udp", listen = "{RECEIVER}:{ends["mcastd"].port}" }}'
        to, other = lab.new_address(), lab.new_address()
        multicat = (f"@{RECEIVER}:{ends['multicat'].port}", f"{to.group}:{to.port}@{OUT_ADDRESS}")
        socat = f"UDP4-RECV:{ends['socat'].port},bind={RECEIVER}"
        programs = {
            "mcastd": _channel(bench, source, "", stack),
            "multicat": lab.start(
                lab.receiver, program("multicat"), "-u", "-U", *multicat, stack=stack, env=env
            ),
            "socat": lab.start(
                lab.receiver, program("socat"), "-u", socat, _given(other), stack=stack, env=env
            ),
        }
        for name, end in ends.items():
            lab.wait_for(partial(_has_port, bench, end.port), f"the port of {name}")
        contestants = {
            name: partial(_sent_by_udp, bench, one, ends[name], rate) for name, one in programs.items()
        }
        samples = bench.interleave(f"source udp at {rate:,}/s", contestants)
    return _result(f"source by UDP, {SIZE} B at {rate:,}/s", samples, "multicat", goal)


def _has_port(bench: Bench, port: int) -> bool:
    return f":{port:04X} " in bench.lab.udp_table()


def _sent_by_udp(bench: Bench, channel: Program, to: Address, rate: int) -> dict[str, float]:
    count = int(rate * bench.choose(1.0, 0.5))
    return _passed(bench, channel, count, lambda: bench.lab.blast(to, size=SIZE, count=count, rate=rate))


# -- by what a program of this host writes


def _by_program(bench: Bench, kind: str) -> Result:
    lab = bench.lab
    with contextlib.ExitStack() as stack:
        place = _place(bench, kind)
        table = {
            "tcp": f'{{ kind = "tcp-server", listen = "{place}" }}',
            "unix": f'{{ kind = "unix", path = "{place}" }}',
            "unix-stream": f'{{ kind = "unix", path = "{place}", type = "stream" }}',
        }[kind]
        cut = "" if kind == "unix" else f'framing = "chunk"\nmax_datagram = {SIZE}'
        channel = _channel(bench, table, cut, stack)
        lab.wait_for(partial(_is_there, bench, kind, place), "the channel's socket")

        def by_socat() -> dict[str, float]:
            """It ends with the connection: so there is one each time."""
            at = _place(bench, kind)
            taken = {
                "tcp": f"TCP4-LISTEN:{at.rpartition(':')[2]},bind={RECEIVER},reuseaddr",
                "unix": f"UNIX-RECV:{at}",
                "unix-stream": f"UNIX-LISTEN:{at}",
            }[kind]
            with contextlib.ExitStack() as one:
                command = (program("socat"), "-u", "-b", str(SIZE), taken, _given(lab.new_address()))
                started = lab.start(lab.receiver, *command, stack=one)
                lab.wait_for(partial(_is_there, bench, kind, at), "socat's socket")
                return _fed(bench, started, kind, at)

        contestants = {"mcastd": lambda: _fed(bench, channel, kind, place), "socat": by_socat}
        samples = bench.interleave(f"source {kind}", contestants)
    return _result(f"source by {kind}, {SIZE} B as fast as it goes", samples, "socat", GOAL)


def _place(bench: Bench, kind: str) -> str:
    lab = bench.lab
    return f"{RECEIVER}:{lab.new_address().port}" if kind == "tcp" else str(lab.new_path("source"))


def _is_there(bench: Bench, kind: str, place: str) -> bool:
    return bench.lab.is_listening(int(place.rpartition(":")[2])) if kind == "tcp" else Path(place).exists()


def _fed(bench: Bench, channel: Program, kind: str, place: str) -> dict[str, float]:
    lab, count = bench.lab, bench.choose(200_000, 20_000)
    with contextlib.ExitStack() as stack:
        command = (bench.checkout.python, str(FEEDING), kind, place, str(count), str(SIZE))

        def feed() -> None:
            lab.start(lab.receiver, *command, stack=stack).wait_ready()

        return _passed(bench, channel, count, feed)


# -- both


def _passed(bench: Bench, channel: Program, count: int, send: Callable[[], object]) -> dict[str, float]:
    """CPU ns of a channel by what it has sent of ``count`` datagrams, in pieces of any size."""
    lab = bench.lab
    lab.wait_quiet(channel.cpu, [], 30, str(channel))
    cpu, before = channel.cpu(), arrived(bench)
    send()
    lab.wait_quiet(channel.cpu, [], 60, str(channel))
    passed = round((arrived(bench) - before) / SIZE)
    return {"cpu": (channel.cpu() - cpu) / max(1, passed), "lost": max(0, count - passed)}


def _result(work: str, samples: Samples, peer: str, goal: float) -> Result:
    ratios = {name: ratio(samples, "mcastd", name, "cpu") for name in samples if name != "mcastd"}
    lost = sum(samples["mcastd"]["lost"])
    return Result(
        work,
        samples,
        [
            at_most(f"CPU of {peer}", ratios[peer], goal),
            Check("nothing lost", f"{lost:.0f} lost", not lost),
        ],
        of_peers="; ".join(f"{name} {times(CPU=value)}" for name, value in ratios.items()),
    )
