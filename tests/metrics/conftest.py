"""Workers in memory with their books, and what a scrape of them says, read by prometheus_client's parser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mcastd.amt_relay.worker import AmtRelayWorker
from mcastd.bridge.bridge import BridgeWorker
from mcastd.bridge.family import FamilyRoutes
from mcastd.bridge.router import MulticastRouter
from mcastd.config import Config, InboundSubscription
from mcastd.discovery.discovery import Discovery
from mcastd.gateway.worker import GatewayWorker
from mcastd.inbound.subscription import Subscription
from mcastd.link.worker import LinkWorker
from mcastd.metrics.exposition import Row
from mcastd.net import _abi
from mcastd.net.fake import FakeJoins, FakeQuerySender, FakeReceiver, FakeRoutingTable, FakeSender
from mcastd.net.interfaces import Host, Interface
from mcastd.net.legs import ReceivingLegs
from mcastd.net.link import Receiver
from mcastd.outbound.announcer import SessionAnnouncer
from mcastd.outbound.channel import Channel
from mcastd.outbound.legs import Leg
from mcastd.outbound.sources import open_source
from mcastd.supervisor.thread import WorkerThread
from mcastd.tunnel.link.links import Links
from mcastd.tunnel.link.local import LocalNetwork

AnyWorker = AmtRelayWorker | BridgeWorker | Channel | Discovery | GatewayWorker | LinkWorker | Subscription
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Samples:
    """By name and sorted labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def values(samples: Samples, name: str, label: str = "worker") -> dict[str, float]:
    """Those of one name, by one label."""
    return {dict(labels).get(label, ""): value for (found, labels), value in samples.items() if found == name}


def two_interfaces() -> Host:
    return Host({index: Interface(index, f"eth{index}", _abi.IFF_UP, 1) for index in (1, 2)}, 0.0)


def _no_network(interface: str) -> LocalNetwork:
    raise AssertionError(f"no link is for {interface}")


class House:
    """Threads that are not started, for the workers of a configuration."""

    def __init__(self, tables: dict[str, object]) -> None:
        config = Config.model_validate(tables)
        self.receivers = {name: FakeReceiver() for name in config.inbound}
        self.senders = {name: FakeSender() for name in config.outbound}
        self._announcer = SessionAnnouncer(open_sender=lambda *_: FakeSender())
        self.workers: dict[str, AnyWorker] = {
            **{
                f"outbound/{name}": Channel(
                    f"outbound/{name}",
                    channel,
                    lambda _, n=name: self.senders[n],
                    open_source(channel),
                    announcer=self._announcer,
                    legs=[
                        Leg(of_leg, lambda _: FakeSender()) for of_leg in channel.by_leg() if channel.copies
                    ],
                )
                for name, channel in config.outbound.items()
            },
            **{
                f"inbound/{name}": Subscription(
                    f"inbound/{name}", one, lambda wanted, _, n=name: self._link(wanted, self.receivers[n])
                )
                for name, one in config.inbound.items()
            },
        }
        self.workers |= {
            f"discover/{name}": Discovery(f"discover/{name}", one, lambda *_: FakeReceiver())
            for name, one in config.discover.items()
        }
        self.router = MulticastRouter(
            lambda version: FamilyRoutes(version, FakeRoutingTable(), FakeQuerySender(), FakeJoins())
        )
        self.workers |= {
            f"bridge/{name}": BridgeWorker(
                f"bridge/{name}",
                one,
                self.router,
                two_interfaces,
                open_receiver=lambda *_: FakeReceiver(),
                open_sender=lambda *_: FakeSender(),
            )
            for name, one in config.bridge.items()
        }
        self.workers |= {
            f"amt_relay/{name}": AmtRelayWorker(f"amt_relay/{name}", one, FakeJoins, two_interfaces)
            for name, one in config.amt_relay.items()
        }
        self.workers |= {
            f"gateway/{name}": GatewayWorker(f"gateway/{name}", one, lambda *_: FakeReceiver())
            for name, one in config.gateway.items()
        }
        self.links = Links(_no_network)
        self.workers |= {
            f"link/{name}": LinkWorker(f"link/{name}", one, self.links) for name, one in config.link.items()
        }
        self._threads = [WorkerThread(worker) for worker in self.workers.values()]

    @staticmethod
    def _link(settings: InboundSubscription, receiver: FakeReceiver) -> Receiver:
        """With legs or repair, the receiver is one of two; the other has got what the tests deliver to it."""
        if not settings.legs and not settings.fec:
            return receiver
        other = FakeReceiver()
        other.deliver(b"x")
        return ReceivingLegs([("one", lambda: receiver), ("other", lambda: other)])

    def rows(self) -> list[Row]:
        return [(thread.headline(), thread.worker.books()) for thread in self._threads]

    def __enter__(self) -> House:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        from mcastd.worker import Signal

        for thread in self._threads:
            thread.send(Signal.STOP)
        for thread in self._threads:
            assert thread.join(60)
        self._announcer.close()
        self.links.close()
        self.router.close()


@pytest.fixture
def house() -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def make(**tables: object) -> House:
        houses.append(House(tables))
        return houses[-1].__enter__()

    yield make
    for made in houses:
        made.__exit__()
