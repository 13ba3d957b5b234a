"""VLC plays what a channel sends, by its description, and lists what it announces."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import programs
import pytest
from support.daemon import RunningDaemon
from support.host import Host
from support.programs import AS_SOMEBODY, program
from support.transport import film
from support.wait import wait_for

# More than one round of the film: without null packets it has some 45 kB a second.
PLAYED_BYTES = 200_000


def channel(directory: Path, more: str) -> str:
    return f"""
[outbound.tv]
source = "{film(directory / "film.ts")}"
group = "239.255.4.1"
port = 5004
interface = "lo"
ttl = 0
framing = "ts"
timing = "pcr"
repeat = "forever"
announce = {{ name = "Bars", interval = "1s", sdp = "{directory}/tv.sdp" }}
{more}
"""


@contextmanager
def vlc(host: Host, directory: Path, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    program(programs.VLC_PLUGIN)
    log = directory / "vlc.log"
    with log.open("wb") as stream:
        command = [*AS_SOMEBODY, f"HOME={directory}", program("cvlc"), "--no-color", *arguments]
        process = host.start(*command, stdout=stream, stderr=stream, **options)
        try:
            yield process
        except AssertionError:
            print(log.read_text(errors="replace"))
            raise
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def sending(directory: Path, more: str) -> Iterator[Host]:
    with Host() as host:
        host.ip("route add 224.0.0.0/4 dev lo")
        with RunningDaemon(directory, channel(directory, more), enter=host.enter([])):
            yield host


@pytest.mark.parametrize("more", ['protocol = "rtp"', ""], ids=["rtp", "udp"])
def test_vlc_plays_a_description(tmp_path: Path, more: str) -> None:
    """Without --loop it takes the description for a list of what it may play, and ends."""
    played = tmp_path / "played.ts"
    to_file = f"#std{{access=file,mux=ts,dst={played}}}"
    with sending(tmp_path, more) as host:
        description = tmp_path / "tv.sdp"
        wait_for(description.exists, "the description")
        with vlc(host, tmp_path, "-v", "-I", "dummy", "--loop", "--sout", to_file, str(description)):
            wait_for(lambda: played.exists() and played.stat().st_size > PLAYED_BYTES, "some seconds of it")
    assert "discontinu" not in (tmp_path / "vlc.log").read_text(errors="replace")
    show = ("-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", str(played))
    shown = subprocess.run([program("ffprobe"), *show], capture_output=True, text=True, check=True).stdout
    assert {line.split(",")[0] for line in shown.split()} == {"mpeg2video", "mp2"}


def test_vlc_lists_what_is_announced(tmp_path: Path) -> None:
    with sending(tmp_path, 'protocol = "rtp"') as host:
        lister = ("-I", "rc", "--rc-fake-tty", "-S", "sap")
        with vlc(host, tmp_path, *lister, stdin=subprocess.PIPE, bufsize=0) as process:
            assert process.stdin is not None

            def is_listed() -> bool:
                assert process.stdin is not None
                process.stdin.write(b"playlist\n")
                return "- Bars" in (tmp_path / "vlc.log").read_text(errors="replace")

            wait_for(is_listed, "its name in the playlist")
