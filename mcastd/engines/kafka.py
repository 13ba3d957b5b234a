"""Topics of Kafka: a record for each datagram, by the library of Confluent (librdkafka).

All records of a worker have its name as their key, and are in one partition, in order. The library sends each
once as long as it is connected (``enable.idempotence``); what has no answer when a connection breaks is sent
again by the next one, unless the last records of the partition show that the server has it. By the id in its
headers (``id``: HOST/WORKER/NUMBER) a reader knows a record that is there twice after all.

The library has threads of its own, and says what became of records only when it is asked: that is what the
thread here is for.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from mcastd import clock
from mcastd.bell import Bell
from mcastd.engines.engine import (
    NOT_OF_THIS_KIND,
    REFUSED,
    TOO_BIG,
    UNREACHABLE,
    Engine,
    KeptStream,
    RefusedMessage,
    ServerAnswers,
)
from mcastd.engines.kafka_records import KafkaRecord, number_of
from mcastd.engines.segments import KeptMessage
from mcastd.errors import SinkError
from mcastd.net.server_connection import TlsFiles
from mcastd.printable import printable
from mcastd.threads import Thread

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Producer

# For an answer while the connection is made.
CONNECT_SECONDS = 5.0
# The library says after such an attempt whether there is anybody.
ATTEMPT_SECONDS = 0.5
# Between two looks of the thread whether it is over.
LOOK_SECONDS = 0.1
# For how long the library gathers records before it sends them.
LINGER_MILLISECONDS = 5
# So many records of the partition are looked through for the last one of ours: others may be behind it.
LOOK_BACK_RECORDS = 10_000
# What the library adds to what it says, and is another at each attempt.
_AFTER = re.compile(r" \(after [^()]*\)")


@dataclass(frozen=True, slots=True, repr=False)
class KafkaLogin:
    """Who asks. Nothing of it is shown anywhere."""

    mechanism: str = ""  # of SASL
    user: str = ""
    password: str = ""


class KafkaPlace(NamedTuple):
    """Where records go."""

    servers: Sequence[str]  # hosts with ports: any of them leads to all
    is_encrypted: bool  # with TLS
    topic: str


class KafkaEngine(Engine):
    """A producer of the library, which finds the servers, and connects to them, by itself."""

    def __init__(self, place: KafkaPlace, files: TlsFiles, login: KafkaLogin, stream: KeptStream) -> None:
        self.server = ", ".join(place.servers)
        self._place = place
        self._files = files
        self._login = login
        self._writer = stream.writer.encode()
        self._producer: Producer | None = None
        self._partitions: dict[str, int] = {}  # of a topic: how many it has
        self._elsewhere = ""  # where the cluster says that it is, if it names none of our servers
        self._answers: deque[tuple[int, KafkaError | None]] = deque()  # of the library, by number
        self._said: deque[KafkaError] = deque(maxlen=16)  # what it said of servers last
        self._failure: SinkError | None = None  # for the next receive()
        self._bell: Bell | None = None  # of what is in _answers
        self._is_closed = False

    # -- while the connection is made

    def connect(self) -> int:
        kafka = _library(self.server)
        settings = self._settings()
        # Nothing else holds it: where this fails, the error's traceback would keep its threads
        try:
            self._producer = kafka.Producer(
                {
                    **settings,
                    "enable.idempotence": True,
                    "linger.ms": LINGER_MILLISECONDS,
                    # It is for the server to say what is too large
                    "message.max.bytes": 1 << 28,
                    "error_cb": self._said.append,
                },
                logger=_SILENT,
            )
        except kafka.KafkaException as error:  # a file that cannot be read, above all
            raise self._useless(_words(error.args[0])) from error
        try:
            count = self._count_partitions(self._place.topic)
            known = self._last_number(kafka, settings, self._partition(count))
            bell = Bell()
            try:
                Thread(target=self._listen, name="engine-kafka", args=(self._producer, bell)).start()
            except RuntimeError:
                bell.close()
                raise
            self._bell = bell
        except BaseException:
            self.close()
            raise
        return known

    def _settings(self) -> dict[str, Any]:
        """What producers and consumers of the library have in common."""
        files, login = self._files, self._login
        way = "SSL" if self._place.is_encrypted else "PLAINTEXT"
        given = {
            "ssl.ca.location": (files.authorities or "probe") if self._place.is_encrypted else "",
            "ssl.certificate.location": files.certificate,
            "ssl.key.location": files.key,
            "sasl.mechanism": login.mechanism if login.user else "",
            "sasl.username": login.user,
            "sasl.password": login.password,
        }
        return {
            "bootstrap.servers": ",".join(self._place.servers),
            "client.id": "mcastd",
            "security.protocol": f"SASL_{way}" if login.user else way,
            "socket.timeout.ms": round(1000 * CONNECT_SECONDS),
            **{key: value for key, value in given.items() if value},
        }

    def _count_partitions(self, topic: str) -> int:
        """Ask what the topic is like. Raises SinkError if nobody answers, or it takes nothing."""
        kafka = _library(self.server)
        assert self._producer is not None
        found, until = None, clock.monotonic() + CONNECT_SECONDS
        while found is None:
            try:
                listed = self._producer.list_topics(topic, timeout=ATTEMPT_SECONDS)
                found = listed.topics[topic]
                named = {f"{one.host}:{one.port}" for one in listed.brokers.values()}
                self._elsewhere = "" if named & {*self._place.servers} else ", ".join(sorted(named))
            except kafka.KafkaException as error:
                self._producer.poll(0)  # then it tells why
                are_all_away = any(said.name() == "_ALL_BROKERS_DOWN" for said in self._said)
                if are_all_away or clock.monotonic() >= until:
                    raise self._unreachable(error.args[0]) from error
        if found.error is not None:
            raise self._refused(found.error, topic)
        self._partitions[topic] = len(found.partitions)
        return len(found.partitions)

    def _partition(self, count: int) -> int:
        """As the library would choose it by the key (``partitioner=consistent``)."""
        return zlib.crc32(self._writer) % max(count, 1)

    def _last_number(self, kafka: Any, settings: dict[str, Any], partition: int) -> int:
        """The number of the last record of ours that the partition has; 0 if the user may not see that.

        Raises SinkError if it cannot be asked now: what is there would be sent again.
        """
        try:
            consumer: Consumer = kafka.Consumer(
                {**settings, "group.id": "mcastd", "enable.auto.commit": False, "enable.partition.eof": True},
                logger=_SILENT,
            )
        except kafka.KafkaException as error:  # it has no thread, say
            raise self._useless(_words(error.args[0])) from error
        number = 0
        until = clock.monotonic() + CONNECT_SECONDS
        try:
            place = kafka.TopicPartition(self._place.topic, partition)
            ends = consumer.get_watermark_offsets(place, timeout=CONNECT_SECONDS)
            if ends is None:
                return self._unless_trouble(kafka.KafkaError(kafka.KafkaError._TIMED_OUT), 0)
            low, high = ends
            if low >= high:
                return 0
            place.offset = max(low, high - LOOK_BACK_RECORDS)
            consumer.assign([place])
            while (left := until - clock.monotonic()) > 0:
                for record in consumer.consume(500, timeout=min(left, 1.0)):
                    if (end := record.error()) is not None:
                        return self._unless_trouble(end, number)
                    number = number_of(record.headers(), self._writer) or number
                    if (record.offset() or 0) >= high - 1:
                        return number
        except kafka.KafkaException as error:
            return self._unless_trouble(error.args[0], 0)
        finally:
            consumer.close()
        return number

    def _unless_trouble(self, error: KafkaError, number: int) -> int:
        """``number``, if an error only means that there is no more to be seen. Raises SinkError."""
        if error.name() in _NO_MORE_TO_SEE:
            return number
        if self._elsewhere and error.name().startswith("_"):  # of the library: the server has not said it
            way_out = f"{self.server} answers, and says that it is there: see advertised.listeners of Kafka"
            cause = self._unreachable(error).cause
            raise SinkError(f"cannot reach {self._elsewhere}", cause, way_out, reason=UNREACHABLE)
        raise self._refused(error, self._place.topic)

    # -- while it is used

    def _listen(self, producer: Producer, bell: Bell) -> None:
        """The thread: have the library say what became of records."""
        while not self._is_closed:
            producer.poll(LOOK_SECONDS)
            if self._answers:
                bell.ring()
        bell.close()  # nobody polls it any more
        producer.purge()  # what the next connection sends is not to be sent by this one, too

    def fileno(self) -> int:
        assert self._bell is not None
        return self._bell.fileno()

    def send(self, messages: Sequence[KeptMessage]) -> None:
        assert self._producer is not None
        try:
            records = [(number, KafkaRecord.of(number, message)) for number, message in messages]
        except ValueError:
            raise self._useless(*NOT_OF_THIS_KIND) from None
        kafka = _library(self.server)
        produce: Callable[..., None] = self._producer.produce
        for number, record in records:
            if (count := self._partitions.get(record.topic)) is None:
                # From a spool of before: its topic was another one then
                count = self._count_partitions(record.topic)
            try:
                produce(
                    record.topic,
                    record.payload,
                    record.writer,
                    self._partition(count),
                    on_delivery=partial(self._delivered, number),
                    timestamp=record.time // 1_000_000,
                    headers=record.headers,
                )
            except (BufferError, kafka.KafkaException) as error:
                raise self._useless(_words(error.args[0])) from error

    def _delivered(self, number: int, error: KafkaError | None, _: object) -> None:
        """Of the thread: a record has its answer."""
        self._answers.append((number, error))

    @property
    def is_full(self) -> bool:
        return False  # the library holds all that may be in flight

    def flush(self) -> None:
        """There is nothing to be done."""

    def receive(self) -> ServerAnswers:
        assert self._bell is not None
        self._bell.quiet()
        if self._failure is not None:
            raise self._failure
        kept: list[int] = []
        refused: list[RefusedMessage] = []
        while self._answers:
            number, error = self._answers.popleft()
            if error is None:
                kept.append(number)
            elif error.name() in _TOO_BIG:
                refused.append(RefusedMessage(number, TOO_BIG, _words(error)))
            else:
                self._failure = self._refused(error, self._place.topic)
                break
        if self._failure is not None:
            if not kept and not refused:
                raise self._failure
            self._bell.ring()  # for what was answered first, this call is
        return ServerAnswers(kept, 0, refused)

    def close(self) -> None:
        self._producer, self._is_closed = None, True

    # -- what is wrong

    def _useless(self, cause: str, way_out: str = "") -> SinkError:
        return SinkError(f"cannot send to {self.server}", cause, way_out, reason=REFUSED)

    def _refused(self, error: KafkaError, topic: str) -> SinkError:
        """Why records are not taken."""
        if error.name() in _AWAY:
            return self._unreachable(error)
        return self._useless(f"topic {topic}: {_words(error)}", _WAYS_OUT.get(error.name(), ""))

    def _unreachable(self, error: KafkaError) -> SinkError:
        """Why no server answers: what the library said of one before, if it did."""
        told = [one for one in self._said if one.name() not in _AWAY or one.name() == "_TRANSPORT"]
        # What is wrong with a server that answers tells more than that another one does not
        error = next((one for one in told if one.name() != "_TRANSPORT"), told[-1] if told else error)
        way_out = _WAYS_OUT.get(error.name(), "")
        return SinkError(f"cannot reach {self.server}", _words(error), way_out, reason=UNREACHABLE)


def _words(error: KafkaError | str) -> str:
    """What the library says, in one line that stays the same."""
    return _AFTER.sub("", printable(error if isinstance(error, str) else error.str())).strip()


def _library(server: str) -> Any:
    """Raises SinkError if it is not installed."""
    try:
        import confluent_kafka  # noqa: PLC0415 - 40 ms, for those that have such an output
    except ImportError as error:
        raise SinkError(
            f"cannot send to {server}",
            "the library confluent-kafka is missing",
            "pip install 'mcastd[kafka]', or apt install python3-confluent-kafka",
            reason=UNREACHABLE,
        ) from error
    return confluent_kafka


# What the library logs comes as errors, too.
_SILENT = logging.Logger("kafka")
_SILENT.addHandler(logging.NullHandler())
_TOO_BIG = {"MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"}
# The end of the partition; or the user may not read it.
_NO_MORE_TO_SEE = {"_PARTITION_EOF", "TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED"}
# A server is away, or does not answer.
_AWAY = {"_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_MSG_TIMED_OUT", "_DESTROY", "_PURGE_QUEUE"}
_WAYS_OUT = {
    "UNKNOWN_TOPIC_OR_PART": "make the topic: kafka-topics.sh --bootstrap-server HOST --create --topic TOPIC",
    "TOPIC_AUTHORIZATION_FAILED": "allow the user to write and describe the topic: kafka-acls.sh --add",
    "CLUSTER_AUTHORIZATION_FAILED": "allow the user IdempotentWrite on the cluster: kafka-acls.sh --add",
    "_AUTHENTICATION": "give another user, password or mechanism",
    "SASL_AUTHENTICATION_FAILED": "give another user, password or mechanism",
    "_SSL": 'see whether the server has TLS at this port, and name by "ca" the authority that has signed it',
    "_RESOLVE": "see whether its name resolves here: getent hosts NAME",
    "_TRANSPORT": "start the server, or name the port that it has",
    "NOT_ENOUGH_REPLICAS": "have more replicas of the topic in sync, or a lower min.insync.replicas",
}
