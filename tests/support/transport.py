"""Transport streams: packets made by hand, and a film that ffmpeg makes."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mcastd.protocols import psi, ts
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


def section(table: int, number: int, body: bytes, *, version: int = 1, part: int = 0, last: int = 0) -> bytes:
    """A section of a table, with its CRC."""
    length = 5 + len(body) + 4
    head = bytes((table, 0xB0 | length >> 8, length & 0xFF)) + number.to_bytes(2)
    head += bytes((0xC0 | version << 1 | 1, part, last)) + body
    return head + psi.crc32(head).to_bytes(4)


def association(programs: dict[int, int], **parts: int) -> bytes:
    """A section of a PAT, with the PID of the map by the number of the program."""
    body = b"".join(number.to_bytes(2) + (0xE000 | pid).to_bytes(2) for number, pid in programs.items())
    return section(psi.PAT_TABLE, 0x0707, body, **parts)


def program_map(number: int, clock_pid: int, streams: dict[int, int], **parts: int) -> bytes:
    """The map of a program, with the type of the stream by its PID."""
    body = (0xE000 | clock_pid).to_bytes(2) + b"\xf0\0"
    body += b"".join(bytes((kind,)) + (0xE000 | pid).to_bytes(2) + b"\xf0\0" for pid, kind in streams.items())
    return section(psi.PMT_TABLE, number, body, **parts)


def table_packet(pid: int, counter: int, table: bytes) -> bytes:
    """A packet with a section that fits into it."""
    return packet(pid, counter, payload=b"\0" + table, starts=True)


class Multiplex:
    """A stream at a constant rate, made up: tables each 100 ms, a clock each 40 ms."""

    RATE = 8_000_000  # bits a second
    MAP, VIDEO, AUDIO, PROGRAM = 0x100, 0x101, 0x102, 7
    PACKET_SECONDS = 8 * ts.PACKET_BYTES / RATE
    TABLES_EVERY, CLOCK_EVERY = round(0.1 / PACKET_SECONDS), round(0.04 / PACKET_SECONDS)

    def __init__(self) -> None:
        self.number = 0  # packets so far
        self._counters: Counter[int] = Counter()

    def packets(self, count: int) -> list[bytes]:
        return [self._next() for _ in range(count)]

    def datagrams(self, count: int) -> Iterator[bytes]:
        """Of seven packets."""
        for _ in range(count):
            yield b"".join(self.packets(7))

    def _next(self) -> bytes:
        number, self.number = self.number, self.number + 1
        if number % self.TABLES_EVERY == 0:
            return table_packet(0, self._counter(0), association({self.PROGRAM: self.MAP}))
        if number % self.TABLES_EVERY == 1:
            streams = {self.VIDEO: 0x1B, self.AUDIO: 0x04}
            table = program_map(self.PROGRAM, self.VIDEO, streams)
            return table_packet(self.MAP, self._counter(self.MAP), table)
        if number % self.CLOCK_EVERY == 2:
            pcr = round(number * self.PACKET_SECONDS * ts.PCR_HZ)
            return packet(self.VIDEO, self._counter(self.VIDEO), pcr=pcr)
        if number % 17 == 3:
            return packet(ts.NULL_PID, 0)
        pid = self.AUDIO if number % 10 == 4 else self.VIDEO
        return packet(pid, self._counter(pid))

    def _counter(self, pid: int) -> int:
        self._counters[pid] += 1
        return self._counters[pid] + pid & 0xF


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
