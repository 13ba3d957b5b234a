"""``mcastctl listen`` and ``send`` between real hosts, with each other and with peers that are not ours."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from adhoc.conftest import Pair
from click.testing import CliRunner
from support.adhoc import Listening, ctl, enter
from support.amt_relay import SOURCE, SmallRelay, datagram
from support.captures import packets
from support.daemon import MCASTCTL, RunningDaemon
from support.inside import inside, sender
from support.peer import Ear, Talker
from support.programs import program
from support.textbook import compile_textbook
from support.wait import wait_for

from mcastd.adhoc import numbered
from mcastd.ctl import main
from mcastd.protocols.membership import RecordKind

GROUP, PORT = "239.255.1.2", 9190
TO = f"{GROUP}:{PORT}"
ETH0 = ("-i", "eth0")


def test_a_text_reaches_the_other_host(pair: Pair) -> None:
    with Listening(pair.right, GROUP, PORT, *ETH0, "--count", "1") as listening:
        assert ctl(pair.left, "send", TO, *ETH0, "--text", "hello").returncode == 0
        assert listening.wait() == 0
    heading, text = listening.out.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{6} 10\.0\.0\.1:\d+ eth0 ttl 1, 5 bytes", heading)
    assert text == "hello"
    assert "received 1 datagram, 5 bytes\n" in listening.err
    assert "from 10.0.0.1: 1" in listening.err


def test_ipv6(pair: Pair) -> None:
    with Listening(pair.right, "ff15::1", PORT, *ETH0, "--count", "1", "--json") as listening:
        result = ctl(pair.left, "send", f"[ff15::1]:{PORT}", *ETH0, "--text", "hello", "--ttl", "9")
        assert result.returncode == 0, result.stderr
        assert listening.wait() == 0
    (record,) = listening.records
    assert (record["payload"], record["ttl"], record["interface"]) == ("hello", 9, "eth0")
    assert record["source"] == "fd00::1"


def test_only_the_source_that_is_named_is_heard(pair: Pair) -> None:
    pair.left.ip("address add 10.0.0.11/24 dev eth0")
    with Listening(
        pair.right, GROUP, PORT, *ETH0, "--source", "10.0.0.11", "--count", "1", "--raw"
    ) as listening:
        for source in ("10.0.0.1", "10.0.0.11"):
            assert ctl(pair.left, "send", TO, "-i", source, "--text", f"from {source}").returncode == 0
        assert listening.wait() == 0
    assert listening.out == "from 10.0.0.11"


def test_a_file_arrives_byte_for_byte_as_the_daemon_sends_it(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(500_001))
    with Listening(pair.right, GROUP, PORT, *ETH0, "--raw", "--count", str(-(-500_001 // 1316))) as listening:
        result = ctl(pair.left, "send", TO, str(file), *ETH0, "--chunk", "1316", "--rate", "50Mbit")
        assert result.returncode == 0, result.stderr
        out, err = listening.process.communicate(timeout=60)
    assert out == file.read_bytes()
    assert "received 380 datagrams, 500,001 bytes" in err.decode()
    assert "sent 380 datagrams, 500,001 bytes" in result.stderr


@pytest.mark.parametrize(("group", "size"), [(GROUP, 1316), ("ff15::1", 40)])
def test_a_capture_has_what_dumpcap_has_of_the_same_datagrams(
    pair: Pair, tmp_path: Path, group: str, size: int
) -> None:
    ours, theirs, file = tmp_path / "ours", tmp_path / "theirs", tmp_path / "file"
    file.write_bytes(os.urandom(20 * size - 7))
    capture = [program("dumpcap"), "-q", "-i", "eth0", "-f", "udp", "-c", "20", "-w", str(theirs)]
    with subprocess.Popen(pair.right.enter(capture), stderr=subprocess.DEVNULL) as dumpcap:
        wait_for(lambda: theirs.exists() and theirs.stat().st_size, "dumpcap's capture begun")
        with Listening(pair.right, group, PORT, *ETH0, "--pcapng", "--count", "20") as listening:
            to = f"[{group}]:{PORT}" if ":" in group else f"{group}:{PORT}"
            arguments = (
                "send",
                to,
                str(file),
                *ETH0,
                "--chunk",
                str(size),
                "--ttl",
                "3",
                "--interval",
                "1ms",
            )
            result = ctl(pair.left, *arguments)
            assert result.returncode == 0, result.stderr
            out, err = listening.process.communicate(timeout=60)
        assert listening.process.returncode == 0, err
        assert dumpcap.wait(60) == 0
    ours.write_bytes(out)
    ip = ("ipv6.src", "ipv6.dst", "ipv6.hlim") if ":" in group else ("ip.src", "ip.dst", "ip.ttl")
    fields = *ip, "udp.srcport", "udp.dstport", "udp.payload", "frame.time_epoch", "frame.interface_name"
    assert packets(ours, *fields) == packets(theirs, *fields)


def test_a_capture_does_not_go_to_a_terminal(pair: Pair) -> None:
    master, slave = pty.openpty()
    command = pair.right.enter([*MCASTCTL, "listen", TO, "--pcapng"])
    ran = subprocess.run(command, stdout=slave, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(slave)
    os.close(master)
    assert (ran.returncode, "let it go to a file or a program" in ran.stderr) == (2, True)


def test_lines_of_standard_input_and_a_file_and_a_whole_file(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "news").write_text("one\ntwo\n")
    with Listening(pair.right, GROUP, PORT, *ETH0, "--json", "--count", "6") as listening:
        send = ("send", TO)
        assert ctl(pair.left, *send, *ETH0, input="typed\nunfinished").returncode == 0
        assert ctl(pair.left, *send, "news", *ETH0, cwd=tmp_path).returncode == 0
        assert ctl(pair.left, *send, "news", *ETH0, "--file", cwd=tmp_path).returncode == 0
        assert ctl(pair.left, *send, "-", *ETH0, "--chunk", "99", input="chunk").returncode == 0
        assert listening.wait() == 0
    payloads = [record["payload"] for record in listening.records]
    assert payloads == ["typed\n", "unfinished", "one\n", "two\n", "one\ntwo\n", "chunk"]


def test_each_line_that_is_typed_goes_at_once(pair: Pair) -> None:
    master, slave = pty.openpty()
    with Ear(pair.right, "eth0", GROUP, PORT) as ear:
        command = [*enter(pair.left), *MCASTCTL, "send", TO, *ETH0]
        sending = subprocess.Popen(
            command, stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            for line in (b"first\n", b"second\n"):
                os.write(master, line)
                assert ear.hear()[0] == line
            os.write(master, b"\x04")  # Ctrl-D
            _, err = sending.communicate(timeout=60)
        finally:
            sending.kill()
            sending.wait()
            os.close(master)
            os.close(slave)
    assert sending.returncode == 0
    assert "sent 2 datagrams, 13 bytes" in err


@pytest.mark.parametrize("listener", [b"SIGINT", b"SIGTERM"])
def test_a_signal_ends_with_the_summary(pair: Pair, listener: bytes) -> None:
    with (
        Listening(pair.right, GROUP, PORT, *ETH0, "--json") as listening,
        Talker(pair.left, "eth0", GROUP, PORT, source="10.0.0.1") as talker,
    ):
        talker.send(5)
        assert listening.process.stdout is not None
        first = listening.process.stdout.readline()
        assert listening.interrupt(signal.Signals[listener.decode()]) == 0
    assert json.loads(first)["payload"] == "000000\n"
    assert listening.summary["received"] == 5  # also what the kernel still held
    assert listening.summary["not_shown"] == 0
    assert "received 5 datagrams" in listening.err


def test_nothing_received_is_told_and_what_to_do_next(pair: Pair) -> None:
    with Listening(pair.right, GROUP, PORT, *ETH0, "--for", "6s") as listening:
        assert listening.wait() == 1
    assert f"joined {GROUP} port {PORT} on eth0: the kernel has it (sources: any)" in listening.err
    assert f"tcpdump -ni eth0 'dst host {GROUP} and udp port {PORT}'" in listening.err
    assert "mcastctl doctor" in listening.err
    assert re.search(r"^received nothing in [6-9]\.\d s$", listening.err, re.MULTILINE)
    assert listening.out == ""


def test_no_route_no_interface_no_port(pair: Pair) -> None:
    result = ctl(pair.right, "listen", TO)
    assert result.returncode == 1
    assert "the host has no route to the group; give --interface (have: eth0, lo)" in result.stderr
    assert "waiting" not in result.stderr
    result = ctl(pair.right, "send", TO, "--text", "x")
    assert result.returncode == 1
    assert "the host has no route to the group; give --interface (have: eth0, lo)" in result.stderr
    result = ctl(pair.right, "listen", TO, "-i", "eth9")
    assert (result.returncode, "no such interface (have: eth0, lo)" in result.stderr) == (1, True)
    with inside(pair.right):
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(("0.0.0.0", PORT))
    result = ctl(pair.right, "listen", TO, *ETH0)
    assert (result.returncode, "address already in use" in result.stderr) == (1, True)
    taken.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["listen", "10.0.0.1:9190"], "GROUP 10.0.0.1 is not a multicast address"),
        (["listen", "ff15::1:9190"], 'like "[ff15::1]:9190", not "ff15::1:9190"'),
        (["listen", "239.1.1.1"], "GROUP:PORT must be a group and a port"),
        (["listen", "239.1.1.1:0"], "PORT must be a whole number from 1 to 65535"),
        (["listen", TO, "--source", "239.1.1.1"], "--source 239.1.1.1 is not a unicast address"),
        (["listen", TO, "--source", "fd00::1"], "--source fd00::1 is IPv6, but the group is IPv4"),
        (["listen", TO, "--for", "soon"], "--for must be a number of seconds, or a span"),
        (["listen", TO, "--count", "0"], "--count"),
        (["send", TO, "--ttl", "256"], "--ttl must be a whole number from 0 to 255"),
        (["send", TO, "file", "--rate", "fast"], "--rate must be a number of bits per second"),
        (["send", TO, "file", "--rate", "0"], "--rate 0 sends nothing"),
        (["send", TO, "file", "--rate", "1Mbit", "--interval", "1"], "--interval contradicts --rate"),
        (["send", TO, "file", "--chunk", "0"], "--chunk must be a whole number from 1 to 65507"),
        (["send", TO, "file", "--chunk", "9", "--line"], "--chunk contradicts --line"),
        (["send", TO, "file", "--count", "often"], '--count must be "once", "forever" or a count from 1'),
        (["send", TO, "file", "--numbered", "--chunk", "64"], "--chunk must be more than 64 bytes"),
        (["send", TO, "file", "--text", "x"], "--text is sent instead of a FILE"),
        (["send", TO, "--text", "x" * 65_508], "--text is longer than 65,507 bytes"),
        (["send", TO, "--text", "x", "--file"], "--chunk, --line and --file cut a FILE"),
        (["send", TO, "--numbered", "--size", "63"], "--size must be from 64 to 65,507 bytes, not 63"),
        (["send", TO, "--size", "100"], "--size is for --numbered without a FILE"),
        (["send", TO, "--count", "3"], "--count is for what can be sent again"),
        (["send", TO, "--text", "x", "--dscp", "XY"], "--dscp must be one of CS0 to CS7"),
        (["send", TO, "--text", "x", "-i", "all"], '--interface "all" is for inbound subscriptions'),
    ],
)
def test_a_wrong_command_line_is_refused_in_its_own_words(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert words in result.output
    assert result.exit_code == 2


# -- numbers


def rules(host_enter: list[str], script: str) -> None:
    subprocess.run([*host_enter, program("nft"), "-f", "-"], input=script, text=True, check=True)


def dropped(host_enter: list[str]) -> int:
    command = [*host_enter, program("nft"), "-j", "list", "counters"]
    found = json.loads(subprocess.check_output(command))["nftables"]
    return int(next(item["counter"]["packets"] for item in found if "counter" in item))


def test_losses_are_those_that_the_network_made(pair: Pair) -> None:
    """nft drops one in seven by chance, but the first and the last, so that both ends are known."""
    right = enter(pair.right)
    number = "@th,208,96"  # after 8 bytes of UDP header, and 18 of ours
    rules(
        right,
        f"""
        table ip lossy {{
            counter lost {{}}
            chain prerouting {{
                type filter hook prerouting priority 0;
                udp dport {PORT} {number} 0x{b"000000000001".hex()} accept
                udp dport {PORT} {number} 0x{b"000000005000".hex()} accept
                udp dport {PORT} numgen random mod 7 == 0 counter name lost drop
            }}
        }}""",
    )
    with Listening(pair.right, GROUP, PORT, *ETH0, "--json") as listening:
        arguments = ("--numbered", "--count", "5000", "--size", "200", "--rate", "5Mbit")
        assert ctl(pair.left, "send", TO, *ETH0, *arguments).returncode == 0
        assert listening.interrupt() == 1
    summary = listening.summary
    gone = dropped(right)
    assert gone > 0
    assert summary["overflow"] == 0
    assert summary["numbered"] == {
        "received": 5_000 - gone, "lost": gone, "duplicated": 0, "reordered": 0, "late": 0,
    }  # fmt: skip
    (stream,) = summary["streams"]
    assert (stream["first"], stream["last"], stream["total"]) == (1, 5_000, 5_000)
    assert f"lost {gone:,} " in listening.err
    assert len(listening.records) + summary["not_shown"] == summary["received"]


def test_reordered_duplicated_and_restarted(pair: Pair) -> None:
    with Listening(pair.right, GROUP, PORT, *ETH0, "--json", "--count", "9") as listening:
        sock = sender(pair.left, "eth0", "10.0.0.1")
        for run, number in [(1, n) for n in (4, 5, 7, 6, 6, 9)] + [(2, n) for n in (1, 2, 3)]:
            sock.sendto(numbered.make(b"%08x" % run, number, 0, 0), (GROUP, PORT))
        sock.close()
        assert listening.wait() == 1
    one, two = listening.summary["streams"]
    counts = ("received", "lost", "duplicated", "reordered")
    assert [one[key] for key in counts] == [6, 1, 1, 1]
    assert [two[key] for key in counts] == [3, 0, 0, 0]
    assert (one["first"], one["last"], two["run"]) == (4, 9, "00000002")


def test_a_file_may_be_numbered(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "news"
    file.write_text("one\ntwo\n")
    with Listening(pair.right, GROUP, PORT, *ETH0, "--count", "4") as listening:
        assert ctl(pair.left, "send", TO, str(file), *ETH0, "--numbered", "--repeat", "2").returncode == 0
        assert listening.wait() == 0
    shown = [line for line in listening.out.splitlines() if " ttl " not in line]
    assert [line.partition(",")[0] for line in shown[::2]] == [f"number {n}" for n in (1, 2, 3, 4)]
    assert shown[1::2] == ["one", "two", "one", "two"]
    assert "numbers 1 to 4\n" in listening.err


def test_what_is_refused_uses_no_number_up(pair: Pair) -> None:
    """A firewall on the sender refuses for a while: the receiver sees no gap in the numbers."""
    left = enter(pair.left)
    with Listening(pair.right, GROUP, PORT, *ETH0, "--json") as listening:
        command = [*left, *MCASTCTL, "send", TO, *ETH0, "--numbered", "--interval", "2ms"]
        sending = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert listening.process.stdout is not None
            listening.process.stdout.readline()
            refusal = "chain out { type filter hook output priority 0; meta l4proto udp drop; }"
            rules(left, f"table ip fire {{ {refusal}; }}")
            assert sending.stderr is not None
            assert "operation not permitted" in sending.stderr.readline()
            subprocess.run([*left, program("nft"), "flush", "ruleset"], check=True)
            listening.process.stdout.readline()
            before = int(json.loads(listening.process.stdout.readline())["payload"].split()[3])
            wait_for(
                lambda: (
                    int(json.loads(listening.process.stdout.readline())["payload"].split()[3]) > before + 20
                ),  # type: ignore[union-attr]
                "it goes on",
            )
            sending.send_signal(signal.SIGINT)
            _, err = sending.communicate(timeout=60)
            assert sending.returncode == 0  # it had no end of its own
        finally:
            sending.kill()
            sending.wait()
        assert listening.interrupt() == 0
    assert listening.summary["numbered"]["lost"] == 0
    assert "refused by the kernel, and tried again: EPERM" in err


def test_ctrl_c_before_the_end_is_told_by_the_exit_status(pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "long"
    file.write_text("line\n" * 100)
    with Ear(pair.right, "eth0", GROUP, PORT) as ear:
        command = [*enter(pair.left), *MCASTCTL, "send", TO, str(file), *ETH0, "--interval", "1h"]
        sending = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        ear.hear()
        sending.send_signal(signal.SIGINT)
        _, err = sending.communicate(timeout=60)
    assert sending.returncode == 130
    assert "sent 1 datagram, 5 bytes" in err


def test_the_numbers_alone_go_until_told_to_stop(pair: Pair) -> None:
    with Ear(pair.right, "eth0", GROUP, PORT) as ear:
        command = [*enter(pair.left), *MCASTCTL, "send", TO, *ETH0, "--numbered", "--size", "300", "--json"]
        sending = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        payloads = [ear.hear()[0] for _ in range(3)]
        sending.send_signal(signal.SIGTERM)
        out, _ = sending.communicate(timeout=60)
    assert sending.returncode == 0
    assert json.loads(out)["summary"]["sent"] >= 3
    assert {len(payload) for payload in payloads} == {300}
    assert all(payload.endswith(b"\n") and payload[64:-1].strip() == b"" for payload in payloads)
    headers = [numbered.parse(payload) for payload in payloads]
    assert [header.number for header in headers if header] == [1, 2, 3]


# -- peers


def test_with_the_daemon_both_ways(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "news").write_text("of the daemon\n")
    config = f"""
        [inbound.news]
        group = "{GROUP}"
        port = {PORT}
        interface = "eth0"
        output = "{tmp_path}/out"
        [outbound.news]
        source = "{tmp_path}/news"
        group = "{GROUP}"
        port = {PORT + 1}
        interface = "eth0"
        interval = "20ms"
        repeat = "forever"
    """
    with RunningDaemon(tmp_path, config, enter=enter(pair.right)):
        with Listening(pair.left, GROUP, PORT + 1, *ETH0, "--raw", "--count", "2") as listening:
            assert listening.wait() == 0
        assert listening.out == 2 * "of the daemon\n"
        assert ctl(pair.left, "send", TO, *ETH0, "--text", "to the daemon\n").returncode == 0
        wait_for(lambda: (tmp_path / "out").read_text() == "to the daemon\n", "it is recorded")


def test_with_the_textbook_both_ways(pair: Pair, tmp_path: Path) -> None:
    for host in pair:
        host.ip("route add 224.0.0.0/4 dev eth0")
    (tmp_path / "news.txt").write_text("a piece of news, and another\n")
    with Listening(pair.right, GROUP, PORT, "--raw") as listening:
        command = pair.left.enter([compile_textbook("news_sender", tmp_path), GROUP, str(PORT)])
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
        assert listening.interrupt() == 0
    assert listening.out == "a piece of news, and another\n"
    receiver = subprocess.Popen(
        pair.right.enter([compile_textbook("news_receiver", tmp_path), GROUP, str(PORT)]),
        stdout=(tmp_path / "printed").open("wb"),
        stderr=subprocess.PIPE,
    )
    try:
        assert receiver.stderr is not None
        assert receiver.stderr.readline() == b"joined\n"
        assert ctl(pair.left, "send", TO, input="news by hand\n").returncode == 0
        wait_for(lambda: (tmp_path / "printed").read_bytes() == b"news by hand\n", "it is printed")
    finally:
        receiver.terminate()
        receiver.communicate()


def test_from_socat(pair: Pair) -> None:
    with Listening(pair.right, GROUP, PORT, *ETH0, "--count", "1", "--hex") as listening:
        target = f"UDP4-DATAGRAM:{TO},ip-multicast-if=10.0.0.1"
        command = pair.left.enter(["socat", "-u", "STDIN", target])
        subprocess.run(command, input=b"\x1b[2Jnasty\n", check=True, timeout=60)
        assert listening.wait() == 0
    assert listening.out.splitlines()[1] == (
        "00000000  1b 5b 32 4a 6e 61 73 74  79 0a                    |.[2Jnasty.|"
    )


# -- outputs that break or lag


def test_a_reader_that_has_seen_enough_ends_it(pair: Pair) -> None:
    with (
        Listening(pair.right, GROUP, PORT, *ETH0, "--raw") as listening,
        Talker(pair.left, "eth0", GROUP, PORT, source="10.0.0.1") as talker,
    ):
        talker.send()
        assert listening.process.stdout is not None
        listening.process.stdout.readline()
        listening.process.stdout.close()
        listening.process.stdout = None
        talker.send(3)
        assert listening.wait() == 0
    assert "Broken pipe" not in listening.err
    assert "Traceback" not in listening.err


def test_a_full_disk_is_named(pair: Pair) -> None:
    with Talker(pair.left, "eth0", GROUP, PORT, source="10.0.0.1") as talker, open("/dev/full", "wb") as full:
        command = [*enter(pair.right), *MCASTCTL, "listen", TO, *ETH0, "--raw"]
        process = subprocess.Popen(command, stdout=full, stderr=subprocess.PIPE, text=True)
        try:
            wait_for(lambda: talker.send() and process.poll() is not None, "it ends")
            _, err = process.communicate()
        finally:
            process.kill()
            process.wait()
    assert "cannot write to standard output: no space left on device" in err
    assert process.returncode == 1


def test_a_reader_that_lags_loses_nothing_of_the_count(pair: Pair) -> None:
    """It reads nothing at all: reception, and the numbers, go on."""
    with Listening(pair.right, GROUP, PORT, *ETH0, "--hex") as listening:
        arguments = ("--numbered", "--count", "30000", "--size", "500", "--rate", "20Mbit")
        assert ctl(pair.left, "send", TO, *ETH0, *arguments).returncode == 0
        assert listening.interrupt() == 0
    assert "received 30,000 datagrams, 15,000,000 bytes" in listening.err
    assert "lost 0 (0.00%)" in listening.err
    found = re.search(r"([\d,]+) datagrams not shown", listening.err)
    assert found
    shown = sum(" ttl 1, 500 bytes" in line for line in listening.out.splitlines())
    begun = 256  # datagrams: of the batch that was being written at the end, a part may be there
    assert 0 < shown <= 30_000 - int(found[1].replace(",", "")) + begun


def test_an_interface_that_goes_and_comes_back(pair: Pair) -> None:
    with Listening(pair.right, GROUP, PORT, *ETH0, "--count", "1") as listening:
        pair.right.ip("link set eth0 name eth1")
        assert listening.process.stderr is not None
        err = listening.process.stderr
        wait_for(
            lambda: b"no such interface" in err.readline(), "its trouble"
        )  # on a loaded machine: not first
        pair.right.ip("link set eth1 name eth0")
        with Talker(pair.left, "eth0", GROUP, PORT, source="10.0.0.1") as talker:
            wait_for(lambda: talker.send() and listening.process.poll() is not None, "it hears again")
        assert listening.wait() == 0


def test_a_group_comes_by_a_tunnel(pair: Pair) -> None:
    with inside(pair.left):
        relay = SmallRelay("10.0.0.1")
    relay.stream = lambda: [datagram(b"by tunnel")]
    try:
        tunnel = "--amt", "10.0.0.1", "--raw", "--count", "3"
        command = pair.right.enter([*MCASTCTL, "listen", "232.1.1.1:5004", "--source", str(SOURCE), *tunnel])
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, 3 * b"by tunnel")
        wait_for(lambda: any(kind is RecordKind.BLOCK for kind, _, _ in relay.reports), "its leave")
        relay.answers = lambda _: False
        command = pair.right.enter(
            [*MCASTCTL, "listen", "232.1.1.1:5004", "--amt", "10.0.0.1", "--for", "6s"]
        )
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode == 1
        assert b"a tunnel from 10.0.0.1: discovering" in done.stderr
    finally:
        relay.close()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("-i", "eth0"), "-i says where a group is joined, and by --amt none is"),
        ((), "--amt must be an address or a name"),
    ],
)
def test_a_tunnel_that_cannot_be_is_refused(arguments: tuple[str, ...], why: str) -> None:
    relay = "192.0.2.1" if arguments else "no relay"
    result = CliRunner().invoke(main, ["listen", TO, "--amt", relay, *arguments])
    assert (result.exit_code, why in result.output) == (2, True)
