"""Sites that are linked by whole daemons: two, a star, a ring, a mesh; losses, NAT, keys, standby."""

from __future__ import annotations

import contextlib
import itertools
import signal
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from support.gallery import AS_A_SERVICE
from support.host import Host
from support.inside import sysctl
from support.sites import GROUPS, PORT, PROBE, Heard, Site, nft, sites, stream, table, tables_of
from support.slow_wire import SlowWire
from support.switch import Switch
from support.wait import wait_accounted, wait_for

pytest.importorskip("cryptography")

pytestmark = pytest.mark.root


def start(all_sites: list[Site], pairs: list[tuple[int, int]], **keys: str) -> None:
    """Start all, and wait until all links are up."""
    tables = tables_of(all_sites, pairs, **keys)
    for site in all_sites:
        site.start(tables[site.number])
    for one, two in pairs:
        all_sites[one - 1].wait_up(f"to-{two}")
        all_sites[two - 1].wait_up(f"to-{one}")


def assert_accounted(site: Site, link: str) -> dict[str, Any]:
    return wait_accounted(lambda: site.status(link)["counters"])


@pytest.mark.parametrize("version", [4, 6])
def test_what_one_site_sends_members_at_the_other_have(version: int, tmp_path: Path) -> None:
    group = GROUPS[version]
    with sites(2, tmp_path) as (one, two):
        address = "[::]" if version == 6 else "0.0.0.0"
        peer = "2001:db8::1" if version == 6 else "198.51.100.1"
        one.start(table("two", f'listen = "{address}"', one.key("key")))
        two.start(table("one", f'connect = "{peer}"', two.key("key")))
        one.wait_up("two")
        two.wait_up("one")
        two.listen(version)
        one.wait_taken("two", group)
        heard = Heard(two, version)
        stream(one.talker(version), range(100), heard, version=version)
        assert heard.wait(100) == [*range(100)]
        sent, received = assert_accounted(one, "two"), assert_accounted(two, "one")
        assert (sent["sent"], sent["unsent"], sent["received"]) == (100, {}, 0)
        assert (received["received"], received["forwarded"], received["dropped"]) == (100, 100, {})
        assert received["received_bytes"] == sent["sent_bytes"]
        assert sent["handshakes"] == received["handshakes"] == 1
        status = two.status("one")
        assert (status["connect"], status["listen"]) == (peer, "")
        assert status["round_trip_ms"] < 30_000
        assert abs(status["clock_offset_seconds"]) < 10
        assert f"{group} any" in status["wants"]
        assert status["interface"] == "lan"
        wait_for(lambda: two.worker("one")["detail"].startswith("connected with "), "the worker to say it")
        worker = two.worker("one")
        assert (worker["state"], worker["troubled"]) == ("active", False)
        text = two.daemon.ctl("status", "one").stdout
        assert "up: yes" in text
        assert "link/one" in two.daemon.ctl("top", "--once").stdout
        wait_for(lambda: one.status("two")["message_bytes"] == 1500 - (48 if version == 6 else 28))
        assert one.daemon.stop() == 0
        wait_for(lambda: two.worker("one")["troubled"])
        assert two.worker("one")["detail"].startswith(f"connecting to {peer}")
        assert two.daemon.wait_events("link.lost")


def test_a_key_that_changes_is_read_at_a_reload(tmp_path: Path) -> None:
    """First at the end that connects: until both have it, datagrams go on by the keys of before."""
    with sites(2, tmp_path) as (one, two):
        one.start(table("two", 'listen = "0.0.0.0"', one.key("key")))
        two.start(table("one", 'connect = "198.51.100.1"', two.key("key")))
        two.wait_up("one")
        two.listen()
        one.wait_taken("two", GROUPS[4])
        heard, talker = Heard(two), one.talker()
        stream(talker, range(100), heard)
        two.key("key", 77)
        assert two.daemon.call("Reload")["unchanged"] == ["link/one"]
        stream(talker, range(100, 200), heard)
        wait_for(lambda: one.status("two")["counters"]["ignored"].get("wrong-key"))
        wait_for(lambda: "the peer may have another key" in two.worker("one")["detail"])
        assert (two.worker("one")["troubled"], one.worker("two")["troubled"]) == (True, False)
        one.key("key", 77)
        one.daemon.call("Reload")
        wait_for(lambda: two.status("one")["counters"]["handshakes"] == 2)
        stream(talker, range(200, 300), heard)
        assert heard.wait(300) == [*range(300)]
        wait_for(lambda: not two.worker("one")["troubled"])
        for site, link in ((one, "two"), (two, "one")):
            assert site.worker(link)["restarts"] == 0
            assert_accounted(site, link)
        two.key("key").write_text("nonsense\n")
        (note,) = two.daemon.call("Reload")["notes"]
        assert note.startswith("link/one: connected with 198.51.100.1:9466; cannot read a group key from ")
        assert note.endswith("; the key before is in use")
        assert two.daemon.wait_events("key.refused")
        stream(talker, range(300, 400), heard)
        assert heard.wait(400) == [*range(400)]
        assert two.status("one")["up"]


def test_other_settings_hold_at_once_and_only_a_new_way_begins_anew(tmp_path: Path) -> None:
    with sites(2, tmp_path) as (one, two):
        where = 'listen = "0.0.0.0"'
        one.start(table("two", where, one.key("key")))
        two.start(table("one", 'connect = "198.51.100.1"', two.key("key"), want='["239.1.0.0/16"]'))
        one.wait_up("two")
        taken = ["239.1.0.0/16 any"]
        wait_for(lambda: one.status("two")["peer_wants"] == one.status("two")["taken"] == taken)
        two.listen()
        heard, talker = Heard(two), one.talker()
        stream(talker, range(50), heard)
        heard.wait(50)
        changed = {"mtu": "1300", "rate": '"500Mbit"'}
        for count, site in enumerate((one, two, one, two)):
            # Of the wire nothing is other: what is sent meanwhile comes, each once
            name, there = ("two", where) if site is one else ("one", 'connect = "198.51.100.1"')
            more = {"want": '["239.1.0.0/16"]', "repair": '"300ms"'} if site is two else {}
            if count > 1:
                more |= {"transit": "true"} if site is one else {"keepalive": '"2s"'}
            site.daemon.write(table(name, there, site.key("key"), **changed, **more))
            stream(talker, range(50 + 100 * count, 100 + 100 * count), heard)
            assert site.daemon.call("Reload")["changed"] == [f"link/{name}"]
            stream(talker, range(100 + 100 * count, 150 + 100 * count), heard)
        assert heard.wait(450) == [*range(450)]
        wait_for(lambda: one.status("two")["counters"]["handshakes"] == 2)  # by which one knows of repair
        wait_for(lambda: one.status("two")["message_bytes"] == 1300 - 28)
        assert one.status("two")["taken"] == taken
        one.daemon.write(table("two", where, one.key("key"), send='["239.9.0.0/16"]'))
        one.daemon.call("Reload")
        wait_for(lambda: one.status("two")["refused_wants"] == ["239.1.0.0/16 any"])
        wait_for(lambda: one.status("two")["taken"] == [])
        stream(talker, range(450, 500), heard)
        assert heard.wait(450) == [*range(450)]
        assert one.status("two")["counters"]["handshakes"] == 2
        one.daemon.write(table("two", f'{where[:-1]}:9470"', one.key("key")))
        two.daemon.write(
            table("one", 'connect = "198.51.100.1:9470"', two.key("key"), want='["239.1.0.0/16"]')
        )
        one.daemon.call("Reload")
        two.daemon.call("Reload")
        wait_for(lambda: one.status("two")["counters"]["handshakes"] == 3)
        wait_for(lambda: one.status("two")["taken"] == taken)
        stream(talker, range(500, 550), heard)
        assert heard.wait(500) == [*range(450), *range(500, 550)]
        assert assert_accounted(one, "two")["sent"] == 500


def test_a_star_with_losses(tmp_path: Path) -> None:
    """3 % of what comes to any of them is lost. The hub hands on, and each gets all of it once."""
    with sites(4, tmp_path) as all_sites:
        hub, *spokes = all_sites
        start(all_sites, [(2, 1), (3, 1), (4, 1)], transit="true", repair='"10s"')
        for site in all_sites:
            site.lose(3)
        for site in (hub, *spokes[1:]):
            site.listen()
        spokes[0].wait_taken("to-1", GROUPS[4])
        for number in (3, 4):
            hub.wait_wanted(f"to-{number}", GROUPS[4])
        heard = [Heard(site) for site in (hub, *spokes[1:])]
        stream(spokes[0].talker(), range(1000), *heard)
        for found in heard:
            assert sorted(found.wait(1000)) == [*range(1000)]
        for spoke in spokes:
            assert_accounted(spoke, "to-1")
        counters = [assert_accounted(hub, f"to-{number}") for number in (2, 3, 4)]
        assert [one["sent"] for one in counters[1:]] == [1000, 1000]
        assert sum(one["repaired"] for one in counters) + sum(
            spoke.status("to-1")["counters"]["repaired"] for spoke in spokes
        )


def test_a_slow_way_that_loses(tmp_path: Path) -> None:
    """80 ms there and back, a tenth later than the rest, 3 % lost each way: all of it, once, in order."""
    with contextlib.ExitStack() as stack:
        wide, router = stack.enter_context(Switch()), stack.enter_context(Host())
        one, two = (Site(number, wide, stack, tmp_path) for number in (1, 2))
        wide.plug(router, "wan", "198.51.100.254/24")
        one.start(table("two", 'listen = "0.0.0.0"', one.key("key"), repair='"10s"'))
        end = "198.51.100.1", 9466
        wire = stack.enter_context(SlowWire(router, "198.51.100.254", end, seconds=0.04, loss=0.03))
        where = f'connect = "198.51.100.254:{wire.port}"'
        two.start(table("one", where, two.key("key"), repair='"10s"'))
        one.wait_up("two")
        two.listen()
        one.wait_taken("two", GROUPS[4])
        heard = Heard(two)
        stream(one.talker(), range(2000), heard)
        assert heard.wait(2000) == [*range(2000)]
        counters = assert_accounted(two, "one")
        assert counters["lost"] == 0
        assert counters["repaired"] > 5
        assert one.status("two")["counters"]["resent"] > 5  # some that are asked for come by themselves
        assert two.status("one")["round_trip_ms"] > 70


def test_a_ring_outlives_a_site_that_is_killed(tmp_path: Path) -> None:
    with sites(4, tmp_path) as all_sites:
        one, two, three, four = all_sites
        start(all_sites, [(1, 2), (2, 3), (3, 4), (4, 1)], transit="true", repair='"2s"')
        for site in (two, three, four):
            site.listen()
        one.wait_taken("to-2", GROUPS[4])
        one.wait_taken("to-4", GROUPS[4])
        for site, link in ((two, "to-3"), (four, "to-3")):
            site.wait_wanted(link, GROUPS[4])
        heard, talker = {site.number: Heard(site) for site in (two, three, four)}, one.talker()
        stream(talker, range(200), *heard.values())
        for found in heard.values():
            assert sorted(found.wait(200)) == [*range(200)]

        def copies() -> int:  # by the longer way, which may take longer
            dropped = [
                site.status(link)["counters"]["dropped"]
                for site in (two, three, four)
                for link in links(site)
            ]
            return sum(one.get("other-link", 0) for one in dropped)

        wait_for(copies, "copies")
        two.daemon.send(signal.SIGKILL)
        two.daemon.process.wait()
        stream(talker, range(200, 400), *heard.values())
        for number in (3, 4):
            assert sorted(heard[number].wait(400)) == [*range(400)]
        wait_for(lambda: not three.status("to-2")["up"])
        wait_for(lambda: three.worker("to-2")["troubled"], "the worker to say it")


def links(site: Site) -> list[str]:
    return [name.removeprefix("link/") for name in site.daemon.workers()]


def test_a_mesh_of_five(tmp_path: Path) -> None:
    with sites(5, tmp_path) as all_sites:
        start(all_sites, [*combinations(range(1, 6), 2)])
        for site in all_sites:
            site.listen()
        for one in all_sites:
            for two in all_sites:
                if one is not two:
                    one.wait_taken(f"to-{two.number}", GROUPS[4])
        heard = {site.number: Heard(site) for site in all_sites}
        for site in all_sites:
            stream(site.talker(), range(1000 * site.number, 1000 * site.number + 50), *heard.values())
        for site in all_sites:
            others = [other for other in all_sites if other is not site]
            expected = [1000 * other.number + n for other in others for n in range(50)]
            assert sorted(heard[site.number].wait(200)) == expected
        for site in all_sites:
            for link in links(site):
                counters = assert_accounted(site, link)
                assert (counters["sent"], counters["forwarded"], counters["unsent"]) == (50, 50, {})


def test_a_site_behind_a_nat_whose_address_changes(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        wide, inner, nat = (stack.enter_context(one) for one in (Switch(), Switch(), Host()))
        hub, spoke = Site(1, wide, stack, tmp_path), Site(2, inner, stack, tmp_path)
        wide.plug(nat, "out", "198.51.100.99/24")
        inner.plug(nat, "in", "192.168.7.1/24")
        sysctl(nat, ipv4__ip_forward=1)
        rule = 'oifname "out" masquerade random'
        nft(nat, f"table ip nat {{ chain post {{ type nat hook postrouting priority 100; {rule}; }}; }}")
        for command in (
            "addr flush dev wan",
            "addr add 192.168.7.2/24 dev wan",
            "route add default via 192.168.7.1",
        ):
            spoke.gateway.ip(command)
        hub.start(table("spoke", 'listen = "0.0.0.0"', hub.key("key")))
        spoke.start(table("hub", 'connect = "198.51.100.1"', spoke.key("key"), keepalive='"1s"'))
        hub.wait_up("spoke")
        spoke.listen()
        hub.wait_taken("spoke", GROUPS[4])
        assert hub.status("spoke")["peer"].startswith("198.51.100.99:")
        heard, talker = Heard(spoke), hub.talker()
        stream(talker, range(50), heard)
        assert heard.wait(50) == [*range(50)]
        # The provider gives it another address: all that the NAT knew is void
        wide.batch("addr del 198.51.100.99/24 dev out", "addr add 198.51.100.98/24 dev out", host=nat)
        wait_for(lambda: hub.status("spoke")["peer"].startswith("198.51.100.98:"), "the other address")
        hub.wait_up("spoke")
        stream(talker, range(50, 100), heard)
        assert heard.wait(100) == [*range(100)]
        assert hub.status("spoke")["counters"]["roamed"] == 1


@pytest.mark.parametrize("network", ['interface = "lan"', "transit = true"], ids=["lan", "transit"])
@pytest.mark.parametrize("moves", ["listening", "connecting"])
def test_a_site_that_gets_another_address_is_found_there_at_once(
    moves: str, network: str, tmp_path: Path
) -> None:
    """The kernel tells: neither waits until it would say that it is there, which is long after this test."""
    with sites(2, tmp_path) as (one, two):
        for site, name, where in (
            (one, "two", 'listen = "0.0.0.0"'),
            (two, "one", 'connect = "198.51.100.1"\nkeepalive = "2min"'),
        ):
            config = f'[link.{name}]\n{where}\nkey = "{site.key("key")}"\nsend = ["239.0.0.0/8"]\n{network}\n'
            site.start(config)
        two.wait_up("one")
        one.wait_up("two")
        # Else it speaks by itself, since it has just begun
        wait_for(lambda: (two.status("one")["key_age"] or 0) > 1.5)
        site, name, other, peer = (
            (one, "two", two, "one") if moves == "listening" else (two, "one", one, "two")
        )
        site.gateway.ip(f"addr del 198.51.100.{site.number}/24 dev wan")
        site.gateway.ip("addr add 198.51.100.77/24 dev wan")
        wait_for(lambda: other.status(peer)["peer"].startswith("198.51.100.77:"), "the other address")
        assert site.status(name)["up"]
        assert site.status(name)["counters"]["handshakes"] == 1


def test_a_hub_of_several_addresses_answers_from_the_one_that_was_asked(tmp_path: Path) -> None:
    """As one has of two providers, or shares with another host: firewalls pass answers from there alone."""
    with sites(2, tmp_path) as (hub, spoke):
        hub.gateway.ip("addr add 198.51.100.77/24 dev wan")
        rules = 'iifname "wan" meta l4proto udp ct state != { established, related } drop'
        nft(spoke.gateway, f"table inet fw {{ chain in {{ type filter hook input priority 0; {rules}; }}; }}")
        hub.start(table("spoke", 'listen = "0.0.0.0"', hub.key("key")))
        spoke.start(table("hub", 'connect = "198.51.100.77"', spoke.key("key")))
        spoke.wait_up("hub")
        spoke.listen()
        hub.wait_taken("spoke", GROUPS[4])
        heard = Heard(spoke)
        stream(hub.talker(), range(50), heard)
        assert heard.wait(50) == [*range(50)]
        assert spoke.status("hub")["peer"] == "198.51.100.77:9466"


def test_what_keeps_a_link_down_is_said(tmp_path: Path) -> None:
    with sites(2, tmp_path) as (one, two):
        one.start(table("two", 'listen = "0.0.0.0"', one.key("key")))
        wait_for(lambda: one.worker("two")["detail"] == "waiting for its peer at 0.0.0.0")
        assert one.worker("two")["troubled"]
        two.start(table("one", 'connect = "198.51.100.1"', two.key("key", 50)))
        wait_for(lambda: "sealed by another key" in one.worker("two")["detail"])
        wait_for(lambda: two.worker("one")["detail"] == "connecting to 198.51.100.1")
        two.daemon.write(table("one", 'listen = "198.51.100.77"', two.key("key")))
        two.daemon.call("Reload")
        wait_for(lambda: "198.51.100.77" in two.status("one")["hindrance"])
        two.gateway.ip("addr add 198.51.100.77/24 dev wan")  # its worker is told, and looks again at once
        wait_for(lambda: not two.status("one")["hindrance"])
        one.daemon.write(table("two", 'connect = "198.51.100.77"', one.key("key")))
        one.daemon.call("Reload")
        one.wait_up("two")


def test_a_way_that_is_too_narrow_is_said_until_it_is_wider(tmp_path: Path) -> None:
    with sites(2, tmp_path) as (one, two):
        start([one, two], [(1, 2)])
        two.listen()
        one.wait_taken("to-2", GROUPS[4])
        one.gateway.ip("link set wan mtu 700")
        heard, talker, sent = Heard(two), one.talker(), itertools.count()

        def says_it() -> bool:
            talker.sendto(b"%d " % next(sent) + bytes(1000), (GROUPS[4], PORT))
            return "do not arrive at the peer" in one.worker("to-2")["detail"]

        wait_for(says_it, "what is too narrow")
        assert one.worker("to-2")["troubled"]
        one.gateway.ip("link set wan mtu 1500")
        wait_for(lambda: not one.worker("to-2")["troubled"], "that it is wider")
        first = next(sent)
        stream(talker, range(first, first + 5), heard)
        wait_for(lambda: first + 4 in heard.take(), "datagrams")


def test_what_a_link_may_not_is_said_and_goes_on_when_it_may(tmp_path: Path) -> None:
    with sites(1, tmp_path) as (one,):
        config = table("two", 'listen = "0.0.0.0"', one.key("key"))
        daemon = one.start(config, rights=AS_A_SERVICE)
        detail = daemon.wait_state("link/two", "auto-restart")["detail"]  # between two attempts
        assert "cannot take packets on any interface (AF_PACKET): operation not permitted" in detail
        report = daemon.call("Doctor", name="two", watch=0.0)
        (finding,) = [one for one in report["findings"] if one["worker"]]
        assert finding["fix"] == "this takes CAP_NET_RAW: see the drop-in for links in mcastd(8)"
        daemon.write(config.replace('interface = "lan"', "transit = true").replace('want = "members"', ""))
        daemon.call("Reload")
        daemon.wait_state("link/two", "active")  # without a network here it needs no right
        assert daemon.stop() == 0
    (tmp_path / "again").mkdir()
    with sites(1, tmp_path / "again") as (one,):
        key = one.key("key")
        key.chmod(0o644)
        daemon = one.start(table("two", 'listen = "0.0.0.0"', key))
        detail = daemon.wait_state("link/two", "auto-restart")["detail"]
        assert f"its mode 0644 opens it to others than its owner; chmod 600 {key}" in detail
        key.chmod(0o600)
        assert daemon.call("Reload")["unchanged"] == ["link/two"]
        daemon.wait_state("link/two", "active")


def test_the_network_here_may_come_late_and_go(tmp_path: Path) -> None:
    with sites(2, tmp_path) as (one, two):
        one.gateway.ip("link set lan name away")
        one.start(table("two", 'listen = "0.0.0.0"', one.key("key")))
        two.start(table("one", 'connect = "198.51.100.1"', two.key("key")))
        one.wait_up("two")
        two.listen()
        absent = "lan: no such interface; waiting for it"
        wait_for(lambda: one.status("two")["troubles"] == [absent])
        assert one.worker("two")["troubled"]
        one.gateway.ip("link set away name lan")
        one.wait_taken("two", GROUPS[4])
        wait_for(lambda: one.status("two")["troubles"] == [])
        heard, talker = Heard(two), one.talker()
        stream(talker, range(50), heard)
        assert heard.wait(50) == [*range(50)]
        two.gateway.ip("link set lan name away")
        wait_for(lambda: two.status("one")["troubles"] == [absent])
        # Or the group would seem to be wanted again while it still is as before
        wait_for(lambda: one.status("two")["peer_wants"] == [], "that nothing is wanted")
        two.gateway.ip("link set away name lan")
        wait_for(lambda: two.status("one")["troubles"] == [])
        one.wait_taken("two", GROUPS[4])
        stream(talker, range(50, 100), heard)
        assert heard.wait(100) == [*range(100)]


def test_what_subscriptions_of_the_daemon_receive_is_wanted(tmp_path: Path) -> None:
    with sites(2, tmp_path) as (one, two):
        output = two.directory / "received"
        config = table("one", 'connect = "198.51.100.1"', two.key("key"), want='"config"')
        news = f'[inbound.news]\ngroup = "{GROUPS[4]}"\nport = 5004\ninterface = "lan"\noutput = "{output}"\n'
        one.start(table("two", 'listen = "0.0.0.0"', one.key("key")))
        two.start(config)
        one.wait_up("two")
        assert one.status("two")["peer_wants"] == []
        two.daemon.write(f'{config}{news}sources = ["{one.addresses[4]}"]\n')
        assert two.daemon.call("Reload")["unchanged"] == ["link/one"]
        wait_for(lambda: one.status("two")["peer_wants"] == [f"{GROUPS[4]} include {one.addresses[4]}"])
        two.daemon.wait_state("inbound/news", "active")
        one.wait_taken("two", GROUPS[4])
        stream(one.talker(), range(20))
        wait_for(lambda: two.daemon.worker("inbound/news")["status"]["counters"]["received"] == 20)
        assert two.daemon.worker("inbound/news")["status"]["last_source"] == one.addresses[4]
        two.daemon.write(config)
        two.daemon.call("Reload")
        wait_for(lambda: one.status("two")["peer_wants"] == [])
        assert two.status("one")["counters"]["handshakes"] == 1


def test_a_link_that_was_stopped_is_begun_anew_and_one_that_is_removed_leaves_nothing(tmp_path: Path) -> None:
    with sites(2, tmp_path) as (one, two):
        daemon = one.start('[discover.nothing]\ninterface = "lan"\n')
        _, before = daemon.settled()
        daemon.write(table("two", 'listen = "0.0.0.0"', one.key("key")))
        daemon.call("Reload")
        two.start(table("one", 'connect = "198.51.100.1"', two.key("key")))
        two.listen()
        one.wait_taken("two", GROUPS[4])
        heard, talker = Heard(two), one.talker()
        stream(talker, range(50), heard)
        heard.wait(50)
        assert daemon.ctl("stop-worker", "two").returncode == 0
        wait_for(lambda: not two.status("one")["up"])
        stopped = daemon.wait_state("link/two", "inactive")
        assert stopped["status"]["counters"]["sent"] == 50
        assert (stopped["status"]["up"], stopped["status"]["local_port"]) == (False, None)
        assert daemon.ctl("start-worker", "two").returncode == 0
        one.wait_taken("two", GROUPS[4])
        stream(talker, range(50, 80), heard)
        assert heard.wait(80) == [*range(80)]
        assert one.status("two")["counters"]["sent"] == 30
        daemon.write('[discover.nothing]\ninterface = "lan"\n')
        assert daemon.call("Reload")["removed"] == ["link/two"]
        wait_for(
            lambda: daemon.settled()[1] <= before + 1, "its descriptors closed"
        )  # the bell of the links stays
        assert daemon.stop() == 0


def test_a_ttl_of_one_is_counted_and_stays(tmp_path: Path) -> None:
    with sites(2, tmp_path) as (one, two):
        one.start(table("two", 'listen = "0.0.0.0"', one.key("key")))
        two.start(table("one", 'connect = "198.51.100.1"', two.key("key")))
        one.wait_up("two")
        two.listen()
        one.wait_taken("two", GROUPS[4])
        heard = Heard(two)
        stream(one.talker(ttl=1), range(30), heard)
        stream(one.talker(ttl=2), range(30, 40), heard)
        assert heard.wait(10) == [*range(30, 40)]
        counters = one.status("two")["counters"]
        assert (counters["sent"], counters["unsent"]) == (10, {"ttl": 30})


def test_two_daemons_at_one_site_take_and_give_each_datagram_once(tmp_path: Path) -> None:
    """The second one rests while the first is there, and goes on when that is killed."""
    with contextlib.ExitStack() as stack:
        wide = stack.enter_context(Switch())
        far, first = (Site(number, wide, stack, tmp_path) for number in (1, 2))
        second = Site(3, wide, stack, tmp_path, beside=first)
        far.start(
            table("first", 'listen = "0.0.0.0"', far.key("key-1", 1))
            + table("second", 'listen = "0.0.0.0:9467"', far.key("key-2", 2), standby_of='"first"')
        )
        of_first = table("far", 'connect = "198.51.100.1"', first.key("key-1", 1))
        first.start(of_first)
        second.start(table("far", 'connect = "198.51.100.1:9467"', second.key("key-2", 2)))
        far.wait_up("first", "second")
        wait_for(lambda: far.status("second")["rests"])
        resting = ", and rests: another link to the same site is in use"
        wait_for(lambda: far.worker("second")["detail"].endswith(resting), "the worker to say it")
        assert not far.worker("second")["troubled"]
        first.listen()
        far.listen()
        far.wait_taken("first", GROUPS[4])
        first.wait_taken("far", GROUPS[4])
        at_far, at_first = Heard(far), Heard(first)
        from_far, from_first = far.talker(), first.talker()
        stream(from_far, range(100), at_first)
        stream(from_first, range(1000, 1100), at_far)
        assert at_first.wait(100) == [*range(100)]
        assert at_far.wait(100) == [*range(1000, 1100)]
        assert second.status("far")["counters"]["received"] == second.status("far")["counters"]["sent"] == 0

        first.daemon.send(signal.SIGKILL)
        first.daemon.process.wait()
        wait_for(
            lambda: from_far.sendto(b"%d" % PROBE, (GROUPS[4], PORT)) and not far.status("second")["rests"]
        )
        second.wait_taken("far", GROUPS[4])
        at_far.numbers, at_first.numbers = [], []
        stream(from_far, range(100, 200), at_first)
        stream(from_first, range(1100, 1200), at_far)
        assert at_first.wait(100) == [*range(100, 200)]
        assert at_far.wait(100) == [*range(1100, 1200)]

        at_first.numbers = []
        numbers = itertools.count(2000)

        def is_back() -> bool:
            """Meanwhile more is sent, of which nothing is lost, and nothing comes twice."""
            stream(from_far, range(number := next(numbers), number + 1), at_first)
            return bool(far.status("second")["rests"])

        first.start(of_first)
        wait_for(is_back)
        last = next(numbers)
        assert sorted(at_first.wait(last - 2000)) == [*range(2000, last)]
        first.wait_taken("far", GROUPS[4])
        at_far.numbers, at_first.numbers = [], []
        stream(from_far, range(200, 300), at_first)
        stream(from_first, range(1200, 1300), at_far)
        assert at_first.wait(100) == [*range(200, 300)]
        assert at_far.wait(100) == [*range(1200, 1300)]


def test_a_link_in_clear(tmp_path: Path) -> None:
    """As it may be inside WireGuard or IPsec."""
    with sites(2, tmp_path) as (one, two):
        for site, name, where in (
            (one, "two", 'listen = "0.0.0.0"'),
            (two, "one", 'connect = "198.51.100.1"'),
        ):
            clear = table(name, where, site.key("key")).replace(
                f'key = "{site.key("key")}"', 'security = "none"'
            )
            site.start(clear)
        one.wait_up("two")
        two.listen()
        one.wait_taken("two", GROUPS[4])
        heard = Heard(two)
        stream(one.talker(), range(100), heard)
        assert heard.wait(100) == [*range(100)]
        assert two.status("one")["security"] == "none"


def test_a_hub_that_is_killed_comes_back(tmp_path: Path) -> None:
    """It knows nothing of before; its peers find it again by themselves, and tell it what they want."""
    with sites(3, tmp_path) as (hub, sender, member):
        config = "".join(
            table(name, f'listen = "0.0.0.0:{9470 + number}"', hub.key(name, number), transit="true")
            for name, number in (("sender", 2), ("member", 3))
        )
        hub.start(config)
        for site in (sender, member):
            where = f'connect = "198.51.100.1:{9470 + site.number}"'
            site.start(table("hub", where, site.key("key", site.number), keepalive='"1s"'))
        member.listen()
        heard, talker = Heard(member), sender.talker()
        for run in (1, 2):
            hub.wait_up("sender", "member")
            hub.wait_wanted("member", GROUPS[4])
            for site in (sender, member):
                wait_for(lambda site=site, run=run: site.status("hub")["counters"]["handshakes"] >= run)
            sender.wait_taken("hub", GROUPS[4])
            stream(talker, range(100 * run, 100 * run + 100), heard)
            assert heard.wait(100 * run) == [*range(100, 100 * run + 100)]
            assert_accounted(hub, "sender")
            if run == 1:
                hub.daemon.send(signal.SIGKILL)
                hub.daemon.process.wait()
                wait_for(lambda: not sender.status("hub")["up"] and not member.status("hub")["up"])
                wait_for(lambda: sender.worker("hub")["troubled"], "it is told")
                hub.start(config)
