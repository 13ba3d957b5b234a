"""The pages of a gateway in Chromium: how they look, and that the browser has nothing to say against them.

No part of ``make test``: Chromium with what it needs takes some 400 MB. ``make screenshots`` installs it,
runs this, and leaves the pictures in ``build/screenshots``.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from urllib.request import urlopen

import pytest
from support.daemon import RunningDaemon
from support.gateway import Gateway, begun, read
from support.ports import free_port
from support.programs import program
from support.wait import wait_for

from mcastd.protocols.gateway_paths import StreamResource

PICTURES = Path(__file__).parents[2] / "build" / "screenshots"
WIDTH, HEIGHT = 900, 960


def browse(directory: Path, url: str, *options: str) -> str:
    """Open a page, and end. Returns the page; fails if its console says anything."""
    profile = f"--user-data-dir={directory / 'profile'}"
    always = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr")
    command = [program("chromium"), *always, profile, *options, url]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    # Errors of the page, and what its policy keeps it from
    assert [line for line in ran.stderr.splitlines() if "CONSOLE" in line] == []
    return ran.stdout


def take_picture(directory: Path, url: str, name: str) -> None:
    """How a page looks; fails if that is empty."""
    picture = PICTURES / f"{name}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.unlink(missing_ok=True)
    size = f"--window-size={WIDTH},{HEIGHT}"
    browse(directory, url, f"--screenshot={picture}", "--hide-scrollbars", size)
    width, height, content = pixels(picture)
    assert (width, height) == (WIDTH, HEIGHT)
    assert len(set(content)) > 50, "letters have shades; an empty page has one"


def pixels(picture: Path) -> tuple[int, int, bytes]:
    """Width, height and the bytes of a PNG (RFC 2083), each line with its filter before it."""
    data, at, packed = picture.read_bytes(), 8, b""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    size = data[16:24]
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        packed += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    return int.from_bytes(size[:4]), int.from_bytes(size[4:]), zlib.decompress(packed)


def test_the_page_is_seen_and_nothing_is_wrong_with_it(
    gateway: Callable[..., Gateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.gateway.rates.INTERVAL_SECONDS", 0.5)
    tv = gateway(allow_groups=["239.1.0.0/16", "ff15::/16"])
    tv.subscriptions = {
        "news": StreamResource(ip_address("239.1.1.1"), 5004, None, without_rtp=True),
        "sports": StreamResource(ip_address("239.1.1.2"), 5004, ip_address("192.0.2.1"), without_rtp=False),
    }
    url = f"http://127.0.0.1:{tv.port}/"
    with tv.ask() as player, feeding(tv, player):
        wait_for(lambda: len(tv.answer("/")[1].split(b"<polyline")[-1].split(b" ")) > 12, "a line of rates")
        shown = browse(tmp_path, url, "--dump-dom")
        take_picture(tmp_path, url, "gateway")
    assert tv.worker.counters.refused == {}
    assert "<h1>tv</h1>" in shown
    assert '<a href="/news">news</a>' in shown
    assert "<polyline" in shown


@contextmanager
def feeding(tv: Gateway, player: socket.socket) -> Iterator[None]:
    """While the block runs, more and less comes of the group that a player has."""
    over = threading.Event()

    def feed() -> None:
        for number in itertools.count():
            payload = bytes(1000 + 370 * (number // 20) % 900)
            tv.link().deliver(payload)
            read(player, len(payload))
            if over.wait(0.01):
                break

    tv.link().deliver(b"begin")
    assert read(player, 5, begun(player)[1]) == b"begin"
    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def test_the_page_of_the_daemon_is_seen_and_nothing_is_wrong_with_it(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "source").write_text("news\n" * 1000)
    config = f"""[gateway.tv]
listen = "127.0.0.1:{port}"
allow_groups = ["239.1.0.0/16"]
status_page = true

[outbound.news]
source = "{tmp_path}/source"
group = "239.1.1.1"
port = 5004
interface = "lo"
interval = "5ms"
repeat = "forever"

[inbound.news]
group = "239.1.1.1"
port = 5004
interface = "lo"
output = "{tmp_path}/news"

[inbound.sports]
group = "239.1.1.2"
port = 5004
interface = "eth9"
output = "{tmp_path}/sports"
"""
    url = f"http://127.0.0.1:{port}/status"
    with RunningDaemon(tmp_path, config):

        def page() -> str:
            with urlopen(url, timeout=30) as answer:
                text: str = answer.read().decode()
                return text

        wait_for(lambda: "there is no interface eth9" in page(), "the doctor")
        wait_for(lambda: page().count("<polyline") == 4, "lines of rates")
        wait_for(
            lambda: all(len(line.split(" ")) > 6 for line in page().split('points="')[1:]), "longer ones"
        )
        shown = browse(tmp_path, url, "--dump-dom")
        take_picture(tmp_path, url, "status")
    assert "<h2>Doctor</h2>" in shown
    assert "<code>outbound/news</code>" in shown
