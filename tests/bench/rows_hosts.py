"""The row on a file to many hosts that lose datagrams: what it takes on the wire, beside udpcast and uftp."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from support.host import Host
from support.programs import program
from support.switch import Switch
from support.trees import lose

from bench.context import Bench
from bench.daemon import Daemon, channel
from bench.lab import MIB, Lab
from bench.measure import Samples
from bench.processes import Program
from bench.report import Check, Result, at_most
from bench.rows_file import digest
from bench.sending import random_file

LOSSES, FEW_LOSSES = (0, 1, 5), (5,)  # percent, at each host for itself
GROUP, PORT = "239.255.7.1", 9190
INTERFACE = "eth0"
UDPCAST_PORT, UFTP_PORT = 9000, 1044
# Of one transmission, in seconds. It takes two; one with feedback and losses a few times as long.
TIMEOUT = 20.0


class Scale(NamedTuple):
    """A file to some hosts. All of them are on this machine: so many receive less at a time."""

    hosts: int
    size: int  # bytes
    rate: int  # Mbit/s


SCALES = (Scale(1, 16 * MIB, 100), Scale(10, 16 * MIB, 100), Scale(50, 4 * MIB, 20))
FEW_SCALES = (Scale(2, 2 * MIB, 100),)


class Ended(NamedTuple):
    """What came of one transmission."""

    intact: int  # hosts that have the file
    seconds: float
    wire: int  # bytes that left the sender, frames with their headers


class Hosts:
    """A sender and some receivers on a switch. Each loses a part of what comes to one port."""

    def __init__(self, count: int, stack: contextlib.ExitStack) -> None:
        switch = stack.enter_context(Switch())
        self.sender, *self.receivers = [stack.enter_context(Host()) for _ in range(count + 1)]
        for number, host in enumerate((self.sender, *self.receivers), 1):
            # udpcast looks for its partner at the broadcast address, which ip(8) sets only if asked
            switch.plug(host, INTERFACE, f"10.9.1.{number}/24 brd +")
            host.ip(f"route add 224.0.0.0/4 dev {INTERFACE}")

    def lose(self, percent: int, port: int) -> None:
        for host in self.receivers:
            lose(host.enter([]), f"numgen random mod 100 < {percent}", port)

    def wire(self) -> int:
        command = self.sender.enter(["ip", "-s", "-j", "link", "show", INTERFACE])
        shown = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        sent: int = shown[0]["stats64"]["tx"]["bytes"]
        return sent

    def udp_table(self, host: Host) -> str:
        return Path(f"/proc/{host.pid}/net/udp").read_text()


class Trial:
    """Sends one file to hosts by different means. Those of mcastd are started once, and stay."""

    def __init__(
        self, bench: Bench, hosts: Hosts, file: Path, rate: int, stack: contextlib.ExitStack
    ) -> None:
        self._bench, self._lab, self._hosts, self._file = bench, bench.lab, hosts, file
        self._rate = rate  # Mbit/s
        self._digest = digest(file)
        self._daemons = self._outputs()
        for host, output in zip(hosts.receivers, self._daemons, strict=True):
            lines = [f'group = "{GROUP}"', f"port = {PORT}", f'interface = "{INTERFACE}"']
            lines += ['protocol = "flute"', f'output = {{ kind = "directory", path = "{output}" }}']
            text = "\n".join(["[inbound.one]", *lines, ""])
            Daemon(bench.lab, bench.checkout, text, stack, host=host)

    def mcastd(self, percent: int) -> Ended:
        """One pass, with repair symbols for the loss."""
        lab, hosts = self._lab, self._hosts
        hosts.lose(percent, PORT)
        file = lab.new_path("file")  # another name: what is there is not taken again
        os.link(self._file, file)
        files = [output / file.name for output in self._daemons]
        settings = {
            "rate": f'"{self._rate}Mbit"',
            "protocol": f'{{ kind = "flute", protect = "{percent}%" }}',
        }
        text = channel("one", GROUP, PORT, file, settings).replace('"bench0"', f'"{INTERFACE}"')
        with contextlib.ExitStack() as stack:
            stack.callback(file.unlink)
            before, started = hosts.wire(), time.monotonic()
            sender = Daemon(lab, self._bench.checkout, text, stack, host=hosts.sender)
            sender.wait_state("outbound/one", "finished", timeout=TIMEOUT)
            seconds = time.monotonic() - started - sender.start_time
            wire = hosts.wire() - before
            with contextlib.suppress(RuntimeError):
                lab.wait_for(lambda: self._intact(files) == len(files), "the file at all hosts")
        return Ended(self._intact(files), seconds, wire)

    def udpcast(self, percent: int) -> Ended:
        """With its feedback: what is missing is asked for."""
        outputs = self._outputs()
        common = ("--interface", INTERFACE, "--nokbd", "--no-progress")
        return self._programs(
            percent,
            UDPCAST_PORT,
            [(program("udp-receiver"), "--file", str(each / self._file.name), *common) for each in outputs],
            (
                *(program("udp-sender"), "--file", str(self._file), *common, "--nopointopoint"),
                *("--min-receivers", str(len(outputs)), "--max-bitrate", f"{self._rate}m"),
            ),
            outputs,
        )

    def uftp(self, percent: int) -> Ended:
        """With its feedback: what is missing is asked for."""
        outputs = self._outputs()
        common = ("-I", INTERFACE, "-B", str(4 * MIB))
        return self._programs(
            percent,
            UFTP_PORT,
            [(program("uftpd"), "-d", "-D", str(each), *common) for each in outputs],
            (program("uftp"), *common, "-R", str(1000 * self._rate), str(self._file)),
            outputs,
        )

    def _outputs(self) -> list[Path]:
        outputs = [self._lab.new_path("host") for _ in self._hosts.receivers]
        for output in outputs:
            output.mkdir()
        return outputs

    def _intact(self, files: Sequence[Path]) -> int:
        return sum(file.exists() and digest(file) == self._digest for file in files)

    def _programs(
        self,
        percent: int,
        port: int,
        receive: Sequence[Sequence[str]],
        send: Sequence[str],
        outputs: Sequence[Path],
    ) -> Ended:
        lab, hosts = self._lab, self._hosts
        hosts.lose(percent, port)
        with contextlib.ExitStack() as stack:
            for host, command in zip(hosts.receivers, receive, strict=True):
                stack.callback(Program(host.enter(command), log=lab.log).stop)
            listening = f":{port:04X} "
            lab.wait_for(
                lambda: all(listening in hosts.udp_table(host) for host in hosts.receivers), "the receivers"
            )
            before, started = hosts.wire(), time.monotonic()
            sender = Program(hosts.sender.enter(send), log=lab.log)
            stack.callback(sender.stop)
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is stuck: who has the file is counted
                sender.process.communicate(timeout=TIMEOUT)
            seconds = time.monotonic() - started
            wire = hosts.wire() - before
            time.sleep(0.5)  # receivers close their files
        return Ended(self._intact([output / self._file.name for output in outputs]), seconds, wire)


def hosts(bench: Bench) -> list[Result]:
    """A file to one host and to many, which lose nothing, a little, and much."""
    lab: Lab = bench.lab
    results = []
    for scale in bench.choose(SCALES, FEW_SCALES):
        with contextlib.ExitStack() as stack:
            file = random_file(lab.new_path("file"), scale.size)
            stack.callback(file.unlink)
            trial = Trial(bench, Hosts(scale.hosts, stack), file, scale.rate, stack)
            means: dict[str, Callable[[int], Ended]] = {
                "mcastd": trial.mcastd,
                "udpcast": trial.udpcast,
                "uftp": trial.uftp,
            }
            for percent in bench.choose(LOSSES, FEW_LOSSES):
                lab.say(f"{scale.hosts} hosts that lose {percent} %")
                ended = {name: _attempt(lab, name, send, percent) for name, send in means.items()}
                results.append(_result(scale, percent, ended))
    return results


def _attempt(lab: Lab, name: str, send: Callable[[int], Ended], percent: int) -> Ended:
    """What came of it. One that fails has brought the file to nobody: the others go on."""
    try:
        ended = send(percent)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        lab.say(f"  {name} has failed: {error}")
        return Ended(0, math.nan, 0)
    lab.say(f"  {name}: {ended.intact} intact, {ended.seconds:.1f} s, {ended.wire:,} B")
    return ended


def _result(scale: Scale, percent: int, ended: dict[str, Ended]) -> Result:
    samples: Samples = {
        name: {"intact": [one.intact], "seconds": [one.seconds], "wire %": [100 * one.wire / scale.size]}
        for name, one in ended.items()
    }
    ours, count = ended["mcastd"], scale.hosts
    checks = [Check("every host has the file", f"{ours.intact} of {count}", ours.intact == count)]
    shown = []
    for name, other in ended.items():
        if name == "mcastd":
            continue
        if other.intact < count:  # it has sent less, or for longer, than those that have it would take
            shown.append(f"{name} to {other.intact} of {count} alone")
            continue
        wire = ours.wire / other.wire
        shown.append(f"{name} wire {wire:.2f}x, time {ours.seconds / other.seconds:.2f}x")
        if count > 1 and percent:
            checks.append(at_most(f"bytes on the wire of {name}", wire, 1))
    return Result(
        f"a file of {scale.size // MIB} MiB to {count} host{'s' * (count > 1)}, {percent} % lost at each",
        samples,
        checks,
        of_peers="; ".join(shown),
        notes=[f"{scale.rate} Mbit/s; one transmission of each, in turn; the others have a return path"],
    )
