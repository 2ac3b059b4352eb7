"""Between the contract's messages and the core's words; nothing is decided here."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from beemesh.engine.v1 import engine_service_pb2 as engine_pb
from beemesh.engine.v1 import workload_pb2
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.registry.v1 import registry_service_pb2 as registry_pb
from beemesh.type.v1 import types_pb2

from services.errors import FieldViolation, InvalidArgument
from services.orchestrator.history import DeploymentEvent
from services.orchestrator.model import (
    Action,
    Attempt,
    Candidate,
    Change,
    Config,
    Decision,
    Deployment,
    EngineView,
    Failure,
    Issue,
    Observed,
    Plan,
    Policy,
    Revision,
    State,
    Step,
)
from services.orchestrator.requests import ApplyRequest
from services.orchestrator.views import View
from services.rpc.convert import timestamp
from services.rpc.watch import Event

_AVAILABLE = registry_pb.Engine.AVAILABILITY_AVAILABLE
_SUSPECT = registry_pb.Engine.AVAILABILITY_SUSPECT
_WORDS_MAX = 300
"""Of what an engine says of its health: a refusal carries the words of every engine."""


def engine_view(engine: registry_pb.Engine) -> EngineView:
    """An engine as the registry tells it."""
    return EngineView(
        engine_id=engine.engine_id,
        endpoint=engine.endpoint,
        aliases=tuple(engine.info.aliases),
        formats=frozenset(engine.info.formats),
        kinds=frozenset(engine.info.kinds),
        available=engine.availability in (_AVAILABLE, _SUSPECT),
        suspect=engine.availability == _SUSPECT,
        reason=engine.availability_reason,
        message=engine.health.message[:_WORDS_MAX],
        cordoned=engine.cordoned,
        priority=engine.priority,
    )


def issue(item: types_pb2.ManifestIssue) -> Issue:
    """A finding, from the wire."""
    return Issue(
        severity=item.severity,
        field_path=item.field_path,
        reason=item.reason,
        message=item.message,
        line=item.line,
        column=item.column,
    )


def plan(answer: engine_pb.PlanWorkloadResponse) -> Plan:
    """What an engine would do, from the wire."""
    return Plan(
        action=Action(answer.action or Action.NONE),
        changes=tuple(
            Change(
                action=Action(item.action or Action.NONE),
                target=item.target,
                field_path=item.field_path,
                old_value=item.old_value,
                new_value=item.new_value,
                forces=item.forces,
            )
            for item in answer.changes
        ),
        issues=tuple(issue(item) for item in answer.issues),
    )


def plan_pb(made: Plan, *, node_id: str) -> pb.PlanManifestResponse:
    """What an apply would do, to the wire."""
    return pb.PlanManifestResponse(
        action=types_pb2.ChangeAction.ValueType(int(made.action)),
        changes=[change_pb(item) for item in made.changes],
        decision=decision(made.decision, node_id=node_id),
        issues=[issue_pb(item) for item in made.issues],
        etag=made.etag,
    )


def change_pb(item: Change) -> types_pb2.PlannedChange:
    """One planned change, to the wire."""
    return types_pb2.PlannedChange(
        action=types_pb2.ChangeAction.ValueType(int(item.action)),
        target=item.target,
        field_path=item.field_path,
        old_value=item.old_value,
        new_value=item.new_value,
        forces=item.forces,
    )


def issue_pb(item: Issue) -> types_pb2.ManifestIssue:
    """A finding, to the wire."""
    return types_pb2.ManifestIssue(
        severity=types_pb2.IssueSeverity.ValueType(item.severity),
        field_path=item.field_path,
        reason=item.reason,
        message=item.message,
        line=item.line,
        column=item.column,
    )


def validation_mode(warn: bool) -> types_pb2.ValidationMode.ValueType:
    """STRICT or WARN."""
    return types_pb2.VALIDATION_MODE_WARN if warn else types_pb2.VALIDATION_MODE_STRICT


_REPLICAS_MAX = 1000
_ENV_MAX = 128 << 10
_AMOUNT_MAX = 2**60
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def config(message: workload_pb2.DeploymentConfig) -> Config:
    """What the caller asks beyond the manifest; raises InvalidArgument."""
    if message.HasField("replicas") and not 0 <= message.replicas <= _REPLICAS_MAX:
        raise bad("config.replicas", f"must be between 0 and {_REPLICAS_MAX}, not {message.replicas}")
    for variable, value in message.env.items():
        if not variable or "=" in variable or "\0" in variable + value:
            raise bad(f"config.env[{variable!r}]", "a name is not empty and has no '=', and nothing has a NUL")
    for key, value in message.labels.items():
        if key.startswith("beemesh.io/") or not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise bad(
                f"config.labels[{key[:80]!r}]", "is no label that Kubernetes allows, or has the reserved beemesh.io/"
            )
    if sum(len(name) + len(value) for name, value in message.env.items()) > _ENV_MAX:
        raise bad("config.env", f"has more than {_ENV_MAX} characters")
    resources = message.resources
    for name in ("cpu_cores", "memory_bytes", "storage_bytes"):
        if resources.HasField(name) and not 0 < getattr(resources, name) < _AMOUNT_MAX:
            raise bad(f"config.resources.{name}", "must be a positive number")
    return Config(
        replicas=message.replicas if message.HasField("replicas") else None,
        cpu_cores=resources.cpu_cores if resources.HasField("cpu_cores") else None,
        memory_bytes=resources.memory_bytes if resources.HasField("memory_bytes") else None,
        storage_bytes=resources.storage_bytes if resources.HasField("storage_bytes") else None,
        env=dict(message.env),
        engine_options=dict(message.engine_options),
        labels=dict(message.labels),
    )


def config_pb(asked: Config) -> workload_pb2.DeploymentConfig:
    """The same, to the wire."""
    message = workload_pb2.DeploymentConfig(
        replicas=asked.replicas, env=asked.env, engine_options=asked.engine_options, labels=asked.labels
    )
    resources = types_pb2.Resources(
        cpu_cores=asked.cpu_cores, memory_bytes=asked.memory_bytes, storage_bytes=asked.storage_bytes
    )
    if resources.ByteSize():
        message.resources.CopyFrom(resources)
    return message


def policy(value: int) -> Policy | None:
    """None: the request does not say."""
    if value and value not in list(Policy):
        raise bad("fallback_policy", f"{value} is none")
    return Policy(value) if value else None


def states(values: Collection[int]) -> set[State]:
    """The states that a client names; raises InvalidArgument for one that does not exist."""
    known = {int(state): state for state in State}
    for value in values:
        if value not in known:
            raise bad("states", f"{value} is none")
    return {known[value] for value in values}


def plan_request(message: pb.PlanManifestRequest) -> ApplyRequest:
    """What a client would ask for; raises InvalidArgument naming the field."""
    _check_manifest(message)
    _check_placement(message)
    return ApplyRequest(
        manifest=message.manifest.content,
        format=message.manifest.format,
        deployment_id=message.deployment_id,
        config=config(message.config),
        engine_id=message.engine_id,
        policy=policy(message.fallback_policy),
        warn=message.validation_mode == types_pb2.VALIDATION_MODE_WARN,
    )


def select_request(message: pb.SelectEngineRequest) -> ApplyRequest:
    """What a client would ask for, whatever it is called; raises InvalidArgument naming the field."""
    _check_manifest(message)
    return ApplyRequest(
        manifest=message.manifest.content,
        format=message.manifest.format,
        config=config(message.config),
        engine_id=message.engine_id,
        policy=policy(message.fallback_policy),
        warn=message.validation_mode == types_pb2.VALIDATION_MODE_WARN,
    )


def _check_manifest(message: pb.ApplyManifestRequest | pb.PlanManifestRequest | pb.SelectEngineRequest) -> None:
    if not message.manifest.content:
        raise bad("manifest.content", "is required")
    if message.manifest.format not in types_pb2.ManifestFormat.values():
        raise bad("manifest.format", f"{message.manifest.format} is none")
    if message.validation_mode not in types_pb2.ValidationMode.values():
        raise bad("validation_mode", f"{message.validation_mode} is none")


def _check_placement(message: pb.ApplyManifestRequest | pb.PlanManifestRequest) -> None:
    if message.placement not in (pb.PLACEMENT_UNSPECIFIED, pb.PLACEMENT_LOCAL):
        raise bad("placement", "only PLACEMENT_LOCAL is there yet")


def apply_request(message: pb.ApplyManifestRequest, *, owner: str) -> ApplyRequest:
    """What a client asks for; raises InvalidArgument naming the field."""
    _check_manifest(message)
    _check_placement(message)
    if len(message.request_id) > 64 or not (message.request_id.isprintable() and message.request_id.isascii()):
        raise bad("request_id", "at most 64 printable ASCII characters")
    return ApplyRequest(
        manifest=message.manifest.content,
        format=message.manifest.format,
        deployment_id=message.deployment_id,
        config=config(message.config),
        engine_id=message.engine_id,
        policy=policy(message.fallback_policy),
        warn=message.validation_mode == types_pb2.VALIDATION_MODE_WARN,
        validate_only=message.validate_only,
        etag=message.etag,
        request_id=message.request_id,
        rollback_on_failure=message.rollback_on_failure,
        owner=owner,
    )


def event(item: DeploymentEvent) -> pb.DeploymentEvent:
    """One thing that happened."""
    return pb.DeploymentEvent(
        event_id=str(item.sequence),
        deployment=f"deployments/{item.deployment_id}",
        reason=item.reason,
        message=item.message,
        event_time=timestamp(item.time),
        attributes=item.attributes,
    )


def revision(item: Revision) -> pb.DeploymentRevision:
    """One content that a deployment had."""
    return pb.DeploymentRevision(
        revision=item.revision,
        manifest=types_pb2.Manifest(
            content=item.wish.manifest, format=types_pb2.ManifestFormat.ValueType(item.wish.format)
        ),
        config=config_pb(item.wish.config),
        outcome=pb.DeploymentState.ValueType(int(item.outcome)),
        engine=item.engine_id,
        create_time=timestamp(item.time),
    )


def deployment(view: View, *, node_id: str) -> pb.Deployment:
    """A deployment as clients see it."""
    record, state, seen = view.record, view.state, view.seen
    result = pb.Deployment(
        name=f"deployments/{record.deployment_id}",
        deployment_id=record.deployment_id,
        manifest_id=record.deployment_id,
        state=pb.DeploymentState.ValueType(int(state)),
        state_message=view.message or (record.failure.message if record.failure is not None else ""),
        reconciling=record.in_flight,
        generation=record.generation,
        observed_generation=record.observed_generation,
        revision=record.revision,
        decision=decision(record.decision, node_id=node_id),
        attempts=[_attempt(item, node_id) for item in record.attempts],
        canonical_digest=record.wish.canonical_digest,
        announced=view.announced,
        drifted=record.failure is not None and record.failure.reason == "WORKLOAD_GONE",
        annotations=record.wish.annotations,
        create_time=timestamp(record.create_time),
        update_time=timestamp(record.update_time),
        etag=record.etag,
        owner=record.owner,
        format=types_pb2.ManifestFormat.ValueType(record.wish.format),
        requested=types_pb2.Resources(cpu_cores=record.wish.cpu_cores, memory_bytes=record.wish.memory_bytes),
    )
    if record.failure is not None:
        result.error.CopyFrom(_failure(record.failure))
    if record.engine_id and record.step is not Step.GONE:
        result.instances.append(_instance(record, seen, node_id))
    return result


def change(event: Event[View], *, node_id: str) -> pb.WatchDeploymentsResponse:
    """One message of a watch."""
    return pb.WatchDeploymentsResponse(
        type=types_pb2.WatchEventType.ValueType(int(event.type)),
        deployment=deployment(event.item, node_id=node_id) if event.item is not None else None,
        resume_token=event.token,
    )


def _instance(record: Deployment, seen: Observed | None, node_id: str) -> pb.Instance:
    instance = pb.Instance(node_id=node_id, engine_id=record.engine_id, workload_id=record.workload_id)
    if seen is not None and seen.raw:
        instance.workload.ParseFromString(seen.raw)
        instance.workload.state = workload_pb2.WorkloadState.ValueType(seen.state)
        instance.workload.state_message = seen.message
        main = {c.replica for c in instance.workload.components if c.role != workload_pb2.Component.ROLE_INIT}
        instance.replicas = len(main)
    return instance


def decision(made: Decision, *, node_id: str) -> pb.EngineDecision:
    """Every candidate with its verdict."""
    selected = made.selected
    return pb.EngineDecision(
        selected_engine=selected.engine_id if selected is not None else "",
        stage=pb.SelectionStage.ValueType(int(selected.stage) if selected is not None else 0),
        fell_back=made.fell_back,
        candidates=[_candidate(item, node_id) for item in made.candidates],
    )


def _candidate(item: Candidate, node_id: str) -> pb.EngineCandidate:
    return pb.EngineCandidate(
        engine_id=item.engine_id,
        stage=pb.SelectionStage.ValueType(int(item.stage)),
        verdict=pb.EngineCandidate.Verdict.ValueType(int(item.verdict)),
        reason=item.reason,
        message=item.message,
        issues=[issue_pb(one) for one in item.issues],
        node_id=node_id,
    )


def _attempt(item: Attempt, node_id: str) -> pb.DeployAttempt:
    return pb.DeployAttempt(
        engine_id=item.engine_id,
        node_id=node_id,
        workload_id=item.workload_id,
        start_time=timestamp(item.start_time),
        end_time=timestamp(item.end_time),
        error=_failure(item.failure) if item.failure is not None else None,
        fenced=item.fenced,
    )


def _failure(item: Failure) -> types_pb2.Error:
    return types_pb2.Error(grpc_code=item.code, reason=item.reason, message=item.message, metadata=item.metadata)


def bad(field: str, message: str) -> InvalidArgument:
    """INVALID_ARGUMENT for one field of a request."""
    return InvalidArgument(
        f"{field}: {message}",
        reason="INVALID_FIELD",
        violations=[FieldViolation(field_path=field, message=message)],
    )


def resource_text(*, cpu_cores: float, memory_bytes: int) -> Mapping[str, str]:
    """The two `resource.*` keys of a provider record: "4" and "8GB" (decimal, as the seed spells them)."""
    memory = f"{memory_bytes / 1e9:.1f}".removesuffix(".0")
    return {"resource.cpu": f"{cpu_cores:g}", "resource.memory": f"{memory}GB"}
