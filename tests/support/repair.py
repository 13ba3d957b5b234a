"""A matrix of RTP packets, and its repair (SMPTE ST 2022-1), made without a thought of speed."""

from __future__ import annotations

import random
import socket
import struct
import subprocess

from support.ports import free_port
from support.programs import program

SSRC = 0x0A0B0C0D


def media(first: int, count: int) -> dict[int, bytes]:
    """RTP packets by sequence number, each of another length, marker and timestamp."""
    packets = {}
    for index in range(count):
        number = (first + index) % 65536
        header = struct.pack(">BBHII", 0x80, 33 | 0x80 * (index % 3 == 0), number, 7000 + 90 * index, SSRC)
        packets[number] = header + random.Random(number).randbytes(40 + 7 * (index % 11))
    return packets


def protection(packets: dict[int, bytes], base: int, offset: int, count: int) -> bytes:
    """The FEC packet of a row or column, made without a thought of speed."""
    covered = [packets[(base + offset * index) % 65536] for index in range(count)]
    longest = max(map(len, covered))
    flags = marker = length = timestamp = 0
    body = bytearray(longest - 12)
    for packet in covered:
        flags ^= packet[0] & 0x3F
        marker ^= packet[1]
        length ^= len(packet) - 12
        timestamp ^= int.from_bytes(packet[4:8])
        for at, byte in enumerate(packet[12:]):
            body[at] ^= byte
    rtp = struct.pack(">BBHII", 0x80 | flags, 96 | marker & 0x80, 5, 0, 0)
    fec = struct.pack(">HHBxxxIBBBB", base, length, 0x80 | marker & 0x7F, timestamp, 0, offset, count, 0)
    return rtp + fec + body


def matrix(packets: dict[int, bytes], first: int, columns: int, rows: int) -> list[bytes]:
    numbers = [(first + index) % 65536 for index in range(columns * rows)]
    made = [protection(packets, number, columns, rows) for number in numbers[:columns]]
    return made + [protection(packets, number, 1, columns) for number in numbers[::columns]]


def of_ffmpeg() -> list[list[bytes]]:
    """A stream of ffmpeg: its media packets, its columns and its rows, each as they were sent."""
    port, sockets = free_port(), []
    for offset in (0, 2, 4):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.bind(("127.0.0.1", port + offset))
        sock.setblocking(False)
        sockets.append(sock)
    picture = "-f lavfi -i testsrc=duration=2:rate=25,noise=alls=40:allf=t -c:v mpeg2video -b:v 4M"
    target = f"-f rtp_mpegts -fec prompeg=l=8:d=5 rtp://127.0.0.1:{port}"
    command = [program("ffmpeg"), "-v", "error", *picture.split(), *target.split()]
    subprocess.run(command, timeout=60, check=True)
    heard = [_drain(sock) for sock in sockets]
    for sock in sockets:
        sock.close()
    return heard


def _drain(sock: socket.socket) -> list[bytes]:
    packets = []
    while True:
        try:
            packets.append(sock.recv(2048))
        except BlockingIOError:
            return packets
