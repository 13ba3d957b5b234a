"""Sources that others send to: their keys, what contradicts them, and what would go in a circle."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcastd.config import Config, TcpServerSource, UdpSource, UnixSource
from mcastd.config.ends import ProgramEnd
from mcastd.config.load import dump

UDP = 'source = { kind = "udp", listen = "127.0.0.1:5000" }\n'
UNIX = 'source = { kind = "unix", path = "/run/tv" }\n'
TCP = 'source = { kind = "tcp-server", listen = "[::1]:5000" }\n'
CONNECT = 'source = { kind = "tcp", connect = "localhost:5000" }\n'


def channel(source: str, *more: str, name: str = "tv", group: str = "239.2.2.2") -> str:
    return f'[outbound.{name}]\ngroup = "{group}"\nport = 5004\n{source}' + "".join(
        f"{line}\n" for line in more
    )


def subscription(output: str, *more: str, name: str = "back", group: str = "239.2.2.2") -> str:
    lines = "".join(f"{line}\n" for line in more)
    return f'[inbound.{name}]\ngroup = "{group}"\nport = 5004\n{lines}output = {{ {output} }}\n'


@pytest.mark.parametrize(
    ("source", "label", "whole", "end"),
    [
        (UDP, "udp 127.0.0.1:5000", True, ProgramEnd("udp", "127.0.0.1", 5000)),
        (UNIX, "unix /run/tv", True, ProgramEnd("unix", "/run/tv")),
        (UNIX.replace(" }", ', type = "stream" }'), "unix /run/tv", False, ProgramEnd("unix", "/run/tv")),
        (TCP, "tcp-server [::1]:5000", False, ProgramEnd("tcp", "::1", 5000)),
        (
            TCP.replace(" }", ', framing = "length" }'),
            "tcp-server [::1]:5000",
            True,
            ProgramEnd("tcp", "::1", 5000),
        ),
        (CONNECT, "tcp localhost:5000", False, ProgramEnd("tcp-server", "localhost", 5000)),
        (
            CONNECT.replace(" }", ', framing = "length" }'),
            "tcp localhost:5000",
            True,
            ProgramEnd("tcp-server", "localhost", 5000),
        ),
    ],
)
def test_what_they_are(
    loaded: Callable[[str], Config], source: str, label: str, whole: bool, end: ProgramEnd
) -> None:
    config = loaded(channel(source))
    found = config.outbound["tv"]
    assert (found.source.label, found.source.has_datagrams, found.source.end) == (label, whole, end)
    assert (found.interval, found.rate, found.max_datagram) == (0.0, None, 65_507 if whole else 1472)
    assert found.reads() == ()
    assert loaded(dump(config)) == config


def test_their_defaults() -> None:
    udp = UdpSource(listen="0.0.0.0:5000")
    assert (udp.senders, udp.receive_buffer, udp.max_latency) == ((), 4 << 20, 0.001)
    unix = UnixSource(path="/run/tv")
    assert (unix.type, unix.framing, unix.mode) == ("datagram", "none", 0o660)
    assert TcpServerSource(listen="127.0.0.1:1").framing == "none"


@pytest.mark.parametrize(
    ("source", "more", "said"),
    [
        (UDP, 'framing = "chunk"', 'framing: does not apply to a source of kind = "udp" that has datagrams'),
        (UDP, "max_datagram = 1316", "max_datagram: does not apply to this source"),
        (UDP, "repeat = 2", 'repeat: does not apply to a source of kind = "udp": it has no end to repeat'),
        (UDP, "follow = true", 'follow: does not apply to a source of kind = "udp": what comes is sent'),
        (UDP, 'protocol = "flute"\nrate = 9', "source: must be the path of a file or directory"),
        (TCP, "repeat = 2", 'repeat: does not apply to a source of kind = "tcp-server"'),
        (TCP, 'framing = "capture"', 'framing: does not apply to a source of kind = "tcp-server"'),
        (
            TCP.replace(" }", ', framing = "length" }'),
            'framing = "ts"',
            'framing: does not apply to a source of kind = "tcp-server" that has datagrams',
        ),
        (UNIX.replace(" }", ', framing = "length" }'), "", 'framing is of type = "stream"'),
        (UNIX.replace("/run/tv", f"/run/{'x' * 110}"), "", "is longer than a Unix socket's path can be"),
        (UDP.replace("127.0.0.1", "localhost"), "", "must be an address of this host and a port"),
        (CONNECT.replace("localhost", "239.1.1.1"), "", "is no address of a host"),
        (CONNECT.replace(":5000", ""), "", "must be an address or a name, and a port"),
        (CONNECT, "repeat = 2", 'repeat: does not apply to a source of kind = "tcp": it has no end'),
        (UDP.replace("127.0.0.1", "239.1.1.1"), "", "must be an address of this host and a port"),
        (
            UDP.replace(" }", ', senders = ["::1"] }'),
            "",
            "source.senders: ::1/128 is IPv6, but listen is IPv4",
        ),
        (UDP.replace(" }", ', senders = ["10.0.0.0/8", "10.0.0.0/8"] }'), "", "10.0.0.0/8 is named twice"),
        (UDP.replace(" }", ', sender = ["10.0.0.0/8"] }'), "", 'unknown key; did you mean "senders"?'),
    ],
)
def test_what_contradicts_them(refusal: Callable[[str], str], source: str, more: str, said: str) -> None:
    assert said in refusal(channel(source, more))


def test_they_may_be_slowed_down(loaded: Callable[[str], Config]) -> None:
    assert loaded(channel(UDP, 'rate = "8Mbit"')).outbound["tv"].interval is None
    assert loaded(channel(UDP, "interval = 0.5")).outbound["tv"].interval == 0.5
    timed = loaded(channel(TCP, 'framing = "ts"', 'timing = "pcr"')).outbound["tv"]
    assert (timed.interval, timed.rate, timed.timing) == (None, None, "pcr")


@pytest.mark.parametrize(
    ("to", "at", "leads"),
    [
        (("udp", "127.0.0.1", 5000), ("udp", "127.0.0.1", 5000), True),
        (("udp", "127.0.0.1", 5000), ("udp", "127.0.0.1", 5001), False),
        (("udp", "127.0.0.1", 5000), ("tcp", "127.0.0.1", 5000), False),
        (("udp", "127.0.0.2", 5000), ("udp", "127.0.0.1", 5000), False),
        (("udp", "127.0.0.2", 5000), ("udp", "0.0.0.0", 5000), True),
        (("udp", "::1", 5000), ("udp", "0.0.0.0", 5000), False),
        (("udp", "::1", 5000), ("udp", "::", 5000), True),
        (("tcp", "localhost", 5000), ("tcp", "::1", 5000), True),
        (("tcp", "LocalHost.", 5000), ("tcp", "0.0.0.0", 5000), True),
        (("tcp", "localhost", 5000), ("tcp", "192.0.2.1", 5000), False),
        (("udp", "192.0.2.1", 5000), ("udp", "192.0.2.1", 5000), True),
        (("udp", "192.0.2.1", 5000), ("udp", "0.0.0.0", 5000), False),  # whether it is ours is not known
        (("udp", "tv.example.net", 5000), ("udp", "0.0.0.0", 5000), False),
        (("tcp-server", "0.0.0.0", 5000), ("tcp-server", "localhost", 5000), True),
        (("tcp-server", "127.0.0.1", 5000), ("tcp-server", "127.0.0.2", 5000), False),
        (("tcp-server", "192.0.2.1", 5000), ("tcp-server", "tv.example.net", 5000), False),
        (("unix", "/run/tv", 0), ("unix", "/run/./tv", 0), True),
        (("unix", "/run/tv", 0), ("unix", "/run/radio", 0), False),
    ],
)
def test_where_what_is_sent_surely_comes(
    to: tuple[str, str, int], at: tuple[str, str, int], leads: bool
) -> None:
    one, other = (ProgramEnd(*of) for of in (to, at))  # type: ignore[arg-type]
    assert one.leads_to(other) is leads


@pytest.mark.parametrize(
    ("source", "output", "key"),
    [
        (UDP, 'kind = "udp", to = "localhost:5000"', "to"),
        (UNIX, 'kind = "unix", path = "/run/tv"', "path"),
        (TCP, 'kind = "tcp", to = "[::1]:5000"', "to"),
        (CONNECT, 'kind = "tcp-server", listen = "0.0.0.0:5000"', "listen"),
    ],
)
def test_a_source_that_is_fed_by_what_it_sends_is_refused(
    loaded: Callable[[str], Config], refusal: Callable[[str], str], source: str, output: str, key: str
) -> None:
    found = refusal(channel(source) + subscription(output))
    assert (
        "outbound.tv.group: what it sends comes back to it for ever: inbound.back receives that group, and"
        " sends on what it receives; send to another group" in found
    )
    assert (
        f"inbound.back.output.{key}: what it sends comes back to it for ever: it is the source of"
        " outbound.tv, and sends on what it receives; send elsewhere" in found
    )
    loaded(channel(source) + subscription(output, group="239.3.3.3"))
    loaded(channel(source) + subscription(output, 'sources = ["192.0.2.1"]'))
    loaded(channel(source, "loop = false") + subscription(output))
    loaded(channel(source, "enabled = false") + subscription(output))
    loaded(channel(source, 'interface = "eth0"') + subscription(output, 'interface = "eth1"'))


def test_a_circle_of_several_is_refused(refusal: Callable[[str], str]) -> None:
    forth = subscription('kind = "udp", to = "127.0.0.1:5000"', name="forth", group="239.1.1.1")
    on = subscription('kind = "group", group = "239.1.1.1", port = 5004', name="on")
    found = refusal(channel(UDP) + forth + on)
    assert found.count("comes back to it for ever") == 3


def test_by_way_of_a_copy(refusal: Callable[[str], str]) -> None:
    copies = 'copies = [{ group = "239.3.3.3" }, { group = "239.4.4.4" }]'
    output = 'kind = "udp", to = "127.0.0.1:5000"'
    found = refusal(channel(UDP, copies) + subscription(output, group="239.4.4.4"))
    assert "outbound.tv.copies[1].group: what it sends comes back" in found


def test_two_that_take_the_same(refusal: Callable[[str], str], loaded: Callable[[str], Config]) -> None:
    other = channel(UDP, name="radio", group="239.3.3.3")
    assert 'outbound.radio.source.listen: "127.0.0.1:5000" is already the source of outbound/tv' in refusal(
        channel(UDP) + other
    )
    loaded(channel(UDP) + channel(TCP.replace("[::1]", "127.0.0.1"), name="radio", group="239.3.3.3"))
    taken = channel(UNIX) + '[inbound.log]\ngroup = "239.1.1.1"\nport = 9\noutput = "/run/tv"\n'
    assert '"/run/tv" is already the source of outbound/tv' in refusal(taken)
    control = channel(UNIX.replace("/run/tv", "/run/mcastd/control"))
    assert 'source.path: "/run/mcastd/control" is already the control socket' in refusal(control)


FIFO = 'source = "/run/tv.fifo"\n'


@pytest.mark.parametrize(
    ("tables", "complaints"),
    [
        pytest.param(
            channel(FIFO)
            + subscription('kind = "group", group = "239.4.4.4", port = 5004')
            + subscription('kind = "fifo", path = "/run/./tv.fifo"', name="forth", group="239.4.4.4"),
            {
                "outbound.tv.group": "inbound.back receives that group, and sends on what it receives; send"
                " to another group",
                "inbound.back.output.group": "inbound.forth receives that group, and sends on what it"
                " receives; send to another group",
                "inbound.forth.output.path": "it is the source of outbound.tv, and sends on what it receives;"
                " write elsewhere",
            },
            id="a pipe and a group",
        ),
        pytest.param(
            channel(FIFO)
            + subscription('kind = "udp", to = "127.0.0.1:5000"')
            + channel(UDP, name="radio", group="239.4.4.4")
            + subscription('kind = "fifo", path = "/run/tv.fifo"', name="forth", group="239.4.4.4"),
            {
                "outbound.tv.group": "inbound.back receives",
                "inbound.back.output.to": "it is the source of outbound.radio, and sends on what it receives;"
                " send elsewhere",
                "outbound.radio.group": "inbound.forth receives",
                "inbound.forth.output.path": "it is the source of outbound.tv",
            },
            id="a pipe and a program",
        ),
    ],
)
def test_a_circle_of_which_a_file_is_a_part(
    refused: Callable[[str], list[str]],
    loaded: Callable[[str], Config],
    tables: str,
    complaints: dict[str, str],
) -> None:
    found = refused(tables)
    for key, why in complaints.items():
        assert any(f"{key}: what it sends comes back to it for ever: {why}" in line for line in found), key
    assert len(found) == len(complaints)
    loaded(tables.replace('path = "/run/', 'path = "/run/other/'))


def test_a_circle_by_a_file_alone_is_told_once(refused: Callable[[str], list[str]]) -> None:
    (line,) = refused(channel(FIFO) + subscription('kind = "fifo", path = "/run/tv.fifo"'))
    assert "outbound.tv.source: what it sends comes back to it for ever" in line


def test_what_describes_a_channel_is_none_of_what_it_sends(loaded: Callable[[str], Config]) -> None:
    """Another channel may send that, and a group that comes back is no circle then."""
    announced = channel(UDP, 'announce = { sdp = "/run/tv.sdp" }')
    loaded(
        announced
        + channel('source = "/run/tv.sdp"\n', name="description", group="239.4.4.4")
        + subscription('kind = "udp", to = "127.0.0.1:5000"', group="239.4.4.4")
    )
