"""The page of a gateway in Chromium: how it looks, and that the browser has nothing to say against it.

No part of ``make test``: Chromium with what it needs takes some 400 MB. ``make screenshots`` installs it,
runs this, and leaves the picture in ``build/screenshots``.
"""

from __future__ import annotations

import subprocess
import zlib
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.gateway import Gateway, begun, read
from support.programs import program

from mcastd.protocols.gateway_paths import StreamResource

PICTURES = Path(__file__).parents[2] / "build" / "screenshots"
WIDTH, HEIGHT = 900, 640


def browse(directory: Path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page, and end. What the page's console says is among the errors."""
    profile = f"--user-data-dir={directory / 'profile'}"
    always = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr")
    command = [program("chromium"), *always, profile, *options, url]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def said(ran: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines of the console: errors of the page, and what its policy keeps it from."""
    return [line for line in ran.stderr.splitlines() if "CONSOLE" in line]


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
    monkeypatch.setattr("mcastd.gateway.rates.INTERVAL_SECONDS", 0.02)
    tv = gateway(allow_groups=["239.1.0.0/16", "ff15::/16"])
    tv.subscriptions = {
        "news": StreamResource(ip_address("239.1.1.1"), 5004, None, without_rtp=True),
        "sports": StreamResource(ip_address("239.1.1.2"), 5004, ip_address("192.0.2.1"), without_rtp=False),
    }
    url = f"http://127.0.0.1:{tv.port}/"
    picture = PICTURES / "gateway.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.unlink(missing_ok=True)
    with tv.ask() as player:
        tv.link().deliver(b"begin")
        assert read(player, 5, begun(player)[1]) == b"begin"
        for number in range(300):  # a line of rates
            payload = bytes(1000 + 37 * number % 900)
            tv.link().deliver(payload)
            read(player, len(payload))
        shown = browse(tmp_path, url, "--dump-dom")
        size = f"--window-size={WIDTH},{HEIGHT}"
        seen = browse(tmp_path, url, f"--screenshot={picture}", "--hide-scrollbars", size)
    assert tv.worker.counters.requests == 3, "the player's, and one for each time that the page was opened"
    assert tv.worker.counters.refused == {}
    assert said(shown) == []
    assert said(seen) == []
    assert "<h1>tv</h1>" in shown.stdout
    assert '<a href="/news">news</a>' in shown.stdout
    assert "<polyline" in shown.stdout
    width, height, content = pixels(picture)
    assert (width, height) == (WIDTH, HEIGHT)
    assert len(set(content)) > 50, "letters have shades; an empty page has one"
