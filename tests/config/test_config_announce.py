"""``announce`` of a channel: as a switch and as a table, written back as it was, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from mcastd.config import Config, dump, load
from mcastd.config.legs import LEGS_MAX
from mcastd.config.types import SESSION_NAME_BYTES
from mcastd.errors import ConfigError

HEAD = '[outbound.tv]\nsource = "/srv/tv"\ngroup = "239.255.1.2"\nport = 5004\n'


def loaded(tmp_path: Path, line: str) -> Config:
    path = tmp_path / "mcastd.toml"
    path.write_text(f"{HEAD}{line}\n")
    return load(path)


def refusal(tmp_path: Path, line: str) -> str:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, line)
    (problem,) = refused.value.problems
    return str(problem).removeprefix(f"{tmp_path}/mcastd.toml:5: outbound.tv.")


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("", None),
        ("announce = false", None),
        ("announce = true", True),
        ("announce = {}", True),
        (
            'announce = { name = "Das Erste", group = "239.255.255.254", interval = "1min",'
            ' sdp = "/run/tv.sdp" }',
            {"name": "Das Erste", "group": "239.255.255.254", "interval": "1min", "sdp": "/run/tv.sdp"},
        ),
    ],
)
def test_a_switch_or_a_table(tmp_path: Path, line: str, written: Any) -> None:
    config = loaded(tmp_path, line)
    again = tomllib.loads(dump(config))["outbound"]["tv"].get("announce")
    expected = {"kind": "sap", "copies": False, **written} if isinstance(written, dict) else written
    assert again == expected
    (tmp_path / "again.toml").write_text(dump(config))
    assert load(tmp_path / "again.toml") == config


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('announce = "yes"', 'announce: must be true or false, or a table, not "yes"'),
        ("announce = 1", "announce: must be true or false, or a table, not 1"),
        ('announce = { nam = "x" }', 'announce.nam: unknown key; did you mean "name"?'),
        (
            'announce = { name = "" }',
            f'announce.name: must be a name of up to {SESSION_NAME_BYTES} bytes, not ""',
        ),
        (
            'announce = { name = "a\\nb" }',
            'announce.name: "a\\nb" is not printable: nobody could read it in a list',
        ),
        (
            'announce = { group = "ff15::1" }',
            "announce.group: ff15::1 is IPv6, but the channel's group 239.255.1.2 is IPv4",
        ),
        (
            "announce = { copies = true }",
            "announce.copies: does nothing without copies of the channel",
        ),
        ("announce = { interval = 0 }", "announce.interval: must be longer than 0, not 0"),
    ],
)
def test_what_is_refused(tmp_path: Path, line: str, why: str) -> None:
    assert refusal(tmp_path, line) == why


def test_two_do_not_write_one_file(tmp_path: Path) -> None:
    other = HEAD.replace(".tv]", ".more]").replace("5004", "5006")
    line = 'announce = { sdp = "/run/tv.sdp" }\n'
    with pytest.raises(ConfigError, match=r"outbound.more.announce.sdp: .* already an output of outbound/tv"):
        loaded(tmp_path, f"{line}{other}{line}")


def test_no_more_ways_are_described_than_a_subscription_takes(tmp_path: Path) -> None:
    def lines(count: int) -> str:
        copies = ", ".join(f'{{ group = "239.255.2.{number}" }}' for number in range(count))
        return f"announce = {{ copies = true }}\ncopies = [{copies}]"

    assert len(loaded(tmp_path, lines(LEGS_MAX - 1)).outbound["tv"].by_leg()) == LEGS_MAX
    assert refusal(tmp_path, lines(LEGS_MAX)) == (
        f"announce.copies: describes {LEGS_MAX + 1} ways, and a subscription takes up to {LEGS_MAX}: have"
        " fewer copies, or describe the first way alone"
    )
