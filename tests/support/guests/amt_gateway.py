"""In the guest: Linux as AMT gateway at 192.0.2.2 of a relay at 192.0.2.1.

It joins 232.1.1.1 from 10.1.0.1, 239.1.1.1 and ff3e::1 from fd01::1, port 4000, once ``relay`` is there in
the shared folder; what comes of each is in ``got``. When ``leave`` is there, it leaves 239.1.1.1.
"""

import os
import select
import socket
import struct
import subprocess
import time
from pathlib import Path

SHARED = Path("/mnt")
PORT = 4000
SOURCE, SOURCE_6 = "10.1.0.1", "fd01::1"
SSM, ASM, SSM_6 = "232.1.1.1", "239.1.1.1", "ff3e::1"
SO_RCVBUFFORCE, BUFFER_BYTES = 33, 16 << 20
MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP, MCAST_JOIN_SOURCE_GROUP = 42, 45, 46
SET_UP = """
link set lo up
addr add 192.0.2.2/24 dev eth0
link set eth0 up
"""
TUNNEL = """
link add amtg type amt mode gateway local 192.0.2.2 discovery 192.0.2.1 dev eth0 gateway_port 2268 \
relay_port 2268
addr add 10.9.9.9/32 dev amtg
link set amtg up
"""


def ip(lines: str) -> None:
    for line in lines.strip().splitlines():
        subprocess.run(["ip", *line.split()], check=True)


def sockaddr(address: str) -> bytes:
    if ":" in address:
        packed = struct.pack("@HHI16sI", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, address), 0)
    else:
        packed = struct.pack("@HH4s", socket.AF_INET, 0, socket.inet_aton(address))
    return packed.ljust(128, b"\0")


def joined(index: int, group: str, source: str = "") -> socket.socket:
    family, level = (
        (socket.AF_INET6, socket.IPPROTO_IPV6) if ":" in group else (socket.AF_INET, socket.IPPROTO_IP)
    )
    sock = socket.socket(family, socket.SOCK_DGRAM)
    # Where the host has no time for this machine for seconds, what has come meanwhile is there all the same
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    sock.bind((group, PORT))
    request = struct.pack("@I4x", index) + sockaddr(group)
    option = MCAST_JOIN_SOURCE_GROUP if source else MCAST_JOIN_GROUP
    sock.setsockopt(level, option, request + (sockaddr(source) if source else b""))
    return sock


def main() -> None:
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    ip(SET_UP)
    (SHARED / "up").touch()
    while not (SHARED / "relay").exists():
        if (SHARED / "over").exists():
            return
        time.sleep(0.1)
    Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("0")
    Path("/proc/sys/net/ipv4/conf/default/rp_filter").write_text("0")
    ip(TUNNEL)
    index = socket.if_nametoindex("amtg")
    asm = joined(index, ASM)
    socks = [joined(index, SSM, SOURCE), asm, joined(index, SSM_6, SOURCE_6)]
    is_left = False
    with (SHARED / "got").open("wb", buffering=0) as out:
        while not (SHARED / "over").exists():
            if not is_left and (SHARED / "leave").exists():
                asm.setsockopt(
                    socket.IPPROTO_IP, MCAST_LEAVE_GROUP, struct.pack("@I4x", index) + sockaddr(ASM)
                )
                is_left = True
            for sock in select.select(socks, [], [], 0.2)[0]:
                data, _ = sock.recvfrom(2000)
                out.write(data)


if __name__ == "__main__":
    main()
