"""``[amt_relay.NAME]``: what is taken, and what is said of the rest."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from pydantic import ValidationError

from mcastd.config import AmtRelaySettings, Config, dump

FOUR, SIX = ip_address("198.51.100.1"), ip_address("2001:db8::1")


def relay(**keys: Any) -> AmtRelaySettings:
    return AmtRelaySettings.model_validate({"listen": str(FOUR), **keys})


def test_what_is_left_out() -> None:
    settings = relay()
    assert settings.listen == ((FOUR, 2268),)
    assert settings.groups == (ip_network("232.0.0.0/8"), ip_network("ff3e::/32"))
    assert settings.advertised == {4: FOUR}
    assert (settings.max_tunnels, settings.max_per_address, settings.max_groups) == (100, 8, 32)
    assert (settings.rate, settings.mtu, settings.teardown) == (None, None, False)


def test_addresses_may_have_ports_and_others_may_be_advertised() -> None:
    listen = ["198.51.100.1:4268", "[2001:db8::1]:4269", "192.52.193.1", "2001:db8::2", "[2001:db8::3]"]
    settings = relay(listen=listen, advertise="203.0.113.9")
    assert [port for _, port in settings.listen] == [4268, 4269, 2268, 2268, 2268]
    assert settings.advertised == {4: ip_address("203.0.113.9"), 6: SIX}


def test_what_is_dumped_is_read_again() -> None:
    keys = {"listen": ["198.51.100.1:4268", "2001:db8::1"], "advertise": ["203.0.113.9", "2001:db8::9"]}
    more = {
        "interface": ["eth1", "wg*"],
        "sources": ["192.0.2.7"],
        "gateways": ["203.0.113.0/24"],
        "mtu": 1400,
    }
    for text in ({"listen": "2001:db8::1"}, {**keys, **more, "rate": "5Mbit", "query_interval": "30s"}):
        config = Config.model_validate({"amt_relay": {"edge": text}})
        assert Config.model_validate(config.model_dump(mode="json", exclude_none=True)) == config
        assert "[amt_relay.edge]" in dump(config)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"listen": "0.0.0.0"}, "0.0.0.0 is any address: name those that gateways ask at"),
        ({"listen": "232.1.1.1"}, "232.1.1.1 is no address that a relay can have"),
        ({"listen": "fe80::1"}, "fe80::1 is no address that a relay can have"),
        ({"listen": "relay.example.net"}, "must be an address like"),
        ({"listen": "198.51.100.1:0"}, "must be an address like"),
        ({"listen": "198.51.100.1:65536"}, "must be an address like"),
        ({"listen": []}, "must have at least one address"),
        ({"listen": ["198.51.100.1", "198.51.100.1:2268"]}, "198.51.100.1 is named twice"),
        ({"advertise": "2001:db8::1"}, "2001:db8::1 is IPv6, and no address in listen is"),
        ({"advertise": ["192.0.2.1", "192.0.2.2"]}, "192.0.2.2 is the second of IPv4: gateways are told one"),
        ({"interface": "all"}, '"all" would join every group on every interface'),
        ({"groups": []}, "must have at least one group"),
        ({"groups": ["232.0.0.0/8", "232.0.0.0/8"]}, "232.0.0.0/8 is named twice"),
        ({"groups": ["224.0.0.0/24"]}, "224.0.0.0/24 stays on its link"),
        ({"groups": ["ff02::/16"]}, "ff02::/16 stays on its link"),
        ({"groups": ["192.0.2.0/24"]}, "has other addresses than groups"),
        ({"sources": ["232.1.1.1"]}, "is multicast: nothing is ever sent from it"),
        ({"rate": 0}, "must be more than 0"),
        ({"query_interval": "1s"}, "must be from 5 s to 3600 s"),
        ({"mtu": 100}, "must be"),
        ({"max_tunnels": 0}, "must be"),
        ({"port": 2268}, "Extra inputs are not permitted"),
    ],
)
def test_what_is_refused(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        relay(**keys)
    assert why in str(refused.value)


def subscription(relay: str, **via: Any) -> dict[str, Any]:
    via = {"kind": "amt", "relay": relay, **via}
    return {"group": "232.1.1.1", "sources": ["192.0.2.7"], "port": 5004, "output": "/srv/one", "via": via}


def test_a_port_is_that_of_one_relay_or_of_tunnels() -> None:
    def why(**tables: Any) -> str:
        with pytest.raises(ValidationError) as failed:
            Config.model_validate(tables)
        return str(failed.value)

    one, other = {"listen": ["198.51.100.1", "198.51.100.2:4268"]}, {"listen": "198.51.100.2:4268"}
    said = why(amt_relay={"one": one, "other": other})
    assert "amt_relay.other.listen: amt_relay.one listens at 198.51.100.2:4268 already" in said
    four, six = {"listen": "198.51.100.1"}, {"listen": "2001:db8::1"}
    said = why(amt_relay={"one": four}, inbound={"tv": subscription("203.0.113.9")})
    assert "amt_relay.one listens at UDP port 2268 already" in said
    assert "set another local_port" in said
    assert "amt_relay.one" in why(amt_relay={"one": six}, inbound={"tv": subscription("2001:db8::9")})
    for tables in (
        {"amt_relay": {"one": one, "other": {**other, "enabled": False}}},
        {"amt_relay": {"one": {**four, "enabled": False}}, "inbound": {"tv": subscription("203.0.113.9")}},
        {"amt_relay": {"one": four}, "inbound": {"tv": subscription("203.0.113.9", local_port=2269)}},
        {"amt_relay": {"one": four}, "inbound": {"tv": subscription("2001:db8::9")}},
    ):
        Config.model_validate(tables)
