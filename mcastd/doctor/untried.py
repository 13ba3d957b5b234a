"""What is not tried where no daemon runs: there, the sockets of groups are opened, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator

from mcastd.config import (
    DirectoryOutput,
    FifoOutput,
    FileOutput,
    FluteInbound,
    FluteOutbound,
    InboundSubscription,
    OutboundChannel,
    WorkerSettings,
)
from mcastd.doctor.evidence import Evidence
from mcastd.doctor.finding import Said, Skipped
from mcastd.doctor.subject import Subject, is_of
from mcastd.names import table_of

# Kinds of output of which all is tried that can be, without writing anything.
LOOKED_AT = (FileOutput, FifoOutput, DirectoryOutput)


def trial(subject: Subject[WorkerSettings], _evidence: Evidence) -> Iterator[Said]:
    """Name what a worker is made of that only a daemon tries."""
    if not subject.state:
        for what in _left_out(subject):
            yield Skipped("trial", f"only a daemon that runs tries {what}: mcastctl doctor asks it")


def _left_out(subject: Subject[WorkerSettings]) -> Iterator[str]:
    if is_of(subject, OutboundChannel):
        if (source := subject.settings.source).file is None:
            yield f'a source of kind = "{source.kind}"'
        if _has_keys(subject.settings.protocol):
            yield "the keys of files"
    elif is_of(subject, InboundSubscription):
        if subject.settings.is_tunnelled:
            yield "a tunnel"
        if _has_keys(subject.settings.protocol):
            yield "the keys of files"
        for output in subject.settings.output:
            if not isinstance(output, LOOKED_AT):
                yield f'an output of kind = "{output.kind}"'
    else:
        yield f"a [{table_of(subject.name)}.NAME]"


def _has_keys(protocol: object) -> bool:
    return isinstance(protocol, FluteInbound | FluteOutbound) and protocol.is_secured
