"""The package mcastd-raptorq beside mcastd's: what it says without it, and does with it."""

from __future__ import annotations

import re
import shutil

import build
from support.wait import wait_for

from .conftest import Boot

CONFIG = """
[outbound.images]
source = "/usr/share/mcastd"
group = "239.255.7.1"
port = 9190
interface = "lo"
ttl = 0
rate = "10Mbit"
repeat = "forever"
protocol = { kind = "flute", protect = "5%" }

[inbound.images]
group = "239.255.7.1"
port = 9190
interface = "lo"
protocol = "flute"
output = { kind = "directory", path = "/run/mcastd/images" }
"""


def test_files_are_sent_with_repair_once_it_is_installed(boot: Boot) -> None:
    machine = boot(CONFIG)
    (package,) = (build.DIST / "deb-raptorq").glob("*.deb")

    def told(*command: str) -> str:
        return machine.run("mcastctl", *command, check=False).stdout

    wait_for(
        lambda: "raptorq is not installed" in told("status", "outbound/images"), "it says what is missing"
    )
    assert "apt install mcastd-raptorq" in told("status", "outbound/images")
    assert "raptorq is not installed" in told("doctor", "outbound/images", "--json")
    shutil.copy(package, machine.path("/root"))
    machine.run("apt-get", "install", "-y", f"/root/{package.name}", input="")
    # Without being asked: a worker tries again by itself
    landed = machine.path("/run/mcastd/images/news.txt")
    wait_for(landed.exists, "a file lands", timeout=120)
    assert landed.read_bytes() == machine.path("/usr/share/mcastd/news.txt").read_bytes()
    repaired = re.compile(r"repair_percent: [1-9]")
    wait_for(lambda: repaired.search(told("status", "outbound/images")), "repair is sent along")
    assert "raptorq" not in told("status", "images")
    assert "raptorq" not in told("doctor", "images", "--json")
    # The licence of the library is there, and nothing is left of it where it is removed.
    assert machine.path("/usr/share/doc/mcastd-raptorq/copyright").exists()
    machine.run("apt-get", "purge", "-y", "mcastd-raptorq")
    assert not machine.path("/usr/lib/python3/dist-packages/raptorq").exists()
