"""The commands ``mcastctl listen``, ``send`` and ``groups``: arguments in, exit codes out."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from mcastd.adhoc import Refused
from mcastd.errors import McastdError
from mcastd.printable import printable


@click.command(short_help="Receive a group and show what comes.")
@click.argument("group", metavar="GROUP:PORT")
@click.option(
    "-i",
    "--interface",
    "interfaces",
    multiple=True,
    metavar="NAME",
    help='By name, pattern like "eth*", address, or "all"; repeatable; else the route to the group decides.',
)
@click.option(
    "--source", "sources", multiple=True, metavar="ADDRESS", help="Only from this sender (SSM); repeatable."
)
@click.option(
    "--text", "output", flag_value="text", help="As text, whatever it is; else a hexdump where it is none."
)
@click.option("--hex", "output", flag_value="hex", help="As a hexdump.")
@click.option("--raw", "output", flag_value="raw", help="The bytes alone, for a pipe or a file.")
@click.option("--json", "output", flag_value="json", help="An object a line, the summary last.")
@click.option("--quiet", "output", flag_value="quiet", help="Only the summary.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N datagrams.")
@click.option("--for", "span", metavar="TIME", help='End after this time, like "10s".')
def listen(
    *,
    group: str,
    interfaces: tuple[str, ...],
    sources: tuple[str, ...],
    output: str | None,
    count: int | None,
    span: str | None,
) -> None:
    """Receive a group and show what comes, without daemon or configuration.

    GROUP:PORT is like 239.255.1.2:9190 or [ff15::1]:9190. Rates and the summary are on stderr. What `mcastctl
    send --numbered` sends is checked for losses.

    Exit status: 0 if something came and nothing numbered was lost, 1 if not, or if the output is broken, 2 if
    the command line is wrong.
    """
    with _translated():
        from mcastd.adhoc import listen as listening  # noqa: PLC0415 - not for `mcastctl status`
        from mcastd.adhoc.settings import duration  # noqa: PLC0415

        config = listening.settings(group, interfaces, sources)
        seconds = math.inf if span is None else duration("--for", span)
        sys.exit(listening.listen(config, output or "auto", limit=count, seconds=seconds))


@click.command(short_help="Send to a group.")
@click.argument("group", metavar="GROUP:PORT")
@click.argument("file", required=False, type=click.Path(allow_dash=True))
@click.option(
    "-i", "--interface", metavar="NAME", help="By name or local address; else the route to the group decides."
)
@click.option("--ttl", type=int, metavar="N", help="How many networks a datagram may cross, 1 if not said.")
@click.option(
    "--rate", metavar="RATE", help='Of payload, like "10Mbit", which is what a file goes at if not said.'
)
@click.option("--interval", metavar="TIME", help='Between datagrams, like "100ms"; 0: as fast as possible.')
@click.option("--chunk", type=int, metavar="BYTES", help="A datagram is so many bytes.")
@click.option("--line", "framing", flag_value="line", help="A datagram is a line, as if nothing is said.")
@click.option("--file", "framing", flag_value="file", help="A datagram is the whole FILE.")
@click.option(
    "--count", "--repeat", "count", metavar="N|forever", help="How often a FILE, a text or a number is sent."
)
@click.option("--text", metavar="TEXT", help="Send this, in one datagram.")
@click.option("--numbered", is_flag=True, help="Number what is sent; without FILE, send numbers alone.")
@click.option("--size", type=int, metavar="BYTES", help="Of a datagram of --numbered without FILE.")
@click.option("--no-loop", is_flag=True, help="Not to receivers on this host.")
@click.option("--dscp", metavar="NAME", help='DiffServ code point, like "CS5" or 0 to 63.')
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON, on stdout.")
def send(
    *,
    group: str,
    file: str | None,
    interface: str | None,
    ttl: int | None,
    rate: str | None,
    interval: str | None,
    chunk: int | None,
    framing: str | None,
    count: str | None,
    text: str | None,
    numbered: bool,
    size: int | None,
    no_loop: bool,
    dscp: str | None,
    as_json: bool,
) -> None:
    """Send a FILE, standard input, a text, or numbered datagrams to a group, without daemon or configuration.

    GROUP:PORT is like 239.255.1.2:9190 or [ff15::1]:9190. Standard input (no FILE, or -) goes line by line as
    it comes: at a terminal, each line as it is typed.

    Exit status: 0 if all was sent, 1 if not, 2 if the command line is wrong, 130 if Ctrl-C ended what
    has an end of its own.
    """
    with _translated():
        from mcastd.adhoc import send as sending  # noqa: PLC0415 - not for `mcastctl status`
        from mcastd.adhoc.settings import number_or_word  # noqa: PLC0415

        if chunk is not None and framing is not None:
            raise Refused(f"--chunk contradicts --{framing}; keep one of the two")
        keys = {
            "interface": interface,
            "ttl": ttl,
            "rate": rate,
            "interval": interval,
            "framing": "chunk" if chunk is not None else framing,
            "max_datagram": chunk,
            "repeat": number_or_word(count),
            "loop": False if no_loop else None,
            "dscp": number_or_word(dscp),
        }
        plan = sending.plan(group, file, text=text, numbers=numbered, size=size, keys=keys)
        sys.exit(sending.send(plan, as_json=as_json))


@click.command(short_help="Show who joined what on this host.")
@click.option("-i", "--interface", metavar="NAME", help="Only on this interface.")
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.pass_obj
def groups(socket: Path, interface: str | None, as_json: bool) -> None:
    """Show the groups that are joined on this host, by interface, as the kernel has them; and by whom.

    Whose a socket is can be seen by its own user and by root. The daemon, if one runs, is asked which are its
    own.
    """
    with _translated():
        from mcastd.adhoc import groups as joined  # noqa: PLC0415 - not for `mcastctl status`

        joined.show(socket, interface, as_json=as_json)


@contextmanager
def _translated() -> Iterator[None]:
    """Errors as command lines show them."""
    try:
        yield
    except Refused as error:
        raise click.UsageError("\n".join(map(printable, str(error).split("\n")))) from None
    except McastdError as error:
        click.echo(f"mcastctl: {printable(error)}", err=True)
        sys.exit(1)
