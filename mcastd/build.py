"""From settings to a worker on real sockets: the one way, for the daemon and for ``mcastctl``'s own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mcastd.config import InboundSubscription, OpenFiles, OutboundChannel
from mcastd.inbound.reader import Reader
from mcastd.inbound.sinks import Ends, make_sink
from mcastd.inbound.subscription import Subscription, source_filter
from mcastd.net.interfaces import Host, look
from mcastd.net.link import Receiver, Sender
from mcastd.net.membership import Memberships
from mcastd.net.receiver import SocketReceiver
from mcastd.net.sender import SocketSender
from mcastd.outbound.channel import Channel, open_source
from mcastd.outbound.shared import SharedSender
from mcastd.outbound.watcher import Watcher
from mcastd.worker import Worker


def open_sender(channel: OutboundChannel, host: Callable[[], Host] = look) -> Sender:
    """The way to the channel's group. Raises LinkError if there is none now."""
    return SocketSender(
        channel.group,
        channel.port,
        interface=channel.interface,
        ttl=channel.ttl,
        loop=channel.loop,
        dscp=channel.dscp,
        host=host,
    )


def open_receiver(
    subscription: InboundSubscription,
    metadata: bool = False,
    host: Callable[[], Host] = look,
    memberships: Memberships | None = None,
) -> Receiver:
    """The subscription's group, joined. Raises LinkError if that is not possible on any interface now."""
    return SocketReceiver(
        subscription.group,
        subscription.port,
        interface=subscription.interface,
        source_filter=source_filter(subscription),
        receive_buffer=subscription.receive_buffer,
        metadata=metadata,
        coalesce=subscription.coalesce,
        host=host,
        memberships=memberships,
    )


def build(
    name: str,
    settings: OutboundChannel | InboundSubscription,
    *,
    host: Callable[[], Host] = look,
    memberships: Memberships | None = None,
    reader: Reader | None = None,
    watcher: Watcher | None = None,
    shared: SharedSender | None = None,
    ends: Ends | None = None,
    files: OpenFiles | None = None,
) -> Worker:
    """The worker for ``settings``, on real sockets that see the interfaces through ``host``."""
    own = None if files is None else files.of(name)
    if isinstance(settings, OutboundChannel):
        source = open_source(settings, own)
        return Channel(
            name, settings, lambda channel: open_sender(channel, host), watcher, source, shared=shared
        )
    return Subscription(
        name,
        settings,
        lambda subscription, metadata: open_receiver(subscription, metadata, host, memberships),
        reader=reader,
        make_sink=partial(make_sink, ends=ends, files=own),
    )
