"""A guest with Linux's driver of AMT, emulated, at the other end of a wire: see packaging/kernel.py."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.host import Host
from support.programs import program
from support.wait import wait_for

KERNEL = Path(__file__).parents[2] / "dist" / "kernel"
# The guest's address, and ours, on the wire between: eth0 there, tap0 here.
GUEST, HERE = "192.0.2.2", "192.0.2.1"
# Without virtualization it boots in some seconds; a busy machine takes its time.
BOOT_SECONDS = 180.0
# Frames that wait for it while the machine has no time for it.
QUEUE = 20_000


class Guest:
    """Runs a script as root of the guest until the context ends; both see one folder, ``shared``."""

    def __init__(self, host: Host, shared: Path, script: Path) -> None:
        """``host`` is the network namespace at this end."""
        if not (KERNEL / "version").exists():
            reason = KERNEL / "missing"
            why = reason.read_text() if reason.exists() else "nobody made it"
            pytest.skip(f"needs dist/kernel, which packaging/kernel.py makes: {why}")
        self.host = host
        self.shared = shared
        self._script = script
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Guest:
        self.shared.mkdir()
        shutil.copy(self._script, self.shared / "guest.py")
        for command in (
            "tuntap add tap0 mode tap",
            f"link set tap0 txqueuelen {QUEUE}",
            f"addr add {HERE}/24 dev tap0",
            "link set tap0 up",
        ):
            self.host.ip(command)
        shares = ((Path("/"), "root", "readonly=on,multidevs=remap"), (self.shared, "share", "readonly=off"))
        self._process = self.host.start(
            *(program("qemu-system-x86_64"), "-accel", "tcg", "-cpu", "max", "-m", "512", "-nodefaults"),
            *("-display", "none", "-no-reboot", "-serial", f"file:{self.shared}/console"),
            *("-kernel", str(KERNEL / "vmlinuz"), "-initrd", str(KERNEL / "initrd.gz")),
            *("-append", "console=ttyS0 quiet panic=-1"),
            *("-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no"),
            *("-device", "virtio-net-pci,netdev=net"),
            *(
                word
                for path, tag, options in shares
                for word in ("-virtfs", f"local,path={path},mount_tag={tag},security_model=none,{options}")
            ),
            stdin=subprocess.DEVNULL,
        )
        self.wait(self.is_up, "the guest")
        return self

    def is_up(self) -> bool:
        return (self.shared / "up").exists()

    def dropped(self) -> int:
        """Frames that did not reach it, as it was not given time for seconds."""
        command = self.host.enter(["ip", "-j", "-s", "link", "show", "tap0"])
        (link,) = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        count: int = link["stats64"]["tx"]["dropped"]
        return count

    def wait(self, probe: Callable[[], object], what: str) -> None:
        """Wait for something in the guest; say what its console had if it does not come."""
        try:
            wait_for(probe, what, BOOT_SECONDS)
        except AssertionError:
            console = self.shared / "console"
            print(console.read_text(errors="replace")[-3000:] if console.exists() else "no console")
            raise

    def __exit__(self, *_: object) -> None:
        (self.shared / "over").touch()
        if self._process is not None:
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
