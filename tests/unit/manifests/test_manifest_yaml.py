"""YAML is read by version 1.2, within limits, and with the line of every fault."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from services.manifests import MAX_BYTES, parse
from tests.unit.manifests.samples import POD, found, refused, the_violation


def value_of(yaml: str) -> Any:
    """What a Compose extension field with this YAML text holds."""
    return parse(f"services: {{a: {{image: b}}}}\nx-value: {yaml}\n").primary.body["x-value"]


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        ("nULL", "nULL"),
        ("22:22", "22:22"),
        ("1_000", "1_000"),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("0b11", "0b11"),
        ("-12", -12),
        ("+12", 12),
        ("18446744073709551615", 2**64 - 1),
        ("-9223372036854775808", -(2**63)),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("1.5e-3", 0.0015),
        ("-x", "-x"),
        (".", "."),
        ("1.2.3", "1.2.3"),
        ("2001-01-01", "2001-01-01"),
        ("=", "="),
        ("'12'", "12"),
        ('"no"', "no"),
        ("!!str 12", "12"),
        ("! 12", "12"),
        ("!!int '12'", 12),
        ("!!float 1", 1.0),
        ("!!null ''", None),
        ("!!bool true", True),
        ("!!seq [1]", [1]),
        ("!!map {a: 1}", {"a": 1}),
        ("'<<'", "<<"),
        ("[a, [b], {c: d}]", ["a", ["b"], {"c": "d"}]),
        ("|\n  a\n  b\n", "a\nb\n"),
        (">-\n  a\n  b\n", "a b"),
    ],
)
def test_scalars_are_read_by_the_core_schema(yaml: str, expected: object) -> None:
    """Text that only YAML 1.1 takes for numbers or booleans is text."""
    value = value_of(yaml)
    assert (value, type(value)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("yaml", "reason"),
    [
        (".inf", "BAD_VALUE"),
        ("-.INF", "BAD_VALUE"),
        (".nan", "BAD_VALUE"),
        ("1e999", "BAD_VALUE"),
        ("18446744073709551616", "BAD_VALUE"),
        ("9" * 100_000, "BAD_VALUE"),
        ("0x" + "f" * 100_000, "BAD_VALUE"),
        ("1." + "0" * 100_000, "BAD_VALUE"),
        ("!!int abc", "BAD_VALUE"),
        ("!!bool 1", "BAD_VALUE"),
        ("!!map abc", "BAD_VALUE"),
        ('"\\0"', "BAD_VALUE"),
        ("!!binary aGk=", "UNSUPPORTED_TAG"),
        ("!!timestamp 2001-01-01", "UNSUPPORTED_TAG"),
        ("!!python/object:os.system x", "UNSUPPORTED_TAG"),
        ("!reset []", "UNSUPPORTED_TAG"),
        ("!!set {a}", "UNSUPPORTED_TAG"),
        ("!!seq {a: b}", "UNSUPPORTED_TAG"),
    ],
)
def test_values_that_cannot_be_held_are_refused_with_their_line(yaml: str, reason: str) -> None:
    """Infinite and huge numbers, unknown tags and NUL are refused at their value."""
    error = the_violation(f"services: {{a: {{image: b}}}}\nx-value: {yaml}\n")
    assert (error.field_path, error.line, error.column, error.reason) == ("x-value", 2, 10, reason)
    assert len(error.message) < 200


def test_a_duplicate_key_is_refused_with_both_lines() -> None:
    """The same key twice in one mapping is refused where it stands the second time."""
    error = the_violation(POD + "    name: other\n")
    assert (error.field_path, error.line, error.column) == ("spec.containers[0].name", 11, 5)
    assert error.reason == "DUPLICATE_KEY"
    assert "line 9" in error.message
    assert "line 11" in error.message


def test_all_duplicate_keys_are_found() -> None:
    """Each duplicate is one finding, in every document, quoted or not."""
    assert found("a: 1\n'a': 2\n---\nb:\n- c: 1\n  c: 2\n") == [
        ("a", 2, "DUPLICATE_KEY"),
        ("[1].b[0].c", 6, "DUPLICATE_KEY"),
    ]


def test_keys_are_text() -> None:
    """A key that is a number, a boolean or null is refused with its line; quoted, it is a key."""
    assert found("80: a\ntrue: b\n~: c\n") == [
        ("", 1, "KEY_NOT_A_STRING"),
        ("", 2, "KEY_NOT_A_STRING"),
        ("", 3, "KEY_NOT_A_STRING"),
    ]
    assert value_of("{'80': a, on: b, no: c}") == {"80": "a", "on": "b", "no": "c"}


@pytest.mark.parametrize("text", ["? [a]\n: b", "? {a: b}\n: c", "a: &a {b: c}\n*a : d", "{[a]: b}"])
def test_a_collection_is_no_key(text: str) -> None:
    """A list or mapping as a key is refused."""
    assert the_violation(text).reason == "KEY_NOT_A_STRING"


def test_aliases_repeat_values() -> None:
    """An alias stands for the value of its anchor, and the copies share nothing."""
    value = value_of("[&a {b: [1]}, *a, &s text, *s]")
    assert value == [{"b": [1]}, {"b": [1]}, "text", "text"]
    assert value[0] is not value[1]
    assert value[0]["b"] is not value[1]["b"]


def test_merge_keys_give_what_is_missing() -> None:
    """Own keys win over merged ones, and earlier mappings over later ones."""
    value = value_of("[&a {x: 1, y: 1}, &b {y: 2, z: 2}, {<<: [*a, *b], x: 3}, {<<: *b}, {<<: {q: 1}}]")
    assert value[2:] == [{"x": 3, "y": 1, "z": 2}, {"y": 2, "z": 2}, {"q": 1}]


def test_a_merged_value_is_refused_at_its_own_line() -> None:
    """A fault in a merged mapping is reported where it was written."""
    text = POD.replace("    image: nginx:latest\n", "    <<: {image: 12}\n")
    assert found(text) == [("spec.containers[0].image", 10, "WRONG_TYPE")]


@pytest.mark.parametrize("yaml", ["{<<: 1}", "{<<: [1]}", "{<<: [{a: b}, [c]]}", "{<<: }"])
def test_only_mappings_are_merged(yaml: str) -> None:
    """A merge key with anything but mappings is refused."""
    assert the_violation(f"a: {yaml}").reason == "BAD_VALUE"


def test_a_second_merge_key_is_a_duplicate() -> None:
    """Two merge keys in a mapping are two equal keys."""
    assert found("a: {<<: {b: c}, <<: {d: e}}") == [('a["<<"]', 1, "DUPLICATE_KEY")]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a: b: c\n", 1, 5),
        ("a:\n  - b\n c: d\n", 3, 2),
        ("a: [1, 2\n", 2, 1),
        ("a: 'b\n", 2, 1),
        ("a: {b: c}}\n", 1, 10),
        ("\ta: b\n", 1, 1),
        ("a: *b\n", 1, 4),
        ("a: &a [*a]\n", 1, 8),
        ("é: \U0001f600\nb: %\n", 2, 4),
        ("ok: 1\nbad: \x07\n", 2, 6),
        ("ok: 1\nbad: \x00\n", 2, 6),
        ("ok: 1\nbad: \x7f\n", 2, 6),
        ("ok: 1\nbad: \ud800\n", 2, 6),
        ("ok: 1\nbad: \ufffe\n", 2, 6),
        ("a: @b\n", 1, 4),
        ("%YAML 2.0\n---\na: b\n", 1, 1),
    ],
)
def test_broken_text_is_refused_with_line_and_column(text: str, line: int, column: int) -> None:
    """What is no YAML, or no plain text, is refused where it goes wrong."""
    error = the_violation(text)
    assert (error.reason, error.line, error.column) == ("MANIFEST_SYNTAX", line, column)


def repeated(count: int, first: str, following: str) -> str:
    """Lines of which each refers nine times to the one before it."""
    names = [f"n{number}" for number in range(count)]
    lines = [f"{names[0]}: &{names[0]} {first}"]
    for before, name in itertools.pairwise(names):
        lines.append(f"{name}: &{name} " + following.format(", ".join([f"*{before}"] * 9)))
    return "\n".join(lines)


RUNAWAY = 30.0
"""Seconds of CPU that nothing here comes near on the slowest machine, and that what grows past its text goes beyond."""

BOMBS = {
    "fifty thousand open lists": ("[" * 50_000, "MANIFEST_TOO_DEEP"),
    "fifty thousand open mappings": ("{a: " * 50_000, "MANIFEST_TOO_DEEP"),
    "fifty thousand nested items": ("- " * 50_000, "MANIFEST_TOO_DEEP"),
    "fifty thousand complex keys": ("? " * 50_000, "KEY_NOT_A_STRING"),
    "a million open lists": ("[" * 1_000_000, "MANIFEST_TOO_DEEP"),
    "nested block mappings": (
        "\n".join(" " * depth + "a:" for depth in range(1_000)),
        "MANIFEST_TOO_DEEP",
    ),
    "billion laughs": (repeated(10, "[x, x, x, x, x, x, x, x, x]", "[{}]"), "MANIFEST_TOO_MANY_ALIASES"),
    "a merge of what was merged": (repeated(12, "{a: 1, b: 2}", "{{<<: [{}]}}"), "UNKNOWN_FORMAT"),
    "merges that are multiplied by lists": (
        "\n".join(
            f"m{n}: &m{n} {{<<: *m{n - 1}, k{n}: [*m{n - 1}, *m{n - 1}]}}" if n else "m0: &m0 {k: v}" for n in range(30)
        ),
        "MANIFEST_TOO_MANY_ALIASES",
    ),
    "a large mapping merged a thousand times": (
        "a: &a {" + ", ".join(f"k{n}: 1" for n in range(2_000)) + "}\n" + "b: {<<: [" + "*a, " * 900 + "]}",
        "MANIFEST_TOO_MANY_ALIASES",
    ),
    "a long text repeated": ("a: &a " + "x" * 500_000 + "\nb: [" + "*a, " * 900 + "]", "MANIFEST_TOO_MANY_ALIASES"),
    "a bomb in each document": (
        "---\n".join(repeated(5, "[x, x, x, x, x, x, x, x, x]", "[{}]") + "\n" for _ in range(20)),
        "MANIFEST_TOO_MANY_ALIASES",
    ),
    "many aliases": ("a: &a 1\nb: [" + "*a, " * 2_000 + "]", "MANIFEST_TOO_MANY_ALIASES"),
    "aliases that add depth": (
        "n0: &n0 [1]\n" + "\n".join(f"n{n}: &n{n} [[[[*n{n - 1}]]]]" for n in range(1, 30)),
        "MANIFEST_TOO_DEEP",
    ),
    "many values": ("- 1\n" * 200_000, "MANIFEST_TOO_LARGE"),
    "many empty documents": ("---\n" * 200_000, "MANIFEST_TOO_LARGE"),
    "many tag directives": ("".join(f"%TAG !a{n}! tag:x:\n" for n in range(40_000)) + "---\na: b", "MANIFEST_SYNTAX"),
    "five megabytes": ("a: " + "x" * 5_000_000, "MANIFEST_TOO_LARGE"),
    "one byte too many": ("é" * (MAX_BYTES // 2) + "x", "MANIFEST_TOO_LARGE"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_before_it_grows(bomb: str) -> None:
    """Each bomb ends in its own clear error, for what reading its text costs: one that unfolds takes minutes."""
    text, reason = BOMBS[bomb]
    start = time.process_time()
    error = refused(text)
    assert time.process_time() - start < RUNAWAY
    assert error.reason == reason
    assert len(str(error)) < 1000


FLOODS = {
    "annotations": (
        POD.replace(
            "  annotations:\n", "  annotations:\n" + "".join(f"    beemesh.io/a{n}: b\n" for n in range(40_000))
        ),
        0,
    ),
    "arguments of the wrong type": (POD + "    args: [" + "1," * 99_000 + "]\n", 1),
    "volumes of one name": (POD + "  volumes:\n" + "  - {name: a}\n" * 30_000, 50),
    "keys that are numbers, deep inside": (
        "[" * 60 + "{" + "".join(f"{n}: 1, " for n in range(49_000)) + "}" + "]" * 60,
        50,
    ),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_is_read_in_time_that_grows_with_its_size(flood: str) -> None:
    """Tens of thousands of fields or faults of one sort take no more than seconds, however many findings there are."""
    text, findings = FLOODS[flood]
    start = time.process_time()
    assert (len(refused(text).violations) if findings else 0) == findings
    assert findings or parse(text)
    assert time.process_time() - start < RUNAWAY


def test_the_largest_manifest_is_read() -> None:
    """A manifest of exactly the limit is not too large."""
    text = POD + "#" * (MAX_BYTES - len(POD))
    assert parse(text).primary.name == "web"


def test_a_deep_manifest_within_the_limit_is_read() -> None:
    """Depth up to the limit is no fault."""
    depth = 60
    value = value_of("[" * depth + "]" * depth)
    for _ in range(depth - 1):
        (value,) = value
    assert value == []
