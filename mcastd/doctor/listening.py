"""Whether what others send to an address where a worker listens gets to this host."""

from __future__ import annotations

from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Finding, Severity, Way
from mcastd.doctor.quoting import command
from mcastd.errors import LOW_PORTS
from mcastd.ip import Address

# The first port that takes no capability, unless the host is set otherwise (ip_unprivileged_port_start).
PORT_MIN = 1024


def ways_to_listen(port: int) -> str:
    """What may help where the kernel refuses a port of TCP."""
    owner = f"see who has the port: {command('ss', '-ltnp')}"
    return f"{owner}; {LOW_PORTS}" if port < PORT_MIN else owner


def unheard_finding(cause: str, address: Address, use: str, table: str, evidence: Evidence) -> Finding | None:
    """Check that an interface that is up has an address; None if so. ``use``: "gateways are to ask"."""
    if address.is_unspecified or address.is_loopback:
        return None
    having = [one for one in evidence.host.interfaces.values() if address in one.addresses]
    if any(one.up for one in having):
        return None
    if not having:
        return Finding(
            cause,
            Severity.BROKEN,
            f"no interface has {address}, at which {use}",
            (f"listen = {address} ({table}); it is none of this host's (rtnetlink)",),
            f"give it to an interface: ip address add {address}/PREFIX dev INTERFACE; or name another one"
            f" in {table}",
        )
    up = command("ip", "link", "set", having[0].name, "up")
    return Finding(
        cause,
        Severity.BROKEN,
        f"{having[0].name} is down, whose address is {address}, at which {use}",
        (f"flags of {having[0].name} have no UP (rtnetlink)",),
        up,
        ways=(Way(command=up),),
    )
