"""What packages install and is made from the code: manual pages and shell completions, into one directory.

mcastd.toml(5) comes from the models of the configuration, so that no key is forgotten: what a key is for from
its description, its type and unit from what its parser says to a wrong value, its default from the model, and
its example from etc/examples/reference.toml. The fields of a status in mcastctl(1) come from the classes of a
status, and what is beside each field there. Run with mcastd and its libraries importable.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tomli_w
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete
from pydantic import BaseModel, BeforeValidator, PlainValidator, ValidationError
from pydantic.fields import FieldInfo

from mcastd import __version__, cli, ctl, status, views
from mcastd.config import Config, kinds_among
from mcastd.config.model import Model
from mcastd.config.words import choose

PROJECT = Path(__file__).parent.parent
REFERENCE = PROJECT / "etc" / "examples" / "reference.toml"
Examples = dict[str, str]  # values by key, as the text has them


def main(destination: Path) -> None:
    man = destination / "man"
    man.mkdir(parents=True, exist_ok=True)
    filled = {
        "@KEYS@": "\n".join(keys()),
        "@STATUS@": "\n".join(status_fields()),
        "@HOMEPAGE@": homepage(),
        "@VERSION@": __version__,
    }
    for page in (PROJECT / "packaging" / "man").iterdir():
        text = page.read_text()
        for placeholder, value in filled.items():
            text = text.replace(placeholder, value)
        (man / page.name.removesuffix(".in")).write_text(text)
    completions(destination / "completions")


def homepage() -> str:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return str(project["urls"]["Homepage"])


# -- completions


class _Bash(BashComplete):
    @staticmethod
    def _check_version() -> None:
        """The bash that matters is not the one of the machine that builds."""


SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": ZshComplete, "fish": FishComplete}


def completions(destination: Path) -> None:
    for shell, complete in SHELLS.items():
        (destination / shell).mkdir(parents=True, exist_ok=True)
        for program, command in (("mcastd", cli.main), ("mcastctl", ctl.main)):
            name = {"bash": program, "zsh": f"_{program}", "fish": f"{program}.fish"}[shell]
            source = complete(command, {}, program, f"_{program}_COMPLETE".upper()).source()
            (destination / shell / name).write_text(source)


# -- mcastd.toml(5)


def keys() -> Iterator[str]:
    """A section for each table of the configuration, as mdoc(7)."""
    examples = shipped_examples()
    for header, model in tables():
        yield rf".Sh \&{f'[{header}]' if header.isalpha() else header}\&"
        yield from roff(paragraph(model.__doc__))
        yield ".Bl -tag -width Ds"
        if header not in examples:
            raise SystemExit(f"{REFERENCE} shows no {header}")
        of_model = examples[header]
        defaults = default_values(model, of_model)
        for key, field in keys_of(model).items():
            if key not in of_model:
                raise SystemExit(f"{REFERENCE} shows no {key} in {header}")
            yield f".It Cm {key}"
            yield from roff(field.description or "")
            yield ".br"
            yield from roff(f"Type: {type_of(field)}.")
            yield ".br"
            required = "Required." if field.is_required() else f"Default: {as_toml(defaults.get(key))}."
            yield from roff(f"{required} Example:")
            yield f".Dl {key} = {of_model[key]}".replace("\\", r"\e").replace('"', r"\(dq")
        yield ".El"


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return model.fields_by_key() if issubclass(model, Model) else model.model_fields


def tables() -> Iterator[tuple[str, type[BaseModel]]]:
    """Each table's header in the text, with its model; those of outputs after those they belong to."""
    for section, field in Config.model_fields.items():
        for model in models_in(field):
            yield (section if field.annotation is model else f"[{section}.NAME]"), model
            for key, inner in model.model_fields.items():
                for table in models_in(inner):
                    if kind_of(table) and list(table.model_fields) != ["kind"]:  # that its kind alone says
                        yield f'[{section}.NAME.{key}], kind = "{kind_of(table)}"', table


def models_in(field: FieldInfo) -> list[type[BaseModel]]:
    def walk(annotation: object, metadata: Sequence[object] = ()) -> Iterator[type[BaseModel]]:
        if kinds := kinds_among([*metadata, *getattr(annotation, "__metadata__", ())]):
            yield from kinds.models.values()
            return
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        for argument in get_args(annotation):
            yield from walk(argument)

    return list(walk(field.annotation, field.metadata))


def kind_of(model: type[BaseModel]) -> str | None:
    """The value of ``kind`` by which an output's table is known."""
    field = model.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field else None


def shipped_examples() -> dict[str, Examples]:
    """From the reference, commented or not: keys and values by header, as tables() has it."""
    text = REFERENCE.read_text()
    found: dict[str, Examples] = {}
    examples: Examples = {}
    for header, key, value in re.findall(
        r"^(?:# )?(?:\[([\w.]+)\]|(\w+) = (.+?))(?: +#.*)?$", text, re.MULTILINE
    ):
        if header:
            section, *rest = header.split(".")
            examples = {}
            if len(rest) < 2:  # of several tables of one kind, the first that has a key shows it
                examples = found.setdefault(f"[{section}.NAME]" if rest else section, examples)
        else:
            examples.setdefault(key, value)
            if key == "kind":
                examples = found.setdefault(f"[{section}.NAME.{rest[1]}], kind = {value}", examples)
    return found


def default_values(model: type[BaseModel], examples: Examples) -> dict[str, Any]:
    """The model's defaults as the configuration writes them, in a table that has what is required."""
    lines = [f"{key} = {examples[key]}" for key, field in keys_of(model).items() if field.is_required()]
    try:
        filled = model(**tomllib.loads("\n".join(lines)))
    except ValidationError:  # of several keys it takes one, and none is required by itself
        filled = model.model_construct()
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    return filled.model_dump(mode="json", by_alias=True, exclude=required)


def as_toml(value: object) -> str:
    return "absent" if value is None else tomli_w.dumps({"x": value}).strip().removeprefix("x = ")


class _Nothing:
    """What no parser takes, so that it says what it would."""


def type_of(field: FieldInfo) -> str:
    """Type and unit, for people."""
    return _type_of(field.annotation, field.metadata)


def _type_of(annotation: object, metadata: Sequence[object]) -> str:
    parsers = [parser.func for parser in metadata if isinstance(parser, PlainValidator | BeforeValidator)]
    if kinds := kinds_among(metadata):
        parsers = [kinds.parse]
    for parse in parsers:
        try:
            parse(_Nothing())
        except ValueError as error:
            if words := re.match("must be (.*?), not ", str(error)):
                return words[1]
    if get_origin(annotation) is Literal:
        return choose([str(word) for word in get_args(annotation)])
    if annotation is bool:
        return "true or false"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"a table with {', '.join(annotation.model_fields)}"
    if get_origin(annotation) is tuple:
        each = _type_of(get_args(annotation)[0], ())
        return f"{each}, or an array of these" if parsers else f"an array, of which each is {each}"
    for argument in get_args(annotation):  # X | None, Annotated[X, ...]
        return _type_of(argument, [*metadata, *getattr(annotation, "__metadata__", ())])
    raise SystemExit(f"cannot tell what {annotation} is")


# -- mcastctl(1): the fields of a status

# What of a status each class is. Those that are in it are found by its fields.
STATUSES: dict[type, str] = {
    views.DaemonView: "Daemon",
    views.WorkerView: "Worker",
    status.ChannelStatus: "Channel",
    status.SubscriptionStatus: "Subscription",
    status.BridgeStatus: "Bridge",
    status.AmtRelayStatus: "AMT relay",
    status.GatewayStatus: "Gateway",
    status.LinkStatus: "Link",
    status.DiscoveryStatus: "Discovery",
}


def status_fields() -> Iterator[str]:
    """A part for each class of a status, as mdoc(7)."""
    for place, of, fields in status_classes():
        yield f".Ss {place}"
        text = inspect.cleandoc(of.__doc__ or "").partition("\n\n")[0]
        if of not in STATUSES and not text.startswith(f"{of.__name__}("):
            yield from roff(paragraph(text))
        yield ".Bl -tag -width Ds -compact"
        for name, words in fields.items():
            yield f".It Li {name}"
            yield from roff(words)
        yield ".El"


def status_classes() -> Iterator[tuple[str, type, dict[str, str]]]:
    """Each class of a status once: where it stands first, and what each of its fields is."""
    places = dict(STATUSES)
    left = [*STATUSES]
    while left:
        of = left.pop(0)
        hints, fields, inner = get_type_hints(of), dict[str, str](), list[type]()
        for name, text in comments_of(of).items():
            words = [text] if text else []
            for one in dataclasses_in(hints[name]):
                if one is views.Status:
                    continue
                if one not in places:
                    places[one] = f"{places[of]}{': ' if of in STATUSES else '.'}{name}"
                    inner.append(one)
                words.append(f"see {places[one]}")
            fields[name] = re.sub(r"\bNone\b", "null", "; ".join(words))
        left[:0] = inner
        yield places[of], of, fields


def comments_of(of: type) -> dict[str, str]:
    """What is said beside each field of a dataclass, those that it inherits first."""
    found: dict[str, str] = {}
    for base in reversed(of.__mro__):
        if dataclasses.is_dataclass(base):
            lines = inspect.getsource(base).splitlines()
            for name in inspect.get_annotations(base):
                if line := next((line for line in lines if line.startswith(f"    {name}: ")), ""):
                    found[name] = line.partition("  # ")[2]
    return found


def dataclasses_in(annotation: object) -> Iterator[type]:
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        yield annotation
    for argument in get_args(annotation):
        yield from dataclasses_in(argument)


def paragraph(docstring: str | None) -> str:
    """What the table is; its header stands above already."""
    return " ".join((docstring or "").split()).split(": ``")[0].rstrip(".") + "."


def roff(text: str) -> Iterator[str]:
    """Text as mdoc(7) input: a new line for each sentence, and none too long."""
    for sentence in re.split(r"(?<=\.)\s+(?=[A-Z])", text.replace("\\", r"\e")):
        for line in textwrap.wrap(sentence, 78, break_long_words=False, break_on_hyphens=False):
            yield rf"\&{line}" if line.startswith((".", "'")) else line


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("directory", type=Path, help="where to make man/ and completions/")
    main(parser.parse_args().directory)
