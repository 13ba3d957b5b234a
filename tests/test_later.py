"""What is imported when it is first wanted."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

import mcastd.daemon
from mcastd import makers
from mcastd.config import Config
from mcastd.errors import McastdError
from mcastd.inbound import protocols as inbound_protocols
from mcastd.inbound import sinks
from mcastd.later import Later, Once
from mcastd.outbound import sources

assert mcastd.daemon, "all that a daemon names is there"
NAMED = sorted({one.name for one in gc.get_objects() if isinstance(one, Later)})
# What a daemon has no use for unless its configuration says so.
OF_FEW = ("amt_relay", "bridge", "discovery", "engines", "link", "querier", "sequence", "tunnel")


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_is_there(name: str) -> None:
    assert callable(Later(name).load())


def test_all_registries_name_something() -> None:
    registries = makers.FACTORIES, sinks.SINKS, inbound_protocols.PROTOCOLS, sources.OPENERS
    assert all(any(isinstance(maker, Later) for maker in registry.values()) for registry in registries)
    assert len(NAMED) > 15


def test_a_daemon_imports_no_kind_that_few_have() -> None:
    code = (
        "import sys, mcastd.daemon; print(*(name.split('.')[1] for name in sys.modules if 'mcastd.' in name))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = done.stdout.split()
    assert "inbound" in rooms
    assert not set(rooms) & set(OF_FEW)


def test_a_name_stands_for_what_it_names() -> None:
    path_of = Later("pathlib:PurePosixPath")
    assert str(path_of("a", "b")) == "a/b"
    assert repr(path_of) == "<Later pathlib:PurePosixPath>"
    with pytest.raises(ModuleNotFoundError):
        Later("mcastd.nowhere:make")()


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(24, "Too many open files", "/usr/lib/x.py"), "too many open files"),
        (ModuleNotFoundError("No module named 'x'"), "No module named 'x'"),
    ],
)
def test_what_cannot_be_loaded_is_said_before_anything_is_touched(
    monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str
) -> None:
    def fail(_: Later) -> Callable[..., object]:
        raise error

    bridge = {"from": "eth0", "to": "eth1", "groups": ["239.0.0.0/8"]}
    workers = Config.model_validate({"bridge": {"b": bridge}}).workers().values()
    monkeypatch.setattr(Later, "load", fail)
    with pytest.raises(McastdError, match="cannot load what a worker is made of") as raised:
        makers.load(workers)
    assert raised.value.cause == cause


WAY = {"group": "239.1.1.1", "port": 9000}
LEGS = {"legs": [WAY, {**WAY, "interface": "b"}]}


@pytest.mark.parametrize(
    ("settings", "loaded"),
    [
        (WAY, []),
        (WAY | {"protocol": "rtp", "payload": "ts"}, ["checked:CheckedSequencer", "numbered:RtpSequencer"]),
        (WAY | {"protocol": "rtp", "fec": True}, ["repairing:RepairingSequencer"]),
        (
            LEGS | {"protocol": "rtp"},
            ["merging:MergingSequencer", "numbered:RtpSequencer"],
        ),
        (WAY | {"output": {"kind": "udp", "to": "192.0.2.1:9"}}, ["sinks.udp:UdpSink"]),
    ],
    ids=str,
)
def test_the_parts_of_a_subscription_are_loaded_beforehand(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], loaded: list[str]
) -> None:
    names: list[str] = []
    monkeypatch.setattr(Later, "load", lambda self: names.append(self.name))
    makers.load(Config.model_validate({"inbound": {"a": {"output": "/news"} | settings}}).workers().values())
    assert names == [f"mcastd.inbound.{name}" for name in loaded]


def test_what_many_may_want_is_made_once() -> None:
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    once: Once[object] = Once(make)
    assert once.made is None
    threads = [threading.Thread(target=once) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [once()] == [once.made]
