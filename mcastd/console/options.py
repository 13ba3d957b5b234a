"""What commands of both programs are told on the command line."""

from __future__ import annotations

import click

from mcastd.control.protocol import LONGEST_WATCH_SECONDS


def seconds(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """A time span as the configuration has it: ``10``, ``10s``, ``1min 30s``."""
    from mcastd.config.numbers import parse_duration  # noqa: PLC0415 - not for every start of mcastctl

    if value is None:
        return None
    try:
        return parse_duration(float(value) if value.replace(".", "", 1).isdigit() else value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def watch_seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """How long a doctor may watch."""
    span = seconds(context, parameter, value)
    if span is not None and span > LONGEST_WATCH_SECONDS:
        raise click.BadParameter(
            f"{value!r} is more than {LONGEST_WATCH_SECONDS // 60:.0f} minutes, the longest watch"
        )
    return span


watch_option = click.option(
    "--watch",
    callback=watch_seconds,
    metavar="SPAN",
    help="How long to watch the wire and the counters first, like 10s; 1s unless given, 0 is not at all.",
)
probe_option = click.option(
    "--probe",
    is_flag=True,
    help="Send a datagram to each group that is received, and see whether it arrives. Else nothing is sent.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
