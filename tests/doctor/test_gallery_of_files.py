"""What keeps whole files from coming: a sender that sends badly, a host without the code, a full disk.

tests/doctor/README.md draws the network.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.badly import Secrets, carousel_of
from support.faults import configured, inbound
from support.gallery import Case, Fault, Lab, show
from support.trees import grow_tree
from support.wait import wait_for

from mcastd.delivery.keys import make_group_key, make_signing_pair, read_key
from mcastd.keytext import GroupKey, SigningKey
from mcastd.protocols import raptorq

pytestmark = pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")

TO = ("239.255.6.4", 9194)
FILE_BYTES = 100_000
LARGE_BYTES = 70_000_000


def receiving(directory: str = "DIR/received", *more: str, protocol: str = '"flute"') -> str:
    output = ", ".join(('kind = "directory"', f'path = "{directory}"', *more))
    group, port = TO
    where = f'group = "{group}"', f"port = {port}"
    return inbound(*where, f"protocol = {protocol}", f"output = {{ {output} }}")


def sending(rate: str) -> str:
    return (
        f'[outbound.news]\ngroup = "{TO[0]}"\nport = {TO[1]}\ninterface = "eth0"\nsource = "DIR/files"\n'
        f'protocol = {{ kind = "flute", protect = "0%" }}\nrepeat = "forever"\nrate = "{rate}"\n'
    )


def sent(
    until: Callable[[dict[str, Any]], object],
    size: int = FILE_BYTES,
    keys: Callable[[Path], Secrets] | None = None,
    **badly: Any,
) -> Fault:
    """A file of ``size`` bytes is sent, until the subscription's status is as the fault makes it.

    ``keys`` reads those of the sender in the directory of the test.
    """

    @contextlib.contextmanager
    def fault(lab: Lab) -> Iterator[None]:
        files = grow_tree(lab.directory / "files", {"image": size})
        secrets = None if keys is None else keys(lab.directory)
        with carousel_of(lab.there, TO, files, secrets=secrets, **badly):
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


@contextlib.contextmanager
def with_keys(lab: Lab) -> Iterator[None]:
    """Each end has keys of its own."""
    pytest.importorskip("cryptography")
    for end in ("here", "there"):
        make_signing_pair(lab.directory / f"{end}.sign")
        make_group_key(lab.directory / f"{end}.key")
    yield


@contextlib.contextmanager
def with_files(lab: Lab) -> Iterator[None]:
    grow_tree(lab.directory / "files", {"image": FILE_BYTES})
    yield


@contextlib.contextmanager
def slowly(lab: Lab) -> Iterator[None]:
    """At a rate of months for a pass, until the files that it takes are known.

    Nothing that is said of files holds so long, whether it is said at this rate or was at the one before.
    """

    def is_known() -> bool:
        """Return True if what is said of the files holds for less than a pass at this rate."""
        paced = lab.daemon.worker("outbound/news")["status"]["pacing"].startswith("100 ")
        files = files_of(lab)
        described, bits = files.get("described_seconds") or math.inf, 8 * files.get("total_bytes", 0)
        return paced and bits > 100 * described

    with configured(sending("100"))(lab):
        wait_for(is_known, "its first look at the files, at that rate")
        yield


def files_of(lab: Lab) -> dict[str, Any]:
    """What the status says of the files that are sent; nothing before they are known."""
    return lab.daemon.worker("outbound/news")["status"]["files"] or {}


@contextlib.contextmanager
def with_a_large_file(lab: Lab) -> Iterator[None]:
    """One of zeros, which takes no room."""
    (lab.directory / "files").mkdir()
    with (lab.directory / "files" / "image").open("wb") as file:
        file.truncate(LARGE_BYTES)
    yield


@contextlib.contextmanager
def at_once(lab: Lab) -> Iterator[None]:
    """A rate at which no host makes repair symbols."""
    with configured(sending("5Gbit").replace('"0%"', '"5%"'))(lab):
        wait_for(lambda: files_of(lab).get("pass_number"), "a pass")
        yield


@contextlib.contextmanager
def one_unreadable(lab: Lab) -> Iterator[None]:
    locked = lab.directory / "files" / "locked"
    locked.write_bytes(b"of its owner alone")
    locked.chmod(0)
    wait_for(lambda: files_of(lab).get("refused"), "it is not sent")
    yield
    locked.unlink()


def signed(directory: Path, by: str = "there") -> Secrets:
    """The sender's, as the next."""
    return Secrets("news", read_key(SigningKey, str(directory / f"{by}.sign")), None)


def sealed(directory: Path, by: str = "there") -> Secrets:
    return Secrets("news", None, read_key(GroupKey, str(directory / f"{by}.key")))


def copied(suffix: str) -> Callable[[Lab, str], None]:
    """The file of a key is copied from the sender, and the commands of the fix are carried out."""

    def carry_out(lab: Lab, fix: str) -> None:
        shutil.copyfile(lab.directory / f"there{suffix}", lab.directory / f"here{suffix}")
        lab.shell(fix.partition("then: ")[2])

    return carry_out


WITH_KEY = '{ kind = "flute", keys = "DIR/here.key" }'
WITH_PUBLIC_KEY = '{ kind = "flute", verify_keys = "DIR/here.sign.pub" }'
STATE = ("env", "STATE_DIRECTORY=DIR/state")
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
        "clock-wrong",
        "broken",
        receiving(),
        sent(lambda status: status["counters"]["dropped"].get("expired"), late=86_400.0),
        by_hand="which clock is wrong is for a person to see",
    ),
    Case(
        "clock-wrong",
        "broken",
        receiving(protocol=WITH_PUBLIC_KEY),
        sent(
            lambda status: status["manifest"]["refused"] == "not-yet-valid",
            keys=lambda directory: signed(directory, "here"),
            late=-86_400.0,
        ),
        prepare=with_keys,
        wrap=STATE,
        variant="of-a-manifest",
        by_hand="which clock is wrong is for a person to see",
    ),
    Case(
        "wrong-key",
        "broken",
        receiving(protocol=WITH_KEY),
        sent(lambda status: status["counters"]["dropped"].get("wrong-key"), keys=sealed),
        prepare=with_keys,
        wrap=STATE,
        variant="sealed",
        by_hand="only a person can bring the key",
        hand=copied(".key"),
    ),
    Case(
        "wrong-key",
        "broken",
        receiving(protocol=WITH_PUBLIC_KEY),
        sent(lambda status: status["manifest"]["refused"] == "signature", keys=signed),
        prepare=with_keys,
        wrap=STATE,
        variant="signed",
        by_hand="only a person can bring the key",
        hand=copied(".sign.pub"),
    ),
    Case(
        "manifest-refused",
        "broken",
        receiving(protocol=f'{WITH_KEY[:-2]}, channel = "views" }}'),
        sent(
            lambda status: status["manifest"]["refused"] == "forged",
            keys=lambda directory: sealed(directory, "here"),
        ),
        prepare=with_keys,
        wrap=STATE,
        variant="sealed-for-another-channel",
        by_hand="which channel is meant is for a person to say",
    ),
    Case(
        "wrong-session",
        "broken",
        receiving(protocol='{ kind = "flute", session = 77 }'),
        sent(lambda status: status["counters"]["dropped"].get("foreign-session")),
        by_hand="which session is meant is for a person to say",
    ),
    Case(
        "files-unsent",
        "warning",
        sending("1Mbit"),
        one_unreadable,
        worker="outbound/news",
        prepare=with_files,
        by_hand="who may read it is for a person to say",
    ),
    Case(
        "rate-not-kept",
        "warning",
        sending("1Mbit"),
        at_once,
        worker="outbound/news",
        prepare=with_a_large_file,
        measured=True,
    ),
    Case(
        "cycle-too-long",
        "warning",
        sending("1Mbit"),
        slowly,
        worker="outbound/news",
        prepare=with_a_large_file,
    ),
    Case(
        "no-room",
        "warning",
        receiving("DIR/disk"),
        sent(
            lambda status: objects_of(status)["states"].get("receiving"),
            loses=lambda toi, esi: toi != 0 and esi >= 10,
        ),
        wrap=("unshare", "--mount", *SMALL_DISK),
        by_hand="what may go is for a person to say",
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
