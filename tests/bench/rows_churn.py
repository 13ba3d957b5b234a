"""The row on a host whose network changes all day: what that costs those whom it does not concern."""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.context import Bench
from bench.daemon import Daemon, channel, subscription
from bench.lab import INTERFACE, Address, Lab
from bench.measure import middle
from bench.report import Check, Result, at_most
from bench.rows_many import after

WORKERS = 2000
FIRST = Address("239.254.8.1", 22_000)
CHANGES = 50  # a second
RATE = 9000  # datagrams a second of the stream beside them
SIZE = 1316
OWN_LINE = f'interface = "{INTERFACE}"\n'
# The interface whose changes concern nobody, and that with the address that one of them waits for. Two, since
# with the last address of an interface, which comes and goes here, the kernel takes its routes away.
OTHER = "other0"
WAITED_FOR = "waited0"
CONCERNED = "10.77.0.1"
CORE_GOAL = 5.0  # % of a core
REACHED_GOAL = 100.0  # ms


def churn(bench: Bench) -> list[Result]:
    """2,000 idle subscriptions, a stream and a channel, beside changes that concern none of them."""
    lab = bench.lab
    directory = lab.new_path("churn")
    directory.mkdir()
    stream, beat, waiting = lab.new_address(), lab.new_address(), lab.new_address()
    source, output = directory / "source", directory / "stream"
    source.write_bytes(b"x" * SIZE * 100)
    settings = {"framing": '"chunk"', "rate": '"10Mbit"', "repeat": '"forever"', "max_datagram": SIZE}
    seconds = bench.choose(10.0, 4.0)
    with contextlib.ExitStack() as stack:
        for interface in (OTHER, WAITED_FOR):
            lab.receiver.ip(f"link add {interface} type veth peer name {interface}-end")
            stack.callback(lab.receiver.ip, f"link del {interface}")
            lab.receiver.ip(f"link set {interface} up")
        text = "".join(_idle(number, directory / str(number)) for number in range(WORKERS))
        text += subscription("stream", *stream, f'"{output}"')
        text += subscription("waiting", *waiting, f'"{directory / "waiting"}"').replace(INTERFACE, CONCERNED)
        text += channel("beat", *beat, source, settings)
        daemon = Daemon(lab, bench.checkout, text, stack)
        lab.wait_for(lambda: lab.is_member(stream), "the stream's membership")
        changes = _Changes(lab, stack)

        def run(rate: int) -> dict[str, float]:
            late, sent = _counted(daemon)
            before, cpu = output.stat().st_size, daemon.program.cpu()
            count = int(RATE * seconds)
            with changes.at(rate):
                load = lab.blaster(stream, size=SIZE, count=count, rate=RATE, sleeping=True)
                reached = _reached(lab, waiting)
                load.result(seconds + 60)
                core = 100 * (daemon.program.cpu() - cpu) / 1e9 / seconds
                now_late, now_sent = _counted(daemon)
            lab.wait_quiet(lambda: 0, [stream.port], 30, "the stream")
            time.sleep(0.2)
            lost = count - (output.stat().st_size - before) // SIZE
            lab.release(output)
            of_beat = 100 * (now_late - late) / max(1, now_sent - sent)
            return {"core": core, "lost": lost, "late": of_beat, "reached": reached}

        samples = bench.interleave(
            "a network that changes", {"calm": lambda: run(0), f"{CHANGES} changes/s": lambda: run(CHANGES)}
        )
    busy = f"{CHANGES} changes/s"
    calm_core, core = middle(samples, "calm", "core"), middle(samples, busy, "core")
    added = None if calm_core is None or core is None else core - calm_core
    late, calm_late = middle(samples, busy, "late"), middle(samples, "calm", "late")
    later = None if late is None or calm_late is None else late - calm_late
    reached = middle(samples, busy, "reached")
    checks: list[Check] = [
        at_most("CPU that they add", added, CORE_GOAL, " % of a core"),
        at_most("lost of the stream beside", middle(samples, busy, "lost"), 0, ""),
        at_most("more of the channel late than without", later, 1, " %"),
        at_most("a change that concerns one reaches it in", reached, REACHED_GOAL, " ms"),
    ]
    return [
        Result(
            f"{WORKERS:,} idle subscriptions beside {CHANGES} unrelated changes a second",
            samples,
            checks,
            notes=[
                f"core in % of one, with {RATE:,}/s received and 10 Mbit/s sent in it; late in % of what was"
                " sent; reached in ms, from the address to the membership"
            ],
        )
    ]


def _idle(number: int, output: Path) -> str:
    """A third each by name, by the route to the group, and on the loopback."""
    text = subscription(f"n{number}", *after(FIRST, number), f'"{output}"')
    return text.replace(OWN_LINE, ("", OWN_LINE, 'interface = "lo"\n')[number % 3])


def _counted(daemon: Daemon) -> tuple[int, int]:
    """The channel's datagrams that went late, and all that went."""
    counters = daemon.call("Get", name="outbound/beat")["worker"]["status"]["counters"]
    return counters["late"], counters["sent"]


def _reached(lab: Lab, waiting: Address) -> float:
    """ms from an address that a subscription waits for to its membership."""
    time.sleep(1)
    joined = Path(f"/proc/{lab.receiver.pid}/net/igmp")
    group = socket.inet_aton(waiting.group)[::-1].hex().upper()
    lab.receiver.ip(f"address add {CONCERNED}/32 dev {WAITED_FOR}")
    begin = time.monotonic()
    while group not in joined.read_text():
        if time.monotonic() > begin + 10:
            raise RuntimeError("the change did not reach the subscription that it concerns")
        time.sleep(0.001)
    elapsed = 1000 * (time.monotonic() - begin)
    lab.receiver.ip(f"address del {CONCERNED}/32 dev {WAITED_FOR}")
    return elapsed


class _Changes:
    """Routes, addresses and interfaces that come and go on the receiver's host, none of them a worker's."""

    def __init__(self, lab: Lab, stack: contextlib.ExitStack) -> None:
        self._ips = {
            family: lab.receiver.start("ip", family, "-batch", "-", stdin=subprocess.PIPE, text=True)
            for family in ("-4", "-6")
        }
        self._steps = self._endless()
        self._end = threading.Event()
        for ip in self._ips.values():
            assert ip.stdin is not None
            stack.callback(ip.wait)
            stack.callback(ip.stdin.close)

    @contextlib.contextmanager
    def at(self, rate: int) -> Iterator[None]:
        if not rate:
            yield
            return
        self._end.clear()
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(self._make, rate)
            try:
                yield
            finally:
                self._end.set()
            made.result()  # raises what broke them off: there would have been fewer than was asked for

    def _make(self, rate: int) -> None:
        due = time.monotonic()
        while not self._end.wait(max(0.0, due - time.monotonic())):
            due += 1 / rate
            family, command = next(self._steps)
            stdin = self._ips[family].stdin
            assert stdin is not None
            stdin.write(f"{command}\n")
            stdin.flush()

    @staticmethod
    def _endless() -> Iterator[tuple[str, str]]:
        for number in itertools.count():
            n = number % 200
            yield "-4", f"route add 192.0.2.{n}/32 dev {OTHER}"
            yield "-6", f"route add 2001:db8:{n:x}::/48 dev {OTHER}"
            yield "-4", "link add container0 type veth peer name container1"
            yield "-4", f"address add 10.78.0.{n}/32 dev {OTHER}"
            yield "-4", "link set container0 up"
            yield "-4", f"route del 192.0.2.{n}/32 dev {OTHER}"
            yield "-6", f"route del 2001:db8:{n:x}::/48 dev {OTHER}"
            yield "-4", f"address del 10.78.0.{n}/32 dev {OTHER}"
            yield "-4", "link del container0"
