"""Messages as text for people: aligned tables, JSON and YAML. Pure."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

from beemesh.engine.v1.engine_service_pb2 import EngineHealthState
from beemesh.engine.v1.workload_pb2 import Component
from beemesh.orchestrator.v1.orchestrator_service_pb2 import (
    Deployment,
    DeploymentState,
    EngineCandidate,
    EngineDecision,
    SelectionStage,
)
from beemesh.provider.v1.provider_service_pb2 import Provider
from beemesh.registry.v1.registry_service_pb2 import Engine
from beemesh.type.v1.types_pb2 import ManifestFormat
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.cli.components import components, labels

_PREFERRED = (
    SelectionStage.SELECTION_STAGE_REQUEST,
    SelectionStage.SELECTION_STAGE_ANNOTATION,
    SelectionStage.SELECTION_STAGE_FORMAT,
)
"""The stages at which an engine is asked for, or meant."""
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart; an empty cell is a dash, a line break a space."""
    lines = [list(header), *([" ".join(cell.splitlines()) or "-" for cell in row] for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def as_data(message: Message) -> Any:
    """The message in protobuf's JSON shape."""
    return MessageToDict(message)


def as_json(data: Any) -> str:
    """Indented JSON."""
    return json.dumps(data, indent=2, ensure_ascii=False)


def as_yaml(data: Any) -> str:
    """YAML, in the order of the fields."""
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip("\n")


def age(stamp: Timestamp, now: float) -> str:
    """How long ago, in the one or two largest units: 42s, 5m, 3h20m, 2d; empty when unset."""
    if not stamp.seconds:
        return ""
    seconds = max(0, int(now - stamp.seconds))
    for index, (size, unit) in enumerate(_UNITS):
        if seconds >= size:
            smaller = _UNITS[index + 1] if index + 1 < len(_UNITS) else None
            rest = seconds % size // smaller[0] if smaller else 0
            return f"{seconds // size}{unit}" + (f"{rest}{smaller[1]}" if smaller and rest else "")
    return f"{seconds}s"


def moment(stamp: Timestamp) -> str:
    """UTC, to the second; empty when unset."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stamp.seconds)) if stamp.seconds else ""


def size(count: int) -> str:
    """Bytes in the unit that suits: 512 B, 3.4 MiB, 12 GiB."""
    unit = next((index for index in (4, 3, 2, 1) if abs(count) >= 1 << 10 * index), 0)
    amount = count / (1 << 10 * unit)
    return f"{amount:.1f}".removesuffix(".0") + f" {_SIZES[unit]}" if amount < 100 else f"{amount:.0f} {_SIZES[unit]}"


def deployments(items: Iterable[Deployment], now: float) -> str:
    """One line each."""
    header = ("NAME", "STATE", "ENGINE", "READY", "RESTARTS", "REVISION", "AGE")
    rows = [(item.deployment_id, *standing(item), str(item.revision), age(item.create_time, now)) for item in items]
    return table(header, rows)


def standing(item: Deployment) -> tuple[str, str, str, str]:
    """State, engine, how many components are ready of how many, and their restarts; init containers do not count."""
    parts = [part for part in components(item) if part.role != Component.ROLE_INIT]
    ready = f"{sum(part.ready for part in parts)}/{len(parts)}" if parts else ""
    restarts = str(sum(part.restart_count for part in parts)) if parts else ""
    return state(item), engines_of(item), ready, restarts


def short(name: str) -> str:
    """The id in `deployments/ID`, or as it is."""
    return name.removeprefix("deployments/")


def state(item: Deployment) -> str:
    """The state's bare name."""
    return DeploymentState.Name(item.state).removeprefix("DEPLOYMENT_STATE_")


def unsettled(item: Deployment) -> str:
    """Why it is not yet as it should be: its state, what each component that is not well says, and where to look."""
    parts = components(item)
    names = labels(parts)
    said = {names[part.component_id]: ": ".join(word for word in (part.reason, part.message) if word) for part in parts}
    why = [f"  {name}: {words}" for name, words in said.items() if words]
    state_line = f"  it is {state(item)}" + (f": {item.state_message}" if item.state_message and not why else "")
    return "\n".join([state_line, *why, f"  it goes on; see: beectl describe {item.deployment_id}"])


def engines_of(item: Deployment) -> str:
    """The engines that run it, or the one chosen."""
    return ",".join(sorted({instance.engine_id for instance in item.instances})) or item.decision.selected_engine


def decision(item: EngineDecision) -> str:
    """Each candidate with its verdict and why."""
    rows = [
        (
            candidate.engine_id,
            EngineCandidate.Verdict.Name(candidate.verdict).removeprefix("VERDICT_"),
            SelectionStage.Name(candidate.stage).removeprefix("SELECTION_STAGE_"),
            candidate.reason,
            candidate.message,
        )
        for candidate in item.candidates
    ]
    return table(("ENGINE", "VERDICT", "STAGE", "REASON", "MESSAGE"), rows)


def passed_over(item: EngineDecision) -> list[str]:
    """Why an engine that was named, or is the format's own, was not taken; empty where it was."""
    found: list[str] = []
    for candidate in item.candidates:
        if candidate.verdict == EngineCandidate.VERDICT_SELECTED:
            return found
        if candidate.stage in _PREFERRED:
            found.append(f"{candidate.engine_id} was passed over: {candidate.reason}: {candidate.message}")
    return []


def engines(items: Iterable[Engine], default: str) -> str:
    """One line each; the default engine has a star."""
    header = ("ENGINE", "AVAILABILITY", "HEALTH", "BACKEND", "FORMATS", "REASON")
    return table(header, [_engine_row(item, default) for item in items])


def _engine_row(item: Engine, default: str) -> tuple[str, ...]:
    formats = [ManifestFormat.Name(number).removeprefix("MANIFEST_FORMAT_") for number in item.info.formats]
    return (
        item.engine_id + ("*" if item.engine_id == default else ""),
        Engine.Availability.Name(item.availability).removeprefix("AVAILABILITY_")
        + (",CORDONED" if item.cordoned else ""),
        EngineHealthState.Name(item.health.state).removeprefix("ENGINE_HEALTH_STATE_"),
        item.info.backend_version,
        ",".join(formats),
        ": ".join(part for part in (item.availability_reason, item.health.message) if part),
    )


def providers(items: Iterable[Provider], now: float) -> str:
    """One line each, best first as they came."""
    header = ("NODE", "ENGINE", "WORKLOAD", "CAPABILITIES", "CPU", "MEMORY", "WHERE", "SEEN")
    rows = [
        (
            item.node_id,
            item.runtime_engine,
            item.workload_id,
            item.metadata.get("capabilities", ""),
            item.metadata.get("resource.cpu", ""),
            item.metadata.get("resource.memory", ""),
            Provider.Locality.Name(item.locality).removeprefix("LOCALITY_").lower(),
            age(item.last_seen_time, now),
        )
        for item in items
    ]
    return table(header, rows)


def formatted(data: Any, output: str) -> str:
    """The data as `json` or `yaml`."""
    return as_json(data) if output == "json" else as_yaml(data)
