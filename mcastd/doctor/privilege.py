"""What this process may look at. Imports nothing of ours: asked before all that looking takes is loaded."""

from __future__ import annotations

import os
from pathlib import Path

CAP_NET_ADMIN, CAP_NET_RAW = 12, 13  # linux/capability.h


def may_capture() -> bool:
    """Return True if this process has CAP_NET_RAW, in effect."""
    return _has(CAP_NET_RAW)


def may_list_rules() -> bool:
    """Return True if this process has CAP_NET_ADMIN, in effect."""
    return _has(CAP_NET_ADMIN)


def _has(capability: int) -> bool:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return False
    return any(int(line.split()[1], 16) & 1 << capability for line in lines if line.startswith("CapEff:"))


def same_network(pid: int) -> bool:
    """Return True if process ``pid`` is known to be in this one's network namespace. Process 0 never is."""
    try:
        return os.path.samestat(os.stat("/proc/self/ns/net"), os.stat(f"/proc/{pid}/ns/net"))
    except OSError:
        return False
