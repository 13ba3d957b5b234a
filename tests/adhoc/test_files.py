"""``mcastctl send --flute`` and ``listen --flute``: whole files between real hosts."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from adhoc.conftest import Pair
from click.testing import CliRunner
from support.adhoc import Listening, ctl, enter
from support.daemon import MCASTCTL
from support.forked import mcastctl
from support.terminal import Terminal
from support.trees import grow_tree, lose
from support.wait import wait_for

from mcastd.ctl import main
from mcastd.delivery.keys import make_group_key, make_signing_pair
from mcastd.protocols import raptorq

GROUP, PORT = "239.255.1.2", 9190
TO = f"{GROUP}:{PORT}"
ETH0 = ("-i", "eth0")
FAST = ("--rate", "40Mbit")
needs_library = pytest.mark.skipif(not raptorq.available(), reason="raptorq is not installed")
# Without repair symbols, so that a test needs no library.
PLAIN = ("--protect", "0%")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    sizes = {"empty": 0, "one byte": 1, "images/lab.img": 2_000_003, "images/ü/small": 1448}
    return grow_tree(tmp_path / "tree", sizes)


def content(root: Path) -> dict[str, bytes]:
    """All files below a directory, those on their way too."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("loss", ["", pytest.param("numgen random mod 100 < 3", marks=needs_library)])
def test_a_tree_arrives_byte_for_byte(pair: Pair, tmp_path: Path, tree: Path, loss: str) -> None:
    if loss:
        lose(enter(pair.right), loss)
    protect = () if loss else PLAIN
    repeat = ("--repeat", "2") if loss else ()  # 1 % of chances are left by one pass
    received = tmp_path / "received"
    with Listening(pair.right, GROUP, PORT, *ETH0, "--flute", str(received), "--count", "4") as listening:
        result = ctl(pair.left, "send", "--flute", str(tree), TO, *ETH0, *FAST, *protect, *repeat)
        assert result.returncode == 0, result.stderr
        assert listening.wait() == 0
    assert content(received) == content(tree)
    landed = {
        f"landed {name}, {len(data):,} byte{'' if len(data) == 1 else 's'}"
        for name, data in content(tree).items()
    }
    assert set(listening.out.splitlines()) == landed
    assert "landed 4 files, 2,001,452 bytes\n" in listening.err
    assert ("that were lost are restored" in listening.err) is bool(loss)
    times = "2 times, with " if loss else "once\n"
    assert f"sent 4 files, 2,001,452 bytes, {times}" in result.stderr


def test_a_file_for_programs(pair: Pair, tmp_path: Path, tree: Path) -> None:
    received, file = tmp_path / "received", tree / "images" / "lab.img"
    arguments = ("--flute", "received", "--json", "--count", "1")
    previous = os.getcwd()
    os.chdir(tmp_path)
    try:
        listening = Listening(pair.right, GROUP, PORT, *ETH0, *arguments)
    finally:
        os.chdir(previous)
    with listening:
        result = ctl(
            pair.left, "send", "--flute", "lab.img", TO, *ETH0, *FAST, *PLAIN, "--json", cwd=file.parent
        )
        assert result.returncode == 0, result.stderr
        assert listening.wait() == 0
    path = str(received / "lab.img")
    assert listening.records == [{"landed": "lab.img", "path": path, "bytes": 2_000_003, "unchanged": False}]
    counts = {key: listening.summary[key] for key in ("landed", "landed_bytes", "refused", "incomplete")}
    assert counts == {"landed": 1, "landed_bytes": 2_000_003, "refused": {}, "incomplete": 0}
    assert (received / "lab.img").read_bytes() == file.read_bytes()
    os.umask(umask := os.umask(0))
    assert stat.S_IMODE((received / "lab.img").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE(received.stat().st_mode) == 0o777 & ~(umask | 0o022)
    summary = json.loads(result.stdout)["summary"]
    assert (summary["files"]["files"], summary["files"]["total_bytes"], summary["passes"]) == (
        1,
        2_000_003,
        1,
    )


def test_what_is_not_sent_and_what_is_refused_is_named(pair: Pair, tmp_path: Path, tree: Path) -> None:
    (tree / "link").symlink_to("empty")
    received = tmp_path / "received"
    (received / "one byte").mkdir(parents=True)
    with Listening(
        pair.right, GROUP, PORT, *ETH0, "--flute", str(received), "--replace", "--json"
    ) as listening:
        result = ctl(pair.left, "send", "--flute", str(tree), TO, *ETH0, *FAST, *PLAIN)
        assert result.returncode == 1
        assert "not sent: link: it is a symbolic link\n" in result.stderr
        assert listening.process.stdout is not None
        told = [json.loads(listening.process.stdout.readline()) for _ in range(4)]
        assert listening.interrupt() == 1
    assert content(received).keys() == {"empty", "images/lab.img", "images/ü/small"}
    refused = [one for one in told if "refused" in one]
    assert [(one["refused"], one["reason"]) for one in refused] == [("one byte", "in-the-way")]
    assert listening.summary["refused"] == {"one byte": "in-the-way"}
    assert "refused 1 file: one byte\n" in listening.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_in_the_middle_leaves_nothing_half(
    pair: Pair, tmp_path: Path, tree: Path, number: signal.Signals
) -> None:
    received = tmp_path / "received"
    command = ["send", "--flute", str(tree / "images"), TO, *ETH0, *PLAIN, "--rate", "1Mbit"]
    with Listening(pair.right, GROUP, PORT, *ETH0, "--flute", str(received)) as listening:
        sending = subprocess.Popen(
            [*enter(pair.left), *MCASTCTL, *command], stderr=subprocess.PIPE, text=True
        )
        try:
            wait_for(lambda: list(received.glob(".mcastd-partial/*")) or _open_below(listening, received))
            assert listening.interrupt(number) == 1
            sending.send_signal(number)
            _, err = sending.communicate(timeout=60)
        finally:
            sending.kill()
            sending.wait()
    assert sending.returncode == 128 + number
    assert re.search(r"^stopped at \d+% of pass 1 of 2 files, 2,001,451 bytes$", err, re.MULTILINE)
    assert content(received).items() <= content(tree / "images").items()
    assert "lab.img" not in content(received)
    assert [name for name in os.listdir(received) if name.startswith(".")] == []
    assert re.search(r"incomplete, and gone: \d files?: .*lab\.img \(\d+%\)", listening.err)


def _open_below(listening: Listening, directory: Path) -> bool:
    """Return True if the command has something open in a directory that is no directory, of any name."""
    for link in Path(f"/proc/{listening.process.pid}/fd").iterdir():
        try:
            target = os.readlink(link)
            size = link.stat().st_size
        except OSError:
            continue
        if target.startswith(f"{directory}/") and target.endswith("(deleted)") and size:
            return True
    return False


def said(listening: Listening, words: str) -> str:
    """What the command says up to a line that has these words, which are waited for."""
    assert listening.process.stderr is not None
    lines = []
    while not lines or (lines[-1] and words not in lines[-1]):
        lines.append(listening.process.stderr.readline().decode())
    return "".join(lines)


def test_what_the_user_has_is_given_to_nobody_without_keys(pair: Pair, tmp_path: Path) -> None:
    """In a home directory anybody in the network could replace what a shell runs."""
    home = grow_tree(tmp_path / "home", {".profile": 31})
    into = (TO, *ETH0, "--flute", str(home))
    result = ctl(pair.right, "listen", *into)
    assert result.returncode == 1
    assert f"cannot receive into {home}: there is something in it, and without keys anybody" in result.stderr
    mine, theirs = content(home), grow_tree(tmp_path / "theirs", {".profile": 57})
    with Listening(pair.right, GROUP, PORT, *into[1:], "--replace", "--count", "1") as listening:
        assert content(home) == mine
        assert ctl(pair.left, "send", "--flute", str(theirs), TO, *ETH0, *FAST, *PLAIN).returncode == 0
        assert listening.wait() == 0
    assert content(home) == content(theirs)


def test_datagrams_that_are_no_files_are_told(pair: Pair, tmp_path: Path) -> None:
    with Listening(pair.right, GROUP, PORT, *ETH0, "--flute", str(tmp_path / "received")) as listening:
        assert ctl(pair.left, "send", TO, *ETH0, "--text", "hello").returncode == 0
        told = said(listening, "is it sent by `mcastctl send --flute`")
        assert "1 datagram came, and none tells of a file (dropped: malformed 1)\n" in told
        assert listening.interrupt() == 1
    assert "landed 0 files" in listening.err


def test_silence_is_told_and_a_directory_in_use(pair: Pair, tmp_path: Path) -> None:
    into = (*ETH0, "--flute", str(tmp_path / "received"))
    with Listening(pair.right, GROUP, PORT, *into) as listening:
        assert "nothing received in 3 s. What there is:" in said(listening, "at the sender")
        other = ctl(pair.right, "listen", "239.255.1.3:9191", *into)
        assert listening.interrupt() == 1
    assert re.search(r"^received nothing in \d+\.\d s$", listening.err, re.MULTILINE)
    assert other.returncode == 1
    assert "another process does; give each a directory of its own" in other.stderr


def test_no_such_file_and_an_empty_directory(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, words in (("none", "no such file or directory"), ("empty", "there are no files in it")):
        result = ctl(pair.left, "send", "--flute", name, TO, *ETH0, *PLAIN, cwd=tmp_path)
        assert (result.returncode, words in result.stderr) == (1, True), result.stderr


@needs_library
def test_a_receiver_without_the_library_names_the_way_out(pair: Pair, tmp_path: Path, tree: Path) -> None:
    """Its helper process looks for the library by itself: here it finds one that cannot be loaded."""
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "raptorq.py").write_text("raise ImportError('none')\n")
    lose(enter(pair.right), "numgen inc mod 50 == 30")
    received, images = tmp_path / "received", tree / "images"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(shadow), prepend=os.pathsep)
        listening = Listening(pair.right, GROUP, PORT, *ETH0, "--flute", str(received), "--count", "2")
    with listening:
        assert ctl(pair.left, "send", "--flute", str(images), TO, *ETH0, *FAST).returncode == 0
        told = said(listening, "nothing came for 3 s, and 1 file is incomplete")
        assert "cannot repair: raptorq is not installed" in told
        assert "or pip install 'mcastd[files]' on this host" in told
        again = ctl(pair.left, "send", "--flute", str(images), TO, *ETH0, *FAST, "--repeat", "3")
        assert again.returncode == 0
        assert listening.wait() == 0
    assert content(received) == content(images)


class Keys:
    """A pair for signing, two group keys, and a home whose state the commands keep."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("cryptography")
        self.verifying = make_signing_pair(directory / "sign").text
        self.sign, self.public = str(directory / "sign"), str(directory / "sign.pub")
        self.one, self.other = str(directory / "one.key"), str(directory / "other.key")
        for path in (self.one, self.other):
            make_group_key(Path(path))
        self.home = directory / "home"
        patch.setenv("HOME", str(self.home))
        patch.delenv("XDG_STATE_HOME", raising=False)


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    return Keys(tmp_path, monkeypatch)


def test_signed_and_sealed_files_arrive_with_mode_and_time(
    pair: Pair, tmp_path: Path, tree: Path, keys: Keys
) -> None:
    image, received = tree / "images" / "lab.img", tmp_path / "received"
    image.chmod(0o751)
    os.utime(image, ns=(1_700_000_000_123_456_789, 1_700_000_001_123_456_789))
    secrets = ("--verify-key", keys.verifying, "--key", keys.other, "--key", keys.one, "--channel", "lab")
    arguments = (*ETH0, "--flute", str(received), "--count", "4", *secrets)
    signed = ("--sign-key", "sign", "--key", "one.key", "--channel", "lab")
    with Listening(pair.right, GROUP, PORT, *arguments) as listening:
        result = ctl(pair.left, "send", "--flute", str(tree), TO, *ETH0, *FAST, *PLAIN, *signed, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert listening.wait() == 0
    assert content(received) == content(tree)
    found = (received / "images" / "lab.img").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o751, 1_700_000_001_123_456_789)
    kept = {path.name.rpartition("-")[2] for path in (keys.home / ".local/state/mcastd").iterdir()}
    assert kept == {"lab"}


def test_files_of_other_keys_or_none_are_not_taken(
    pair: Pair, tmp_path: Path, tree: Path, keys: Keys
) -> None:
    """The last one is taken, so that the others are known to have come."""
    received = tmp_path / "received"
    secrets = ("--verify-key", "sign.pub", "--key", "one.key")
    previous = os.getcwd()
    os.chdir(tmp_path)
    try:
        arguments = (*ETH0, "--flute", "received", "--count", "4", *secrets)
        listening = Listening(pair.right, GROUP, PORT, *arguments)
    finally:
        os.chdir(previous)
    with listening:
        for given in (
            ["--key", keys.one],
            ["--sign-key", keys.sign, "--key", keys.other],
            ["--sign-key", keys.sign, "--key", keys.one],
        ):
            assert not received.exists() or content(received) == {}
            result = ctl(pair.left, "send", "--flute", str(tree), TO, *ETH0, *FAST, *PLAIN, *given)
            assert result.returncode == 0, result.stderr
        assert listening.wait() == 0
    assert content(received) == content(tree)
    dropped = listening.err.partition("  dropped: ")[2]
    assert "wrong-key" in dropped
    assert "refused" in dropped


def test_a_key_that_cannot_be_had_is_told_as_the_daemon_tells_it(
    pair: Pair, tmp_path: Path, tree: Path, keys: Keys
) -> None:
    os.chmod(keys.other, 0o640)
    missing, network = tmp_path / "missing", f"/proc/{pair.right.pid}/ns/net"
    exposed = f"{keys.other}: its mode 0640 opens it to others than its owner; chmod 600 {keys.other}"
    none = f"{missing}: no such file or directory; copy it there, or make one: mcastd keygen {missing}"
    kind = (
        f"{keys.sign}: this is a signing key, not a verifying key;"
        " a signing key's public half is in PATH.pub at the sender"
    )
    for words, path, option, place, cause in (
        ("send", tree, "--key", keys.other, f"cannot send {tree}: cannot read a group key from {exposed}"),
        ("listen", tmp_path, "--key", missing, f"cannot read a group key from {none}"),
        ("listen", tmp_path, "--verify-key", keys.sign, f"cannot read a verifying key from {kind}"),
    ):
        result = mcastctl(words, TO, *ETH0, "--flute", str(path), option, str(place), network=network)
        assert (result.returncode, result.stderr) == (1, f"mcastctl: cannot {words}: {cause}\n")


WITHOUT = "import sys; sys.modules['raptorq'] = None; from mcastd.entry import mcastctl; mcastctl()"


def test_without_the_library_the_way_out_is_named(pair: Pair, tmp_path: Path, tree: Path) -> None:
    def send(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT, "send", "--flute", str(tree), TO, *ETH0, *FAST, *arguments]
        return subprocess.run([*enter(pair.left), *command], capture_output=True, text=True, check=False)

    result = send()
    assert result.returncode == 1
    assert "raptorq is not installed, which makes the repair symbols; give --protect 0%" in result.stderr
    assert "pip install 'mcastd[files]'" in result.stderr
    assert send(*PLAIN).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["send", "--flute", "tree", "10.0.0.1:9190"], "GROUP 10.0.0.1 is not a multicast address"),
        (["send", "--flute", "-", TO], "--flute sends a file or a directory"),
        (["send", "--flute", "tree", TO, "file"], "FILE contradicts --flute"),
        (["send", "--flute", "tree", TO, "--text", "x"], "--text contradicts --flute"),
        (["send", "--flute", "tree", TO, "--numbered"], "--numbered contradicts --flute"),
        (["send", "--flute", "tree", TO, "--rate", "0"], '--rate 0 sends nothing; give one like "10Mbit"'),
        (["send", "--flute", "tree", TO, "--line"], "--line contradicts --flute"),
        (["send", "--flute", "tree", TO, "--size", "99"], "--size contradicts --flute"),
        (["send", "--flute", "tree", TO, "--interval", "1s"], "--interval contradicts --flute"),
        (["send", "--flute", "tree", TO, "--protect", "much"], "--protect must be a percentage"),
        (
            ["send", "--flute", "tree", TO, "--interleave", "65"],
            "--interleave must be a whole number from 1 to 64",
        ),
        (["send", "--flute", "tree", TO, "--rate", "fast"], "--rate must be a number of bits per second"),
        (
            ["send", "--flute", "tree", TO, "--repeat", "often"],
            '--count must be "once", "forever" or a count',
        ),
        (["send", "--flute", "tree", TO, "--chunk", "255"], "--chunk must be at least 256"),
        (["send", TO, "file", "--protect", "5%"], "--protect is for --flute"),
        (["send", TO, "file", "--interleave", "3"], "--interleave is for --flute"),
        (["send", TO, "file", "--sign-key", "sign"], "--sign-key is for --flute"),
        (["send", TO, "file", "--key", "one.key"], "--key is for --flute"),
        (["send", TO, "file", "--channel", "lab"], "--channel is for --flute"),
        (["send", "--flute", "tree", TO, "--channel", "lab"], "none without --sign-key or --key"),
        (["send", "--flute", "tree", TO, "--key", "k", "--channel", "/"], "--channel a name is up to 64"),
        (["send", "--flute", "tree", TO, "--sign-key", "a.pub"], 'a.pub" is the public half of a pair'),
        (["send", "--flute", "tree", TO, "--key", "A" * 43 + "="], "--key is a key itself, which others see"),
        (["send", "--flute", "tree", TO, "--sign-key", "ed25519-secret:A"], "--sign-key is a key itself"),
        (["send", "--flute", "tree", TO, "--key", "ed25519:A"], "--key is a verifying key"),
        (["listen", TO, "--verify-key", "a.pub"], "--verify-key is for --flute"),
        (["listen", TO, "--key", "one.key"], "--key is for --flute"),
        (["listen", TO, "--channel", "lab"], "--channel is for --flute"),
        (["listen", TO, "--replace"], "--replace is for --flute"),
        (["listen", "--flute", "in", TO, "--channel", "lab"], "none without --verify-key or --key"),
        (["listen", "--flute", "in", TO, "--key", "ed25519-secret:A"], "--key is a key itself"),
        (["listen", "--flute", "in", TO, "--verify-key", "ed25519:A"], '--verify-key "ed25519:A": a verify'),
        (["listen", "--flute", "in", TO, *("--key", "k") * 2], 'k" is there twice'),
        (["listen", "--flute", "in", TO, "--hex"], "--hex shows datagrams; with --flute there are files"),
        (["listen", "--flute", "in", TO, "--raw"], "--raw shows datagrams"),
        (["listen", "--flute", "in", TO, "--source", "fd00::1"], "--source fd00::1 is IPv6"),
        (["listen", "--flute", "in", TO, "--count", "0"], "--count"),
    ],
)
def test_a_wrong_command_line_is_refused_in_its_own_words(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert words in result.output
    assert result.exit_code == 2


def test_progress_on_a_terminal(pair: Pair, tmp_path: Path, tree: Path, keys: Keys) -> None:
    secrets = ["--verify-key", keys.public, "--key", keys.one]
    listen = ["listen", "--flute", str(tmp_path / "r"), TO, *ETH0, "--count", "4", *secrets]
    signed = ["--sign-key", keys.sign, "--key", keys.one]
    send = ["send", "--flute", str(tree), TO, *ETH0, *PLAIN, "--rate", "3Mbit", *signed]
    with Terminal(pair.right.enter([*MCASTCTL, *listen]), columns=100) as receiver:
        receiver.wait(f"receiving {GROUP} port {PORT} on eth0 into ")
        with Terminal(pair.left.enter([*MCASTCTL, *send]), columns=100) as sender:
            sender.wait("  at 3 Mbit/s (--rate), for receivers that lose up to 0% (--protect)")
            sender.wait("  signed (--sign-key) and sealed (--key), on channel mcastctl (--channel)")
            progress = r"\[#+-+\] +\d+%  "
            sender.wait(lambda screen: re.search(progress + r"4 files  .*bit/s  \d+s to go", screen), "a bar")
            receiver.wait(lambda screen: re.search(progress + r"\d of 4 files  .*lab\.img", screen), "bar")
            screens = receiver.wait("ended with 0"), sender.wait("ended with 0")
    for screen in screens:
        assert "[#" not in screen  # the line is gone
        assert all(len(line) <= 100 for line in screen.split("\n"))
    assert "landed images/lab.img, 2,000,003 bytes" in screens[0].split("\n")
