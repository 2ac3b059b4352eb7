"""`beectl describe`: a deployment in sections, what most needs a look first. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from beemesh.engine.v1.workload_pb2 import Component, ExitStatus, PortProtocol, Workload, WorkloadState
from beemesh.orchestrator.v1.orchestrator_service_pb2 import Deployment, DeploymentEvent
from beemesh.type.v1.types_pb2 import Condition, ManifestFormat
from google.protobuf.timestamp_pb2 import Timestamp

from services.cli import render
from services.cli.components import labels, short_id

EVENTS_SHOWN = 10


def describe(item: Deployment, events: Sequence[DeploymentEvent], now: float) -> str:
    """All that one would ask about a deployment; `events` are its kept ones, oldest first."""
    sections = [_facts(_summary(item, now))]
    if item.annotations:
        sections.append("Annotations:\n" + _indented(_facts(dict(sorted(item.annotations.items())))))
    sections += [_instance(instance.node_id, instance.workload, now) for instance in item.instances]
    if events:
        sections.append(_events(item.deployment_id, events, now))
    if item.decision.candidates:
        sections.append("Engine choice:\n" + _indented(render.decision(item.decision)))
    if item.attempts:
        sections.append("Attempts:\n" + _indented(_attempts(item, now)))
    return "\n\n".join(sections)


def _summary(item: Deployment, now: float) -> Mapping[str, str]:
    return {
        "Name": item.deployment_id,
        "State": f"{render.state(item)}{': ' + item.state_message if item.state_message else ''}",
        "Error": f"{item.error.reason}: {item.error.message}" if item.HasField("error") else "",
        "Drifted": "yes: what runs is not what was applied; see beectl drift" if item.drifted else "",
        "Changing": "yes" if item.reconciling else "",
        "Engine": render.engines_of(item),
        "Revision": f"{item.revision} (generation {item.generation})",
        "Format": ManifestFormat.Name(item.format).removeprefix("MANIFEST_FORMAT_"),
        "Requested": _room(item),
        "Announced": "yes" if item.announced else "no",
        "Created": _stamp(item.create_time, now),
        "Updated": _stamp(item.update_time, now),
        "Digest": item.canonical_digest,
    }


def _instance(node: str, workload: Workload, now: float) -> str:
    names = labels(workload.components)
    header = ("COMPONENT", "STATE", "READY", "RESTARTS", "LAST EXIT", "AGE", "ID", "IMAGE", "MESSAGE")
    rows = [_component(names[part.component_id], part, now) for part in workload.components]
    facts = {
        "Ports": ", ".join(
            f"{port.host_ip or '*'}:{port.host_port} -> {port.container_port}/{_protocol(port.protocol)}"
            for port in workload.ports
        ),
        "Conditions": "; ".join(_condition(one) for one in workload.conditions if one.status != Condition.STATUS_TRUE),
    }
    body = [render.table(header, rows) if rows else "nothing of it is there", _facts(facts)]
    return "\n".join([f"Workload {workload.workload_id} on node {node}:", *(_indented(part) for part in body if part)])


def _component(name: str, part: Component, now: float) -> tuple[str, ...]:
    return (
        name,
        WorkloadState.Name(part.state).removeprefix("WORKLOAD_STATE_"),
        "" if part.role == Component.ROLE_INIT else "yes" if part.ready else "no",
        str(part.restart_count),
        _exit(part, now),
        render.age(part.start_time, now),
        short_id(part),
        part.image,
        ": ".join(said for said in (part.reason, part.message) if said) or _why(part),
    )


def _last(part: Component) -> ExitStatus | None:
    """Its last run that ended; None: there was none."""
    if part.HasField("exit_status"):
        return part.exit_status
    return part.last_exit if part.HasField("last_exit") else None


def _why(part: Component) -> str:
    """What there is to say of a component that is well: why it was restarted."""
    status = _last(part)
    return f"last run: {status.message}" if status is not None and status.message else ""


def _exit(part: Component, now: float) -> str:
    """How its last run that ended did: `137 OOMKilled 5m ago`."""
    status = _last(part)
    if status is None:
        return ""
    ago = render.age(status.finish_time, now)
    return " ".join(word for word in (str(status.exit_code), status.reason, ago and f"{ago} ago") if word)


def _protocol(number: PortProtocol.ValueType) -> str:
    return PortProtocol.Name(number).removeprefix("PORT_PROTOCOL_").lower()


def _condition(item: Condition) -> str:
    said = ": ".join(part for part in (item.reason, item.message) if part)
    return f"{item.type} {Condition.Status.Name(item.status).removeprefix('STATUS_')}" + (f" ({said})" if said else "")


def _events(name: str, events: Sequence[DeploymentEvent], now: float) -> str:
    shown = events[-EVENTS_SHOWN:]
    rows = [(render.age(one.event_time, now), one.reason, one.message) for one in shown]
    title = "Events:" if len(shown) == len(events) else f"Events (the last {len(shown)}; all: beectl events {name}):"
    return f"{title}\n{_indented(render.table(('AGE', 'REASON', 'MESSAGE'), rows))}"


def _attempts(item: Deployment, now: float) -> str:
    rows = [
        (
            attempt.engine_id,
            attempt.workload_id,
            render.age(attempt.start_time, now),
            f"{attempt.error.reason}: {attempt.error.message}" if attempt.HasField("error") else "ok",
        )
        for attempt in item.attempts
    ]
    return render.table(("ENGINE", "WORKLOAD", "AGE", "OUTCOME"), rows)


def _room(item: Deployment) -> str:
    room = item.requested
    cpu = f"{room.cpu_cores:g} cpu" if room.cpu_cores else ""
    memory = f"{render.size(room.memory_bytes)} memory" if room.memory_bytes else ""
    return ", ".join(part for part in (cpu, memory) if part)


def _stamp(stamp: Timestamp, now: float) -> str:
    return f"{render.moment(stamp)} ({render.age(stamp, now)} ago)" if stamp.seconds else ""


def _facts(facts: Mapping[str, str]) -> str:
    told = {key: value for key, value in facts.items() if value}
    width = max((len(key) for key in told), default=0) + 1
    return "\n".join(f"{key + ':':<{width}} {value}" for key, value in told.items())


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
