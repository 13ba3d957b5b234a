"""Values: what each parser takes, what it refuses, in which words."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mcastd.config import addresses, keys, numbers, types
from mcastd.config.addresses import (
    Interfaces,
    may_meet,
    parse_group,
    parse_interface,
    parse_interfaces,
    parse_metrics,
    parse_one_interface,
    parse_source_address,
)
from mcastd.config.keys import parse_secret_place, parse_secret_places, parse_verifying_keys
from mcastd.config.numbers import (
    format_duration,
    format_mode,
    format_percent,
    format_rate,
    format_size,
    parse_dscp,
    parse_duration,
    parse_mode,
    parse_percent,
    parse_period,
    parse_rate,
    parse_repeat,
    size,
    whole_number,
)
from mcastd.config.types import check_name, parse_mold_session, parse_path, parse_socket_path
from mcastd.config.words import show
from mcastd.ip import stays_on_link
from mcastd.net import interfaces

parse_size = size(1)
PUBLIC = "ed25519:3UAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw="  # RFC 8032 section 7.1, test 2
SECRET = "TM0ImyjlltqdtsNGyREeD1uKMZ81q6YnpNqM9u1PqPs="
LONG = "/etc/mcastd/keys/images/distribution/groupkey"  # as long as a key, of a key's characters
HUGE = 1 << 20_000  # more digits than Python prints


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (0, 0),
        (2, 2),
        (0.25, 0.25),
        ("5", 5),
        ("1.5", 1.5),
        ("500ms", 0.5),
        ("3ms", 0.003),
        ("20 us", 0.00002),
        ("7µs", 0.000007),
        ("1min 30s", 90),
        ("1h30m", 5400),
        ("55s500ms", 55.5),
        (" 2 hours 10 min ", 7800),
        ("1d", 86_400),
        ("1 week 1day", 691_200),
        ("1.5h", 5400),
        ("366d", 31_622_400),
    ],
)
def test_duration(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (1, 1),
        ("17", 17),
        ("17B", 17),
        ("64KiB", 65_536),
        ("1.5 MiB", 1_572_864),
        ("100MB", 10**8),
        ("2kB", 2000),
    ],
)
def test_size(value: object, count: int) -> None:
    assert parse_size(value) == count


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (0, 0),
        (64_000, 64_000),
        ("9600bit", 9600),
        ("500kbit", 500_000),
        ("10Mbit", 10_000_000),
        ("10mbit/s", 10_000_000),
        ("1.5 Gbit/s", 1_500_000_000),
        ("800 bit/s", 800),
        ("1000 Gbit", 1_000_000_000_000),  # the fastest that is taken
    ],
)
def test_rate(value: object, bits: int) -> None:
    assert parse_rate(value) == bits


@pytest.mark.parametrize(
    ("value", "number"),
    [("CS0", 0), ("CS5", 40), ("af41", 34), ("AF13", 14), ("EF", 46), ("VA", 44), ("LE", 1), (63, 63)],
)
def test_dscp(value: object, number: int) -> None:
    assert parse_dscp(value) == number


@pytest.mark.parametrize(
    ("value", "bits"), [(0o640, 0o640), ("0640", 0o640), ("640", 0o640), ("0o600", 0o600), (0, 0)]
)
def test_mode(value: object, bits: int) -> None:
    assert parse_mode(value) == bits


@pytest.mark.parametrize(("value", "count"), [("once", 1), (1, 1), (12, 12), ("forever", "forever")])
def test_repeat(value: object, count: object) -> None:
    assert parse_repeat(value) == count


@pytest.mark.parametrize(
    "value", ["127.0.0.1:9465", "[::1]:9465", "localhost:1", "metrics.example.org:65535"]
)
def test_metrics(value: str) -> None:
    assert parse_metrics(value) == value


@pytest.mark.parametrize("value", ["224.0.0.0", "239.255.255.255", "ff02::1", IPv6Address("ff15::1")])
def test_group(value: object) -> None:
    assert parse_group(value) == ip_address(str(value))


@pytest.mark.parametrize(
    "value", ["lo", "eth0", "enp3s0.100", "br-6f2a01b2c3d4", "all", "192.0.2.1", "fe80::1"]
)
def test_interface(value: str) -> None:
    assert parse_interface(value) == value


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        ("eth0", "eth0"),
        (["eth0"], "eth0"),  # so that it equals the same without brackets
        ("wg*", "wg*"),
        (["eth0", "wg*", "2001:DB8::1", "all"], ("eth0", "wg*", "2001:db8::1", "all")),
        ("enx001122334455-market-data-a", "enx001122334455-market-data-a"),  # an alternative name
    ],
)
def test_interfaces(value: object, parsed: object) -> None:
    assert parse_interfaces(value) == parsed


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ("eth0", "eth0", True),
        ("eth0", "eth1", False),
        ("eth*", "eth0", True),
        ("eth*", "wg0", False),
        (("wg0", "eth1"), ("lo", "eth[01]"), True),
        ("all", "eth0", True),
        (None, "eth0", True),
    ],
)
def test_settings_that_may_mean_one_interface(one: Interfaces | None, other: Interfaces, may: bool) -> None:
    assert may_meet(one, other) is may
    assert may_meet(other, one) is may


def test_an_interface_address_is_normalised() -> None:
    assert parse_interface("2001:DB8:0::1") == "2001:db8::1"


@pytest.mark.parametrize("place", ["/etc/mcastd/keys/images.key", "images.key", "/a b", "_x", LONG])
def test_where_a_secret_key_is(place: str) -> None:
    assert parse_secret_place(place) == place
    assert parse_secret_places(place) == (place,)
    assert parse_secret_places([place, "old.key"]) == (place, "old.key")
    assert parse_verifying_keys([place, PUBLIC]) == (place, PUBLIC)


def test_a_verifying_key_is_a_text_or_a_place() -> None:
    assert parse_verifying_keys(PUBLIC) == (PUBLIC,)
    assert parse_verifying_keys(["/etc/mcastd/images.pub", PUBLIC]) == ("/etc/mcastd/images.pub", PUBLIC)


@pytest.mark.parametrize("parse", [parse_secret_place, parse_secret_places, parse_verifying_keys])
@pytest.mark.parametrize("secret", [SECRET, SECRET[:-1], SECRET + "=", f"ed25519-secret:{SECRET}"])
def test_a_secret_in_the_configuration_is_refused_and_not_repeated(
    parse: Callable[[object], object], secret: str
) -> None:
    with pytest.raises(ValueError, match="put it into a file of its own, and name that") as refused:
        parse(secret)
    assert SECRET[:8] not in str(refused.value)


@pytest.mark.parametrize(
    ("parse", "value", "reason"),
    [
        (parse_secret_place, 3, "must be the absolute path of a key file, or the name of a .*, not 3"),
        (parse_secret_place, "", 'credential, not ""'),
        (parse_secret_place, "keys/images.key", 'credential, not "keys/images.key"'),
        (parse_secret_place, "/etc/mcastd/", 'credential, not "/etc/mcastd/"'),
        (parse_secret_place, "/a\0b", r'credential, not "/a\\x00b"'),
        (parse_secret_place, "a b", 'credential, not "a b"'),
        (parse_secret_place, "..", 'credential, not ".."'),
        (parse_secret_place, "x" * 256, "credential, not"),
        (parse_secret_place, ["/a"], "not an array"),
        (parse_secret_place, PUBLIC, 'is a verifying key, which goes into "verify_keys"'),
        (parse_secret_place, "/etc/x.sign.pub", "is the public half of a pair; name the file without .pub"),
        (parse_secret_places, [], "must have from 1 to 16 keys, not 0"),
        (parse_secret_places, [f"/{number}" for number in range(17)], "must have from 1 to 16 keys, not 17"),
        (parse_secret_places, ["/a", "/b", "/a"], '"/a" is there twice'),
        (parse_secret_places, ["/a", ["/b"]], "not an array"),
        (parse_verifying_keys, PUBLIC[:-1], "a verifying key is .* 32 bytes in base64, 44 characters"),
        (parse_verifying_keys, "ed25519:" + "A" * 43 + "=", "is random"),
        (parse_verifying_keys, [PUBLIC, PUBLIC], "is there twice"),
        (parse_verifying_keys, 7, 'must be a verifying key like "ed25519:...", the absolute path .*, not 7'),
        (parse_duration, -1, "must be from 0 to 366 days, not -1"),
        (parse_duration, "-5s", r'must be a number of seconds, or a span .*, not "-5s"'),
        (parse_duration, float("nan"), "must be a number of seconds.*, not nan"),
        (parse_duration, float("inf"), "must be a number of seconds.*, not inf"),
        (parse_duration, "infinity", "must be a number of seconds"),
        (parse_duration, True, "must be a number of seconds.*, not true"),
        (parse_duration, "", "must be a number of seconds"),
        (parse_duration, "2 fortnights", r"units: us ms s min h d w"),
        (parse_duration, "1 2", "must be a number of seconds"),
        (parse_duration, "1s 2", "must be a number of seconds"),
        (parse_duration, "9" * 40, r'not "9{40}"'),
        (parse_duration, "9" * 9000 + "s", r'not "9{60}\.\.\."'),
        (parse_duration, "٣s", "must be a number of seconds"),
        (parse_duration, "400d", "must be from 0 to 366 days"),
        pytest.param(
            parse_duration, HUGE, "must be from 0 to 366 days, not a number of so many digits", id="huge a"
        ),
        (parse_duration, [2], "not an array"),
        (parse_duration, date(2026, 1, 2), "not 2026-01-02"),
        (parse_period, "0s", "must be longer than 0"),
        (parse_size, 0, "must be a whole number from 1 to 1,125,899,906,842,624 bytes, not 0"),
        (parse_size, "1.5B", "must be a whole number"),
        (parse_size, "8Mi", r"units: kB MB GB TB KiB MiB GiB TiB"),
        (parse_size, "1MiB 1KiB", "must be a number of bytes"),
        (parse_size, "-1KiB", "must be a number of bytes"),
        (parse_size, "2000TiB", "must be a whole number from 1 to"),
        (parse_rate, "10MB", r"units: bit kbit Mbit Gbit"),
        (parse_rate, "10kbps", "must be a number of bits per second"),
        (parse_rate, -1, "must be a whole number from 0"),
        (parse_rate, "5000Gbit", "must be a whole number from 0"),
        (
            parse_dscp,
            "CS9",
            r'must be one of CS0 to CS7, AF11 to AF43, EF, VA, LE, or from 0 to 63, not "CS9"',
        ),
        (parse_dscp, 64, "from 0 to 63, not 64"),
        (parse_dscp, True, "not true"),
        (parse_mode, 640, 'must be permission bits up to 0o777, like 0o640 or "0640", not 640'),
        (parse_mode, "0888", "must be permission bits"),
        (parse_mode, "rw-r-----", "must be permission bits"),
        (parse_repeat, 0, 'must be "once", "forever" or a count from 1, not 0'),
        (parse_repeat, True, "not true"),
        pytest.param(parse_repeat, HUGE, "so many digits", id="huge b"),
        (parse_metrics, "9465", 'must be an address and port like "127.0.0.1:9465"'),
        (parse_metrics, ":9465", "must be an address and port"),
        (parse_metrics, "::1:9465", "must be an address and port"),
        (parse_metrics, "[127.0.0.1]:9465", "must be an address and port"),
        (parse_metrics, "localhost:0", "must be an address and port"),
        (parse_metrics, "localhost:65536", "must be an address and port"),
        (parse_metrics, 9465, "not 9465"),
        (whole_number(1, 65_535), 0, "must be a whole number from 1 to 65535, not 0"),
        (whole_number(1, 65_535), "9190", 'not "9190"'),
        (whole_number(1, 65_535), 9190.0, "not 9190.0"),
        (whole_number(0, 255), True, "not true"),
        pytest.param(whole_number(0, 255), HUGE, "so many digits", id="huge c"),
        (
            parse_group,
            "192.0.2.1",
            r"192.0.2.1 is not a multicast address \(IPv4: 224.0.0.0/4, IPv6: ff00::/8\)",
        ),
        (parse_group, "news.example.org", 'must be a multicast address like "239.255.1.2"'),
        (parse_group, 4_009_754_625, "must be a multicast address"),
        (parse_group, "ff02::1%eth0", 'has a zone; name the interface by the key "interface"'),
        (parse_source_address, "239.1.1.1", "239.1.1.1 is not a unicast address"),
        (parse_source_address, "0.0.0.0", "is not a unicast address"),
        (parse_source_address, "255.255.255.255", "is not a unicast address"),
        (parse_source_address, "example.org", "must be an address like"),
        (parse_interface, "", "must be an interface's name"),
        (parse_interface, "a" * 128, "at most 127 bytes"),
        (parse_interface, "eth0/1", "must be an interface's name"),
        (parse_interface, " eth0", "must be an interface's name"),
        (parse_interface, "eth0,eth1", r"no interface's name; a subscription may say \["),
        (parse_interface, "eth0  eth1", r'a subscription may say \["eth0", "eth1"\]'),
        (parse_interface, "any", "is no interface: leave it out for the route to the group"),
        (parse_interface, "*", 'a subscription may say "all"'),
        (parse_interface, "0.0.0.0", "leave it out for the route"),
        (parse_interface, "::", "leave it out for the route"),
        (parse_interface, "!docker0", r'leaves one out, .* or a pattern like "eth\[!3\]"$'),
        (parse_interface, "eth0:1", 'is the label of an address: write "eth0", or the address itself'),
        (
            parse_interface,
            "eth0.5@eth0",
            r'is how ip\(8\) shows it, with the interface below: write "eth0.5"$',
        ),
        (parse_interface, "\x1bG:0", r'write "\\x1bG", or'),
        (parse_interface, "fe80::1%\x1bG", r'write "\\x1bG" alone'),
        (parse_interface, "veth7@if12", 'write "veth7"'),
        (parse_interface, "fe80::1%eth0", 'has a zone: write "eth0" alone'),
        (parse_interface, "10.0.0.0/24", "is a network: write the name of the interface, or its address"),
        (parse_interface, "fe80:1", "is not an address that an interface can have"),
        (parse_interfaces, [], "at least one interface"),
        (parse_interfaces, ["eth0", "wg*", "eth0"], '"eth0" is named twice'),
        (parse_interfaces, ["fe80::1", "FE80::0:1"], '"fe80::1" is named twice'),
        (parse_interfaces, ["eth0", 3], "not 3"),
        (parse_interfaces, [["eth0"]], "not an array"),
        (parse_interfaces, ["eth0", "any"], '"any" is no interface'),
        (
            parse_one_interface,
            ["eth0", "eth1"],
            "a list is for inbound subscriptions; a channel sends on one",
        ),
        (parse_one_interface, "eth*", r'"eth\*" is for inbound subscriptions; a channel sends on one'),
        (parse_one_interface, "*", "is no interface: leave it out"),
        (parse_interface, 3, "not 3"),
        (parse_interface, "192.0.2.300", "is not an address that an interface can have"),
        (parse_interface, "239.1.1.1", "is not an address that an interface can have"),
        (parse_one_interface, "all", '"all" is for inbound subscriptions'),
        (parse_path, "news.txt", 'must be an absolute path, not "news.txt"'),
        (parse_path, "", 'must be an absolute path, not ""'),
        (parse_path, 3, "must be an absolute path, not 3"),
        (parse_path, "udp://192.0.2.1:5", 'not "udp://.*"; what is no file has a table, like { kind = "udp"'),
        (parse_path, "news://x", 'must be an absolute path, not "news://x"$'),
        (parse_path, "/a\0b", r'"/a\\x00b" has a NUL character'),
        (parse_path, "/var/log/", "names a directory"),
        (parse_path, "/..", "names a directory"),
        (parse_socket_path, "/run/" + "x" * 103, r"longer than a Unix socket's path can be \(107 bytes\)"),
        (check_name, "bad name", 'not "bad name"'),
        (check_name, "", 'not ""'),
        (check_name, "-x", "a letter or digit first"),
        (check_name, "x\n", r'not "x\\n"'),
        (check_name, "x" * 65, "up to 64"),
    ],
)
def test_refusal(parse: Callable[[Any], object], value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse(value)
    assert "\n" not in str(caught.value)


def test_the_largest_keep_is_taken_and_no_larger_one() -> None:
    keep = TypeAdapter(types.Keep)
    assert keep.validate_python(10_000) == 10_000
    with pytest.raises(ValueError, match="from 0 to 10000"):
        keep.validate_python(10_001)


def test_longest_paths_are_taken() -> None:
    assert parse_socket_path("/run/" + "x" * 102) == Path("/run/" + "x" * 102)
    assert check_name("x" * 64)


PARSERS = [
    getattr(module, name)
    for module in (addresses, keys, numbers, types)
    for name in dir(module)
    if name.startswith("parse_")
] + [
    size(0),
    whole_number(0, 9),
]
SCALARS = (
    st.integers()
    | st.floats()
    | st.booleans()
    | st.text()
    | st.dates()
    | st.from_regex(re.compile(r"\s*-?[0-9]+(\.[0-9]+)?\s*[a-zA-Z/]{0,4}"))
)


@given(SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(), SCALARS, max_size=2))
def test_any_value_is_parsed_or_refused_in_one_line(value: object) -> None:
    for parse in PARSERS:
        said = ""
        try:
            parse(value)
        except ValueError as error:
            said = str(error)
        assert said.isprintable(), parse
        assert len(said) < 1000, parse


@given(st.floats(0, numbers.MAX_DURATION) | st.integers(0, 10**9).map(lambda micro: micro / 1e6))
def test_durations_are_written_exactly(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (2.0, "2s"), (0.5, "500ms"), (90.0, "1min 30s"), (90_061.0, "1d 1h 1min 1s")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(1, numbers.MAX_SIZE) | st.integers(1, 1 << 20).map(lambda count: count * 1000))
def test_sizes_and_rates_are_written_exactly(count: int) -> None:
    assert parse_size(format_size(count)) == count
    assert parse_rate(format_rate(count % numbers.MAX_RATE)) == count % numbers.MAX_RATE


def test_sizes_and_rates_are_written_for_people() -> None:
    assert [format_size(count) for count in (0, 7, 1000, 65_536, 4 << 20, 10**8)] == [
        0,
        7,
        "1kB",
        "64KiB",
        "4MiB",
        "100MB",
    ]
    assert [format_rate(bits) for bits in (0, 9600, 64_000, 10**7)] == [0, 9600, "64kbit", "10Mbit"]


@given(st.integers(0, 0o777))
def test_modes_are_written_exactly(mode: int) -> None:
    assert parse_mode(format_mode(mode)) == mode


@pytest.mark.parametrize(
    ("group", "stays"),
    [
        ("224.0.0.0", True),
        ("224.0.0.251", True),
        ("224.0.1.1", False),
        ("239.0.0.1", False),
        ("ff02::fb", True),
        ("ff12::1", True),
        ("ff01::1", True),
        ("ff05::2", False),
        ("ff0e::2", False),
    ],
)
def test_link_local_groups(group: str, stays: bool) -> None:
    assert stays_on_link(ip_address(group)) is stays


def test_values_are_shown_as_written() -> None:
    assert [show(value) for value in (True, 3, "a\nb", {}, [], IPv4Address("192.0.2.1"))] == [
        "true",
        "3",
        '"a\\nb"',
        "a table",
        "an array",
        "192.0.2.1",
    ]


@given(
    st.text(max_size=20) | st.sampled_from(["eth0", "wg*", "e?", "[ab]", "fe80::1", "10.0.0.1", "all", "{a}"])
)
def test_what_the_configuration_takes_for_a_pattern_or_an_address_the_network_does_too(text: str) -> None:
    assert addresses.is_pattern(text) == interfaces.is_pattern(text)
    with suppress(ValueError):
        setting = parse_interface(text)
        assert addresses.interface_address(setting) == interfaces.as_address(setting)


@pytest.mark.parametrize(
    ("text", "percent", "written"),
    [("5%", 5.0, "5%"), (" 0.25 % ", 0.25, "0.25%"), ("50%", 50.0, "50%"), ("0%", 0.0, "0%"), (0, 0.0, "0%")],
)
def test_a_percentage(text: object, percent: float, written: str) -> None:
    assert parse_percent(text) == percent
    assert format_percent(percent) == written
    assert parse_percent(written) == percent


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5, 'not 5; write "5%"'),
        (0.05, 'not 0.05; "5%" or "0.05%"?'),
        ("5", 'not "5"'),
        ("51%", 'not "51%"'),
        ("-1%", 'not "-1%"'),
        ("1e1%", 'not "1e1%"'),
        (51, "not 51"),
        (-1, "not -1"),
        (True, "not true"),
        (float("nan"), "not nan"),
        ([], "not an array"),
    ],
)
def test_no_percentage(value: object, said: str) -> None:
    with pytest.raises(ValueError, match="must be a percentage") as caught:
        parse_percent(value)
    assert str(caught.value) == f'must be a percentage from "0%" to "50%", {said}'


@pytest.mark.parametrize(("text", "session"), [("AB ", "AB"), (" ", " "), ("   ", " ")])
def test_a_session_of_moldudp64_is_dumped_as_it_is_taken(text: str, session: str) -> None:
    assert parse_mold_session(text) == parse_mold_session(session) == session
