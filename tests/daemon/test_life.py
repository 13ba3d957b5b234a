"""The daemon's promises to its user: starting, waiting, reloading, reopening, stopping, saying why."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.daemon import MCASTD, RunningDaemon
from support.host import ip
from support.meanwhile import meanwhile
from support.ports import free_port
from support.wait import wait_for

from mcastd.net.payloads import ListPayloads
from mcastd.net.sender import SocketSender

GROUP = "239.255.9.2"
PORT = 9191


def inbound(name: str, output: Path | str, port: int = PORT, interface: str = "lo") -> str:
    output = f'"{output}"' if isinstance(output, Path) else output
    where = f'group = "{GROUP}"\nport = {port}\ninterface = "{interface}"'
    return f"[inbound.{name}]\n{where}\noutput = {output}\n"


def outbound(name: str, source: Path, port: int = PORT, more: str = "") -> str:
    where = f'group = "{GROUP}"\nport = {port}\ninterface = "lo"\nttl = 0'
    return f'[outbound.{name}]\n{where}\nsource = "{source}"\n{more}\n'


def send(*payloads: bytes, port: int = PORT, interface: str = "lo") -> None:
    link = SocketSender(ip_address(GROUP), port, interface=interface)
    assert link.send(ListPayloads(payloads)) == len(payloads)
    link.close()


def test_ready_comes_when_all_have_tried_and_status_says_who_waits_for_what(tmp_path: Path) -> None:
    config = inbound("a", tmp_path / "a.log") + inbound("b", tmp_path / "b.log", interface="eth7")
    with RunningDaemon(tmp_path, config + outbound("c", tmp_path / "missing.txt")) as daemon:
        ready = daemon.wait_notified("READY")
        assert ready["STATUS"].startswith("1 of 3 workers active; ")
        assert daemon.worker("inbound/a")["state"] == "active"
        waits = daemon.wait_state("inbound/b", "auto-restart")  # between two attempts
        assert "no such interface (have: lo); waiting for it" in waits["detail"]
        assert str(tmp_path / "missing.txt") in daemon.worker("outbound/c")["detail"]
        waiting = {event["worker"] for event in daemon.wait_events("worker.waiting", 2)}
        assert waiting == {"inbound/b", "outbound/c"}
        answer = daemon.ctl("status")
        assert answer.returncode == 3
        assert "eth7" in answer.stdout


def test_a_worker_starts_by_itself_when_the_cause_goes_away(tmp_path: Path) -> None:
    source, output = tmp_path / "late.txt", tmp_path / "late.log"
    config = inbound("news", output, interface="late0") + outbound("news", source)
    with RunningDaemon(tmp_path, config) as daemon, contextlib.ExitStack() as stack:
        daemon.wait_state("inbound/news", "auto-restart")
        ip("link add late0 type veth peer name late1")
        stack.callback(ip, "link del late0")
        ip("addr add 10.8.0.1/24 dev late0")
        ip("link set late0 up")
        daemon.wait_state("inbound/news", "active")
        whole = tmp_path / "late.new"
        whole.write_text("late, but there\n")
        whole.rename(source)  # at once: an empty file would be another thing to wait for
        daemon.wait_state("outbound/news", "finished")
        send(b"hello\n", interface="late0")
        wait_for(lambda: output.exists() and output.read_bytes() == b"hello\n")
        assert len(daemon.wait_events("worker.waiting", 2)) == 2  # once for each, however many attempts


def test_a_reload_returns_when_changed_workers_have_their_change_or_say_why_not(tmp_path: Path) -> None:
    source = tmp_path / "news.txt"
    source.write_text("news\n")
    more = 'interval = "{}ms"\nrepeat = "forever"\n'
    config = inbound("a", tmp_path / "a.log") + outbound("c", source, more=more.format(3000))
    with RunningDaemon(tmp_path, config) as daemon:
        for round_, (output, interval) in enumerate((("b.log", 2500), ("c.log", 2000), ("d.log", 1500)), 1):
            made = tmp_path / output
            daemon.write(inbound("a", made) + outbound("c", source, more=more.format(interval)))
            answer = daemon.ctl("reload").stdout
            assert answer == "changed outbound/c\nchanged inbound/a\n0 unchanged\n", round_
            assert made.exists(), "the reload has returned before the change was taken over"
        daemon.write(inbound("a", made, interface="eth7"))
        lines = daemon.ctl("reload").stdout.splitlines()
        (note,) = (line for line in lines if line.startswith("note: inbound/a"))
        # It is waited for a second at most, which may be too short on a loaded machine
        assert "no such interface (have: lo)" in note or note.endswith(" has not taken its change over yet")
        wait_for(lambda: "no such interface" in daemon.worker("inbound/a")["detail"], "the worker's word")
        daemon.write(inbound("a", made))  # one that waits tries again at once with what it is given
        assert daemon.ctl("reload").stdout.startswith("changed inbound/a\n0 unchanged\n")
        wait_for(lambda: daemon.worker("inbound/a")["state"] == "active", "the worker")


def test_a_reload_says_which_of_the_new_workers_are_in_trouble(tmp_path: Path) -> None:
    first = inbound("a", tmp_path / "a.log")
    with RunningDaemon(tmp_path, first) as daemon:
        more = inbound("well", tmp_path / "w.log", port=9301)
        daemon.write(first + more + inbound("b", tmp_path / "b.log", interface="eth7", port=9302))
        answer = daemon.ctl("reload").stdout
        assert [line for line in answer.splitlines() if line.startswith("note: ")] == [
            f"note: inbound/b: cannot use {GROUP} on eth7: no such interface (have: lo); waiting for it"
        ]


def test_a_drop_in_switches_a_worker_off_and_on_again(tmp_path: Path) -> None:
    first, second = tmp_path / "a.log", tmp_path / "b.log"
    drop_in = tmp_path / "mcastd.toml.d" / "local.toml"
    drop_in.parent.mkdir()
    drop_in.write_text("[inbound.b]\nenabled = false\n")
    with RunningDaemon(tmp_path, inbound("a", first) + inbound("b", second)) as daemon:
        assert list(daemon.workers()) == ["inbound/a"]
        assert "inbound/b  disabled" in daemon.ctl("status").stdout
        drop_in.write_text("[inbound.a]\nenabled = false\n")
        assert daemon.ctl("reload").stdout == "added inbound/b\nremoved inbound/a\n0 unchanged\n"
        assert list(daemon.workers()) == ["inbound/b"]
        daemon.wait_state("inbound/b", "active")
        send(b"to b alone\n")
        wait_for(lambda: second.read_bytes() == b"to b alone\n")
        assert first.read_bytes() == b""
        drop_in.unlink()
        assert daemon.ctl("reload").stdout == "added inbound/a\n1 unchanged\n"
        assert daemon.wait_state("inbound/a", "active")
        assert "disabled" not in daemon.ctl("status").stdout


def test_a_bad_reload_changes_nothing_and_tells_the_caller(tmp_path: Path) -> None:
    output = tmp_path / "a.log"
    with RunningDaemon(tmp_path, inbound("a", output)) as daemon:
        good = daemon.config.read_text()
        daemon.write(inbound("a", output, port=70000) + '[outbound.b]\nsource = "b"\n')
        answer = daemon.ctl("reload")
        assert answer.returncode == 1
        assert "inbound.a.port: " in answer.stderr
        assert "outbound.b.group: " in answer.stderr
        assert f"{daemon.config}:" in answer.stderr
        daemon.send(signal.SIGHUP)
        daemon.wait_notified("RELOADING", count=2)
        wait_for(lambda: len(daemon.events("config.refused")) >= 6)
        assert daemon.worker("inbound/a")["state"] == "active"
        send(b"still here")
        wait_for(lambda: output.read_bytes() == b"still here")
        daemon.write(good)
        assert daemon.ctl("reload").returncode == 0


def test_sighup_reloads_and_notifies_systemd_as_notify_reload_wants_it(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, inbound("a", tmp_path / "a.log")) as daemon:
        daemon.write(inbound("a", tmp_path / "a.log") + inbound("b", tmp_path / "b.log"))
        before = time.monotonic_ns() // 1000
        daemon.send(signal.SIGHUP)
        reloading = daemon.wait_notified("RELOADING")
        assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        daemon.wait_notified("READY", count=2)
        assert daemon.worker("inbound/b")["state"] == "active"


@contextlib.contextmanager
def under_load(
    directory: Path, config: str
) -> Iterator[tuple[RunningDaemon, list[bytes], Callable[[], None]]]:
    """A daemon that is sent numbers all the time, these, and what ends that."""
    sent: list[bytes] = []

    def load() -> None:
        batch = [b"%08d\n" % (len(sent) + n) for n in range(5)]
        assert link.send(ListPayloads(batch)) == len(batch)
        sent.extend(batch)

    with RunningDaemon(directory, config) as daemon, contextlib.ExitStack() as stack:
        sender = SocketSender(ip_address(GROUP), PORT, interface="lo", ttl=0)
        link = stack.enter_context(contextlib.closing(sender))
        stack.enter_context(meanwhile(load, 0.002, "load"))  # a buffer holds some seconds of it
        yield daemon, sent, stack.close


def test_an_unchanged_subscription_under_load_loses_nothing_across_20_reloads(tmp_path: Path) -> None:
    kept = tmp_path / "kept.log"
    with under_load(tmp_path, inbound("kept", kept)) as (daemon, sent, stop):
        try:
            for round_ in range(20):
                other = inbound("other", tmp_path / f"other{round_ % 3}.log", port=PORT + round_ % 2)
                daemon.write(inbound("kept", kept) + (other if round_ % 4 else ""))
                answer = daemon.ctl("reload")
                assert answer.returncode == 0, answer.stderr
        finally:
            stop()
        assert len(daemon.wait_events("config.reloaded", 20)) == 20
        wait_for(lambda: kept.stat().st_size >= 9 * len(sent))
        assert kept.read_bytes() == b"".join(sent)
        worker = daemon.worker("inbound/kept")
        assert worker["restarts"] == 0
        counters = worker["status"]["counters"]
        assert (counters["received"], counters["overflow"]) == (len(sent), 0)
        assert len(daemon.wait_events("worker.activated", worker="inbound/kept")) == 1


def test_a_subscription_that_changes_under_load_loses_nothing_that_it_need_not(tmp_path: Path) -> None:
    """Outputs, formats, buffer, interface: all without leaving the group."""
    kept = tmp_path / "kept.log"
    variants = [
        f"output = '{kept}'",
        f"output = ['{kept}', '{tmp_path / 'more.log'}']",
        f"output = [{{ kind = 'file', path = '{tmp_path / 'more.log'}', format = 'json' }}, '{kept}']",
        f"output = '{kept}'\nreceive_buffer = '8MiB'",
        f"output = '{kept}'\nmax_latency = 0\nexpect_every = 9",
        f"output = '{kept}'\ninterface = '127.0.0.1'",
    ]

    def config(n: int) -> str:
        variant = variants[n % len(variants)]
        interface = "" if "interface" in variant else 'interface = "lo"\n'
        return f'[inbound.kept]\ngroup = "{GROUP}"\nport = {PORT}\n{interface}{variant}\n'

    with under_load(tmp_path, config(0)) as (daemon, sent, stop):
        try:
            for n in range(1, 20):
                daemon.write(config(n))
                answer = daemon.ctl("reload")
                assert answer.returncode == 0, answer.stderr
        finally:
            stop()
        wait_for(lambda: kept.stat().st_size >= 9 * len(sent))
        assert kept.read_bytes() == b"".join(sent)
        counters = daemon.worker("inbound/kept")["status"]["counters"]
        assert (counters["received"], counters["overflow"]) == (len(sent), 0)
        assert len(daemon.wait_events("worker.activated")) == 1


@pytest.mark.parametrize("how", ["SIGUSR1", "mcastctl"])
def test_reopen_after_a_rotation_by_others(tmp_path: Path, how: str) -> None:
    output = tmp_path / "a.log"
    with RunningDaemon(tmp_path, inbound("a", output)) as daemon:
        send(b"before\n")
        wait_for(lambda: output.exists() and output.read_bytes() == b"before\n")
        output.rename(tmp_path / "a.log.1")
        if how == "SIGUSR1":
            daemon.send(signal.SIGUSR1)
        else:
            assert daemon.ctl("reopen").returncode == 0
        wait_for(output.exists)
        send(b"after\n")
        wait_for(lambda: output.read_bytes() == b"after\n")
        assert (tmp_path / "a.log.1").read_bytes() == b"before\n"


def test_sigterm_ends_it_cleanly_whatever_the_workers_wait_for(tmp_path: Path) -> None:
    news = tmp_path / "news.txt"
    news.write_text("news\n" * 1000)
    os.mkfifo(tmp_path / "source.pipe")
    os.mkfifo(tmp_path / "full.pipe")
    reader = os.open(tmp_path / "full.pipe", os.O_RDONLY | os.O_NONBLOCK)  # which never reads
    fifo = '{{ kind = "fifo", path = "{}", when_full = "block" }}'
    config = [
        outbound("missing", tmp_path / "missing.txt"),
        outbound("stopped", news, port=PORT + 1, more="rate = 0"),
        outbound("fast", news, port=PORT + 2, more='interval = 0\nrepeat = "forever"'),
        outbound("slow", news, port=PORT + 1, more='interval = "1h"\nrepeat = "forever"'),
        outbound("pipe", tmp_path / "source.pipe", port=PORT + 1),
        inbound("unread", fifo.format(tmp_path / "unread.pipe"), port=PORT + 2),
        inbound("full", fifo.format(tmp_path / "full.pipe"), port=PORT + 2),
        inbound("nowhere", tmp_path / "nowhere.log", interface="eth7"),
    ]
    with RunningDaemon(tmp_path, "\n".join(config)) as daemon:
        wait_for(lambda: daemon.worker("inbound/unread")["status"]["counters"]["received"] > 1000)
        assert daemon.stop() == 0
        (stopped,) = daemon.events("daemon.stopped")
        assert stopped["clean"] is True
        wait_for(lambda: any("STOPPING" in message for message in daemon.messages), "what was notified")
        assert not daemon.events("worker.abandoned")
        assert not daemon.events("worker.crashed")
    assert not daemon.socket.exists()
    os.close(reader)


def test_a_second_daemon_on_the_same_socket_is_refused_by_name(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, inbound("a", tmp_path / "a.log")) as daemon:
        second = subprocess.run(
            [*MCASTD, "run", "--config", str(daemon.config)],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert second.returncode == 1
        assert f"in use by mcastd (pid {daemon.process.pid})" in second.stderr
        assert "Traceback" not in second.stderr
        assert daemon.worker("inbound/a")["state"] == "active"


def test_stop_worker_and_start_worker(tmp_path: Path) -> None:
    output = tmp_path / "a.log"
    with RunningDaemon(tmp_path, inbound("a", output)) as daemon:
        assert daemon.ctl("stop-worker", "inbound/a").returncode == 0
        assert daemon.worker("inbound/a")["state"] == "inactive"
        assert daemon.ctl("status").returncode == 0  # as the user wants it
        assert daemon.ctl("start-worker", "a").returncode == 0
        daemon.wait_state("inbound/a", "active")
        send(b"on again")
        wait_for(lambda: output.exists() and output.read_bytes() == b"on again")
        unknown = daemon.ctl("stop-worker", "nobody")
        assert unknown.returncode == 1
        assert "nobody" in unknown.stderr
        assert "inbound/a" in unknown.stderr


def test_the_watchdog_is_fed_while_heartbeats_are_fresh(tmp_path: Path) -> None:
    with RunningDaemon(tmp_path, inbound("a", tmp_path / "a.log"), WATCHDOG_USEC="100000") as daemon:
        daemon.wait_notified("WATCHDOG", count=3)


def test_what_is_unwise_is_logged_at_the_start_and_by_a_reload(tmp_path: Path) -> None:
    def config(ttl: int) -> str:
        return outbound("a", tmp_path / "missing.txt").replace("ttl = 0", f"ttl = {ttl}")

    with RunningDaemon(tmp_path, config(255)) as daemon:
        (said,) = daemon.wait_events("config.advised")
        assert said["level"] == "warning"
        assert "outbound.a.ttl: warning: 255 is" in said["warning"]
        daemon.write(config(200))
        assert daemon.ctl("reload").returncode == 0
        assert "outbound.a.ttl: warning: 200 is" in daemon.wait_events("config.advised", 2)[1]["warning"]
        daemon.write(config(1))
        assert daemon.ctl("reload").returncode == 0
        assert len(daemon.events("config.advised")) == 2


def test_metrics_are_served(tmp_path: Path) -> None:
    output = tmp_path / "a.log"
    port = free_port()
    config = f'[daemon]\ncontrol_socket = "{tmp_path}/control"\nmetrics = "127.0.0.1:{port}"\n'
    with RunningDaemon(tmp_path, config + inbound("a", output)):
        send(b"one", b"two")
        wait_for(lambda: output.exists() and output.read_bytes() == b"onetwo")
        labels = f'worker="inbound/a",group="{GROUP}",interface="lo"'

        def scrape() -> str:
            text: bytes = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read()
            return text.decode()

        written = f'mcastd_written_datagrams_total{{{labels},output="{output}"}} 2\n'
        wait_for(lambda: written in scrape(), "the account")  # which is made after it was written
        text = scrape()
        assert f"mcastd_received_datagrams_total{{{labels}}} 2\n" in text
        assert f'mcastd_worker_state{{{labels},state="active"}} 1\n' in text


def test_an_address_for_metrics_that_is_taken_is_said_until_a_reload_gives_another(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        config = f'[daemon]\ncontrol_socket = "{tmp_path}/control"\nmetrics = "{address}"\n'
        with RunningDaemon(tmp_path, config + inbound("a", tmp_path / "a.log")) as daemon:
            problem = f"no metrics at {address}: address already in use; trying again"
            assert daemon.wait_notified("READY")["STATUS"] == f"1 of 1 workers active; {problem}"
            assert problem in daemon.ctl("status").stdout
            doctor = daemon.ctl("doctor", "--json")
            findings = json.loads(doctor.stdout)["findings"]
            assert [one["what"] for one in findings if one["severity"] != "hint"] == [problem]
            assert doctor.returncode == 1
            better = f"127.0.0.1:{free_port()}"
            daemon.write(daemon.config.read_text().replace(address, better))
            assert daemon.ctl("reload").stdout == "1 unchanged\nnote: changed daemon.metrics\n"
            assert urllib.request.urlopen(f"http://{better}/metrics", timeout=60).status == 200
            assert daemon.ctl("doctor").returncode == 0
            assert daemon.stop() == 0


def test_the_journal_format_has_priorities_and_one_line_an_event(tmp_path: Path) -> None:
    config = f'[daemon]\nlog_format = "journal"\ncontrol_socket = "{tmp_path}/control"\n'
    with RunningDaemon(tmp_path, config + outbound("a", tmp_path / "missing.txt")) as daemon:
        wait_for(lambda: "worker.waiting" in daemon.log.read_text())
        lines = daemon.log.read_text().splitlines()
        assert all(line[:3] in ("<6>", "<4>", "<3>", "<7>") for line in lines)
        (waiting,) = [line for line in lines if "worker.waiting" in line]
        assert waiting.startswith("<4>worker.waiting ")
        assert "worker=outbound/a" in waiting
