"""Programs of the system that tests run. packaging/programs.py knows the Debian package of each."""

from __future__ import annotations

import errno

import programs

MOUNT = 'mount -t proc -o subset=pid proc /proc && test ! -e /proc/net && test ! -e /proc/stat && exec "$@"'
ONLY_PROCESSES_IN_PROC = ("unshare", "--mount", "--pid", "--fork", "sh", "-c", MOUNT, "sh")
"""Before a command: what it sees of /proc in a unit with ProcSubset=pid."""

# Before a command that does not run as root, as VLC: in a namespace of its own it is somebody else.
AS_SOMEBODY = ("unshare", "--user", "--map-user=1000", "--map-group=1000", "env")


def program(name: str) -> str:
    """The path of a program. Raises FileNotFoundError that says what to install, which skips a test."""
    path = programs.find(name)
    if path is None:
        raise FileNotFoundError(errno.ENOENT, programs.needs(name), name)
    return path
