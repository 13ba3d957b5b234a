"""In the guest: Linux as AMT relay at 192.0.2.2.

Behind it two senders of IPv4 and one of IPv6, ten datagrams a second each, to 232.1.1.1, 239.1.1.1 and
ff3e::1, port 4000. smcroute hands them on into the tunnel device.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

SHARED = Path("/mnt")
SENDERS = "172.17.0.2", "172.17.0.3"
GROUPS = "232.1.1.1", "239.1.1.1"
GROUP_6, PORT = "ff3e::1", 4000
SET_UP = """
link set lo up
addr add 192.0.2.2/24 dev eth0
link set eth0 up
netns add far
link add near type veth peer name wire netns far
addr add 172.17.0.1/24 dev near
addr add 2001:db8:3::1/64 dev near nodad
link set near up
-n far addr add 172.17.0.2/24 dev wire
-n far addr add 172.17.0.3/24 dev wire
-n far addr add 2001:db8:3::2/64 dev wire nodad
-n far link set lo up
-n far link set wire up
-n far route add default via 172.17.0.1
link add amtr type amt mode relay local 192.0.2.2 dev eth0 relay_port 2268 max_tunnels 8
link set amtr up
"""
SETTINGS = {
    "ipv4/ip_forward": 1,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/near/rp_filter": 0,
    "ipv6/conf/all/forwarding": 1,
}


def main() -> None:
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    Path("/run/netns").mkdir(parents=True)
    for line in SET_UP.strip().splitlines():
        subprocess.run(["ip", *line.split()], check=True)
    for name, value in SETTINGS.items():
        Path("/proc/sys/net", name).write_text(str(value))
    routes = ["phyint near enable", "phyint amtr enable"]
    routes += [f"mroute from near group {group} to amtr" for group in (*GROUPS, GROUP_6)]
    Path("/tmp/routes").write_text("\n".join(routes) + "\n")
    files = "-f", "/tmp/routes", "-P", "/tmp/pid", "-u", "/tmp/socket"
    with subprocess.Popen(["smcrouted", "-n", *files]) as router:
        subprocess.run(["ip", "netns", "exec", "far", sys.executable, __file__, "send"], check=True)
        router.terminate()


def send() -> None:
    four = []
    for address in SENDERS:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((address, 0))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        four.append((address, sock))
    six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 8)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("wire"))
    number = 0
    (SHARED / "up").touch()
    while not (SHARED / "over").exists():
        for address, sock in four:
            for group in GROUPS:
                sock.sendto(f"{address} {group} {number}\n".encode(), (group, PORT))
        six.sendto(f"six {GROUP_6} {number}\n".encode(), (GROUP_6, PORT))
        number += 1
        time.sleep(0.1)


if __name__ == "__main__":
    send() if sys.argv[1:] else main()
