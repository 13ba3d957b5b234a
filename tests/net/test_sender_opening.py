"""A sender whose socket is refused: when it looks whether the host has another way by now."""

from __future__ import annotations

import errno
import os
from ipaddress import ip_address

import pytest

from mcastd.errors import CannotAskError, LinkError
from mcastd.net import sender
from mcastd.net.sender import SocketSender
from mcastd.net.sockets import refused


@pytest.mark.parametrize(
    ("number", "looks"), [(errno.EMFILE, 0), (errno.EACCES, 0), (errno.EADDRNOTAVAIL, 1), (errno.ENODEV, 1)]
)
def test_only_after_its_way_has_gone_it_looks_for_another(
    monkeypatch: pytest.MonkeyPatch, number: int, looks: int
) -> None:
    looked: list[None] = []

    def look() -> None:
        looked.append(None)
        raise CannotAskError("cannot ask", "no buffer space", errno=errno.ENOBUFS)

    def refuse(*_: object) -> None:
        raise LinkError("cannot send", "refused", errno=number)

    monkeypatch.setattr(sender, "look_anyway", look)
    monkeypatch.setattr(SocketSender, "_connect", refuse)
    way = sender._Way(3, "eth0", ip_address("192.0.2.7"), on_link=False)
    with pytest.raises(LinkError) as raised:
        object.__new__(SocketSender)._open(way)
    assert (raised.value.errno, len(looked)) == (number, looks)


@pytest.mark.parametrize(
    ("number", "way_out"), [(errno.ENOKEY, "AllowedIPs"), (errno.EDESTADDRREQ, "Endpoint")]
)
def test_what_wireguard_refuses_says_what_it_lacks(number: int, way_out: str) -> None:
    error = OSError(number, os.strerror(number))
    assert way_out in str(refused(error, "cannot send", ip_address("239.1.1.1"), "wg0"))
