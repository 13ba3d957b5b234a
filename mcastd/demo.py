"""``mcastd demo``: the daemon's own channel and subscription, on loopback, for a person to watch."""

from __future__ import annotations

import contextlib
import select
import signal
import tempfile
import time
from pathlib import Path

import click

from mcastd import clock, log
from mcastd.config import Config, diff
from mcastd.net.sockets import free_port
from mcastd.printable import printable
from mcastd.process import Signals
from mcastd.runtime import Runtime
from mcastd.supervisor import Supervisor

NEWS = Path(__file__).with_name("demo.txt")
CHANNEL, SUBSCRIPTION = "outbound/news", "inbound/news"
# Between two looks at the file.
LOOK_SECONDS = 0.05
# For the workers to start, to end, and to receive what is on its way.
WAIT_SECONDS = 5.0


def demonstrate(interval: float) -> int:
    """Send the news once, show what arrives, sum up; the exit status: 0 if all that was sent arrived."""
    log.configure("auto", "warning")
    with (
        Signals(signal.SIGINT, signal.SIGTERM) as signals,
        tempfile.TemporaryDirectory(prefix="mcastd-demo-") as directory,
    ):
        output = Path(directory, "news.log")
        config = _configuration(output, interval)
        runtime = Runtime(lambda: config)
        try:
            return _show(runtime.supervisor, config, output, signals)
        finally:
            runtime.supervisor.stop_all(WAIT_SECONDS)
            runtime.close()


def _configuration(output: Path, interval: float) -> Config:
    # ttl = 0: the kernel gives the datagrams to receivers on this host and to nobody else
    where = {"group": "239.255.1.2", "port": free_port(), "interface": "lo"}
    return Config.model_validate(
        {
            "outbound": {"news": {**where, "source": str(NEWS), "ttl": 0, "interval": interval}},
            "inbound": {"news": {**where, "output": str(output)}},
        }
    )


def _show(supervisor: Supervisor, config: Config, output: Path, signals: Signals) -> int:
    channel = config.outbound["news"]
    click.echo(f"Sending {NEWS.name} to group {channel.group} port {channel.port} on interface lo;", err=True)
    click.echo(f"receiving it into {output}, which is shown here as it grows. Ctrl-C ends it.\n", err=True)
    supervisor.apply(diff(Config(), config), config.workers(), WAIT_SECONDS)
    shown = 0
    poll = select.poll()
    poll.register(signals, select.POLLIN)
    while supervisor.view(CHANNEL).state != "finished" and not poll.poll(1000 * LOOK_SECONDS):
        if trouble := next((view for view in supervisor.views() if view.restarts > 3), None):
            click.echo(f"mcastd demo: {trouble.name}: {printable(trouble.detail)}", err=True)
            return 1
        shown = _print_from(output, shown)
    supervisor.stop(CHANNEL, WAIT_SECONDS)
    sent = supervisor.vitals()[CHANNEL].datagrams
    deadline = clock.monotonic() + WAIT_SECONDS
    while supervisor.vitals()[SUBSCRIPTION].datagrams < sent and clock.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    supervisor.stop(SUBSCRIPTION, WAIT_SECONDS)
    _print_from(output, shown)
    received = supervisor.vitals()[SUBSCRIPTION].datagrams
    click.echo(f"\nsent {sent}, received {received}, lost {sent - received}", err=True)
    return 0 if received == sent else 1


def _print_from(path: Path, offset: int) -> int:
    """Print what the file holds beyond ``offset`` bytes; its new length."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(offset)
        data = file.read()
        click.echo(data.decode(errors="replace"), nl=False)
        offset += len(data)
    return offset
