"""Transport streams: packets made by hand, and a film that ffmpeg makes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from mcastd.protocols import ts
from support.programs import program


def packet(
    pid: int,
    counter: int,
    *,
    payload: bytes | None = None,
    starts: bool = False,
    pcr: int | None = None,
    discontinuous: bool = False,
    adaptation: bytes | None = None,
) -> bytes:
    """A packet; ``payload`` is filled up with 0xFF. ``adaptation`` is a field from its flags on."""
    if pcr is not None:
        adaptation = bytes((0x10 | discontinuous << 7,)) + ts.pcr_bytes(pcr)
    elif discontinuous:
        adaptation = b"\x80"
    field = b"" if adaptation is None else bytes((len(adaptation),)) + adaptation
    body = bytes((pid & 0xFF,)) * (184 - len(field)) if payload is None else payload
    control = (0x20 if field else 0) | (0x10 if len(field) < 184 else 0) | counter & 0xF
    head = bytes((0x47, 0x40 * starts | pid >> 8, pid & 0xFF, control))
    return (head + field + body).ljust(ts.PACKET_BYTES, b"\xff")


def pes(*, pts: int | None = None, dts: int | None = None, stream: int = 0xE0) -> bytes:
    """The beginning of a PES packet."""
    times = bytearray()
    for time, mark in ((pts, 0x20 if dts is None else 0x30), (dts, 0x10)):
        if time is not None:
            times += bytes((mark, 0, 0, 0, 0))
            ts.set_time(times, len(times) - 5, time)
    flags = (0x80 if pts is not None else 0) | (0x40 if dts is not None else 0)
    return b"\0\0\1" + bytes((stream, 0, 0, 0x80, flags, len(times))) + bytes(times) + b"picture"


def film(path: Path, *, seconds: float = 2.0, muxrate: str | None = "1M") -> Path:
    """A film of picture and sound; with ``muxrate`` at that constant rate, filled up with null packets."""
    command = [
        program("ffmpeg"), "-v", "error", "-y",
        "-f", "lavfi", "-i", f"testsrc=size=160x120:rate=25:duration={seconds}",
        "-f", "lavfi", "-i", f"sine=frequency=440:duration={seconds}",
        "-c:v", "mpeg2video", "-b:v", "300k", "-bf", "2", "-g", "12", "-c:a", "mp2", "-b:a", "64k",
        *(() if muxrate is None else ("-muxrate", muxrate)), "-f", "mpegts", str(path),
    ]  # fmt: skip
    subprocess.run(command, stdin=subprocess.DEVNULL, timeout=30, check=True)
    return path
