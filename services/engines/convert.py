"""Between the engine's words and beemesh.engine.v1: translation and the checks of single fields, nothing else."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Mapping, Sequence

from beemesh.engine.v1 import engine_service_pb2 as pb
from beemesh.engine.v1 import workload_pb2 as wpb
from beemesh.type.v1 import types_pb2 as tpb

from services.engines.conditions import Condition
from services.engines.engine import (
    Component,
    ComponentStats,
    Config,
    ExitStatus,
    Export,
    Info,
    Issue,
    LogLine,
    LogQuery,
    LogSource,
    PortMapping,
    Resources,
    WorkloadState,
)
from services.engines.monitor import HealthStatus
from services.engines.planner import Plan
from services.engines.records import Record
from services.engines.view import Workload
from services.errors import FieldViolation, InvalidArgument
from services.manifests import Format, digest
from services.rpc.convert import from_duration, from_timestamp, timestamp
from services.rpc.watch import Event

REPLICAS_MAX = 1000

_LINES_PER_MESSAGE = 1000
_BYTES_PER_MESSAGE = 1 << 20

_FORMATS: Mapping[Format, tpb.ManifestFormat.ValueType] = {
    Format.KUBERNETES: tpb.MANIFEST_FORMAT_KUBERNETES,
    Format.COMPOSE: tpb.MANIFEST_FORMAT_COMPOSE,
    Format.VIRTUAL_MACHINE: tpb.MANIFEST_FORMAT_VIRTUAL_MACHINE,
    Format.FUNCTION: tpb.MANIFEST_FORMAT_FUNCTION,
}
_PROTOCOLS = {"TCP": wpb.PORT_PROTOCOL_TCP, "UDP": wpb.PORT_PROTOCOL_UDP}


def bad_field(path: str, message: str) -> InvalidArgument:
    """The error for one bad field of a request."""
    return InvalidArgument(
        f"{path} {message}", reason="BAD_FIELD", violations=[FieldViolation(field_path=path, message=message)]
    )


def require(value: str, path: str) -> str:
    """Return `value` if it is set; raise InvalidArgument naming the field otherwise."""
    if not value:
        raise bad_field(path, "is required")
    return value


# From the wire


def format_from(value: tpb.ManifestFormat.ValueType, *, field: str = "manifest.format") -> Format | None:
    """The format named in a request; None: none is."""
    if value == tpb.MANIFEST_FORMAT_UNSPECIFIED:
        return None
    for format_, number in _FORMATS.items():
        if number == value:
            return format_
    raise bad_field(field, f"is no known format: {value}")


def lenient_from(mode: tpb.ValidationMode.ValueType, *, field: str) -> bool:
    """Whether fields that the engine would drop are only reported."""
    if mode not in tpb.ValidationMode.values():
        raise bad_field(field, f"is no known mode: {mode}")
    return mode == tpb.VALIDATION_MODE_WARN


def config_from(config: wpb.DeploymentConfig) -> Config:
    """The deployment config; raises InvalidArgument naming the field."""
    replicas = config.replicas if config.HasField("replicas") else None
    if replicas is not None and not 0 <= replicas <= REPLICAS_MAX:
        raise bad_field("config.replicas", f"must be between 0 and {REPLICAS_MAX}, not {replicas}")
    for name, value in config.env.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise bad_field("config.env", f"has {name!r}: a name is not empty and has no '=', and nothing has a NUL")
    return Config(
        replicas=replicas,
        resources=_resources_from(config.resources),
        env=dict(config.env),
        engine_options=dict(config.engine_options),
        labels=dict(config.labels),
    )


def _resources_from(resources: tpb.Resources) -> Resources:
    given = Resources(
        cpu_cores=resources.cpu_cores if resources.HasField("cpu_cores") else None,
        memory_bytes=resources.memory_bytes if resources.HasField("memory_bytes") else None,
        storage_bytes=resources.storage_bytes if resources.HasField("storage_bytes") else None,
    )
    for name in ("cpu_cores", "memory_bytes", "storage_bytes"):
        value = getattr(given, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise bad_field(f"config.resources.{name}", f"must be a number that is not negative, not {value}")
    return given


def log_query_from(request: pb.StreamWorkloadLogsRequest) -> LogQuery:
    """Which lines are wanted; raises InvalidArgument naming the field."""
    tail = request.tail_lines if request.HasField("tail_lines") else None
    if tail is not None and tail < 0:
        raise bad_field("tail_lines", f"must not be negative, not {tail}")
    return LogQuery(
        component_id=request.component_id,
        follow=request.follow,
        tail_lines=tail,
        since_time=from_timestamp(request.since_time) if request.HasField("since_time") else None,
        resume_cursor=request.resume_cursor,
        sources=frozenset(_source_from(source) for source in request.sources),
    )


def _source_from(source: pb.LogSource.ValueType) -> LogSource:
    try:
        return LogSource(source)
    except ValueError:
        raise bad_field("sources", f"has no known source: {source}") from None


def states_from(states: Sequence[wpb.WorkloadState.ValueType]) -> frozenset[WorkloadState]:
    """The states asked for; raises InvalidArgument for one that does not exist."""
    try:
        return frozenset(WorkloadState(state) for state in states)
    except ValueError as error:
        raise bad_field("states", f"has no known state: {error}") from None


def grace_from(request: pb.StopWorkloadRequest | pb.RestartWorkloadRequest | pb.RemoveWorkloadRequest) -> float | None:
    """The grace period in seconds; None: the manifest's. Raises InvalidArgument."""
    if not request.HasField("grace_period"):
        return None
    return from_duration(request.grace_period, field="grace_period", high=86_400.0)


def signal_from(name: str) -> str:
    """A signal by its name, with SIG in front; empty: none is named. Raises InvalidArgument."""
    full = name if not name or name.startswith("SIG") else f"SIG{name}"
    if full and full not in signal.Signals.__members__:
        raise bad_field("signal", f"is no known signal: {name[:20]!r}")
    return full


# To the wire


def format_to(format_: Format | None) -> tpb.ManifestFormat.ValueType:
    """The number of a format."""
    return tpb.MANIFEST_FORMAT_UNSPECIFIED if format_ is None else _FORMATS[format_]


def config_to(config: Config) -> wpb.DeploymentConfig:
    """The config as it was given."""
    message = wpb.DeploymentConfig(
        replicas=config.replicas, env=config.env, engine_options=config.engine_options, labels=config.labels
    )
    if config.resources != Resources():
        message.resources.CopyFrom(resources_to(config.resources))
    return message


def resources_to(resources: Resources) -> tpb.Resources:
    """Room; what is not said stays unset."""
    return tpb.Resources(
        cpu_cores=resources.cpu_cores, memory_bytes=resources.memory_bytes, storage_bytes=resources.storage_bytes
    )


def manifest_to(record: Record) -> tpb.Manifest:
    """The manifest exactly as it was deployed."""
    return tpb.Manifest(
        content=record.manifest or "",
        format=format_to(record.format),
        content_digest=record.content_digest,
        canonical_digest=record.manifest_digest,
    )


def issue_to(issue: Issue) -> tpb.ManifestIssue:
    """One finding."""
    return tpb.ManifestIssue(
        severity=tpb.IssueSeverity.ValueType(issue.severity),
        field_path=issue.field_path,
        reason=issue.reason,
        message=issue.message,
        line=issue.line,
        column=issue.column,
    )


def plan_to(plan: Plan) -> pb.PlanWorkloadResponse:
    """What a deploy would do."""
    return pb.PlanWorkloadResponse(
        action=tpb.ChangeAction.ValueType(plan.action),
        changes=[
            tpb.PlannedChange(
                action=tpb.ChangeAction.ValueType(change.action),
                target=change.target,
                field_path=change.field_path,
                old_value=change.old_value,
                new_value=change.new_value,
                forces=change.forces,
            )
            for change in plan.changes
        ],
        issues=[issue_to(issue) for issue in plan.issues],
        etag=plan.etag,
    )


def export_to(record: Record, export: Export) -> pb.ExportManifestResponse:
    """A manifest that was written from what runs."""
    manifest = tpb.Manifest(
        content=export.text, format=format_to(record.format), content_digest=digest(export.text.encode())
    )
    return pb.ExportManifestResponse(manifest=manifest, issues=[issue_to(issue) for issue in export.issues])


def stats_to(sample: ComponentStats) -> pb.ComponentStats:
    """One sample; what is not measured stays unset."""
    return pb.ComponentStats(
        component_id=sample.component_id,
        sample_time=timestamp(sample.sample_time),
        cpu_cores=sample.cpu_cores,
        memory_bytes=sample.memory_bytes,
        network_rx_bytes=sample.network_rx_bytes,
        network_tx_bytes=sample.network_tx_bytes,
    )


def info_to(info: Info, *, instance_id: str, capacity: Resources) -> pb.EngineInfo:
    """Identity and capabilities; the whole machine is allocatable, the room ledger is not the engine's."""
    return pb.EngineInfo(
        engine=info.engine,
        display_name=info.display_name,
        engine_version=info.engine_version,
        backend_version=info.backend_version,
        api_version=info.api_version,
        capabilities=[pb.EngineCapability.ValueType(capability) for capability in sorted(info.capabilities)],
        formats=sorted(format_to(format_) for format_ in info.formats),
        kinds=info.kinds,
        capacity=resources_to(capacity),
        allocatable=resources_to(capacity),
        instance_id=instance_id,
        aliases=info.aliases,
    )


def health_to(status: HealthStatus, *, unreadable_records: Mapping[str, str]) -> pb.EngineHealth:
    """Health, with the records that cannot be read among its attributes."""
    attributes = dict(status.health.attributes)
    if unreadable_records:
        attributes["unreadable_records"] = ",".join(sorted(unreadable_records))
    return pb.EngineHealth(
        state=pb.EngineHealthState.ValueType(status.health.state),
        reason=status.health.reason,
        message=status.health.message,
        last_transition_time=timestamp(status.last_transition_time),
        last_probe_time=timestamp(status.last_probe_time),
        flap_count=status.flap_count,
        attributes=attributes,
    )


def workload_to(workload: Workload, *, engine: str) -> wpb.Workload:
    """One workload."""
    message = wpb.Workload(
        name=f"engines/{engine}/workloads/{workload.workload_id}",
        workload_id=workload.workload_id,
        uid=workload.uid,
        manifest_id=workload.manifest_id,
        engine=engine,
        state=wpb.WorkloadState.ValueType(workload.state),
        state_message=workload.state_message,
        components=[_component_to(component) for component in workload.components],
        ports=[_port_to(port) for port in workload.ports],
        metadata=workload.metadata,
        manifest_digest=workload.manifest_digest,
        runtime_digest=workload.runtime_digest,
        generation=workload.generation,
        reconciling=workload.reconciling,
        create_time=timestamp(workload.create_time),
        update_time=timestamp(workload.update_time),
        observe_time=timestamp(workload.observe_time),
        etag=workload.etag,
        conditions=[_condition_to(condition) for condition in workload.conditions],
    )
    if workload.details:
        message.engine_details.update(dict(workload.details))  # type: ignore[arg-type]  # JSON-shaped by contract
    return message


def _condition_to(condition: Condition) -> tpb.Condition:
    return tpb.Condition(
        type=condition.type,
        status=tpb.Condition.Status.ValueType(condition.status),
        reason=condition.reason,
        message=condition.message,
        last_transition_time=timestamp(condition.last_transition_time),
        observed_generation=condition.observed_generation,
    )


def _component_to(component: Component) -> wpb.Component:
    return wpb.Component(
        component_id=component.component_id,
        display_name=component.display_name,
        image=component.image,
        state=wpb.WorkloadState.ValueType(component.state),
        reason=component.reason,
        message=component.message,
        restart_count=component.restart_count,
        start_time=timestamp(component.start_time),
        exit_status=exit_to(component.exit_status),
        replica=component.replica,
        role=wpb.Component.Role.ValueType(component.role),
        ready=component.is_ready,
        started=component.is_started,
        last_exit=exit_to(component.last_exit),
    )


def exit_to(status: ExitStatus | None) -> wpb.ExitStatus | None:
    """How something ended; None where it has not, so that the field stays unset."""
    if status is None:
        return None
    return wpb.ExitStatus(
        exit_code=status.exit_code,
        signal=status.signal,
        oom_killed=status.oom_killed,
        finish_time=timestamp(status.finish_time),
        reason=status.reason,
        message=status.message,
    )


def _port_to(port: PortMapping) -> wpb.PortMapping:
    return wpb.PortMapping(
        container_port=port.container_port,
        host_port=port.host_port,
        host_ip=port.host_ip,
        protocol=_PROTOCOLS.get(port.protocol.upper(), wpb.PORT_PROTOCOL_UNSPECIFIED),
    )


def event_to(event: Event[Workload], *, engine: str) -> pb.WatchWorkloadsResponse:
    """One message of a watch."""
    message = pb.WatchWorkloadsResponse(
        type=tpb.WatchEventType.ValueType(event.type), reason=event.reason, resume_token=event.token
    )
    if event.item is not None:
        message.workload.CopyFrom(workload_to(event.item, engine=engine))
        message.message = event.item.state_message
        when = timestamp(event.item.update_time)
        if when is not None:
            message.event_time.CopyFrom(when)
    return message


def log_messages(lines: Sequence[LogLine]) -> Iterator[pb.StreamWorkloadLogsResponse]:
    """Lines in messages of bounded size."""
    message, size = pb.StreamWorkloadLogsResponse(), 0
    for line in lines:
        if len(message.entries) >= _LINES_PER_MESSAGE or size >= _BYTES_PER_MESSAGE:
            yield message
            message, size = pb.StreamWorkloadLogsResponse(), 0
        message.entries.append(entry_to(line))
        size += len(line.text)
    if message.entries:
        yield message


def entry_to(line: LogLine) -> pb.LogEntry:
    """A line."""
    return pb.LogEntry(
        component_id=line.component_id,
        source=pb.LogSource.ValueType(line.source),
        log_time=timestamp(line.time),
        text=line.text,
        partial=line.partial,
        lossy=line.lossy,
        dropped_lines=line.dropped_lines,
        cursor=line.cursor,
        invocation_id=line.invocation_id,
    )
