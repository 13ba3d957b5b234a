"""Whole files from one host to another, by daemons as they run, over a wire that loses datagrams."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import RunningDaemon
from support.host import Host, connect
from support.inside import sender
from support.mounts import tmpfs
from support.trees import files_below, grow_tree, lose
from support.wait import wait_for

from mcastd.delivery.keys import make_group_key, make_signing_pair
from mcastd.protocols import lct, raptorq
from mcastd.protocols.alc import fdt_packets
from mcastd.protocols.fdt import FdtInstance, FileEntry, build
from mcastd.protocols.fec import NO_CODE, SCHEMES, Oti

pytestmark = pytest.mark.slow

GROUP = 'group = "239.255.7.1"\nport = 9190\ninterface = "eth0"\n'
FIVE_PERCENT = "numgen random mod 100 < 5"


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts on a cable."""
    with Host() as left, Host() as right:
        connect(left, "eth0", right, "eth0")
        for number, host in enumerate((left, right), 1):
            host.ip(f"addr add 10.9.7.{number}/24 dev eth0")
        yield left, right


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of all sizes, in directories, with names that are not easy."""
    sizes = {
        "empty": 0,
        "one byte": 1,
        "images/a%20b+ü.img": 3_000_001,
        "images/deep/er/small": 1448,
        os.fsdecode(b"images/caf\xe9"): 200_000,
    }
    return grow_tree(tmp_path / "tree", sizes)


def sending(
    tmp_path: Path, host: Host, tree: Path, *protocol: str, rate: str = "40Mbit", **env: str
) -> RunningDaemon:
    (tmp_path / "sender").mkdir(exist_ok=True)
    if not raptorq.available() and not any(setting.startswith("protect") for setting in protocol):
        protocol = 'protect = "0%"', *protocol
    table = ", ".join(('kind = "flute"', *protocol))
    text = f'[outbound.images]\n{GROUP}source = "{tree}"\nprotocol = {{ {table} }}\n'
    text += f'rate = "{rate}"\nrepeat = "forever"\nttl = 1\n'
    return RunningDaemon(tmp_path / "sender", text, enter=host.enter([]), **env)


def subscription(path: Path, *more: str) -> str:
    output = f'{{ kind = "directory", path = "{path}", mode = "0604" }}'
    # A buffer for what comes while a loaded machine lets the daemon wait
    lines = f'[inbound.images]\n{GROUP}protocol = "flute"\nreceive_buffer = "64MiB"\noutput = {output}'
    return "\n".join([lines, *more, ""])


def receiving(tmp_path: Path, host: Host) -> RunningDaemon:
    (tmp_path / "receiver").mkdir(exist_ok=True)
    return RunningDaemon(tmp_path / "receiver", subscription(tmp_path / "received"), enter=host.enter([]))


def output_of(daemon: RunningDaemon) -> dict[str, Any]:
    (output,) = daemon.worker("inbound/images")["status"]["outputs"]
    return dict(output)


def wait_landed(daemon: RunningDaemon) -> None:
    """Wait until all files of the tree count as landed, which is after they have."""
    wait_for(lambda: output_of(daemon)["objects"]["states"].get("landed") == 5, "all files landed")


def require_accounted(daemon: RunningDaemon) -> None:
    def accounted() -> bool:
        status = daemon.worker("inbound/images")["status"]
        counters, (output,) = status["counters"], status["outputs"]
        told = output["counters"]["written"] + sum(output["counters"]["dropped"].values())
        received = counters["received"] - counters["held"] - sum(counters["dropped"].values())
        return bool(told == received)

    wait_for(accounted, "each datagram accounted for")


@pytest.mark.root
@pytest.mark.parametrize("loss", ["", FIVE_PERCENT])
def test_a_tree_comes_whole(hosts: tuple[Host, Host], tmp_path: Path, tree: Path, loss: str) -> None:
    left, right = hosts
    if loss and not raptorq.available():
        pytest.skip("raptorq is not installed")
    if loss:
        lose(right.enter([]), loss)
    received = tmp_path / "received"
    with receiving(tmp_path, right) as receiver, sending(tmp_path, left, tree):
        wait_for(lambda: received.is_dir() and files_below(received) == files_below(tree), "all files")
        assert {stat.S_IMODE(path.stat().st_mode) for path in received.rglob("*") if path.is_file()} == {
            0o604
        }
        require_accounted(receiver)
        wait_landed(receiver)
        objects = output_of(receiver)["objects"]
        assert (objects["restored"] > 0) is (objects["repaired_blocks"] > 0) is bool(loss)
        assert (objects["loss_percent"] > 1) is bool(loss)
        landed = {event["object"] for event in receiver.wait_events("object.landed", 5)}
        assert len(landed) == 5


@pytest.mark.root
def test_signed_and_sealed_files_come_to_who_has_the_keys(
    hosts: tuple[Host, Host], tmp_path: Path, tree: Path
) -> None:
    pytest.importorskip("cryptography")
    left, right = hosts
    keys, received = tmp_path / "keys", tmp_path / "received"
    keys.mkdir(mode=0o700)
    make_signing_pair(keys / "sign")
    make_group_key(keys / "group")
    protocol = (
        f'{{ kind = "flute", verify_keys = "{keys}/sign.pub", keys = "{keys}/here", channel = "pictures" }}'
    )
    text = subscription(received).replace('"flute"', protocol)
    secured = ('protect = "0%"', f'sign_key = "{keys}/sign"', f'key = "{keys}/group"', 'channel = "pictures"')
    (tmp_path / "receiver").mkdir()

    def receiver() -> RunningDaemon:
        state = str(tmp_path / "state of receiver")
        return RunningDaemon(tmp_path / "receiver", text, enter=right.enter([]), STATE_DIRECTORY=state)

    def sender() -> RunningDaemon:
        state = str(tmp_path / "state of sender")
        return sending(tmp_path, left, tree, *secured, STATE_DIRECTORY=state)

    with receiver() as waiting:
        with sender():
            wait_for(
                lambda: "mcastd keygen" in waiting.worker("inbound/images")["detail"], "it says what it lacks"
            )
            os.link(keys / "group", keys / "here")
            wait_for(
                lambda: received.is_dir() and files_below(received) == files_below(tree), "all files", 60
            )
            require_accounted(waiting)
        (tree / "one byte").write_bytes(b"more than one")
        with sender():
            wait_for(lambda: files_below(received) == files_below(tree), "what has changed")
    with receiver() as again, sender():
        wait_for(lambda: again.events("manifest.taken"), "a manifest after a restart")
        wait_for(lambda: output_of(again)["objects"]["states"].get("landed") == 5, "files that are there")
        assert not again.worker("inbound/images")["status"]["counters"]["dropped"].get("forged")
    assert files_below(received) == files_below(tree)


@pytest.mark.root
def test_without_repair_what_is_lost_comes_with_another_pass(
    hosts: tuple[Host, Host], tmp_path: Path, tree: Path
) -> None:
    left, right = hosts
    lose(right.enter([]), FIVE_PERCENT)
    received = tmp_path / "received"
    with receiving(tmp_path, right), sending(tmp_path, left, tree, 'protect = "0%"'):
        wait_for(lambda: received.is_dir() and files_below(received) == files_below(tree), "all files")


@pytest.mark.root
def test_a_receiver_that_is_killed_leaves_no_half_file(
    hosts: tuple[Host, Host], tmp_path: Path, tree: Path
) -> None:
    left, right = hosts
    received = tmp_path / "received"
    with sending(tmp_path, left, tree, rate="8Mbit"):
        with receiving(tmp_path, right) as receiver:
            wait_for(lambda: receiver.worker("inbound/images")["status"]["counters"]["received"] > 500)
            receiver.process.send_signal(signal.SIGKILL)
            receiver.process.wait()
        whole = files_below(tree)
        assert files_below(received).items() <= whole.items()
        with receiving(tmp_path, right):
            wait_for(lambda: files_below(received) == whole, "all files")
    assert [name for name in os.listdir(received) if name.startswith(".")] == []


@pytest.mark.root
def test_a_tree_is_exchanged_at_once_also_by_a_daemon_that_is_killed(
    hosts: tuple[Host, Host], tmp_path: Path, tree: Path
) -> None:
    pytest.importorskip("cryptography")
    left, right = hosts
    keys, received, pipe = tmp_path / "keys", tmp_path / "received", tmp_path / "landed"
    keys.mkdir(mode=0o700)
    make_signing_pair(keys / "sign")
    protocol = f'{{ kind = "flute", verify_keys = "{keys}/sign.pub" }}'
    text = subscription(received).replace('"flute"', protocol)
    text = text.replace('mode = "0604"', f'atomic = "tree", notify = "{pipe}"')
    current, state = received / "current", str(tmp_path / "state of receiver")
    (tmp_path / "receiver").mkdir()

    def receiver() -> RunningDaemon:
        return RunningDaemon(tmp_path / "receiver", text, enter=right.enter([]), STATE_DIRECTORY=state)

    def seen() -> dict[str, bytes]:
        while current.exists():
            at = current.resolve()
            with contextlib.suppress(FileNotFoundError):  # one that was exchanged meanwhile goes away
                found = files_below(at)
                if current.resolve() == at:
                    return found
        return {}

    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with sending(
        tmp_path,
        left,
        tree,
        'protect = "0%"',
        f'sign_key = "{keys}/sign"',
        rate="8Mbit",
        STATE_DIRECTORY=str(tmp_path / "state of sender"),
    ):
        with receiver() as first:
            wait_for(lambda: first.worker("inbound/images")["status"]["counters"]["received"] > 500)
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
        whole = files_below(tree)
        assert seen() in ({}, whole)
        with receiver() as second:
            wait_for(lambda: seen() == whole, "the tree", 60)
            (tree / "one byte").write_bytes(b"2")
            changed = files_below(tree)

            def exchanged() -> bool:
                found = seen()
                assert found in (whole, changed)
                return found == changed

            wait_for(exchanged, "the next tree", 60)
            wait_for(lambda: len(second.events("tree.switched")) == 2, "it is logged")
    lines = os.read(reader, 4096).decode().splitlines()
    os.close(reader)
    assert lines
    assert set(lines) == {str(current)}


@pytest.mark.root
def test_a_reload_and_a_sender_that_is_started_anew_cost_nothing(
    hosts: tuple[Host, Host], tmp_path: Path, tree: Path
) -> None:
    left, right = hosts
    received = tmp_path / "received"
    with receiving(tmp_path, right) as receiver:
        with sending(tmp_path, left, tree, rate="8Mbit"):
            wait_for(lambda: output_of(receiver)["objects"]["source"] > 500, "a part of the files")
            receiver.write(subscription(received, 'expect_every = "1h"'))
            assert receiver.ctl("reload").returncode == 0
            wait_for(lambda: files_below(received) == files_below(tree), "all files")
            wait_landed(receiver)
        before = output_of(receiver)["objects"]
        with sending(tmp_path, left, tree):
            wait_for(lambda: output_of(receiver)["objects"]["surplus"] > before["surplus"] + 3000, "a pass")
        after = output_of(receiver)["objects"]
        assert (after["states"], after["source"]) == (before["states"], before["source"])
        assert len(receiver.wait_events("object.landed", 5)) == 5
        require_accounted(receiver)


@pytest.mark.root
def test_a_disk_that_fills_makes_files_wait(hosts: tuple[Host, Host], tmp_path: Path, tree: Path) -> None:
    left, right = hosts
    received = tmp_path / "received"
    with tmpfs(received, "4m"):
        (received / "filling").write_bytes(bytes(2_000_000))
        with receiving(tmp_path, right) as receiver, sending(tmp_path, left, tree):
            wait_for(lambda: output_of(receiver)["reason"] == "no-space", "a full disk")
            wait_for(lambda: "no space" in receiver.worker("inbound/images")["detail"], "it is said")
            (received / "filling").unlink()
            wait_for(lambda: files_below(received) == files_below(tree), "all files")
            wait_for(lambda: output_of(receiver)["error"] is None, "no error")
            require_accounted(receiver)


@pytest.mark.root
@pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")
def test_what_is_beside_files_in_a_daemon_loses_nothing(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """A stream at 1 ms is sent and received by a daemon that sends a file, and receives and repairs it."""
    left, _ = hosts
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "lab.img").write_bytes(random.Random(31).randbytes(9_000_001))
    lines = "".join(f"{number}\n" for number in range(1500))
    (tmp_path / "lines").write_text(lines)
    lose(left.enter([]), FIVE_PERCENT)
    beside = 'group = "239.255.7.2"\nport = 9191\ninterface = "eth0"\n'
    received, stream = tmp_path / "received", tmp_path / "stream"
    listening = subscription(received)
    listening += (
        f'[inbound.stream]\n{beside}output = {{ kind = "file", path = "{stream}", format = "raw" }}\n'
    )
    protocol = 'protocol = { kind = "flute", protect = "5%" }\nrate = "40Mbit"\nrepeat = "forever"'
    speaking = f'[outbound.images]\n{GROUP}source = "{tmp_path}/tree"\n{protocol}\n'
    speaking += (
        f'[outbound.stream]\n{beside}source = "{tmp_path}/lines"\ninterval = "1ms"\nframing = "line"\n'
    )
    (tmp_path / "daemon").mkdir()
    with RunningDaemon(tmp_path / "daemon", listening, enter=left.enter([])) as daemon:
        daemon.write(listening + speaking)
        daemon.call("Reload")
        wait_for(lambda: stream.stat().st_size >= len(lines), "the stream")
        assert stream.read_text() == lines
        assert daemon.worker("inbound/stream")["status"]["counters"]["overflow"] == 0
        wait_for(lambda: files_below(received) == files_below(tmp_path / "tree"), "the file")
        assert output_of(daemon)["objects"]["restored"] > 0


# An outage: once, when a part of the file has come.
OUTAGE = """
    table inet loss {
        quota before { over 1500000 bytes }
        quota outage { %d bytes }
        chain input {
            type filter hook input priority 0
            udp dport 9190 quota name before quota name outage counter drop
        }
    }
"""


@pytest.mark.root
@pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")
def test_an_outage_of_150_datagrams_is_repaired_in_one_pass(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    left, right = hosts
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "lab.img").write_bytes(random.Random(150).randbytes(12_000_007))
    datagram = 1472 + 28
    rules = OUTAGE % (151 * datagram)
    command = right.enter(["nft", "-f", "-"])
    subprocess.run(command, input=rules, check=True, text=True, capture_output=True)
    received = tmp_path / "received"
    with receiving(tmp_path, right) as receiver, sending(tmp_path, left, tree, "interleave = 8"):
        wait_for(lambda: received.is_dir() and files_below(received) == files_below(tree), "the file")
        objects = output_of(receiver)["objects"]
        assert objects["restored"] >= 150
        assert objects["duplicate"] == 0, "nothing of it had to come again"


@pytest.mark.root
def test_files_that_change_while_they_are_sent_come_as_they_are_now(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    """Written to, cut, replaced by a link, and restored with its time, as from a backup."""
    left, right = hosts
    tree, received = tmp_path / "tree", tmp_path / "received"
    tree.mkdir()
    chance = random.Random(25)
    for name in ("written", "cut", "link", "restored"):
        (tree / name).write_bytes(chance.randbytes(1_000_003))
    before, times = files_below(tree), (tree / "restored").stat()
    with receiving(tmp_path, right) as receiver, sending(tmp_path, left, tree):
        wait_for(lambda: output_of(receiver)["objects"]["source"] > 1000, "a part of the files")
        with (tree / "written").open("r+b") as file:
            file.seek(900_000)
            file.write(b"another")
        os.truncate(tree / "cut", 500_000)
        (tree / "link").unlink()
        (tree / "link").symlink_to("/etc/passwd")
        (tree / "restored").write_bytes(b"for a while")
        after = {name: data for name, data in files_below(tree).items() if name != "link"}

        def came() -> bool:
            have = files_below(received) if received.is_dir() else {}
            assert all(data in (before[name], after.get(name)) for name, data in have.items())
            return after.items() <= have.items()

        wait_for(came, "the files as they are now")
        (tree / "restored").write_bytes(before["restored"])
        os.utime(tree / "restored", ns=(times.st_atime_ns, times.st_mtime_ns))
        wait_for(lambda: files_below(received)["restored"] == before["restored"], "what was restored")
        require_accounted(receiver)


def forged(chance: random.Random) -> Iterator[bytes]:
    """What somebody else sends into a session: tables that lie, and symbols of anything."""
    oti = Oti(NO_CODE, 1, 1)
    expires = int(time.time()) + 100_000
    for number in range(30):
        entries = [
            FileEntry(number * 1000 + each + 1, location, length, length, oti)
            for each in range(300)
            for location, length in [
                ((f"../../e{each}", 9), (f"/{'d/' * 31}{each}", 1 << 15), (f"{'é' * 100}{each}", 1 << 15))[
                    each % 3
                ]
            ]
        ]
        entries.append(
            FileEntry(number * 1000 + 900, "huge", 1 << 40, 1 << 40, Oti(NO_CODE, 65_528, 1 << 15))
        )
        yield from fdt_packets(7, number, build(FdtInstance(expires, tuple(entries))), 1400)
        for _ in range(300):
            toi = number * 1000 + chance.randrange(1, 1000)
            header = lct.build(7, toi, NO_CODE, close_session=True, close_object=True)
            yield header + SCHEMES[NO_CODE].identify(chance.randrange(1 << 15), 0) + b"x"
        yield chance.randbytes(200)


@pytest.mark.root
def test_whoever_floods_a_session_neither_leaves_the_directory_nor_takes_the_memory(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    left, right = hosts
    received = tmp_path / "received"
    with receiving(tmp_path, right) as receiver, sender(left, "eth0", "10.9.7.1") as attacker:
        before = resident(receiver)
        for packet in forged(random.Random(666)):
            attacker.sendto(packet, ("239.255.7.1", 9190))
        require_accounted(receiver)
        assert resident(receiver) - before < 100 << 20
        assert output_of(receiver)["counters"]["written"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"received", "receiver"}
    assert not (received / "huge").exists()


def resident(daemon: RunningDaemon) -> int:
    """Memory that a daemon has, in bytes."""
    pages = int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")
