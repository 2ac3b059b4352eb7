"""Reads a manifest: text in, a checked `Manifest` out, or one error that lists all that is wrong with it."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence

from services.errors import FieldViolation
from services.manifests import beemesh, bodies, compose, directives, kubernetes, schemas, tree
from services.manifests.documents import (
    DEFAULT_NAMESPACE,
    Document,
    Format,
    Manifest,
    canonical_json,
    digest,
    violation,
)
from services.manifests.findings import Findings, refusal, shorten
from services.manifests.lookup import strings_at, text_at
from services.manifests.paths import Path

_CHECKS: Mapping[Format, Callable[[Document, Findings], None]] = {
    Format.KUBERNETES: kubernetes.check,
    Format.COMPOSE: compose.check,
    Format.VIRTUAL_MACHINE: beemesh.check,
    Format.FUNCTION: beemesh.check,
}
_BEEMESH_FORMATS = {"VirtualMachine": Format.VIRTUAL_MACHINE, "Function": Format.FUNCTION}
_SUPPORTED = "Pod, Deployment, ConfigMap, Secret, PersistentVolumeClaim, VirtualMachine, Function and Compose files"


def parse(text: str, *, name_required: bool = False) -> Manifest:
    """Reads, detects the format of and checks a manifest in YAML or JSON.

    `name_required`: nobody else names what it describes, so a Compose file without `name:` is refused too.
    Raises InvalidArgument whose violations have path, line and column, at most 50 of them, and whose reason is
    theirs if they share one (MANIFEST_TOO_LARGE, MANIFEST_SYNTAX, UNKNOWN_FIELD, …), else MANIFEST_INVALID.
    """
    roots = tree.read(text)
    if not roots:
        message = "the manifest is empty"
        raise refusal(FieldViolation(field_path="", message=message, reason="MANIFEST_EMPTY", line=1, column=1))
    findings = Findings()
    formats, documents = _read_documents(roots, findings)
    findings.raise_if_any()
    _check_together(formats, documents, findings)
    for document_format, document in zip(formats, documents, strict=True):
        if findings.full:
            break
        _CHECKS[document_format](document, findings)
        directives.check(document, findings)
        if name_required and document_format is Format.COMPOSE and document.body.get("name") is None:
            message = "a deployment_id is needed: this Compose file has no name"
            findings.add(violation(document, ("name",), message, "DEPLOYMENT_ID_REQUIRED"))
    annotations = _merge_annotations(documents, findings)
    findings.raise_if_any()
    return Manifest(
        text=text,
        format=formats[0],
        documents=tuple(documents),
        content_digest=digest(text.encode()),
        canonical_digest=digest(canonical_json([document.body for document in documents])),
        annotations=annotations,
    )


def _read_documents(roots: Sequence[tree.Node], findings: Findings) -> tuple[list[Format], list[Document]]:
    formats: list[Format] = []
    documents: list[Document] = []
    for index, root in enumerate(roots):
        if findings.full:
            break
        if root.mapping is None:
            findings.add(violation(_head(index, root), (), "a document must be a mapping", "WRONG_TYPE"))
        elif document_format := _detect(_head(index, root), findings):
            formats.append(document_format)
            documents.append(_document(index, root, document_format))
    return formats, documents


def _head(index: int, root: tree.Node) -> Document:
    """As much of a document as tells its format: the body holds the top-level fields only."""
    body = {key: child.value for key, child in (root.mapping or {}).items()}
    return Document(
        index=index, api_version="", kind="", namespace="", name="", labels={}, annotations={}, body=body, root=root
    )


def _document(index: int, root: tree.Node, document_format: Format) -> Document:
    if document_format is Format.COMPOSE:
        body = bodies.verbatim(root)
        kind, name, namespace, annotations = "Compose", text_at(body, ("name",)), "", ("x-beemesh", "annotations")
    else:
        body = bodies.kubernetes(root) if document_format is Format.KUBERNETES else bodies.pruned(root)
        kind, name = str(body["kind"]), text_at(body, ("metadata", "name"))
        namespace = text_at(body, ("metadata", "namespace")) or DEFAULT_NAMESPACE
        annotations = ("metadata", "annotations")
    return Document(
        index=index,
        api_version=text_at(body, ("apiVersion",)) or "",
        kind=kind,
        namespace=namespace,
        name=name or "",
        labels=strings_at(body, ("metadata", "labels")),
        annotations=strings_at(body, annotations),
        body=body,
        root=root,
    )


def _detect(document: Document, findings: Findings) -> Format | None:
    """The document's format, or None after adding a finding."""
    body = document.body
    if "apiVersion" not in body and "kind" not in body:
        if "services" in body:
            return Format.COMPOSE
        message = "neither Kubernetes (apiVersion and kind) nor Compose (services)"
        findings.add(violation(document, (), message, "UNKNOWN_FORMAT"))
        return None
    for field in ("apiVersion", "kind"):
        if not isinstance(body.get(field), str):
            missing = field not in body
            message = f'required field "{field}" is missing' if missing else "must be text"
            findings.add(violation(document, (field,), message, "REQUIRED_FIELD" if missing else "WRONG_TYPE"))
            return None
    return _detect_kind(document, body["apiVersion"], body["kind"], findings)


def _detect_kind(document: Document, api_version: str, kind: str, findings: Findings) -> Format | None:
    known: dict[str, list[str]] = schemas.load(kubernetes.SCHEMA)["kinds"]
    group = api_version.rpartition("/")[0]
    path: Path = ("kind",)
    if group == "beemesh.io" or kind in beemesh.KINDS:
        versions = [beemesh.API_VERSION] if kind in beemesh.KINDS else []
    else:
        versions = known.get(kind, []) if group in _groups() else []
    if not versions:
        near = difflib.get_close_matches(kind, [*kubernetes.KINDS, *beemesh.KINDS], n=1, cutoff=0.7)
        hint = f'did you mean "{near[0]}"? ' if near and len(kind) < 80 else ""
        message = f"unknown kind {shorten(kind)} of {shorten(api_version)}; {hint}Supported are {_SUPPORTED}"
        reason = "UNKNOWN_KIND"
    elif kind not in kubernetes.KINDS and kind not in beemesh.KINDS:
        message = f"kind {shorten(kind)} is not supported; supported are {_SUPPORTED}"
        reason = "UNSUPPORTED_KIND"
    elif api_version not in versions:
        path = ("apiVersion",)
        message, reason = f"{kind} has apiVersion {' or '.join(versions)}, is {shorten(api_version)}", "BAD_VALUE"
    else:
        return _BEEMESH_FORMATS.get(kind, Format.KUBERNETES)
    findings.add(violation(document, path, message, reason))
    return None


@functools.cache
def _groups() -> frozenset[str]:
    """The API groups that Kubernetes has."""
    known: dict[str, list[str]] = schemas.load(kubernetes.SCHEMA)["kinds"]
    return frozenset(version.rpartition("/")[0] for versions in known.values() for version in versions)


def _check_together(formats: Sequence[Format], documents: Sequence[Document], findings: Findings) -> None:
    """What holds between documents: one format, something that runs, no object twice."""
    first = documents[0]
    seen: dict[tuple[str, str, str], Document] = {}
    for document_format, document in zip(formats, documents, strict=True):
        if document_format is not formats[0]:
            line = first.position(()).line
            message = f"{document.kind} cannot stand in one manifest with {first.kind} (line {line}): formats differ"
            findings.add(violation(document, (), message, "MIXED_FORMATS"))
        elif document is not first and document_format is not Format.KUBERNETES:
            message = f"a manifest holds one {document.kind}; apply each by itself"
            findings.add(violation(document, (), message, "TOO_MANY_DOCUMENTS"))
        key = (document.kind, document.namespace, document.name)
        twin = seen.setdefault(key, document)
        if twin is not document and document.name:
            line = twin.position(("metadata", "name")).line
            message = f"{document.kind} {shorten(document.name)} is given twice: first at line {line}"
            findings.add(violation(document, ("metadata", "name"), message, "DUPLICATE_OBJECT"))
    if not any(document.is_workload for document in documents):
        message = "nothing here runs: a manifest needs a Pod or a Deployment"
        findings.add(violation(first, ("kind",), message, "NO_WORKLOAD"))


def _merge_annotations(documents: Sequence[Document], findings: Findings) -> dict[str, str]:
    merged: dict[str, str] = {}
    owners: dict[str, Document] = {}
    for document in documents:
        for key, value in document.beemesh_annotations().items():
            owner = owners.setdefault(key, document)
            if merged.setdefault(key, value) != value and not findings.full:
                path = document.annotation_source(key) or ()
                lines = owner.position(owner.annotation_source(key) or ()).line, document.position(path).line
                message = (
                    f"the documents disagree: {shorten(merged[key])} at line {lines[0]}, "
                    f"{shorten(value)} at line {lines[1]}"
                )
                findings.add(violation(document, path, message, "CONFLICTING_ANNOTATIONS"))
    return merged
