"""Configurations for the doctor's gallery, and faults that several cases are made of."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator

from support.gallery import GROUP, PORT, Fault, Lab


def inbound(*lines: str, name: str = "news", interface: str | None = "eth0") -> str:
    """A subscription to GROUP; what ``lines`` say comes beside it, or instead."""
    settings = {"group": f'"{GROUP}"', "port": str(PORT), "output": f'"DIR/{name}.log"'}
    if interface:
        settings["interface"] = f'"{interface}"'
    settings |= dict(line.split(" = ", 1) for line in lines)
    return f"[inbound.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())


def outbound(*lines: str, name: str = "news", interface: str | None = "eth0") -> str:
    settings = {"group": '"239.255.6.9"', "port": str(PORT), "source": '"DIR/news/news.txt"'}
    if interface:
        settings["interface"] = f'"{interface}"'
    settings |= {"repeat": '"forever"', "interval": "0.01"}
    settings |= dict(line.split(" = ", 1) for line in lines)
    return f"[outbound.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items())


LINK_LOCAL = 'group = "224.0.0.77"'
SAME = f'group = "{GROUP}"'  # a channel to the group that is received


def undone(make: Callable[[Lab], None], undo: Callable[[Lab], None] = lambda _: None) -> Fault:
    @contextlib.contextmanager
    def fault(lab: Lab) -> Iterator[None]:
        make(lab)
        try:
            yield
        finally:
            undo(lab)

    return fault


def both(*faults: Fault) -> Fault:
    """One after the other."""

    @contextlib.contextmanager
    def fault(lab: Lab) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for one in faults:
                stack.enter_context(one(lab))
            yield

    return fault


def ip(make: str, undo: str = "", *, there: bool = False) -> Fault:
    """``ip`` commands, several with commas between them."""

    def run(lab: Lab, commands: str) -> None:
        for command in filter(None, commands.split(",")):
            (lab.there if there else lab.here).ip(command.strip())

    return undone(lambda lab: run(lab, make), lambda lab: run(lab, undo))


def edited(config: str) -> Fault:
    """Another configuration on disk, without a reload."""
    before: list[str] = []

    def edit(lab: Lab) -> None:
        before[:] = [lab.daemon.config.read_text()]
        lab.daemon.write(lab.text(config))

    return undone(edit, lambda lab: lab.daemon.write(before[0]))


def configured(config: str) -> Fault:
    """Another configuration, taken over by a reload."""
    return undone(lambda lab: lab.reload(config))


@contextlib.contextmanager
def news(lab: Lab) -> Iterator[None]:
    """A source."""
    (lab.directory / "news").mkdir()
    (lab.directory / "news" / "news.txt").write_text("something happened\n" * 3)
    yield


def nft(rules: str) -> Fault:
    def run(lab: Lab, text: str) -> None:
        command = lab.here.enter(["nft", "-f", "-"])
        subprocess.run(command, input=f"flush ruleset\n{text}\n", check=True, text=True, capture_output=True)

    return undone(lambda lab: run(lab, rules), lambda lab: run(lab, ""))


def chain(hook: str, body: str, *, policy: str = "accept", family: str = "inet", device: str = "") -> Fault:
    on = f'device "{device}" ' if device else ""
    return nft(
        f"table {family} t {{\nchain c {{\ntype filter hook {hook} {on}priority 0; policy {policy};\n"
        f"{body}\n}}\n}}"
    )
