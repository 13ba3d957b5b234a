"""The interfaces of links and AMT relays, as the doctor sees them: made-up hosts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mcastd.config import AmtRelaySettings, Bridge, Discover, LinkSettings, WorkerSettings
from mcastd.doctor import local_networks
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding
from mcastd.doctor.subject import Subject
from mcastd.net.interfaces import Host, Interface

ETH1, ETH2 = Interface(3, "eth1", 0x1043, 0), Interface(4, "eth2", 0x1043, 0)
BRIDGE = Interface(5, "br0", 0x1043, 0, kind="bridge")
DOWN, IDLE = replace(ETH1, flags=0x1002), replace(ETH1, flags=0x1003)
PORT = replace(ETH1, master=5, port_of="bridge")
LINK = LinkSettings.model_validate(
    {"listen": "0.0.0.0", "key": "/etc/mcastd/key", "send": ["239.0.0.0/8"], "interface": "eth1"}
)
RELAY = AmtRelaySettings.model_validate({"listen": "192.0.2.1", "interface": ["eth1", "wg*"]})
WG0 = Interface(6, "wg0", 0x1043, 0)
BRIDGED = Bridge.model_validate({"from": "eth1", "to": "eth2", "groups": ["239.0.0.0/8"]})
TO_BOTH = Bridge.model_validate({"from": "wg0", "to": ["eth1", "eth2"], "groups": ["239.0.0.0/8"]})
HEARD = Discover.model_validate({"interface": ["eth1", "eth2"]})
BOTH = AmtRelaySettings.model_validate({"listen": "192.0.2.1", "interface": ["eth1", "eth2"]})


@pytest.mark.parametrize(
    ("settings", "interfaces", "causes"),
    [
        (LINK, (ETH1,), []),
        (LINK, (ETH2,), [("interface-missing", "broken")]),
        (LINK, (DOWN,), [("interface-down", "broken")]),
        (LINK, (IDLE, ETH2), [("no-carrier", "broken")]),
        (LINK, (PORT, BRIDGE), [("port-of-bridge", "broken")]),
        (RELAY, (ETH1,), []),
        (RELAY, (DOWN,), [("interface-down", "broken")]),
        (BOTH, (DOWN, ETH2), [("interface-down", "warning")]),
        (BOTH, (ETH2,), [("interface-missing", "warning")]),
        (BOTH, (BRIDGE,), [("interface-missing", "broken"), ("interface-missing", "broken")]),
        (AmtRelaySettings.model_validate({"listen": "192.0.2.1"}), (DOWN,), []),
        (HEARD, (ETH2,), [("interface-missing", "warning")]),
        (Discover(), (DOWN,), []),
    ],
)
def test_what_keeps_packets_from_coming(
    settings: WorkerSettings, interfaces: tuple[Interface, ...], causes: list[tuple[str, str]]
) -> None:
    host = Host({one.index: one for one in interfaces}, 0.0)
    said = list(local_networks.network(Subject("x/y", settings, "active"), Evidence(look=lambda: host)))
    found = [one for one in said if isinstance(one, Finding)]
    assert [(one.cause, one.severity) for one in found] == causes
    assert all("eth1" in f"{one.what} {one.evidence}" for one in found)


@pytest.mark.parametrize(
    ("interfaces", "causes"),
    [
        ((ETH1, ETH2), []),
        ((DOWN, ETH2), [("interface-down", "broken")]),
        ((IDLE, ETH2), [("no-carrier", "broken")]),
        ((ETH2,), [("interface-missing", "broken")]),
        ((ETH1, ETH2, replace(IDLE, index=6, name="wg0")), []),  # it may be idle
        ((ETH2, replace(ETH1, index=6, name="wg0")), [("interface-missing", "warning")]),
        ((PORT, BRIDGE, ETH2), [("port-of-bridge", "broken")]),
    ],
)
def test_what_each_side_of_a_bridge_lacks(
    interfaces: tuple[Interface, ...], causes: list[tuple[str, str]]
) -> None:
    settings = Bridge.model_validate({"from": "eth2", "to": ["eth1", "wg*"], "groups": ["239.1.0.0/16"]})
    host = Host({one.index: one for one in interfaces}, 0.0)
    said = list(local_networks.sides(Subject("bridge/tv", settings, "active"), Evidence(look=lambda: host)))
    found = [one for one in said if isinstance(one, Finding)]
    assert [(one.cause, one.severity) for one in found] == causes
    assert all("eth1" in one.what for one in found)
    assert all('to = ["eth1", "wg*"] ([bridge.tv])' in one.evidence for one in found if interfaces == (ETH2,))


def test_the_bridge_takes_the_place_of_its_port_and_others_stay() -> None:
    host = Host({one.index: one for one in (PORT, ETH2, BRIDGE)}, 0.0)
    checks = (
        (local_networks.network, BOTH, 'interface = ["br0", "eth2"]'),
        (local_networks.sides, BRIDGED, 'from = "br0"'),
        (local_networks.sides, TO_BOTH, 'to = ["br0", "eth2"]'),
    )
    for check, settings, line in checks:
        said = check(Subject("x/y", settings, "active"), Evidence(look=lambda: host))  # type: ignore[operator]
        (found,) = [one for one in said if "interface-missing" not in str(one)]
        assert isinstance(found, Finding)
        assert found.ways[0].lines == (line,)
