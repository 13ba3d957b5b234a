"""The ``mcastd`` command: run, check, demo, doctor, keygen. Arguments in, exit codes out."""

from __future__ import annotations

import gc
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click
from click.core import ParameterSource

from mcastd import __version__
from mcastd.console import findings
from mcastd.console.options import json_option, probe_option, seconds, watch_option
from mcastd.console.program import Program
from mcastd.console.text import plural
from mcastd.errors import ConfigError, ConfigProblem, McastdError, reason_of
from mcastd.names import table_of
from mcastd.printable import printable

EX_CONFIG = 78  # sysexits.h: something is wrong in the configuration; systemd does not restart for it
DEFAULT_CONFIG = Path("/etc/mcastd.toml")


class PathName(click.Path):
    """A path that is not looked at yet: its disk may hang, and whether it is there shows when it is used."""

    def convert(
        self, value: str | os.PathLike[str], _param: click.Parameter | None, _context: click.Context | None
    ) -> Path:
        return Path(value)


config_option = click.option(
    "--config",
    "path",
    type=PathName(),
    default=DEFAULT_CONFIG,
    show_default=True,
    metavar="PATH",
    help="The configuration; files in PATH.d/*.toml are merged into it in name order.",
)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """The daemon for IP multicast: sends channels, receives subscriptions, says why when it does not work."""


@main.command(short_help="Run the daemon in the foreground.")
@config_option
@click.option(
    "--socket",
    type=PathName(),
    envvar="MCASTD_CONTROL_SOCKET",
    show_envvar=True,
    metavar="PATH",
    help="The control socket, unless the configuration names one.",
)
def run(path: Path, socket: Path | None) -> None:
    """Run the daemon in the foreground; log on stderr.

    SIGHUP reloads the configuration, SIGUSR1 reopens output files, SIGTERM stops. Exit status: 0 after a
    clean stop, 78 if the configuration is refused, 1 for any other failure.
    """
    gc.disable()  # until process.settle(): all that is imported and read now is there to stay
    from mcastd import daemon, log, process  # noqa: PLC0415 - not for `mcastd --help`
    from mcastd.ondisk import OnDisk  # noqa: PLC0415

    log.configure("auto", "warning")  # until the configuration says otherwise
    disk = OnDisk(path)
    try:
        config, warnings = disk.read(seconds=None)
        log.configure(config.daemon.log_format, config.daemon.log_level)
        process.prepare_process()
        log.write_in_background()
        status = daemon.Daemon(disk, config, socket, warnings).run()
    except ConfigError as error:
        _refuse(error)
    except McastdError as error:
        sys.exit(f"mcastd: {printable(error)}")
    except OSError as error:
        sys.exit(f"mcastd: cannot start: {reason_of(error)}")
    log.flush()
    os._exit(status)  # no thread that hangs is waited for


@main.command(short_help="Check the configuration, or print the effective one.")
@config_option
@click.option("--dump", is_flag=True, help="Print the effective configuration as TOML, defaults included.")
@click.option("--strict", is_flag=True, help="Take warnings for problems: exit with 78 if there are any.")
@click.option("--json", "as_json", is_flag=True, help="Problems and warnings as JSON, on standard output.")
@click.argument("file", required=False, type=click.Path(path_type=Path, readable=False, allow_dash=True))
def check(path: Path, dump: bool, strict: bool, as_json: bool, file: Path | None) -> None:
    """Check the configuration and print every problem as FILE:LINE: KEY: REASON.

    FILE is the same as --config FILE; - is standard input, which has no drop-ins.
    What is legal but unwise is printed in the same way, with "warning:" before the reason. Exit status: 0 if
    it is good, 78 if not. The host is not looked at: whether an interface exists is found out when the
    daemon runs.
    """
    from mcastd import config, log  # noqa: PLC0415

    log.configure("auto", "warning")  # on stderr: stdout is for the dump
    if file is not None:
        if click.get_current_context().get_parameter_source("path") is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"two files, {printable(path)} by --config and {printable(file)}: name one"
            )
        path = file
    try:
        loaded, warnings = config.examine(path)
    except ConfigError as error:
        if as_json:
            click.echo(_as_json(error.problems, ()))
            sys.exit(EX_CONFIG)
        _refuse(error)
    if as_json:
        click.echo(_as_json((), warnings))
        sys.exit(EX_CONFIG if warnings and strict else 0)
    for warning in warnings:
        click.echo(printable(warning), err=True)
    if dump:
        click.echo(config.dump(loaded), nl=False)
    else:
        counts = dict.fromkeys(("outbound", "inbound"), 0)
        for name in loaded.workers():
            kind = table_of(name)
            counts[kind] = counts.get(kind, 0) + 1
        if disabled := loaded.disabled():
            counts["disabled"] = len(disabled)
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        unwise = f", {plural(len(warnings), 'warning')}" if warnings else ""
        click.echo(f"{printable(path)}: good ({told}){unwise}")
    if warnings and strict:
        sys.exit(EX_CONFIG)


@main.command(short_help="Show news flowing over the loopback interface.")
@click.option(
    "--interval",
    callback=seconds,
    default="0.25",
    show_default=True,
    metavar="SPAN",
    help="Time between datagrams, like 0.25 or 250ms.",
)
def demo(interval: float) -> None:
    """Show news flowing: a channel and a subscription on the loopback interface.

    Needs no root, no configuration and no multicast route, and nothing leaves this host. Exit status: 0 if
    all that was sent arrived.
    """
    from mcastd.demo import demonstrate  # noqa: PLC0415

    sys.exit(demonstrate(interval))


@main.command(short_help="Say why a worker does not work, without a daemon.")
@config_option
@json_option
@watch_option
@probe_option
@click.argument("name", required=False)
def doctor(path: Path, as_json: bool, watch: float | None, probe: bool, name: str | None) -> None:
    """Say why what is configured does not work, with no daemon running.

    The sockets of channels and subscriptions are opened as the daemon would open them, by the user who calls
    this; what only a daemon tries is listed as not looked at. With one that runs, `mcastctl doctor` knows
    more. Exit status: 2 if something is broken, 1 if there are warnings, 0 if all is well, 78 if the
    configuration is refused.
    """
    from mcastd import log, makers  # noqa: PLC0415 - not for `mcastd --help`
    from mcastd.config import load  # noqa: PLC0415
    from mcastd.doctor.examine import consult  # noqa: PLC0415
    from mcastd.doctor.subject import named  # noqa: PLC0415
    from mcastd.doctor.trial import Trial  # noqa: PLC0415

    log.configure("auto", "error")
    try:
        workers = load(path).workers()
    except ConfigError as error:
        _refuse(error)
    if not (of := named(name, workers)):
        raise click.BadParameter(f"no worker {name!r} (known: {', '.join(workers)})", param_hint="NAME")
    with Trial(workers, makers.open_sender, makers.open_receiver) as trial:
        report = consult(trial.subjects, of, seconds=1.0 if watch is None else watch, probe=probe)
    findings.show(report, as_json=as_json)
    sys.exit(findings.exit_status(report))


@main.command(short_help="Make a key file.")
@click.option("--sign", is_flag=True, help="Make a signing pair: FILE, and FILE.pub for those that verify.")
@click.argument("file", type=PathName())
def keygen(sign: bool, file: Path) -> None:
    """Make a key in a new FILE that its owner alone may read.

    It is the key of a group, which seals the files that are sent to it, or of a link, which both ends have;
    or with --sign the pair by which a sender signs the files that it sends. What is in FILE already is never
    overwritten. Exit status: 0 if it is made, 1 if not.
    """
    from mcastd.delivery import keys  # noqa: PLC0415

    quoted = shlex.quote(str(file.absolute()))
    try:
        if sign:
            public = keys.make_signing_pair(file)
            told: tuple[str, ...] = (
                f"made {quoted}, which signs: it stays on the host that sends, as sign_key",
                f"made {quoted}{keys.PUBLIC_SUFFIX}, which verifies: everybody may have it; it goes into",
                f"verify_keys by its path, or as this text: {public.text}",
            )
        else:
            key = keys.make_group_key(file)
            told = (
                f"made {quoted}, a group key (id {key.id.hex()}), for a group or for a link",
                "Who has it reads what it seals: copy it, by a way that nobody else reads, as scp,",
                "- for files to a group, to each host of it: the sender names it as key, receivers in keys;",
                "- for a link, to the other end: both name it as key in their [link.NAME].",
            )
    except McastdError as error:
        sys.exit(f"mcastd: {printable(error)}")
    click.echo("\n".join(told))
    if os.geteuid() == 0:
        click.echo(f"The user that the daemon runs as has to own it: chown mcastd {quoted}")


def _as_json(problems: Sequence[ConfigProblem], warnings: Sequence[ConfigProblem]) -> str:
    """Line 0 means the file as a whole, an empty key no key in particular."""

    def told(found: Sequence[ConfigProblem]) -> list[dict[str, object]]:
        return [{"file": one.file, "line": one.line, "key": one.path, "reason": one.reason} for one in found]

    return json.dumps(
        {"good": not problems, "problems": told(problems), "warnings": told(warnings)}, indent=2
    )


def _refuse(error: ConfigError) -> NoReturn:
    for problem in error.problems:
        click.echo(printable(problem), err=True)
    sys.exit(EX_CONFIG)
