"""The checks of gateways for players, on made-up statuses."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from mcastd.config import GatewaySettings
from mcastd.doctor import players
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding
from mcastd.doctor.subject import Subject
from mcastd.net.interfaces import Host, Interface

UP = 1
TABLE = {"listen": "192.0.2.5:4022", "allow_groups": ["239.1.0.0/16"], "max_clients": 7, "max_per_address": 3}


def subject(
    earlier: dict[str, Any] | None = None, settings: dict[str, Any] | None = None, **status: Any
) -> Subject[GatewaySettings]:
    config = GatewaySettings.model_validate(TABLE | (settings or {}))
    return Subject("gateway/tv", config, "active", status=status, earlier=earlier or status)


def entrance(flags: int = UP, settings: dict[str, Any] | None = None, **status: Any) -> list[Finding]:
    eth0 = Interface(2, "eth0", flags, 0, (ip_address("192.0.2.5"),))
    evidence = Evidence(look=lambda: Host({2: eth0}, 0.0))
    return only_findings(players.listening(subject(settings=settings, **status), evidence))


def playing(earlier: dict[str, Any] | None = None, **status: Any) -> list[Finding]:
    return only_findings(players.playing(subject(earlier, **status), Evidence()))


def only_findings(said: Any) -> list[Finding]:
    found = list(said)
    assert all(isinstance(one, Finding) for one in found)
    return found


def group(received: int, age: float | None, players: int = 1, **more: Any) -> dict[str, Any]:
    told = {"group": "239.1.1.1", "port": 5004, "sender": "", "interfaces": ["eth0"], "trouble": ""}
    return {**told, "received": received, "age": age, "players": players, **more}


def test_a_gateway_that_is_well() -> None:
    assert entrance() == []
    assert entrance(settings={"listen": "127.0.0.8:4022"}) == [], "all of that network is this host's"
    counters = {
        "dropped": {"slow": 1},
        "refused": {"full": 2, "per-address": 3, "silent": 4},
        "ended": {"stalled": 5},
    }
    groups = [group(8, 9.0), group(8, 500.0, players=0)]
    listed = [{"address": "192.0.2.9", "path": "/tv", "sent": 7, "dropped": 1, "held_bytes": 0}]
    assert playing(counters=counters, served=6, groups=groups, players=listed) == [], "it was before"


def test_where_groups_cannot_be_joined() -> None:
    eth0 = Interface(2, "eth0", UP, 0, (ip_address("192.0.2.5"),))
    evidence = Evidence(look=lambda: Host({2: eth0}, 0.0))

    def found(interface: object) -> list[tuple[str, str]]:
        said = players.joining(subject(settings={"interface": interface}), evidence)
        return [(one.severity, one.what) for one in only_findings(said)]

    assert found(None) == found("eth0") == found("192.0.2.5") == found("wg*") == []
    assert found("eth9") == [("broken", "there is no interface eth9: no group is joined there for players")]
    assert found(["eth0", "eth9"]) == [
        ("warning", "there is no interface eth9: groups are not joined there for players")
    ]


def test_where_nobody_can_connect() -> None:
    (down,) = entrance(0)
    assert (down.cause, down.severity, down.fix) == ("gateway-unheard", "broken", "ip link set eth0 up")
    (gone,) = entrance(settings={"listen": "192.0.2.6:4022"})
    assert gone.what == "no interface has 192.0.2.6, at which players are to connect"
    (taken,) = entrance(refused_listen={"192.0.2.5:4022": "address already in use"})
    assert (taken.cause, taken.severity) == ("gateway-unheard", "broken")
    assert taken.what == "it cannot listen at 192.0.2.5:4022: address already in use"
    assert "ss -ltnp" in taken.fix
    assert "CAP_NET_BIND_SERVICE" not in taken.fix
    low = {"listen": "192.0.2.5:80"}
    (refused,) = entrance(settings=low, refused_listen={"192.0.2.5:80": "permission denied"})
    assert "ss -ltnp; ports below 1024 take root or CAP_NET_BIND_SERVICE" in refused.fix


def test_who_serves_everybody() -> None:
    everywhere = {"listen": ["0.0.0.0:4022", "[::]:4022"]}
    (one,) = entrance(settings=everywhere)
    assert (one.cause, one.severity) == ("gateway-open", "hint")
    assert "listen = 0.0.0.0:4022, [::]:4022, neither" in one.evidence[0]
    assert entrance(settings={**everywhere, "allow_clients": ["192.0.2.0/24"]}) == []
    assert entrance(settings={**everywhere, "token": "/etc/mcastd/tv.token"}) == []


def test_a_name_that_is_asked_for() -> None:
    status: dict[str, Any] = {"refused_name": "tv.example.net", "counters": {"refused": {"name": 3}}}
    (one,) = entrance(settings={"names": ["a.example.net"]}, **status)
    assert (one.cause, one.severity) == ("gateway-name", "hint")
    assert 'names = ["a.example.net", "tv.example.net"] in [gateway.tv]' in one.fix
    assert one.evidence == ("refused for their name: 3 requests (status)",)
    assert entrance(settings={"names": ["tv.example.net"]}, **status) == [], "it is one now"


def test_no_place_for_a_player() -> None:
    (full,) = playing(served=7)
    assert (full.cause, full.severity) == ("gateway-full", "warning")
    assert full.ways[0].lines == ("max_clients = 14",)
    earlier = {"counters": {"refused": {"full": 2, "per-address": 3}}}
    first, second = playing(earlier, served=6, counters={"refused": {"full": 6, "per-address": 8}})
    assert first.evidence[1] == "refused as full: 4 while watched, 6 in all (status)"
    assert second.cause == "gateway-full"
    assert second.evidence == ("refused as per-address: 5 while watched (status)",)
    assert second.ways[0].lines == ("max_per_address = 6",)
    (short,) = playing({"counters": {}}, counters={"refused": {"shortage": 2}})
    assert (short.cause, short.severity) == ("gateway-full", "warning")
    assert short.evidence == ("refused as shortage: 2 attempts while watched (status)",)
    assert "LimitNOFILE=" in short.fix


def test_what_is_asked_for_and_does_not_come() -> None:
    silent = group(0, None, group="ff15::1", sender="2001:db8::1", trouble="no interface eth7")
    stopped = group(5, 11.0, players=2)
    left = group(5, 11.0, players=0, port=5006)
    (one,) = playing(groups=[silent, stopped, left])
    assert (one.cause, one.severity) == ("gateway-dry", "warning")
    assert one.what == (
        "players ask for ff15::1 port 5004 of 2001:db8::1, 239.1.1.1 port 5004, of which nothing comes here"
    )
    assert one.evidence == (
        "ff15::1 port 5004 of 2001:db8::1: joined on eth0, no datagram came; no interface eth7 (status)",
        "239.1.1.1 port 5004: joined on eth0, the last datagram came 11 s ago (status)",
    )
    assert "mcastctl listen -i eth0 [ff15::1]:5004 --source 2001:db8::1" in one.fix
    assert one.fix.endswith('no querier asks for members there: rejoin_every = "2min" in [gateway.tv]')
    (never,) = playing(groups=[silent])
    assert "querier" not in never.fix
    often = subject(None, settings={"rejoin_every": "2min"}, groups=[stopped])
    (rejoined,) = only_findings(players.playing(often, Evidence()))
    assert "querier" not in rejoined.fix
    assert playing({"groups": []}, groups=[silent]) == [], "it was joined just now"
    assert playing({"groups": [group(4, 12.0)]}, groups=[group(5, 11.0)]) == [], "something came meanwhile"


def test_players_that_do_not_take_what_comes() -> None:
    slow = {"address": "192.0.2.9", "path": "/tv", "sent": 50, "dropped": 12, "held_bytes": 7}
    well = {"address": "192.0.2.8", "path": "/tv", "sent": 60, "dropped": 0, "held_bytes": 0}
    earlier = {"counters": {"dropped": {"slow": 2}}}
    (one,) = playing(earlier, counters={"dropped": {"slow": 12}}, players=[slow, well])
    assert (one.cause, one.severity) == ("gateway-slow", "warning")
    assert one.what == "192.0.2.9 takes less than what comes"
    assert one.evidence == (
        "dropped as slow: 10 datagrams while watched; ended as stalled: 0 (status)",
        "192.0.2.9, /tv: 12 datagrams dropped, 50 sent, 7 bytes wait (status)",
    )
    (gone,) = playing({"counters": {"ended": {}}}, counters={"ended": {"stalled": 3}}, players=[])
    assert gone.what == "players that have gone since take less than what comes"
