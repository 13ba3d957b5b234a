"""A minute of faults: after the last one all is as before, nothing came twice, and nothing to the wrong one.

Three interfaces, each on a switch of its own, which forwards a group only to a port that has reported it
(IGMP snooping, with a querier): a membership that the kernel lists, and the switch has forgotten, is deaf::

    net  sw0 -- p0 ---- eth0  host (mcastd)
         sw1 -- p1 ---- eth1
         sw2 -- p2 ---- eth2

The faults are random, from a seed that is printed: MCASTD_FAULT_SEED repeats them, and MCASTD_FAULT_SECONDS
sets for how long they come.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import feed
from support.daemon import RunningDaemon
from support.host import Host, connect
from support.inside import sysctl
from support.wait import wait_for

SECONDS = float(os.environ.get("MCASTD_FAULT_SECONDS", "60"))
INTERVAL = 0.01  # seconds between two datagrams of a stream
# Seconds after the last fault in which every subscription receives again: less than one, and what a loaded
# machine adds. Who waits for the switch to ask is deaf for minutes.
BACK = 10.0
LINES_PER_FAULT = 30  # of the log, at most, with 34 workers of which a fault moves up to a half

WIRES = (0, 1, 2)
PORT, OTHER_PORT = 9272, 9273
ANY, SECOND, SPECIFIC = "239.72.0.1", "239.72.0.2", "232.72.0.3"
ANY6, LINK6, SPECIFIC6 = "ff15::72:1", "ff02::72:2", "ff35::72:3"

Stream = tuple[str, str, int, str]  # interface of the host, group, port, source


def address(wire: int, last: int, version: int = 4) -> str:
    return f"10.72.{wire}.{last}" if version == 4 else f"fd72:{wire + 1}::{last}"


def source(wire: int, group: str, last: int = 2) -> str:
    return address(wire, last, 6 if ":" in group else 4)


def stream(wire: int, group: str, last: int = 2, port: int = PORT) -> Stream:
    return (f"eth{wire}", group, port, source(wire, group, last))


STREAMS = [
    *(stream(wire, group) for wire in WIRES for group in (ANY, SECOND, SPECIFIC, ANY6, LINK6, SPECIFIC6)),
    *(stream(wire, group, last=3) for wire in WIRES for group in (ANY, SPECIFIC, SPECIFIC6)),
    *(stream(wire, ANY6, port=OTHER_PORT) for wire in WIRES),
]


@dataclass(frozen=True)
class Subscription:
    """A subscription's settings, the streams that it must get, and those that it may get for a while."""

    group: str
    interface: str | None
    wanted: frozenset[Stream]
    allowed: frozenset[Stream]
    port: int = PORT
    filter: dict[str, list[str]] = field(default_factory=dict)
    format: str = "lines"

    def config(self, name: str, output: Path) -> str:
        lines = [f"[inbound.{name}]", f'group = "{self.group}"', f"port = {self.port}"]
        if self.interface is not None:
            lines.append(f'interface = "{self.interface}"')
        lines += [f"{key} = {json.dumps(sources)}" for key, sources in self.filter.items()]
        lines.append(f'output = {{ kind = "file", path = "{output}", format = "{self.format}" }}')
        return "\n".join(lines) + "\n\n"


def subscribe(group: str, *wires: int, lasts: tuple[int, ...] = (), **more: object) -> Subscription:
    """To ``group`` on the interfaces of these wires, from the sources with these last parts."""
    port = more.get("port", PORT)
    filter_ = {"sources": [source(wire, group, last) for wire in wires for last in lasts]} if lasts else {}
    streams = frozenset(
        one
        for one in STREAMS
        if one[1:3] == (group, port)
        and one[0] in {f"eth{wire}" for wire in wires}
        and (not lasts or one[3] in filter_["sources"])
    )
    interface = f"eth{wires[0]}" if len(wires) == 1 else "all"
    return Subscription(
        **{
            "group": group,
            "interface": interface,
            "wanted": streams,
            "allowed": streams,
            "filter": filter_,
            **more,
        }
    )


def subscriptions() -> dict[str, Subscription]:
    named: dict[str, Subscription] = {}
    for wire in WIRES:
        named[f"any-{wire}"] = subscribe(ANY, wire)
        named[f"second-{wire}"] = subscribe(SECOND, wire, format="json")
        named[f"specific-{wire}"] = subscribe(SPECIFIC, wire, lasts=(2,))
        named[f"any6-{wire}"] = subscribe(ANY6, wire)
        named[f"link6-{wire}"] = subscribe(LINK6, wire)
        named[f"specific6-{wire}"] = subscribe(SPECIFIC6, wire, lasts=(2,))
    named["any-all"] = subscribe(ANY, *WIRES)
    named["second-all"] = subscribe(SECOND, *WIRES)
    named["specific-all"] = subscribe(SPECIFIC, *WIRES, lasts=(3,))
    named["any6-all"] = subscribe(ANY6, *WIRES, format="json")
    named["link6-all"] = subscribe(LINK6, *WIRES)
    named["specific6-all"] = subscribe(SPECIFIC6, *WIRES, lasts=(2, 3))
    named["any-0-twin"] = subscribe(ANY, 0)
    named["specific-0-both"] = subscribe(SPECIFIC, 0, lasts=(2, 3))
    named["any6-2-other-port"] = subscribe(ANY6, 2, port=OTHER_PORT)
    named["any-address-2"] = subscribe(ANY, 2, interface=address(2, 1))
    not_first = frozenset({stream(1, ANY, last=3)})
    named["any-1-not-first"] = Subscription(
        ANY, "eth1", not_first, not_first, filter={"exclude_sources": [source(1, ANY)]}
    )
    everywhere = subscribe(ANY, *WIRES).wanted
    named["any-route"] = Subscription(ANY, None, subscribe(ANY, 0).wanted, everywhere)
    return named


class Wire:
    """One of the host's interfaces with its switch, and what is wrong with it now."""

    def __init__(self, host: Host, net: Host, number: int) -> None:
        self._host, self._net, self._number = host, net, number
        self.own, self._port, self._switch = f"eth{number}", f"p{number}", f"sw{number}"
        self.name = self.own
        self.there = False
        self.carrier = self.up = True
        net.ip(
            f"link add {self._switch} address 02:00:00:00:72:0{number} type bridge forward_delay 0"
            " mcast_snooping 1 mcast_querier 1 mcast_igmp_version 3 mcast_mld_version 2"
        )
        net.ip(f"link set {self._switch} up")
        for last in (2, 3):
            net.ip(f"addr add {address(number, last)}/24 dev {self._switch}")
            net.ip(f"addr add {address(number, last, 6)}/64 dev {self._switch} nodad")
        self.create()

    def create(self) -> None:
        connect(self._host, self.own, self._net, self._port)
        self._net.ip(f"link set {self._port} master {self._switch}")
        self.there, self.name, self.up, self.carrier = True, self.own, True, True
        self.address()

    def delete(self) -> None:
        self._host.ip(f"link del {self.name}")
        self.there = False

    def flap_carrier(self) -> None:
        self.carrier = not self.carrier
        self._net.ip(f"link set {self._port} {'up' if self.carrier else 'down'}")

    def flap_admin(self) -> None:
        self.up = not self.up
        self._host.ip(f"link set {self.name} {'up' if self.up else 'down'}")

    def rename(self) -> None:
        name = f"away{self._number}" if self.name == self.own else self.own
        self._host.ip(f"link set {self.name} name {name}")
        self.name = name

    def address(self) -> None:
        """Its own addresses, all of them."""
        self._host.ip(f"addr replace {address(self._number, 1)}/24 dev {self.name}")
        self._host.ip(f"addr replace {address(self._number, 1, 6)}/64 dev {self.name} nodad")

    def lose_address(self) -> None:
        self._host.ip(f"-4 addr flush dev {self.name}")

    def change_address(self) -> None:
        self.lose_address()
        self._host.ip(f"addr add {address(self._number, 77)}/24 dev {self.name}")

    def faults(self) -> list[Callable[[], None]]:
        """What can happen to it next."""
        if not self.there:
            return [self.create]
        return [
            self.flap_carrier,
            self.flap_admin,
            self.rename,
            self.address,
            self.lose_address,
            self.change_address,
            self.delete,
        ]

    def restore(self) -> None:
        if not self.there:
            self.create()
        if self.name != self.own:
            self.rename()
        if not self.up:
            self.flap_admin()
        if not self.carrier:
            self.flap_carrier()
        self._host.ip(f"-4 addr flush dev {self.name}")
        self.address()


class Faults:
    """What goes wrong with the three wires and the route to the groups, at random."""

    def __init__(self, host: Host, wires: list[Wire], seed: int) -> None:
        self._host, self._wires = host, wires
        self._random = random.Random(seed)
        self.happened: Counter[str] = Counter()

    def one(self) -> None:
        if self._random.random() < 0.1:
            fault = self._random.choice([self.route, self.no_route])
        else:
            fault = self._random.choice(self._random.choice(self._wires).faults())
        fault()
        self.happened[fault.__name__] += 1

    def pause(self) -> None:
        """Most faults come apart, some in bursts: the pace of the faults, nothing waits for it."""
        time.sleep(self._random.choice([0.0, 0.02, 0.1, 0.3, 0.6]))

    def last_ones(self) -> None:
        """So that each wire is in another trouble at the end."""
        for wire, troubles in zip(
            self._random.sample(self._wires, len(self._wires)),
            (["delete"], ["flap_carrier"], ["rename", "flap_admin", "lose_address"]),
            strict=True,
        ):
            wire.restore()
            for trouble in troubles:
                getattr(wire, trouble)()
                self.happened[trouble] += 1

    def restore(self) -> None:
        for wire in self._wires:
            wire.restore()
        self._host.ip("route replace 224.0.0.0/4 dev eth0")

    def route(self) -> None:
        """The route to the groups goes over another interface, if there is one that is up."""
        usable = [wire for wire in self._wires if wire.there and wire.up]
        if usable:
            self._host.ip(f"route replace 224.0.0.0/4 dev {self._random.choice(usable).name}")

    def no_route(self) -> None:
        self._host.ip("route flush 224.0.0.0/4")


class Output:
    """A subscription's output file, read as it grows."""

    def __init__(self, path: Path, as_json: bool) -> None:
        self._path, self._json = path, as_json
        self._offset = 0
        self._rest = b""
        self._since = 0.0
        self._seen: set[tuple[Stream, int]] = set()
        self.count = self.repeated = 0
        self.streams: set[Stream] = set()
        self.fresh: dict[Stream, float] = {}  # when the first was sent, of those sent after mark()

    def mark(self, since: float) -> None:
        self._since = since
        self.fresh.clear()

    def read(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            record = json.loads(line) if self._json else None
            text = record["payload"] if record else line.decode()
            label, group, port, sender, number, sent = text.split()
            if record:
                assert (record["group"], record["source"]) == (group, sender), line
            one = (label, group, int(port), sender)
            self.repeated += (one, int(number)) in self._seen
            self._seen.add((one, int(number)))
            self.streams.add(one)
            self.count += 1
            if int(sent) >= self._since * 1e9:
                self.fresh.setdefault(one, int(sent) / 1e9)


@pytest.fixture
def stack(no_fd_leak: None) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def outbound(name: str, path: Path, group: str, where: str) -> str:
    return (
        f'[outbound.{name}]\nsource = "{path}"\nrepeat = "forever"\ninterval = "50ms"\n'
        f'group = "{group}"\nport = 9274\n{where}\n\n'
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_minute_of_faults(stack: ExitStack, tmp_path: Path) -> None:
    seed = int(os.environ.get("MCASTD_FAULT_SEED") or random.randrange(1 << 32))
    print(f"MCASTD_FAULT_SEED={seed}")
    host, net = stack.enter_context(Host()), stack.enter_context(Host())
    for end in (host, net):
        sysctl(end, ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0)
        sysctl(end, ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0)
    wires = [Wire(host, net, number) for number in WIRES]
    faults = Faults(host, wires, seed)
    faults.restore()

    wanted = subscriptions()
    assert len(wanted) == 30
    source_file = tmp_path / "source.txt"
    source_file.write_text("".join(f"line {number}\n" for number in range(100)))
    outputs = {name: Output(tmp_path / f"{name}.log", one.format == "json") for name, one in wanted.items()}
    channels = {
        "by-name": ("239.72.1.1", 'interface = "eth1"'),
        "by-address": ("239.72.1.2", f'interface = "{address(2, 1)}"'),
        "by-route": ("239.72.1.3", ""),
        "six": ("ff15::72:9", 'interface = "eth2"'),
    }
    config = "".join(one.config(name, tmp_path / f"{name}.log") for name, one in wanted.items())
    config += "".join(outbound(name, source_file, *where) for name, where in channels.items())

    with RunningDaemon(tmp_path, config, enter=host.enter(())) as daemon:
        feeder = net.python(
            feed.__file__,
            str(INTERVAL),
            json.dumps([(f"sw{one[0][-1]}", one[3], one[1], one[2], one[0]) for one in STREAMS]),
            stdout=subprocess.PIPE,
        )

        def missing() -> dict[str, set[Stream]]:
            """By subscription, the streams of which nothing has come that was sent after the mark."""
            for output in outputs.values():
                output.read()
            left = {name: set(wanted[name].wanted - output.fresh.keys()) for name, output in outputs.items()}
            return {name: streams for name, streams in left.items() if streams}

        wait_for(lambda: not missing(), "every subscription receives")
        wait_for(lambda: {worker["state"] for worker in daemon.workers().values()} == {"active"})
        threads, fds = daemon.settled()
        lines_before = len(daemon.log.read_bytes().splitlines())

        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            faults.one()
            missing()  # reads on, so that little is left to read at the end
            faults.pause()
        faults.last_ones()
        faults.pause()
        missing()
        faults.restore()
        restored = time.monotonic()
        for output in outputs.values():
            output.mark(restored)
        try:
            wait_for(lambda: not missing())  # far longer than BACK, to tell the late from the deaf
        except AssertionError:
            deaf = missing()
            print(json.dumps({name: daemon.worker(f"inbound/{name}") for name in deaf}, indent=1))
            raise AssertionError(f"deaf after the last fault (seed {seed}): {deaf}") from None
        back = {
            name: round(max(output.fresh[one] for one in wanted[name].wanted) - restored, 3)
            for name, output in outputs.items()
        }
        assert max(back.values()) < BACK, f"{back} (seed {seed})"
        sent_before = {
            name: daemon.worker(f"outbound/{name}")["status"]["counters"]["sent"] for name in channels
        }
        for name, before in sent_before.items():
            wait_for(
                lambda name=name, before=before: (
                    daemon.worker(f"outbound/{name}")["status"]["counters"]["sent"] > before + 10
                ),
                f"outbound/{name} sends again (seed {seed})",
            )
        assert {name for name, worker in daemon.workers().items() if worker["state"] != "active"} == set()

        feeder.terminate()
        assert feeder.stdout is not None
        fed = json.loads(feeder.stdout.read())

        def settled() -> dict[str, dict[str, object]] | None:
            """The status of every subscription once what is in flight has been taken."""
            first = {n: w["status"] for n, w in daemon.workers().items() if n.startswith("inbound/")}
            second = {n: w["status"] for n, w in daemon.workers().items() if n.startswith("inbound/")}
            still = all(first[name]["counters"] == second[name]["counters"] for name in first)
            return second if still else None

        statuses = wait_for(settled)
        assert statuses is not None
        received = 0
        for name, output in outputs.items():
            output.read()
            status = statuses[f"inbound/{name}"]
            counters = status["counters"]
            (counts,) = [one["counters"] for one in status["outputs"]]
            dropped = sum(counts["dropped"].values())
            assert counters["received"] == counts["written"] + dropped + counts["queued"], name
            assert counts["written"] == output.count, name
            assert counters["overflow"] == 0, name
            by_source = status["by_source"]
            assert sum(by_source["top"].values()) + by_source["rest"] == counters["received"], name
            assert output.repeated == 0, f"{name} got a datagram twice (seed {seed})"
            wrong = output.streams - wanted[name].allowed
            assert not wrong, f"{name} got what is not its own (seed {seed})"
            for membership in status["memberships"]:
                assert membership["actual"] == membership["wanted"], name
            received += output.count

        wait_for(lambda: daemon.threads() == threads, f"{threads} threads (seed {seed})")
        wait_for(lambda: daemon.fds() == fds, f"{fds} file descriptors (seed {seed})")
        assert not daemon.events("worker.crashed"), f"seed {seed}"
        count = sum(faults.happened.values())
        lines = len(daemon.log.read_bytes().splitlines()) - lines_before
        print(f"{count} faults: {dict(faults.happened)}")
        print(f"{sum(fed.values())} datagrams sent, {received} received by 30 subscriptions")
        print(f"all back {max(back.values())} s after the last fault")
        print(f"{lines} log lines, {lines / count:.1f} a fault; {threads} threads, {fds} fds")
        assert lines <= LINES_PER_FAULT * count, f"{lines} lines for {count} faults (seed {seed})"
        assert daemon.stop() == 0
