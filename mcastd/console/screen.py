"""How ``mcastctl top`` looks, and what its keys do: a board and a view in, lines or another view out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mcastd.console.board import Board, Line
from mcastd.console.text import BLOCKS, age, short, sparkline

# Lines above the workers.
HEAD_LINES = 3
HELP = """
  q, Ctrl-C        quit
  s                sort by the next column
  r                the other way round
  /                show only names that contain what you type; Enter when done
  Esc              show all again
  Up, Down         scroll by a line; PgUp, PgDn by a screen; Home, End
  h, ?             this help; any key ends it

  PKT/S, BIT/S     datagrams and payload bits a second, received or sent
  MINUTE           PKT/S in the last minute, each worker by its own measure
  LOST             datagrams lost on this host: by outputs, or by the kernel
  OVFL             of these, dropped by the kernel at a full receive buffer
  FILES            landed, and % of those to come; or sent, and % of the pass
  PLAYERS          that a gateway serves
  SOURCE, AGE      who sent the last datagram, and how long ago it came or went
""".strip("\n").split("\n")


class Styled(NamedTuple):
    text: str
    style: str = ""  # as rich names them


@dataclass(frozen=True, slots=True)
class View:
    """What the user sees of a board."""

    width: int
    height: int
    top: int = 0  # lines scrolled away above
    now: float = 0.0  # seconds, on the clock that the board was fed by
    trouble: str = ""  # why what is seen is old
    typing: bool = False  # the filter
    help: bool = False
    blocks: str = BLOCKS  # for sparklines

    @property
    def rows(self) -> int:
        """Workers that fit."""
        return max(1, self.height - HEAD_LINES)


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    text: Callable[[Line, float], str]  # of a line, now
    least: int  # characters
    most: int
    words: bool = False  # to the left; numbers to the right


NAME = Column("NAME", lambda line, _: line.name, 12, 40, words=True)
STATE = Column("STATE", lambda line, _: line.condition, 6, 12, words=True)
NETWORK = Column("NET", lambda line, _: short(line.network), 5, 5)
FILES = Column("FILES", lambda line, _: files(line), 10, 10)
PLAYERS = Column("PLAYERS", lambda line, _: str(line.players or ""), 7, 7)
MINUTE = Column("MINUTE", lambda line, _: "", 6, 60)
COLUMNS = (
    NAME,
    STATE,
    Column("PKT/S", lambda line, _: short(line.rate), 5, 5),
    Column("BIT/S", lambda line, _: short(line.bits), 5, 5),
    MINUTE,
    Column("LOST", lambda line, _: short(line.lost), 5, 5),
    Column("OVFL", lambda line, _: short(line.overflow), 5, 5),
    NETWORK,
    FILES,
    PLAYERS,
    Column("SOURCE", lambda line, _: line.source or "-", 15, 39, words=True),
    Column("AGE", lambda line, now: age(None if line.last is None else now - line.last), 4, 4),
)
DISPENSABLE = (
    "SOURCE",
    "AGE",
    "MINUTE",
    "OVFL",
    "FILES",
    "BIT/S",
    "NET",
    "PLAYERS",
    "LOST",
    "PKT/S",
    "STATE",
)  # the first goes first


def files(line: Line) -> str:
    """The files of a worker and how much of the others has come or gone: ``12 44%``; "" without any."""
    percent = "" if line.files_percent is None else f" {line.files_percent:.0f}%"
    return f"{short(line.files)}{percent}" if line.files or percent else ""


def arrange(lines: Sequence[Line], width: int) -> dict[str, int]:
    """The columns that fit into ``width`` characters, by title, and how wide each is.

    The same for all lines, seen or not, so that nothing moves while one scrolls.
    """
    absent = [] if any(map(files, lines)) else [FILES]
    absent += [] if any(line.network for line in lines) else [NETWORK]
    absent += [] if any(line.players for line in lines) else [PLAYERS]
    wanted = {column.title: column.least for column in COLUMNS if column not in absent}
    wanted["NAME"] = min(max([NAME.least, *(len(line.name) for line in lines)]), NAME.most)
    wanted["STATE"] = max([STATE.least, *(len(STATE.text(line, 0)) for line in lines)])
    for title in DISPENSABLE:
        if room(wanted, width) >= 0:
            break
        if len(wanted) > 1 and wanted["NAME"] > 16:  # a name that is cut is still one
            wanted["NAME"] = max(16, wanted["NAME"] + room(wanted, width))
        if room(wanted, width) < 0:
            wanted.pop(title, None)
    wanted["NAME"] = max(1, wanted["NAME"] + min(0, room(wanted, width)))
    for title, most in (("SOURCE", max([0, *(len(line.source) for line in lines)])), ("MINUTE", MINUTE.most)):
        if title in wanted:
            wanted[title] += max(0, min(most - wanted[title], room(wanted, width)))
    return wanted


def room(widths: dict[str, int], width: int) -> int:
    """What columns with a blank between them leave of ``width``; negative if they don't fit."""
    return width - sum(widths.values()) - len(widths) + 1


def draw(board: Board, view: View) -> list[Styled]:
    """The whole screen, ``view.height`` lines at most, each ``view.width`` characters at most."""
    lines = board.wanted()
    top = scroll(view.top, len(lines), view)
    widths = arrange(list(board.lines.values()), view.width)
    drawn = [Styled(headline(board, view), "bold red" if view.trouble else "bold")]
    drawn.append(Styled(prompt(board, view, top, len(lines)), "bold" if view.typing else "dim"))
    if view.help:
        drawn += map(Styled, HELP)
    else:
        drawn.append(Styled(titles(widths).ljust(view.width), "reverse"))
        drawn += [row(line, widths, board, view) for line in lines[top : top + view.rows]]
    return [Styled(line.text[: view.width], line.style) for line in drawn[: view.height]]


def scroll(top: int, count: int, view: View) -> int:
    """``top``, but not so far that room below is wasted."""
    return max(0, min(top, count - view.rows))


def headline(board: Board, view: View) -> str:
    if view.trouble:
        return view.trouble
    lines = board.lines.values()
    active = sum(line.state == "active" for line in lines)
    parts = [f"{active} of {len(lines)} workers active"]
    if troubled := sum(line.troubled for line in lines):
        parts[0] += f", {troubled} in trouble"
    parts.append(f"lost {short(sum(line.lost for line in lines))}")
    if held := sum(line.held for line in lines):
        parts.append(f"held {short(held)}")
    for kind in sorted({line.kind for line in lines}):
        of_kind = [line for line in lines if line.kind == kind]
        rate, bits = sum(line.rate for line in of_kind), sum(line.bits for line in of_kind)
        parts.append(f"{kind.removesuffix('bound')} {short(rate)}/s {short(bits)}bit/s")
    return "; ".join(parts)


def prompt(board: Board, view: View, top: int, count: int) -> str:
    if view.typing:
        return f"show names with: {board.filter}_"
    shown = f"{top + 1 if count else 0}-{min(top + view.rows, count)} of {count}"
    if board.filter:
        shown += f" with {board.filter!r}"
    order = f"by {board.order}{', backwards' if board.backwards else ''}"
    return f"{shown}, {order}   q quit  s sort  r reverse  / filter  h help"


def titles(widths: dict[str, int]) -> str:
    return " ".join(_fit(column.title, column, width) for column, width in _present(widths))


def row(line: Line, widths: dict[str, int], board: Board, view: View) -> Styled:
    cells: list[str] = []
    for column, width in _present(widths):
        if line.idle and column not in (NAME, STATE):  # why it does not run is all there is to see
            rest = view.width - sum(map(len, cells)) - len(cells)
            cells.append(_cut(line.detail, rest))
            break
        if column is MINUTE:
            cells.append(sparkline(list(line.history), width, board.span, view.blocks))
        else:
            cells.append(_fit(column.text(line, view.now), column, width))
    return Styled(" ".join(cells), style_of(line))


def style_of(line: Line) -> str:
    if line.state == "failed":
        return "red"
    if line.troubled or line.stale:
        return "yellow"
    return "" if line.state == "active" else "dim"


def _present(widths: dict[str, int]) -> Iterator[tuple[Column, int]]:
    return ((column, widths[column.title]) for column in COLUMNS if column.title in widths)


def _fit(text: str, column: Column, width: int) -> str:
    text = _cut(text, width)
    return text.ljust(width) if column.words or column is MINUTE else text.rjust(width)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"[:width]


# -- keys


def press(key: str, board: Board, view: View) -> View | None:
    """What a key does: the view that follows, None for the end. The order and the filter are the board's."""
    if key == "Ctrl-C" or (key == "q" and not (view.typing or view.help)):
        return None
    if view.help:
        return replace(view, help=False)
    return _type(key, board, view) if view.typing else _command(key, board, view)


def _command(key: str, board: Board, view: View) -> View:
    count = len(board.wanted())
    moves = {
        "Up": view.top - 1,
        "Down": view.top + 1,
        "PgUp": view.top - view.rows,
        "PgDn": view.top + view.rows,
        "Home": 0,
        "End": count,
    }
    match key:
        case "s":
            board.next_order()
        case "r":
            board.backwards = not board.backwards
        case "Esc":
            board.filter = ""
        case "/":
            view = replace(view, typing=True)
        case "h" | "?":
            view = replace(view, help=True)
    return replace(view, top=scroll(moves.get(key, view.top), count, view))


def _type(key: str, board: Board, view: View) -> View:
    match key:
        case "Enter":
            return replace(view, typing=False)
        case "Esc":
            board.filter = ""
            return replace(view, typing=False)
        case "Backspace":
            board.filter = board.filter[:-1]
        case _ if len(key) == 1:
            board.filter += key
    return replace(view, top=0)


# -- without a terminal


PLAIN = "TIME     {:{}} STATE           PKT/S          BIT/S        LOST    OVERFLOW    AGE SOURCE"


def plain(board: Board, now: float, time: str, *, titled: bool) -> Iterator[str]:
    """A line for each worker, for files and programs: nothing is cut, numbers are exact."""
    lines = board.wanted()
    width = max([4, *(len(line.name) for line in lines)])
    if titled:
        yield PLAIN.format("NAME", width)
    for line in lines:
        last = age(None if line.last is None else now - line.last)
        held = f"  held {line.held}" if line.held else ""
        network = f"  network lost {line.network}" if line.network else ""
        whole = f"  files {files(line)}" if files(line) else ""
        players = f"  players {line.players}" if line.players else ""
        tail = f"{line.source or '-'}{network}{held}{whole}{players}{f'  {line.detail}' if line.idle else ''}"
        yield (
            f"{time} {line.name:{width}} {line.condition:12} {line.rate:>8.1f} {line.bits:>14.0f}"
            f" {line.lost:>11} {line.overflow:>11} {last:>6} {tail}"
        )
