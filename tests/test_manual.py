"""The manual pages and completions that packages install: complete, and without a fault."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import logging
import pkgutil
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import build
import click
import generate
import pytest
import roots

import mcastd
from mcastd import __version__, cli, ctl, status
from mcastd.adhoc import file_report, groups, report
from mcastd.adhoc.loss import StreamCounts
from mcastd.metrics.families import families
from mcastd.net.socket_owners import Process
from mcastd.supervisor.thread import CHANGES
from mcastd.views import Status


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("generated")
    generate.main(directory)
    return directory


def test_every_key_has_its_type_default_and_example(generated: Path) -> None:
    page = (generated / "man" / "mcastd.toml.5").read_text()
    sections = dict(re.findall(r"^\.Sh \\&(.+)\\&\n((?:(?!\.Sh ).*\n)*)", page, re.MULTILINE))
    tables = dict(generate.tables())
    assert len(tables) >= 5
    for header, model in tables.items():
        section = sections[header if header.startswith("[") else f"[{header}]"]
        entries = dict(re.findall(r"^\.It Cm (\w+)\n((?:(?!\.It |\.El).*\n)*)", section, re.MULTILINE))
        assert list(entries) == list(generate.keys_of(model))
        for key, entry in entries.items():
            assert re.search(r"^Type: \S", entry, re.MULTILINE), key
            required = generate.keys_of(model)[key].is_required()
            assert re.search(r"^Required\." if required else r"^Default: \S", entry, re.MULTILINE), key
            assert f"\n.Dl {key} = " in entry


@pytest.mark.parametrize(
    ("page", "program", "command"),
    [("mcastd.8", "mcastd", cli.main), ("mcastctl.1", "mcastctl", ctl.main)],
)
def test_every_command_and_option_is_explained(
    page: str, program: str, command: click.Group, generated: Path
) -> None:
    text = (generated / "man" / page).read_text()
    context = click.Context(command, info_name=program)
    for name, sub in command.commands.items():
        assert re.search(rf"^\.It Cm {name}$", text, re.MULTILINE), name
        for parameter in [*command.get_params(context), *sub.get_params(click.Context(sub, info_name=name))]:
            for option in parameter.opts:
                if option.startswith("--"):
                    assert re.search(rf"^\.It .*Fl -{option[2:]}\b", text, re.MULTILINE), option


def test_mandoc_finds_no_fault(generated: Path) -> None:
    pages = sorted((generated / "man").iterdir())
    assert [page.name for page in pages] == ["mcastctl.1", "mcastd.8", "mcastd.toml.5"]
    command = ["mandoc", "-T", "lint", "-W", "warning", *pages]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout + result.stderr == ""
    assert result.returncode == 0


def test_completions_are_there_for_each_shell(generated: Path) -> None:
    files = {str(path.relative_to(generated)) for path in (generated / "completions").rglob("*mcast*")}
    assert files == {
        f"completions/{name}"
        for program in ("mcastd", "mcastctl")
        for name in (f"bash/{program}", f"zsh/_{program}", f"fish/{program}.fish")
    }
    for file in files:
        assert "_COMPLETE=" in (generated / file).read_text()


def test_every_metric_is_explained(generated: Path) -> None:
    text = (generated / "man" / "mcastd.8").read_text()
    for family in families().values():
        assert f".It Li {family.name}\n{family.help}\n" in text, family.name


def logged_events() -> set[str]:
    """What the program logs at info and above, by its sources."""
    found = {f"worker.{name}" for level, name in CHANGES.values() if level >= logging.INFO}
    for path in Path(mcastd.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(ast.Attribute(attr="info" | "warning" | "error" | "exception"), [first, *_]):
                    pass
                case ast.Call(ast.Name("write"), [first, *_]):  # at a level that is chosen there
                    pass
                case ast.Tuple([first, ast.JoinedStr() | ast.Name()]):  # an event and its reason
                    pass
                case _:
                    continue
            if isinstance(first, ast.Constant) and re.fullmatch(r"[a-z]+\.[a-z_]+", str(first.value)):
                found.add(str(first.value))
    return found


def test_every_event_of_the_log_is_explained(generated: Path) -> None:
    page = (generated / "man" / "mcastd.8").read_text()
    section = page.partition(".Sh LOG\n")[2].partition("\n.Sh ")[0]
    entries = re.findall(r"^\.It Li (.+)\n((?:(?!\.It |\.El).*\n)+)", section, re.MULTILINE)
    explained = [name for names, _ in entries for name in names.split(" , ")]
    assert len(explained) == len({*explained})
    assert {*explained} == logged_events()


def reasons() -> set[str]:
    """For which something is dropped or refused, as the metrics have them from the start."""
    found: set[str] = set()
    for module in pkgutil.walk_packages(mcastd.__path__, "mcastd."):
        if module.name != "mcastd.__main__":
            names = vars(importlib.import_module(module.name))
            lists = [value for name, value in names.items() if name.endswith("REASONS")]
            kinds = [vars(value) for value in names.values() if isinstance(value, type)]
            lists += [kind.get(name) for kind in kinds for name in ("reasons", "own_reasons")]
            found.update(*(one for one in lists if isinstance(one, tuple)))
    return found


def test_every_reason_is_explained(generated: Path) -> None:
    docs = Path(__file__).parents[1] / "docs"
    text = "".join(path.read_text() for path in [*docs.glob("*.md"), *(generated / "man").iterdir()])
    words = {*re.findall(r"`([a-z0-9-]+)`", text)}
    for names in re.findall(r"^\.(?:Li|Ql|Cm|Pq Li|Pq Ql) ([a-z0-9, -]+)", text, re.MULTILINE):
        words.update(names.split())
    found = reasons()
    assert {"no-space", "ttl", "other-leg", "compression", "too-many-groups", "wrong-interface"} <= found
    assert found - words == set()


def test_every_field_of_a_status_is_explained(generated: Path) -> None:
    page = (generated / "man" / "mcastctl.1").read_text()
    section = page.partition(".Sh STATUS\n")[2].partition("\n.Sh ")[0]
    parts = dict(re.findall(r"^\.Ss (.+)\n((?:(?!\.Ss ).*\n)*)", section, re.MULTILINE))
    # A dataclass with slots is another class than the one that was decorated
    kinds = {kind.__name__ for kind in Status.__subclasses__() if kind.__module__ == status.__name__}
    assert kinds <= {kind.__name__ for kind in generate.STATUSES}
    for place, of, _ in generate.status_classes():
        entries = dict(re.findall(r"^\.It Li (\w+)\n((?:(?!\.It |\.El).*\n)*)", parts[place], re.MULTILINE))
        assert list(entries) == [field.name for field in dataclasses.fields(of)], place
        for name, text in entries.items():
            assert text, f"there is nothing beside {name} of {of.__name__}"
    assert not re.search(r"\b\w+\.[A-Z]|\.py\b|\bNone\b", section), "what only the code knows"
    assert {"Subscription: sequence.senders", "Channel: counters", "Subscription: kept"} <= {*parts}


def test_every_field_of_a_summary_is_explained(generated: Path) -> None:
    page = (generated / "man" / "mcastctl.1").read_text()
    section = page.partition(".Sh SUMMARIES\n")[2].partition("\n.Sh ")[0]
    parts = dict(re.findall(r"^\.Ss (.+)\n((?:(?!\.Ss ).*\n)*)", f"{section}\n", re.MULTILINE))
    explained = {
        part: set(re.findall(r"^\.It Li (\w+)$", text, re.MULTILINE)) for part, text in parts.items()
    }

    def keys(*made_by: Callable[..., object]) -> set[str]:
        return {key for one in made_by for key in re.findall(r'"(\w+)"[]:]', inspect.getsource(one))}

    of_files = keys(file_report.received) - {"name", "percent"}
    counts = {field.name for field in dataclasses.fields(StreamCounts)}
    kinds = (groups.GroupOnInterface, groups.BoundSocket, Process, groups.SourceUse, groups.DaemonMembership)
    assert explained == {
        "Summary of listen": keys(report.received, report.rates) - explained["Streams of a summary"]
        | {"received"},
        "Streams of a summary": explained["Streams of a summary"],
        "Files of listen": keys(file_report.outcome_record),
        "Summary of files of listen": of_files,
        "Summary of send and replay": keys(report.sent, report.rates, file_report.sent),
        "Sessions of discover": set(),
        "Groups": {field.name for kind in (groups.Answer, *kinds) for field in dataclasses.fields(kind)},
    }
    assert explained["Streams of a summary"] - counts == {
        *("source", "run", "first", "last", "total", "unheard", "delay")
    }


def test_whom_to_ask_is_in_one_file(generated: Path) -> None:
    project = roots.PYPROJECT["project"]
    home, author = project["urls"]["Homepage"], project["authors"][0]
    assert f"\n.Lk {home}\n" in (generated / "man" / "mcastd.8").read_text()
    assert f"{author['name']} <{author['email']}>" == build.MAINTAINER
    for directory in ("packaging", "systemd", "etc"):
        for path in (roots.PROJECT / directory).rglob("*"):
            if path.is_file() and path.suffix != ".pyc":
                assert not re.search(f"{re.escape(home)}|{re.escape(author['email'])}", path.read_text()), (
                    path
                )
    for page in (generated / "man").iterdir():
        assert not re.search(r"@[A-Z]+@", page.read_text())


def test_no_word_of_the_changelog_is_there_twice() -> None:
    """lintian takes it for a mistake, and the package is not built."""
    prose = (Path(__file__).parent.parent / "CHANGELOG.md").read_text()
    assert re.findall(r"\b([a-z]+)\s+\1\b", prose, flags=re.IGNORECASE) == []


def test_the_version_has_its_heading_and_is_in_every_page(generated: Path) -> None:
    headings = re.findall(r"^## (.+)$", (roots.PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])
    for page in (generated / "man").iterdir():
        assert f"\n.Os mcastd {__version__}\n" in page.read_text(), page.name


def test_each_version_has_one_entry_in_the_changelog_of_a_package() -> None:
    """What is unreleased is of the version that is built."""
    text = build.debian_changelog("1.2.3~deb12")
    older = re.findall(r"^## \[(.+)\] - ", (roots.PROJECT / "CHANGELOG.md").read_text(), re.MULTILINE)[1:]
    assert re.findall(r"^mcastd \((.+)\) ", text, re.MULTILINE) == ["1.2.3~deb12", *older]
    assert text.endswith("Wed, 25 Nov 2026 00:00:00 -0000\n"), "the first version has the date of its heading"
