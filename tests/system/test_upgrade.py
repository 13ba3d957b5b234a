"""What an upgrade, a downgrade, a removal and a purge do, and leave alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from support.machine import Feed, Machine
from support.wait import wait_for

from mcastd import __version__

from .conftest import Flavour

OLD, NEXT = "0.0.1", "99.0.0"
RECORDED = Path(__file__).parent / "recorded"
FIRST = "0.1.0"
DEBUG = """
[daemon]
log_level = "debug"
"""
OTHER = """
[inbound.other]
group = "239.255.9.9"
port = 9999
interface = "lo"
output = "/var/log/mcastd/other.log"
"""

REPACK_NEXT = f"""
dpkg-deb -R /mnt/{{package}} /tmp/next
sed -i 's/^Version: .*/Version: {NEXT}/' /tmp/next/DEBIAN/control
init=$(find /tmp/next/usr -path '*/mcastd/__init__.py')
sed -i 's/__version__ = .*/__version__ = "{NEXT}"/' "$init"
echo '# of the next version' >>/tmp/next/usr/share/mcastd/mcastd.toml
dpkg-deb -Zgzip -b /tmp/next /tmp/next.deb >/dev/null
rm -r /tmp/next
"""

# As it was up to 0.1: a conffile, with every key.
REPACK_OLD = f"""
dpkg-deb -R /mnt/{{package}} /tmp/old
sed -i 's/^Version: .*/Version: {OLD}/' /tmp/old/DEBIAN/control
cp /tmp/old/usr/share/doc/mcastd/examples/reference.toml /tmp/old/etc/mcastd.toml
echo /etc/mcastd.toml >>/tmp/old/DEBIAN/conffiles
dpkg-deb -Zgzip -b /tmp/old /tmp/old.deb >/dev/null
rm -r /tmp/old
"""

debs = pytest.mark.parametrize("flavour", ["trixie-deb", "bookworm-bundled"], indirect=True)


def version(machine: Machine, *options: str) -> str:
    """Of the daemon that runs."""
    output = machine.run("mcastctl", *options, "status", check=False).stdout
    found = re.match("mcastd ([^,]+), ", output)
    assert found, output
    return found[1]


def prepare(machine: Machine) -> Feed:
    """A configuration with a local edit, an instance beside, and something to receive."""
    config = machine.path("/etc/mcastd.toml")
    text = config.read_text()
    # The file of the first version has a table [daemon], of comments only.
    text = text.replace("\n[daemon]\n", DEBUG) if "\n[daemon]\n" in text else text + DEBUG
    config.write_text(text + OTHER)
    machine.path("/etc/mcastd/a.toml").write_text(DEBUG + OTHER.replace("other.log", "a/other.log"))
    machine.shell("systemctl reload mcastd; systemctl start mcastd@a")
    feed = Feed(machine, "239.255.9.9", 9999)
    wait_more(machine)
    return feed


def wait_more(machine: Machine) -> None:
    log = machine.path("/var/log/mcastd/other.log")
    size = log.stat().st_size if log.exists() else 0
    wait_for(lambda: log.exists() and log.stat().st_size > size + 100, "more in the log")


def gaps(numbers: list[int]) -> Iterator[int]:
    """How many are missing, where some are."""
    for before, after in pairwise(numbers):
        assert after > before
        if after > before + 1:
            yield after - before - 1


@debs
def test_upgrade_and_downgrade_keep_edits_and_cost_one_restart(
    machine: Machine, flavour: Flavour, record_testsuite_property: Callable[[str, object], None]
) -> None:
    feed = prepare(machine)
    edited = machine.path("/etc/mcastd.toml").read_text()
    assert 'log_level = "debug"' in edited
    machine.shell(REPACK_NEXT.format(package=flavour.package.name))
    for package, expected in (("/tmp/next.deb", NEXT), (f"/mnt/{flavour.package.name}", __version__)):
        flavour.install(machine, package)
        machine.wait_active()
        machine.wait_active("mcastd@a.service")
        assert version(machine) == expected
        assert version(machine, "--socket", "/run/mcastd/a/control") == expected
        assert machine.path("/etc/mcastd.toml").read_text() == edited
        wait_more(machine)
    assert machine.show("NRestarts", "Result") == {"NRestarts": "0", "Result": "success"}
    sent = feed.stop()
    numbers = list(map(int, machine.path("/var/log/mcastd/other.log").read_text().split()))
    lost = list(gaps(numbers))
    record_testsuite_property(f"lost_by_restarts_{flavour.root}", lost)
    assert len(lost) == 2, f"each of the two restarted it once, and nothing else was lost: {lost} of {sent}"


@pytest.mark.parametrize("flavour", ["trixie-deb", "trixie-rpm"], indirect=True)
def test_the_first_version_is_upgraded_with_all_that_was_set_up(bare: Machine, flavour: Flavour) -> None:
    machine, package = bare, flavour.package.name
    (first,) = RECORDED.glob(f"*{Path(package).suffix}")
    machine.path(f"/root/{first.name}").write_bytes(first.read_bytes())
    flavour.install(machine, f"/root/{first.name}")
    machine.wait_active()
    machine.path("/etc/mcastd.toml.d/quiet.toml").write_text('[daemon]\nstop_timeout = "7s"\n')
    machine.shell("useradd alice; usermod -aG mcastd alice")
    feed = prepare(machine)
    assert version(machine) == version(machine, "--socket", "/run/mcastd/a/control") == FIRST

    ours = "/etc/mcastd.toml /etc/mcastd.toml.d/quiet.toml /etc/mcastd/a.toml"
    state = (
        f"md5sum {ours}; getent passwd mcastd; getent group mcastd; stat -c '%U:%G %a' /var/log/mcastd/*.log"
    )
    before, news = machine.shell(state), machine.path("/var/log/mcastd/news.log").read_bytes()
    flavour.install(machine, f"/mnt/{package}")
    machine.wait_active()
    machine.wait_active("mcastd@a.service")
    assert version(machine) == version(machine, "--socket", "/run/mcastd/a/control") == __version__
    assert machine.shell(state) == before
    assert machine.path("/var/log/mcastd/news.log").read_bytes().startswith(news)
    assert machine.show("UnitFileState", "NRestarts", "Result") == {
        "UnitFileState": "enabled", "NRestarts": "0", "Result": "success",
    }  # fmt: skip
    assert {worker["state"] for worker in machine.workers().values()} == {"active"}
    assert 'stop_timeout = "7s"' in machine.run("mcastd", "check", "--dump").stdout
    assert machine.run("mcastctl", "status", user="alice").returncode == 0
    left = machine.shell("ls /etc | grep '^mcastd'").split()
    beside = ["mcastd.toml.rpmnew"] if package.endswith(".rpm") else []  # as rpm does with an edited file
    assert left == ["mcastd", "mcastd.toml", "mcastd.toml.d", *beside]

    wait_more(machine)
    sent = feed.stop()
    numbers = list(map(int, machine.path("/var/log/mcastd/other.log").read_text().split()))
    lost = list(gaps(numbers))
    assert len(lost) == 1, f"it was restarted once, and nothing else was lost: {lost} of {sent}"


@debs
@pytest.mark.parametrize("config", ["edited", "as it came", "removed"])
def test_no_upgrade_asks_about_the_configuration(bare: Machine, flavour: Flavour, config: str) -> None:
    """From when it was a conffile, to a version that installs another, and back."""
    machine, path = bare, bare.path("/etc/mcastd.toml")
    ours = f"/mnt/{flavour.package.name}"
    machine.shell(REPACK_OLD.format(package=flavour.package.name))
    machine.shell(REPACK_NEXT.format(package=flavour.package.name))
    flavour.install(machine, "/tmp/old.deb")
    if config == "edited":
        path.write_text(path.read_text().replace('# log_level = "info"', 'log_level = "debug"'))
    elif config == "removed":
        path.unlink()
    kept = path.read_text() if path.exists() else None
    steps = [(ours, __version__), ("/tmp/next.deb", NEXT), (ours, __version__)]
    if kept is not None:  # else the old one, which has it as a conffile, would bring it again
        steps.append(("/tmp/old.deb", OLD))
    for package, expected in steps:
        flavour.install(machine, package)
        state = machine.shell("dpkg-query -W -f '${db:Status-Abbrev} ${Version}' mcastd")
        assert re.fullmatch(rf"ii  {expected}(~deb12)?", state)
        assert (path.read_text() if path.exists() else None) == kept
        if kept:
            machine.wait_active()
    assert machine.shell("ls /etc | grep '^mcastd.toml'", check=False).split() == (
        ["mcastd.toml"] * bool(kept) + ["mcastd.toml.d"]
    )
    machine.run("apt-get", "purge", "-y", "mcastd")
    assert not path.exists()


@debs
def test_only_what_has_no_comments_is_a_conffile(machine: Machine) -> None:
    listed = machine.shell("dpkg-query -W -f '${Conffiles}' mcastd").split()[::2]
    assert listed == ["/etc/logrotate.d/mcastd"]
    assert "#" not in machine.shell("cat /etc/logrotate.d/mcastd")


def files(machine: Machine) -> set[str]:
    """Everything on the disk but what package managers, caches and logs keep of it."""
    pruned = (
        "/proc /sys /dev /run /tmp /mnt /var/lib/dpkg /var/lib/apt /var/cache /var/log/journal /var/log/apt"
    )
    expression = " -o ".join(f"-path {path}" for path in pruned.split())
    listed = machine.shell(rf"find / -xdev \( {expression} \) -prune -o -print").splitlines()
    return {path for path in listed if "__pycache__" not in path}


# Made by installing any package with a service or an account
NOT_OURS = {
    "/var/log/dpkg.log",
    "/etc/.pwd.lock",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
    "/var/lib/systemd/deb-systemd-helper-enabled",
    "/var/lib/systemd/deb-systemd-helper-enabled/multi-user.target.wants",
    "/var/lib/systemd/deb-systemd-helper-masked",
}


@debs
def test_remove_keeps_data_and_purge_takes_what_is_ours_and_nothing_else(
    bare: Machine, flavour: Flavour
) -> None:
    machine = bare
    before = files(machine)
    flavour.install(machine, f"/mnt/{flavour.package.name}")
    prepare(machine).stop()
    machine.shell("mkdir /srv/mine; chown mcastd: /srv/mine; runuser -u mcastd -- touch /srv/mine/recording")
    machine.shell("rm /etc/mcastd/a.toml; echo '# mine' >/etc/mcastd.toml.d/mine.toml")
    edited = machine.path("/etc/mcastd.toml").read_text()
    ours = {path for path in files(machine) - before if not path.startswith("/srv/mine")}
    assert "/usr/bin/mcastd" in ours

    machine.run("apt-get", "remove", "-y", "mcastd")
    assert machine.path("/etc/mcastd.toml").read_text() == edited
    assert machine.path("/var/log/mcastd/other.log").stat().st_size
    assert not machine.path("/usr/bin/mcastd").exists()
    assert machine.run("pgrep", "-u", "mcastd", check=False).stdout == ""
    assert not machine.path("/run/mcastd").exists()

    flavour.install(machine, f"/mnt/{flavour.package.name}")
    machine.wait_active()
    assert machine.path("/etc/mcastd.toml").read_text() == edited

    machine.run("apt-get", "purge", "-y", "mcastd")
    after = files(machine)
    assert before - after == set()
    mine = {"/srv/mine", "/srv/mine/recording", "/etc/mcastd.toml.d", "/etc/mcastd.toml.d/mine.toml"}
    assert after - before - NOT_OURS == mine
    assert machine.run("systemctl", "status", "mcastd", check=False).returncode == 4, "no such unit"
    # The account stays, as files elsewhere may be its own
    assert machine.shell("stat -c %U /srv/mine/recording") == "mcastd\n"


@pytest.mark.parametrize("flavour", ["trixie-rpm"], indirect=True)
def test_the_rpm_keeps_edits_restarts_and_goes(machine: Machine, flavour: Flavour) -> None:
    feed = prepare(machine)
    edited = machine.path("/etc/mcastd.toml").read_text()
    pid = machine.main_pid()
    machine.run("rpm", "-U", "--force", "--nodeps", f"/mnt/{flavour.package.name}")
    machine.wait_active()
    assert machine.main_pid() != pid
    assert machine.path("/etc/mcastd.toml").read_text() == edited
    wait_more(machine)
    assert feed.stop()
    machine.run("rpm", "-e", "mcastd")
    assert machine.path("/etc/mcastd.toml.rpmsave").read_text() == edited
    assert machine.path("/var/log/mcastd/other.log").stat().st_size
    assert not machine.path("/usr/bin/mcastd").exists()
    assert machine.run("pgrep", "-u", "mcastd", check=False).stdout == ""
