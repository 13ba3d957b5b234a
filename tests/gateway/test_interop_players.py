"""ffmpeg and VLC play what a gateway serves, from the middle of a film on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.host import Host
from support.programs import AS_SOMEBODY, program
from support.transport import film
from support.wait import wait_for

PLAYED_BYTES = 200_000


TOKEN = "correct-horse-battery"


@contextmanager
def serving(directory: Path, *, with_token: bool = False) -> Iterator[Host]:
    token = directory / "tv.token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    config = f"""
[outbound.tv]
source = "{film(directory / "film.ts")}"
group = "239.255.4.1"
port = 5004
interface = "lo"
ttl = 0
framing = "ts"
timing = "pcr"
repeat = "forever"
protocol = "rtp"
[inbound.bars]
group = "239.255.4.1"
port = 5004
interface = "lo"
protocol = "rtp"
output = "/dev/null"
[gateway.tv]
listen = "127.0.0.1:4022"
allow_groups = ["239.255.0.0/16"]
interface = "lo"
{f'token = "{token}"' if with_token else ""}
"""
    with Host() as host:
        host.ip("route add 224.0.0.0/4 dev lo")
        config = config.replace("/dev/null", str(directory / "received.ts"))
        with RunningDaemon(directory, config, enter=host.enter([])) as daemon:
            daemon.wait_state("gateway/tv", "active")
            yield host


def streams_of(path: Path) -> set[str]:
    show = ("-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", str(path))
    shown = subprocess.run([program("ffprobe"), *show], capture_output=True, text=True, check=True).stdout
    return {line.split(",")[0] for line in shown.split()}


@pytest.mark.root
@pytest.mark.parametrize("path", ["/rtp/239.255.4.1:5004", "/udp/239.255.4.1:5004", "/bars"])
def test_ffmpeg_plays_without_an_error(tmp_path: Path, path: str) -> None:
    played = tmp_path / "played.ts"
    with serving(tmp_path) as host:
        url = f"http://127.0.0.1:4022{path}"
        command = [program("ffmpeg"), "-v", "warning", "-t", "3", "-i", url, "-c", "copy", str(played)]
        run = subprocess.run(host.enter(command), capture_output=True, text=True, timeout=120, check=True)
    assert "corrupt" not in run.stderr
    assert streams_of(played) == {"mpeg2video", "mp2"}


@pytest.mark.root
@pytest.mark.parametrize(
    ("path", "with_token"),
    [
        ("/rtp/239.255.4.1:5004", False),
        ("/playlist.m3u", False),
        (f"/playlist.m3u?token={TOKEN}", True),
    ],
)
def test_vlc_plays(tmp_path: Path, path: str, with_token: bool) -> None:
    """A stream, or the first one of a playlist, whose URLs have the token that it was asked for with."""
    played = tmp_path / "played.ts"
    to_file = f"#std{{access=file,mux=ts,dst={played}}}"
    with serving(tmp_path, with_token=with_token) as host, (tmp_path / "vlc.log").open("wb") as log:
        command = [*AS_SOMEBODY, f"HOME={tmp_path}", program("cvlc"), "--no-color", "-v", "-I", "dummy"]
        url = f"http://127.0.0.1:4022{path}"
        process = host.start(*command, "--sout", to_file, url, stdout=log, stderr=log)
        try:
            wait_for(lambda: played.exists() and played.stat().st_size > PLAYED_BYTES, "some seconds of it")
        finally:
            process.terminate()
            process.wait(30)
    assert "discontinu" not in (tmp_path / "vlc.log").read_text(errors="replace")
    assert streams_of(played) == {"mpeg2video", "mp2"}
