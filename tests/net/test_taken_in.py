"""What comes to a daemon by unicast, and what programs of its host give it, sent on to a group.

```
   left eth0 -------- eth0 relay eth1 ------ eth0 right
   10.8.0.1       10.8.0.2    10.9.0.1       10.9.0.2
```
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.host import Host, three_in_a_row
from support.inside import inside, sender
from support.peer import Ear
from support.wait import wait_for

pytestmark = pytest.mark.root
GROUP, PORT, LISTEN = "239.2.2.2", 5004, 5000
SIZES = (0, 1, 188, *([1316] * 40), 1472, 1473, 8000, 65_507, 5)
SENT = [bytes([number]) * size for number, size in enumerate(SIZES)]


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host, Host]]:
    with three_in_a_row() as (left, relay, right):
        left.ip("address add 10.8.0.7/24 dev eth0")
        yield left, relay, right


def config_of(source: str, *more: str) -> str:
    rest = "".join(f"{line}\n" for line in more)
    to = f'group = "{GROUP}"\nport = {PORT}\ninterface = "eth1"\n'
    return f"[outbound.tv]\nsource = {{ {source} }}\n{to}{rest}"


def status_of(daemon: RunningDaemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.worker("outbound/tv")["status"]
    return found


def is_open(daemon: RunningDaemon, source: str) -> bool:
    """Return True if a source of that label waits for a writer."""
    status = status_of(daemon)
    return bool((status["source"], status["source_state"]) == (source, "waiting for a writer"))


def adds_up(status: dict[str, Any]) -> bool:
    """Return True if all that had come was sent or dropped by then."""
    counters = status["counters"]
    done: int = counters["sent"] + sum(counters["dropped"].values())
    return bool(status["reception"]["received"] == done and done > 0)


def test_each_datagram_of_udp_goes_on_as_it_came(hosts: tuple[Host, Host, Host], tmp_path: Path) -> None:
    left, relay, right = hosts
    config = config_of(f'kind = "udp", listen = "10.8.0.2:{LISTEN}", senders = ["10.8.0.1"]')
    with (
        RunningDaemon(tmp_path, config, enter=relay.enter([])) as daemon,
        Ear(right, "eth0", GROUP, PORT) as ear,
    ):
        with inside(left):
            friend, stranger = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        with friend, stranger:
            friend.bind(("10.8.0.1", 0))
            stranger.bind(("10.8.0.7", 0))
            for payload in SENT:
                friend.sendto(payload, ("10.8.0.2", LISTEN))
                stranger.sendto(b"of a stranger", ("10.8.0.2", LISTEN))
            heard = [ear.hear() for _ in SENT]
        assert heard == [(payload, "10.9.0.1") for payload in SENT]

        def accounted() -> dict[str, Any] | None:
            status = status_of(daemon)
            counts = [status["reception"]["by_sender"], status["reception"]["refused"]]
            is_all = counts == [{"10.8.0.1": len(SENT)}, {"10.8.0.7": len(SENT)}]
            return status if is_all and adds_up(status) else None

        status = wait_for(accounted, "the account")
        assert status is not None
        reception, counters = status["reception"], status["counters"]
        assert (reception["received"], reception["overflow"]) == (2 * len(SENT), 0)
        assert (counters["sent"], counters["sent_bytes"]) == (len(SENT), sum(SIZES))
        assert counters["dropped"] == {"sender": len(SENT)}
        assert status["source"] == f"udp 10.8.0.2:{LISTEN}"
        assert "by_sender" in daemon.ctl("status", "outbound/tv").stdout


def test_programs_of_the_host_give_datagrams_and_streams(
    hosts: tuple[Host, Host, Host], tmp_path: Path
) -> None:
    _, relay, right = hosts
    path = tmp_path / "in" / "tv"
    framed = b"".join(struct.pack("!I", len(payload)) + payload for payload in SENT)
    with (
        RunningDaemon(
            tmp_path, config_of(f'kind = "unix", path = "{path}"'), enter=relay.enter([])
        ) as daemon,
        Ear(right, "eth0", GROUP, PORT) as ear,
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as program:
            for payload in SENT:
                program.sendto(payload, str(path))
        assert [ear.hear()[0] for _ in SENT] == SENT

        source = f'kind = "unix", path = "{path}", type = "stream", framing = "length"'
        daemon.write(config_of(source))
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: is_open(daemon, f"unix {path}"), "the other socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as program:
            program.connect(str(path))
            program.sendall(framed)
        assert [ear.hear()[0] for _ in SENT] == SENT

        daemon.write(config_of(f'kind = "tcp-server", listen = "10.9.0.1:{LISTEN}"', 'framing = "line"'))
        assert daemon.ctl("reload").returncode == 0
        wait_for(lambda: is_open(daemon, f"tcp-server 10.9.0.1:{LISTEN}"), "the port")
        assert not path.exists()
        with inside(right):
            program = socket.socket()
        with program:
            program.connect(("10.9.0.1", LISTEN))
            program.sendall(b"one\ntwo\nthree")
        assert [ear.hear()[0] for _ in range(3)] == [b"one\n", b"two\n", b"three"]


@pytest.mark.parametrize(
    ("output", "source"),
    [
        (f'kind = "tcp", to = "10.9.0.2:{LISTEN}"', f'kind = "tcp-server", listen = "0.0.0.0:{LISTEN}"'),
        (
            f'kind = "tcp-server", listen = "10.9.0.1:{LISTEN}"',
            f'kind = "tcp", connect = "10.9.0.1:{LISTEN}"',
        ),
    ],
    ids=["the output connects", "the source connects"],
)
def test_an_output_of_one_daemon_is_the_source_of_another(
    hosts: tuple[Host, Host, Host], tmp_path: Path, output: str, source: str
) -> None:
    """By lengths, over TCP: a group comes out elsewhere, datagram for datagram."""
    left, relay, right = hosts
    outlet = f"""
[inbound.tv]
group = "239.1.1.1"
port = {PORT}
interface = "eth0"
output = {{ {output}, framing = "length" }}
"""
    into = (
        f'[outbound.tv]\nsource = {{ {source}, framing = "length" }}'
        f'\ngroup = "{GROUP}"\nport = {PORT}\ninterface = "eth0"\n'
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        RunningDaemon(tmp_path / "b", into, enter=right.enter([])) as other,
        RunningDaemon(tmp_path / "a", outlet, enter=relay.enter([])) as one,
        Ear(relay, "eth1", GROUP, PORT) as ear,
    ):

        def is_connected() -> bool:
            return bool(status_of(other)["reception"]["connected"] == "10.9.0.1")

        wait_for(is_connected, "the connection")

        with sender(left, "eth0", "10.8.0.1") as sock:
            for payload in SENT:
                sock.sendto(payload, ("239.1.1.1", PORT))
            assert [ear.hear() for _ in SENT] == [(payload, "10.9.0.2") for payload in SENT]

        def written() -> int:  # counted after it has gone
            (output,) = one.worker("inbound/tv")["status"]["outputs"]
            return int(output["counters"]["written"])

        wait_for(lambda: written() == len(SENT), "the account")
