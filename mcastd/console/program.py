"""The click group of both programs: what an unknown command may mean, and an output that is broken."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Sequence
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


COMMANDS = {
    "mcastd": ("run", "check", "demo", "doctor", "keygen"),
    "mcastctl": (
        *("status", "top", "doctor", "reload", "reopen", "start-worker", "stop-worker"),
        *("listen", "send", "replay", "discover", "groups"),
    ),
}
OF_THE_SERVICE = ("start", "stop", "restart", "enable", "disable")


class Program(click.Group):
    """Ends with status 1 if standard output is broken; silently if its reader has gone (EPIPE)."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; but a word that is no command is refused with what may be meant."""
        word, program = args[0], ctx.info_name or "mcastd"
        if not ctx.resilient_parsing and word[:1] != "-" and self.get_command(ctx, word) is None:
            meant = _instead(program, word, self.list_commands(ctx))
            raise click.UsageError(f"no command {word!r}; {meant}", ctx)
        return super().resolve_command(ctx, args)

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


def _instead(program: str, word: str, known: Sequence[str]) -> str:
    """What may be meant by a word that is none of the ``known`` commands."""
    meant = []
    if word in OF_THE_SERVICE:
        meant.append(f"systemctl {word} mcastd")
    if f"{word}-worker" in known:
        meant.append(f"{program} {word}-worker NAME")
    meant += [f"{other} {word}" for other, commands in COMMANDS.items() if word in commands]
    if word in ("help", "version"):
        meant.append(f"{program} --{word}")
    meant = meant or [f"{program} {close}" for close in difflib.get_close_matches(word.lower(), known, n=1)]
    return f"did you mean {' or '.join(meant)}?" if meant else f"{program} --help lists them"


def _forget_output() -> None:
    """Discard what is left in Python's buffer, which would be written again at the exit."""
    with suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
