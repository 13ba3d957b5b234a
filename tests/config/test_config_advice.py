"""What `mcastd check` warns of, each with its line; and its healthy neighbours, of which it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcastd.config import Config, InboundSubscription, OutboundChannel, examine
from mcastd.config.advice import advise

GOLDEN = Path(__file__).parent / "golden"


def test_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    _, warnings = examine(Path("unwise.toml"))
    assert "".join(f"{warning}\n" for warning in warnings) == Path("unwise.txt").read_text()


def advised(outbound: dict[str, object] | None = None, inbound: dict[str, object] | None = None) -> set[str]:
    """The keys that are warned of in a channel, or a subscription, or both on the same group and port."""
    both = {"group": "239.1.2.3", "port": 9}
    tables: dict[str, dict[str, object]] = {}
    if outbound is not None:
        tables["outbound"] = {"a": {"source": "/x", **both, **outbound}}
    if inbound is not None:
        tables["inbound"] = {"a": {"output": "/y", **both, **inbound}}
    return {str(complaint.location[-1]) for complaint in advise(Config.model_validate(tables))}


def test_nothing_is_advised_of_a_worker_that_is_not_enabled() -> None:
    assert advised({"ttl": 255}) == {"ttl"}
    assert advised({"ttl": 255, "enabled": False}) == set()
    assert advised({"loop": False}, {}) == {"loop"}
    assert advised({"loop": False}, {"enabled": False}) == set()


@pytest.mark.parametrize(
    ("channel", "keys"),
    [
        ({}, set()),
        ({"ttl": 32, "group": "ff1e:1::1"}, {"group"}),
        ({"ttl": 127}, set()),  # the boundaries of 239/8 hold it, as in the textbook
        ({"ttl": 128}, {"ttl"}),
        ({"ttl": 33, "group": "232.1.1.1"}, {"ttl"}),
        ({"ttl": 32, "group": "232.1.1.1"}, set()),
        ({"ttl": 64, "group": "ff15::1:2:3"}, set()),
        ({"group": "224.0.1.1"}, {"group"}),
        ({"group": "238.255.255.255"}, {"group"}),
        ({"group": "224.0.1.1", "ttl": 0}, set()),
        ({"group": "224.0.1.1", "interface": "lo"}, set()),
        ({"group": "233.252.1.1"}, set()),
        ({"group": "234.192.0.2"}, set()),
        ({"group": "ff3e:30:2001:db8::1"}, set()),  # of the owner of a prefix
        ({"group": "224.0.0.251"}, {"group"}),
        ({"group": "ff12::1:2:3", "ttl": 255}, {"ttl"}),
        ({"group": "ff02::fb"}, {"group"}),
        ({"group": "ff12::fb"}, set()),
        ({"group": "ff05::1:3"}, {"group"}),
        ({"group": "239.1.0.5"}, set()),
        ({"group": "239.0.0.5"}, {"group"}),
        ({"group": "239.128.0.5"}, {"group"}),
        ({"group": "239.128.1.5"}, set()),
        ({"max_datagram": 1473}, {"max_datagram"}),
        ({"max_datagram": 1472}, set()),
        ({"max_datagram": 1453, "group": "ff15::1:2:3"}, {"max_datagram"}),
        ({"max_datagram": 9000, "interface": "lo"}, set()),
        ({"framing": "file"}, set()),
        ({"rate": "10Gbit"}, set()),
        ({"rate": "10Gbit", "burst": "5ms"}, {"burst"}),
        ({"rate": 0, "burst": 1}, set()),
        ({"interval": 0}, {"interval"}),
        ({"interval": 0, "follow": True}, set()),
        ({"interval": 0, "ttl": 0}, set()),
        ({"source": {"kind": "udp", "listen": "192.0.2.1:5000"}}, set()),
        ({"source": {"kind": "udp", "listen": "0.0.0.0:5000"}}, {"source"}),
        ({"source": {"kind": "tcp-server", "listen": "[::]:5000"}}, {"source"}),
        ({"source": {"kind": "udp", "listen": "0.0.0.0:5000", "senders": ["192.0.2.0/24"]}}, set()),
        ({"source": {"kind": "tcp-server", "listen": "127.0.0.1:5000"}, "framing": "ts"}, set()),
        ({"framing": "ts"}, {"framing"}),
        ({"framing": "capture"}, {"framing"}),
        ({"framing": "ts", "timing": "pcr"}, set()),
        ({"framing": "ts", "rate": "5Mbit"}, set()),
        ({"framing": "capture", "interval": 2}, set()),
        ({"protocol": {"kind": "flute", "key": "k"}, "rate": "1Mbit"}, {"protocol"}),
        ({"protocol": {"kind": "flute", "key": "k", "sign_key": "s"}, "rate": "1Mbit"}, set()),
        ({"protocol": {"kind": "flute", "sign_key": "s"}, "rate": "1Mbit"}, set()),
        ({"protocol": {"kind": "flute", "key": "/k.key", "sign_key": "/s.sign"}, "rate": "1Mbit"}, set()),
        ({"protocol": {"kind": "flute", "key": "/s.sign", "sign_key": "s"}, "rate": "1Mbit"}, {"protocol"}),
    ],
    ids=str,
)
def test_a_channel(channel: dict[str, object], keys: set[str]) -> None:
    assert advised(channel) == keys


FILES: dict[str, object] = {"output": {"kind": "directory", "path": "/y"}}


@pytest.mark.parametrize(
    ("subscription", "keys"),
    [
        ({}, set()),
        ({"group": "224.0.0.251"}, set()),  # to listen harms nobody
        ({"group": "232.1.1.1"}, {"sources"}),
        ({"group": "232.1.1.1", "sources": ["192.0.2.1"]}, set()),
        ({"group": "ff3e::8000:1"}, {"sources"}),
        ({"group": "ff3e:30:2001:db8::1"}, set()),  # embedded prefix, not source-specific
        ({"receive_buffer": "1MiB"}, set()),
        ({"receive_buffer": "1023KiB"}, {"receive_buffer"}),
        ({"receive_buffer": "64KiB", "max_latency": 0}, set()),
        ({"output": [{"kind": "file", "path": "/y", "format": "json"}]}, set()),
        ({"output": "/y.pcapng"}, {"output"}),
        ({"output": {"kind": "tcp-server", "listen": "[::]:5000"}}, {"output"}),
        ({"output": {"kind": "tcp-server", "listen": "[::]:5000", "readers": ["2001:db8::/32"]}}, set()),
        ({"output": {"kind": "tcp-server", "listen": "127.0.0.1:5000"}}, set()),
        ({"output": {"kind": "fifo", "path": "/y.pcap", "format": "lines"}}, {"output"}),
        ({"output": {"kind": "file", "path": "/y.pcapng", "format": "pcapng"}}, set()),
        ({"output": "/y.ts", "protocol": "rtp"}, {"output"}),
        ({"output": {"kind": "file", "path": "/y.ts", "format": "payload"}, "protocol": "rtp"}, set()),
        ({"output": "/y.rtp", "protocol": "rtp"}, set()),
        ({"output": "/y.ts"}, set()),
        (FILES | {"protocol": {"kind": "flute", "keys": "k"}}, {"protocol"}),
        (FILES | {"protocol": {"kind": "flute", "keys": "k", "verify_keys": "v"}}, set()),
        (FILES | {"protocol": {"kind": "flute", "verify_keys": "v"}}, set()),
        (FILES | {"protocol": {"kind": "flute", "verify_keys": "/v.sign.pub"}}, set()),
        (FILES | {"protocol": {"kind": "flute", "verify_keys": ["/v.sign.pub", "/v.sign"]}}, {"protocol"}),
        (FILES | {"protocol": {"kind": "flute", "verify_keys": "v", "keys": "/k.sign"}}, {"protocol"}),
    ],
    ids=str,
)
def test_a_subscription(subscription: dict[str, object], keys: set[str]) -> None:
    assert advised(None, subscription) == keys


JSON = {"output": {"kind": "fifo", "path": "/y", "format": "json"}}


@pytest.mark.parametrize(
    ("channel", "subscription", "keys"),
    [
        ({"loop": False}, {}, {"loop"}),
        ({"loop": False}, {"port": 10}, set()),
        ({"loop": False, "interface": "eth0"}, {"interface": "eth1"}, set()),
        ({"loop": False, "interface": "eth0"}, {"interface": "all"}, {"loop"}),
        ({"rate": "500Mbit"}, JSON, {"format"}),
        ({"rate": "499Mbit"}, JSON, set()),
        ({"rate": "1Gbit"}, {}, set()),
        ({"rate": "1Gbit"}, {**JSON, "group": "239.1.2.4"}, set()),
    ],
    ids=str,
)
def test_what_this_host_sends_to_itself(
    channel: dict[str, object], subscription: dict[str, object], keys: set[str]
) -> None:
    assert advised(channel, subscription) == keys


@pytest.mark.parametrize(
    ("other", "warned"),
    [
        ({}, True),
        ({"port": 10}, False),
        ({"interface": "eth1"}, False),
        ({"group": "239.129.2.3"}, True),  # 32 groups share an Ethernet address
        ({"group": "239.129.2.3", "port": 10}, True),
        ({"group": "239.129.2.4"}, False),
    ],
    ids=str,
)
def test_two_channels(other: dict[str, object], warned: bool) -> None:
    one = {"source": "/x", "group": "239.1.2.3", "port": 9, "interface": "eth0"}
    config = Config.model_validate({"outbound": {"one": one, "two": {**one, **other}}})
    assert [complaint.location for complaint in advise(config)] == [("outbound", "two", "group")] * warned


@pytest.mark.parametrize(
    ("output", "advised"),
    [
        ("/tmp/news.log", True),
        ("/dev/shm/news.log", True),
        ({"kind": "fifo", "path": "/var/tmp/news.pipe"}, True),
        ("/tmp/own/news.log", False),  # the directory may be the daemon's
        ("/var/log/mcastd/news.log", False),
        ("/var/log/mcastd/instance/news.log", False),
        ("/var/log/mcastd/news.json", True),  # nobody rotates it
        ({"kind": "file", "path": "/var/log/mcastd/news.json", "rotate_every": "1d"}, False),
        ({"kind": "file", "path": "/var/log/mcastd/news.json", "rotate_size": "1MB"}, False),
        ({"kind": "file", "path": "/var/log/mcastd/i/news.log", "rotate_every": "1d"}, True),  # both do
        ({"kind": "file", "path": "/var/log/mcastd/news.log", "rotate_size": "1MB"}, True),
        ({"kind": "file", "path": "/srv/news.log", "rotate_size": "1MB"}, False),
        ("/srv/news", False),
        ({"kind": "fifo", "path": "/var/log/mcastd/news.pipe"}, False),
    ],
)
def test_where_outputs_lie(output: object, advised: bool) -> None:
    subscription = {"group": "239.1.2.3", "port": 9, "output": ["/srv/first", output]}
    found = advise(Config.model_validate({"inbound": {"a": subscription}}))
    assert [complaint.location for complaint in found] == [("inbound", "a", "output", 1, "path")] * advised


@pytest.mark.parametrize(
    ("settings", "advised"),
    [
        ({"keep": 3}, True),
        ({"keep": 3, "rotate_size": "1MB"}, False),
        ({"keep": 3, "rotate_every": "1d"}, False),
        ({}, False),
    ],
)
def test_what_is_kept_of_a_file_that_is_never_rotated(settings: dict[str, object], advised: bool) -> None:
    output = [{"path": "/srv/a"}, {"path": "/srv/b", **settings}]
    found = advise(
        Config.model_validate({"inbound": {"a": {"group": "239.1.2.3", "port": 9, "output": output}}})
    )
    assert [complaint.location for complaint in found] == [("inbound", "a", "output", 1, "keep")] * advised


def test_where_the_control_socket_lies() -> None:
    for path, advised in (("/tmp/mcastd.control", 1), ("/run/mcastd/control", 0), ("/tmp/own/control", 0)):
        found = advise(Config.model_validate({"daemon": {"control_socket": path}}))
        assert [complaint.location for complaint in found] == [("daemon", "control_socket")] * advised


def test_where_sources_lie() -> None:
    where = {"group": "239.1.2.3", "port": 9}
    for path, advised in (("/tmp/news", 1), ("/dev/shm/news", 1), ("/tmp/own/news", 0), ("/srv/news", 0)):
        found = advise(Config.model_validate({"outbound": {"a": {"source": path, **where}}}))
        assert [complaint.location for complaint in found] == [("outbound", "a", "source")] * advised


def test_what_is_private_to_the_unit_is_warned_of_where_the_unit_runs_it() -> None:
    where = {"group": "239.1.2.3", "port": 9}
    config = Config.model_validate(
        {
            "daemon": {"control_socket": "/tmp/../run/control"},
            "outbound": {
                "a": {"source": "/var/tmp/in", **where},
                "b": {"source": "/tmpfile", **where, "port": 8},
            },
            "inbound": {"a": {"output": ["/srv/x", "//tmp/out"], **where, "port": 7}},
        }
    )
    known = advise(config)
    more = [complaint for complaint in advise(config, for_unit=True) if complaint not in known]
    assert [complaint.location for complaint in more] == [
        ("outbound", "a", "source"),
        ("inbound", "a", "output", 1, "path"),
    ]
    assert "has a /var/tmp of its own (PrivateTmp)" in more[0].reason
    assert "has a /tmp of its own (PrivateTmp)" in more[1].reason


def test_a_burst_without_a_rate_and_a_group_that_is_left_all_the_time() -> None:
    assert advised({"burst": "2ms"}) == {"burst"}
    assert advised({"burst": "2ms", "rate": "1Mbit"}) == set()
    assert advised(None, {"rejoin_every": "1us"}) == {"rejoin_every"}
    assert advised(None, {"rejoin_every": "2min"}) == set()
    gateway = {"listen": "127.0.0.1:4022", "allow_groups": ["239.1.0.0/16"]}
    for every, found in (("9s", ["rejoin_every"]), ("10s", [])):
        config = Config.model_validate({"gateway": {"tv": gateway | {"rejoin_every": every}}})
        assert [complaint.location[2] for complaint in advise(config)] == found


@pytest.mark.parametrize(
    ("address", "warned"),
    [("0.0.0.0:9465", True), ("[::]:9465", True), ("127.0.0.1:9465", False), ("[::1]:9465", False)],
)
def test_metrics_that_are_open_to_all(address: str, warned: bool) -> None:
    found = advise(Config.model_validate({"daemon": {"metrics": address}}))
    assert [complaint.location for complaint in found] == [("daemon", "metrics")] * warned


def test_two_channels_on_one_pipe() -> None:
    pipe = {"kind": "fifo", "path": "/run/p"}
    config = Config.model_validate(
        {
            "outbound": {
                "a": {"source": "/run/p", "group": "239.1.2.3", "port": 9},
                "b": {"source": "/run/p", "group": "239.1.2.4", "port": 9},
            },
            "inbound": {"c": {"output": pipe, "group": "239.1.2.5", "port": 9}},
        }
    )
    assert [complaint.location for complaint in advise(config)] == [("outbound", "b", "source")]


@pytest.mark.parametrize(
    ("path", "device"),
    [("/dev/null", True), ("/dev/../dev/tty", True), ("/dev/shm/x/a", False), ("/dev/stdout", False)],
)
def test_a_device_is_neither_a_source_nor_an_output(path: str, device: bool) -> None:
    assert advised(None, {"output": path}) == ({"path"} if device else set())
    assert advised({"source": path}) == ({"source"} if device else set())


def test_a_rate_without_a_unit_is_bits_a_second() -> None:
    assert advised({"rate": 10}) == {"rate"}
    assert advised({"rate": 999}) == {"rate"}
    assert advised({"rate": "1kbit"}) == set()
    assert advised({"rate": 0}) == set()  # paused


@pytest.mark.parametrize(
    ("name", "dated"), [("%Y-%m-%d.ts", True), ("a-%H%M.ts", True), ("100%", False), ("%20a", False)]
)
def test_a_path_has_no_dates(name: str, dated: bool) -> None:
    assert advised(None, {"output": f"/srv/{name}"}) == ({"path"} if dated else set())


def test_an_output_is_not_rotated_all_the_time() -> None:
    output = {"kind": "file", "path": "/y"}
    assert advised(None, {"output": {**output, "rotate_every": "1us"}}) == {"rotate_every"}
    assert advised(None, {"output": {**output, "rotate_every": "1s"}}) == set()


def test_a_worker_is_asked_once_for_its_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be thousands, and each path is looked at in several ways."""
    asked: list[str] = []
    writes, reads = InboundSubscription.writes, OutboundChannel.reads
    monkeypatch.setattr(InboundSubscription, "writes", lambda self: asked.append("writes") or writes(self))
    monkeypatch.setattr(OutboundChannel, "reads", lambda self: asked.append("reads") or reads(self))
    config = Config.model_validate(
        {
            "outbound": {"a": {"source": "/x", "group": "239.1.2.3", "port": 9}},
            "inbound": {"a": {"output": "/y", "group": "239.1.2.4", "port": 9}},
        }
    )
    asked.clear()
    advise(config, for_unit=True)
    assert sorted(asked) == ["reads", "writes"]
