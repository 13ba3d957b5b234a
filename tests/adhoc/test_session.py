"""The one worker of ``mcastctl send`` and ``listen``, from its start to its end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.wait import wait_for

from mcastd import clock
from mcastd.adhoc.session import Session
from mcastd.adhoc.settings import configure
from mcastd.errors import ANY_TEXT, LinkError, McastdError, SettingChange
from mcastd.makers import Parts
from mcastd.net.fake import FakeSender
from mcastd.net.link import Payloads
from mcastd.status import ChannelStatus


@pytest.mark.parametrize(
    ("way_out", "of_the_daemon", "of_a_command"),
    [
        (
            SettingChange("interface", ANY_TEXT, " (have: lo)"),
            'set interface = "..." (have: lo)',
            "give --interface (have: lo)",
        ),
        (SettingChange("interface", '"br0"'), 'set interface = "br0"', "give --interface br0"),
        (
            SettingChange("max_datagram", then=", or raise the MTU", verb="lower"),
            "lower max_datagram, or raise the MTU",
            "lower --chunk, or raise the MTU",
        ),
        (
            SettingChange("receive_buffer", '"8MiB"'),
            'set receive_buffer = "8MiB"',
            'set receive_buffer = "8MiB"',
        ),
        ("stop it", "stop it", "stop it"),
    ],
)
def test_a_way_out_names_the_option_of_a_key(
    monkeypatch: pytest.MonkeyPatch, way_out: str | SettingChange, of_the_daemon: str, of_a_command: str
) -> None:
    monkeypatch.setattr("mcastd.adhoc.session.prepare_process", lambda: None)
    monkeypatch.setattr("mcastd.adhoc.session.log.configure", lambda *_: None)
    error = LinkError("cannot send", "no room", way_out, waits="waiting")
    assert str(error) == f"cannot send: no room; {of_the_daemon}; waiting"

    def refuse(*_: object) -> FakeSender:
        raise error

    settings = {"group": "239.255.1.2", "port": 9190, "source": "/etc/hostname"}
    session = Session(configure("outbound", "send", settings), Parts(open_sender=refuse))
    with pytest.raises(McastdError) as raised, session:
        pass
    assert str(raised.value) == f"cannot send: cannot send: no room; {of_a_command}"


def test_a_datagram_that_is_on_its_way_when_the_end_comes_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcastd.adhoc.session.prepare_process", lambda: None)  # this one stays as it is
    monkeypatch.setattr("mcastd.adhoc.session.log.configure", lambda *_: None)

    class Slow(FakeSender):
        """Sends, and takes a while to return from the kernel, in which the user ends it."""

        def send(self, payloads: Payloads) -> int:
            sent = super().send(payloads)
            os.kill(os.getpid(), signal.SIGINT)
            back = clock.monotonic() + 0.3
            wait_for(lambda: clock.monotonic() > back)
            return sent

    source = tmp_path / "long"
    source.write_text("line\n" * 100)
    settings = {"group": "239.255.1.2", "port": 9190, "source": str(source), "interval": "1h"}
    link = Slow()
    config = configure("outbound", "send", settings)
    with Session(config, Parts(open_sender=lambda *_: link)) as session:
        assert session.ended_by == signal.SIGINT
    assert link.sent == [b"line\n"]
    assert session.status(ChannelStatus).counters.sent == 1
