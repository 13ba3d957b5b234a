"""Sources that take from an engine: what may be said, what not, and what would go in a circle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from mcastd.config import Config, EngineSource, NatsSource, RedisSource
from mcastd.config.advice import advise
from mcastd.config.ends import ProgramEnd
from mcastd.config.load import dump

PULLED: dict[str, Any] = {"servers": "nats://192.0.2.7", "stream": "TV", "consumer": "radio"}
PLAIN: dict[str, Any] = {"servers": "nats://192.0.2.7", "subject": "tv.>"}
REDIS: dict[str, Any] = {"servers": "redis://192.0.2.7", "key": "tv", "group": "radio"}


def channel(source: str, *more: str) -> str:
    rest = "".join(f"{line}\n" for line in more)
    return f'[outbound.tv]\ngroup = "239.2.2.2"\nport = 5004\nsource = {{ {source} }}\n{rest}'


def subscription(output: str) -> str:
    return f'[inbound.back]\ngroup = "239.2.2.2"\nport = 5004\noutput = {{ {output} }}\n'


@pytest.mark.parametrize(
    ("of", "settings", "label", "end"),
    [
        (NatsSource, PULLED, "nats 192.0.2.7:4222 TV/radio", ("nats", "192.0.2.7", 4222, "", "TV")),
        (
            NatsSource,
            {**PULLED, "create": True},
            "nats 192.0.2.7:4222 TV/radio",
            ("nats", "192.0.2.7", 4222, ">", "TV"),
        ),
        (
            NatsSource,
            {**PULLED, "domain": "hub"},
            "nats 192.0.2.7:4222 hub/TV/radio",
            ("nats", "192.0.2.7", 4222, "", "hub/TV"),
        ),
        (NatsSource, PLAIN, "nats 192.0.2.7:4222 tv.>", ("nats", "192.0.2.7", 4222, "tv.>", "")),
        (RedisSource, REDIS, "redis 192.0.2.7:6379 tv", ("redis", "192.0.2.7", 6379, "tv", "")),
        (
            RedisSource,
            {**REDIS, "database": 2},
            "redis 192.0.2.7:6379 2/tv",
            ("redis", "192.0.2.7", 6379, "2/tv", ""),
        ),
    ],
)
def test_what_they_are(
    of: type[EngineSource], settings: dict[str, Any], label: str, end: tuple[Any, ...]
) -> None:
    source = of(**settings)
    assert source.label == label
    assert source.end == ProgramEnd(*end)
    assert (source.is_received, source.has_datagrams, source.file) == (True, True, None)


@pytest.mark.parametrize(
    "source",
    [
        'kind = "nats", servers = ["nats://a", "tls://b:9"], stream = "TV", consumer = "c", create = true',
        'kind = "nats", servers = "nats://a", subject = "tv.*", queue = "senders", token = "/etc/t"',
        'kind = "redis", servers = "rediss://a", key = "tv", group = "g", consumer = "c", field = "x"',
        'kind = "redis", servers = "redis://a", key = "tv", group = "g", database = 2',
    ],
)
def test_they_are_written_as_they_were_read(loaded: Callable[[str], Config], source: str) -> None:
    config = loaded(channel(source))
    found = config.outbound["tv"]
    assert (found.interval, found.rate, found.max_datagram) == (0.0, None, 65_507)
    assert loaded(dump(config)) == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"servers": "nats://a"}, "needs stream and consumer, or a subject"),
        ({"servers": "nats://a", "stream": "TV"}, "stream and consumer go together"),
        ({**PLAIN, "consumer": "radio"}, "stream and consumer go together"),
        ({**PLAIN, "domain": "hub"}, "domain is of a stream: give stream and consumer"),
        ({**PLAIN, "create": True}, "create and start are of a consumer"),
        ({**PLAIN, "start": "first"}, "create and start are of a consumer"),
        ({**PULLED, "queue": "q"}, "queue is of a subject without a stream"),
        ({**PULLED, "subject": "tv.>"}, "subject and start are of a consumer that is made"),
        ({**PULLED, "start": "first"}, "subject and start are of a consumer that is made"),
        ({**PULLED, "consumer": "a.b"}, "without blanks, dots, slashes and wildcards"),
        ({**PLAIN, "subject": "tv..a"}, 'must be a subject like "tv.news" or "tv.>"'),
        ({**PLAIN, "subject": "tv news"}, "must be a subject like"),
        ({**PLAIN, "queue": "a b"}, "must be a name without blanks and wildcards"),
        ({**PLAIN, "queue": "*"}, "must be a name without blanks and wildcards"),
        ({**PLAIN, "tls_first": True}, "tls_first is for servers with tls://"),
        ({**PLAIN, "servers": "redis://a"}, "must be an URL like"),
        ({**PLAIN, "servers": "nats://me:secret@a"}, "has a user or password in its URL"),
        ({**REDIS, "start": "first"}, "start is of a group that is made"),
        ({**REDIS, "start": "last"}, "new"),
        ({**REDIS, "field": ""}, "must be a name"),
        ({**REDIS, "key": "a\n"}, "must be a name"),
        ({**REDIS, "cert_key": "/a"}, "cert_key is of cert, which is missing"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], words: str) -> None:
    of = RedisSource if "group" in settings else NatsSource
    with pytest.raises(ValidationError) as refused:
        of(**settings)
    assert words in str(refused.value)
    assert "secret@" not in "".join(error["msg"] for error in refused.value.errors())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('framing = "chunk"', 'framing: does not apply to a source of kind = "nats" that has datagrams'),
        ("max_datagram = 1316", "max_datagram: does not apply to this source"),
        ("repeat = 2", 'repeat: does not apply to a source of kind = "nats": it has no end to repeat'),
        ("follow = true", 'follow: does not apply to a source of kind = "nats"'),
        ('protocol = "flute"\nrate = 9', "source: must be the path of a file or directory"),
    ],
)
def test_what_contradicts_them(refusal: Callable[[str], str], more: str, said: str) -> None:
    assert said in refusal(channel('kind = "nats", servers = "nats://a", subject = "tv.>"', more))


def test_a_secret_that_goes_over_the_network_as_it_is() -> None:
    assert [*NatsSource(**PLAIN, token="/etc/t").advice()] == [
        "token goes over the network as it is: use TLS"
    ]
    assert [*NatsSource(**{**PLAIN, "servers": "tls://192.0.2.7"}, token="/etc/t").advice()] == []
    assert [*RedisSource(**REDIS, password="/etc/p").advice()] == [
        "password goes over the network as it is: use TLS"
    ]


NATS_BACK = 'kind = "nats", servers = "nats://localhost", stream = "TV", subject = "tv.{group}"'
REDIS_BACK = 'kind = "redis", servers = "redis://192.0.2.7"'


@pytest.mark.parametrize(
    ("source", "output", "key"),
    [
        ('kind = "nats", servers = "nats://127.0.0.1", subject = "tv.>"', NATS_BACK, "subject"),
        (
            'kind = "nats", servers = "nats://localhost", stream = "TV", consumer = "c", create = true',
            NATS_BACK,
            "subject",
        ),
        (
            'kind = "redis", servers = "redis://192.0.2.7", key = "mcast:239_2_2_2:5004", group = "g"',
            REDIS_BACK,
            "key",
        ),
    ],
)
def test_a_source_that_is_fed_by_what_it_sends_is_refused(
    refusal: Callable[[str], str], source: str, output: str, key: str
) -> None:
    found = refusal(channel(source) + subscription(output))
    assert (
        f"inbound.back.output.{key}: what it sends comes back to it for ever: it is the source of"
        f" outbound.tv, and sends on what it receives; give it another {key}, or outbound.tv another source"
        in found
    )
    assert "outbound.tv.group: what it sends comes back to it for ever" in found


def test_any_server_in_common_makes_the_circle(
    refusal: Callable[[str], str], loaded: Callable[[str], Config]
) -> None:
    """Servers are tried in turn, and have the same messages."""
    source = 'kind = "nats", servers = ["nats://a", "nats://127.0.0.1:4223"], subject = "tv.>"'
    for servers in ('["nats://b", "nats://a"]', '["nats://b", "nats://localhost:4223", "nats://c"]'):
        output = NATS_BACK.replace('"nats://localhost"', servers)
        assert "it is the source of outbound.tv" in refusal(channel(source) + subscription(output))
    loaded(
        channel(source) + subscription(NATS_BACK.replace('"nats://localhost"', '["nats://b", "nats://c"]'))
    )


BY_UDP = """
[inbound.other]
group = "239.4.4.4"
port = 5004
output = { kind = "udp", to = "localhost:5000" }
[outbound.further]
group = "239.5.5.5"
port = 5004
source = { kind = "udp", listen = "127.0.0.1:5000" }
[inbound.last]
group = "239.5.5.5"
port = 5004
output = { kind = "nats", servers = "nats://a", stream = "TV", subject = "tv.in" }
"""


def test_a_circle_by_two_engines_and_a_program(
    refused: Callable[[str], list[str]], loaded: Callable[[str], Config]
) -> None:
    by_redis = subscription('kind = "redis", servers = "redis://b", key = "radio"') + (
        '[outbound.on]\ngroup = "239.4.4.4"\nport = 5004\n'
        'source = { kind = "redis", servers = "redis://b", key = "radio", group = "g" }\n'
    )
    source = 'kind = "nats", servers = "nats://a", subject = "tv.*"'
    found = refused(channel(source) + by_redis + BY_UDP)
    names = [
        "outbound.tv.group",
        "inbound.back.output.key",
        "outbound.on.group",
        "inbound.other.output.to",
        "outbound.further.group",
        "inbound.last.output.subject",
    ]
    assert sorted(line.split(": ")[1] for line in found) == sorted(names)
    assert all("what it sends comes back to it for ever" in line for line in found)
    loaded(channel(source.replace("tv.*", "tv.*.*")) + by_redis + BY_UDP)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ('kind = "nats", servers = "nats://localhost", subject = "radio.>"', NATS_BACK),
        ('kind = "nats", servers = "nats://192.0.2.7", subject = "tv.>"', NATS_BACK),
        ('kind = "nats", servers = "nats://localhost:9", subject = "tv.>"', NATS_BACK),
        # What a consumer gives that others have made is not known
        ('kind = "nats", servers = "nats://localhost", stream = "TV", consumer = "c"', NATS_BACK),
        (
            'kind = "nats", servers = "nats://localhost", stream = "RADIO", consumer = "c", create = true',
            NATS_BACK,
        ),
        ('kind = "redis", servers = "redis://192.0.2.7", key = "news", group = "g"', REDIS_BACK),
    ],
)
def test_what_is_no_circle(loaded: Callable[[str], Config], source: str, output: str) -> None:
    loaded(channel(source) + subscription(output))


@pytest.mark.parametrize(
    ("source", "output", "words"),
    [
        ("", NATS_BACK, "inbound.back hands what this sends over to TV, as tv.239_2_2_2: if the consumer c"),
        (", create = true", NATS_BACK.replace('"TV"', '"RADIO"'), ""),
        ("", NATS_BACK.replace('"TV"', '"RADIO"'), ""),
        ("", NATS_BACK.replace("localhost", "192.0.2.7"), ""),
        ("", REDIS_BACK, ""),
    ],
)
def test_what_a_consumer_of_others_may_give_back_is_said(
    loaded: Callable[[str], Config], source: str, output: str, words: str
) -> None:
    of_stream = f'kind = "nats", servers = "nats://localhost", stream = "TV", consumer = "c"{source}'
    found = [one.reason for one in advise(loaded(channel(of_stream) + subscription(output)))]
    assert [words in why for why in found] == ([True] if words else [])
    elsewhere = subscription(output).replace("239.2.2.2", "239.3.3.3")
    assert advise(loaded(channel(of_stream) + elsewhere)) == []


def test_several_may_take_the_same(loaded: Callable[[str], Config]) -> None:
    source = 'kind = "nats", servers = "nats://a", subject = "tv.>"'
    other = channel(source).replace("outbound.tv", "outbound.radio").replace("239.2.2.2", "239.3.3.3")
    loaded(channel(source) + other)
