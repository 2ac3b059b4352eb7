"""A manifest's format is told by what it says."""

from __future__ import annotations

import hashlib
import json

import pytest

from services.manifests import Format, canonical_json, digest, format_path, parse, violation
from tests.unit.manifests.samples import (
    CLAIM,
    COMPOSE,
    CONFIG_MAP,
    DEPLOYMENT,
    FUNCTION,
    MACHINE,
    POD,
    SECRET,
    found,
    refused,
    the_violation,
)


@pytest.mark.parametrize(
    ("text", "expected", "kind", "name", "namespace"),
    [
        (POD, Format.KUBERNETES, "Pod", "web", "default"),
        (DEPLOYMENT, Format.KUBERNETES, "Deployment", "shop", "store"),
        (COMPOSE, Format.COMPOSE, "Compose", "", ""),
        ("name: shop\n" + COMPOSE, Format.COMPOSE, "Compose", "shop", ""),
        ("services: {api: {image: a}}", Format.COMPOSE, "Compose", "", ""),
        (MACHINE, Format.VIRTUAL_MACHINE, "VirtualMachine", "ubuntu", "default"),
        (FUNCTION, Format.FUNCTION, "Function", "processor", "default"),
    ],
)
def test_each_format_is_told_by_its_content(text: str, expected: Format, kind: str, name: str, namespace: str) -> None:
    """Format, kind, name and namespace are those of the first document that runs."""
    manifest = parse(text)
    assert (manifest.format, manifest.primary.kind, manifest.name, manifest.namespace) == (
        expected,
        kind,
        name,
        namespace,
    )


def test_several_documents_are_one_manifest() -> None:
    """Documents keep their order, empty ones are skipped, and the primary one is the first that runs."""
    manifest = parse(f"---\n---\n{CONFIG_MAP}---\n# nothing\n---\n{SECRET}---\n{CLAIM}---\n{DEPLOYMENT}---\n{POD}")
    assert manifest.kinds == ("ConfigMap", "Secret", "PersistentVolumeClaim", "Deployment", "Pod")
    assert [document.index for document in manifest.documents] == [0, 1, 2, 3, 4]
    assert manifest.primary.name == "shop"


def test_json_is_a_manifest_too() -> None:
    """JSON says the same as the YAML it was made from."""
    manifest = parse(json.dumps(parse(POD).documents[0].body, indent="\t"))
    assert manifest.canonical_digest == parse(POD).canonical_digest


def test_json_may_escape_characters_beyond_the_basic_plane() -> None:
    """A pair of surrogate escapes is one character, as JSON has it, and an escaped backslash is none."""
    body = json.dumps({"services": {"a": {"image": "x", "labels": ["\U0001f600", "\\ud83d\\ude00", "a/b"]}}})
    assert "\\ud83d\\ude00" in body
    labels = parse(body.replace("a/b", "a\\/b")).primary.body["services"]["a"]["labels"]
    assert labels == ["\U0001f600", "\\ud83d\\ude00", "a/b"]


def test_formats_do_not_mix() -> None:
    """A document of another format is refused where it begins."""
    assert ("[1]", 12, "MIXED_FORMATS") in found(f"{POD}---\n{FUNCTION.replace('wasm', 'podman')}")
    assert ("[1]", 8, "MIXED_FORMATS") in found(f"{COMPOSE}---\n{POD}")


@pytest.mark.parametrize("text", [COMPOSE, MACHINE, FUNCTION])
def test_only_kubernetes_has_several_documents(text: str) -> None:
    """A second Compose file, machine or function in one manifest is refused: it would not be run."""
    other = text.replace("name: ", "name: other-")
    assert [violation.reason for violation in refused(f"{text}---\n{other}").violations] == ["TOO_MANY_DOCUMENTS"]


def test_something_must_run() -> None:
    """Configuration alone is no workload."""
    error = the_violation(f"{CONFIG_MAP}---\n{SECRET}")
    assert (error.field_path, error.line, error.reason) == ("kind", 2, "NO_WORKLOAD")


def test_an_object_is_given_once() -> None:
    """The same kind and name twice is refused, with both lines."""
    error = the_violation(f"{POD}---\n{CONFIG_MAP}---\n{CONFIG_MAP}")
    assert (error.field_path, error.line, error.reason) == ("[2].metadata.name", 22, "DUPLICATE_OBJECT")
    assert "line 15" in error.message


@pytest.mark.parametrize("text", ["", " \n", "---\n---\n", "# nothing\n", "null", "---\n~\n...\n", "\ufeff"])
def test_an_empty_manifest_is_refused(text: str) -> None:
    """Nothing, comments and nulls are no manifest."""
    assert the_violation(text).reason == "MANIFEST_EMPTY"


@pytest.mark.parametrize("text", ["text", "- a", "12", "[]", '"services"'])
def test_a_document_is_a_mapping(text: str) -> None:
    """A document of any other type is refused."""
    assert the_violation(text).reason == "WRONG_TYPE"


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("a: 1", "", "UNKNOWN_FORMAT"),
        ("{}", "", "UNKNOWN_FORMAT"),
        ("x-beemesh: {}", "", "UNKNOWN_FORMAT"),
        ("kind: Pod", "apiVersion", "REQUIRED_FIELD"),
        ("apiVersion: v1", "kind", "REQUIRED_FIELD"),
        ("apiVersion: 1\nkind: Pod", "apiVersion", "WRONG_TYPE"),
        ("apiVersion: v1\nkind: [Pod]", "kind", "WRONG_TYPE"),
        ("apiVersion: v1\nkind: ~", "kind", "WRONG_TYPE"),
        ("apiVersion: v2\nkind: Pod", "apiVersion", "BAD_VALUE"),
        ("apiVersion: v1\nkind: Deployment", "apiVersion", "BAD_VALUE"),
        ("apiVersion: beemesh.io/v2\nkind: Function", "apiVersion", "BAD_VALUE"),
        ("apiVersion: v1\nkind: VirtualMachine", "apiVersion", "BAD_VALUE"),
        ("apiVersion: v1\nkind: Pood", "kind", "UNKNOWN_KIND"),
        ("apiVersion: v1\nkind: ''", "kind", "UNKNOWN_KIND"),
        ("apiVersion: beemesh.io/v1\nkind: Pod", "kind", "UNKNOWN_KIND"),
        ("apiVersion: serving.knative.dev/v1\nkind: Service", "kind", "UNKNOWN_KIND"),
    ],
)
def test_what_nobody_knows_is_refused(text: str, path: str, reason: str) -> None:
    """A document with no known format, kind or version is refused at the field that says so."""
    error = the_violation(text)
    assert (error.field_path, error.reason) == (path, reason)


def test_an_unknown_kind_is_refused_with_its_line_and_the_likely_one() -> None:
    """The message names the kind, the line and what was probably meant."""
    error = the_violation(POD.replace("kind: Pod", "kind: Pood"))
    assert (error.field_path, error.line, error.column, error.reason) == ("kind", 2, 7, "UNKNOWN_KIND")
    assert 'did you mean "Pod"?' in error.message


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("v1", "Service"),
        ("apps/v1", "StatefulSet"),
        ("batch/v1", "Job"),
        ("apps/v1", "DaemonSet"),
        ("batch/v1", "CronJob"),
        ("networking.k8s.io/v1", "Ingress"),
        ("v1", "List"),
    ],
)
def test_a_kind_we_do_not_run_is_refused_beside_a_pod(api_version: str, kind: str) -> None:
    """A known kind that is not supported is never skipped: it is refused with the kinds that are."""
    error = the_violation(f"{POD}---\napiVersion: {api_version}\nkind: {kind}\n")
    assert (error.field_path, error.line, error.reason) == ("[1].kind", 13, "UNSUPPORTED_KIND")
    assert "Pod, Deployment, ConfigMap, Secret, PersistentVolumeClaim" in error.message


def test_every_finding_is_reported_at_once_in_the_order_of_lines() -> None:
    """All documents and all fields are looked at before the manifest is refused."""
    text = POD.replace("image:", "imgae:") + "  restartPolicy: always\n---\n" + CONFIG_MAP.replace('"fast"', "1")
    assert found(text) == [
        ("spec.containers[0].image", 9, "REQUIRED_FIELD"),
        ("spec.containers[0].imgae", 10, "UNKNOWN_FIELD"),
        ("spec.restartPolicy", 11, "BAD_VALUE"),
        ("[1].data.mode", 18, "WRONG_TYPE"),
    ]
    assert refused(text).reason == "MANIFEST_INVALID"


def test_findings_are_bounded() -> None:
    """A manifest with a thousand faults is reported with fifty."""
    assert len(refused(POD + "".join(f"field{number}: 1\n" for number in range(1000))).violations) == 50
    assert len(refused("---\n[]\n" * 1000).violations) == 50


def test_the_content_digest_is_of_the_bytes() -> None:
    """The content digest is the SHA-256 of the text in UTF-8."""
    text = POD + "# ✓\n"
    assert parse(text).content_digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert parse(text).text == text


def test_canonical_json_does_not_depend_on_key_order() -> None:
    """Equal values give equal bytes and so equal digests."""
    assert canonical_json({"b": [1, "é"], "a": None}) == '{"a":null,"b":[1,"é"]}'.encode()
    assert digest(b"") == "sha256:" + hashlib.sha256(b"").hexdigest()


def test_paths_are_written_as_users_write_them() -> None:
    """Indexes stand in brackets, names after dots, other keys in quotes, later documents in front."""
    assert format_path(("spec", "containers", 0, "image")) == "spec.containers[0].image"
    assert format_path(("metadata", "annotations", "beemesh.io/x"), document=1) == (
        '[1].metadata.annotations["beemesh.io/x"]'
    )
    assert format_path(()) == ""
    assert len(format_path(("k" * 1000,))) < 100


def test_an_engine_can_refuse_a_field_by_path_and_line() -> None:
    """`violation` gives the line and column of the value, of its key on request, or of the nearest that exists."""
    document = parse(f"{CONFIG_MAP}---\n{POD}").primary
    image = violation(document, ("spec", "containers", 0, "image"), "not here", "IMAGE_NOT_FOUND")
    assert (image.field_path, image.line, image.column) == ("[1].spec.containers[0].image", 17, 12)
    key = violation(document, ("spec", "containers", 0, "image"), "not here", "IMAGE_NOT_FOUND", at_key=True)
    assert (key.line, key.column) == (17, 5)
    absent = violation(document, ("spec", "containers", 0, "ports", 3, "hostPort"), "not here", "PORT_IN_USE")
    assert (absent.line, absent.column) == (16, 5)


def test_annotations_of_metadata_beat_those_of_the_template() -> None:
    """A Deployment's own annotation counts where its template has another one."""
    template = '    metadata:\n      annotations: {beemesh.io/a: "template", beemesh.io/b: "template", other: "x"}\n'
    text = DEPLOYMENT.replace("    metadata:\n", template).replace(
        "  namespace: store\n", '  annotations: {beemesh.io/a: "own"}\n'
    )
    manifest = parse(text)
    assert manifest.annotations == {"beemesh.io/a": "own", "beemesh.io/b": "template"}
    assert manifest.annotation_source("beemesh.io/b") == (
        manifest.primary,
        ("spec", "template", "metadata", "annotations", "beemesh.io/b"),
    )
    assert manifest.annotation_source("beemesh.io/c") is None


def test_documents_that_disagree_are_refused_with_both_lines() -> None:
    """Two values of one beemesh.io annotation are refused; other annotations may differ."""
    other = POD.replace("name: web", "name: other")
    assert parse(f"{POD}---\n{other}").annotations == {"beemesh.io/runtime-engine": "podman"}
    error = the_violation(f"{POD}---\n{other.replace('podman', 'docker')}")
    assert (error.line, error.reason) == (17, "CONFLICTING_ANNOTATIONS")
    assert error.field_path == '[1].metadata.annotations["beemesh.io/runtime-engine"]'
    assert '"podman" at line 6' in error.message
    assert '"docker" at line 17' in error.message


def test_compose_carries_annotations_in_its_extension() -> None:
    """`x-beemesh` holds the annotations of a Compose file."""
    manifest = parse(COMPOSE + "x-beemesh: {annotations: {beemesh.io/runtime-engine: podman}}\n")
    assert manifest.annotations == {"beemesh.io/runtime-engine": "podman"}
