"""What outputs to engines agree on: one writer for a key of Redis, all subjects for a stream of NATS."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mcastd.config import Config
from mcastd.config.advice import advise


def of(*outputs: dict[str, Any], group: str = "", **settings: Any) -> dict[str, Any]:
    """The tables of a subscription for each output: ``a``, ``b``, ..."""
    return {
        "inbound": {
            name: {
                "group": group or f"239.255.1.{number}",
                "port": 9190,
                "interface": f"eth{number}",
                "output": output,
                **settings,
            }
            for number, (name, output) in enumerate(zip("abc", outputs, strict=False), 1)
        }
    }


def redis(*servers: str, **settings: Any) -> dict[str, Any]:
    return {"kind": "redis", "servers": [f"redis://{one}" for one in servers or ("192.0.2.7",)], **settings}


def nats(**settings: Any) -> dict[str, Any]:
    return {"kind": "nats", "servers": "nats://192.0.2.7", "stream": "TV", **settings}


@pytest.mark.parametrize(
    "tables",
    [
        of(redis(key="tv"), redis(key="tv")),
        of(redis(key="tv", database=2), redis(key="tv", database=2)),
        of(redis(), redis(), group="239.255.1.9"),  # by two interfaces
        of(redis("192.0.2.7", "192.0.2.8", key="tv"), redis("192.0.2.8:6379", key="tv")),
        of(redis(key="mcast:239_255_1_2:9190"), redis()),
    ],
)
def test_a_key_of_redis_has_one_writer(tables: dict[str, Any]) -> None:
    with pytest.raises(
        ValidationError, match="is written by inbound/a already, and has one writer"
    ) as refused:
        Config.model_validate(tables)
    assert refused.value.error_count() == 1
    tables["inbound"]["b"]["enabled"] = False
    Config.model_validate(tables)


@pytest.mark.parametrize(
    "tables",
    [
        of(redis(), redis()),
        of(redis("192.0.2.7", key="tv"), redis("192.0.2.8", key="tv")),
        of(redis("192.0.2.7", key="tv"), redis("192.0.2.7:6380", key="tv")),
        of(redis(key="tv", database=2), redis(key="tv", database=3)),
        of(nats(subject="tv"), nats(subject="tv")),
    ],
)
def test_keys_that_are_not_the_same(tables: dict[str, Any]) -> None:
    Config.model_validate(tables)


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (of(nats(create=True), nats(create=True)), ("a", "takes nothing of inbound/b", "'mcast.>'")),
        (of(nats(), nats(create=True)), ("b", "takes nothing of inbound/a", "'mcast.>'")),
        (
            of(nats(create=True, subject="tv"), nats(subject="tv.one"), nats(subject="radio")),
            ("a", "takes nothing of inbound/b", "tv,tv.one,radio"),
        ),
        (
            of(nats(create=True, subject="tv.one.hd"), nats(subject="tv.one.sd")),
            ("a", "takes nothing of inbound/b", "'tv.one.>'"),
        ),
        (
            of(nats(create=True), nats(subject="cam.a"), nats(subject="mcast." + "x" * 150)),
            ("a", "takes nothing of inbound/b", "'mcast.>,cam.a'"),
        ),
    ],
)
def test_a_stream_that_is_made_takes_one_subject(
    tables: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    name, what, subjects = expected
    (found,) = advise(Config.model_validate(tables))
    assert found.location == ("inbound", name, "output", 0, "create")
    assert what in found.reason
    assert found.reason.endswith(f"nats stream add TV --subjects {subjects}")


@pytest.mark.parametrize(
    "tables",
    [
        of(nats(), nats()),
        of(nats(create=True), nats(stream="RADIO", create=True)),
        of(nats(create=True), nats(domain="hub", create=True)),
        of(nats(create=True), nats(servers="nats://192.0.2.8", create=True)),
        of(nats(create=True, subject="tv"), nats(create=True, subject="tv")),
    ],
)
def test_streams_that_take_all_they_are_given(tables: dict[str, Any]) -> None:
    assert advise(Config.model_validate(tables)) == []
