"""Reads the rules of this host's firewall: nftables, as nft(8) lists it in JSON.

iptables' rules are among them, where it is iptables-nft; those of the older kind are read by
iptables-legacy-save. What the rules do to a datagram: see ruleset.py.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from mcastd import clock
from mcastd.errors import reason_of
from mcastd.net.ruleset import RuleKey, Ruleset, whole
from mcastd.net.tables import NET

# A program that lists the rules is killed after this long.
LISTING_MAX_SECONDS = 5.0
# Of what a program lists, more than this is not read: as objects it takes some ten times as much.
LISTING_MAX_BYTES = 4 << 20
ERRORS_MAX_BYTES = 4096


def parse(text: str) -> Ruleset:
    """The output of `nft -j list ruleset`. Raises ValueError if it is not that."""
    listing = json.loads(text)
    ruleset = Ruleset()
    asleep: set[tuple[str, str]] = set()  # tables that are switched off
    entries = listing.get("nftables") if isinstance(listing, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no ruleset")  # noqa: TRY004 - it is the text that is wrong
    for entry in entries:
        for kind, value in entry.items() if isinstance(entry, dict) else ():
            if not isinstance(value, dict):
                continue
            where = (
                str(value.get("family")),
                str(value.get("table")),
                str(value.get("chain", value.get("name"))),
            )
            if kind == "table" and "dormant" in str(value.get("flags")):
                asleep.add((where[0], str(value.get("name"))))
            elif kind == "chain":
                ruleset.chains[where] = value | {"prio": whole(value.get("prio"))}
            elif kind == "rule":
                expressions = value.get("expr")
                known = expressions if isinstance(expressions, list) else []
                rule = {
                    "handle": whole(value.get("handle")),
                    "expr": [one for one in known if isinstance(one, dict)],
                }
                ruleset.rules.setdefault(where, []).append(value | rule)
            elif kind in ("set", "map"):
                ruleset.sets[where] = value.get("elem", [])
    for chain in [one for one in ruleset.chains if one[:2] in asleep]:
        del ruleset.chains[chain]
    return ruleset


def parse_legacy(
    text: str, hooks: Sequence[str] = ("INPUT", "PREROUTING", "OUTPUT", "FORWARD")
) -> list[tuple[int, str]]:
    """The rules of `iptables-legacy-save -c` that drop or reject, and policies that do: (packets, rule)."""
    found = []
    for line in text.splitlines():
        if rule := re.match(r"\[(\d{1,20}):\d+\] (-A (\S+) .*)", line):
            if rule[3] in hooks and _target(rule[2]) in ("DROP", "REJECT"):
                found.append((int(rule[1]), rule[2]))
        elif (policy := re.match(r":(\S+) DROP \[(\d{1,20}):", line)) and policy[1] in hooks:
            found.append((int(policy[2]), f"-P {policy[1]} DROP"))
    return found


def _target(rule: str) -> str:
    """What a rule of iptables-save jumps to; "" if that is not to be seen. A comment may say anything."""
    try:
        words = shlex.split(rule)
    except ValueError:
        return ""
    return dict(pairwise(words)).get("-j", "")


def read(version: int = 4) -> Ruleset:
    """The rules as they are now. It takes CAP_NET_ADMIN; what could not be read is said in ``unread``."""
    unread: list[str] = []
    ruleset = Ruleset()
    try:
        ruleset = parse(_run("nft", "-j", "list", "ruleset"))
    except (OSError, ValueError, RecursionError, subprocess.SubprocessError) as error:
        unread.append(f"nftables: {_reason(error)}")
    legacy: list[tuple[int, str]] = []
    names, program = ("ip_tables_names", "iptables") if version == 4 else ("ip6_tables_names", "ip6tables")
    if _loaded(names):
        try:
            legacy = parse_legacy(_run(f"{program}-legacy-save", "-c"))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            unread.append(f"{program}-legacy: {_reason(error)}")
    return replace(ruleset, legacy=tuple(legacy), unread="; ".join(unread))


def _loaded(names: str) -> bool:
    try:
        return bool(Path(NET, names).read_text().strip())
    except OSError:
        return False


def text_of(key: RuleKey) -> str:
    """A rule in nft's words, and where it is; the words of its place alone if it cannot be had."""
    family, table, chain, handle = key
    place = f"{family} {table} {chain}"
    if not handle:
        return f"policy of chain {place}"
    try:
        listing = _run("nft", "-a", "list", "chain", family, table, chain)
    except (OSError, ValueError, subprocess.SubprocessError):
        return f"rule {handle} in {place}"
    for line in listing.splitlines():
        rule, _, found = line.rpartition("# handle ")
        if found.strip() == str(handle):
            return f"{rule.strip()} (chain {place}, handle {handle})"
    return f"rule {handle} in {place}"


def _run(program: str, *arguments: str) -> str:
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise FileNotFoundError(f"{program} is not installed")
    command = [path, *arguments]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL) as process,
    ):
        deadline = clock.monotonic() + LISTING_MAX_SECONDS
        try:
            listed = _read(process, deadline)
            status = process.wait(max(0.0, deadline - clock.monotonic()))
        finally:
            process.kill()
        if status:
            errors.seek(0)
            said = errors.read(ERRORS_MAX_BYTES).decode(errors="replace")
            raise subprocess.CalledProcessError(status, command, stderr=said)
    return listed.decode(errors="replace")


def _read(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """What the program says. Raises TimeoutExpired, and ValueError if it is too much. Needs no thread."""
    assert process.stdout is not None
    fd, listed = process.stdout.fileno(), bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        if not poll.poll(1000 * max(0.0, deadline - clock.monotonic())):
            raise subprocess.TimeoutExpired(process.args, LISTING_MAX_SECONDS)
        part = os.read(fd, LISTING_MAX_BYTES)
        if not part:
            return bytes(listed)
        listed += part
        if len(listed) > LISTING_MAX_BYTES:
            raise ValueError(f"it lists more than {LISTING_MAX_BYTES >> 20} MiB, too much to look through")


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return (str(error.stderr).strip().splitlines() or ["failed"])[0]
    return reason_of(error)
