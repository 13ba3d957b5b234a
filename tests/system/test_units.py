"""What systemd thinks of the units, where they are installed."""

from __future__ import annotations

import re

import pytest
from support.machine import Machine

UNITS = ["mcastd.service", "mcastd@a.service"]
MOST_EXPOSED = 1.5  # of 10, by `systemd-analyze security`


@pytest.mark.everywhere
def test_systemd_finds_no_fault_in_the_units(machine: Machine) -> None:
    result = machine.run("systemd-analyze", "verify", "--man=no", *UNITS)
    old = machine.shell("systemctl --version | awk 'NR==1 {print $2 < 253}'").strip() == "1"
    complaints = [line for line in result.stderr.splitlines() if "mcastd" in line]
    assert all("Failed to parse service type, ignoring: notify-reload" in line for line in complaints)
    assert bool(complaints) == old
    expected = "notify" if old else "notify-reload"
    assert machine.show("Type") == {"Type": expected}


@pytest.mark.everywhere
def test_they_are_confined(machine: Machine) -> None:
    for unit in UNITS:
        output = machine.run("systemd-analyze", "security", "--no-pager", unit).stdout
        found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", output)
        assert found, output
        assert 0 < float(found[1]) <= MOST_EXPOSED, output
