"""``mcastctl listen`` and ``send`` on a real terminal: what is seen at 80 columns, and what is left."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from adhoc.conftest import Pair
from support.adhoc import Listening, ctl
from support.daemon import MCASTCTL
from support.inside import sender
from support.peer import Talker, streaming
from support.terminal import Terminal

GROUP, PORT = "239.255.1.2", 9190
TO = f"{GROUP}:{PORT}"
README = Path(__file__).parent.parent.parent / "README.md"


def test_a_listener_shows_datagrams_above_its_line_of_rates(pair: Pair) -> None:
    with (
        Terminal(pair.right.enter([*MCASTCTL, "listen", TO, "-i", "eth0"])) as terminal,
        Talker(pair.left, "eth0", GROUP, PORT, source="10.0.0.1") as talker,
    ):
        terminal.wait(f"listening to {GROUP} port {PORT} on eth0; Ctrl-C ends it")
        with streaming(talker):
            screen = terminal.wait("/s, ", "rates").split("\n")
            terminal.wait(lambda screen: len(screen.split("\n")) == 24 and "/s, " in screen.split("\n")[-1])
        terminal.type("C-c")
        screen = terminal.wait(lambda screen: screen.endswith("ended with 0\n$")).split("\n")
    assert all(len(line) <= 80 for line in screen)
    *shown, summary, source, _, _ = screen
    assert re.fullmatch(r"received [\d,]+ datagrams, [\d,]+ bytes in .* s: .*/s, .* k?bit/s", summary)
    assert re.fullmatch(r"  from 10\.0\.0\.1: [\d,]+", source)
    for heading, text in zip(shown[-8::2], shown[-7::2], strict=True):
        assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{6} 10\.0\.0\.1:\d+ eth0 ttl 1, 7 bytes", heading)
        assert re.fullmatch(r"\d{6}", text)


def consoles() -> list[list[str]]:
    """The blocks of the README's section: a command, and what a terminal shows of it."""
    section = README.read_text().partition("## Five minutes with a network\n")[2].partition("\n## ")[0]
    return [
        block.splitlines()
        for block in re.findall(r"^```console\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    ]


def blurred(line: str) -> str:
    """Without what differs from time to time: clocks, runs, pids, rates."""
    line = re.sub(r"run [0-9a-f]{8}", "run X", line)
    line = re.sub(r"^\d\d:\S+ (\S+):\d+", r"TIME \1:PORT", line)
    line = re.sub(r"took .* ms", "took X ms", re.sub(r"in [\d.]+ s: .*", "in X s", line))
    return re.sub(r"\S+ \(pid \d+\)", "NAME (pid X)", re.sub(r" +", " ", line))


def test_the_readme_shows_what_is_seen(pair: Pair) -> None:
    listening, sending, joined = consoles()
    (listen, *seen), (send, *sent), (groups, *groups_seen) = listening, sending, joined

    def command(line: str) -> list[str]:
        return [*MCASTCTL, *line.removeprefix("$ mcastctl ").split()]

    lossy = (
        "chain p { type filter hook prerouting priority 0; meta l4proto udp numgen inc mod 25 == 9 drop; }"
    )
    nft = pair.right.enter(["nft", "-f", "-"])
    subprocess.run(nft, input=f"table ip lossy {{ {lossy}; }}", text=True, check=True)
    with Terminal(pair.right.enter(command(listen)), lines=120) as terminal:
        terminal.wait("ttl > 1 for routers?")
        with Terminal(pair.left.enter(command(send))) as sender_terminal:
            sender_screen = sender_terminal.wait("ended with 0").split("\n")
        table = subprocess.check_output(pair.right.enter(command(groups)), text=True).splitlines()
        terminal.type("C-c")
        screen = terminal.wait("ended with 1").split("\n")
    before, after = (part.splitlines() for part in "\n".join(seen).split("\n...\n"))
    shown = [blurred(line) for line in screen[: screen.index("ended with 1")]]
    assert shown[: len(before)] == list(map(blurred, before))
    assert shown[-len(after) :] == list(map(blurred, after))
    assert list(map(blurred, sender_screen[: len(sent)])) == list(map(blurred, sent))
    assert list(map(blurred, table[: len(groups_seen)])) == list(map(blurred, groups_seen))


def test_nothing_from_the_network_moves_the_cursor(pair: Pair) -> None:
    with Terminal(pair.right.enter([*MCASTCTL, "listen", TO, "-i", "eth0", "--text"])) as terminal:
        terminal.wait("Ctrl-C ends it")
        sock = sender(pair.left, "eth0", "10.0.0.1")
        for payload in (b"\x1b[2J\x1b]0;owned\x07\x1b[31mred\x9b5m", b"\rover\b\b", "\u202egnp.exe".encode()):
            sock.sendto(payload, (GROUP, PORT))
        sock.close()
        terminal.wait("gnp.exe\n", "the line of rates below")
        terminal.type("C-c")
        screen = terminal.wait("ended with 0").split("\n")
        assert terminal.state("pane_title") != "owned"
    assert screen[0].startswith("listening to")
    assert screen[2] == r"\x1b[2J\x1b]0;owned\x07\x1b[31mred\udc9b5m"
    assert screen[4] == r"\rover\x08\x08"
    assert screen[6] == r"\u202egnp.exe"


def test_a_sender_shows_how_far_it_is(pair: Pair) -> None:
    arguments = ["send", TO, "-i", "eth0", "--numbered", "--count", "250", "--interval", "20ms"]
    with Terminal(pair.left.enter([*MCASTCTL, *arguments])) as terminal:
        terminal.wait(f"sending to {GROUP} port {PORT} on eth0 from 10.0.0.1, ttl 1; Ctrl-C ends it")
        terminal.wait(lambda screen: re.search(r"/s, .* sent  \d+%  .* to go", screen), "progress")
        screen = terminal.wait("ended with 0").split("\n")
    assert re.search(r"sent 250 datagrams, 16,000 bytes in [\d.]+ s: ", screen[1])
    assert screen[2] == "ended with 0"


def test_lines_are_typed_and_go(pair: Pair) -> None:
    with (
        Listening(pair.right, GROUP, PORT, "-i", "eth0", "--raw", "--count", "2") as listening,
        Terminal(pair.left.enter([*MCASTCTL, "send", TO, "-i", "eth0"])) as terminal,
    ):
        terminal.wait("Ctrl-D ends it")
        terminal.type("hello", "Enter", "again", "Enter")
        assert listening.wait() == 0
        terminal.type("C-d")
        terminal.wait("ended with 0")
    assert listening.out == "hello\nagain\n"


def test_a_dumb_terminal_gets_lines_alone(pair: Pair) -> None:
    with Terminal(pair.right.enter(["env", "TERM=dumb", *MCASTCTL, "listen", TO, "-i", "eth0"])) as terminal:
        terminal.wait("What to try next")
        assert ctl(pair.left, "send", TO, "-i", "eth0", "--text", "hello").returncode == 0
        terminal.wait("hello")
        terminal.type("C-c")
        screen = terminal.wait("ended with 0")
    assert "listening to" not in screen
