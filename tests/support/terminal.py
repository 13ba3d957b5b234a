"""A real terminal: a program in a tmux pane, its screen as text, keys typed into it."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from support.programs import program
from support.wait import DEADLINE_SECONDS, wait_for


class Terminal:
    """``command`` in a terminal of ``columns`` x ``lines``, with a server of tmux for itself alone.

    When the command has ended, its status is shown and a shell's prompt ``$`` waits on the same screen: so
    what it left behind is seen.
    """

    def __init__(
        self, command: Sequence[str | Path], *, columns: int = 80, lines: int = 24, **env: str
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="mcastd-terminal-")
        self._tmux = [program("tmux"), "-S", f"{self._directory.name}/tmux", "-f", "/dev/null"]
        line = shlex.join(str(word) for word in command)
        shell = f"{line}; echo ended with $?; PS1='$ ' exec sh -i"
        size = ["-x", str(columns), "-y", str(lines)]
        environment = {**os.environ, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", **env}
        environment.pop("TMUX", None)
        for name in ("COLUMNS", "LINES"):  # a program would believe them rather than the terminal
            environment.pop(name, None)
        self._run("-u", "new-session", "-d", *size, shell, env=environment)
        self._pid = int(self._run("display-message", "-p", "#{pid}"))

    def _run(self, *arguments: str, env: dict[str, str] | None = None) -> str:
        result = subprocess.run(
            [*self._tmux, *arguments],
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
            env=env,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def screen(self) -> str:
        """What it shows, without blanks at the ends of lines, nor empty lines at the end."""
        lines = [line.rstrip() for line in self._run("capture-pane", "-p").split("\n")]
        return "\n".join(lines).rstrip("\n")

    def lines(self) -> list[str]:
        return self.screen().split("\n")

    def wait(
        self, probe: str | Callable[[str], object], what: str = "", timeout: float = DEADLINE_SECONDS
    ) -> str:
        """The first screen that has the text ``probe``, or of which ``probe`` is true."""
        found: Callable[[str], object] = (lambda s: probe in s) if isinstance(probe, str) else probe
        seen = ""

        def look() -> bool:
            nonlocal seen
            seen = self.screen()
            return bool(found(seen))

        try:
            wait_for(look, timeout=timeout)
        except AssertionError:
            raise AssertionError(f"never came: {what or probe!r}; the last screen:\n{seen}") from None
        return seen

    def type(self, *keys: str) -> None:
        """Keys by tmux's names (``q``, ``Down``, ``PgUp``, ``C-c``, ``Escape``); other words by letters."""
        self._run("send-keys", "--", *keys)

    def resize(self, columns: int, lines: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(lines))

    def state(self, variable: str) -> str:
        """One of tmux's variables of the pane: ``alternate_on``, ``cursor_flag``, ``pane_pid``, ..."""
        return self._run("display-message", "-p", f"#{{{variable}}}").strip()

    def modes(self) -> str:
        """The terminal's line settings, as ``stty -a`` prints them."""
        tty = self.state("pane_tty")
        return subprocess.check_output(["stty", "-a", "-F", tty], text=True)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(
            [*self._tmux, "kill-server"], check=False, capture_output=True, timeout=DEADLINE_SECONDS
        )
        wait_for(lambda: not Path(f"/proc/{self._pid}").exists(), "the end of tmux")
        self._directory.cleanup()
