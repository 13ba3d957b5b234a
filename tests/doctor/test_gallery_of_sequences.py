"""Numbered datagrams that the network loses, made for real: see test_gallery.py."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from support.faults import inbound
from support.gallery import GROUP, PORT, Case, Lab, show
from support.wait import wait_for


@contextlib.contextmanager
def skipping(lab: Lab) -> Iterator[None]:
    """Numbered datagrams, of which each third does not come, until the doctor has looked."""
    over = threading.Event()

    def run() -> None:
        number = 0
        while not over.wait(0.005):
            number += 1 + (number % 3 == 1)
            lab.talker._socket.sendto(b"numbered" + (number % 65_536).to_bytes(2, "big"), (GROUP, PORT))

    thread = threading.Thread(target=run, name="skipping")
    thread.start()
    try:
        wait_for(lambda: lab.daemon.worker("inbound/news")["status"]["sequence"]["counters"]["lost"])
        yield
    finally:
        over.set()
        thread.join()


def test_the_network_is_named_first_and_not_this_host(
    lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    case = Case(
        "network-loss-now",
        "broken",
        inbound('protocol = { kind = "sequence", offset = 8, size = 2 }'),
        skipping,
        by_hand="it is the network's",
    )
    show(case, lab, tmp_path, record_property)
