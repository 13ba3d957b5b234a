"""What pydantic found wrong, in the words of someone who writes TOML."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mcastd.config.bridge import Rewrite
from mcastd.config.daemon import DaemonSettings
from mcastd.config.kinds import kinds_among
from mcastd.config.legs import LegSettings
from mcastd.config.model import Conflicts, Model
from mcastd.config.outbound import Copy
from mcastd.config.outputs import OUTPUTS
from mcastd.config.protocols import INBOUND_PROTOCOLS, OUTBOUND_PROTOCOLS
from mcastd.config.types import Location
from mcastd.config.via import AmtSettings
from mcastd.config.whole import Config
from mcastd.config.words import choose, show

# Similarity (difflib) from which a key of another table was hardly meant: "source" and "sources" have 0.92,
# "key" and "keys" 0.86.
SIMILARITY_MIN = 0.85

# Models of tables that are no kinds.
TABLES_OF_A_KEY: Mapping[str, type[Model]] = {"rewrite": Rewrite}


@dataclass(frozen=True, slots=True)
class Complaint:
    """One thing wrong. ``location`` is the key as the text has it, or would have it if it is ``missing``."""

    location: Location
    reason: str
    missing: bool = False

    def path(self) -> str:
        """``inbound.news.output[1].path``, keys quoted where TOML wants it."""
        path = ""
        for part in self.location:
            if isinstance(part, int):
                path += f"[{part}]"
            else:
                bare = re.fullmatch(r"[A-Za-z0-9_-]+", part)
                path += f".{part if bare else show(part)}"
        return path.removeprefix(".")


def explain(error: ValidationError, data: Mapping[str, object]) -> list[Complaint]:
    """Everything wrong in ``data``, of which pydantic said ``error``."""
    complaints = list(_complaints(error, data))
    try:  # pydantic compares workers only once all are sound: compare those that are
        Config.model_validate(_without(data, {complaint.location[:2] for complaint in complaints}))
    except ValidationError as more:
        complaints += _complaints(more, data)
    return complaints


def _without(data: Mapping[str, object], faulty: Collection[Location]) -> dict[str, object]:
    """``data`` less the faulty sections, workers and keys of the daemon."""
    return {
        section: {name: value for name, value in table.items() if (section, name) not in faulty}
        if isinstance(table, dict)
        else table
        for section, table in data.items()
        if (section,) not in faulty
    }


def _complaints(error: ValidationError, data: Mapping[str, object]) -> Iterator[Complaint]:
    for details in error.errors(include_url=False):
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, Conflicts):
            for location, reason in cause.found:
                yield Complaint(as_written((*details["loc"], *location), data), reason)
        elif details["type"] != "default_factory_not_called":  # an echo of another error
            yield _complaint(details, data)


def _complaint(details: ErrorDetails, data: Mapping[str, object]) -> Complaint:
    location, value, context = details["loc"], details["input"], details.get("ctx", {})
    missing = False
    match details["type"]:
        case "value_error":
            reason = str(context["error"])
            location = location[:2] if location[2:] == ("[key]",) else location  # a worker's name is no key
        case "missing":
            missing = True
            reason = "missing; it is required"
        case "extra_forbidden":
            reason = _unknown(str(location[-1]), _model(location, data))
        case "literal_error":
            reason = _not_among(_quoted(context["expected"]), value)
        case "union_tag_invalid":
            location += ("kind",)
            reason = _not_among(_quoted(context["expected_tags"]), value["kind"])
        case "bool_type":
            reason = f"must be true or false, not {show(value)}"
        case "tuple_type":
            reason = f"must be an array, not {show(value)}"
        case "model_type" | "dict_type":
            reason = f"must be a table, not {show(value)}"
            if location[0] in Config.kinds() and len(location) <= 2:
                reason += f"; each has a name: [{location[0]}.NAME]"
        case _:
            reason = details["msg"]
    return Complaint(as_written(location, data), reason, missing)


def as_written(location: Location, data: Mapping[str, object]) -> Location:
    """A location in the models as one in the text, where an output may be no array, and no table."""
    written: Location = ()
    node: object = data
    for part in location:
        if isinstance(node, list) and isinstance(part, int):
            node = node[part]
        elif isinstance(node, dict):
            if isinstance(part, int):
                continue  # one output stands for an array of one
            node = node.get(part)
        else:
            break  # a path stands for a table
        written += (part,)
    return written


def _model(location: Location, data: Mapping[str, Any]) -> type[Model]:
    """The model that lacks the last key of ``location``."""
    workers = Config.kinds()
    match location:
        case (("daemon" | "amt") as table, _):
            return DaemonSettings if table == "daemon" else AmtSettings
        case (str(table), _, _) if table in workers:
            return workers[table]
        case (str(table), name, str(key), _) if table in workers:
            kinds = kinds_among(workers[table].fields_by_key()[key].metadata)
            model = kinds.model_of(data[table][name][key]) if kinds else TABLES_OF_A_KEY.get(key)
            return model or Config
        case (_, _, ("legs" | "copies") as key, _, _):
            return LegSettings if key == "legs" else Copy
        case ("inbound", _, "output", _, _):
            output: Any = data
            for part in as_written(location[:-1], data):
                output = output[part]
            return OUTPUTS.model_of(output) or Config
    return Config


OF_OUTPUT = "the table of an output of kind = "
# Where a port stands behind its host, with an example for each.
WITH_PORT = {
    "listen": "0.0.0.0:9000",
    "connect": "host.example.net:9000",
    "to": "host.example.net:9000",
    "servers": "nats://host.example.net:9000",
}


def _unknown(key: str, model: type[Model]) -> str:
    known = list(model.fields_by_key())
    if key == "port" and "ports" not in known and (ends := [end for end in WITH_PORT if end in known]):
        examples = " or ".join(f"{end} = {show(WITH_PORT[end])}" for end in ends)
        return f"unknown key; the port stands behind its host: {examples}"
    places: list[tuple[type[Model], str]] = [
        (DaemonSettings, "[daemon]"),
        (AmtSettings, "[amt]"),
        *((settings, f"[{table}.NAME]") for table, settings in Config.kinds().items()),
        *((output, f"{OF_OUTPUT}{show(kind)}") for kind, output in OUTPUTS.models.items()),
        *(
            (protocol, f"protocol = {{ kind = {show(kind)}, {key} = ... }} of [{table}.NAME]")
            for table, kinds in (("outbound", OUTBOUND_PROTOCOLS), ("inbound", INBOUND_PROTOCOLS))
            for kind, protocol in kinds.models.items()
            if key != "kind"  # each has one
        ),
    ]
    elsewhere = [place for other, place in places if key in other.fields_by_key() and other is not model]
    hint = _did_you_mean(key, known)
    if elsewhere:
        outputs = [place.removeprefix(OF_OUTPUT) for place in elsewhere if place.startswith(OF_OUTPUT)]
        elsewhere = [place for place in elsewhere if not place.startswith(OF_OUTPUT)]
        if outputs:
            elsewhere.append(f"{OF_OUTPUT}{' or '.join(outputs)}")
        place = f"belongs into {' or '.join(elsewhere)}"
        nearly = difflib.get_close_matches(key, known, n=1, cutoff=SIMILARITY_MIN)
        hint = f'did you mean "{nearly[0]}"? "{key}" {place}' if nearly else f"it {place}"
    return f"unknown key; {hint or 'known are ' + ', '.join(known)}"


def _not_among(words: list[str], value: object) -> str:
    hint = _did_you_mean(value, words) if isinstance(value, str) else ""
    return f"must be {choose(words)}, not {show(value)}" + (f"; {hint}" if hint else "")


def _did_you_mean(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word.lower(), words, n=1)
    return f'did you mean "{close[0]}"?' if close else ""


def _quoted(text: str) -> list[str]:
    return re.findall("'([^']*)'", text)
