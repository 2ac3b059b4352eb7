"""Which processes a node is made of, with which arguments, and in which order they stop. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from services.errors import FieldViolation, InvalidArgument

KNOWN_ENGINES = ("docker", "mock", "podman", "wasm")
"""Engines that a node can be asked to run; each is the module services.engines.<name>."""


class Stage(IntEnum):
    """Who needs whom: a node stops from the highest stage down."""

    REGISTRY = 1
    PROVIDER = 2
    ENGINE = 3
    ORCHESTRATOR = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One service as a process."""

    name: str
    """`registry`, `engine-podman`, …: unique in a node."""
    module: str
    """What `python -m` runs."""
    arguments: tuple[str, ...]
    socket: Path
    """Where it answers, health included."""
    stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a node's services keep what is theirs and meet each other."""

    data_dir: Path
    run_dir: Path
    token_file: Path

    def socket(self, name: str) -> Path:
        """The Unix socket of a service."""
        return self.run_dir / f"{name}.sock"

    def target(self, name: str) -> str:
        """The same as a gRPC target."""
        return f"unix:{self.socket(name)}"


def choose_engines(wanted: str, *, installed: Collection[str]) -> tuple[str, ...]:
    """The engines to run, sorted: those named, or for `auto` those installed (never mock); raises InvalidArgument."""
    if wanted.strip() == "auto":
        return tuple(sorted(set(installed) & set(KNOWN_ENGINES) - {"mock"}))
    names = sorted({name.strip() for name in wanted.split(",") if name.strip()})
    if unknown := [name for name in names if name not in KNOWN_ENGINES]:
        message = f"unknown engine {', '.join(unknown)}; known: {', '.join(KNOWN_ENGINES)}, or auto"
        raise InvalidArgument(
            f"engines: {message}",
            reason="UNKNOWN_ENGINE",
            violations=[FieldViolation(field_path="engines", message=message)],
        )
    return tuple(names)


def plan(layout: Layout, *, engines: Sequence[str], public: str, dht_listen: str) -> tuple[Process, ...]:
    """Every process of the node, in stage order."""
    registry = ("--registry", layout.target("registry"))
    provider = ("--provider", layout.target("provider"))
    return (
        _process(layout, "registry", Stage.REGISTRY),
        _process(layout, "provider", Stage.PROVIDER, "--dht-listen", dht_listen),
        *(_engine(layout, engine, *registry, *provider) for engine in engines),
        _process(
            layout,
            "orchestrator",
            Stage.ORCHESTRATOR,
            *registry,
            *provider,
            *("--public", public),
            *("--token-file", str(layout.token_file)),
        ),
    )


def _engine(layout: Layout, engine: str, *arguments: str) -> Process:
    name = f"engine-{engine}"
    advertise = ("--advertise", layout.target(name))
    return _process(layout, name, Stage.ENGINE, *arguments, *advertise, module=f"services.engines.{engine}")


def _process(layout: Layout, name: str, stage: Stage, *arguments: str, module: str = "") -> Process:
    return Process(
        name=name,
        module=module or f"services.{name}",
        arguments=(
            *("--listen", layout.target(name)),
            *("--data-dir", str(layout.data_dir / name)),
            *arguments,
        ),
        socket=layout.socket(name),
        stage=stage,
    )
