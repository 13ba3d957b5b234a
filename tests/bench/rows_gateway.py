"""Row on players over HTTP: what a gateway takes of a core for 99 of them, and how much memory."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from support.programs import program

from bench.context import Bench
from bench.daemon import Daemon
from bench.lab import INTERFACE, MIB, Address
from bench.measure import middle, ratio
from bench.processes import Program, family, resident
from bench.report import Check, Result, at_most, times
from bench.rows_relay import BUFFER, OUT_ADDRESS, second_wire

PLAYING = Path(__file__).with_name("playing.py")
PLAYERS = 99
SIZE = 1316
# Datagrams a second: 8 Mbit/s.
RATE = 760
# In percent of a core; MiB for all players; of socat's CPU.
CORE_GOAL, MEMORY_GOAL, SOCAT_GOAL = 4.0, 20.0, 0.1
# Seconds that datagrams gather, by contestant: the default, and as it was first.
GATHER, SHORT_GATHER = 0.05, 0.02
# Of the rate, what each player gets at least: at both ends of the time that is measured something gathers.
WHOLE = 0.97
MCASTD, SHORT, WOKEN, LEAST, SOCAT = "mcastd", "mcastd 20 ms", "mcastd woken", "least Python", "socat"


@dataclass(frozen=True)
class Gateway:
    """A program that gives a group to all who connect."""

    program: Program
    address: Address
    port: int  # where players connect to
    path: str = ""  # that they ask for; "": they get it unasked
    way: str = "nap"  # how they read: see playing.py


def _mcastd(bench: Bench, stack: contextlib.ExitStack, gather: float = GATHER, way: str = "nap") -> Gateway:
    address = bench.lab.new_address()
    text = f"""[gateway.tv]
listen = "{OUT_ADDRESS}:{address.port}"
allow_groups = ["{address.group}"]
interface = "{INTERFACE}"
max_per_address = {PLAYERS}
max_latency = {gather}
linger = 0
"""
    daemon = Daemon(bench.lab, bench.checkout, text, stack)
    daemon.wait_state("gateway/tv", "active")
    return Gateway(daemon.program, address, address.port, f"/udp/{address.group}:{address.port}", way)


def _least(bench: Bench, stack: contextlib.ExitStack) -> Gateway:
    address = bench.lab.new_address()
    ends = (*address, INTERFACE, OUT_ADDRESS, address.port, GATHER)
    command = (bench.checkout.python, str(PLAYING), "least", *map(str, ends))
    started = bench.lab.start(bench.lab.receiver, *command, stack=stack, ready=True)
    return Gateway(started, address, address.port)


def _socat(bench: Bench, stack: contextlib.ExitStack) -> Gateway:
    """A process for each who connects, which joins and receives by itself: as udpxy does it."""
    lab, address = bench.lab, bench.lab.new_address()
    group, port = address
    given = f"TCP4-LISTEN:{port},bind={OUT_ADDRESS},reuseaddr,fork,backlog=128,nodelay"
    taken = f"UDP4-RECV:{port},bind={group},reuseaddr,ip-add-membership={group}:{INTERFACE}"
    env = {"LD_PRELOAD": lab.program("rcvbuf.so"), "RCVBUF": str(BUFFER)}
    started = lab.start(lab.receiver, program("socat"), "-U", given, taken, stack=stack, env=env)
    lab.wait_for(lambda: lab.is_listening(port), "socat's port")
    return Gateway(started, address, port)


def _played(bench: Bench, gateway: Gateway) -> dict[str, float]:
    """What it takes while so many players have a group that comes all the time."""
    lab, seconds = bench.lab, bench.choose(5.0, 2.0)
    before, processes = resident(gateway.program.pid), _processes(gateway)
    count = int(RATE * (seconds + 60))
    with contextlib.ExitStack() as stack:
        load = lab.blaster(gateway.address, size=SIZE, count=count, rate=RATE, sleeping=True)
        stack.callback(load.stop)
        asked = (OUT_ADDRESS, gateway.port, PLAYERS, seconds, gateway.way, gateway.path)
        command = (bench.checkout.python, str(PLAYING), "players", *filter(None, map(str, asked)))
        players = lab.start(lab.sender, *command, stack=stack, ready=True)
        core = gateway.program.busy(0.8 * seconds)
        memory = resident(gateway.program.pid) - before
        got = players.result(60)
        lab.wait_for(lambda: _processes(gateway) == processes, "the end of all that were for players")
    lab.wait_for(lambda: lab.socket_state(gateway.address.port).queued == 0, "that nothing is left over")
    return {"core": core, "MiB": memory / MIB, "least share": got["least"] / (RATE * SIZE)}


def _processes(gateway: Gateway) -> int:
    return len([*family(gateway.program.pid)])


def gateway(bench: Bench) -> list[Result]:
    """99 players of 8 Mbit/s each, of one group."""
    with second_wire(bench), contextlib.ExitStack() as stack:
        contestants = {
            MCASTD: _mcastd(bench, stack),
            SHORT: _mcastd(bench, stack, SHORT_GATHER),
            WOKEN: _mcastd(bench, stack, way="wait"),
            LEAST: _least(bench, stack),
            SOCAT: _socat(bench, stack),
        }
        played = {name: partial(_played, bench, one) for name, one in contestants.items()}
        samples = bench.interleave(f"{PLAYERS} players of a gateway", played)
    core = {name: middle(samples, name, "core") for name in contestants}
    ours = core[MCASTD]
    shown = ", ".join(f"{name} {value:.2f}" for name, value in core.items() if value is not None)
    of_socat = ratio(samples, MCASTD, SOCAT, "core")
    whole = min(samples[MCASTD]["least share"])
    return [
        Result(
            f"{PLAYERS} players over HTTP, {SIZE} B at {RATE}/s each",
            samples,
            [
                at_most("of a core", ours, CORE_GOAL, " %"),
                at_most("memory for all", middle(samples, MCASTD, "MiB"), MEMORY_GOAL, " MiB"),
                at_most("CPU of socat", of_socat, SOCAT_GOAL),
                Check("each gets all", f"{100 * whole:.1f} % at least", whole >= WHOLE),
            ],
            cpu=None if ours is None else ours * 1e7 / RATE / PLAYERS,
            of_peers=f"socat {times(CPU=of_socat)}",
            notes=[
                f"in % of a core: {shown}",
                f"takes {times(CPU=ratio(samples, MCASTD, LEAST, 'core'))} of the sends alone in Python",
            ],
        )
    ]
