"""The main job on real input: a real file to a real group, printed by programs not ours, and back."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import RunningDaemon
from support.host import ip
from support.programs import program
from support.textbook import compile_textbook
from support.wait import wait_for

GROUP = "239.255.9.1"
PORT = 9190

NEWS = b"".join(
    [
        b"A short line.\n",
        b"\n",
        b"A line of exactly 29 bytes..\n",
        "Grüße, 多播, und ein 🛰 über der Stadt: ein längerer Satz in UTF-8.\n".encode(),
        b"NUL\0bytes\0\0inside\0\n",
        b"A long line: " + b"0123456789" * 300 + b"\n",
        *(b"line %03d of the news\n" % number for number in range(60)),
        b"the end, without a newline",
    ]
)


@pytest.fixture
def news(tmp_path: Path) -> Path:
    path = tmp_path / "news.txt"
    path.write_bytes(NEWS)
    return path


@pytest.fixture
def route() -> Iterator[None]:
    """The multicast route that the textbook programs need: they name no interface."""
    ip("route add 224.0.0.0/4 dev lo")
    yield
    ip("route del 224.0.0.0/4 dev lo")


@pytest.fixture(scope="session")
def textbook(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    directory = tmp_path_factory.mktemp("textbook")

    return lambda name: compile_textbook(name, directory)


def channel(source: Path, **more: object) -> str:
    settings = {
        "source": str(source),
        "group": GROUP,
        "port": PORT,
        "interface": "lo",
        "interval": 0.002,
        **more,
    }
    lines = [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}"
        for key, value in settings.items()
    ]
    return "\n".join(["[outbound.news]", *lines, ""])


def subscription(output: Path, **more: object) -> str:
    settings = {"group": GROUP, "port": PORT, "interface": "lo", "output": str(output), **more}
    return "\n".join(["[inbound.news]", *(f"{key} = {value!r}" for key, value in settings.items()), ""])


def wait_content(path: Path, content: bytes) -> None:
    wait_for(lambda: path.exists() and path.stat().st_size >= len(content), f"{len(content)} bytes in {path}")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "framing", [{"max_datagram": 29}, {}, {"framing": "chunk", "max_datagram": 100}, {"framing": "file"}]
)
def test_ours_to_ours(tmp_path: Path, news: Path, framing: dict[str, object]) -> None:
    output = tmp_path / "out" / "news.log"
    with RunningDaemon(tmp_path, subscription(output)) as daemon:
        daemon.wait_state("inbound/news", "active")
        daemon.write(subscription(output) + channel(news, **framing))
        assert daemon.ctl("reload").returncode == 0
        sent = daemon.wait_state("outbound/news", "finished")["status"]["counters"]["sent"]
        wait_content(output, NEWS)

        def written() -> int:  # counted after it was written
            return int(daemon.worker("inbound/news")["status"]["outputs"][0]["counters"]["written"])

        wait_for(lambda: written() == sent, "the account")
        status = daemon.worker("inbound/news")["status"]
        assert status["counters"]["received"] == sent
        assert status["counters"]["received_bytes"] == len(NEWS)
        assert daemon.stop() == 0
    assert output.read_bytes() == NEWS


def test_ours_to_the_textbook_receiver(
    tmp_path: Path, news: Path, route: None, textbook: Callable[[str], str]
) -> None:
    printed = tmp_path / "printed"
    with printed.open("wb") as stdout:
        receiver = subprocess.Popen(
            [textbook("news_receiver"), GROUP, str(PORT)], stdout=stdout, stderr=subprocess.PIPE
        )
    try:
        assert receiver.stderr is not None
        assert receiver.stderr.readline() == b"joined\n"
        with RunningDaemon(tmp_path, channel(news, max_datagram=29)):
            wait_content(printed, NEWS)
    finally:
        receiver.terminate()
        receiver.communicate()


def test_the_textbook_sender_to_ours(
    tmp_path: Path, news: Path, route: None, textbook: Callable[[str], str]
) -> None:
    output = tmp_path / "news.log"
    with RunningDaemon(tmp_path, subscription(output)) as daemon:
        daemon.wait_state("inbound/news", "active")
        subprocess.run([textbook("news_sender"), GROUP, str(PORT)], cwd=tmp_path, check=True, timeout=30)
        wait_content(output, NEWS)
        assert daemon.worker("inbound/news")["status"]["counters"]["overflow"] == 0


@pytest.fixture
def socat() -> str:
    return program("socat")


def test_ours_to_socat(tmp_path: Path, news: Path, socat: str) -> None:
    printed = tmp_path / "printed"
    address = f"UDP4-RECV:{PORT},bind={GROUP},ip-add-membership={GROUP}:127.0.0.1,reuseaddr"
    process = subprocess.Popen([socat, "-u", address, f"CREATE:{printed}"])
    try:
        wait_for(lambda: joined(GROUP), "socat joins")
        with RunningDaemon(tmp_path, channel(news)):
            wait_content(printed, NEWS)
    finally:
        process.terminate()
        process.wait()


def test_socat_to_ours(tmp_path: Path, news: Path, socat: str) -> None:
    output = tmp_path / "news.log"
    address = f"UDP4-DATAGRAM:{GROUP}:{PORT},ip-multicast-if=127.0.0.1,ip-multicast-ttl=0"
    with RunningDaemon(tmp_path, subscription(output)) as daemon:
        daemon.wait_state("inbound/news", "active")
        subprocess.run([socat, "-u", "-b", "1000", f"FILE:{news}", address], check=True, timeout=30)
        wait_content(output, NEWS)
        assert daemon.worker("inbound/news")["status"]["counters"]["received"] == -(-len(NEWS) // 1000)


def joined(group: str) -> bool:
    """Whether some socket of this namespace is a member of the IPv4 group."""
    packed = "".join(f"{int(part):02X}" for part in reversed(group.split(".")))
    return packed in Path("/proc/self/net/igmp").read_text()
