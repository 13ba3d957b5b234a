"""What is unwise in the paths that a configuration names: who else may write there, or sees nothing of it."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from os.path import dirname
from pathlib import Path

from mcastd.config.explain import Complaint
from mcastd.config.output import OutputPath
from mcastd.config.types import Location, normal
from mcastd.config.whole import Config
from mcastd.config.words import show

PRIVATE_TO_THE_UNIT = ("/tmp/", "/var/tmp/")
# What there may be below /dev beside devices.
NO_DEVICES = ("/dev/shm/", "/dev/mqueue/", "/dev/fd/", "/dev/std")
# Directories in which everybody may make files.
SHARED = {"/tmp", "/var/tmp", "/dev/shm"}


class NamedPaths:
    """The paths that a configuration names, each with its location in the models."""

    def __init__(self, config: Config) -> None:
        self.control_socket: tuple[Location, Path] = (
            ("daemon", "control_socket"),
            config.daemon.control_socket,
        )
        self.sources: list[tuple[Location, Path]] = []  # files and pipes that workers send
        self.written: list[tuple[Location, OutputPath]] = []  # what workers write
        for name, worker in config.workers().items():
            table = tuple(name.split("/"))
            self.sources += [((*table, *key), path) for key, path in worker.reads()]
            self.written += [((*table, *key), written) for key, written in worker.writes()]

    def outputs(self) -> list[tuple[Location, Path]]:
        return [(location, written.path) for location, written in self.written]


def _prepared_by_others(paths: NamedPaths) -> Iterator[Complaint]:
    """Where anybody can put a file or a link before it is made."""
    for location, path in [paths.control_socket, *paths.outputs()]:
        if dirname(path) in SHARED:
            yield Complaint(
                location,
                f"everybody may write in {path.parent}, and put a file or link there first, which the daemon"
                " then refuses to use; take a directory of its own, as /run/mcastd or /var/log/mcastd",
            )
    for location, path in paths.sources:
        if dirname(path) in SHARED:
            yield Complaint(
                location,
                f"everybody may write in {path.parent}, and put a file there, which the daemon then sends;"
                " take a directory that only those may write who decide that",
            )


def _devices(paths: NamedPaths) -> Iterator[Complaint]:
    """Neither a source nor an output may be one."""
    for location, path in [*paths.outputs(), *paths.sources]:
        if (named := normal(path)).startswith("/dev/") and not named.startswith(NO_DEVICES):
            yield Complaint(location, f"{path} is a device, which is refused; name a file or a FIFO")


def private_paths(paths: NamedPaths) -> Iterator[Complaint]:
    """What the unit has in a /tmp of its own."""
    for location, path in [paths.control_socket, *paths.sources, *paths.outputs()]:
        if (named := normal(path)).startswith(PRIVATE_TO_THE_UNIT):
            top = "/var/tmp" if named.startswith("/var/tmp/") else "/tmp"
            yield Complaint(
                location,
                f"the systemd unit has a {top} of its own (PrivateTmp): nobody else sees {show(str(path))}"
                " there, and it goes when the daemon stops; take a path elsewhere",
            )


def _shared_pipes(paths: NamedPaths) -> Iterator[Complaint]:
    """Channels that read one pipe: each line goes to one of them. A pipe is what a subscription makes one."""
    pipes = {normal(written.path) for _, written in paths.written if written.type == stat.S_IFIFO}
    readers: dict[str, str] = {}
    for location, source in paths.sources if pipes else ():
        path, name = normal(source), str(location[1])
        if path in pipes and (first := readers.setdefault(path, name)) != name:
            yield Complaint(
                location,
                f"outbound.{first} reads this pipe, too: each gets a part; give every one a pipe",
            )


OF_PATHS: tuple[Callable[[NamedPaths], Iterator[Complaint]], ...] = (
    _prepared_by_others,
    _devices,
    _shared_pipes,
)
