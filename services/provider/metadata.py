"""What an announcement says about a workload and its node: the six keys, checked on the way out, read on the way in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from services.errors import FieldViolation, InvalidArgument
from services.manifests import quantities

T = TypeVar("T")

RUNTIME_ENGINE = "runtime_engine"
WORKLOAD_ID = "workload_id"
NODE_TYPE = "node_type"
CAPABILITIES = "capabilities"
CPU = "resource.cpu"
MEMORY = "resource.memory"
STORAGE = "resource.storage"
"""Not one of the six; read where somebody gives it."""

NODE_TYPE_MACHINE = "beemesh-machine"
ENGINE_ALIASES: Mapping[str, str] = {"qemu": "libvirt", "vm": "libvirt"}

_ENGINE = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")
_WORKLOAD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._]{0,61}[A-Za-z0-9])?")
_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._/]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """Resources; None where they are not known."""

    cpu_cores: float | None = None
    memory_bytes: int | None = None
    storage_bytes: int | None = None

    def each(self) -> tuple[float | None, int | None, int | None]:
        """CPU, memory, storage."""
        return self.cpu_cores, self.memory_bytes, self.storage_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The typed reading of metadata; empty or None where a key is absent or cannot be read."""

    runtime_engine: str
    workload_id: str
    capabilities: tuple[str, ...]
    resources: Amounts


def engine_id(name: str) -> str:
    """The id of an engine that may be called by an alias: `qemu` and `vm` are `libvirt`."""
    return ENGINE_ALIASES.get(name, name)


def facts(metadata: Mapping[str, str]) -> Facts:
    """Read metadata that anyone may have signed: what cannot be understood is absent, never an error."""
    return Facts(
        runtime_engine=metadata.get(RUNTIME_ENGINE, ""),
        workload_id=metadata.get(WORKLOAD_ID, ""),
        capabilities=split_capabilities(metadata.get(CAPABILITIES, "")),
        resources=amounts(metadata),
    )


def amounts(metadata: Mapping[str, str], *, prefix: str = "") -> Amounts:
    """The `resource.*` entries, each under `prefix`."""
    return Amounts(
        cpu_cores=_readable(quantities.cpu, metadata.get(prefix + CPU)),
        memory_bytes=_readable(quantities.memory, metadata.get(prefix + MEMORY)),
        storage_bytes=_readable(quantities.memory, metadata.get(prefix + STORAGE)),
    )


def split_capabilities(text: str) -> tuple[str, ...]:
    """`podman,docker` as a tuple; empty parts are dropped."""
    return tuple(part for raw in text.split(",") if (part := raw.strip()))


def check(metadata: Mapping[str, str]) -> None:
    """Raise InvalidArgument (BAD_METADATA) with one violation per wrong, missing or misspelt entry."""
    found = [
        *_wrong_keys(metadata),
        *_wrong(metadata, RUNTIME_ENGINE, _check_engine),
        *_wrong(metadata, WORKLOAD_ID, _check_workload),
        *_wrong(metadata, NODE_TYPE, _check_node_type),
        *_wrong(metadata, CAPABILITIES, _check_capabilities),
        *_wrong(metadata, CPU, quantities.cpu),
        *_wrong(metadata, MEMORY, quantities.memory),
    ]
    if found:
        refuse(found)


def check_engines(names: Sequence[str], *, field: str) -> None:
    """Raise InvalidArgument unless each name can be an engine's id."""
    found = [
        FieldViolation(field_path=f"{field}[{number}]", message=f"{name[:80]!r} cannot be an engine's id")
        for number, name in enumerate(names)
        if not _ENGINE.fullmatch(name)
    ]
    if found:
        refuse(found)


def refuse(violations: Sequence[FieldViolation]) -> None:
    """Raise InvalidArgument (BAD_METADATA) whose message begins with the first violation."""
    first = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    raise InvalidArgument(
        f"{first.field_path}: {first.message}{more}", reason="BAD_METADATA", violations=list(violations)
    )


def _wrong(metadata: Mapping[str, str], key: str, check_value: Callable[[str], object]) -> list[FieldViolation]:
    path = f"metadata[{key}]"
    if key not in metadata:
        return [FieldViolation(field_path=path, message="is missing; every announcement carries it", reason="REQUIRED")]
    try:
        check_value(metadata[key])
    except ValueError as error:
        return [FieldViolation(field_path=path, message=str(error), reason="BAD_VALUE")]
    return []


def _wrong_keys(metadata: Mapping[str, str]) -> list[FieldViolation]:
    return [
        FieldViolation(
            field_path=f"metadata[{key[:80]}]",
            message="a key has 1 to 63 letters, digits or -._/ and begins and ends with a letter or digit",
            reason="BAD_KEY",
        )
        for key in metadata
        if not _KEY.fullmatch(key)
    ]


def _check_engine(value: str) -> None:
    if value in ENGINE_ALIASES:
        raise ValueError(f"{value!r} is an alias; announce the engine's id {engine_id(value)!r}")
    if not _ENGINE.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is no engine id; expected one such as podman")


def _check_workload(value: str) -> None:
    if not _WORKLOAD.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is no workload id; expected 1 to 63 letters, digits or -._")


def _check_node_type(value: str) -> None:
    if value != NODE_TYPE_MACHINE:
        raise ValueError(f"{value[:80]!r}; expected {NODE_TYPE_MACHINE!r}")


def _check_capabilities(value: str) -> None:
    for part in value.split(",") if value else []:
        _check_engine(part)


def _readable(parse: Callable[[str], T], text: str | None) -> T | None:
    if text is None:
        return None
    try:
        return parse(text)
    except (ValueError, ArithmeticError):  # anyone may have signed it
        return None
