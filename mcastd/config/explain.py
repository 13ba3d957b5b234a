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
            reason = _unknown(str(location[-1]), _model(location, data), _setting(location))
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


def _setting(location: Location) -> tuple[str, str]:
    """The table and the key of the setting of several kinds that ``location`` is in; ("", "") if of none."""
    return (str(location[0]), str(location[2])) if len(location) > 3 else ("", "")


# The setting that is of several kinds in an array.
OUTPUT = ("inbound", "output")
# Where a port stands behind its host, with an example for each.
WITH_PORT = {
    "listen": "0.0.0.0:9000",
    "connect": "host.example.net:9000",
    "to": "host.example.net:9000",
    "servers": "nats://host.example.net:9000",
}


def _unknown(key: str, model: type[Model], setting: tuple[str, str]) -> str:
    """``model`` lacks the key, which is in the table of ``setting``."""
    known = list(model.fields_by_key())
    if key == "port" and "ports" not in known and (ends := [end for end in WITH_PORT if end in known]):
        examples = " or ".join(f"{end} = {show(WITH_PORT[end])}" for end in ends)
        return f"unknown key; the port stands behind its host: {examples}"
    by_kind = {place: kinds for place, kinds in _kinds_with(key).items() if kinds}
    if setting in by_kind:  # it is of another kind, or its kind is not said
        by_kind, elsewhere = {setting: by_kind[setting]}, []
    else:
        places: list[tuple[type[Model], str]] = [
            (DaemonSettings, "[daemon]"),
            (AmtSettings, "[amt]"),
            *((settings, f"[{table}.NAME]") for table, settings in Config.kinds().items()),
        ]
        elsewhere = [place for other, place in places if key in other.fields_by_key() and other is not model]
    for (table, name), kinds in by_kind.items():
        words = " or ".join(map(show, kinds))
        if (table, name) == OUTPUT:
            elsewhere.append(f"the table of an output of kind = {words}")
        else:
            elsewhere.append(f"{name} = {{ kind = {words}, {key} = ... }} of [{table}.NAME]")
    hint = _did_you_mean(key, known)
    if elsewhere:
        place = f"belongs into {' or '.join(elsewhere)}"
        nearly = _meant_instead(key, known)
        hint = f'did you mean "{nearly}"? "{key}" {place}' if nearly else f"it {place}"
    return f"unknown key; {hint or 'known are ' + ', '.join(known)}"


def _kinds_with(key: str) -> dict[tuple[str, str], list[str]]:
    """The kinds that have a key, by the table and name of the setting of which they are."""
    settings = {
        (table, name): kinds
        for table, model in Config.kinds().items()
        for name, field in model.fields_by_key().items()
        if (kinds := kinds_among(field.metadata)) is not None
    }
    settings[OUTPUT] = OUTPUTS
    return {
        place: [
            kind for kind, model in kinds.models.items() if key != "kind" and key in model.fields_by_key()
        ]
        for place, kinds in settings.items()
    }


def _meant_instead(key: str, known: Collection[str]) -> str:
    """The one known key that is nearly this one, or has it as a word, as allow_groups has groups; or ""."""
    if nearly := difflib.get_close_matches(key, known, n=1, cutoff=SIMILARITY_MIN):
        return nearly[0]
    words = set(key.split("_"))
    alike = [one for one in known if (has := set(one.split("_"))) < words or words < has]
    return alike[0] if len(alike) == 1 else ""


def _not_among(words: list[str], value: object) -> str:
    hint = _did_you_mean(value, words) if isinstance(value, str) else ""
    return f"must be {choose(words)}, not {show(value)}" + (f"; {hint}" if hint else "")


def _did_you_mean(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word.lower(), words, n=1)
    return f'did you mean "{close[0]}"?' if close else ""


def _quoted(text: str) -> list[str]:
    return re.findall("'([^']*)'", text)
