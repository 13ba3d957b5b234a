"""Programs of the system that tests run."""

from __future__ import annotations

import os
import shutil

MOUNT = 'mount -t proc -o subset=pid proc /proc && test ! -e /proc/net && test ! -e /proc/stat && exec "$@"'
ONLY_PROCESSES_IN_PROC = ("unshare", "--mount", "--pid", "--fork", "sh", "-c", MOUNT, "sh")
"""Before a command: what it sees of /proc in a unit with ProcSubset=pid."""


def program(name: str, package: str) -> str:
    """The path of a program, also one for administrators; fails with the Debian ``package`` that has it."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    assert path, f"{name} is missing: apt-get install {package}"
    return path
