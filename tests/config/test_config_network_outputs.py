"""Outputs that send on, and what would go in a circle."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcastd.config import Config, GroupOutput, TcpServerOutput, UdpOutput, split_end

TV = """[inbound.tv]
group = "239.1.1.1"
port = 5004
"""
Refusals = Callable[[str], list[str]]


def test_what_they_are_called(loaded: Callable[[str], Config]) -> None:
    outputs = """output = [
        { kind = "group", group = "239.2.2.2", port = 5004, interface = "eth1" },
        { kind = "group", group = "ff15::2", port = 5004 },
        { kind = "udp", to = "[2001:db8::7]:5004" },
    ]"""
    group, six, host = loaded(TV + outputs).inbound["tv"].output
    assert isinstance(group, GroupOutput)
    assert isinstance(host, UdpOutput)
    assert [one.label for one in (group, six, host)] == [
        "239.2.2.2:5004 by eth1",
        "[ff15::2]:5004",
        "[2001:db8::7]:5004",
    ]
    assert [one.needs_origins for one in (group, six, host)] == [True, True, False]
    assert not any(one.needs_metadata for one in (group, six, host)), "no times, which cost the kernel much"


@pytest.mark.parametrize(
    ("to", "end"),
    [
        ("192.0.2.7:5004", ("192.0.2.7", 5004)),
        ("[2001:db8::0:7]:1", ("2001:db8::7", 1)),
        ("tv.example.net:65535", ("tv.example.net", 65_535)),
        ("tv:5004", ("tv", 5004)),
        ("[fe80::7%eth0]:5004", ("fe80::7%eth0", 5004)),
    ],
)
def test_a_host_and_a_port(to: str, end: tuple[str, int]) -> None:
    assert split_end(to) == end
    assert UdpOutput(to=to).to == to


@pytest.mark.parametrize(
    "to",
    ["", "tv", "tv:", ":5004", "tv:0", "tv:65536", "tv:5004x", "2001:db8::7:5004", "[tv]:5004",
     "[192.0.2.7]:5", "192.0.2:5004", "a b:5004", "tv:5004 ", 7, "-tv:5004"],
)  # fmt: skip
def test_what_is_neither_host_nor_port(refusal: Callable[[str], str], to: object) -> None:
    value = f'"{to}"' if isinstance(to, str) else "7"
    found = refusal(TV + f'output = {{ kind = "udp", to = {value} }}')
    assert 'must be an address or a name, and a port, like "192.0.2.7:5004"' in found


def test_a_group_is_no_host(refusal: Callable[[str], str]) -> None:
    found = refusal(TV + 'output = { kind = "udp", to = "239.2.2.2:5004" }')
    assert '239.2.2.2 is no address of a host: a group has kind = "group"' in found


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("255.255.255.255:5004", "255.255.255.255 is no address of a host: name the host"),
        ("[fe80::7]:5004", r'fe80::7 is link-local: name its interface, too, as in "[fe80::7%eth0]:5004"'),
        ("[2001:db8::7%eth0]:5004", "2001:db8::7%eth0 has a zone, and is not link-local: leave that out"),
    ],
)
def test_an_address_of_one_link_has_its_interface_and_no_other_has(
    refusal: Callable[[str], str], to: str, said: str
) -> None:
    for kind in ("udp", "tcp"):
        assert said in refusal(TV + f'output = {{ kind = "{kind}", to = "{to}" }}')


def test_who_may_read(refusal: Callable[[str], str], loaded: Callable[[str], Config]) -> None:
    def output(readers: str) -> str:
        return TV + f'output = {{ kind = "tcp-server", listen = "0.0.0.0:9000", readers = {readers} }}'

    (found,) = loaded(output('["192.0.2.0/24"]')).inbound["tv"].output
    assert isinstance(found, TcpServerOutput)
    assert [str(one) for one in found.readers] == ["192.0.2.0/24"]
    assert "output.readers: ::1/128 is IPv6, but listen is IPv4" in refusal(output('["::1"]'))
    assert "192.0.2.1/32 is named twice" in refusal(output('["192.0.2.1", "192.0.2.1"]'))


def to_group(group: str, port: int = 5004, **more: str) -> str:
    rest = "".join(f", {key} = {value}" for key, value in more.items())
    return f'output = {{ kind = "group", group = "{group}", port = {port}{rest} }}\n'


def test_what_comes_back_at_once_is_refused(
    refusal: Callable[[str], str], loaded: Callable[[str], Config]
) -> None:
    assert "what it sends comes back to it for ever" in refusal(TV + to_group("239.1.1.1"))
    assert "comes back" in refusal(TV + 'interface = "eth0"\n' + to_group("239.1.1.1"))
    assert "comes back" in refusal(TV + 'interface = "eth0"\n' + to_group("239.1.1.1", interface='"eth0"'))
    loaded(TV + 'interface = "eth0"\n' + to_group("239.1.1.1", interface='"eth1"'))
    loaded(TV + to_group("239.1.1.1", 5006))


def test_a_ttl_takes_sources(refusal: Callable[[str], str], loaded: Callable[[str], Config]) -> None:
    assert "output.ttl: needs sources" in refusal(TV + to_group("239.2.2.2", ttl="8"))
    loaded(TV + 'sources = ["192.0.2.1"]\n' + to_group("239.2.2.2", ttl="8"))


def subscription(name: str, group: str, *outputs: str, **keys: str) -> str:
    rest = "".join(f"{key} = {value}\n" for key, value in keys.items())
    return f'[inbound.{name}]\ngroup = "{group}"\nport = 5004\n{rest}' + "".join(outputs)


A_TO_B = subscription("forth", "239.1.1.1", to_group("239.2.2.2"))
B_TO_C = subscription("further", "239.2.2.2", to_group("239.3.3.3"))
C_TO_A = subscription("back", "239.3.3.3", to_group("239.1.1.1"))
B_TO_A = subscription("back", "239.2.2.2", to_group("239.1.1.1"))


def test_those_that_feed_each_other_are_refused(
    refusal: Callable[[str], str], loaded: Callable[[str], Config]
) -> None:
    found = refusal(A_TO_B + B_TO_A)
    assert (
        "inbound.forth.output.group: what it sends comes back to it for ever: inbound.back receives that"
        " group, and sends on what it receives; send to another group" in found
    )
    assert "inbound.back.output.group" in found
    found = refusal(A_TO_B + B_TO_C + C_TO_A)
    assert all(f"inbound.{name}.output.group" in found for name in ("forth", "further", "back"))
    loaded(A_TO_B + B_TO_C)


def test_no_circle_where_one_does_not_hear_the_other(loaded: Callable[[str], Config]) -> None:
    loaded(A_TO_B + subscription("back", "239.2.2.2", to_group("239.1.1.1"), sources='["192.0.2.1"]'))
    loaded(A_TO_B + subscription("back", "239.2.2.2", to_group("239.1.1.1", loop="false")))
    by_interface = subscription("back", "239.2.2.2", to_group("239.1.1.1"), interface='"eth1"')
    loaded(subscription("forth", "239.1.1.1", to_group("239.2.2.2", interface='"eth0"')) + by_interface)


def test_no_capture_is_sent_as_datagrams(refusal: Callable[[str], str]) -> None:
    assert "format" in refusal(TV + 'output = { kind = "udp", to = "192.0.2.7:5004", format = "pcapng" }')
