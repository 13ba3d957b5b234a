"""Where both commands begin: what must hold before the rest is imported, which takes its time."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper


def mcastd() -> None:
    prepare()
    if sys.argv[1:2] == ["run"]:
        hold_signals()
    from mcastd.cli import main  # noqa: PLC0415 - see above

    main(prog_name="mcastd")


def mcastctl() -> None:
    prepare()
    from mcastd.ctl import main  # noqa: PLC0415 - see above

    main(prog_name="mcastctl")


def prepare() -> None:
    """What holds for every command, from its first moment."""
    let_interrupts_end()
    require_utf8()
    open_standard_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what it cannot show is no reason to fail


def let_interrupts_end() -> None:
    """Have Ctrl-C end the process as it ends any program, without a traceback, wherever it is.

    A command that has a last word to say takes the signal over. If the signal is ignored, as in a shell's
    background, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def require_utf8() -> None:
    """Start again in Python's UTF-8 mode unless names of files are UTF-8, as they are in the configuration.

    In another encoding a path means another file, or cannot be opened at all.
    """
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode and sys.executable:
        with suppress(OSError):
            os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def open_standard_descriptors() -> None:
    """Open /dev/null for each of the descriptors 0, 1 and 2 that is closed.

    Else the next file or socket would get its number, and what is meant for people would be written to it.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            with suppress(OSError):
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number: ``fd``
        if getattr(sys, name) is None:
            with suppress(OSError):
                setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - for the process's life


def hold_signals() -> None:
    """Have the daemon's signals wait until it can act on them, but for those that end it: they end it now.

    By default a SIGHUP or SIGUSR1 would kill a daemon that starts, and it would not end with status 0.
    ``process.Signals`` takes them over.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1})
