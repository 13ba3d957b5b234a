"""``sdp`` of a subscription: what a description says is filled in, and what contradicts it is refused."""

from __future__ import annotations

import importlib
import os
import tomllib
from ipaddress import ip_address
from pathlib import Path

import pytest

from mcastd.config import Config, InboundSubscription, diff, dump, examine, load
from mcastd.errors import ConfigError
from mcastd.ondisk import OnDisk

HEAD = "v=0\no=- 7 1 IN IP4 192.0.2.9\ns=News\nt=0 0\n"
NEWS = (
    f"{HEAD}c=IN IP4 239.192.1.2/8\nm=video 5004 RTP/AVP 33\n"
    "a=source-filter: incl IN IP4 239.192.1.2 192.0.2.9\n"
)
LEGS = (
    f"{HEAD}a=group:DUP one two\nm=audio 5004 RTP/AVP 97\nc=IN IP4 239.0.1.1/32\n"
    "a=source-filter: incl IN IP4 239.0.1.1 192.168.1.1\na=mid:one\n"
    "m=audio 5006 RTP/AVP 97\nc=IN IP4 239.0.2.1/32\na=mid:two\n"
)
TWO = f"{HEAD}c=IN IP4 239.192.1.3/8\nm=audio 5008 RTP/AVP 0\nm=video 5010 RTP/AVP 31\n"


class Files:
    """A configuration of one subscription, and the description that it names."""

    def __init__(self, directory: Path, description: str | None = NEWS, keys: str = "") -> None:
        self.sdp, self.toml = directory / "news.sdp", directory / "mcastd.toml"
        if description is not None:
            self.sdp.write_text(description)
        self.write(f'sdp = "{self.sdp}"\n{keys}')

    def write(self, keys: str) -> None:
        self.toml.write_text(f'[inbound.news]\n{keys}\noutput = "/srv/news"\n')

    def load(self) -> InboundSubscription:
        return load(self.toml).inbound["news"]

    def refusal(self) -> str:
        with pytest.raises(ConfigError) as refused:
            self.load()
        (problem,) = refused.value.problems
        return str(problem).replace(str(self.sdp), "SDP").partition(" inbound.news.")[2]


def received(one: InboundSubscription) -> tuple[str, int, list[str], list[str]]:
    return str(one.group), one.port, list(map(str, one.sources)), list(map(str, one.exclude_sources))


def test_what_it_says_is_filled_in(tmp_path: Path) -> None:
    assert received(Files(tmp_path).load()) == ("239.192.1.2", 5004, ["192.0.2.9"], [])
    excluding = NEWS.replace("incl", "excl")
    assert received(Files(tmp_path, excluding).load()) == ("239.192.1.2", 5004, [], ["192.0.2.9"])


def test_a_description_in_the_configuration_itself(tmp_path: Path) -> None:
    files = Files(tmp_path, None)
    files.write(f'sdp = """\n{NEWS}"""')
    assert received(files.load()) == ("239.192.1.2", 5004, ["192.0.2.9"], [])
    config = Config.model_validate({"inbound": {"news": {"sdp": NEWS, "output": "/srv/news"}}})
    assert config == load(files.toml)


def test_keys_that_say_the_same_are_no_contradiction(tmp_path: Path) -> None:
    same = 'group = "239.192.1.2"\nport = 5004\nsources = ["192.0.2.9"]'
    assert Files(tmp_path, keys=same).load() == Files(tmp_path).load()


def test_it_is_written_back_and_read_the_same(tmp_path: Path) -> None:
    files = Files(tmp_path)
    config = load(files.toml)
    again = tmp_path / "again.toml"
    again.write_text(dump(config))
    assert tomllib.loads(again.read_text())["inbound"]["news"]["sdp"] == str(files.sdp)
    assert load(again) == config


def test_the_file_is_read_again(tmp_path: Path) -> None:
    files = Files(tmp_path)
    on_disk = OnDisk(files.toml)
    running, _ = on_disk.read()
    assert not on_disk.verdict(running).cause
    assert not on_disk.verdict(running).cause
    files.sdp.write_text(NEWS.replace("5004", "5014"))
    os.utime(files.sdp, ns=(1, 1))  # at another time, whatever the clock of the file system shows
    assert on_disk.verdict(running).cause == "config-differs"
    now, _ = on_disk.read()
    assert diff(running, now).changed == ("inbound/news",)
    assert now.inbound["news"].port == 5014


def test_one_stream_by_two_ways(tmp_path: Path) -> None:
    files = Files(tmp_path, LEGS)
    assert received(files.load()) == ("239.0.1.1", 5004, ["192.168.1.1"], [])
    (warning,) = [one for one in examine(files.toml)[1] if one.path == "inbound.news.sdp"]
    assert "by 2 ways, of which 239.0.1.1 port 5004 is received" in warning.reason
    assert received(Files(tmp_path, LEGS, 'group = "239.0.2.1"').load()) == ("239.0.2.1", 5006, [], [])


def test_one_stream_by_two_ways_is_received_by_both_if_it_has_numbers(tmp_path: Path) -> None:
    files = Files(tmp_path, LEGS, 'protocol = "rtp"\ninterface = "eth0"')
    one = files.load()
    assert [received(leg) for leg in one.by_leg()] == [
        ("239.0.1.1", 5004, ["192.168.1.1"], []),
        ("239.0.2.1", 5006, [], []),
    ]
    assert [leg.interface for leg in one.legs] == ["eth0", "eth0"]
    assert received(one) == ("239.0.1.1", 5004, ["192.168.1.1"], [])
    files.toml.write_text(dump(load(files.toml)))
    assert files.load() == one
    alone = Files(tmp_path, LEGS, 'protocol = "rtp"\nport = 5006').load()
    assert (alone.legs, alone.port) == ((), 5006)


@pytest.mark.parametrize(
    "keys",
    [
        "fec = true",
        'reorder = "0.1s"',
        'via = "amt"',
        'via = { kind = "amt", relay = "192.0.2.1" }',
        'via = "amt-fallback"',
    ],
)
def test_one_stream_by_two_ways_is_received_by_the_first_where_several_do_not_go(
    tmp_path: Path, keys: str
) -> None:
    one = Files(tmp_path, LEGS, f'protocol = "rtp"\nexpect_every = "5s"\n{keys}').load()
    assert (one.legs, *received(one)) == ((), "239.0.1.1", 5004, ["192.168.1.1"], [])


PLAIN = LEGS.replace("a=source-filter: incl IN IP4 239.0.1.1 192.168.1.1\n", "")
SIX = LEGS.replace("IN IP4 239.0.2.1/32", "IN IP6 ff3e::2:1")
TO_SECOND = '[{ kind = "group", group = "239.0.2.1", port = 5006 }, "/srv/more"]'
BY_TTL = '[{ kind = "group", group = "239.9.2.1", port = 5016, ttl = 4 }, "/srv/more"]'


@pytest.mark.parametrize(
    ("description", "keys", "sources", "excluded"),
    [
        (PLAIN, {"sources": '["192.168.3.1"]'}, ["192.168.3.1"], []),
        (PLAIN, {"exclude_sources": '["192.168.4.1"]'}, [], ["192.168.4.1"]),
        (SIX, {"interface": '"192.0.2.1"'}, ["192.168.1.1"], []),
        (LEGS, {"output": TO_SECOND}, ["192.168.1.1"], []),
        (LEGS, {"output": BY_TTL}, ["192.168.1.1"], []),
    ],
    ids=["sources", "exclude_sources", "interface", "output to the second", "output with a ttl"],
)
def test_one_stream_by_two_ways_is_received_by_the_first_where_a_key_does_not_suit_the_second(
    tmp_path: Path, description: str, keys: dict[str, str], sources: list[str], excluded: list[str]
) -> None:
    """Nobody has written the legs: that they do not fit refuses no configuration."""
    files = Files(tmp_path, description)
    table = {"sdp": f'"{files.sdp}"', "protocol": '"rtp"', "output": '"/srv/news"', **keys}
    lines = (f"{key} = {value}\n" for key, value in table.items())
    files.toml.write_text(f"[inbound.news]\n{''.join(lines)}")
    one = files.load()
    assert (one.legs, *received(one)) == ((), "239.0.1.1", 5004, sources, excluded)
    (warning,) = [note.reason for note in examine(files.toml)[1] if note.path == "inbound.news.sdp"]
    assert "by 2 ways, of which 239.0.1.1 port 5004 is received; a protocol with numbers" in warning
    files.toml.write_text(dump(load(files.toml)))
    assert files.load() == one


def test_sources_of_the_first_way_may_be_written_beside_it(tmp_path: Path) -> None:
    files = Files(tmp_path, LEGS, 'protocol = "rtp"\nsources = ["192.168.1.1"]')
    assert [leg.sources for leg in files.load().legs] == [(ip_address("192.168.1.1"),), ()]


@pytest.mark.parametrize(
    ("old", "new"),
    [("audio 5006", "audio 0"), ("239.0.2.1/32", "192.0.2.5")],
    ids=["not offered", "unicast"],
)
def test_ways_that_go_to_no_group_are_no_legs(tmp_path: Path, old: str, new: str) -> None:
    two = Files(tmp_path, LEGS.replace(old, new), 'protocol = "rtp"')
    one = two.load()
    assert (one.legs, *received(one)) == ((), "239.0.1.1", 5004, ["192.168.1.1"], [])
    (warning,) = [note.reason for note in examine(two.toml)[1] if note.path == "inbound.news.sdp"]
    assert warning.endswith("of which 239.0.1.1 port 5004 is received; no other one is sent to a group")
    third = "m=audio 5008 RTP/AVP 97\nc=IN IP4 239.0.3.1/32\na=mid:three\n"
    of_three = LEGS.replace(old, new).replace("DUP one two", "DUP one two three") + third
    ways = [("239.0.1.1", 5004, ["192.168.1.1"], []), ("239.0.3.1", 5008, [], [])]
    assert [received(leg) for leg in Files(tmp_path, of_three, 'protocol = "rtp"').load().by_leg()] == ways
    each = 'protocol = "rtp"\nlegs = [{ interface = "eth0" }, { interface = "eth1" }]'
    named = Files(tmp_path, of_three, each).load()
    assert [received(leg) for leg in named.by_leg()] == ways
    assert [leg.interface for leg in named.legs] == ["eth0", "eth1"]


def test_one_stream_by_two_ways_without_numbers_is_merged_by_payload_where_that_is_said(
    tmp_path: Path,
) -> None:
    assert len(Files(tmp_path, LEGS, 'merge = "payload"').load().legs) == 2


@pytest.mark.parametrize("reorder", ["0", '"0s"'])
def test_no_wait_for_order_keeps_none_of_two_ways_away(tmp_path: Path, reorder: str) -> None:
    assert len(Files(tmp_path, LEGS, f'protocol = "rtp"\nreorder = {reorder}').load().legs) == 2


@pytest.mark.parametrize(("ways", "legs"), [(8, 8), (9, 0)])
def test_of_more_ways_than_a_subscription_has_it_is_the_first(tmp_path: Path, ways: int, legs: int) -> None:
    media = [
        f"m=audio {5004 + 2 * way} RTP/AVP 97\nc=IN IP4 239.0.{way}.1/32\na=mid:w{way}\n"
        for way in range(ways)
    ]
    names = " ".join(f"w{way}" for way in range(ways))
    files = Files(tmp_path, f"{HEAD}a=group:DUP {names}\n{''.join(media)}", 'protocol = "rtp"')
    one = files.load()
    assert (len(one.legs), *received(one)) == (legs, "239.0.0.1", 5004, [], [])
    warned = [note.reason for note in examine(files.toml)[1] if note.path == "inbound.news.sdp"]
    assert ["by 9 ways, of which 239.0.0.1 port 5004 is received" in reason for reason in warned] == (
        [] if legs else [True]
    )


def test_of_one_way_that_is_described_twice_it_is_that_one(tmp_path: Path) -> None:
    same = LEGS.replace("5006", "5004").replace("239.0.2.1", "239.0.1.1")
    same = "".join(line for line in same.splitlines(keepends=True) if "source-filter" not in line)
    one = Files(tmp_path, same, 'protocol = "rtp"').load()
    assert (one.legs, *received(one)) == ((), "239.0.1.1", 5004, [], [])
    each = 'protocol = "rtp"\nlegs = [{ interface = "eth0" }, { interface = "eth1" }]'
    assert [leg.interface for leg in Files(tmp_path, same, each).load().legs] == ["eth0", "eth1"]


def test_legs_say_more_of_the_ways_that_are_described(tmp_path: Path) -> None:
    def legs(tables: str) -> Files:
        return Files(tmp_path, LEGS, f'protocol = "rtp"\nlegs = [{tables}]')

    one = legs('{ interface = "eth0" }, { interface = "eth1", sources = ["192.168.2.1"] }').load()
    assert [leg.interface for leg in one.legs] == ["eth0", "eth1"]
    assert [received(leg) for leg in one.by_leg()] == [
        ("239.0.1.1", 5004, ["192.168.1.1"], []),
        ("239.0.2.1", 5006, ["192.168.2.1"], []),
    ]
    assert legs("{}").refusal() == "sdp: SDP describes 2 ways: legs has to have a table for each"
    assert legs("{ port = 5 }, {}").refusal() == (
        "sdp: port of a leg contradicts SDP, which has 5004; leave one of the two out"
    )


def test_one_of_several_streams(tmp_path: Path) -> None:
    assert received(Files(tmp_path, TWO, "port = 5010").load()) == ("239.192.1.3", 5010, [], [])
    assert Files(tmp_path, TWO).refusal() == (
        "sdp: SDP describes several streams: 239.192.1.3 port 5008, 239.192.1.3 port 5010; add group and"
        " port of one"
    )


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ('group = "239.192.1.9"', "group: contradicts SDP, which has 239.192.1.2; leave one of the two out"),
        ("port = 5005", "port: contradicts SDP, which has 5004; leave one of the two out"),
        (
            'sources = ["192.0.2.8"]',
            "sources: contradicts SDP, which has 192.0.2.9; leave one of the two out",
        ),
        ('exclude_sources = ["192.0.2.8"]', 'exclude_sources: contradicts "sources"; keep one of the two'),
        (
            'group = "192.0.2.1"',
            "group: 192.0.2.1 is not a multicast address (IPv4: 224.0.0.0/4, IPv6: ff00::/8)",
        ),
    ],
)
def test_what_contradicts_it(tmp_path: Path, keys: str, why: str) -> None:
    assert Files(tmp_path, keys=keys).refusal() == why


@pytest.mark.parametrize(
    ("description", "why"),
    [
        (None, "sdp: SDP cannot be read: no such file or directory"),
        (
            NEWS.replace("33", "33\nx=1"),
            "sdp: SDP is no description of a session (SDP): line 7: this line has no place here",
        ),
        (
            NEWS + 20_000 * "\n",
            "sdp: SDP is no description of a session (SDP): it is longer than 16384 bytes",
        ),
        (HEAD, "sdp: SDP describes no stream that is sent to a group"),
        (NEWS.replace("239.192.1.2", "192.0.2.7"), "sdp: SDP describes no stream that is sent to a group"),
        (NEWS.replace("5004", "0"), "sdp: SDP describes no stream that is sent to a group"),
    ],
)
def test_what_is_no_description_of_a_stream(tmp_path: Path, description: str | None, why: str) -> None:
    assert Files(tmp_path, description).refusal() == why


def test_what_is_no_file(tmp_path: Path) -> None:
    files = Files(tmp_path, None)
    files.sdp.mkdir()
    assert files.refusal() == "sdp: SDP is a directory, not a file"
    for value in ('"news.sdp"', "7"):
        files.write(f"sdp = {value}")
        what = 'an absolute path, or a description that begins with "v=0"'
        assert files.refusal() == f"sdp: must be {what}, not {value}"


def test_a_mount_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object) -> bytes:
        raise TimeoutError

    monkeypatch.setattr(importlib.import_module("mcastd.config.load"), "ask", hang)
    assert Files(tmp_path).refusal() == "sdp: SDP cannot be read: its disk or mount does not answer"


def test_ipv6(tmp_path: Path) -> None:
    six = HEAD + "c=IN IP6 ff15::1:2\nm=video 5004 udp 33\n"
    one = Files(tmp_path, six).load()
    assert (one.group, one.port) == (ip_address("ff15::1:2"), 5004)
