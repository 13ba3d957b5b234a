"""A name server that nobody here wrote (dnsmasq), and programs that ask it and no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from support.host import Host
from support.inside import inside
from support.wait import wait_for

AMTRELAY = 260  # the type of the record: RFC 8777 section 4.1


class NameServer:
    """It knows what ``records`` say, as options of dnsmasq(8), and of all other names that there are none."""

    def __init__(self, host: Host, address: str, records: Sequence[str]) -> None:
        self.address = address
        self._process = host.start(
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
            "--user=root", "--pid-file", "--bind-interfaces", f"--listen-address={address}", "--local=/#/",
            *records,
        )  # fmt: skip
        self._host = host
        wait_for(self._answers, "the name server")

    def _answers(self) -> bool:
        assert self._process.poll() is None
        with inside(self._host):
            bound = Path("/proc/thread-self/net/udp").read_text()
        return ":0035 " in bound

    def asked_by(self, host: Host, directory: Path, domain: str) -> list[str]:
        """What a command is put behind that asks this server for names, and looks for them in ``domain``."""
        settings = directory / "resolv.conf"
        settings.write_text(f"nameserver {self.address}\nsearch {domain}\noptions timeout:1 attempts:1\n")
        script = f'mount --bind {settings} /etc/resolv.conf && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", *host.enter([])]
