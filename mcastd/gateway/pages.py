"""What a gateway has beside streams: a playlist for players, pages for people. Values in, text out.

The pages have no script, ask for nothing else, and are asked for again now and then. All that stands in them
is escaped, and if something were not, their policy (Content Security Policy Level 3) would have a browser run
nothing of it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from mcastd.gateway.overview import ShownDaemon, ShownWorker
from mcastd.gateway.rates import INTERVALS_MAX
from mcastd.ip import Address, Prefix
from mcastd.printable import printable
from mcastd.protocols.gateway_paths import StreamResource
from mcastd.status import PlayedGroupStatus

PLAYLIST = "audio/x-mpegurl; charset=utf-8"
PAGE = "text/html; charset=utf-8"
STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:1rem/1.5 system-ui,sans-serif;margin:2rem auto;max-width:50rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}"
    "th,td{padding:.3rem 1rem .3rem 0;text-align:left;border-bottom:1px solid #8884}"
    "code{font-size:.9em}"
    "svg{vertical-align:middle;margin-left:.5rem}"
    ".troubled{border-left:.3rem solid #c60;padding-left:.4rem}"
)
TROUBLED = "troubled"  # the class of what is marked so
# Workers on the page.
WORKERS_MAX = 500
# After so long a browser has the page again.
REFRESH_SECONDS = 10
# Pixels of the line that rates are shown by: wide are two for each.
LINE_WIDTH, LINE_HEIGHT = 2 * INTERVALS_MAX, 20
# An icon with nothing in it: without one, browsers ask for /favicon.ico, which would count as refused.
ICON = '<link rel="icon" href="data:,">'
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# Fields of the head of a page.
POLICY = (
    f"Content-Security-Policy: default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy: no-referrer",
)


class ShownGroup(NamedTuple):
    """A group that is joined."""

    status: PlayedGroupStatus
    rates: Sequence[float] = ()  # bits per second in the last minutes, oldest first


class PlayedNow(NamedTuple):
    """What goes on at a gateway."""

    served: int  # players
    groups: Sequence[ShownGroup]


def playlist(streams: Iterable[str], authority: str, query: str) -> str:
    """The named streams, with URLs by the name that the client has used.

    ``query`` is what each URL ends with: "?token=..."; or "".
    """
    lines = ["#EXTM3U"]
    for name in streams:
        url = f"/{name}{query}"
        lines += [f"#EXTINF:-1,{name}", f"http://{authority}{url}" if authority else url]
    return "\n".join([*lines, ""])


def start_page(
    title: str,
    streams: Mapping[str, StreamResource],
    prefixes: Sequence[Prefix],
    now: PlayedNow,
    query: str = "",
    *,
    has_status: bool = False,
) -> str:
    """The page: named streams, and groups that are joined; ``prefixes`` are those that may be asked for.

    With ``has_status`` it leads to the page of the daemon.
    """
    named = [
        _row(
            f'<a href="{escape(f"/{name}{query}")}">{escape(name)}</a>',
            _code(_told(one.group, one.port, "" if one.sender is None else str(one.sender))),
            str(sum(_players_of(one, group.status) for group in now.groups)),
        )
        for name, one in streams.items()
    ]
    joined = [
        _row(
            _code(_told(one.group, one.port, one.sender)),
            str(one.players),
            _rate(rates),
            f"{one.overflow:,}",
            escape(_condition(one)),
        )
        for one, rates in now.groups
    ]
    groups = ", ".join(_code(str(prefix)) for prefix in prefixes)
    example = _code("/udp/GROUP:PORT"), _code("/rtp/GROUP:PORT"), _code("/udp/SENDER@GROUP:PORT")
    links = [f'<a href="{escape(f"/playlist.m3u{query}")}">Playlist for players</a>']
    links += [f'<a href="{escape(f"/status{query}")}">What the daemon does</a>'] if has_status else []
    return _page(
        title,
        f"<p>{'. '.join(links)}. Players that are served: {now.served}.</p>",
        "<h2>Streams</h2>",
        *_table(("Name", "Group", "Players"), named),
        f"<p>Any group of {groups} is had by {example[0]}, without its RTP by {example[1]}, of one sender"
        f" by {example[2]}.</p>",
        "<h2>Joined now</h2>",
        *_table(("Group", "Players", "Rate", "Lost here", "Last datagram"), joined),
    )


def status_page(now: ShownDaemon, query: str = "") -> str:
    """What the daemon does: its workers, those in trouble first, and what the doctor has found."""
    in_order = sorted(now.workers, key=lambda one: (not one.headline.troubled, one.headline.name))
    workers = [_row_of(one) for one in in_order[:WORKERS_MAX]]
    left = len(in_order) - len(workers)
    return _page(
        "mcastd",
        f'<p><a href="{escape(f"/{query}")}">Streams for players</a>.'
        f" Workers: {len(in_order)}, {sum(one.headline.troubled for one in in_order)} in trouble.</p>",
        "<h2>Doctor</h2>",
        *_findings(now),
        "<h2>Workers</h2>",
        *_table(("Name", "State", "Rate", "Dropped", "Lost here", "Lost on the way"), workers),
        *([f"<p>{left} more are not shown.</p>"] if left else []),
    )


def _row_of(worker: ShownWorker) -> str:
    headline, vitals, rates = worker
    state = escape(printable(f"{headline.state}: {headline.detail}" if headline.detail else headline.state))
    return _row(
        _code(headline.name),
        f'<span class="{TROUBLED}">{state}</span>' if headline.troubled else state,
        _rate(rates),
        *(f"{count:,}" for count in (vitals.dropped, vitals.overflow, vitals.lost)),
    )


def _findings(now: ShownDaemon) -> list[str]:
    said = [f"<p>It could not look: {escape(printable(now.trouble))}.</p>"] if now.trouble else []
    if now.findings is None:
        return said or ["<p>It is looking: see this page again in some seconds.</p>"]
    when = f"{now.examined:.0f} s ago"
    if not now.findings:
        return [*said, f"<p>It found nothing wrong {when}.</p>"]
    rows = [
        _row(
            _code(one.worker or "this host"), *map(escape, map(printable, (one.severity, one.what, one.fix)))
        )
        for one in now.findings
    ]
    return [*said, f"<p>What it found {when}:</p>", *_table(("Worker", "", "What", "Fix"), rows)]


def _page(title: str, *content: str) -> str:
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width">',
            f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">',
            f"<title>{escape(title)}</title>",
            ICON,
            f"<style>{STYLE}</style>",
            f"<h1>{escape(title)}</h1>",
            *content,
            "</html>",
            "",
        ]
    )


def _table(titles: Sequence[str], rows: Sequence[str]) -> list[str]:
    if not rows:
        return ["<p>None.</p>"]
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    return [f"<table><tr>{head}</tr>", *rows, "</table>"]


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _rate(rates: Sequence[float]) -> str:
    """The last one, and a line of all."""
    if not rates:
        return ""
    most = max(rates) or 1.0
    points = " ".join(
        f"{2 * at},{LINE_HEIGHT - 1 - (LINE_HEIGHT - 2) * rate / most:.1f}" for at, rate in enumerate(rates)
    )
    line = f'<polyline points="{points}" fill="none" stroke="currentColor"/>'
    size = f'width="{LINE_WIDTH}" height="{LINE_HEIGHT}"'
    return f'{rates[-1] / 1e6:.1f} Mbit/s<svg {size} aria-hidden="true">{line}</svg>'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _told(group: Address | str, port: int, sender: str) -> str:
    return f"{group} port {port}{f' of {sender}' if sender else ''}"


def _players_of(stream: StreamResource, group: PlayedGroupStatus) -> int:
    """The players of a group, if it is what a stream means."""
    sender = "" if stream.sender is None else str(stream.sender)
    is_same = (str(stream.group), stream.port, sender) == (group.group, group.port, group.sender)
    return group.players if is_same else 0


def _condition(group: PlayedGroupStatus) -> str:
    if group.trouble:
        return printable(group.trouble)
    return "none yet" if group.age is None else f"{group.age:.0f} s ago"
