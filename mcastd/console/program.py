"""The click group of both programs: a write to standard output that fails is an error with its reason."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Any

import click

from mcastd.errors import reason_of

# Errors of write(2): a full disk, a quota, a broken disk or device, a descriptor that is not for writing.
_BROKEN_OUTPUT = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENXIO,
    errno.EBADF,
    errno.EAGAIN,
}


class Program(click.Group):
    """Ends with status 1 if standard output is broken; silently if its reader has gone (EPIPE)."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            _forget_output()
            sys.exit(1)
        except OSError as error:
            if error.errno not in _BROKEN_OUTPUT or error.filename is not None:
                raise
            _forget_output()
            name = kwargs.get("prog_name") or self.name or "mcastd"
            with suppress(OSError):
                click.echo(f"{name}: cannot write to standard output: {reason_of(error)}", err=True)
            sys.exit(1)


def _forget_output() -> None:
    """Discard what is left in Python's buffer, which would be written again at the exit."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
