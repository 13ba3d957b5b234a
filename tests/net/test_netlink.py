"""Answers of netlink as the kernel gives them in parts, and one in the middle of which something changed."""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from mcastd.errors import LinkError
from mcastd.net import _abi
from mcastd.net.interfaces import Interface
from mcastd.net.netlink import DUMPS_MAX, Netlink

MULTI, INTERRUPTED = 2, 0x10
KIND = 16


class Kernel:
    """Answers each dump with the next of its scripts, whose parts are datagrams of bodies, with flags."""

    def __init__(self, *scripts: list[list[tuple[bytes, int]]]) -> None:
        self._scripts = [*scripts]
        self._parts: list[bytes] = []
        self.asked = 0

    def sendto(self, request: bytes, _: object) -> None:
        self.asked += 1
        (serial,) = struct.unpack_from("=I", request, 8)
        self._parts = [
            b"".join(self._message(KIND, flags, serial, body) for body, flags in part)
            for part in self._scripts.pop(0)
        ]
        self._parts[-1] += self._message(_abi.NLMSG_DONE, MULTI, serial, bytes(4))

    @staticmethod
    def _message(kind: int, flags: int, serial: int, body: bytes) -> bytes:
        return _abi.nlmsghdr.pack(_abi.nlmsghdr.size + len(body), kind, flags, serial, 0) + body

    def recv(self, _: int) -> bytes:
        return self._parts.pop(0)

    def close(self) -> None:
        pass


@contextlib.contextmanager
def asking(kernel: Kernel) -> Iterator[Netlink]:
    netlink = Netlink()
    netlink._socket.close()
    netlink._socket = kernel  # type: ignore[assignment]
    yield netlink


def test_a_dump_that_something_has_changed_in_is_asked_for_again() -> None:
    torn = [[(b"eth0", MULTI)], [(b"eth2", MULTI | INTERRUPTED)]]
    whole = [[(b"eth0", MULTI), (b"eth1", MULTI)], [(b"eth2", MULTI)]]
    kernel = Kernel(torn, torn, whole)
    with asking(kernel) as netlink:
        assert netlink.ask(KIND, b"", dump=True) == [b"eth0", b"eth1", b"eth2"]
        assert kernel.asked == 3


def test_one_that_is_never_whole_is_asked_for_a_few_times() -> None:
    kernel = Kernel(*[[[(b"%04d" % number, MULTI | INTERRUPTED)]] for number in range(100)])
    with asking(kernel) as netlink:
        assert netlink.ask(KIND, b"", dump=True) == [b"%04d" % (DUMPS_MAX - 1)]
        assert kernel.asked == DUMPS_MAX


def test_a_refusal_is_none_that_is_asked_again() -> None:
    with contextlib.closing(Netlink()) as netlink, pytest.raises(LinkError) as failed:
        netlink.ask(_abi.RTM_GETROUTE, bytes(_abi.rtmsg.size - 1))
    assert failed.value.errno in (errno.EINVAL, errno.EAFNOSUPPORT, errno.EOPNOTSUPP)


def test_the_networks_of_an_interface_are_those_of_its_addresses() -> None:
    own = {"10.9.1.1": 24, "fd00:9::1": 64, "192.0.2.7": 32}
    interface = Interface(3, "eth0", 0, 1, tuple(map(ip_address, own)), prefix_lengths=tuple(own.values()))
    assert list(map(str, interface.networks(4))) == ["10.9.1.0/24", "192.0.2.7/32"]
    assert list(map(str, interface.networks(6))) == ["fd00:9::/64"]
    assert list(replace(interface, prefix_lengths=()).networks(4)) == []
