"""From `apt install` to a running daemon, and what it is then."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.machine import Machine
from support.wait import wait_for

from .conftest import Flavour

PROJECT = Path(__file__).parents[2]
NEWS = PROJECT / "mcastd" / "demo.txt"

CAPTURE = """
import socket, sys
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
link.bind(("far0", 0))
print("ready", flush=True)
frame = b""
while b"the end" not in frame:
    frame = link.recv(2048)
    print(frame.hex(), flush=True)
"""


def steps(root: str) -> list[str]:
    """What README says to do on a distribution."""
    name = {"trixie": "Debian 13 and newer,", "bookworm": "Debian 12,"}[root]
    block = re.search(
        rf"^{name}.*\n\n```sh\n((?:.*\n)*?)```", (PROJECT / "README.md").read_text(), re.MULTILINE
    )
    assert block
    return block[1].splitlines()


@pytest.mark.parametrize("flavour", ["trixie-deb", "bookworm-bundled"], indirect=True)
def test_the_steps_of_the_readme_install_it(bare: Machine, flavour: Flavour) -> None:
    build, *install = steps(flavour.root)
    assert build == f"make {flavour.kind}"
    bare.shell(f"mkdir /root/dist; ln -s /mnt /root/dist/{flavour.kind}; cd; {'; '.join(install)} </dev/null")
    bare.wait_active()


def test_each_package_of_the_readme_is_one_that_is_built(possible: None) -> None:
    named = re.findall(
        r"^(?:apt|dnf) install (\./dist/\S+)$", (PROJECT / "README.md").read_text(), re.MULTILINE
    )
    found = [path for name in named for path in PROJECT.glob(name)]
    packages = [path for path in PROJECT.glob("dist/*/*") if path.suffix in (".deb", ".rpm")]
    assert len(named) == 5
    assert sorted(found) == sorted(packages)


@pytest.mark.everywhere
def test_installing_is_all_it_takes(
    bare: Machine, flavour: Flavour, record_testsuite_property: Callable[[str, object], None]
) -> None:
    flavour.install(bare, f"/mnt/{flavour.package.name}")
    bare.wait_active()  # measured: 0.4 s after it was started, where the issue allows 2
    times = bare.show("InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    begun, active = map(int, times.values())
    record_testsuite_property(f"activation_seconds_{flavour.root}_{flavour.kind}", (active - begun) / 1e6)
    assert 0 < active - begun < 20e6
    first = NEWS.read_bytes().splitlines(keepends=True)[0]
    log = bare.path("/var/log/mcastd/news.log")
    wait_for(lambda: log.exists() and log.read_bytes().startswith(first), "the first line of news")
    assert bare.run("mcastctl", "status").stdout.startswith("mcastd ")
    assert bare.run("systemctl", "is-enabled", "mcastd").stdout == "enabled\n"


@pytest.mark.everywhere
def test_it_is_laid_out_as_documented(machine: Machine) -> None:
    owners = machine.shell("stat -c '%n %U:%G %a' /var/log/mcastd /run/mcastd /run/mcastd/control")
    assert owners.splitlines() == [
        "/var/log/mcastd mcastd:mcastd 750",
        "/run/mcastd mcastd:mcastd 755",
        "/run/mcastd/control mcastd:mcastd 660",
    ]
    assert machine.shell("ps -o user= -p $(systemctl show -P MainPID mcastd)") == "mcastd\n"
    account = machine.shell("getent passwd mcastd").strip().split(":")
    assert account[4] == "IP multicast daemon"
    assert account[6].endswith("/nologin")
    # Of this network namespace; the others are the real host's, whom no container may change
    assert machine.shell("sysctl -n net.ipv4.igmp_max_msf") == "256\n"
    limits = machine.shell("/usr/lib/systemd/systemd-sysctl --cat-config")
    assert "\nnet.core.rmem_max = 67108864\n" in limits
    for page in ("man8/mcastd.8", "man1/mcastctl.1", "man5/mcastd.toml.5"):
        assert machine.shell(f"gzip -dcf /usr/share/man/{page}*").startswith(".Dd ")


@pytest.mark.everywhere
def test_as_it_comes_nothing_leaves_the_host(machine: Machine) -> None:
    machine.shell("ip link add eth0 type veth peer name far0; ip address add 10.9.0.1/24 dev eth0")
    machine.shell("ip link set eth0 up; ip link set far0 up; ip route add default dev eth0")
    capture = machine.start("python3", "-c", CAPTURE, stdout=subprocess.PIPE, text=True)
    assert capture.stdout is not None
    assert capture.stdout.readline() == "ready\n"
    machine.run("systemctl", "restart", "mcastd")
    wait_for(lambda: machine.wait_worker("inbound/news")["status"]["counters"]["received"] >= 2)
    # The last frame is one of ours, so that all before it have been seen
    machine.shell("""python3 -c "
import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(0, 33, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1); s.sendto(b'the end', ('10.9.0.255', 9))" """)
    output, _ = capture.communicate(timeout=60)
    frames = list(map(bytes.fromhex, output.split()))
    assert b"the end" in frames[-1]
    group = bytes([239, 255, 1, 2])
    assert not [frame for frame in frames if group in frame or NEWS.read_bytes()[:10] in frame]


COMPLETE = """
source /usr/share/bash-completion/completions/mcastctl
COMP_WORDS=(mcastctl st) COMP_CWORD=1 COMP_LINE='mcastctl st' COMP_POINT=11
{ compopt() { :; }; _mcastctl_completion mcastctl st mcastctl; } 2>/dev/null
echo "${COMPREPLY[@]}"
"""


def test_shells_complete_it(machine: Machine) -> None:
    assert set(machine.shell(COMPLETE).split()) == {"start-worker", "status", "stop-worker"}
    machine.run(
        "zsh", "-c", "autoload -U compinit; compinit -u; [[ -n $_comps[mcastctl] && -n $_comps[mcastd] ]]"
    )
    offered = machine.run("fish", "-c", "complete -C 'mcastd ch'").stdout
    assert re.match(r"check\b", offered)
    names = machine.shell(
        "_MCASTCTL_COMPLETE=bash_complete COMP_WORDS='mcastctl status in' COMP_CWORD=2 mcastctl"
    )
    assert names == "plain,inbound/news\n"
