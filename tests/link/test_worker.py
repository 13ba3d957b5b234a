"""The worker of a link, without a peer: what it reads and checks, and when."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.wait import wait_for

from mcastd.config import LinkSettings
from mcastd.errors import LinkError
from mcastd.keytext import GroupKey
from mcastd.link import worker as worker_module
from mcastd.link.worker import LinkWorker
from mcastd.net import foreign_senders, packet_tap
from mcastd.tunnel.link.plan import LinkPlan
from mcastd.worker import Context, Signal

pytest.importorskip("cryptography")

OLD, NEW = bytes(range(32)), bytes(range(7, 39))


class Plans:
    """The plans that a worker has for its link, in place of all links."""

    def __init__(self) -> None:
        self.running: dict[str, Any] = {}
        self.keys: list[bytes] = []

    def enlist(self, name: str, plan: LinkPlan, *_: object) -> None:
        self.keys.append(plan.key)

    def network(self, interface: str) -> None: ...

    def network_changed(self) -> None: ...

    def dismiss(self, name: str) -> None: ...


class Run:
    def __init__(self, file: Path, **keys: Any) -> None:
        self.settings = LinkSettings.model_validate(
            {"listen": "127.0.0.1", "transit": True, "key": str(file), **keys}
        )
        self.plans: Any = Plans()
        self.worker = LinkWorker("link/one", self.settings, self.plans)
        self._taken_over = threading.Event()
        self.context = Context(on_taken_over=self._taken_over.set).open()

    def reload(self) -> None:
        wait_for(self._taken_over.is_set, "that the settings before are taken over")
        self._taken_over.clear()
        assert self.worker.update(self.settings.model_copy())
        self.context.send(Signal.NETWORK)
        wait_for(self._taken_over.is_set, "that they are taken over")


@contextmanager
def running(file: Path, **keys: Any) -> Iterator[Run]:
    run = Run(file, **keys)
    thread = threading.Thread(target=run.worker.run, args=(run.context,))
    thread.start()
    try:
        wait_for(lambda: run.plans.keys, "the first plan")
        yield run
    finally:
        run.context.send(Signal.STOP)
        thread.join(60)
        run.context.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "key", OLD)


def write(path: Path, key: bytes) -> Path:
    """At once, as an editor does: the file is read at any time."""
    new = path.with_name("new")
    new.touch(0o600)
    new.write_text(GroupKey(key).text)
    return new.rename(path)


def test_a_key_that_could_not_be_read_at_a_reload_is_read_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when no descriptor was left; and the log says it once."""
    monkeypatch.setattr(worker_module, "REREAD_SECONDS", 0.02)
    with running(file) as run, capture_logs() as logs:
        file.unlink()
        run.reload()
        assert run.context.detail.endswith("the key before is in use")
        wait_for(lambda: len(run.plans.keys) > 5, "attempts")
        write(file, NEW)
        wait_for(lambda: run.plans.keys[-1] == NEW, "the new key")
        wait_for(lambda: not run.context.detail.endswith("in use"), "that it is said")
        assert [one["event"] for one in logs].count("key.refused") == 1
        assert run.worker._reread_at == math.inf, "it is read no more, and the thread rests"
        count = len(run.plans.keys)
        write(file, OLD)
        run.context.send(Signal.NETWORK)
        wait_for(lambda: len(run.plans.keys) > count, "another look")
        assert run.plans.keys[-1] == NEW, "it is read at a reload alone"


@pytest.mark.parametrize("signal", [Signal.RETRY, Signal.NETWORK])
def test_a_key_that_could_not_be_read_is_read_when_the_worker_is_to_try_again(
    signal: Signal, file: Path
) -> None:
    with running(file) as run:
        file.unlink()
        run.reload()
        write(file, NEW)
        run.context.send(signal)
        wait_for(lambda: run.plans.keys[-1] == NEW, "the new key")


@pytest.mark.parametrize("module", [packet_tap, foreign_senders])
def test_a_lack_of_descriptors_at_a_reload_ends_no_link(
    module: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(number: int) -> Callable[..., None]:
        def check(**_: object) -> None:
            raise LinkError("cannot take packets", "on purpose", errno=number)

        return check

    for one in (packet_tap, foreign_senders):
        monkeypatch.setattr(one, "check_privilege", lambda **_: None)
    with running(file, interface="lan") as run:
        monkeypatch.setattr(module, "check_privilege", refuse(errno.EMFILE))
        write(file, NEW)
        run.reload()
        assert run.plans.keys == [OLD, NEW]
    begun = Run(file, interface="lan")
    with pytest.raises(LinkError, match="on purpose"):
        begun.worker.run(begun.context)
    begun.context.close()
    monkeypatch.setattr(module, "check_privilege", refuse(errno.EPERM))
    begun = Run(file, interface="lan")
    with pytest.raises(LinkError, match="on purpose"):
        begun.worker.run(begun.context)
    begun.context.close()


def test_a_reload_while_the_settings_are_read_is_followed_next(file: Path, tmp_path: Path) -> None:
    run = Run(file)
    other = Run(write(tmp_path / "other", NEW)).settings

    class Interrupted(LinkWorker):
        """Another thread reloads it right after its settings were read."""

        @property
        def _config(self) -> LinkSettings:  # type: ignore[override]
            found: LinkSettings = self.__dict__["config"]
            if self.__dict__.pop("interrupts", False):
                self.update(other)
            return found

        @_config.setter
        def _config(self, settings: LinkSettings) -> None:
            self.__dict__["config"] = settings

    worker = Interrupted("link/one", run.settings, run.plans)
    worker.__dict__["interrupts"] = True
    for _ in range(2):
        worker._follow(run.context)
    assert run.plans.keys == [OLD, NEW]
    run.context.close()
