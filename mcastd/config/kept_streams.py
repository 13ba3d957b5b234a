"""What outputs to engines have to agree on: who writes a stream of Redis, and what one of NATS takes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from shlex import quote
from typing import NamedTuple, TypeVar

from mcastd.config.engine_outputs import EngineOutput, NatsOutput, RedisOutput
from mcastd.config.inbound import InboundSubscription
from mcastd.config.types import Location
from mcastd.config.words import show

SomeOutput = TypeVar("SomeOutput", bound=EngineOutput)


class Writer(NamedTuple):
    """An output that hands datagrams to an engine."""

    worker: str
    label: str
    under: str  # the subject or key, with the group and port in it
    location: Location
    makes: bool = False  # the stream, where it is missing


def written_twice(subscriptions: Mapping[str, InboundSubscription]) -> Iterator[tuple[Location, str]]:
    """Outputs to a key of Redis that an earlier one writes, each with why: ids there only ascend."""
    first: dict[tuple[tuple[str, int], str], Writer] = {}
    for location, name, subscription, output in _outputs(subscriptions, RedisOutput):
        key = output.in_database(output.name_of(output.key, str(subscription.group), subscription.port))
        writer = Writer(f"inbound/{name}", output.label, key, (*location, "key"))
        places = [(end, key) for end in output.ends]
        other = next((first[place] for place in places if place in first), None)
        # The same output twice in one subscription is a complaint of its own
        if other is not None and other[:2] != writer[:2]:
            yield (
                writer.location,
                f"{show(key)} is written by {other.worker} already, and has one writer, since ids only"
                ' ascend: give each a key of its own, as "mcast:a:{group}:{port}"',
            )
        for place in places:
            first.setdefault(place, writer)


def made_too_small(subscriptions: Mapping[str, InboundSubscription]) -> Iterator[tuple[Location, str]]:
    """Outputs that make a stream of NATS for their subject alone, though others give it other ones."""
    streams: dict[tuple[tuple[str, int], str | None, str], list[Writer]] = defaultdict(list)
    for location, name, subscription, output in _outputs(subscriptions, NatsOutput):
        subject = output.name_of(output.subject, str(subscription.group), subscription.port)
        writer = Writer(f"inbound/{name}", output.label, subject, (*location, "create"), output.create)
        streams[output.ends[0], output.domain, output.stream].append(writer)
    for (_, _, stream), writers in streams.items():
        maker = next((one for one in writers if one.makes), None)
        other = next((one for one in writers if maker and one.under != maker.under), None)
        if maker and other:
            yield (
                maker.location,
                f"makes the stream {stream} for one subject alone, and then it takes nothing of"
                f" {other.worker}; make it for all, and leave create out:"
                f" nats stream add {quote(stream)} --subjects {_for_all(one.under for one in writers)}",
            )


def _outputs(
    subscriptions: Mapping[str, InboundSubscription], kind: type[SomeOutput]
) -> Iterator[tuple[Location, str, InboundSubscription, SomeOutput]]:
    for name, subscription in subscriptions.items():
        for index, output in enumerate(subscription.output):
            if isinstance(output, kind):
                yield ("inbound", name, "output", index), name, subscription, output


def _for_all(subjects: Iterable[str]) -> str:
    """Subjects of NATS that have all of these, as the shell takes them: of those with one first word, what
    they begin with."""
    by_word: dict[str, list[list[str]]] = defaultdict(list)
    for words in dict.fromkeys(tuple(subject.split(".")) for subject in subjects):
        by_word[words[0]].append(list(words))
    found = []
    for alike in by_word.values():
        columns = zip(*alike, strict=False)
        common = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
        # ">" is for one word at least
        if all(len(words) > len(common) for words in alike):
            found.append(".".join([*common, ">"]))
        else:
            found += [".".join(words) for words in alike]
    return quote(",".join(found))
