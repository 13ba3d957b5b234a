"""Line numbers: of handwritten texts with every trap, and of generated ones."""

from __future__ import annotations

import textwrap
import tomllib

from hypothesis import given
from hypothesis import strategies as st

from mcastd.config.positions import nearest, positions, statements

TRAPS = textwrap.dedent('''\
    top = 1            # line 1

    [a]                # [not.a.header]
    "quoted [x]" = 2
    'it''s' = 3
    text = """
    [fake]
    key = "value" # no comment \\"""
    """""              # two quotes belong to the text
    raw = \'\'\'
    [fake] ]]] {{{ """
    \'\'\'\'
    array = [
      1, # ]
      "]",
      [ 2, { x = 3 } ],
    ]
    dotted . deep = { inner = "}" }

    [[b.c]]
    x = 1
    [[b.c]]

    x = 2
    [b.c.d]
    y = 3
    [b]
    late = 1
''').replace("'it''s'", "'it is'")


def test_every_trap() -> None:
    tomllib.loads(TRAPS)
    lines = positions(TRAPS)
    assert {path: line for path, line in lines.items() if path} == {
        ("top",): 1,
        ("a",): 3,
        ("a", "quoted [x]"): 4,
        ("a", "it is"): 5,
        ("a", "text"): 6,
        ("a", "raw"): 10,
        ("a", "array"): 13,
        ("a", "array", 0): 13,
        ("a", "array", 1): 13,
        ("a", "array", 2): 13,
        ("a", "array", 2, 0): 13,
        ("a", "array", 2, 1): 13,
        ("a", "array", 2, 1, "x"): 13,
        ("a", "dotted"): 18,
        ("a", "dotted", "deep"): 18,
        ("a", "dotted", "deep", "inner"): 18,
        ("b",): 27,
        ("b", "c"): 20,
        ("b", "c", 0): 20,
        ("b", "c", 0, "x"): 21,
        ("b", "c", 1): 22,
        ("b", "c", 1, "x"): 24,
        ("b", "c", 1, "d"): 25,
        ("b", "c", 1, "d", "y"): 26,
        ("b", "late"): 28,
    }


def test_the_nearest_part_of_a_path() -> None:
    lines = positions("[a]\nb = 1\n")
    assert nearest(lines, ("a", "b")) == (2, 2)
    assert nearest(lines, ("a", "missing", 3)) == (1, 1)
    assert nearest(lines, ("z",)) == (0, 0)


VALUES = st.sampled_from(
    [
        "1",
        "true # [[",
        '"[x] # \\" \\\\"',
        "'\\'",
        '"""\n[x]\n\\"""\n"""',
        '""""a"\n"""""',
        '""""""',
        "'''\n#'' \"\"\" {\n'''''",
        "[\n  1, # ]\n\n  2,\n]",
        "[[], ['''\n]'''], {}]",
        "{ a = '}', b = [\n'{'\n] }",
        "1979-05-27T07:32:00Z",
        "{}",
    ]
)
KEYS = st.sampled_from(["k", '"q[#]"', "'l \"{'", "d.e", 'd."]"', "a . b.c"])


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[tuple[object, ...], int]]:
    """A TOML text, and the line of each table and key in it."""
    lines: list[str] = []
    expected: dict[tuple[object, ...], int] = {}
    elements = 0
    for number in range(draw(st.integers(0, 6))):
        lines += draw(st.lists(st.sampled_from(["", "  ", '# [t] """ {', "\t# '''"]), max_size=2))
        if draw(st.booleans()):
            table: tuple[object, ...] = ("t", f"n{number}")
            lines.append(f" [ t . n{number} ] # ]")
        else:
            table = ("aot", elements)
            elements += 1
            lines.append("[[aot]]")
        expected[table] = len(lines)
        for index, key in enumerate(draw(st.lists(KEYS, max_size=4))):
            name = f"u{index}"  # keeps keys of a table apart
            expected[(*table, name)] = len(lines) + 1
            lines += f"{name}.{key} = {draw(VALUES)}".split("\n")
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join(lines), expected


@given(documents())
def test_generated_documents(document: tuple[str, dict[tuple[object, ...], int]]) -> None:
    text, expected = document
    tomllib.loads(text)
    lines = positions(text)
    assert {path: lines.get(path) for path in expected} == expected  # type: ignore[call-overload]
    assert "".join(statement for _, statement in statements(text)) == text
