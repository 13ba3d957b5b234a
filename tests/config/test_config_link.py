"""``[link.NAME]``: what is taken, and what is said of the rest."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mcastd.config import Config, LinkSettings, dump, load
from mcastd.config.advice import advise
from mcastd.config.link_ends import parse_link_connect, parse_link_listen

KEYS: dict[str, Any] = {"connect": "hub.example.net", "key": "/etc/mcastd/office.key", "interface": "eth1"}
ALL = ["239.0.0.0/8", "ff15::/16"]


def link(**keys: Any) -> LinkSettings:
    given = {**KEYS, "send": ALL, **keys}
    return LinkSettings.model_validate({key: value for key, value in given.items() if value is not None})


def test_what_is_left_out() -> None:
    settings = link()
    assert (settings.connect, settings.listen) == (("hub.example.net", 9466), None)
    assert settings.send == (ip_network("239.0.0.0/8"), ip_network("ff15::/16"))
    assert (settings.want, settings.wants_members, settings.wants_config) == ((), False, False)
    assert (settings.transit, settings.rate, settings.repair, settings.mtu) == (False, None, 0.0, None)
    assert settings.keepalive is None


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("0.0.0.0", ("0.0.0.0", 9466), "0.0.0.0"),
        ("::", ("::", 9466), "::"),
        ("[::]", ("::", 9466), "::"),
        ("[::]:9467", ("::", 9467), "[::]:9467"),
        ("198.51.100.1:9466", ("198.51.100.1", 9466), "198.51.100.1"),
        ("198.51.100.1:1", ("198.51.100.1", 1), "198.51.100.1:1"),
    ],
)
def test_where_it_listens(text: str, expected: tuple[str, int], shown: str) -> None:
    settings = link(connect=None, listen=text)
    assert settings.listen == (ip_address(expected[0]), expected[1])
    assert settings.end == shown


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("hub.example.net:9467", ("hub.example.net", 9467), "hub.example.net:9467"),
        ("198.51.100.1", ("198.51.100.1", 9466), "198.51.100.1"),
        ("2001:db8::1", ("2001:db8::1", 9466), "2001:db8::1"),
        ("[2001:db8::1]:9466", ("2001:db8::1", 9466), "2001:db8::1"),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65535), "[2001:db8::1]:65535"),
    ],
)
def test_where_it_connects_to(text: str, expected: tuple[str, int], shown: str) -> None:
    settings = link(connect=text)
    assert settings.connect == expected
    assert settings.end == shown


@given(st.text(alphabet="0123456789abf:.[]%-hub", max_size=30))
def test_an_end_is_taken_or_refused_with_what_it_must_be(text: str) -> None:
    for parse in (parse_link_listen, parse_link_connect):
        try:
            host, port = parse(text)
        except ValueError as error:
            refusal = str(error)
        else:
            refusal = ""
            assert host
            assert 0 < port <= 65_535
        assert not refusal or refusal.startswith("must be") or " is no address that a peer " in refusal


def test_what_is_wanted() -> None:
    settings = link(want=["239.2.0.0/16", "members", "ff3e::1", "config"])
    assert settings.wanted == (ip_network("239.2.0.0/16"), ip_network("ff3e::1"))
    assert (settings.wants_members, settings.wants_config) == (True, True)
    assert link(want="members").wants_members
    assert not link(want="config").wants_members
    assert link(want="239.2.3.4").wanted == (ip_network("239.2.3.4"),)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"connect": None, "listen": "[::]:9467", "want": "members"},
        {
            "want": ["239.1.2.3", "members"],
            "rate": "5Mbit",
            "repair": "200ms",
            "mtu": 1420,
            "keepalive": "10s",
        },
        {"send": None, "want": "config", "connect": "[2001:db8::1]:9999", "interface": "10.1.0.1"},
        {"interface": None, "transit": True},
    ],
)
def test_what_is_dumped_is_read_again(keys: dict[str, Any], tmp_path: Any) -> None:
    config = Config(link={"office": link(**keys)})
    (tmp_path / "mcastd.toml").write_text(dump(config))
    assert load(tmp_path / "mcastd.toml") == config


def test_a_change_of_its_network_concerns_it() -> None:
    settings = link(connect=None, listen="198.51.100.1:9467", send=["239.1.0.0/16"], want="239.2.2.2")
    one, other = ip_address("239.1.0.0"), ip_address("239.2.2.2")
    assert [*settings.ways()] == [
        ("eth1", one),
        ("198.51.100.1", one),
        ("eth1", other),
        ("198.51.100.1", other),
    ]
    assert [interface for interface, _ in link(send=None, want="members").ways()] == ["eth1"]
    assert [*link(interface=None, transit=True).ways()] == []


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (
            {"connect": None},
            "missing: name the peer that listens; or set listen here, and connect at the peer",
        ),
        ({"listen": "0.0.0.0"}, "one end connects, and the other one listens: leave this out, or listen"),
        ({"connect": None, "listen": "hub"}, "must be an address of this host, with a port or without, like"),
        ({"connect": None, "listen": "0.0.0.0:0"}, "must be an address of this host"),
        ({"connect": None, "listen": "0.0.0.0:65536"}, "must be an address of this host"),
        ({"connect": None, "listen": "239.1.1.1"}, "239.1.1.1 is no address that a peer can send to"),
        ({"connect": None, "listen": "fe80::1"}, "fe80::1 is no address that a peer can send to"),
        ({"connect": "a b"}, "must be a name or an address, with a port or without, like"),
        ({"connect": 9466}, "must be a name or an address"),
        ({"connect": "239.1.1.1"}, "239.1.1.1 is no address that a peer can have"),
        ({"connect": "0.0.0.0"}, "0.0.0.0 is no address that a peer can have"),
        ({"connect": "2001:db8::1:99999"}, "must be a name or an address"),
        ({"key": "x" * 43 + "="}, "is a group key itself"),
        ({"key": None}, "missing: mcastd keygen PATH makes one, which both ends have to have"),
        ({"send": None}, "missing: name the groups that the peer may have; or set want"),
        ({"send": ["239.0.0.0/8", "239.0.0.0/8"]}, "239.0.0.0/8 is named twice"),
        ({"send": ["224.0.0.0/24"]}, "224.0.0.0/24 stays on its link"),
        (
            {"want": "everything"},
            'must be a group, a prefix of groups like "239.1.0.0/16", "members" or "config"',
        ),
        ({"want": ["members", "members"]}, "members is named twice"),
        ({"want": "239.1.0.1/16"}, "has bits beyond its length: 239.1.0.0/16?"),
        ({"want": "10.0.0.0/8"}, "has other addresses than groups"),
        ({"want": 7}, "must be a group, a prefix"),
        ({"interface": None}, "missing: name the network here; or set transit = true if there is none"),
        ({"interface": None, "transit": True, "want": "members"}, "needs an interface"),
        ({"interface": "all"}, '"all" may be several, and a link is for one: make a link for each'),
        ({"interface": "eth*"}, '"eth*" may be several'),
        ({"interface": ["eth1", "eth2"]}, "a list may be several"),
        ({"rate": 0}, "must be more than 0"),
        ({"repair": "31s"}, "must be at most 30 s"),
        ({"keepalive": "0.5s"}, "must be from 1 s to 120 s"),
        ({"keepalive": "121s"}, "must be from 1 s to 120 s"),
        ({"connect": None, "listen": "::", "keepalive": "25s"}, "is for the end that connects: set it there"),
        ({"mtu": 1279}, "must be a whole number from 1280 to 65535"),
        ({"port": 9466}, "Extra inputs are not permitted"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        link(**keys)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("0.0.0.0", "0.0.0.0:9466", True),
        ("0.0.0.0", "198.51.100.1", True),
        ("198.51.100.1", "0.0.0.0", True),
        ("198.51.100.1", "198.51.100.2", False),
        ("0.0.0.0", "0.0.0.0:9467", False),
        ("0.0.0.0", "::", False),
    ],
)
def test_each_link_has_a_port_of_its_own(one: str, other: str, meet: bool) -> None:
    tables = {
        "one": link(connect=None, listen=one),
        "off": link(connect=None, listen=other, enabled=False),
        "out": link(),
        "other": link(connect=None, listen=other),
    }
    if not meet:
        assert Config(link=tables)
        return
    with pytest.raises(ValidationError, match=r"link\.other\.listen: link\.one listens there already"):
        Config(link=tables)


def test_a_link_stands_by_for_another_one() -> None:
    one, other = link(connect=None, listen="0.0.0.0:9467"), link(standby_of="one")
    assert Config(link={"one": one, "other": other}).link["other"].standby_of == "one"
    with pytest.raises(ValidationError, match=r"link\.other\.standby_of: is this very link"):
        Config(link={"other": link(standby_of="other")})
    with pytest.raises(
        ValidationError, match=r"link\.other stands by itself: name link\.one, for which it does"
    ):
        Config(link={"one": one, "other": other, "third": link(standby_of="other")})
    with pytest.raises(ValidationError, match="must be the name of another link, not 7"):
        link(standby_of=7)


def test_a_standby_of_nothing_is_unwise() -> None:
    config = Config(link={"one": link(enabled=False), "other": link(standby_of="one")})
    (found,) = advise(config)
    assert found.location == ("link", "other", "standby_of")
    assert "there is no [link.one] that is enabled: it never rests" in found.reason


def test_a_link_in_clear_has_no_key_and_is_unwise() -> None:
    plain = link(key=None, security="none")
    assert (plain.key, plain.security) == (None, "none")
    (found,) = advise(Config(link={"one": plain}))
    assert found.location == ("link", "one", "security")
    assert "only inside WireGuard or IPsec" in found.reason
    with pytest.raises(ValidationError, match='does nothing with security = "none"'):
        link(security="none")
