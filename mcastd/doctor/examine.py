"""The examination: watch, run every check, and put what was found in order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from mcastd import log
from mcastd.bounded import ask
from mcastd.config import (
    AmtRelaySettings,
    Bridge,
    GatewaySettings,
    GroupSettings,
    InboundSubscription,
    LinkSettings,
    OutboundChannel,
    WorkerSettings,
)
from mcastd.doctor import (
    bridges,
    captured,
    configuration,
    copies,
    delivery,
    departure,
    files,
    interfaces,
    lateness,
    legs,
    linked,
    local_networks,
    memberships,
    neighbours,
    outputs,
    players,
    received_files,
    reception,
    relays,
    reports,
    sending,
    sequences,
    surroundings,
    transport_streams,
    tunnels,
    untried,
    worker,
)
from mcastd.doctor.causes import ALONE, BESIDE, EXPLAINS, RANK
from mcastd.doctor.evidence import NO_TROUBLES, Evidence, Troubles
from mcastd.doctor.finding import Finding, Report, Said, Severity, Skipped
from mcastd.doctor.subject import Subject, by_leg, is_of
from mcastd.doctor.watch import Watch
from mcastd.errors import SHORTAGES, McastdError, reason_of
from mcastd.ip import Address
from mcastd.pauses import with_pauses

Check = Callable[[Subject[Any], Evidence], Iterator[Said]]
HostCheck = Callable[[Evidence], Iterator[Said]]

# Each check, and the settings of the workers that it is for; in the order of the path that a datagram takes.
CHECKS: tuple[tuple[Check, type[WorkerSettings]], ...] = (
    (files.source, OutboundChannel),
    (reception.reception, OutboundChannel),
    (interfaces.interface, GroupSettings),
    (sending.ttl, OutboundChannel),
    (sending.loop, InboundSubscription),
    (sending.two_senders, OutboundChannel),
    (sending.cycle, OutboundChannel),
    (sending.pace, OutboundChannel),
    (sending.unsent, OutboundChannel),
    (sending.announced, OutboundChannel),
    (copies.copies, OutboundChannel),
    (lateness.lateness, OutboundChannel),
    (departure.departure, OutboundChannel),
    (reports.routers, OutboundChannel),
    (neighbours.port, InboundSubscription),
    (delivery.delivery, InboundSubscription),
    (reports.answers, GroupSettings),
    (reports.querier, InboundSubscription),
    (memberships.report_version, InboundSubscription),
    (memberships.membership, InboundSubscription),
    (memberships.receive_buffer, InboundSubscription),
    (memberships.overflow, InboundSubscription),
    (legs.legs, InboundSubscription),
    (tunnels.tunnel, InboundSubscription),
    (sequences.refused, InboundSubscription),
    (sequences.network_loss, InboundSubscription),
    (transport_streams.unusable, InboundSubscription),
    (transport_streams.errors, InboundSubscription),
    (received_files.descriptions, InboundSubscription),
    (local_networks.network, WorkerSettings),
    (local_networks.sides, Bridge),
    (bridges.filtered, Bridge),
    (bridges.withheld, Bridge),
    (bridges.circling, Bridge),
    (bridges.forwarding, Bridge),
    (bridges.hindered, Bridge),
    (relays.heard, AmtRelaySettings),
    (relays.serving, AmtRelaySettings),
    (players.listening, GatewaySettings),
    (players.joining, GatewaySettings),
    (players.playing, GatewaySettings),
    (linked.link, LinkSettings),
    (outputs.outputs, InboundSubscription),
    (captured.captures, InboundSubscription),
    (worker.worker, WorkerSettings),
    (surroundings.kind_of_interface, GroupSettings),
    (untried.trial, WorkerSettings),
)
HOST_CHECKS: tuple[HostCheck, ...] = (
    configuration.configuration,
    configuration.daemon,
    surroundings.netlink,
    surroundings.backlog,
    surroundings.wsl,
    surroundings.container,
)

# These look at one group and port, so at each leg of a subscription by itself.
OF_EACH_LEG: frozenset[Callable[..., Iterator[Said]]] = frozenset(
    {
        *(interfaces.interface, sending.loop, neighbours.port, delivery.delivery),
        *(reports.answers, reports.querier, surroundings.kind_of_interface),
        *(memberships.report_version, memberships.membership, memberships.overflow),
    }
)
# These look at interfaces by which a group comes or goes: what comes by a tunnel has none.
OF_INTERFACES: frozenset[Callable[..., Iterator[Said]]] = frozenset(
    {
        *(interfaces.interface, sending.loop, neighbours.port, delivery.delivery),
        *(reports.answers, reports.querier, surroundings.kind_of_interface),
        *(memberships.report_version, memberships.membership),
    }
)
# These look at files, whose disk or server may never answer.
TOUCH_PATHS: frozenset[Callable[..., Iterator[Said]]] = frozenset(
    {files.source, outputs.outputs, captured.captures}
)
PATH_SECONDS = 0.5
SEVERITIES = tuple(Severity)


def name_of(check: Callable[..., Iterator[Said]]) -> str:
    return check.__name__.replace("_", "-")


Take = Callable[[], Sequence[Subject[WorkerSettings]]]
"""Gives all workers as they are at that moment."""


def consult(
    take: Take,
    of: Collection[str] | None = None,
    *,
    seconds: float,
    probe: bool = False,
    enough: Callable[[], bool] = lambda: False,
    configuration: tuple[str, str] = ("", ""),
    troubles: Troubles = NO_TROUBLES,
) -> Report:
    """Watch for ``seconds``, then examine the workers named in ``of`` (None: all). See :func:`observe`.

    ``configuration`` is what is to be said of the one on disk: a cause and a sentence.
    """
    subjects, evidence = observe(take, of, seconds=seconds, probe=probe, enough=enough)
    evidence.configuration, evidence.troubles = configuration, troubles
    return examine(subjects, evidence)


def observe(
    take: Take,
    of: Collection[str] | None = None,
    *,
    seconds: float,
    probe: bool = False,
    enough: Callable[[], bool] = lambda: False,
) -> tuple[list[Subject[WorkerSettings]], Evidence]:
    """The workers that are meant, as they are after ``seconds`` of watching, and what was seen.

    It ends sooner when ``enough`` is true.

    With ``probe`` a datagram is sent to the group of each subscription that is meant; else nothing is.
    """
    groups: list[Address] = []
    for one in take() if seconds > 0 else ():
        if of is not None and one.name not in of:
            continue
        if is_of(one, GroupSettings):
            groups += (leg.group for leg in one.settings.by_leg())
        elif is_of(one, Bridge):
            groups += bridges.watched_groups(one)
    watch = Watch(groups) if seconds > 0 else None
    try:
        before = take()
        meant = [subject for subject in before if of is None or subject.name in of]
        if watch is not None:
            watch.run(
                [one for one in meant if is_of(one, GroupSettings)], seconds, probe=probe, enough=enough
            )
        earlier = {subject.name: subject.status for subject in before}
        subjects = [replace(now, earlier=earlier.get(now.name)) for now in take()]
        observation = watch.end() if watch is not None else None
    finally:
        if watch is not None:
            watch.close()
    names = {subject.name for subject in meant}
    return [one for one in subjects if one.name in names], Evidence(subjects, observation)


def examine(
    subjects: Sequence[Subject[WorkerSettings]],
    evidence: Evidence,
    only: Collection[str] | None = None,
    *,
    alone: bool = True,
) -> Report:
    """Run the checks, those named ``only`` if given, on each of the subjects and on the host.

    If it is not ``alone`` it goes into another report: see :func:`completed`.
    """
    said: list[Said] = []
    checks = [(check, kind) for check, kind in CHECKS if only is None or name_of(check) in only]
    host_checks = [check for check in HOST_CHECKS if only is None or name_of(check) in only]
    for subject, (check, kind) in with_pauses(product(subjects, checks)):
        if is_of(subject, kind) and not (check in OF_INTERFACES and _is_tunnelled(subject)):
            for part in by_leg(subject) if check in OF_EACH_LEG else [subject]:
                found = _run(check, part, evidence)
                said += (replace(_of_part(one, part, subject), worker=subject.name) for one in found)
    for host_check in with_pauses(host_checks):
        said += _run(host_check, evidence)
    workers = tuple(subject.name for subject in subjects)
    names = (*(name_of(check) for check, _ in checks), *map(name_of, host_checks))
    return in_order(said, workers, names, evidence.watched, alone=alone)


def _is_tunnelled(subject: Subject[WorkerSettings]) -> bool:
    return is_of(subject, InboundSubscription) and subject.settings.is_tunnelled


def _of_part(said: Said, part: Subject[WorkerSettings], whole: Subject[WorkerSettings]) -> Said:
    """What is said of a leg, with its name; a line of the configuration would be another key for it."""
    if part is whole or not isinstance(said, Finding) or not is_of(part, GroupSettings):
        return said
    leg = f"leg {part.settings.group} port {part.settings.port}"
    ways = tuple(way for way in said.ways if way.command)
    return replace(said, what=f"{leg}: {said.what}", ways=ways, part=leg)


def in_order(
    said: Iterable[Said], workers: Sequence[str], checks: Sequence[str], watched: float, *, alone: bool = True
) -> Report:
    """The report, without what others explain; if ``alone``, also without hints that need company."""
    said = list(dict.fromkeys(said))
    findings = _told([one for one in said if isinstance(one, Finding)], alone)
    skipped = tuple(one for one in said if isinstance(one, Skipped))
    return Report(tuple(findings), skipped, tuple(workers), tuple(checks), watched)


def completed(report: Report, other: Report) -> Report:
    """A report with what ``other`` adds: somebody with more privileges ran the checks that could not look."""
    better = {(finding.worker, finding.cause) for finding in other.findings}
    said: list[Said] = [
        *(one for one in report.findings if (one.worker, one.cause) not in better),
        *(one for one in report.skipped if not one.privileged),
        *other.findings,
        *other.skipped,
    ]
    return in_order(said, report.workers, report.checks, max(report.watched, other.watched))


def _run(check: Callable[..., Iterator[Said]], *arguments: object) -> list[Said]:
    said: list[Said] = []
    try:
        if check in TOUCH_PATHS:
            said.extend(ask(lambda: list(check(*arguments)), PATH_SECONDS, "check"))
        else:
            said.extend(check(*arguments))
    except TimeoutError:
        said.append(Skipped(name_of(check), f"no answer for {PATH_SECONDS:g} s: a disk or mount hangs"))
    except McastdError as error:  # what it has to ask cannot be asked now
        said.append(Skipped(name_of(check), str(error)))
    except Exception as error:  # a host that nobody thought of must not cost the user the other checks
        reason = reason_of(error)
        if not (isinstance(error, OSError) and error.errno in SHORTAGES):
            log.get_logger().exception("check.crashed", check=name_of(check))
            reason = f"failed: {type(error).__name__}: {reason}"
        said.append(Skipped(name_of(check), reason))
    return said


def _told(findings: list[Finding], alone: bool) -> list[Finding]:
    """What is to be told of the findings, in which order."""

    def rank(finding: Finding) -> tuple[int, int]:
        return SEVERITIES.index(finding.severity), RANK.get(finding.cause, len(RANK))

    explained = {(one.worker, one.part, cause) for one in findings for cause in EXPLAINS.get(one.cause, ())}
    of_any_part = {(worker, cause) for worker, _, cause in explained}

    def is_explained(one: Finding) -> bool:
        if ("", one.cause) in of_any_part:
            return True
        if not one.part:
            return (one.worker, one.cause) in of_any_part
        # What is wrong with one output or leg explains nothing of another one
        return any((one.worker, part, one.cause) in explained for part in ("", one.part))

    told = [one for one in findings if not is_explained(one)]
    wrong = {one.worker for one in told if one.severity is not Severity.HINT and one.cause not in ALONE}
    told = [one for one in told if one.cause not in ALONE or one.worker not in wrong]
    if alone and all(finding.severity is Severity.HINT for finding in told):
        told = [finding for finding in told if finding.cause not in BESIDE]
    by_worker: dict[str, list[Finding]] = {}
    for finding in sorted(told, key=rank):
        by_worker.setdefault(finding.worker, []).append(finding)
    return [finding for of_worker in by_worker.values() for finding in of_worker]
