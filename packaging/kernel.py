"""Debian's kernel with Linux's own driver of AMT, in an initial file system that starts a script: for tests.

``kernel.py`` makes dist/kernel/vmlinuz and dist/kernel/initrd.gz, where that is possible: as root, with apt,
on x86. Otherwise dist/kernel/missing says why, for the tests to skip with. Debian's kernels leave the driver
out, so its one file is taken from Debian's package of their source, and built with their headers. Nothing of
it is shipped.

The guest mounts the host's / by 9p, to be read only, and a folder that both share at /mnt. It runs
/mnt/guest.py by the host's Python, and ends with that.
"""

from __future__ import annotations

import gzip
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parent.parent
KERNEL = PROJECT / "dist" / "kernel"
# Loaded in this order; those that are not there are built in.
MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"),
    *("failover", "net_failover", "virtio_net", "netfs", "fscache", "9pnet", "9pnet_virtio", "9p"),
    *("udp_tunnel", "ip6_udp_tunnel", "veth", "amt"),
)
APPLETS = ("sh", "mount", "insmod", "mkdir", "chroot", "poweroff", "echo")
INIT = f"""#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for name in {" ".join(MODULES)}; do [ -e /modules/$name.ko ] && insmod /modules/$name.ko; done
mount -t 9p -o trans=virtio,version=9p2000.L,ro root /host
for at in tmp run; do mount -t tmpfs $at /host/$at; done
mount -t proc proc /host/proc
mount -t sysfs sys /host/sys
mount --bind /dev /host/dev
mount -t 9p -o trans=virtio,version=9p2000.L share /host/mnt
chroot /host /usr/bin/python3 /mnt/guest.py
poweroff -f
"""


class ImpossibleError(Exception):
    """It cannot be made here, and why."""


def make() -> None:
    """Make it, unless that of the present version is there. Raises ImpossibleError."""
    if platform.machine() != "x86_64":
        raise ImpossibleError(f"its machine is emulated for x86_64, and this is {platform.machine()}")
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise ImpossibleError("it takes root and apt")
    image = _dependency("linux-image-amd64", "linux-image-")
    stamp = KERNEL / "version"
    if stamp.exists() and stamp.read_text() == image:
        return
    print(f"making dist/kernel of {image}, with Linux's AMT driver (a minute)", flush=True)
    KERNEL.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        driver = _driver(work, image.removeprefix("linux-image-"))
        _apt("download", image, cwd=work)
        (package,) = work.glob(f"{image}_*.deb")
        _run("dpkg-deb", "-x", str(package), str(work / "kernel"))
        (linux,) = (work / "kernel" / "boot").glob("vmlinuz-*")
        shutil.copy(linux, KERNEL / "vmlinuz")
        _pack(work / "tree", work / "kernel", driver)
    stamp.write_text(image)


def _driver(work: Path, version: str) -> Path:
    """Build the driver of AMT for a kernel of this version."""
    source = _dependency("linux-source", "linux-source-")
    _apt("install", "--yes", "--no-install-recommends", f"linux-headers-{version}", "xz-utils")
    _apt("download", source, cwd=work)
    (package,) = work.glob(f"{source}_*.deb")
    (work / "amt").mkdir()
    extract = (
        f"dpkg-deb --fsys-tarfile {package} | tar -xO --wildcards './usr/src/{source}.tar.xz'"
        f" | tar -xJO --wildcards '*/drivers/net/amt.c' > {work}/amt/amt.c"
    )
    _run("sh", "-ec", extract)
    (work / "amt" / "Makefile").write_text("obj-m := amt.o\n")
    _run("make", "-s", "-C", f"/usr/src/linux-headers-{version}", f"M={work}/amt", "modules")
    return work / "amt" / "amt.ko"


def _pack(tree: Path, kernel: Path, driver: Path) -> None:
    """Make the initial file system."""
    for directory in ("bin", "modules", "dev", "proc", "host"):
        (tree / directory).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise ImpossibleError("needs busybox: apt install busybox-static")
    shutil.copy(busybox, tree / "bin" / "busybox")
    for applet in APPLETS:
        (tree / "bin" / applet).symlink_to("busybox")
    for name in MODULES:
        found = [driver] if name == "amt" else [*kernel.glob(f"lib/modules/**/{name}.ko*")]
        for module in found[:1]:
            _unpack(module, tree / "modules" / f"{name}.ko")
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    archive = subprocess.run(
        ["sh", "-ec", "find . | cpio -o -H newc --quiet"], cwd=tree, check=True, capture_output=True
    )
    (KERNEL / "initrd.gz").write_bytes(gzip.compress(archive.stdout, 6))


def _unpack(module: Path, to: Path) -> None:
    """Copy a module, which Debian 13 compresses, without what debuggers need."""
    if module.suffix == ".xz":
        to.write_bytes(subprocess.run(["xz", "-dc", module], check=True, capture_output=True).stdout)
    else:
        shutil.copy(module, to)
    _run("strip", "--strip-debug", str(to))


def _dependency(package: str, prefix: str) -> str:
    """What a package that stands for the present version depends on."""
    if subprocess.run(["apt-cache", "show", package], capture_output=True, check=False).returncode:
        _apt("update")  # nothing is known of it yet
    for line in _run("apt-cache", "depends", package).splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith(prefix):
            return name
    raise ImpossibleError(f"apt has no {package}")


def _apt(*arguments: str, cwd: Path | None = None) -> None:
    _run("apt-get", "--quiet=2", *arguments, cwd=cwd)


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ImpossibleError(f"{' '.join(command)[:120]}: {done.stderr.strip()[-300:]}")
    return done.stdout


def main() -> None:
    missing = KERNEL / "missing"
    missing.unlink(missing_ok=True)
    try:
        make()
    except (ImpossibleError, OSError) as error:
        KERNEL.mkdir(parents=True, exist_ok=True)
        missing.write_text(str(error))
        print(f"no tests beside Linux's AMT driver: {error}", flush=True)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
