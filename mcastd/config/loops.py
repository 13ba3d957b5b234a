"""Workers that would send for ever what they have sent, since it comes back to them: by a file that is their
source, by a group, by a program of this host, or by an engine.

Pure. What a host adds (two addresses of one interface) is not known here. That two paths lead to one file
is known once they are open: opened.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from mcastd.config.ends import ENGINES
from mcastd.config.model import GroupSettings, WorkerSettings
from mcastd.config.types import Location, normal
from mcastd.names import as_table


class Loop(NamedTuple):
    """A worker whose datagrams come back to it, maybe by way of others. Workers have their full names."""

    sender: str
    key: Location  # in its table, of the source
    source: Path
    receiver: str  # receives what the sender sends
    writes: tuple[Path, ...]  # paths of the receiver that are the source of this sender, or of the next one

    def __str__(self) -> str:
        written = " and ".join(map(str, self.writes))
        return (
            f"what it sends comes back to it for ever: {as_table(self.receiver)} receives its group, and"
            f" writes {written}"
        )


def loops(workers: Mapping[str, WorkerSettings], file: Callable[[Path], object] = normal) -> Iterator[Loop]:
    """Those among ``workers`` (by full name) whose datagrams come back to them.

    ``file`` returns the same for paths of the same file.
    """
    groups = {name: worker for name, worker in workers.items() if isinstance(worker, GroupSettings)}
    read = {name: (key, path) for name, worker in groups.items() for key, path in worker.reads()}
    sent_from: dict[object, list[str]] = defaultdict(list)  # senders by the file that they read
    for name, (_, path) in read.items():
        sent_from[file(path)].append(name)
    written = {name: [one.path for _, one in worker.writes()] for name, worker in groups.items()}
    receivers: dict[tuple[object, int], list[tuple[str, GroupSettings]]] = defaultdict(list)
    for name, paths in written.items():
        if any(file(path) in sent_from for path in paths):
            for leg in groups[name].by_leg():
                receivers[leg.group, leg.port].append((name, leg))
    # By sender: those that send on what it sends, each with the receiver between them
    by_way_of: dict[str, dict[str, str]] = {
        name: {
            follower: receiver
            for leg in groups[name].by_leg()
            for receiver, receiving in receivers.get((leg.group, leg.port), ())
            if receiving.hears(leg)
            for path in written[receiver]
            for follower in sent_from.get(file(path), ())
        }
        for name in read
        if receivers
    }
    for name in _in_circles(by_way_of):
        first = next(iter(by_way_of[name].values()))
        sources = {file(read[follower][1]) for follower in by_way_of[name]}
        paths = [path for path in written[first] if file(path) in sources]
        yield Loop(name, *read[name], first, tuple(paths))


class Circle(NamedTuple):
    """A worker that sends on what comes back to it, maybe by way of others. Workers have full names."""

    worker: str
    key: Location  # in its table, of what names the group, program, engine or file that it sends to
    follower: str  # gets what is sent there, and sends on
    by: Literal["group", "program", "engine", "file"]

    def __str__(self) -> str:
        follower = as_table(self.follower)
        takes = f"{follower} receives that group" if self.by == "group" else f"it is the source of {follower}"
        return f"what it sends comes back to it for ever: {takes}, and sends on what it receives"

    @property
    def way_out(self) -> str:
        match self.by:
            case "group":
                return "send to another group"
            case "engine":
                return f"give it another {self.key[-1]}, or {as_table(self.follower)} another source"
            case "file":
                return "write elsewhere"
        return "send elsewhere"


def circles(workers: Mapping[str, WorkerSettings]) -> Iterator[Circle]:
    """Those among ``workers`` (by full name) that send on in a circle: by groups, programs of this host,
    engines and files.

    One that receives the very group that it sends to is refused by itself. A circle by files and groups alone
    is among :func:`loops` as well.
    """
    groups = {name: worker for name, worker in workers.items() if isinstance(worker, GroupSettings)}
    takers = [(name, end) for name, worker in groups.items() if (end := worker.taken_at) is not None]
    # A channel writes nothing of what it sends, only what describes it
    written = {
        normal(one.path) for worker in groups.values() if not worker.sends for _, one in worker.writes()
    }
    readers: dict[str, list[str]] = defaultdict(list)  # by the file, if it is written here
    for name, worker in groups.items():
        for path in {normal(path) for _, path in worker.reads()} & written:
            readers[path].append(name)
    # Channels whose source is fed, maybe by what they send
    fed = {name for name, _ in takers}.union(*readers.values())
    receivers: dict[tuple[object, int], list[tuple[str, GroupSettings]]] = defaultdict(list)
    for name, worker in groups.items():
        if not worker.sends and any((*worker.hands_on(), *worker.reaches(), *worker.writes())):
            for leg in worker.by_leg():
                receivers[leg.group, leg.port].append((name, leg))

    def followers(name: str, worker: GroupSettings) -> Iterator[Circle]:
        """Those that surely get what it sends on."""
        if worker.sends and name not in fed:
            return
        for key, group in worker.hands_on():
            for other, receiver in receivers.get((group.group, group.port), ()):
                if other != name and receiver.hears(group):
                    yield Circle(name, key, other, "group")
        for key, program in worker.reaches():
            for other, end in takers:
                if program.leads_to(end):
                    yield Circle(name, key, other, "engine" if program.way in ENGINES else "program")
        for key, file in () if worker.sends else worker.writes():
            for other in readers.get(normal(file.path), ()):
                yield Circle(name, key, other, "file")

    follow = {
        name: {circle.follower: circle for circle in followers(name, worker)}
        for name, worker in groups.items()
    }
    on_circles = _in_circles(follow)
    for name in on_circles:
        yield next(circle for other, circle in follow[name].items() if other in on_circles)


def _in_circles(follow: Mapping[str, Mapping[str, object]]) -> list[str]:
    """The nodes of a graph that lie on a circle, or between two of them."""
    left = {name: set(followers) for name, followers in follow.items() if followers}
    while ends := [name for name, followers in left.items() if not followers & left.keys()]:
        for name in ends:
            del left[name]
    while True:
        led_to = set().union(*left.values()) if left else set()
        if not (begins := left.keys() - led_to):
            return list(left)
        for name in begins:
            del left[name]
