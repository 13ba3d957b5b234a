"""What the machine's own receive backlog dropped: one queue a CPU, which all network namespaces share.

A veth pair hands each packet to the receiver by way of it (netif_rx, up to net.core.netdev_max_backlog).
While the CPU is too busy to empty it, packets are lost that the sender's kernel took: under load a test can
fail by that alone.
"""

from __future__ import annotations

from pathlib import Path

# proc_net_softnet(5): a line of hexadecimal numbers for each CPU, the second is what was dropped
SOFTNET_STAT = Path("/proc/net/softnet_stat")


def dropped() -> int:
    """Packets that the backlogs of all CPUs have dropped since the machine started; 0 if it is not shown."""
    try:
        lines = SOFTNET_STAT.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1], 16) for line in lines)
