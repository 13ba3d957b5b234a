"""What keeps whole files from coming: a sender that sends badly, a host without the code, a full disk.

tests/doctor/README.md draws the network.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.badly import carousel_of
from support.faults import inbound
from support.gallery import Case, Fault, Lab, show
from support.wait import wait_for

from mcastd.protocols import raptorq

pytestmark = pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")

TO = ("239.255.6.4", 9194)
FILE_BYTES = 100_000


def receiving(directory: str = "DIR/received", *more: str) -> str:
    output = ", ".join(('kind = "directory"', f'path = "{directory}"', *more))
    group, port = TO
    where = f'group = "{group}"', f"port = {port}"
    return inbound(*where, 'protocol = "flute"', f"output = {{ {output} }}")


def sent(until: Callable[[dict[str, Any]], object], size: int = FILE_BYTES, **badly: Any) -> Fault:
    """A file of ``size`` bytes is sent, until the subscription's status is as the fault makes it."""

    @contextlib.contextmanager
    def fault(lab: Lab) -> Iterator[None]:
        files = lab.directory / "files"
        files.mkdir()
        (files / "image").write_bytes(random.Random(size).randbytes(size))
        with carousel_of(lab.there, TO, files, **badly):
            wait_for(lambda: until(lab.daemon.worker("inbound/news")["status"]), "the fault shows")
            yield

    return fault


def objects_of(status: dict[str, Any]) -> dict[str, Any]:
    objects: dict[str, Any] = status["outputs"][0]["objects"]
    return objects


@contextlib.contextmanager
def without_the_code(lab: Lab) -> Iterator[None]:
    """The daemon finds a library that cannot be imported."""
    (lab.directory / "hidden").mkdir()
    module = lab.directory / "hidden" / "raptorq.py"
    module.write_text('raise ModuleNotFoundError("not here", name="raptorq")\n')
    yield


SMALL_DISK = ("sh", "-c", 'mkdir -p "$0" && mount -t tmpfs -o size=64k tmpfs "$0" && exec "$@"', "DIR/disk")

CASES = [
    Case(
        "files-undescribed",
        "broken",
        receiving(),
        sent(lambda status: status["counters"]["held"], loses=lambda toi, esi: toi == 0),
        by_hand="the sender is another host's",
    ),
    Case(
        "files-expired",
        "broken",
        receiving(),
        sent(lambda status: status["counters"]["dropped"].get("expired"), late=86_400.0),
        by_hand="which clock is wrong is for a person to see",
    ),
    Case(
        "loss-above-protection",
        "warning",
        receiving(),
        sent(
            lambda status: objects_of(status)["short_blocks"],
            loses=lambda toi, esi: toi != 0 and 50 <= esi < 95,
        ),
        by_hand="where it is lost is for a person to find",
    ),
    Case(
        "files-unrepaired",
        "warning",
        receiving(),
        sent(
            lambda status: objects_of(status)["unrepaired"],
            loses=lambda toi, esi: toi != 0 and esi == 50,
        ),
        prepare=without_the_code,
        wrap=("env", "PYTHONPATH=DIR/hidden"),
        by_hand="no library can be installed here",
    ),
    Case(
        "files-refused",
        "warning",
        receiving("DIR/received", "max_size = 99_999"),
        sent(lambda status: objects_of(status)["states"].get("refused")),
        by_hand="whether so large a file is wanted",
    ),
    Case(
        "disk-full",
        "broken",
        receiving("DIR/disk"),
        sent(lambda status: status["outputs"][0]["reason"] == "no-space"),
        wrap=("unshare", "--mount", *SMALL_DISK),
        variant="of-files",
        by_hand="what may go is for a person to say",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_cause_is_named_first_and_nothing_without_it(
    case: Case, lab: Callable[[str], Lab], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    show(case, lab, tmp_path, record_property)
