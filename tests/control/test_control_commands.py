"""What can be asked, held to the interface definition by a parser that is not ours."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import varlink.scanner

import mcastd.control
from mcastd.control.commands import MONITOR, Commands, Watching
from mcastd.control.monitor import Picture, difference
from mcastd.control.protocol import Call, Reply
from mcastd.errors import ConfigError, ConfigProblem, SourceError
from mcastd.views import ReloadView
from mcastd.worker import Headline, Vitals

HERE = Path(mcastd.control.__file__).parent
IDL = varlink.scanner.Interface((HERE / "io.mcastd.varlink").read_text())
METHODS = [m.name for m in IDL.members.values() if isinstance(m, varlink.scanner._Method)]


def ask(daemon: Any, method: str, **parameters: object) -> Reply:
    reply = Commands(daemon).answer(Call(method, parameters))
    assert isinstance(reply, Reply)
    return reply


def check(value: object, kind: Any) -> None:
    """That ``value`` has exactly the varlink type ``kind``."""
    match kind:
        case varlink.scanner._CustomType():
            check(value, IDL.members[kind.name].type)
        case varlink.scanner._Struct():
            assert isinstance(value, dict)
            assert value.keys() == kind.fields.keys()
            for name, inner in kind.fields.items():
                check(value[name], inner)
        case varlink.scanner._Array():
            assert isinstance(value, list | tuple)
            for element in value:
                check(element, kind.element_type)
        case varlink.scanner._Enum():
            assert value in kind.fields
        case varlink.scanner._Maybe():
            if value is not None:
                check(value, kind.element_type)
        case varlink.scanner._Object():
            assert isinstance(value, dict)
        case _:
            assert type(value) is type(kind)  # the parser stands an example for each plain type


@pytest.mark.parametrize("name", [name for name in METHODS if name != "Monitor"])
def test_every_method_is_implemented_as_defined(daemon: Any, name: str) -> None:
    method = IDL.members[name]
    values = {"name": "inbound/news", "watch": 0.5, "probe": False}
    parameters = {field: values[field] for field in method.in_type.fields}
    reply = ask(daemon, f"io.mcastd.{name}", **parameters)
    assert reply.error == ""
    check(reply.parameters, method.out_type)


def test_nothing_is_implemented_that_is_not_defined(daemon: Any) -> None:
    implemented = {method for method in Commands(daemon)._methods if method.startswith("io.mcastd.")}
    assert implemented | {MONITOR} == {f"io.mcastd.{name}" for name in METHODS}


def test_what_is_monitored_is_told_as_defined() -> None:
    nobody, news = "inbound/nobody", "inbound/news"
    headline = Headline(news, "active", 5.0, "receiving", 1, False)
    before = Picture(1.0, {nobody: headline}, {}, 1.0)
    vitals = {news: Vitals(last_datagram=9.0), nobody: Vitals(last_datagram=None)}
    after = Picture(10.0, {news: headline}, vitals, 10.0)
    method = IDL.members["Monitor"]
    for message in (difference(before, after), difference(after, replace(after, at=11.0))):
        check(message, method.out_type)


@pytest.mark.parametrize(("told", "interval"), [({}, 1.0), ({"interval": None}, 1.0), ({"interval": 5}, 5)])
def test_monitor_wants_more(daemon: Any, told: dict[str, Any], interval: float) -> None:
    call = Call("io.mcastd.Monitor", told, more=True)
    assert Commands(daemon).answer(call) == Watching(interval)
    for wrong in (replace(call, more=False), replace(call, oneway=True)):
        assert Commands(daemon).answer(wrong) == Reply({}, "org.varlink.service.ExpectedMore")


@pytest.mark.parametrize("interval", ["1", True, -1, math.nan, math.inf, 3601, 10**400, [], {}])
def test_monitor_wants_an_interval_that_makes_sense(daemon: Any, interval: Any) -> None:
    call = Call("io.mcastd.Monitor", {"interval": interval}, more=True)
    expected = Reply({"parameter": "interval"}, "org.varlink.service.InvalidParameter")
    assert Commands(daemon).answer(call) == expected


PROBLEM = ConfigProblem("/etc/mcastd.toml", 3, "outbound.news.ttl", "too large")


@pytest.mark.parametrize(
    ("raised", "error", "parameters"),
    [
        (ConfigError([PROBLEM]), "ConfigInvalid", {"problems": [str(PROBLEM)]}),
        (
            SourceError("news.txt", "gone", "bring it back"),
            "Failed",
            {"reason": "news.txt: gone; bring it back"},
        ),
    ],
)
def test_failures_are_told_as_defined(
    daemon: Any, raised: Exception, error: str, parameters: dict[str, object]
) -> None:
    daemon.error = raised
    assert ask(daemon, "io.mcastd.Reload") == Reply(parameters, f"io.mcastd.{error}")
    check(parameters, IDL.members[error].type)


@pytest.mark.parametrize("method", ["Get", "Start", "Stop"])
@pytest.mark.parametrize("name", ["news", "inbound/", ""])
def test_names_are_full_names(daemon: Any, method: str, name: str) -> None:
    reply = ask(daemon, f"io.mcastd.{method}", name=name)
    assert reply.error == "io.mcastd.NoSuchWorker"
    assert reply.parameters == {"name": name, "known": ["outbound/news", "inbound/news", "inbound/weather"]}
    check(reply.parameters, IDL.members["NoSuchWorker"].type)


def test_a_bug_is_an_answer_too(daemon: Any) -> None:
    daemon.error = ZeroDivisionError("division by zero")
    reply = ask(daemon, "io.mcastd.Reopen")
    assert reply.error == "io.mcastd.Failed"
    assert "ZeroDivisionError" in reply.parameters["reason"]


@pytest.mark.parametrize(
    ("call", "error", "parameters"),
    [
        (Call("io.mcastd.Fly"), "MethodNotFound", {"method": "io.mcastd.Fly"}),
        (Call("com.example.Fly"), "InterfaceNotFound", {"interface": "com.example"}),
        (Call("Fly"), "InterfaceNotFound", {"interface": ""}),
        (Call("io.mcastd.Get"), "InvalidParameter", {"parameter": "name"}),
        (Call("io.mcastd.Get", {"name": 1}), "InvalidParameter", {"parameter": "name"}),
        (Call("io.mcastd.Get", {"name": "a", "b": "c"}), "InvalidParameter", {"parameter": "b"}),
        (Call("io.mcastd.Monitor", {"x": 1}, more=True), "InvalidParameter", {"parameter": "x"}),
        (Call("io.mcastd.Reload", {"self": "x"}), "InvalidParameter", {"parameter": "self"}),
        (Call("io.mcastd.List", upgrade=True), "MethodNotImplemented", {"method": "io.mcastd.List"}),
        (
            Call("org.varlink.service.GetInterfaceDescription", {"interface": "a.b"}),
            "InterfaceNotFound",
            {"interface": "a.b"},
        ),
    ],
)
def test_standard_errors(daemon: Any, call: Call, error: str, parameters: dict[str, object]) -> None:
    assert Commands(daemon).answer(call) == Reply(parameters, f"org.varlink.service.{error}")


def test_reload_views_are_told_whole(daemon: Any) -> None:
    daemon.reloaded = ReloadView(removed=("inbound/a",), notes=("daemon.metrics takes a restart",))
    reply = ask(daemon, "io.mcastd.Reload")
    assert reply.parameters["removed"] == ["inbound/a"]
    assert reply.parameters["notes"] == ["daemon.metrics takes a restart"]


@pytest.mark.parametrize(
    ("parameters", "asked"),
    [
        ({}, "doctor None 1 False"),
        ({"name": None, "watch": None, "probe": None}, "doctor None 1 False"),
        ({"name": "inbound/news", "watch": 10, "probe": True}, "doctor inbound/news 10 True"),
        ({"watch": 0}, "doctor None 0 False"),
    ],
)
def test_the_doctor_can_be_asked_with_what_is_wanted(daemon: Any, parameters: Any, asked: str) -> None:
    assert ask(daemon, "io.mcastd.Doctor", **parameters).error == ""
    assert daemon.asked == [asked]


@pytest.mark.parametrize(
    "wrong",
    [{"watch": -1}, {"watch": 601}, {"watch": float("nan")}, {"watch": True}, {"probe": 1}, {"name": 7}],
)
def test_the_doctor_refuses_what_makes_no_sense(daemon: Any, wrong: Any) -> None:
    reply = ask(daemon, "io.mcastd.Doctor", **wrong)
    assert reply == Reply({"parameter": next(iter(wrong))}, "org.varlink.service.InvalidParameter")
    assert daemon.asked == []
