"""Files that have several names: no source is sent that what it sends comes back to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from mcastd.config import (
    Config,
    GroupSettings,
    InboundSubscription,
    OpenFiles,
    OutboundChannel,
    OutputPath,
    WorkerSettings,
)
from mcastd.config.loops import loops
from mcastd.config.output import GroupEnd
from mcastd.config.types import Group, Location

FIRST = {"group": "239.255.1.2", "port": 9190}
SECOND = {"group": "239.255.1.3", "port": 9191}
FILE, OTHER = (7, 11), (7, 12)  # device and inode


def files(outbound: dict[str, object], inbound: dict[str, object]) -> OpenFiles:
    config = Config.model_validate({"outbound": outbound, "inbound": inbound})
    return OpenFiles(lambda: config)


def test_the_second_of_two_names_of_one_file_is_refused_until_the_first_is_closed() -> None:
    found = files({"o": FIRST | {"source": "/p"}}, {"i": FIRST | {"output": "/q"}})
    assert found.opened("outbound/o", Path("/p"), FILE) is None
    assert found.opened("inbound/i", Path("/q"), OTHER) is None
    loop = found.opened("inbound/i", Path("/q"), FILE)
    assert loop is not None
    assert (loop.sender, loop.receiver) == ("outbound/o", "inbound/i")
    assert (loop.key, loop.source, loop.writes) == (("source",), Path("/p"), (Path("/q"),))
    assert found.opened("outbound/o", Path("/p"), FILE) is None  # what was refused is not open
    found.closed("outbound/o", Path("/p"))
    assert found.opened("inbound/i", Path("/q"), FILE) is None
    assert str(found.opened("outbound/o", Path("/p"), FILE)) == (
        "what it sends comes back to it for ever: inbound.i receives its group, and writes /q"
    )


def test_only_who_is_in_the_loop_is_refused() -> None:
    found = files(
        {"o": FIRST | {"source": "/p"}, "other": SECOND | {"source": "/p"}},
        {"i": FIRST | {"output": "/q"}, "elsewhere": SECOND | {"output": "/r"}},
    )
    assert found.opened("inbound/i", Path("/q"), FILE) is None
    assert found.opened("outbound/other", Path("/p"), FILE) is None
    assert found.opened("inbound/elsewhere", Path("/r"), OTHER) is None
    assert found.opened("outbound/o", Path("/p"), FILE) is not None


def test_a_loop_by_way_of_another_channel() -> None:
    found = files(
        {"a": FIRST | {"source": "/a"}, "b": SECOND | {"source": "/b"}},
        {"to-b": FIRST | {"output": "/b2"}, "to-a": SECOND | {"output": "/a2"}},
    )
    assert found.opened("outbound/a", Path("/a"), FILE) is None
    assert found.opened("outbound/b", Path("/b"), OTHER) is None
    assert found.opened("inbound/to-b", Path("/b2"), OTHER) is None
    loop = found.opened("inbound/to-a", Path("/a2"), FILE)
    assert loop is not None
    assert loop.sender == "outbound/a"


def test_who_does_not_hear_it_may_write_it() -> None:
    off = {"enabled": False, "output": "/r"}
    found = files(
        {"o": FIRST | {"source": "/p"}},
        {"i": SECOND | {"output": "/q"}, "off": FIRST | off},
    )
    assert found.opened("outbound/o", Path("/p"), FILE) is None
    assert found.opened("inbound/i", Path("/q"), FILE) is None
    assert found.opened("inbound/off", Path("/r"), FILE) is None


def test_a_file_is_known_by_a_name_for_as_long_as_one_of_those_that_opened_it_by_it_has_it_open() -> None:
    found = files(
        {"o": FIRST | {"source": "/p"}, "other": SECOND | {"source": "/p"}}, {"i": FIRST | {"output": "/q"}}
    )
    assert found.opened("outbound/o", Path("/p"), FILE) is None
    assert found.opened("outbound/other", Path("/p"), FILE) is None
    assert found.opened("outbound/o", Path("/p"), OTHER) is None  # it was replaced
    found.closed("outbound/o", Path("/p"))
    assert found.opened("inbound/i", Path("/q"), FILE) is not None
    found.closed("outbound/other", Path("/p"))
    assert found.opened("inbound/i", Path("/q"), FILE) is None


# -- workers of made-up kinds


class Player(GroupSettings):
    """Sends a file."""

    sends: ClassVar[bool] = True
    is_heard_here: ClassVar[bool] = True

    group: Group
    port: int
    interface: str | None = None
    tape: Path

    def reads(self) -> Iterable[tuple[Location, Path]]:
        return [(("tape",), self.tape)]


class Recorder(GroupSettings):
    """Writes a group to a file."""

    group: Group
    port: int
    interface: str | None = None
    tapes: tuple[Path, ...]

    def writes(self) -> Iterable[tuple[Location, OutputPath]]:
        return [(("tapes", number), OutputPath(tape)) for number, tape in enumerate(self.tapes)]

    def hears(self, sender: GroupSettings | GroupEnd) -> bool:
        return sender.is_heard_here


def test_workers_of_any_kind_may_be_in_a_loop() -> None:
    subscription = InboundSubscription.model_validate(SECOND | {"output": "/first"})
    workers: dict[str, WorkerSettings] = {
        "player/p": Player.model_validate(FIRST | {"tape": "/first"}),
        "recorder/r": Recorder.model_validate(FIRST | {"tapes": ["/other", "/second"]}),
        "outbound/o": OutboundChannel.model_validate(SECOND | {"source": "/second"}),
        "inbound/i": subscription,
    }
    player, channel = loops(workers)
    assert player == ("player/p", ("tape",), Path("/first"), "recorder/r", (Path("/second"),))
    assert channel == ("outbound/o", ("source",), Path("/second"), "inbound/i", (Path("/first"),))
    assert str(player).endswith("recorder.r receives its group, and writes /second")
    workers["inbound/i"] = subscription.model_copy(update={"enabled": True, "port": 9999})
    assert list(loops(workers)) == []
