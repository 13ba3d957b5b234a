"""Which subscriptions players have by their names, and why not the others."""

from __future__ import annotations

import re
import tomllib
from ipaddress import ip_address

import pytest

from mcastd.config import Config
from mcastd.gateway.subscriptions import Unplayable, played
from mcastd.protocols.gateway_paths import StreamResource


def of_one(lines: str, *, group: str = 'group = "239.1.1.3"\nport = 5006') -> StreamResource | Unplayable:
    """What players have of a subscription with these lines in its table."""
    text = f'[inbound.one]\n{group}\noutput = "/x"\n{lines}\n'
    return played(Config.model_validate(tomllib.loads(text)))["one"]


def test_those_of_one_group() -> None:
    rtp = of_one('protocol = "rtp"\nsources = ["192.0.2.1"]')
    assert rtp == StreamResource(ip_address("239.1.1.3"), 5006, ip_address("192.0.2.1"), without_rtp=True)
    plain = StreamResource(ip_address("239.1.1.3"), 5006, None, without_rtp=False)
    assert of_one("") == plain
    assert of_one('via = "amt-fallback"\nexpect_every = "5s"') == plain, "while it comes by itself"


LEGS = """legs = [
    { group = "239.1.1.4", port = 5004, interface = "eth0" },
    { group = "239.1.1.5", port = 5006, interface = "eth1" },
]"""
FLUTE = 'protocol = "flute"\noutput = { kind = "directory", path = "/x" }'


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('protocol = "rtp"\nfec = true', "FEC, .*/rtp/GROUP:PORT"),
        ('via = { kind = "amt", relay = "198.51.100.1" }', "tunnel"),
        ('sources = ["192.0.2.1", "192.0.2.2"]', "some senders, .*/udp/SENDER@GROUP:PORT"),
        ('exclude_sources = ["192.0.2.1"]', "some senders, .*/udp/SENDER@GROUP:PORT"),
    ],
)
def test_what_takes_more_than_a_group_is_not_had_and_it_is_said_why(lines: str, said: str) -> None:
    found = of_one(lines)
    assert isinstance(found, Unplayable)
    assert re.search(said, found.why)


def test_legs_and_files_are_not_had() -> None:
    legs = of_one('protocol = "rtp"', group=LEGS)
    assert isinstance(legs, Unplayable)
    assert "several legs" in legs.why
    text = f'[inbound.films]\ngroup = "239.1.1.4"\nport = 5006\n{FLUTE}\n'
    assert played(Config.model_validate(tomllib.loads(text))) == {
        "films": Unplayable("has files, which are no stream")
    }


def test_one_that_is_switched_off_is_not_known() -> None:
    text = '[inbound.off]\nenabled = false\ngroup = "239.1.1.5"\nport = 5006\noutput = "/x5"\n'
    assert played(Config.model_validate(tomllib.loads(text))) == {}
