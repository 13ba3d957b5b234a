"""Who may read or write a path, and what makes it possible: mode, group, or the sandbox of the service."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from mcastd.doctor.finding import Way
from mcastd.doctor.quoting import command, in_unit
from mcastd.errors import SinkError, UnsafePathError
from mcastd.inbound.sinks import paths as outputs
from mcastd.paths import place_of

MOUNTS = Path("/proc/self/mountinfo")
HOMES = ("/home", "/root", "/run/user")  # what ProtectHome= of a unit hides, systemd.exec(5)


class Permit(NamedTuple):
    """What gives access to a path: in words, and as something that can be carried out."""

    words: str
    way: Way  # empty: it takes a person
    takes_over: bool = False  # the path is given to this process's group

    @property
    def ways(self) -> tuple[Way, ...]:
        return (self.way,) if self.way != Way() else ()


def refused(path: Path, mode: int) -> tuple[Path, str] | None:
    """The part of ``path`` at which access ends, as namei(1) shows it, and why; None if it is granted."""
    for directory in reversed(path.parents):
        if not os.path.exists(directory):
            return directory, "no such directory"
        if not os.access(directory, os.X_OK, effective_ids=True):
            return directory, f"not to be entered: {permissions(directory)}"
    if not os.path.exists(path):
        return path, "no such file or directory"
    if os.access(path, mode, effective_ids=True):
        return None
    if mode & os.W_OK and os.statvfs(path).f_flag & os.ST_RDONLY:
        return path, "on a file system that is mounted read-only"
    return path, permissions(path)


def permissions(path: Path) -> str:
    found = path.stat()
    return f"{stat.filemode(found.st_mode)} {_name(found.st_uid)} {_group(found.st_gid)}"


def permit(path: Path, mode: int) -> Permit:
    """What lets this process's user use ``path``, at which its access ends, for ``mode`` (os.R_OK, ...).

    The sandbox of the service comes first: what it hides or makes read-only, no mode opens.
    """
    unit = own_unit()
    found = path.stat()
    if unit and not stat.S_IMODE(found.st_mode) and any(path.is_relative_to(home) for home in HOMES):
        return by_drop_in(unit, "ProtectHome=read-only")
    if mode & os.W_OK and os.statvfs(path).f_flag & os.ST_RDONLY:
        if unit:
            return by_drop_in(unit, f"ReadWritePaths={in_unit(path if path.is_dir() else path.parent)}")
        mount = command("mount", "-o", "remount,rw", _mount_point(path))
        return Permit(f"mount it writable: {mount}", Way())
    return _by_mode(path, mode, unit)


def _by_mode(path: Path, mode: int, unit: str) -> Permit:
    """What gives access by owner, group and permission bits, whatever the file system is mounted as."""
    found = path.stat()
    name = quote(str(path))
    if planted := _planted(path, mode):
        return Permit(
            f"see where it leads before you give access to it, since {planted}: namei -l {name}", Way()
        )
    ours = found.st_uid == os.geteuid()
    for_group = bool(found.st_gid) and (found.st_mode >> 3) & mode == mode
    bits = "".join(letter for letter, bit in (("r", os.R_OK), ("w", os.W_OK), ("x", os.X_OK)) if mode & bit)
    if ours:
        allow = f"chmod u+{bits} {name}"
    elif for_group:
        # The group as root sees it: in a user namespace, which PrivateUsers= makes, it has no name
        allow = f'usermod -aG "$(stat -L -c %G {name})" {user()}'
        if not unit:
            return Permit(f"{allow}, then restart mcastd", Way())
        allow += f" && systemctl restart {quote(unit)}"
    else:
        allow = f"chgrp {group()} {name} && chmod g+{bits} {name}"
    return Permit(allow, Way(command=allow), takes_over=not ours and not for_group)


def _planted(path: Path, mode: int) -> str:
    """Why ``path`` may be another file than it seems, in a directory that others may write; "" if it is not.

    Root's commands follow links: anybody who can put one there would choose the file.
    """
    try:
        with place_of(path) as place:
            found = place.look()
            if mode & os.W_OK:
                outputs.look(place, stat.S_IFMT(found.st_mode), outputs.UNSAFE_PATH)
            elif stat.S_ISREG(found.st_mode) and found.st_nlink > 1 and not place.ours:
                return "it is a hard link, in a directory that others may write"
    except (UnsafePathError, SinkError) as error:
        return error.cause
    except OSError:  # access ends before its end
        pass
    return ""


def permit_directory(directory: Path) -> tuple[Permit, Path]:
    """What lets this process's user make files in ``directory``, and the directory to make them in.

    There may be nothing to do for it. It is another if the first is there and belongs to somebody else: it
    is not handed over to us.
    """
    mode, unit = os.W_OK | os.X_OK, own_unit()
    nearest = next(one for one in (directory, *directory.parents) if os.path.exists(one))
    words, way = [], Way()
    if not _allows(nearest, mode) and (nearest == directory or nearest.stat().st_uid == os.geteuid()):
        fix = _by_mode(nearest, mode, unit)
        if fix.takes_over:
            directory /= user()
        elif not fix.ways:
            return fix, directory
        else:
            words, way = [fix.words], fix.way
    if not words and not os.path.exists(directory):
        make = command("install", "-d", "-o", user(), "-g", group(), directory)
        words, way = [make], Way(command=make)
    if unit and os.statvfs(nearest).f_flag & os.ST_RDONLY:
        drop_in = by_drop_in(unit, f"ReadWritePaths={in_unit(directory)}")
        words, way = [*words, drop_in.words], replace(way, unit=unit, service=drop_in.way.service)
    return Permit("; then ".join(words), way), directory


def _allows(path: Path, mode: int) -> bool:
    """Return True if the permission bits allow it, whatever the file system is mounted as."""
    found = path.stat()
    if found.st_uid == os.geteuid():
        return (found.st_mode >> 6) & mode == mode
    if found.st_gid in (os.getegid(), *os.getgroups()):
        return (found.st_mode >> 3) & mode == mode
    return found.st_mode & mode == mode


def by_drop_in(unit: str, line: str) -> Permit:
    """A line for the service that this process is."""
    name = quote(unit)  # of an instance it may have backslashes
    words = f"systemctl edit {name}, with [Service] and {line}, then: systemctl restart {name}"
    return Permit(words, Way(unit=unit, service=line))


def private_directory(path: Path) -> str:
    """/tmp or /var/tmp, if ``path`` is below it and only this service sees it (PrivateTmp=); else ""."""
    try:
        mounts = [line.split() for line in MOUNTS.read_text(errors="surrogateescape").splitlines()]
    except OSError:
        return ""
    # proc_pid_mountinfo(5): the fourth field is what was mounted, the fifth where
    private = (where for _, _, _, what, where, *_ in mounts if "/systemd-private-" in what)
    return next((where for where in private if path.is_relative_to(where)), "")


def own_unit() -> str:
    """The systemd service that this process is; empty if it is none, or that cannot be seen."""
    if "INVOCATION_ID" not in os.environ:
        return ""
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    names = {line.rpartition("/")[2] for line in groups}
    return next((name for name in sorted(names) if name.endswith(".service")), "")


def _mount_point(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if os.path.ismount(one))


def group() -> str:
    return _group(os.getegid())


def user() -> str:
    return _name(os.geteuid())


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
