"""The programs that the tests and the making of packages use, and the Debian package that has each.

``programs.py tests``, ``packages``, ``bench`` or ``screenshots`` installs what is missing, if that is
possible: as root, where there is apt. Otherwise it says what is missing. It ends with 0 either way: tests
that lack a program skip themselves, and say so in the same words. It needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

# GStreamer's plugin for RTP, which its tools need beside themselves.
GST_RTP = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/gstreamer-1.0/libgstrtpmanager.so"

FOR_PACKAGES = {
    "git": "git",
    "mmdebstrap": "mmdebstrap",
    "zstd": "zstd",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
_PLUGINS = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/gstreamer-1.0"
GSTREAMER_PLUGINS = {
    f"{_PLUGINS}/libgstnetsim.so": "gstreamer1.0-plugins-bad",
    f"{_PLUGINS}/libgstudp.so": "gstreamer1.0-plugins-good",
}
# What VLC reads descriptions (SDP) and announcements (SAP) by, which its package does not depend on.
VLC_PLUGIN = (
    f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/vlc/plugins/services_discovery/libsap_plugin.so"
)
FOR_TESTS = {
    **GSTREAMER_PLUGINS,
    **FOR_PACKAGES,
    "make": "make",
    "ensurepip": "python3-venv",
    "bridge": "iproute2",
    "busybox": "busybox-static",
    "capinfos": "wireshark-common",
    "cpio": "cpio",
    "curl": "curl",
    "cvlc": "vlc-bin",
    "dnsmasq": "dnsmasq-base",
    "dumpcap": "wireshark-common",
    "editcap": "wireshark-common",
    "ffmpeg": "ffmpeg",
    "ffprobe": "ffmpeg",
    "gcc": "gcc",
    "gst-launch-1.0": "gstreamer1.0-tools",
    GST_RTP: "gstreamer1.0-plugins-good",
    VLC_PLUGIN: "vlc-plugin-base",
    "hexdump": "bsdextrautils",
    "ip": "iproute2",
    "mandoc": "mandoc",
    "multicat": "multicat",
    "nats-server": "nats-server",
    "nft": "nftables",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "qemu-system-x86_64": "qemu-system-x86",
    "redis-server": "redis-server",
    "sapserver": "minisapserver",  # Debian 13 has none
    "smcrouted": "smcroute",
    "socat": "socat",
    "sysctl": "procps",
    "systemd-analyze": "systemd",
    "systemd-nspawn": "systemd-container",
    "tc": "iproute2",
    "tcpdump": "tcpdump",
    "tmux": "tmux",
    "tshark": "tshark",
    "/usr/include/stdio.h": "libc6-dev",
}
FOR_BENCH = {
    "chrt": "util-linux",
    "dumpcap": "wireshark-common",
    "ffmpeg": "ffmpeg",
    "gcc": "gcc",
    "gst-launch-1.0": "gstreamer1.0-tools",
    "ingests": "multicat",
    "ip": "iproute2",
    "multicat": "multicat",
    "nats-server": "nats-server",
    "nft": "nftables",
    "redis-server": "redis-server",
    "setpriv": "util-linux",
    "socat": "socat",
    "tcpreplay": "tcpreplay",
    "udp-receiver": "udpcast",
    "udp-sender": "udpcast",
    "uftp": "uftp",
    "uftpd": "uftp",
}
# Some 400 MB with what it depends on, so none of the tests that are always run; and letters for it.
FOR_SCREENSHOTS = {
    "chromium": "chromium",
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf": "fonts-dejavu-core",
}
SETS = {"bench": FOR_BENCH, "packages": FOR_PACKAGES, "screenshots": FOR_SCREENSHOTS, "tests": FOR_TESTS}
ALL = {**FOR_BENCH, **FOR_SCREENSHOTS, **FOR_TESTS}

# Where programs for administrators are: not in everybody's PATH.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def find(name: str) -> str | None:
    """The path of a program, of a file, or of the one module that Debian packages beside Python."""
    if name == "ensurepip":
        found = importlib.util.find_spec(name)
        return found and found.origin
    if name.startswith("/"):
        return name if Path(name).exists() else None
    return shutil.which(name, path=PATH)


def needs(name: str) -> str:
    """What to say where a program is missing."""
    return f"needs {name}: apt install {ALL[name]}"


def install(wanted: dict[str, str]) -> None:
    """Install the packages of what is missing, or say what they are."""
    packages = sorted({package for name, package in wanted.items() if not find(name)})
    if not packages:
        return
    names = " ".join(packages)
    if os.geteuid() != 0 or not find("apt-get"):
        print(f"missing, and not installed without root and apt: {names}", flush=True)
        return
    print(f"installing what is missing, by apt: {names}", flush=True)
    updated = _apt("apt-get", "--quiet=2", "update")
    # A line for each version that can be had: "name | version | from where".
    lines = _apt("apt-cache", "madison", *packages).stdout.splitlines()
    offered = {line.partition("|")[0].strip() for line in lines}
    if absent := [package for package in packages if package not in offered]:
        print(f"apt has no package {' '.join(absent)}\n{updated.stderr}", end="", flush=True)
    if not (packages := [package for package in packages if package in offered]):
        return
    installed = _apt("apt-get", "--quiet=2", "install", "--yes", "--no-install-recommends", *packages)
    if installed.returncode:
        print(f"apt could not install it:\n{updated.stderr}{installed.stderr}", flush=True)


def _apt(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PATH": PATH},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("set", choices=SETS, help="for which purpose")
    arguments = parser.parse_args()
    try:
        install(SETS[arguments.set])
    except KeyboardInterrupt:
        sys.exit(130)
