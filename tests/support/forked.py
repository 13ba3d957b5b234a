"""``mcastctl`` in a process of its own, forked from one that has loaded it: most of its start is loading.

For what a command finds and does. How it starts is tested where it is started as users do (``MCASTCTL``).
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

CLONE_NEWNET = 0x40000000
TESTS = Path(__file__).parents[1]

_server: subprocess.Popen[str] | None = None
_lock = threading.Lock()  # one command at a time


def mcastctl(*arguments: str, network: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run it with this process's environment, in ``network`` (a file of /proc), or the caller's."""
    network = network or f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
    with _lock, tempfile.TemporaryDirectory() as directory:
        out, err = Path(directory, "out"), Path(directory, "err")
        words = [str(argument) for argument in arguments]
        wanted = [words, network, str(out), str(err), os.getcwd(), dict(os.environ), timeout]
        server = start()
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps(wanted), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(["mcastctl", *words], status, out.read_text(), err.read_text())


def start() -> subprocess.Popen[str]:
    """Load it, unless that is done."""
    global _server  # noqa: PLW0603 - one for the whole run
    if _server is None:
        code = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from support.forked import serve; serve()"
        command = [sys.executable, "-c", code]
        _server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(_server.communicate)
    return _server


def serve() -> None:
    """Start what each line of standard input asks for, and answer with its exit status."""
    from mcastd import ctl, entry  # noqa: F401 - for the children
    from mcastd.doctor import deeper  # noqa: F401 - what takes longest

    for line in sys.stdin:
        words, network, out, err, directory, environment, timeout = json.loads(line)
        child = os.fork()
        if child == 0:
            _enter(network)
            os.chdir(directory)
            os.environ.clear()
            os.environ.update(environment)
            for fd, path in ((0, os.devnull), (1, out), (2, err)):
                flags = os.O_RDWR if fd == 0 else os.O_WRONLY | os.O_CREAT
                os.dup2(os.open(path, flags | os.O_CLOEXEC, 0o600), fd)
            sys.stdin = open(0)  # noqa: SIM115 - not what the parent has read ahead
            sys.argv = ["mcastctl", *words]
            entry.mcastctl()
            raise AssertionError("it ends by SystemExit")
        late = threading.Timer(timeout, os.kill, (child, 9))
        late.start()
        _, status = os.waitpid(child, 0)
        late.cancel()
        print(os.waitstatus_to_exitcode(status), flush=True)


def _enter(network: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(os.open(network, os.O_RDONLY | os.O_CLOEXEC), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {network}")
