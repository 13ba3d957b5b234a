"""``[gateway.NAME]``: what is taken, and what is said of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from mcastd.config import Config, dump
from mcastd.config.advice import advise
from mcastd.errors import ConfigError

TABLE = '[gateway.tv]\nlisten = "192.0.2.5:4022"\nallow_groups = ["239.1.0.0/16"]\n'


def test_what_is_meant_where_nothing_is_said(loaded: Callable[[str], Config]) -> None:
    config = loaded(TABLE)
    tv = config.gateway["tv"]
    assert (tv.listen, tv.allow_clients, tv.names, tv.interface) == (("192.0.2.5:4022",), (), (), None)
    assert (tv.max_clients, tv.max_latency, tv.first_data, tv.linger) == (100, 0.05, 5.0, 10.0)
    assert (tv.client_buffer, tv.receive_buffer) == (2 << 20, 4 << 20)
    assert (tv.max_per_address, tv.stall, tv.token) == (10, 20.0, None)
    assert [(interface, str(group)) for interface, group in tv.ways()] == [(None, "239.1.0.0")]
    assert loaded(dump(config)) == config


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("allow_groups", "groups", "gateway.tv.allow_groups: missing; it is required"),
        ('["239.1.0.0/16"]', "[]", "must have at least one group: nothing else is served"),
        ('["239.1.0.0/16"]', '["224.0.0.0/24"]', "224.0.0.0/24 stays on its link"),
        ('["239.1.0.0/16"]', '["192.0.2.0/24"]', "has other addresses than groups"),
        ('["239.1.0.0/16"]', '["239.1.1.1", "239.1.1.1"]', "239.1.1.1/32 is named twice"),
        ('"192.0.2.5:4022"', "[]", "must have at least one address"),
        ('"192.0.2.5:4022"', '"tv.example.net:4022"', "must be an address of this host and a port"),
        ('"192.0.2.5:4022"', '["0.0.0.0:4022", "0.0.0.0:4022"]', "0.0.0.0:4022 is named twice"),
        ("allow_groups", 'names = ["192.0.2.5"]\nallow_groups', 'must be a name like "tv.example.net"'),
        ("allow_groups", 'interface = "all"\nallow_groups', '"all" would join every group'),
        ("allow_groups", "max_latency = 0\nallow_groups", "must be more than 0: players are sent what has"),
        ("allow_groups", "max_clients = 0\nallow_groups", "must be a whole number from 1 to 10000"),
        ("allow_groups", "max_per_address = 0\nallow_groups", "must be a whole number from 1 to 10000"),
        ("allow_groups", "stall = 0\nallow_groups", "must be longer than 0"),
        ("allow_groups", "token = 5\nallow_groups", "must be the absolute path of a file"),
        ("allow_groups", 'token = "/etc/"\nallow_groups', "must be the absolute path of a file"),
    ],
)
def test_what_is_refused(loaded: Callable[[str], Config], old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(TABLE.replace(old, new))
    assert said in str(error.value)


def test_a_token_itself_is_refused_and_not_repeated(loaded: Callable[[str], Config]) -> None:
    for place in ("/etc/mcastd/tv.token", "tv.token"):
        assert loaded(f'{TABLE}token = "{place}"\n').gateway["tv"].token == place
    with pytest.raises(ConfigError) as error:
        loaded(f'{TABLE}token = "correct-horse-battery"\n')
    assert 'a systemd credential whose name ends in ".token"' in str(error.value)
    assert "horse" not in str(error.value)


def test_a_gateway_for_everybody_is_unwise(loaded: Callable[[str], Config]) -> None:
    everywhere = TABLE.replace('"192.0.2.5:4022"', '["192.0.2.5:4022", "[::]:4023"]')
    (found,) = advise(loaded(everywhere))
    assert found.location == ("gateway", "tv", "listen")
    assert "[::]:4023 serves whoever reaches this host" in found.reason
    for line in ('allow_clients = ["192.0.2.0/24"]', 'token = "/etc/mcastd/tv.token"'):
        assert advise(loaded(f"{everywhere}{line}\n")) == []
    assert advise(loaded(TABLE)) == []


def test_a_page_of_the_daemon_for_everybody_is_unwise(loaded: Callable[[str], Config]) -> None:
    (found,) = advise(loaded(f"{TABLE}status_page = true\n"))
    assert found.location == ("gateway", "tv", "status_page")
    assert advise(loaded(f'{TABLE}status_page = true\nallow_clients = ["192.0.2.0/24"]\n')) == []


OTHERS = {
    "another gateway": (
        '[gateway.radio]\nlisten = "{end}"\nallow_groups = ["239.2.0.0/16"]\n',
        "gateway.radio.listen",
    ),
    "a source": (
        '[outbound.radio]\nsource = {{ kind = "tcp-server", listen = "{end}" }}\nframing = "ts"\n'
        'group = "239.2.2.2"\nport = 5004\n',
        "outbound.radio.source.listen",
    ),
    "an output": (
        '[inbound.radio]\ngroup = "239.2.2.2"\nport = 5004\n'
        'output = {{ kind = "tcp-server", listen = "{end}" }}\n',
        "inbound.radio.output",
    ),
}


@pytest.mark.parametrize(("other", "key"), OTHERS.values(), ids=OTHERS)
def test_one_listens_at_an_end(
    refusal: Callable[[str], str], loaded: Callable[[str], Config], other: str, key: str
) -> None:
    for end, by in (("192.0.2.5:4022", ""), ("0.0.0.0:4022", ', by "192.0.2.5:4022"')):
        said = refusal(TABLE + other.format(end=end))
        assert said.count("is already") == 1, said
        one, _, rest = said.partition(" is already ")
        assert key in one or "gateway.tv.listen" in one, "the key of one"
        assert re.search("where (gateway/tv|[a-z]+/radio) listens", rest), "and the name of the other"
        assert ("radio" in one) != ("radio" in rest)
        assert ", by " in rest or not by
    for end in ("192.0.2.6:4022", "192.0.2.5:4023", "[::]:4022"):
        loaded(TABLE + other.format(end=end))
    loaded(TABLE + other.format(end="192.0.2.5:4022") + "enabled = false\n")


def test_metrics_are_served_at_another_end(
    refusal: Callable[[str], str], loaded: Callable[[str], Config]
) -> None:
    metrics = '[daemon]\nmetrics = "{}"\n'
    assert 'gateway.tv.listen: "192.0.2.5:4022" is already where metrics are served' in refusal(
        metrics.format("192.0.2.5:4022") + TABLE
    )
    assert 'is already where metrics are served, by "0.0.0.0:4022"' in refusal(
        metrics.format("0.0.0.0:4022") + TABLE
    )
    for end in ("192.0.2.5:4023", "[2001:db8::5]:4022", "stats.example.net:4022"):
        loaded(metrics.format(end) + TABLE)


def test_a_gateway_has_an_end_by_one_address(refusal: Callable[[str], str]) -> None:
    ends = '["0.0.0.0:4022", "192.0.2.5:4022"]'
    assert '"192.0.2.5:4022" is already where gateway/tv listens, by "0.0.0.0:4022"' in refusal(
        TABLE.replace('"192.0.2.5:4022"', ends)
    )
