"""Row on what comes by multicast and goes on to another group: an output, and a bridge that relays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from support.host import connect
from support.programs import program

from bench.context import Bench
from bench.daemon import Daemon, subscription
from bench.lab import INTERFACE, MIB, SENDER, SOURCES, Address
from bench.measure import ratio
from bench.processes import Program
from bench.receivers import LEAST
from bench.report import Check, Result, at_most, times

SIZE = 1316
RATES = (10_000, 100_000)
GOALS = {10_000: 1.1, 100_000: 0.7}  # of multicat's CPU
OUT, OUT_ADDRESS, FAR_ADDRESS = "bench1", "10.10.0.1", "10.10.0.2"
BUFFER = 4 * MIB
BRIDGE, BY_KERNEL = "mcastd bridge, relay", "mcastd bridge, kernel"
NO_COST = 0.02  # of multicat's CPU
HEADS_BYTES = 42  # Ethernet, IP, UDP: what segments that go in one piece share


@dataclass(frozen=True)
class Relay:
    """A program that sends on what comes to a group."""

    program: Program
    address: Address


@contextlib.contextmanager
def second_wire(bench: Bench) -> Iterator[None]:
    """By which relayed datagrams leave the receiver's host; nobody at its end wants them."""
    lab = bench.lab
    connect(lab.receiver, OUT, lab.sender, OUT, segments=65_535)
    try:
        lab.receiver.ip(f"addr add {OUT_ADDRESS}/24 dev {OUT}")
        lab.sender.ip(f"addr add {FAR_ADDRESS}/24 dev {OUT}")
        yield
    finally:
        lab.receiver.ip(f"link del {OUT}")


def _by_output(bench: Bench, stack: contextlib.ExitStack) -> Relay:
    address, to = bench.lab.new_address(), bench.lab.new_address()
    way = f'interface = "{OUT}", ttl = 8, loop = false'
    output = f'{{ kind = "group", group = "{to.group}", port = {to.port}, {way} }}'
    text = subscription("one", *address, output, {"sources": f'["{SENDER}"]'})
    return Relay(Daemon(bench.lab, bench.checkout, text, stack).program, address)


def _by_bridge(bench: Bench, stack: contextlib.ExitStack, engine: str) -> Relay:
    address = bench.lab.new_address()
    wanted = f"ports = [{address.port}]\nraise_ttl = true" if engine == "relay" else ""
    text = f"""[bridge.one]
from = "{INTERFACE}"
to = "{OUT}"
groups = ["{address.group}"]
sources = ["{SENDER}"]
engine = "{engine}"
when = "always"
{wanted}
"""
    return Relay(Daemon(bench.lab, bench.checkout, text, stack).program, address)


def _peer(
    bench: Bench, stack: contextlib.ExitStack, command: Callable[[Address, Address], list[str]]
) -> Relay:
    """A program that knows no setting for the buffer; ready when it is a member."""
    lab, address = bench.lab, bench.lab.new_address()
    env = {"LD_PRELOAD": lab.program("rcvbuf.so"), "RCVBUF": str(BUFFER)}
    started = lab.start(lab.receiver, *command(address, lab.new_address()), stack=stack, env=env)
    lab.wait_for(lambda: lab.is_member(address), "its membership")
    return Relay(started, address)


def _least(bench: Bench, stack: contextlib.ExitStack) -> Relay:
    """The least that Python can do."""
    lab, address, to = bench.lab, bench.lab.new_address(), bench.lab.new_address()
    taken = (address.group, str(address.port), INTERFACE, str(BUFFER))
    command = (bench.checkout.python, str(SOURCES / "least_relay.py"), *taken, to.group, str(to.port))
    started = lab.start(lab.receiver, *command, OUT_ADDRESS, stack=stack, ready=True)
    return Relay(started, address)


def _multicat(bench: Bench, address: Address, to: Address) -> list[str]:
    taken = f"@{address.group}:{address.port}/ifindex={bench.lab.ifindex}"
    return [program("multicat"), "-u", "-U", taken, f"{to.group}:{to.port}@{OUT_ADDRESS}"]


def _socat(_: Bench, address: Address, to: Address) -> list[str]:
    group, port = address
    taken = f"UDP4-RECV:{port},bind={group},reuseaddr,ip-add-membership={group}:{INTERFACE}"
    given = f"UDP4-DATAGRAM:{to.group}:{to.port},ip-multicast-if={OUT_ADDRESS},ip-multicast-loop=0"
    return [program("socat"), "-u", taken, given]


def _relayed(bench: Bench, relay: Relay, rate: int) -> dict[str, float]:
    lab, count = bench.lab, int(rate * bench.choose(1.0, 0.5))
    lab.wait_quiet(relay.program.cpu, [relay.address.port], 30, str(relay.program))
    cpu, before = relay.program.cpu(), arrived(bench)
    lab.blast(relay.address, size=SIZE, count=count, mode="packet", rate=rate)
    lab.wait_quiet(relay.program.cpu, [relay.address.port], 30, str(relay.program))
    passed = round((arrived(bench) - before) / SIZE)
    return {"cpu": (relay.program.cpu() - cpu) / max(1, passed), "lost": max(0, count - passed)}


def arrived(bench: Bench) -> int:
    """Bytes of payload that have come by the second wire, in pieces of any size."""
    received, packets = bench.lab.arrived(OUT)
    return received - HEADS_BYTES * packets


def relay(bench: Bench) -> list[Result]:
    """What comes to a group sent on to another one, by another interface."""
    results = []
    for rate in RATES:
        with second_wire(bench), contextlib.ExitStack() as stack:
            relays = {
                "mcastd": _by_output(bench, stack),
                BRIDGE: _by_bridge(bench, stack, "relay"),
                BY_KERNEL: _by_bridge(bench, stack, "kernel"),
                LEAST: _least(bench, stack),
                "multicat": _peer(bench, stack, partial(_multicat, bench)),
                "socat": _peer(bench, stack, partial(_socat, bench)),
            }
            contestants = {name: partial(_relayed, bench, one, rate) for name, one in relays.items()}
            samples = bench.interleave(f"relay at {rate:,}/s", contestants)
        ratios = {name: ratio(samples, "mcastd", name, "cpu") for name in relays if name != "mcastd"}
        bridges = [ratio(samples, name, "multicat", "cpu") for name in (BRIDGE, BY_KERNEL)]
        lost = sum(sum(samples[name]["lost"]) for name in ("mcastd", BRIDGE, BY_KERNEL))
        results.append(
            Result(
                f"relay to another group, 1316 B at {rate:,}/s",
                samples,
                [
                    at_most("CPU of multicat", ratios["multicat"], GOALS[rate]),
                    at_most("a bridge by the kernel: CPU of multicat", bridges[1], NO_COST),
                    Check("nothing lost", f"{lost:.0f} lost", not lost),
                ],
                of_peers="; ".join(f"{name} {times(CPU=ratios[name])}" for name in ("multicat", "socat")),
                notes=[
                    f"an output takes {times(CPU=ratios[LEAST])} of the least Python, which takes"
                    f" {times(CPU=ratio(samples, LEAST, 'multicat', 'cpu'))} of multicat",
                    f"a bridge that relays takes {times(CPU=bridges[0])} of multicat",
                ],
            )
        )
    return results
