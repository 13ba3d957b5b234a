"""The row on what is beside files, in a daemon that sends and receives some: a stream, a channel of 1 ms."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from support.trees import lose

from bench.context import Bench
from bench.daemon import Daemon, channel, subscription
from bench.lab import Lab
from bench.measure import Samples, middle
from bench.receivers import DEEP
from bench.report import Check, Result, at_least, at_most

ALONE, BESIDE = "alone", "beside files"
SIZE = 1316
# Datagrams a second of the stream.
RATE = 9000
# A file of so many bytes is sent at 100 Mbit/s, and is another one as soon as it has gone.
FILE_BYTES = 8_000_000
FILE_SECONDS = 0.7
LOST_PERCENT = 5
KEPT_GOAL = 0.8


def beside_files(bench: Bench) -> list[Result]:
    """A stream that is received and a channel of 1 ms, with and without files in the same daemon."""
    lab = bench.lab
    stream, beat, objects = (lab.new_address() for _ in range(3))
    output, lines, file = lab.new_path("stream"), lab.new_path("lines"), lab.new_path("sent")
    seconds = bench.choose(10.0, 4.0)
    with contextlib.ExitStack() as stack:
        lines.write_text("news\n" * 1000)
        file.write_bytes(os.urandom(FILE_BYTES))
        target = f'{{ kind = "directory", path = "{lab.new_path("received")}" }}'
        text = subscription("stream", *stream, f'"{output}"')
        text += channel("beat", *beat, lines, {"interval": '"1ms"', "repeat": '"forever"'})
        text += subscription("files", *objects, target, {"receive_buffer": DEEP, "protocol": '"flute"'})
        protocol = '{ kind = "flute", protect = "5%" }'
        sending = {"rate": '"100Mbit"', "protocol": protocol, "repeat": '"forever"'}
        text += channel("files", *objects, file, sending)
        daemon = Daemon(lab, bench.checkout, text, stack)
        lab.wait_for(lambda: lab.is_member(stream), "the stream's membership")
        daemon.call("Stop", name="outbound/files")
        lose(lab.receiver.enter([]), f"numgen random mod 100 < {LOST_PERCENT}", objects.port)

        def run(*, files: bool) -> dict[str, float]:
            with _files(lab, daemon, file) if files else contextlib.nullcontext():
                late, sent = _counted(daemon)
                written, begun, count = output.stat().st_size, time.monotonic(), int(RATE * seconds)
                load = lab.blaster(stream, size=SIZE, count=count, rate=RATE, sleeping=True)
                load.result(seconds + 60)
                elapsed = time.monotonic() - begun
                now_late, now_sent = _counted(daemon)
            lab.wait_quiet(lambda: 0, [stream.port], 30, "the stream")
            time.sleep(0.2)
            lost = count - (output.stat().st_size - written) // SIZE
            lab.release(output)
            beats = now_sent - sent
            return {"lost": lost, "beats/s": beats / elapsed, "late": 100 * (now_late - late) / max(1, beats)}

        samples = bench.interleave(
            "what is beside files", {ALONE: lambda: run(files=False), BESIDE: lambda: run(files=True)}
        )
    return [_result(samples)]


def _result(samples: Samples) -> Result:
    beats, alone = middle(samples, BESIDE, "beats/s"), middle(samples, ALONE, "beats/s")
    kept = None if beats is None or not alone else beats / alone
    late, alone_late = middle(samples, BESIDE, "late"), middle(samples, ALONE, "late")
    punctual = None if late is None or alone_late is None else (100 - late) / max(1.0, 100 - alone_late)
    checks: list[Check] = [
        at_most("lost of the stream", middle(samples, BESIDE, "lost"), 0, ""),
        at_least("the channel's rate, of that alone", kept, KEPT_GOAL),
        at_least("sent in time, of those alone", punctual, KEPT_GOAL),
    ]
    notes = [f"{RATE:,}/s received; late in % of what was sent; {LOST_PERCENT} % of the files is lost"]
    return Result("a stream and a channel of 1 ms beside files in one daemon", samples, checks, notes=notes)


@contextlib.contextmanager
def _files(lab: Lab, daemon: Daemon, file: Path) -> Iterator[None]:
    """Have the daemon send a file that is another one with each pass, and receive it with losses."""
    end = Event()

    def change() -> None:
        new = lab.new_path("new")
        while not end.wait(FILE_SECONDS):
            new.write_bytes(os.urandom(FILE_BYTES))
            new.replace(file)

    daemon.call("Start", name="outbound/files")
    with ThreadPoolExecutor(1) as pool:
        changed = pool.submit(change)
        try:
            yield
        finally:
            end.set()
            changed.result()
            daemon.call("Stop", name="outbound/files")


def _counted(daemon: Daemon) -> tuple[int, int]:
    """The channel's datagrams that went late, and all that went."""
    counters = daemon.call("Get", name="outbound/beat")["worker"]["status"]["counters"]
    return counters["late"], counters["sent"]
