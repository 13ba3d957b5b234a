"""`systemctl reload`: whole or not at all, and no loss for what did not change."""

from __future__ import annotations

import pytest
from support.machine import Feed, Machine
from support.wait import wait_for

OTHER = """
[inbound.other]
group = "239.255.9.9"
port = 9999
interface = "lo"
output = "/var/log/mcastd/other.log"
"""


def add_other(machine: Machine) -> Feed:
    """A subscription beside the one that comes, that receives all the time."""
    config = machine.path("/etc/mcastd.toml")
    config.write_text(config.read_text() + OTHER)
    machine.run("systemctl", "reload", "mcastd")
    assert machine.workers()["inbound/other"]["state"] == "active"
    return Feed(machine, "239.255.9.9", 9999)


def wait_received(machine: Machine, more: int = 100) -> None:
    log = machine.path("/var/log/mcastd/other.log")
    before = log.stat().st_size
    wait_for(lambda: log.stat().st_size > before + more, "more of the feed")


def all_received(machine: Machine, feed: Feed) -> None:
    sent = feed.stop()
    log = machine.path("/var/log/mcastd/other.log")
    wait_for(lambda: log.read_bytes().count(b"\n") >= sent, "the end of the feed")
    assert log.read_text().split() == list(map(str, range(sent)))


@pytest.mark.everywhere
def test_what_changed_is_new_and_the_rest_loses_nothing(machine: Machine) -> None:
    feed = add_other(machine)
    wait_received(machine)
    before = machine.workers()["inbound/other"]
    machine.run("sed", "-i", "s/^port = 9190/port = 9290/", "/etc/mcastd.toml")
    machine.run("systemctl", "reload", "mcastd")
    after = machine.workers()  # at once: the reload has ended
    assert after["inbound/news"]["status"]["port"] == 9290
    assert after["outbound/news"]["status"]["port"] == 9290
    assert after["inbound/other"]["since"] > before["since"]
    wait_received(machine)
    all_received(machine, feed)
    wait_for(lambda: machine.wait_worker("inbound/news")["status"]["counters"]["received"])


@pytest.mark.everywhere
def test_a_bad_edit_fails_with_the_line_and_changes_nothing(machine: Machine) -> None:
    feed = add_other(machine)
    pid = machine.main_pid()
    before = machine.workers()
    machine.run("sed", "-i", "s/^ttl = 0/ttl = 900/; s/^port = 9190/port = 9290/", "/etc/mcastd.toml")
    line = machine.shell("grep -n '^ttl = 900' /etc/mcastd.toml").partition(":")[0]
    reason = f"/etc/mcastd.toml:{line}: outbound.news.ttl: must be a whole number from 0 to 255, not 900"
    result = machine.run("systemctl", "reload", "mcastd", check=False)
    assert result.returncode == 1
    assert "failed" in result.stderr
    assert reason in machine.run("systemctl", "status", "--full", "--lines=20", "mcastd").stdout
    assert reason in machine.messages()
    assert machine.main_pid() == pid
    after = machine.workers()
    assert after.keys() == before.keys()
    assert all(after[name]["since"] > before[name]["since"] for name in after)
    assert after["inbound/news"]["status"]["port"] == 9190
    wait_received(machine)
    all_received(machine, feed)
    machine.run("sed", "-i", "s/^ttl = 900/ttl = 0/", "/etc/mcastd.toml")
    machine.run("systemctl", "reload", "mcastd")
    assert machine.workers()["inbound/news"]["status"]["port"] == 9290


@pytest.mark.parametrize("flavour", ["trixie-deb", "bookworm-bundled"], indirect=True)
def test_each_of_many_reloads_tells_the_truth(machine: Machine) -> None:
    """There are two ways to it at once where systemd knows notify-reload; neither outruns the other."""
    for turn in range(5):
        good = 9300 + turn
        machine.run("sed", "-i", f"s/^port = .*/port = {good}/", "/etc/mcastd.toml")
        machine.run("systemctl", "reload", "mcastd")
        assert machine.workers()["inbound/news"]["status"]["port"] == good
        machine.run("sed", "-i", "s/^port = .*/port = 0/", "/etc/mcastd.toml")
        assert machine.run("systemctl", "reload", "mcastd", check=False).returncode == 1
        assert machine.workers()["inbound/news"]["status"]["port"] == good
    assert machine.show("ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
