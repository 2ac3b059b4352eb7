"""Messages as text for people: aligned tables, descriptions, JSON and YAML. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from beemesh.engine.v1.engine_service_pb2 import EngineHealthState
from beemesh.engine.v1.workload_pb2 import Component, PortProtocol, Workload, WorkloadState
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

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart; an empty cell is a dash."""
    lines = [list(header), *([cell or "-" for cell in row] for row in rows)]
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


def deployments(items: Iterable[Deployment], now: float) -> str:
    """One line each."""
    header = ("NAME", "STATE", "ENGINE", "REVISION", "READY", "AGE")
    rows = [
        (
            item.deployment_id,
            state(item),
            engines_of(item),
            str(item.revision),
            _ready(item),
            age(item.create_time, now),
        )
        for item in items
    ]
    return table(header, rows)


def state(item: Deployment) -> str:
    """The state's bare name."""
    return DeploymentState.Name(item.state).removeprefix("DEPLOYMENT_STATE_")


def engines_of(item: Deployment) -> str:
    """The engines that run it, or the one chosen."""
    return ",".join(sorted({instance.engine_id for instance in item.instances})) or item.decision.selected_engine


def _ready(item: Deployment) -> str:
    parts = [part for part in components(item) if part.role != Component.ROLE_INIT]
    return f"{sum(part.ready for part in parts)}/{len(parts)}" if parts else ""


def components(item: Deployment) -> list[Component]:
    """Everything that runs for it, over all its nodes."""
    return [part for instance in item.instances for part in instance.workload.components]


def describe(item: Deployment, now: float) -> str:
    """All that one would ask about a deployment, in sections."""
    facts = {
        "Name": item.deployment_id,
        "State": f"{state(item)}{': ' + item.state_message if item.state_message else ''}",
        "Engine": engines_of(item),
        "Revision": f"{item.revision} (generation {item.generation})",
        "Format": ManifestFormat.Name(item.format).removeprefix("MANIFEST_FORMAT_"),
        "Digest": item.canonical_digest,
        "Announced": "yes" if item.announced else "no",
        "Created": _stamp(item.create_time, now),
        "Updated": _stamp(item.update_time, now),
        "Requested": _room(item),
        "Error": f"{item.error.reason}: {item.error.message}" if item.HasField("error") else "",
    }
    sections = [_facts(facts)]
    if item.annotations:
        sections.append("Annotations:\n" + _indented(_facts(dict(sorted(item.annotations.items())))))
    sections += [_instance(instance.node_id, instance.workload, now) for instance in item.instances]
    if item.decision.candidates:
        sections.append("Engine choice:\n" + _indented(decision(item.decision)))
    if item.attempts:
        sections.append("Attempts:\n" + _indented(_attempts(item, now)))
    return "\n\n".join(sections)


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


def _instance(node: str, workload: Workload, now: float) -> str:
    rows = [
        (
            part.display_name,
            WorkloadState.Name(part.state).removeprefix("WORKLOAD_STATE_"),
            "" if part.role == Component.ROLE_INIT else "yes" if part.ready else "no",
            str(part.replica),
            str(part.restart_count),
            _exit(part, now),
            age(part.start_time, now),
            part.image,
            ": ".join(said for said in (part.reason, part.message) if said),
        )
        for part in workload.components
    ]
    header = ("COMPONENT", "STATE", "READY", "REPLICA", "RESTARTS", "LAST EXIT", "AGE", "IMAGE", "MESSAGE")
    lines = [f"Workload {workload.workload_id} on node {node}:", _indented(table(header, rows))]
    for port in workload.ports:
        protocol = PortProtocol.Name(port.protocol).removeprefix("PORT_PROTOCOL_").lower()
        lines.append(f"  port {port.host_ip or '*'}:{port.host_port} -> {port.container_port}/{protocol}")
    return "\n".join(lines)


def _exit(part: Component, now: float) -> str:
    """How its last run that ended did: `137 OOMKilled 5m`."""
    if not (part.HasField("exit_status") or part.HasField("last_exit")):
        return ""
    status = part.exit_status if part.HasField("exit_status") else part.last_exit
    return " ".join(word for word in (str(status.exit_code), status.reason, age(status.finish_time, now)) if word)


def _attempts(item: Deployment, now: float) -> str:
    rows = [
        (
            attempt.engine_id,
            attempt.workload_id,
            age(attempt.start_time, now),
            f"{attempt.error.reason}: {attempt.error.message}" if attempt.HasField("error") else "ok",
        )
        for attempt in item.attempts
    ]
    return table(("ENGINE", "WORKLOAD", "AGE", "OUTCOME"), rows)


def _room(item: Deployment) -> str:
    room = item.requested
    cpu = f"{room.cpu_cores:g} cpu" if room.HasField("cpu_cores") else ""
    memory = f"{room.memory_bytes / 2**20:.0f} MiB memory" if room.HasField("memory_bytes") else ""
    return ", ".join(part for part in (cpu, memory) if part)


def _stamp(stamp: Timestamp, now: float) -> str:
    return f"{stamp.ToJsonString()} ({age(stamp, now)} ago)" if stamp.seconds else ""


def _facts(facts: Mapping[str, str]) -> str:
    width = max(len(key) for key in facts) + 1
    return "\n".join(f"{key + ':':<{width}} {value}" for key, value in facts.items() if value)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def formatted(data: Any, output: str) -> str:
    """The data as `json` or `yaml`."""
    return as_json(data) if output == "json" else as_yaml(data)
