"""Files and pipes where the service may write, and what it may read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.machine import Feed, Machine, shown_drop_in
from support.wait import wait_for

from .conftest import Boot

PROJECT = Path(__file__).parents[2]
OPERATION = PROJECT / "docs" / "OPERATION.md"

NUMBERS = """
[inbound.numbers]
group = "239.255.9.9"
port = 9999
interface = "lo"
output = {output}
"""
LOG = "/var/log/mcastd/numbers.log"


def numbers(output: str) -> str:
    return NUMBERS.format(output=output)


def wait_growing(machine: Machine, path: str) -> None:
    wait_for(lambda: machine.path(path).exists() and machine.path(path).stat().st_size > 100, path)


@pytest.mark.everywhere
def test_logrotate_loses_nothing(boot: Boot) -> None:
    machine = boot(numbers(f'"{LOG}"'))
    feed = Feed(machine, "239.255.9.9", 9999)
    wait_growing(machine, LOG)
    machine.run("logrotate", "-f", "/etc/logrotate.conf")
    wait_growing(machine, LOG)
    sent = feed.stop()
    wait_for(lambda: machine.path(LOG).read_text().split()[-1] == str(sent - 1), "the last number")
    listed = machine.shell(f"stat -c '%n %U:%G %a' {LOG}*").splitlines()
    assert len(listed) == 2
    assert listed[0] == f"{LOG} mcastd:mcastd 640"
    assert re.fullmatch(rf"{LOG}-\d{{8}}-\d+ mcastd:mcastd 640", listed[1])
    rotated = machine.path(listed[1].split()[0]).read_text()
    assert (rotated + machine.path(LOG).read_text()).split() == list(map(str, range(sent)))


@pytest.mark.everywhere
def test_a_pipe_is_read_by_the_group_and_by_nobody_else(boot: Boot) -> None:
    machine = boot(numbers('{ kind = "fifo", path = "/run/mcastd/numbers.pipe" }'))
    machine.shell("useradd --groups mcastd reader; useradd stranger")
    feed = Feed(machine, "239.255.9.9", 9999)
    read = machine.run("timeout", "30", "head", "-n", "50", "/run/mcastd/numbers.pipe", user="reader").stdout
    lines = list(map(int, read.split()))
    assert lines == list(range(lines[0], lines[0] + 50))
    refused = machine.run("timeout", "5", "cat", "/run/mcastd/numbers.pipe", user="stranger", check=False)
    assert refused.returncode == 1
    assert "Permission denied" in refused.stderr
    assert feed.stop() >= 50


@pytest.mark.everywhere
def test_a_pipe_and_its_reader_outlive_a_restart(boot: Boot) -> None:
    """The reader sees a gap, not an end: that comes when the daemon is stopped."""
    machine = boot(numbers('{ kind = "fifo", path = "/run/mcastd/numbers.pipe", format = "lines" }'))
    pipe = machine.path("/run/mcastd/numbers.pipe")
    inode = pipe.stat().st_ino
    machine.shell("cat /run/mcastd/numbers.pipe >/read 2>&1 & echo $! >/reader")
    reader, read = machine.path("/reader").read_text().strip(), machine.path("/read")
    feed = Feed(machine, "239.255.9.9", 9999)
    wait_growing(machine, "/read")
    for end in ("systemctl restart mcastd", "systemctl kill --kill-whom=main --signal=KILL mcastd"):
        pid = machine.main_pid()
        machine.shell(end)
        wait_for(lambda: machine.main_pid() not in (0, pid), "the next daemon")  # noqa: B023
        before = read.stat().st_size
        wait_for(lambda: read.stat().st_size > before, "what it writes")  # noqa: B023
        assert machine.path(f"/proc/{reader}").exists()
    feed.stop()
    machine.run("systemctl", "stop", "mcastd")
    wait_for(lambda: not machine.path(f"/proc/{reader}").exists(), "the end of file")
    lines = list(map(int, read.read_text().split()))
    assert lines == sorted(set(lines))
    machine.run("systemctl", "start", "mcastd")
    assert pipe.stat().st_ino == inode


def test_logrotate_leaves_alone_what_rotates_itself(boot: Boot) -> None:
    output = '{ kind = "file", path = "/var/log/mcastd/numbers.rec", rotate_size = "1MB" }'
    machine = boot(numbers(output))
    feed = Feed(machine, "239.255.9.9", 9999)
    wait_growing(machine, "/var/log/mcastd/numbers.rec")
    machine.run("logrotate", "-f", "/etc/logrotate.conf")
    feed.stop()
    assert machine.shell("ls /var/log/mcastd").split() == ["numbers.rec"]


def test_a_full_disk_is_survived(boot: Boot) -> None:
    machine = boot(numbers(f'{{ kind = "file", path = "{LOG}", format = "lines" }}'))
    machine.run("systemctl", "stop", "mcastd")
    machine.shell("""
        mount -t tmpfs -o size=64k,mode=750,uid=$(id -u mcastd),gid=$(id -g mcastd) tmpfs /var/log/mcastd
        systemctl start mcastd
    """)
    pid = machine.main_pid()
    feed = Feed(machine, "239.255.9.9", 9999, length=1000)

    def counters() -> dict[str, int]:
        (output,) = machine.workers()["inbound/numbers"]["status"]["outputs"]
        return {**output["counters"], "dropped": sum(output["counters"]["dropped"].values())}

    wait_for(lambda: counters()["dropped"] > 100, "the disk full")
    full = counters()["written"]
    assert "no space left on device" in machine.messages()
    machine.run("mount", "-o", "remount,size=64m", "/var/log/mcastd")
    wait_for(lambda: counters()["written"] > full + 100, "written again")
    assert machine.show("MainPID", "NRestarts") == {"MainPID": str(pid), "NRestarts": "0"}
    sent = feed.stop()
    wait_for(lambda: sum((counters()["written"], counters()["dropped"])) == sent, "all accounted for")
    lines = machine.path(LOG).read_text().splitlines()
    assert len(lines) == counters()["written"]
    assert all(re.fullmatch(r"\d+ {1000}", line) for line in lines), "no torn line"


CHANNEL = """
[outbound.{name}]
source = "{source}"
group = "239.255.9.9"
port = 9999
interface = "lo"
ttl = 0
interval = 0
"""


def test_sources_may_lie_where_files_for_services_lie(machine: Machine) -> None:
    sources = [f"/{place}/news/to-send.txt" for place in ("srv", "usr/share", "var/lib")]
    for source in sources:
        machine.shell(f"mkdir -p {Path(source).parent}; echo news >{source}")
    text = "".join(CHANNEL.format(name=f"c{n}", source=source) for n, source in enumerate(sources))
    machine.path("/etc/mcastd.toml").write_text(text)
    machine.run("systemctl", "reload", "mcastd")
    for number in range(len(sources)):
        assert machine.wait_worker(f"outbound/c{number}", "finished")["status"]["counters"]["sent"] == 1


@pytest.mark.everywhere
def test_the_drop_in_that_is_shown_allows_another_directory(boot: Boot) -> None:
    """Step by step, and the daemon runs before the directory is there."""
    machine = boot(numbers('"/srv/recordings/numbers.log"'))
    block = re.search(r"`(install -d [^`]+)`(?:.|\n)*?```ini\n((?: +.*\n)+?) +```", OPERATION.read_text())
    assert block
    machine.set_drop_in(block[2])
    machine.wait_active()
    worker = machine.wait_worker("inbound/numbers", "active")
    assert "/srv/recordings" in worker["detail"]
    assert machine.run("mcastctl", "status", check=False).returncode == 3
    machine.shell(f"{block[1]}; systemctl restart mcastd")
    feed = Feed(machine, "239.255.9.9", 9999)
    wait_growing(machine, "/srv/recordings/numbers.log")
    assert feed.stop()


def test_other_paths_take_the_drop_in_of_the_manual(machine: Machine) -> None:
    """Without it: refused with a reason, and the daemon runs; with it, word for word: it works."""
    machine.shell("""
        groupadd media
        mkdir -p /srv/recordings /home/alice /srv/media
        chown mcastd: /srv/recordings
        echo home >/home/alice/news.txt
        echo media >/srv/media/news.txt
        chgrp media /srv/media/news.txt
        chmod 640 /srv/media/news.txt
    """)
    text = numbers('"/srv/recordings/numbers.log"')
    for name, source in (("home", "/home/alice/news.txt"), ("media", "/srv/media/news.txt")):
        text += CHANNEL.format(name=name, source=source)
    machine.path("/etc/mcastd.toml").write_text(text)
    machine.run("systemctl", "restart", "mcastd")
    workers = machine.workers()
    assert "read-only file system" in str(workers["inbound/numbers"])
    for name in ("home", "media"):
        assert workers[f"outbound/{name}"]["state"] == "auto-restart"
        assert re.search("permission denied|no such file", workers[f"outbound/{name}"]["detail"])

    machine.set_drop_in(shown_drop_in("Other files"))
    for name in ("home", "media"):
        assert machine.wait_worker(f"outbound/{name}", "finished")["status"]["counters"]["sent"] == 1
    assert machine.path("/srv/recordings/numbers.log").exists()
