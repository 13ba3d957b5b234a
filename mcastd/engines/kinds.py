"""The engines that there are: from the settings of an output to what hands over to its server, and from those
of a source to what takes from one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mcastd.config import (
    EngineOutput,
    EngineServers,
    EngineSource,
    KafkaOutput,
    NatsOutput,
    NatsServers,
    NatsSource,
    RedisOutput,
    RedisServers,
    RedisSource,
)
from mcastd.delivery.keys import KeyFileError, read_secret
from mcastd.engines.backlog import BacklogBounds
from mcastd.engines.connected import EngineServer
from mcastd.engines.consumer import AGAIN, MALFORMED, TOO_LONG, TRIMMED, Consumer
from mcastd.engines.engine import REFUSED, TOO_BIG, UNREACHABLE, Encoder, Engine, KeptStream
from mcastd.engines.hand_over import HandOverPlan
from mcastd.engines.kafka import KafkaEngine, KafkaLogin, KafkaPlace
from mcastd.engines.kafka_records import KafkaEncoder
from mcastd.engines.nats import JetStreamPlan, NatsEncoder, NatsEngine
from mcastd.engines.nats_connection import NatsLogin
from mcastd.engines.nats_consumer import JetStreamConsumer, NatsConsumerPlan, NatsSubscriber
from mcastd.engines.outcomes import CRASHED, FULL, SPOOL, STOPPED
from mcastd.engines.redis import OVERTAKEN, RedisEncoder, RedisEngine
from mcastd.engines.redis_connection import RedisLogin
from mcastd.engines.redis_consumer import RedisConsumer, RedisConsumerPlan
from mcastd.engines.segments import SPOOL_IN_USE
from mcastd.errors import SinkError
from mcastd.net.server_connection import TlsFiles
from mcastd.protocols.nkeys import Credentials, NotCredentialsError


class EngineKind(NamedTuple):
    """One kind of engine."""

    encoder: Callable[[Any, KeptStream], Encoder]
    engine: Callable[[Any, KeptStream], Engine]  # raises SinkError; it reads the files of passwords
    reasons: tuple[str, ...] = ()  # to drop, beside those of all


def _nats_encoder(config: NatsOutput, stream: KeptStream) -> NatsEncoder:
    return NatsEncoder(config.name_of(config.subject, stream.group, stream.port), stream)


def _nats_engine(config: NatsOutput, stream: KeptStream) -> NatsEngine:
    return NatsEngine(
        _servers(config),
        _tls(config),
        _nats_login(config),
        subject=config.name_of(config.subject, stream.group, stream.port),
        stream=stream,
        plan=JetStreamPlan(
            config.stream, config.create, config.stream_size, config.replicas, config.duplicate_window
        ),
    )


def _redis_encoder(config: RedisOutput, stream: KeptStream) -> RedisEncoder:
    return RedisEncoder(config.name_of(config.key, stream.group, stream.port), stream, config.max_length)


def _redis_engine(config: RedisOutput, stream: KeptStream) -> RedisEngine:
    return RedisEngine(
        _servers(config),
        _tls(config),
        _redis_login(config),
        key=config.name_of(config.key, stream.group, stream.port),
        stream=stream,
    )


def _kafka_encoder(config: KafkaOutput, stream: KeptStream) -> KafkaEncoder:
    return KafkaEncoder(config.name_of(config.topic, stream.group, stream.port))


def _kafka_engine(config: KafkaOutput, stream: KeptStream) -> KafkaEngine:
    servers = _servers(config)
    return KafkaEngine(
        KafkaPlace(
            [one.end for one in servers],
            servers[0].is_encrypted,
            config.name_of(config.topic, stream.group, stream.port),
        ),
        _tls(config),
        KafkaLogin(config.mechanism, config.user or "", _secret(config, "password", config.password)),
        stream,
    )


ENGINES: dict[type[EngineOutput], EngineKind] = {
    NatsOutput: EngineKind(_nats_encoder, _nats_engine, (TOO_BIG,)),
    RedisOutput: EngineKind(_redis_encoder, _redis_engine, (OVERTAKEN,)),
    KafkaOutput: EngineKind(_kafka_encoder, _kafka_engine, (TOO_BIG,)),
}
_REASONS = (FULL, SPOOL, SPOOL_IN_USE, UNREACHABLE, REFUSED, STOPPED, CRASHED)


def plan_of(config: EngineOutput) -> HandOverPlan:
    kind = ENGINES[type(config)]
    return HandOverPlan(
        config.label,
        lambda stream: kind.encoder(config, stream),
        lambda stream: kind.engine(config, stream),
        config.spool,
        BacklogBounds(config.queue, config.spool_size, config.when_full == "drop-oldest"),
    )


def reasons_of(config: EngineOutput) -> Sequence[str]:
    """All for which such an output may drop."""
    return (*_REASONS, *ENGINES[type(config)].reasons)


class ConsumerKind(NamedTuple):
    """One kind of engine that a source takes from."""

    # Of the settings, and our name: HOST/WORKER. Raises SinkError; it reads the files of passwords.
    consumer: Callable[[Any, str], Consumer]
    reasons: tuple[str, ...]  # to drop


def _nats_consumer(config: NatsSource, name: str) -> Consumer:
    asking = _servers(config), _tls(config), _nats_login(config)
    if config.stream is None or config.consumer is None:
        return NatsSubscriber(*asking, name=name, subject=config.subject or "", queue=config.queue or "")
    plan = NatsConsumerPlan(
        config.stream,
        config.consumer,
        config.create,
        config.subject or "",
        config.start == "first",
    )
    return JetStreamConsumer(*asking, name=name, plan=plan)


def _redis_consumer(config: RedisSource, name: str) -> Consumer:
    plan = RedisConsumerPlan(
        config.key,
        config.group,
        config.consumer or name,
        config.field,
        config.create,
        config.start == "first",
    )
    return RedisConsumer(_servers(config), _tls(config), _redis_login(config), plan=plan)


CONSUMERS: dict[type[EngineSource], ConsumerKind] = {
    NatsSource: ConsumerKind(_nats_consumer, (TOO_LONG, AGAIN)),
    RedisSource: ConsumerKind(_redis_consumer, (TOO_LONG, AGAIN, MALFORMED, TRIMMED)),
}


def _servers(config: EngineServers) -> tuple[EngineServer, ...]:
    return tuple(EngineServer(*config.server_of(one)) for one in config.servers)


def _tls(config: EngineServers) -> TlsFiles:
    return TlsFiles(*(str(path or "") for path in (config.ca, config.cert, config.cert_key)))


def _nats_login(config: NatsServers) -> NatsLogin:
    return NatsLogin(
        config.user or "",
        _secret(config, "password", config.password),
        _secret(config, "token", config.token),
        _credentials(config),
        config.tls_first,
        config.domain or "",
    )


def _redis_login(config: RedisServers) -> RedisLogin:
    return RedisLogin(config.user or "", _secret(config, "password", config.password), config.database)


def _secret(config: EngineServers, key: str, place: str | None) -> str:
    if place is None:
        return ""
    try:
        return read_secret(place, f"the {key}")
    except KeyFileError as error:
        what = f"cannot log in at {config.first_end}"
        raise SinkError(what, f"{error.what}: {error.cause}", error.way_out, reason=REFUSED) from error


def _credentials(config: NatsServers) -> Credentials | None:
    if config.creds is None:
        return None
    try:
        return Credentials.parse(_secret(config, "credentials", config.creds))
    except NotCredentialsError as error:
        what = f"cannot log in at {config.first_end}"
        way_out = "give the file that nsc has made for the user (.creds), or its seed alone"
        raise SinkError(what, f"{config.creds}: {error}", way_out, reason=REFUSED) from error
