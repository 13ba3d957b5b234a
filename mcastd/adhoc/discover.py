"""``mcastctl discover``: the daemon's own worker that hears announcements, and what it hears as lines."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from mcastd import clock
from mcastd.adhoc.session import Session
from mcastd.adhoc.settings import configure
from mcastd.codec import as_json
from mcastd.config import Config
from mcastd.console.text import plural, span
from mcastd.makers import Parts
from mcastd.printable import printable
from mcastd.status import DiscoveryStatus, MediumStatus, SessionStatus

# Seconds between two looks at what was heard.
LOOK_SECONDS = 0.25
# Sessions that are remembered: strangers may announce ever new ones.
SHOWN_MAX = 10_000
COLUMNS = ("GROUP", "MEDIUM", "FROM", "NAME")
WIDTHS = (22, 30, 16)


class ShownSessions:
    """Which sessions were shown: of more than SHOWN_MAX, those are remembered that were listed last."""

    def __init__(self) -> None:
        self.number = 0
        self._known: dict[int, None] = {}  # by a hash of what tells one from another

    def note(self, session: SessionStatus) -> bool:
        """Note that a session is listed. Returns True if it is new, and is to be shown."""
        key = hash((session.sender, session.announced_to, session.sdp))
        is_new = key not in self._known
        self.number += is_new
        self._known.pop(key, None)
        self._known[key] = None
        if len(self._known) > SHOWN_MAX:
            del self._known[next(iter(self._known))]
        return is_new


def settings(interfaces: tuple[str, ...], groups: tuple[str, ...]) -> Config:
    """The configuration of one worker, from the command line. Raises Refused."""
    return configure(
        "discover", "discover", {"interface": interfaces or None, "groups": list(groups) or None}
    )


def discover(config: Config, *, seconds: float, as_json_lines: bool) -> int:
    """Show each session when it is first heard, until told to stop or ``seconds`` are over.

    The exit status: 0 if there was one. Raises McastdError.
    """
    session = Session(config, Parts())
    shown = ShownSessions()
    with session:
        deadline = session.began + seconds
        if session.line.on:
            groups = plural(len(session.status(DiscoveryStatus).groups), "group")
            session.line.say(f"listening in {groups}; sessions are announced each 30 s or so; Ctrl-C ends it")
        while True:
            status = session.status(DiscoveryStatus)
            for one in reversed(status.sessions):
                if shown.note(one):
                    with session.line.above():
                        _show(one, first=shown.number == 1, as_json_lines=as_json_lines)
            left = deadline - clock.monotonic()
            if left <= 0 or not session.wait(clock.monotonic() + min(LOOK_SECONDS, left)):
                break
        counters = session.status(DiscoveryStatus).counters
        listened = clock.monotonic() - session.began
    dropped = "".join(f", {count} {printable(reason)}" for reason, count in sorted(counters.dropped.items()))
    packets = plural(counters.received, "packet")
    session.line.say(f"{plural(shown.number, 'session')} in {span(listened)}, by {packets}{dropped}")
    return 0 if shown.number else 1


def _show(session: SessionStatus, *, first: bool, as_json_lines: bool) -> None:
    if as_json_lines:
        click.echo(json.dumps(as_json(session)))
        return
    if first:
        click.echo(_row(*COLUMNS))
    for line in lines(session):
        click.echo(line)


def lines(session: SessionStatus) -> Iterator[str]:
    """A line for each medium; those after the first without the name."""
    for number, medium in enumerate(session.media or (None,)):
        name = session.name if number == 0 else '"'
        yield _row(_where(medium), _what(medium), session.sender, name)


def _row(*cells: str) -> str:
    aligned = [f"{printable(cell):{width}}" for cell, width in zip(cells, WIDTHS, strict=False)]
    return "  ".join([*aligned, printable(cells[-1])])


def _where(medium: MediumStatus | None) -> str:
    if medium is None or not medium.group:
        return "-"
    return f"[{medium.group}]:{medium.port}" if ":" in medium.group else f"{medium.group}:{medium.port}"


def _what(medium: MediumStatus | None) -> str:
    return "-" if medium is None else " ".join((medium.kind, medium.transport, medium.encoding))
