"""AMT relays that are looked for: in DNS, by a server that nobody here wrote, and then at work.

```
   left 10.9.0.1 ------ 10.9.0.53 the name server
   the daemon           10.9.0.2  a relay of this network     right
                        10.9.0.3  a relay of the sender
                     192.52.193.1 a public relay
```
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.amt_relay import SmallRelay, datagram
from support.daemon import RunningDaemon
from support.host import Host, connect
from support.inside import inside
from support.names import AMTRELAY, NameServer
from support.wait import wait_for

pytestmark = pytest.mark.root
pytest.importorskip("dns")

SOURCE = "203.0.113.1"  # as of the datagrams of support/amt_relay.py
OF_SITE, OF_SOURCE, PUBLIC, SERVER = "10.9.0.2", "10.9.0.3", "192.52.193.1", "10.9.0.53"
REVERSE = "1.113.0.203.in-addr.arpa"
SITE = (
    "--ptr-record=_amt._udp.site.example,relay._amt._udp.site.example",
    "--srv-host=relay._amt._udp.site.example,relay.site.example,2268,10,50",
    f"--host-record=relay.site.example,{OF_SITE}",
)
# RDATA: precedence, 1 bit whether discovery is optional and 7 of the type, relay: RFC 8777 section 4.2
OF_THE_SOURCE = f"--dns-rr={REVERSE},{AMTRELAY},0a010a090003"
ASK = """if True:
    import json, sys
    from ipaddress import ip_address
    from mcastd.tunnel.candidates import candidates_of
    found, hints = candidates_of(None, [ip_address(one) for one in sys.argv[1:]])
    print(json.dumps([[[str(one.address), one.found_by] for one in found], hints]))
"""
CONFIG = f"""[inbound.news]
group = "232.1.1.1"
sources = ["{SOURCE}"]
port = 5004
via = "amt"
output = "DIR/news"
"""


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with Host() as left, Host() as right:
        connect(left, "eth0", right, "eth0")
        left.ip("address add 10.9.0.1/24 dev eth0")
        for address in (f"{OF_SITE}/24", f"{OF_SOURCE}/24", f"{SERVER}/24", f"{PUBLIC}/32"):
            right.ip(f"address add {address} dev eth0")
        left.ip(f"route add default via {SERVER}")
        yield left, right


@contextlib.contextmanager
def relay_at(host: Host, address: str) -> Iterator[SmallRelay]:
    with inside(host):
        relay = SmallRelay(address)
    try:
        yield relay
    finally:
        relay.close()


Found = tuple[list[list[str]], list[str]]
"""Addresses, and how each is known; and what is said of the rest."""


def ask(hosts: tuple[Host, Host], directory: Path, *records: str, source: str = SOURCE) -> Found:
    left, right = hosts
    asked_by = NameServer(right, SERVER, records).asked_by(left, directory, "site.example")
    asked = subprocess.run(
        [*asked_by, sys.executable, "-c", ASK, source], check=True, stdout=subprocess.PIPE, timeout=60
    )
    found, hints = json.loads(asked.stdout)
    return found, hints


ANYCAST = [[PUBLIC, "anycast"]]
ANYCAST_WITHOUT_ROUTE = [["2001:3::1", "anycast"]]


def test_relays_are_found_in_the_order_of_the_standard(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    found, hints = ask(hosts, tmp_path, *SITE, OF_THE_SOURCE)
    assert found == [[OF_SITE, "dns-sd"], *ANYCAST, [OF_SOURCE, "amtrelay"], *ANYCAST_WITHOUT_ROUTE]
    assert hints == []


def test_the_examples_of_the_standard(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """RFC 8777 section 4.3.2: two addresses of precedence 10, and a name of precedence 128."""
    name = "12.100.51.198.in-addr.arpa"
    found, hints = ask(
        hosts,
        tmp_path,
        f"--dns-rr={name},{AMTRELAY},800309616d7472656c617973076578616d706c6503636f6d00",
        f"--dns-rr={name},{AMTRELAY},0a01cb00710f",
        f"--dns-rr={name},{AMTRELAY},0a0220010db800000000000000000000000f",
        f"--dns-rr={name},{AMTRELAY},0000",
        "--host-record=amtrelays.example.com,203.0.113.77",
        source="198.51.100.12",
    )
    of_source = [address for address, by in found if by == "amtrelay"]
    assert of_source == ["203.0.113.15", "203.0.113.77", "2001:db8::f"], "there is no route to the last one"
    assert hints == []


def test_without_records_the_public_ones_are_left(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    found, hints = ask(hosts, tmp_path)
    assert (found, hints) == ([*ANYCAST, *ANYCAST_WITHOUT_ROUTE], [])


def test_a_name_server_that_does_not_answer_is_said(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    left, right = hosts
    server = NameServer(right, SERVER, SITE)
    asked_by = server.asked_by(left, tmp_path, "site.example")
    (tmp_path / "resolv.conf").write_text("nameserver 10.9.0.99\nsearch site.example\n")
    asked = subprocess.run(
        [*asked_by, sys.executable, "-c", ASK, SOURCE], check=True, stdout=subprocess.PIPE, timeout=60
    )
    found, hints = json.loads(asked.stdout)
    assert found == [*ANYCAST, *ANYCAST_WITHOUT_ROUTE]
    assert [hint.partition(":")[0] for hint in hints] == [
        "cannot ask DNS which relays this network offers",
        f"cannot ask DNS which relays receive from {SOURCE}",
    ]


def test_the_daemon_takes_the_first_that_answers_and_leaves_one_that_brings_nothing(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    left, right = hosts
    server = NameServer(right, SERVER, (*SITE, OF_THE_SOURCE))
    (tmp_path / "daemon").mkdir()
    enter = server.asked_by(left, tmp_path, "site.example")
    with (
        relay_at(right, OF_SOURCE) as last,
        relay_at(right, OF_SITE) as best,
        RunningDaemon(tmp_path / "daemon", CONFIG.replace("DIR", str(tmp_path)), enter=enter) as daemon,
    ):
        wait_for(lambda: best.gateways, "the relay of this network")
        assert not last.gateways
        # It brings nothing: so that of the sender is tried, and serves; nobody is at the public address
        last.stream = lambda: [datagram(b"news\n")]
        wait_for(lambda: (tmp_path / "news").exists() and (tmp_path / "news").read_bytes(), "the news")
        tunnel = daemon.worker("inbound/news")["status"]["link"]["tunnel"]
        assert (tunnel["asked"], tunnel["relay"], tunnel["found_by"]) == ("auto", OF_SOURCE, "amtrelay")
