"""The tables ``[bridge.NAME]``."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from mcastd.config import Bridge, Config
from mcastd.config.load import dump, load
from mcastd.errors import ConfigError

KEYS: dict[str, object] = {"from": "eth1", "to": ["eth2", "wg*"], "groups": ["239.1.0.0/16", "ff15::7"]}


RELAYED: dict[str, object] = {"groups": ["239.1.1.1"], "ports": [5004], "when": "always"}


def test_a_kind_of_worker_of_its_own() -> None:
    config = Config.model_validate({"bridge": {"tv": KEYS}})
    (settings,) = config.workers().values()
    assert isinstance(settings, Bridge)
    assert list(config.workers()) == ["bridge/tv"]
    assert (settings.from_, settings.to) == ("eth1", ("eth2", "wg*"))
    assert settings.groups == (ip_network("239.1.0.0/16"), ip_network("ff15::7"))
    assert settings.versions == {4, 6}
    ways = {
        (side, ip_address(group)) for side in ("eth1", ("eth2", "wg*")) for group in ("239.1.0.0", "ff15::7")
    }
    assert set(settings.ways()) == ways


@pytest.mark.filterwarnings("error")
def test_what_is_dumped_loads_to_the_same(tmp_path: Path) -> None:
    config = Config.model_validate({"bridge": {"tv": {**KEYS, "sources": ["2001:db8::/32", "192.0.2.1"]}}})
    path = tmp_path / "mcastd.toml"
    path.write_text(dump(config))
    assert load(path).bridge == config.bridge
    assert '"ff15::7"' in path.read_text()


def test_its_keys_are_those_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "mcastd.toml"
    path.write_text('[bridge.tv]\nfrm = "eth1"\nto = "eth2"\ngroups = ["239.1.1.1"]\n')
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert str(refused.value).splitlines() == [
        f"{path}:1: bridge.tv.from: missing; it is required",
        f'{path}:2: bridge.tv.frm: unknown key; did you mean "from"?',
    ]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"from": "all"}, '"all" would have every interface receive all groups there are'),
        ({"to": ["eth2", "all"]}, '"all" would have every interface receive all groups there are'),
        ({"from": "*"}, '"*" would have every interface receive all groups there are'),
        ({"to": ["::"]}, 'name those that are meant, or a pattern like "eth*"'),
        ({**RELAYED, "ports": [5004, 5006, 5004]}, "5004 is named twice"),
        ({"to": "eth1"}, '"eth1" is where they come from, and nothing goes back there'),
        ({"groups": []}, "must have at least one group"),
        ({"groups": ["239.1.1.1", "239.1.1.1/32"]}, "239.1.1.1/32 is named twice"),
        ({"groups": ["239.1.1.1/16"]}, "has bits beyond its length: 239.1.0.0/16?"),
        ({"groups": ["192.0.2.0/24"]}, "192.0.2.0/24 has other addresses than groups"),
        ({"groups": ["192.0.0.0/2"]}, "192.0.0.0/2 has other addresses than groups"),
        ({"groups": ["224.0.0.251"]}, "224.0.0.251/32 stays on its link"),
        ({"groups": ["ff02::/16"]}, "ff02::/16 stays on its link"),
        ({"groups": ["news"]}, "must be a group, or a prefix of groups like"),
        ({"groups": [7]}, "must be a group, or a prefix of groups like"),
        ({"sources": ["239.1.1.1"]}, "239.1.1.1/32 is multicast: nothing is ever sent from it"),
        ({"sources": ["nobody"]}, "must be an address, or a prefix like"),
        ({"groups": ["239.1.1.1"], "sources": ["2001:db8::1"]}, "2001:db8::1/128 is IPv6, and no group is"),
        ({"querier": "never"}, "Input should be 'auto' or 'always'"),
        ({"querier": "always", "when": "always"}, 'querier: is for when = "joined": nobody is asked'),
        ({"ttl_threshold": 5}, "the routes of IPv6 have no threshold"),
        ({"groups": ["239.1.1.1"], "ttl_threshold": 255}, "must be a whole number from 1 to 254"),
        ({"groups": ["239.1.1.1"], "ttl_threshold": 0}, "must be a whole number from 1 to 254"),
        ({"engine": "gateway"}, "Input should be 'auto', 'kernel' or 'relay'"),
        ({"engine": "relay"}, "ports: missing; the relay needs them"),
        ({**RELAYED, "when": "joined"}, 'when: must be "always" for the relay'),
        ({**RELAYED, "groups": ["239.1.0.0/16"]}, "groups: 239.1.0.0/16 is a prefix, and the relay takes"),
        ({**RELAYED, "sources": ["10.0.0.0/8"]}, "sources: 10.0.0.0/8 is a prefix, and the relay takes"),
        ({**RELAYED, "engine": "kernel"}, 'ports: is for the relay, and engine = "kernel"'),
        ({**RELAYED, "raise_ttl": True}, "raise_ttl: needs sources: what it sends itself must not be taken"),
        ({**RELAYED, "rewrite": {}}, "must have a group, a port, or both"),
        (
            {**RELAYED, "rewrite": {"group": "239.9.9.9"}, "groups": ["239.1.1.1", "239.1.1.2"]},
            "makes one of 2",
        ),
        ({**RELAYED, "rewrite": {"port": 7}, "ports": [5, 6]}, "rewrite.port: makes one of 2"),
        ({**RELAYED, "rewrite": {"group": "ff15::9"}}, "rewrite.group: ff15::9 is IPv6, and 239.1.1.1 IPv4"),
        ({**RELAYED, "rewrite": {"group": "239.1.1.1"}}, "rewrite: has the group and port that come, so"),
        ({**RELAYED, "rewrite": {"port": 5004}}, "rewrite: has the group and port that come, so nothing"),
        ({**RELAYED, "rewrite": {"group": "239.1.1.1", "port": 5004}}, 'set engine = "relay")'),
        ({"raise_ttl": True}, "ports: missing; the relay needs them"),
        (
            {"sources": ["10.1.0.0/16", "169.254.3.7"]},
            "sources: 169.254.3.7 is link-local, and no router forwards",
        ),
        (
            {**RELAYED, "sources": ["169.254.3.7"], "engine": "kernel"},
            "sources: 169.254.3.7 is link-local, and no router",
        ),
        ({**RELAYED, "sources": ["169.254.0.0/16"]}, "169.254.0.0/16 is a prefix, and the relay takes"),
        ({"rate": "5Mbit"}, "ports: missing; the relay needs them"),
        ({**RELAYED, "rate": 0}, "must be more than 0"),
        ({"rate": "5Mbit", "engine": "kernel"}, 'rate: is for the relay, and engine = "kernel"'),
        ({"max_latency": 0, "engine": "kernel"}, 'max_latency: is for the relay, and engine = "kernel"'),
        ({"max_latency": "2ms"}, "max_latency: is for the relay, and without ports there is none"),
        ({**RELAYED, "max_latency": -1}, "max_latency"),
    ],
)
def test_what_is_refused(keys: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Bridge.model_validate({**KEYS, **keys})
    assert why in str(refused.value)


def test_which_engines_can_do_it() -> None:
    def engines(**keys: object) -> tuple[bool, bool]:
        settings = Bridge.model_validate({**KEYS, **keys})
        return settings.needs_relay, settings.may_relay

    assert engines() == (False, False)
    assert engines(**RELAYED) == (False, True)
    assert engines(**RELAYED, engine="relay") == (True, True)
    assert engines(**RELAYED, rate="5Mbit") == (True, True)
    assert engines(**RELAYED, sources=["192.0.2.7"]) == (False, True)
    assert engines(**RELAYED, sources=["192.0.2.7", "169.254.3.7"]) == (True, True)
    assert engines(sources=["0.0.0.0/0"]) == (False, False)
    assert engines(**RELAYED, rewrite={"port": 6000}) == (True, True)
    assert engines(**RELAYED, raise_ttl=True, sources=["192.0.2.1"]) == (True, True)
    assert engines(**RELAYED, max_latency=0) == (False, True)


@pytest.mark.parametrize(
    ("set_to", "seconds"), [({}, 0.001), ({"max_latency": "2ms"}, 0.002), ({"max_latency": 0}, 0)]
)
def test_how_long_datagrams_may_gather_in_the_relay(set_to: dict[str, object], seconds: float) -> None:
    assert Bridge.model_validate({**KEYS, **RELAYED, **set_to}).latency == seconds


def test_a_port_is_one_of_its_ports(tmp_path: Path) -> None:
    path = tmp_path / "mcastd.toml"
    path.write_text('[bridge.tv]\nfrom = "eth1"\nto = "eth2"\ngroups = ["239.1.1.1"]\nport = 5004\n')
    with pytest.raises(ConfigError, match=r'bridge.tv.port: unknown key; did you mean "ports"\?'):
        load(path)


@pytest.mark.parametrize("key", ["grup", "interface"])
def test_an_unknown_key_of_a_rewrite(tmp_path: Path, key: str) -> None:
    path = tmp_path / "mcastd.toml"
    path.write_text(
        '[bridge.tv]\nfrom = "eth1"\nto = "eth2"\ngroups = ["239.1.1.1"]\nports = [5]\nwhen = "always"\n'
        f'rewrite = {{ group = "239.9.9.9", {key} = "x" }}\n'
    )
    with pytest.raises(ConfigError, match=f"bridge.tv.rewrite.{key}: unknown key; "):
        load(path)


def test_both_ways_between_the_same_interfaces() -> None:
    both = Bridge.model_validate(
        {"from": ["eth1", "eth2"], "to": ["eth1", "eth2"], "groups": ["224.0.0.0/4"]}
    )
    assert both.from_ == both.to
