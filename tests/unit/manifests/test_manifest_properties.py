"""Whatever the text, reading it ends in a manifest or in one clear error; digests and positions can be trusted."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from services.errors import FieldViolation, InvalidArgument
from services.manifests import MAX_FINDINGS, parse
from services.manifests.resources import container_limits, requested
from tests.unit.manifests.samples import DEPLOYMENT, POD, VALID, refused

FRAGMENTS = (
    *"[]{}:,-?&*!|>'\"%@`#~<\n\t ",
    "\n  - ", ": ", "&a ", "*a", "<<: ", "---\n", "!!int ", "null", "0x", "1e9", ".inf", "\\u0000", "\ufeff", "\x85",
    "\u2028", "status: {}", "- - - ", "apiVersion: v1", "kind: Pod", "services: ", "metadata: ", "spec: ", "$", "é",
)  # fmt: skip

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(categories=("L", "Nd", "P")), max_size=6), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


def read(text: str) -> None:
    """Reads a manifest and asks all there is to ask; only InvalidArgument with well-formed findings may come out."""
    findings: tuple[FieldViolation, ...] = ()
    try:
        manifest = parse(text)
        requested(manifest)
        for document in manifest.documents:
            container_limits(document)
    except InvalidArgument as error:
        findings = error.violations or (FieldViolation(field_path="", message="", reason="none"),)
    assert len(findings) <= MAX_FINDINGS
    lines = len(text.splitlines())
    for found in findings:
        assert found.message
        assert found.reason.isupper()
        assert 0 <= found.line <= lines + 2


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Arbitrary text, lone surrogates and control characters included, raises nothing but InvalidArgument."""
    read(text)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40))
def test_any_sequence_of_yaml_is_read_or_refused(fragments: list[str]) -> None:
    """Arbitrary sequences of YAML's own signs raise nothing but InvalidArgument."""
    read("".join(fragments))


@given(st.sampled_from(VALID), st.data())
def test_a_mutated_manifest_is_read_or_refused(text: str, data: st.DataObject) -> None:
    """Cutting, doubling and inserting anywhere in a manifest raises nothing but InvalidArgument."""
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 20)))
        inserted = data.draw(st.sampled_from(FRAGMENTS) | st.just(text[start:end] * 2) | st.just(""))
        text = text[:start] + inserted + text[end:]
    read(text)


def paths_of(value: Any) -> list[tuple[str | int, ...]]:
    """Every path in a value, its own empty one included."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [(), *((step, *path) for step, child in items for path in paths_of(child))]


@given(st.sampled_from(VALID), JSON, st.data())
def test_any_value_anywhere_is_read_or_refused(text: str, value: object, data: st.DataObject) -> None:
    """Replacing any field by any value raises nothing but InvalidArgument."""
    documents = list(yaml.safe_load_all(text))
    document = data.draw(st.sampled_from(documents))
    path = data.draw(st.sampled_from(paths_of(document)[1:]))
    target = document
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    read("\n---\n".join(json.dumps(each) for each in documents))


def shuffled(value: Any, chance: random.Random) -> Any:
    """The value with the keys of each mapping in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(child, chance)) for key, child in value.items()]
        chance.shuffle(items)
        return dict(items)
    return [shuffled(child, chance) for child in value] if isinstance(value, list) else value


@given(st.sampled_from(VALID), st.randoms(use_true_random=False), st.sampled_from([None, "'", '"']), st.booleans())
def test_the_canonical_digest_ignores_layout(text: str, chance: random.Random, quote: str | None, flow: bool) -> None:
    """Key order, quoting, flow style and comments change the content digest only."""
    documents = [shuffled(document.body, chance) for document in parse(text).documents]
    again = "# another text\n" + "".join(
        yaml.safe_dump(each, sort_keys=False, default_style=quote, default_flow_style=flow, explicit_start=True)
        for each in documents
    )
    assert parse(again).canonical_digest == parse(text).canonical_digest
    assert parse(again).content_digest != parse(text).content_digest


@given(st.data())
def test_the_canonical_digest_changes_with_any_value(data: st.DataObject) -> None:
    """Two values that differ anywhere in a Compose service give two digests."""
    first, second = data.draw(JSON), data.draw(JSON)
    digests = [parse(json.dumps({"services": {"a": {"x": value}}})).canonical_digest for value in (first, second)]
    assert (digests[0] == digests[1]) == (json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True))


@given(JSON)
def test_json_is_read_as_it_is(value: object) -> None:
    """Whatever JSON holds, the body holds too, with the same types."""
    body = parse(json.dumps({"services": {"a": {"x": value}}})).primary.body
    assert json.dumps(body["services"]["a"]["x"]) == json.dumps(value)


@pytest.mark.parametrize("text", [POD, DEPLOYMENT])
def test_every_position_points_at_its_value(text: str) -> None:
    """The text at a scalar's position starts with that scalar, the one at a key's position with the key."""
    document = parse(text).primary
    lines = text.splitlines()
    for path in paths_of(document.body)[1:]:
        value: Any = document.body
        for step in path:
            value = value[step]
        line, column = document.position(path)
        if not isinstance(value, dict | list):
            assert lines[line - 1][column - 1 :].lstrip('"').startswith(str(value))
        if isinstance(path[-1], str):
            line, column = document.key_position(path)
            assert lines[line - 1][column - 1 :].startswith(f"{path[-1]}:")


@settings(max_examples=50)
@given(st.integers(1, 300), st.sampled_from(["é", "\U0001f600", "x"]))
def test_a_fault_after_any_lines_is_reported_at_its_own(lines: int, filler: str) -> None:
    """Comments and characters of any width before a fault do not shift its line or column."""
    text = POD.replace("    image: nginx", f"{'# ' + filler + chr(10)}" * lines + f"    env: [{{name: {filler * 3}}}]\n"
                       "    image: nginx") + f"    args: ['{filler}', 1]\n"  # fmt: skip
    violation = refused(text).violations[-1]
    assert (violation.field_path, violation.line) == ("spec.containers[0].args[1]", 12 + lines)
    assert violation.column == 17
