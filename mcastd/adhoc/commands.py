"""``mcastctl listen``, ``send``, ``replay``, ``discover`` and ``groups``: arguments in, exit codes out."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from mcastd.adhoc import Refused
from mcastd.errors import McastdError
from mcastd.printable import printable

Command = TypeVar("Command", bound=Callable[..., Any])

# Options that several commands have.
_INTERFACE = click.option(
    "-i", "--interface", metavar="NAME", help="By name or local address; else the route to the group decides."
)
_TTL = click.option(
    "--ttl", type=int, metavar="N", help="How many networks a datagram may cross, 1 if not said."
)
_NO_LOOP = click.option("--no-loop", is_flag=True, help="Not to receivers on this host.")
_DSCP = click.option("--dscp", metavar="NAME", help='DiffServ code point, like "CS5" or 0 to 63.')
_SUMMARY_AS_JSON = click.option("--json", "as_json", is_flag=True, help="The summary as JSON, on stdout.")


def _interfaces(group: str) -> Callable[[Command], Command]:
    """``-i`` of a command that receives from several; ``group`` is what the route is asked for without it."""
    return click.option(
        "-i",
        "--interface",
        "interfaces",
        multiple=True,
        metavar="NAME",
        help='By name, pattern like "eth*", address, or "all"; repeatable;'
        f" else the route to {group} decides.",
    )


@click.command(short_help="Receive a group and show what comes.")
@click.argument("group", metavar="GROUP:PORT")
@_interfaces("the group")
@click.option(
    "--source", "sources", multiple=True, metavar="ADDRESS", help="Only from this sender (SSM); repeatable."
)
@click.option(
    "--amt", "relay", metavar="RELAY", help='By a tunnel from this AMT relay: an address, a name, or "auto".'
)
@click.option(
    "--text", "output", flag_value="text", help="As text, whatever it is; else a hexdump where it is none."
)
@click.option("--hex", "output", flag_value="hex", help="As a hexdump.")
@click.option("--raw", "output", flag_value="raw", help="The bytes alone, for a pipe or a file.")
@click.option("--json", "output", flag_value="json", help="An object a line, the summary last.")
@click.option("--pcapng", "output", flag_value="pcapng", help="A capture, for Wireshark or a file.")
@click.option("--quiet", "output", flag_value="quiet", help="Only the summary.")
@click.option(
    "--flute",
    "directory",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Receive whole files (FLUTE) into DIR, which is made if it is missing.",
)
@click.option(
    "--verify-key",
    "verify_keys",
    multiple=True,
    type=click.Path(),
    metavar="KEY|PATH",
    help="With --flute, only files that the key's owner has signed; repeatable.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(),
    metavar="PATH",
    help="With --flute, only files that are sealed by this group key; repeatable.",
)
@click.option(
    "--channel", metavar="NAME", help='With keys, the name that the sender signs, "mcastctl" if not said.'
)
@click.option(
    "--replace",
    is_flag=True,
    help="With --flute and without keys, receive into a DIR that has files, which may be replaced.",
)
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="End after N datagrams; with --flute, files."
)
@click.option("--for", "span", metavar="TIME", help='End after this time, like "10s".')
def listen(
    *,
    group: str,
    interfaces: tuple[str, ...],
    sources: tuple[str, ...],
    relay: str | None,
    output: str | None,
    directory: str | None,
    verify_keys: tuple[str, ...],
    keys: tuple[str, ...],
    channel: str | None,
    replace: bool,
    count: int | None,
    span: str | None,
) -> None:
    """Receive a group and show what comes, without daemon or configuration.

    GROUP:PORT is like 239.255.1.2:9190 or [ff15::1]:9190. Rates and the summary are on stderr. What `mcastctl
    send --numbered` sends is checked for losses. With --flute, files are received instead, as `mcastctl send
    --flute` or a channel of the daemon sends them: each lands in DIR when it is whole, and is then named on
    stdout. Keys are made by `mcastd keygen`.

    Exit status: 0 if something came and nothing numbered was lost, 1 if not, or if the output is broken, 2 if
    the command line is wrong. With --flute, 0 if N files came, or without --count all that were begun.
    """
    with _translated():
        from mcastd.adhoc import listen as listening  # noqa: PLC0415 - not for `mcastctl status`
        from mcastd.adhoc.settings import duration  # noqa: PLC0415

        seconds = math.inf if span is None else duration("--for", span)
        if relay is not None and interfaces:
            raise Refused("-i says where a group is joined, and by --amt none is: the route to RELAY decides")
        if directory is not None:
            from mcastd.adhoc import file_keys, listen_files  # noqa: PLC0415

            if output not in {None, "json", "quiet"}:
                raise Refused(f"--{output} shows datagrams; with --flute there are files")
            secured = file_keys.of_receiver(verify_keys, keys, channel)
            config = listen_files.settings(group, directory, interfaces, sources, secured, relay=relay)
            if not (secured or replace):
                listen_files.require_empty(directory)
            as_json, quiet = output == "json", output == "quiet"
            sys.exit(listen_files.listen(config, limit=count, seconds=seconds, as_json=as_json, quiet=quiet))
        of_files = {"--verify-key": verify_keys, "--key": keys, "--channel": channel is not None}
        _require_flute({**of_files, "--replace": replace})
        config = listening.settings(group, interfaces, sources, relay)
        sys.exit(listening.listen(config, output or "auto", limit=count, seconds=seconds))


@click.command(short_help="Send to a group.")
@click.argument("group", metavar="GROUP:PORT")
@click.argument("file", required=False, type=click.Path(allow_dash=True))
@_INTERFACE
@_TTL
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
@click.option(
    "--flute",
    "path",
    type=click.Path(),
    metavar="PATH",
    help="Send a file, or all files of a directory, as whole files (FLUTE).",
)
@click.option(
    "--protect",
    metavar="PERCENT",
    help='The loss of datagrams that --flute makes up for, 5% if not said; "0%" needs no raptorq.',
)
@click.option(
    "--interleave", type=int, metavar="N", help="Blocks of --flute that are on air at once, 8 if not said."
)
@click.option(
    "--sign-key",
    type=click.Path(),
    metavar="PATH",
    help="Sign the files of --flute with this key, for `listen --verify-key`.",
)
@click.option(
    "--key",
    type=click.Path(),
    metavar="PATH",
    help="Seal all of --flute by this group key: only who has it can read the files.",
)
@click.option("--channel", metavar="NAME", help='With keys, the name to sign, "mcastctl" if not said.')
@_NO_LOOP
@_DSCP
@_SUMMARY_AS_JSON
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
    path: str | None,
    protect: str | None,
    interleave: int | None,
    sign_key: str | None,
    key: str | None,
    channel: str | None,
    no_loop: bool,
    dscp: str | None,
    as_json: bool,
) -> None:
    """Send a FILE, standard input, a text, or numbered datagrams to a group, without daemon or configuration.

    GROUP:PORT is like 239.255.1.2:9190 or [ff15::1]:9190. Standard input (no FILE, or -) goes line by line as
    it comes: at a terminal, each line as it is typed. --flute PATH sends files to any number of `mcastctl
    listen --flute DIR`, which receive them whole though datagrams are lost.

    Exit status: 0 if all was sent, 1 if not, 2 if the command line is wrong, 130 if Ctrl-C ended what
    has an end of its own.
    """
    with _translated():
        from mcastd.adhoc import send as sending  # noqa: PLC0415 - not for `mcastctl status`
        from mcastd.adhoc.settings import number_or_word  # noqa: PLC0415

        if chunk is not None and framing is not None:
            raise Refused(f"--chunk contradicts --{framing}; keep one of the two")
        settings = {
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
        if path is not None:
            from mcastd.adhoc import file_keys, send_files  # noqa: PLC0415

            others = {
                "FILE": file is not None,
                "--text": text is not None,
                "--numbered": numbered,
                "--size": size is not None,
                "--interval": interval is not None,
                f"--{framing}": framing is not None,
            }
            if contradiction := next((option for option, given in others.items() if given), None):
                raise Refused(f"{contradiction} contradicts --flute, which sends whole files at a --rate")
            settings["framing"] = None  # of --chunk there is the size alone
            secured = file_keys.of_sender(sign_key, key, channel)
            protocol = {"protect": protect, "interleave": interleave, **secured}
            config = send_files.settings(group, path, protocol=protocol, channel=settings)
            sys.exit(send_files.send(config, as_json=as_json))
        of_files = {
            "--protect": protect,
            "--interleave": interleave,
            "--sign-key": sign_key,
            "--key": key,
            "--channel": channel,
        }
        _require_flute({option: value is not None for option, value in of_files.items()})
        plan = sending.plan(group, file, text=text, numbers=numbered, size=size, keys=settings)
        sys.exit(sending.send(plan, as_json=as_json))


@click.command(short_help="Send a recording again.")
@click.argument("file", type=click.Path())
@click.argument("group", metavar="GROUP:PORT")
@_INTERFACE
@_TTL
@click.option("--select", metavar="GROUP:PORT", help="Which stream of the recording, if it has several.")
@click.option("--speed", type=float, metavar="N", help="How many times as fast as it was recorded.")
@click.option("--rate", metavar="RATE", help='Of payload, like "10Mbit", in place of the recorded times.')
@click.option("--interval", metavar="TIME", help="Between datagrams, in place of the recorded times.")
@click.option("--count", "--repeat", "count", metavar="N|forever", help="How often it is sent.")
@_NO_LOOP
@_DSCP
@_SUMMARY_AS_JSON
def replay(
    *,
    file: str,
    group: str,
    interface: str | None,
    ttl: int | None,
    select: str | None,
    speed: float | None,
    rate: str | None,
    interval: str | None,
    count: str | None,
    no_loop: bool,
    dscp: str | None,
    as_json: bool,
) -> None:
    """Send the datagrams of a recording to a group, as far apart as they came, without daemon or config.

    FILE is a capture (pcap, pcapng), as `mcastctl listen --pcapng`, tcpdump or Wireshark write it, or a
    stream that multicat has recorded. GROUP:PORT is like 239.255.1.2:9190 or [ff15::1]:9190.

    Exit status: 0 if all was sent, 1 if not, 2 if the command line is wrong, 130 if Ctrl-C ended what
    has an end of its own.
    """
    with _translated():
        from mcastd.adhoc import replay as replaying  # noqa: PLC0415 - not for `mcastctl status`
        from mcastd.adhoc import send as sending  # noqa: PLC0415
        from mcastd.adhoc.settings import number_or_word  # noqa: PLC0415

        settings = {
            "interface": interface,
            "ttl": ttl,
            "speed": speed,
            "rate": rate,
            "interval": interval,
            "repeat": number_or_word(count),
            "loop": False if no_loop else None,
            "dscp": number_or_word(dscp),
        }
        plan = replaying.plan(file, group, select=select, keys=settings)
        sys.exit(sending.send(plan, as_json=as_json))


@click.command(short_help="Show the sessions that are announced in the network.")
@_interfaces("each group")
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="GROUP",
    help="Only what is announced to this group; repeatable; else those of all scopes.",
)
@click.option("--for", "span", metavar="TIME", help='End after this time, like "1min".')
@click.option("--json", "as_json", is_flag=True, help="An object a line, with the description (SDP).")
def discover(
    *, interfaces: tuple[str, ...], groups: tuple[str, ...], span: str | None, as_json: bool
) -> None:
    """Show the sessions that are announced by SAP, without daemon or configuration.

    Each is shown when it is first heard: as a rule they are announced each 30 s, by some programs each 5 min.

    Exit status: 0 if there was one, 1 if not, 2 if the command line is wrong.
    """
    with _translated():
        from mcastd.adhoc import discover as discovering  # noqa: PLC0415 - not for `mcastctl status`
        from mcastd.adhoc.settings import duration  # noqa: PLC0415

        seconds = math.inf if span is None else duration("--for", span)
        config = discovering.settings(interfaces, groups)
        sys.exit(discovering.discover(config, seconds=seconds, as_json_lines=as_json))


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


def _require_flute(given: Mapping[str, object]) -> None:
    """Raises Refused if any of these options is given: they are for --flute."""
    if option := next((option for option, value in given.items() if value), None):
        raise Refused(f"{option} is for --flute")


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
