"""Two hosts on a cable, without any multicast route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from support.host import Host, connect
from support.wait import wait_for


class Pair(NamedTuple):
    """``left`` is 10.0.0.1 and fd00::1, ``right`` 10.0.0.2 and fd00::2; both on eth0."""

    left: Host
    right: Host


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Host() as left, Host() as right:
        connect(left, "eth0", right, "eth0")
        for number, host in enumerate((left, right), 1):
            host.ip(f"address add 10.0.0.{number}/24 dev eth0")
            host.ip(f"address add fd00::{number}/64 dev eth0 nodad")
        for host in (left, right):
            wait_for(lambda host=host: _ready(host), "IPv6 is ready")
        yield Pair(left, right)


def _ready(host: Host) -> bool:
    import subprocess

    shown = subprocess.check_output(host.enter(["ip", "-6", "address", "show", "dev", "eth0"]), text=True)
    return "tentative" not in shown and "fe80::" in shown
