"""One thread looks after the sources at rest."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.wait import wait_for

from mcastd.config import OutboundChannel
from mcastd.net.fake import FakeSender
from mcastd.outbound import channel, watcher
from mcastd.outbound.channel import Channel
from mcastd.outbound.sources import file, open_source
from mcastd.outbound.watcher import Watcher
from mcastd.worker import Context, Signal


@pytest.fixture
def watching(no_fd_leak: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watcher]:
    monkeypatch.setattr(watcher, "LOOK_EVERY_SECONDS", 0.01)
    for module in (file, channel):  # at rest at once: every later look is the watcher's
        monkeypatch.setattr(module, "NAP_MAX_SECONDS", 0.05)
    watching = Watcher()
    yield watching
    watching.close()


class Sending:
    """A channel in a thread."""

    def __init__(self, watching: Watcher, **settings: object) -> None:
        self.link = FakeSender()
        self.waits: list[float | None] = []
        self.context = Context().open()
        wait = self.context.wait

        def recorded(timeout: float | None = None) -> dict[int, int]:
            self.waits.append(timeout)
            return wait(timeout)

        self.context.wait = recorded  # type: ignore[method-assign]
        config = OutboundChannel.model_validate(
            {"group": "239.255.1.2", "port": 9190, "interval": 0, **settings}
        )
        self.channel = Channel("outbound/news", config, lambda _: self.link, open_source(config), watching)
        self._thread = threading.Thread(target=self.channel.run, args=(self.context,))
        self._thread.start()

    def at_rest(self) -> bool:
        return bool(self.waits) and self.waits[-1] is None

    def stop(self) -> None:
        self.context.send(Signal.STOP)
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.channel.close()
        self.context.close()


def test_a_followed_file_at_rest_is_sent_as_soon_as_it_grows(watching: Watcher, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    sending = Sending(watching, source=str(path), follow=True)
    expected = [b"one\n"]
    for number in range(5):
        wait_for(sending.at_rest, "rest")
        expected.append(b"%d\n" % number)
        with path.open("ab") as file:
            file.write(expected[-1])
        wait_for(lambda expected=expected: sending.link.sent == expected, "sent")
    wait_for(sending.at_rest, "rest")
    path.rename(tmp_path / "log.1")
    path.write_bytes(b"of another file\n")
    wait_for(lambda: sending.link.sent[-1] == b"of another file\n", "sent")
    sending.stop()


def test_a_fifo_at_rest_is_read_as_it_is_written_and_when_it_is_made_anew(
    watching: Watcher, tmp_path: Path
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sending = Sending(watching, source=str(path))
    for text in (b"one\n", b"two\n"):
        wait_for(sending.at_rest, "rest")
        path.write_bytes(text)
        wait_for(lambda text=text: sending.link.sent[-1:] == [text], "sent")
    wait_for(sending.at_rest, "rest")
    path.unlink()
    os.mkfifo(path)
    path.write_bytes(b"by the new one\n")
    wait_for(lambda: sending.link.sent[-1] == b"by the new one\n", "sent")
    sending.stop()


def test_a_worker_at_rest_does_not_wake(watching: Watcher, tmp_path: Path) -> None:
    paths = [tmp_path / f"log{number}" for number in range(20)]
    for path in paths:
        path.write_bytes(b"x\n")
    all_of_them = [Sending(watching, source=str(path), follow=True) for path in paths]
    wait_for(lambda: all(one.at_rest() for one in all_of_them), "rest")
    waits = [len(one.waits) for one in all_of_them]
    looks = 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        return False

    assert watching.watch("a witness", look, lambda: None)
    wait_for(lambda: looks > 5, "looks")
    watching.forget("a witness")
    assert [len(one.waits) for one in all_of_them] == waits
    for one in all_of_them:
        one.stop()


def test_who_is_forgotten_is_not_asked(watching: Watcher) -> None:
    asked: list[str] = []

    def ask(name: str) -> bool:
        asked.append(name)
        return False

    watching.watch("gone", lambda: ask("gone"), lambda: None)
    wait_for(lambda: asked, "asked")
    watching.forget("gone")
    watching.watch("here", lambda: ask("here"), lambda: None)
    wait_for(lambda: asked.count("here") > 2, "asked")
    after = asked[asked.index("here") + 1 :]
    assert "gone" not in after


def test_a_look_that_hangs_costs_only_its_own_file_system(watching: Watcher) -> None:
    answer, hangs = threading.Event(), threading.Event()
    looks: list[str] = []
    told: list[str] = []

    def hang() -> bool:
        hangs.set()
        answer.wait(60)
        return True

    def look(name: str) -> bool:
        looks.append(name)
        return False

    watching.watch("before", lambda: look("before"), lambda: told.append("before"), 1)
    watching.watch("hung", hang, lambda: told.append("hung"), 2)
    watching.watch("beside it", lambda: look("beside it"), lambda: told.append("beside it"), 2)
    watching.watch("unknown", lambda: look("unknown"), lambda: told.append("unknown"))
    assert hangs.wait(60)
    wait_for(lambda: len(told) >= 2, "its channels look themselves")
    assert sorted(told) == ["beside it", "hung"]
    looks.clear()
    wait_for(lambda: looks.count("before") > 2 and looks.count("unknown") > 2, "the others are looked after")
    assert "beside it" not in looks
    answer.set()
    looks.clear()
    wait_for(lambda: looks.count("before") > 2)
    assert sorted(told) == ["beside it", "hung"]  # the thread that hung has nothing to tell any more


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_look_that_ends_the_thread_costs_only_its_own_source(watching: Watcher) -> None:
    looks: list[str] = []
    told: list[str] = []

    def fail() -> bool:
        raise MemoryError

    watching.watch("sound", lambda: bool(looks.append("sound")), lambda: told.append("sound"), 1)
    watching.watch("faulty", fail, lambda: told.append("faulty"), 2)
    wait_for(lambda: told, "its channel looks itself")
    looks.clear()
    wait_for(lambda: len(looks) > 2, "the other is looked after")
    assert told == ["faulty"]


def test_closing_does_not_wait_for_a_look_that_hangs(no_fd_leak: None) -> None:
    answer, hangs = threading.Event(), threading.Event()

    def hang() -> bool:
        hangs.set()
        return answer.wait(60)

    watching = Watcher()
    watching.watch("hung", hang, lambda: None)
    assert hangs.wait(60)
    closing = threading.Thread(target=watching.close)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
    answer.set()
