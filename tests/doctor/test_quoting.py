"""Names and paths that others chose are the same again once a shell, TOML or systemd has read the fix."""

from __future__ import annotations

import os
import shlex
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from doctor.test_checks import ALL, Given, Interface, inbound, outbound

from mcastd.doctor import blame, files, interfaces, memberships, outputs, permits
from mcastd.doctor.finding import Finding, Way
from mcastd.doctor.quoting import command, in_unit, sysctl, toml
from mcastd.net.ruleset import Facts

# What the kernel takes for a name (dev_valid_name), and a shell and TOML take for more than that
NAME = "a;$(id)>P\"\\'&`"
GROUP = ip_address("239.255.6.1")


def named(flags: int = ALL, mtu: int = 1500, addresses: tuple[str, ...] = (), **more: Any) -> Interface:
    return Interface(2, NAME, flags, 0, tuple(map(ip_address, addresses)), mtu=mtu, **more)


def ways(said: Any) -> list[Way]:
    found = [one for one in said if isinstance(one, Finding)]
    assert found
    for one in found:
        for way in one.ways:
            assert way.command in one.fix
            assert all(line in one.fix for line in way.lines)
    return [way for one in found for way in one.ways]


@pytest.mark.parametrize(
    ("subject", "have"),
    [
        (inbound(interface="all"), named(flags=0x1000)),
        (inbound(interface=NAME), named(flags=0x1000, addresses=("10.6.0.1",))),
        (inbound(interface=NAME), named(flags=0x41, addresses=("10.6.0.1",))),
        (inbound(interface=NAME), named()),
        (inbound(interface=NAME, group="ff15::1"), named(addresses=("2001:db8::2",))),
        (outbound(interface=NAME), named()),
        (outbound(interface=None), named()),
        (outbound(interface=None, group="ff15::1"), named(addresses=("fe80::1",))),
    ],
)
def test_an_interface_of_any_name(subject: Any, have: Interface) -> None:
    for way in ways(interfaces.interface(subject, Given(have, route=None))):
        if way.command:
            # each word of it is a word of ip(8), a number, or the name as it is
            parts = shlex.split(way.command)
            assert NAME in parts, way
            assert not {"id", ";", ">"} & set(parts)
        for line in way.lines:
            assert tomllib.loads(line)["interface"] == NAME


def test_an_interface_that_takes_no_part_in_the_version() -> None:
    why = named(mtu=1000, versions=frozenset([4])).lacks(6)
    assert why is not None
    assert shlex.split(why[1]) == ["ip", "link", "set", NAME, "mtu", "1280"]
    why = named(mtu=1500, versions=frozenset([4])).lacks(6)
    assert why is not None
    assert shlex.split(why[1]) == ["sysctl", f"net/ipv6/conf/{NAME}/disable_ipv6=0"]


def test_a_sysctl_of_an_interface_whose_name_has_dots() -> None:
    assert sysctl("net/ipv4/conf/all/rp_filter") == "sysctl net.ipv4.conf.all.rp_filter=0"
    key = "net/ipv4/conf/eth0.7/force_igmp_version"
    assert sysctl(key) == "sysctl net.ipv4.conf.eth0/7.force_igmp_version=0"
    evidence = Given(named(), text=None)
    evidence.sysctl = {key.replace("eth0.7", NAME): "2", "net/ipv4/conf/all/forwarding": "0"}.get  # type: ignore[assignment,method-assign]
    (way,) = ways(memberships.report_version(inbound(interface=NAME), evidence))
    assert shlex.split(way.command) == ["sysctl", f"net.ipv4.conf.{NAME}.force_igmp_version=0"]


def test_a_chain_of_any_name() -> None:
    facts = Facts(GROUP, 9190, NAME)
    words = shlex.split(blame._accept_legacy(facts, "-A IN;id -j DROP"))
    assert words[:3] == ["iptables-legacy", "-I", "IN;id"]


@pytest.mark.parametrize("name", ["a\x1b[31m", "\x9b2J", "\u202eeth0", "\U000e0041", 'a"b\\'])
def test_a_string_of_the_configuration_is_printable_and_the_same(name: str) -> None:
    assert toml(name).isprintable()
    assert tomllib.loads(f"interface = {toml(name)}") == {"interface": name}


def test_words_are_words() -> None:
    words = ["ip", NAME, "a b", "", "$HOME", "\n"]
    assert shlex.split(command(*words)) == words


@pytest.mark.parametrize("text", ["eth0", NAME, "a\tb\x7f\x00", "\U0001f600 \u00e9", '"""'])
def test_a_string_of_toml(text: str) -> None:
    assert tomllib.loads(f"x = {toml(text)}") == {"x": text}


def test_a_path_in_a_unit() -> None:
    assert in_unit(Path("/srv/a-b_c.d")) == "/srv/a-b_c.d"
    assert in_unit(Path('/srv/100%/it\'s "x" \\')) == '"/srv/100%%/it\'s \\"x\\" \\\\"'


# -- files


@pytest.fixture
def as_other() -> Callable[[Callable[[], Any]], Any]:
    """Calls a function as another user than root, who owns nothing. That takes real root."""

    def call(function: Callable[[], Any]) -> Any:
        os.setegid(23456)
        os.seteuid(23456)
        try:
            return function()
        finally:
            os.seteuid(0)
            os.setegid(0)

    return call


@pytest.fixture
def entered() -> Iterator[Path]:
    """A directory of root that everybody may enter, as those of pytest are not."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture
def shared(entered: Path) -> Path:
    """A directory that others may write, too."""
    directory = entered / "shared"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


def planted(path: Path, target: Path, uid: int) -> None:
    path.symlink_to(target)
    os.lchown(path, uid, uid)


@pytest.mark.root
def test_no_access_is_proposed_to_what_another_has_put_there(shared: Path, as_other: Any) -> None:
    """Root would follow the link: who has made it would choose what is opened to mcastd."""
    secret = shared.parent / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    planted(shared / "link", secret, 12345)
    (shared / "hard").hardlink_to(secret)
    for name in ("link", "hard"):
        path = shared / name
        for check, subject in (
            (files.source, outbound(source=str(path))),
            (outputs.outputs, inbound(output=str(path))),
        ):
            found = as_other(lambda check=check, subject=subject: list(check(subject, Given())))
            (one,) = found
            assert one.ways == (), one
            assert "namei -l" in one.fix, one
            assert "chgrp" not in one.fix
            assert "chmod" not in one.fix


@pytest.mark.root
def test_the_group_is_that_of_the_file_and_not_of_the_link_to_it(entered: Path, as_other: Any) -> None:
    file = entered / "news"
    file.write_text("news")
    file.chmod(0o640)
    os.chown(file, 0, 54321)
    (entered / "link").symlink_to(file)
    permit = as_other(lambda: permits.permit(entered / "link", os.R_OK))
    assert "stat -L -c %G" in permit.words


@pytest.mark.root
def test_of_a_directory_that_is_there_already_only_the_line_is_said(entered: Path, as_other: Any) -> None:
    theirs, ours = entered / "srv", entered / "srv" / "23456"
    ours.mkdir(parents=True)
    os.chown(theirs, 12345, 12345)
    os.chown(ours, 23456, 23456)
    (one,) = as_other(lambda: list(outputs.outputs(inbound(output=str(theirs / "news")), Given())))
    assert one.fix == f'output = "{ours}/news" in [inbound.news]'


@pytest.mark.root
@pytest.mark.parametrize(
    ("owner", "group", "mode", "wanted", "beginning", "end", "takes_over"),
    [
        (23456, 0, 0o200, os.R_OK, "chmod u+r ", "/news", False),
        (23456, 0, 0o400, os.W_OK, "chmod u+w ", "/news", False),
        (0, 54321, 0o640, os.R_OK, "usermod -aG ", ", then restart mcastd", False),
        (0, 54321, 0o640, os.W_OK, "chgrp 23456 ", " && chmod g+w ", True),
        (0, 0, 0o640, os.R_OK, "chgrp 23456 ", " && chmod g+r ", True),  # nobody is to be in root's group
    ],
)
def test_access_is_given_by_the_least_that_does(
    entered: Path, as_other: Any, *, owner: int, group: int, mode: int, wanted: int, beginning: str, end: str,
    takes_over: bool, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    file = entered / "news"
    file.write_text("news")
    os.chown(file, owner, group)
    file.chmod(mode)
    permit = as_other(lambda: permits.permit(file, wanted))
    assert permit.words.startswith(beginning)
    assert end in permit.words
    assert permit.takes_over is takes_over


@pytest.mark.root
def test_a_directory_of_somebody_else_is_not_taken_over_for_an_output(
    entered: Path, as_other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    theirs, ours = entered / "theirs", entered / "ours"
    for directory, owner in ((theirs, 0), (ours, 23456)):
        directory.mkdir()
        os.chown(directory, owner, owner)
        directory.chmod(0o055)
    permit, directory = as_other(lambda: permits.permit_directory(theirs))
    assert directory == theirs / "23456"
    assert permit.words == f"install -d -o 23456 -g 23456 {theirs}/23456"
    permit, directory = as_other(lambda: permits.permit_directory(ours))
    assert (permit.words, directory) == (f"chmod u+wx {ours}", ours)
