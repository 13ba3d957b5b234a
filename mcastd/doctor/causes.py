"""Every cause that can be found, in the order of the path that a datagram takes.

Of two findings with the same severity, the one whose cause stands further up comes first. A cause *explains*
others of its worker: these are its consequences, and the report leaves them out; what is wrong with one
output or leg explains nothing of another one. mcastctl(1) has this list, too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    id: str
    explains: frozenset[str] = frozenset()
    beside: bool = False  # a hint that is reported only beside another finding: alone it is no trouble
    alone: bool = False  # reported only if nothing else is wrong with the worker


def _cause(id: str, *explains: str, beside: bool = False, alone: bool = False) -> Cause:
    return Cause(id, frozenset(explains), beside, alone)


# What follows from a cause that keeps a worker from running.
NOT_AT_WORK = ("worker-waiting", "stale")
# What follows for a subscription from a cause that comes before its membership on the datagram's path.
DEAF = ("membership-lost", "nothing-arrives", *NOT_AT_WORK)
# What follows for a bridge from an interface that nothing comes from, or goes to.
UNBRIDGED = ("bridge-ttl", "bridge-dry", "bridge-hindered")
# What follows from a cause that keeps an output from being written.
LOSING = ("output-failing",)
# What follows where packets of a transport stream do not come.
TS_ERRORS = ("ts-errors-now", "ts-errors-earlier")

CAUSES: tuple[Cause, ...] = (
    _cause("worker-crashed", *NOT_AT_WORK),
    _cause("worker-stopped", *NOT_AT_WORK),
    _cause("no-netlink", *NOT_AT_WORK),
    _cause("netlink-forbidden"),
    # the source
    _cause("source-hanging"),
    _cause("source-missing", *NOT_AT_WORK),
    _cause("source-unsafe", *NOT_AT_WORK),
    _cause("source-unreadable", *NOT_AT_WORK),
    _cause("source-not-a-file", *NOT_AT_WORK),
    _cause("source-empty", *NOT_AT_WORK),
    _cause("source-taken", *NOT_AT_WORK),
    _cause("source-overflow"),
    _cause("sender-refused"),
    _cause("source-silent"),
    _cause("circle", *LOSING),
    # the interface
    _cause("interface-missing", "no-address", *UNBRIDGED, *DEAF),
    _cause("interface-down", "no-route", "no-carrier", "no-address", "wrong-interface", *UNBRIDGED, *DEAF),
    _cause(
        "port-of-bridge",
        "no-address",
        "wrong-interface",
        "firewall-drop",
        "dropped-inside",
        *UNBRIDGED,
        *DEAF,
    ),
    _cause("no-route", *DEAF),
    _cause("gateway-route"),
    _cause("ip-off", "no-address", *DEAF),
    _cause("no-carrier", "wrong-interface", *UNBRIDGED, *DEAF),
    _cause("no-multicast-flag"),
    _cause("no-address", *NOT_AT_WORK),
    _cause("unlucky-source"),
    _cause("shared-address"),
    # out
    _cause("ttl-zero"),
    _cause("ttl-one"),
    _cause("ttl-link-local"),
    _cause("loop-off", "stale"),
    _cause("two-senders"),
    _cause("leg-down"),
    _cause("queue-full", "sends-late"),
    _cause("sends-late"),
    _cause("cycle-too-long"),
    _cause("rate-not-kept"),
    _cause("files-unsent"),
    _cause("announcement-failing"),
    # the port
    _cause("port-taken", "cross-talk", "membership-lost", *NOT_AT_WORK),
    # in, from the wire to the socket
    _cause("wrong-mac", "stale"),
    _cause("vlan-tagged", "stale"),
    _cause("rp-filter", "firewall-drop", "dropped-inside", "stale", "bridge-dry"),
    _cause("martian-source", "stale"),
    _cause("firewall-drop", "dropped-inside", "nothing-arrives", *NOT_AT_WORK),
    _cause("dropped-inside", "nothing-arrives", *NOT_AT_WORK),
    _cause("bad-checksum", "stale"),
    _cause("fragments-lost", "stale"),
    _cause("no-report"),
    _cause("wrong-interface", "stale"),
    _cause("source-excluded", "stale"),
    _cause("wrong-port", "stale"),
    _cause("no-querier"),
    _cause("nobody-joined"),
    _cause("cross-talk"),
    _cause("igmp-forced", "igmp-old-querier"),
    _cause("igmp-old-querier"),
    _cause("membership-lost", *NOT_AT_WORK),
    _cause("membership-differs"),
    _cause("receive-buffer-small"),
    _cause("output-hanging", "overflow-now", "overflow-earlier"),
    # What the kernel drops here lacks a number, too
    _cause(
        *("overflow-now", "overflow-earlier", "loss-above-protection"),
        *("network-loss-now", "network-loss-earlier", *TS_ERRORS),
    ),
    _cause("overflow-earlier", "network-loss-earlier", "ts-errors-earlier"),
    # from one network to another
    _cause("sender-link-local"),
    _cause("bridge-circle", "bridge-ttl", "bridge-hindered"),
    _cause("bridge-ttl", "bridge-hindered"),
    _cause("bridge-yields", "bridge-hindered"),
    _cause("bridge-dry"),
    _cause("members-crowded", "bridge-hindered"),
    _cause("bridge-hindered"),
    _cause("amt-unheard"),
    _cause("amt-ttl"),
    _cause("amt-too-big"),
    _cause("amt-path"),
    _cause("amt-dry"),
    _cause("gateway-unheard", *NOT_AT_WORK),
    _cause("gateway-open"),
    _cause("gateway-name"),
    _cause("gateway-full"),
    _cause("gateway-dry"),
    _cause("gateway-slow"),
    _cause("link-unreachable"),
    _cause("link-loop"),
    _cause("link-key"),
    _cause("link-both-connect"),
    _cause("link-clock"),
    _cause("link-silent"),
    _cause("link-ttl"),
    _cause("link-rate"),
    _cause("link-mtu"),
    _cause("link-not-sent"),
    _cause("link-wants"),
    _cause("link-in-clear"),
    # Where both legs come by one way, and that fails, none is left to go on
    # what comes by a tunnel
    _cause("relay-unreachable", "stale"),
    _cause("relay-full", "stale"),
    _cause("relay-silent", "stale"),
    _cause("relay-refuses", "stale"),
    _cause("tunnel-dry", "stale"),
    _cause("all-refused", "network-loss-now", "network-loss-earlier", "ts-unusable", *TS_ERRORS, "stale"),
    _cause("leg-refused"),
    _cause("leg-silent"),
    _cause("legs-shared"),
    _cause("network-loss-now", "network-loss-earlier", *TS_ERRORS),
    _cause("network-loss-earlier", "ts-errors-earlier"),
    _cause("ts-unusable", *TS_ERRORS),
    _cause("ts-errors-now", "ts-errors-earlier"),
    _cause("ts-errors-earlier"),
    _cause("backlog-full", beside=True),
    # whole files
    _cause("wrong-session"),
    _cause("wrong-key"),
    _cause("clock-wrong"),
    _cause("manifest-refused"),
    _cause("files-undescribed"),
    # the outputs
    _cause("output-directory", *LOSING),
    _cause("output-unwritable", *LOSING),
    _cause("output-wrong-kind", *LOSING),
    _cause("disk-full", "no-room", *LOSING),
    _cause("no-room"),
    # Its reader's service does not see a pipe that is private to ours, so that no reader opens it.
    _cause("output-private", "fifo-no-reader"),
    _cause("fifo-no-reader", *LOSING),
    _cause("files-unrepaired", "loss-above-protection"),
    _cause("loss-above-protection"),
    _cause("files-refused"),
    _cause("output-failing"),
    _cause("engine-silent"),
    _cause("captures-failing"),
    # what the worker says, where nothing above explains it
    _cause("worker-waiting", "stale"),
    _cause("stale"),
    _cause("worker-degraded", alone=True),
    _cause("nothing-arrives", beside=True),
    # the configuration on disk
    _cause("config-refused"),
    _cause("config-silent"),
    _cause("config-differs"),
    # the daemon beside its workers
    _cause("metrics-unavailable"),
    _cause("log-stalled"),
    # where it runs
    _cause("wsl"),
    _cause("wifi"),
    _cause("container", beside=True),
    _cause("virtual-interface", beside=True),
)

RANK = {cause.id: rank for rank, cause in enumerate(CAUSES)}
EXPLAINS = {cause.id: cause.explains for cause in CAUSES}
BESIDE = {cause.id for cause in CAUSES if cause.beside}
ALONE = {cause.id for cause in CAUSES if cause.alone}
