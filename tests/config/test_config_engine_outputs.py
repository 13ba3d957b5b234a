"""Outputs that hand what is received to an engine: what may be said, and what not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mcastd.config import EngineOutput, KafkaOutput, NatsOutput, RedisOutput

NATS: dict[str, Any] = {"servers": "nats://192.0.2.7", "stream": "TV"}
REDIS: dict[str, Any] = {"servers": "redis://192.0.2.7"}
KAFKA: dict[str, Any] = {"servers": "kafka://192.0.2.7"}


@pytest.mark.parametrize(
    ("url", "of", "expected"),
    [
        ("nats://192.0.2.7", NatsOutput, ("192.0.2.7", 4222, False)),
        ("nats://192.0.2.7:9", NatsOutput, ("192.0.2.7", 9, False)),
        ("tls://nats.example.net", NatsOutput, ("nats.example.net", 4222, True)),
        ("nats://[2001:db8::7]", NatsOutput, ("2001:db8::7", 4222, False)),
        ("nats://[2001:db8::7]:9", NatsOutput, ("2001:db8::7", 9, False)),
        ("redis://localhost", RedisOutput, ("localhost", 6379, False)),
        ("rediss://localhost:9/", RedisOutput, ("localhost", 9, True)),
        ("kafka://localhost", KafkaOutput, ("localhost", 9092, False)),
        ("kafka+ssl://[2001:db8::7]:9093", KafkaOutput, ("2001:db8::7", 9093, True)),
    ],
)
def test_where_a_server_is(url: str, of: type[EngineOutput], expected: tuple[str, int, bool]) -> None:
    assert of.server_of(url) == (url, *expected)


def test_what_they_are_called_and_write() -> None:
    plain, other = NatsOutput(**NATS), RedisOutput(**REDIS, spool="/srv/spool")
    assert plain.label == "nats 192.0.2.7:4222 TV"
    assert NatsOutput(**NATS, subject="tv.a").label == "nats 192.0.2.7:4222 TV/tv.a"
    assert NatsOutput(**NATS, domain="hub").label == "nats 192.0.2.7:4222 hub/TV"
    assert other.label == "redis 192.0.2.7:6379"
    assert RedisOutput(**REDIS, key="tv").label == "redis 192.0.2.7:6379 tv"
    assert RedisOutput(**REDIS, key="tv", database=2).label == "redis 192.0.2.7:6379 2/tv"
    assert RedisOutput(**REDIS, database=3).label == "redis 192.0.2.7:6379 3/"
    assert (plain.needs_metadata, plain.paths()) == (True, ())
    (written,) = other.paths()
    assert (written.path, written.key) == (Path("/srv/spool"), "spool")
    assert plain.name_of(plain.subject, "ff15::1", 5) == "mcast.ff15__1.5"
    assert NatsOutput(**{**NATS, "servers": "nats://[2001:db8::7]"}).label.startswith(
        "nats [2001:db8::7]:4222 "
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({**NATS, "servers": "192.0.2.7"}, 'must be an URL like "nats://192.0.2.7", with nats://, tls://'),
        ({**NATS, "servers": "redis://192.0.2.7"}, "must be an URL like"),
        ({**NATS, "servers": "nats://me:secret@192.0.2.7"}, "has a user or password in its URL"),
        ({**NATS, "servers": "nats://192.0.2.7/x"}, "more than a host and a port"),
        ({**NATS, "servers": "nats://192.0.2.7:0"}, "must be an address or a name, and a port"),
        ({**NATS, "servers": "nats://239.1.1.1"}, "is no address of a host"),
        ({**NATS, "servers": []}, "from 1 to 16 servers"),
        ({**NATS, "servers": ["nats://a", "nats://a"]}, "is there twice"),
        ({**NATS, "servers": [5]}, "must be URLs of servers"),
        ({**NATS, "stream": "a.b"}, "without blanks, dots, slashes and wildcards"),
        ({**NATS, "domain": "a.b"}, "without blanks, dots, slashes and wildcards"),
        ({**NATS, "subject": "a.*"}, "is none of a message"),
        ({**NATS, "subject": "a.{name}"}, "in braces there may be"),
        ({**NATS, "subject": ""}, "must be a name"),
        ({**NATS, "replicas": 6}, "from 1 to 5"),
        ({**NATS, "user": ""}, "the name of a user"),
        ({**NATS, "password": "s3cret word"}, "the absolute path of a key file"),
        ({**NATS, "cert_key": "/a"}, "cert_key is of cert, which is missing"),
        ({**REDIS, "when_full": "block"}, "drop-newest"),
        ({**REDIS, "format": "lines"}, "raw"),
        ({**REDIS, "max_length": 0}, "1"),
        ({**REDIS, "servers": "redis://192.0.2.7/2"}, "a port; give the number of a database as database"),
        ({**REDIS, "database": -1}, "from 0 to"),
        ({**KAFKA, "topic": "news/{group}"}, "letters, digits, dots, _ and -"),
        ({**KAFKA, "topic": ".."}, "letters, digits, dots, _ and -"),
        ({**KAFKA, "servers": ["kafka://a", "kafka+ssl://b"]}, "servers: they all have TLS, or none"),
        ({**KAFKA, "user": "me"}, "belong together"),
        ({**KAFKA, "mechanism": "GSSAPI"}, "SCRAM-SHA-512"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], words: str) -> None:
    of = KafkaOutput if "kafka" in str(settings) else NatsOutput if "stream" in settings else RedisOutput
    with pytest.raises(ValidationError) as refused:
        of(**settings)
    assert words in str(refused.value)
    assert "secret@" not in "".join(error["msg"] for error in refused.value.errors())


@pytest.mark.parametrize(
    ("settings", "advised"),
    [
        ({**NATS}, []),
        ({**NATS, "password": "/etc/p"}, ["password"]),
        ({**NATS, "password": "/etc/p", "servers": "tls://192.0.2.7"}, []),
        ({**NATS, "password": "/etc/p", "servers": "nats://localhost"}, []),
        ({**NATS, "token": "/etc/p"}, ["token"]),
        ({**NATS, "spool": "/srv/%Y"}, ["spool"]),
    ],
)
def test_what_is_unwise(settings: dict[str, Any], advised: list[str]) -> None:
    assert [key for key, _ in NatsOutput(**settings).advice()] == advised


@pytest.mark.parametrize(("mechanism", "advised"), [("PLAIN", ["password"]), ("SCRAM-SHA-256", [])])
def test_a_password_that_is_proven_goes_without_tls(mechanism: str, advised: list[str]) -> None:
    output = KafkaOutput(**KAFKA, user="me", password="/etc/p", mechanism=mechanism)
    assert [key for key, _ in output.advice()] == advised


def test_what_is_refused_has_its_key(refusal: Callable[[str], str]) -> None:
    server = "http://192.0.2.7"
    text = f"""[inbound.a]
group = "239.1.1.1"
port = 9
[[inbound.a.output]]
kind = "nats"
stream = "TV"
servers = [
    "nats://192.0.2.7",
    "{server}",
]
"""
    assert f'not "{server}"' in refusal(text)
    assert ":7: inbound.a.output[0].servers[1]: must be an URL like" in refusal(text)
