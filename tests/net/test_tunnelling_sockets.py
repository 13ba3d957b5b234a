"""What the sockets of tunnels, links and AMT relays have in common."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_address

import pytest

from mcastd.errors import NoArenaError
from mcastd.net.arenas import Pool
from mcastd.net.link_socket import LinkSocket
from mcastd.net.relay_sockets import RelaySockets
from mcastd.net.tunnel_socket import TunnelSocket

HERE, PORT = ip_address("127.0.0.1"), 4271


@pytest.mark.parametrize(
    "open_socket",
    [
        lambda: LinkSocket(4, HERE, PORT),
        lambda: RelaySockets([(HERE, PORT)], 0),
        lambda: TunnelSocket(4, PORT),
    ],
)
def test_without_memory_to_receive_into_no_port_is_taken(
    open_socket: Callable[[], LinkSocket | RelaySockets | TunnelSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is kept, and all that it came by: another attempt must not find its own port taken."""

    def refuse(_: Pool, __: object) -> None:
        raise NoArenaError("cannot receive", "no memory left")

    with monkeypatch.context() as shortage:
        shortage.setattr(Pool, "lease", refuse)
        with pytest.raises(NoArenaError) as kept:
            open_socket()
    with closing(open_socket()):
        assert kept.value.cause == "no memory left"


def test_what_was_lost_at_a_socket_of_tunnels_stays_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscription that has left asks last."""
    lost = "mcastd.net.tunnel_socket.dropped"
    monkeypatch.setattr(lost, lambda sock: 3 if sock.fileno() >= 0 else 0)
    sock = TunnelSocket(4, PORT)
    assert sock.overflow == 3
    sock.close()
    assert sock.overflow == 3
