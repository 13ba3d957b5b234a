"""Imports point down only, and only net/ touches the kernel's network: the house rules, held by a test."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mcastd"
# Of a module about one thing.
LINES_MAX = 400

LEAVES = {
    *("bell", "bounded", "clock", "codec", "counters", "deadlines", "errors", "gather", "ip", "keytext"),
    *("later", "log", "names"),
    *("paths", "pauses", "printable", "replaceable", "rows", "status", "stored", "threads"),
    *("token_bucket", "views"),
}
BELOW = {  # room: the rooms that it may import, besides itself
    **{leaf: set() for leaf in LEAVES},
    "bounded": {"threads"},
    "threads": {"errors"},
    "log": {"clock", "printable", "threads"},
    "replaceable": {"clock", "threads"},
    "paths": {"errors"},
    "views": {"codec"},
    "status": {"counters", "views"},
    "entry": {"cli", "ctl"},
    "worker": LEAVES,
    "handover": LEAVES | {"worker"},
    "net": LEAVES | {"protocols"},
    "protocols": LEAVES,
    "delivery": LEAVES | {"protocols"},
    "sequence": LEAVES,
    "analysis": LEAVES | {"protocols"},
    "querier": LEAVES | {"protocols"},
    "config": LEAVES | {"protocols"},
    "systemd": LEAVES,
    "control": LEAVES | {"worker"},
    "metrics": LEAVES | {"worker"},
    "outbound": LEAVES
    | {"worker", "handover", "config", "net", "protocols", "delivery", "analysis", "engines"},
    "inbound": LEAVES
    | {"worker", "handover", "config", "net", "protocols", "delivery", "sequence", "analysis", "engines"},
    "engines": LEAVES | {"config", "delivery", "net", "protocols"},
    "gateway": LEAVES | {"worker", "config", "delivery", "net", "protocols"},
    "discovery": LEAVES | {"worker", "config", "net", "protocols"},
    "bridge": LEAVES | {"worker", "config", "net", "protocols", "querier"},
    "tunnel": LEAVES | {"net", "protocols", "querier"},
    "amt_relay": LEAVES | {"worker", "config", "net", "protocols", "tunnel"},
    "link": LEAVES | {"worker", "config", "delivery", "net", "protocols", "tunnel"},
    "supervisor": LEAVES | {"worker", "config"},
    "doctor": LEAVES | {"config", "net", "protocols", "delivery", "inbound"},
    "process": LEAVES,
    "reloads": LEAVES,
    "reload_notes": LEAVES | {"worker", "config"},
    "ondisk": LEAVES | {"config"},
    "chores": LEAVES | {"systemd", "inbound", "supervisor"},
    "makers": LEAVES
    | {"worker", "config", "net", "outbound", "inbound", "discovery", "bridge", "tunnel"}
    | {"amt_relay", "gateway", "link", "protocols"},
    "runtime": LEAVES
    | {"process", "worker", "config", "net", "outbound", "inbound", "bridge", "tunnel"}
    | {"makers", "supervisor"},
    "daemon": LEAVES
    | {
        "process",
        "bridge",
        "chores",
        "ondisk",
        "reload_notes",
        "reloads",
        "makers",
        "runtime",
        "worker",
        "config",
        "control",
        "metrics",
        "systemd",
        "inbound",
        "gateway",
        "doctor",
    },
    "demo": LEAVES | {"process", "worker", "config", "net", "runtime", "supervisor"},
    "cli": LEAVES
    | {"process", "ondisk", "config", "console", "makers", "daemon", "delivery", "demo", "doctor"},
    "console": LEAVES | {"process", "control", "config", "doctor"},
    "adhoc": LEAVES
    | {
        "worker",
        "config",
        "net",
        "inbound",
        "outbound",
        "process",
        "makers",
        "runtime",
        "control",
        "console",
        "delivery",
        "protocols",
    },
    "ctl": LEAVES | {"config", "control", "console", "adhoc", "doctor"},
}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules of ours that a file imports, as dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            if node.module == "mcastd":
                yield from (f"mcastd.{alias.name}" for alias in node.names if not alias.name.startswith("__"))
            else:
                yield node.module


def types_defined(tree: ast.Module) -> Iterator[str]:
    """The names of a module's classes, and of its aliases of types, which are written like those."""
    for node in tree.body:
        names: list[ast.expr] = []
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            names = node.targets
        elif isinstance(node, ast.AnnAssign):
            names = [node.target]
        yield from (one.id for one in names if isinstance(one, ast.Name) and re.match("[A-Z].*[a-z]", one.id))


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    room = parts[0]
    if room.startswith("__"):
        return
    assert room in BELOW, f"{room} has no place in the house yet: give it one here and in the design"
    ours = {room_of(name) for name in imported(ast.parse(path.read_text())) if name.startswith("mcastd")}
    assert ours - {room, ""} <= BELOW[room]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_net_uses_ctypes_and_inet_sockets(path: Path) -> None:
    if "net" in path.relative_to(PACKAGE).parts:
        return
    tree = ast.parse(path.read_text())
    assert "ctypes" not in set(imported(tree))
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & {"AF_INET", "AF_INET6", "AF_NETLINK", "AF_PACKET"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_long_module_says_why_it_is_one(path: Path) -> None:
    text = path.read_text()
    if text.count("\n") > LINES_MAX:
        assert "is one module" in (ast.get_docstring(ast.parse(text)) or "")


def test_a_type_has_a_name_of_its_own() -> None:
    """One name has one meaning in the whole package."""
    homes: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for name in types_defined(ast.parse(path.read_text())):
            homes[name].append(str(path.relative_to(PACKAGE)))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}
