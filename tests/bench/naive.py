"""The baseline of the json row: ``naive.py GROUP PORT INTERFACE BUFFER OUTPUT``.

A recvmsg loop with ``json.dumps``, as one writes it at first: every datagram with its kernel time, source,
ttl and interface, a line each. Runs until it is ended.
"""

from __future__ import annotations

import json
import socket
import struct
import sys

SO_TIMESTAMPNS, SO_RCVBUFFORCE, IP_PKTINFO, IP_RECVTTL = 35, 33, 8, 12


def main() -> None:
    group, port, interface, buffer, output = sys.argv[1:]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, int(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    sock.bind((group, int(port)))
    index = socket.if_nametoindex(interface)
    membership = struct.pack("=4s4si", socket.inet_aton(group), bytes(4), index)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    with open(output, "a", encoding="utf-8") as file:
        print("ready", flush=True)
        while True:
            payload, controls, _, (source, source_port) = sock.recvmsg(65536, 256)
            record: dict[str, object] = {"source": source, "port": source_port, "group": group}
            for level, kind, data in controls:
                if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
                    seconds, nanoseconds = struct.unpack("=qq", data)
                    record["time"] = seconds + nanoseconds / 1e9
                elif (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
                    record["interface"] = socket.if_indextoname(struct.unpack_from("=i", data)[0])
                elif (level, kind) == (socket.IPPROTO_IP, socket.IP_TTL):
                    record["ttl"] = struct.unpack("=i", data)[0]
            record["length"] = len(payload)
            record["payload"] = payload.decode()
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
