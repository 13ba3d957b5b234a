from support.machine import Machine
import pytest


@pytest.mark.everywhere
def test_x(machine: Machine) -> None:
    print(machine.run("systemctl", "status", "mcastd", check=False).stdout)
    print(machine.run("systemd-analyze", "security", "mcastd", check=False).stdout[-2000:])
    print(machine.messages())
    print(machine.workers())
