"""``mcastctl``: asks the running daemon over its control socket, and shows what it says.

Free of the daemon's libraries, so that it starts in a moment.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import click

from mcastd import __version__, codec
from mcastd.adhoc.commands import discover, groups, listen, replay, send
from mcastd.console import findings
from mcastd.console.options import json_option, probe_option, watch_option
from mcastd.console.program import Program
from mcastd.console.status import details, overview
from mcastd.control.client import ControlClient
from mcastd.control.protocol import VarlinkError
from mcastd.doctor.finding import Report
from mcastd.doctor.privilege import may_capture, same_network
from mcastd.errors import ControlError
from mcastd.names import is_meant
from mcastd.printable import printable
from mcastd.views import DaemonView, WorkerView

DEFAULT_SOCKET = Path("/run/mcastd/control")
HEALTHY = {"active", "finished", "inactive"}  # inactive: stopped by somebody, who knows
EXIT_UNHEALTHY = 3  # what systemctl status says of a unit that is not active


ENTER = "call it there, as in `nsenter -t PID -n mcastctl doctor`"  # PID: of the daemon


class Failure(click.ClickException):
    """What went wrong, on stderr; exit code 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        lines = f"mcastctl: {self.message}".split("\n")
        click.echo("\n".join(map(printable, lines)), file=file, err=True)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--socket",
    type=click.Path(path_type=Path, readable=False),  # whether it is shows, with the reason, when it is used
    default=DEFAULT_SOCKET,
    envvar="MCASTD_CONTROL_SOCKET",
    show_default=True,
    show_envvar=True,
    help="Control socket of the daemon.",
)
@click.version_option(__version__, prog_name="mcastctl")
@click.pass_context
def main(context: click.Context, socket: Path) -> None:
    """See and steer a running mcastd.

    A worker's NAME is "inbound/news"; "news" alone means each worker of that name, of any kind.
    """
    context.obj = socket


def complete_worker(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """The daemon's workers, for a shell; none if it cannot be asked."""
    with suppress(ControlError, VarlinkError):
        with ControlClient(context.find_root().params["socket"], timeout=1.0) as client:
            names = [worker.name for worker in client.workers()]
        return [name for name in names if name.startswith(incomplete)]
    return []


@main.command()
@click.argument("name", required=False, shell_complete=complete_worker)
@click.option("--json", "as_json", is_flag=True, help="Everything, for programs.")
@click.pass_context
def status(context: click.Context, name: str | None, as_json: bool) -> None:
    """Show all workers, or every detail of one.

    Exit code 3 if a worker is not as it should be: neither active, nor finished, nor stopped on request; or
    active and degraded, as one is that is stale (silent for longer than expected), or cannot write an output.
    """
    with connected(context.obj) as client:
        daemon = described(client)
        workers = list_workers(client, name)
    if as_json:
        click.echo(json.dumps(codec.as_json({"daemon": daemon, "workers": workers}), indent=2))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for line in details(workers) if name else overview(daemon, workers, width):
            click.echo(line)
    if any(worker.state not in HEALTHY or worker.troubled for worker in workers):
        context.exit(EXIT_UNHEALTHY)


def seconds(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    """An option's time span, as the configuration has it; a simple one is read without its parser."""
    if number := re.fullmatch(r"(\d+\.?\d*) *(ms|s|min|)", value):
        span = float(number[1]) * {"ms": 0.001, "min": 60.0}.get(number[2], 1.0)
    else:
        from mcastd.config.numbers import parse_duration  # noqa: PLC0415 - it loads pydantic

        try:
            span = parse_duration(value)
        except ValueError:
            span = 0.0
    if not 0.1 <= span <= 3600:
        raise click.BadParameter(f"{value!r} is no span of 0.1 seconds to an hour, such as 2s or 500ms")
    return span


@main.command()
@click.option(
    "--interval", "-i", callback=seconds, default="1s", show_default=True, help="Time between two looks."
)
@click.option("--count", "-n", type=click.IntRange(1), help="End after so many intervals; print plain lines.")
@click.option("--once", is_flag=True, help="The same as --count 1.")
@click.pass_context
def top(context: click.Context, interval: float, count: int | None, once: bool) -> None:
    """Watch the workers at work, live.

    What comes and goes, the last minute, what is lost, and who was heard last. Keys: q quits, h tells the
    others. If it isn't a terminal, or with a count, print a line for each worker every interval.
    """
    from mcastd.console import top as display  # noqa: PLC0415 - rich takes its time to load

    interactive = count is None and not once and sys.stdin.isatty() and sys.stdout.isatty()
    try:
        if interactive and os.environ.get("TERM") != "dumb":
            context.exit(display.live(context.obj, interval))
        for line in display.follow(context.obj, interval, 1 if once else count):
            click.echo(line)
    except (ControlError, VarlinkError) as error:
        raise failure(error) from error


@main.command()
@click.argument("name", required=False, shell_complete=complete_worker)
@json_option
@watch_option
@probe_option
@click.pass_context
def doctor(context: click.Context, name: str | None, as_json: bool, watch: float | None, probe: bool) -> None:
    """Say why a worker does not work: what is wrong, how that is known, and what to do.

    What takes privileges that the daemon lacks is looked at by this command, if it has them (as root).
    Exit code 2 if something is broken, 1 if there are warnings, 0 if all is well, 3 if it could not be
    examined.
    """
    try:
        report = examined(context.obj, name, 1.0 if watch is None else watch, probe)
    except Failure as failure:
        failure.show()
        context.exit(EXIT_UNHEALTHY)
    findings.show(report, as_json=as_json)
    context.exit(findings.exit_status(report))


def examined(socket: Path, name: str | None, watch: float, probe: bool) -> Report:
    """What the daemon finds, and what only we may look at."""
    with connected(socket, timeout=30 + watch) as client, connected(socket) as beside:
        daemon, pid, deeper = described(client), client.pid, None
        capable = may_capture()
        if capable and same_network(pid):
            from mcastd import log  # noqa: PLC0415 - as the next
            from mcastd.doctor.deeper import DeeperLook  # noqa: PLC0415 - needs the daemon's libraries

            log.configure("auto", "error")  # on stderr: stdout is for what is found
            config = daemon.config
            beginning = "root" if config.startswith("/") else "cwd"  # it may have a file system of its own
            path = Path(f"/proc/{pid}/{beginning}", config.lstrip("/"))
            deeper = DeeperLook(path, lambda: workers_or_error(beside), watch, probe=probe)
        told = client.call("io.mcastd.Doctor", name=name, watch=watch, probe=probe)
        report = codec.from_json(Report, told)
        if deeper:
            return deeper.complete(report)
        if not capable:
            return report
        why = f"the daemon is in another network than this command: {ENTER}"
        skipped = tuple(replace(one, reason=why) if one.privileged else one for one in report.skipped)
        return replace(report, skipped=skipped)


@main.command()
@click.pass_obj
def reload(socket: Path) -> None:
    """Read the configuration again; a bad one changes nothing, and is explained."""
    with connected(socket) as client:
        done = client.reload()
    for action, names in (("added", done.added), ("removed", done.removed), ("changed", done.changed)):
        for name in names:
            click.echo(f"{action} {printable(name)}")
    click.echo(f"{len(done.unchanged)} unchanged")
    for note in done.notes:
        click.echo(f"note: {printable(note)}")


@main.command()
@click.pass_obj
def reopen(socket: Path) -> None:
    """Close and open all output files again, after a log rotation."""
    with connected(socket) as client:
        client.call("io.mcastd.Reopen")


@main.command("start-worker")
@click.argument("name", shell_complete=complete_worker)
@click.pass_obj
def start_worker(socket: Path, name: str) -> None:
    """Start a worker that was stopped, or that waits for its next attempt."""
    call_for_each(socket, name, "starting", "io.mcastd.Start")


@main.command("stop-worker")
@click.argument("name", shell_complete=complete_worker)
@click.pass_obj
def stop_worker(socket: Path, name: str) -> None:
    """Stop a worker until it is started again.

    That is by start-worker, by a reload that finds its settings changed, or with the daemon.
    """
    call_for_each(socket, name, "stopping", "io.mcastd.Stop")


def call_for_each(socket: Path, name: str, doing: str, method: str) -> None:
    """Call ``method`` for each worker that ``name`` means, and say so."""
    with connected(socket) as client:
        for worker in list_workers(client, name):
            click.echo(f"{doing} {printable(worker.name)}")
            client.call(method, name=worker.name)


for command in (listen, send, replay, discover, groups):
    main.add_command(command)


@contextmanager
def connected(socket: Path, timeout: float = 30.0) -> Iterator[ControlClient]:
    """A client of the daemon; every error becomes a Failure."""
    try:
        with ControlClient(socket, timeout) as client:
            yield client
    except (ControlError, VarlinkError) as error:
        raise failure(error) from error


def failure(error: ControlError | VarlinkError) -> Failure:
    return Failure(explain(error) if isinstance(error, VarlinkError) else str(error))


def explain(error: VarlinkError) -> str:
    match error.name, error.parameters:
        case "io.mcastd.ConfigInvalid", {"problems": [*problems]}:
            return "\n".join(["configuration refused, the old one stays in force:", *map(str, problems)])
        case "io.mcastd.NoSuchWorker", {"name": str(name), "known": [*known]}:
            return no_such_worker(name, known)
        case "io.mcastd.Failed", {"reason": reason}:
            return str(reason)
        case _:
            return str(error)


def described(client: ControlClient) -> DaemonView:
    """Return the daemon's description. Warns on stderr if its version differs from ours."""
    daemon = client.describe()
    if daemon.version != __version__:
        version = printable(daemon.version or "unknown")
        click.echo(
            f"mcastctl: the daemon's version is {version}, this is {__version__}: what it says may be less;"
            " restart it, or use the mcastctl that came with it",
            err=True,
        )
    return daemon


def list_workers(client: ControlClient, name: str | None = None) -> list[WorkerView]:
    """The workers that ``name`` means, at least one; all of them without it."""
    workers = client.workers()
    if name is None:
        return workers
    named = [worker for worker in workers if is_meant(worker.name, name)]
    if not named:
        for disabled in client.describe().disabled:
            if is_meant(disabled, name):
                raise Failure(f"{disabled} is disabled: take enabled = false out of its table, then reload")
        raise Failure(no_such_worker(name, [worker.name for worker in workers]))
    return named


def workers_or_error(client: ControlClient) -> list[WorkerView]:
    """All workers. Raises McastdError, whatever goes wrong."""
    try:
        return client.workers()
    except VarlinkError as error:
        raise ControlError("the daemon's workers", str(error)) from error


def no_such_worker(name: str, known: Sequence[object]) -> str:
    return f"no worker {name!r} (known: {', '.join(map(str, known)) or 'none'})"
