"""What clients ask for, read from their manifests: the wish, its name, and the part that counts as a change."""

from __future__ import annotations

from dataclasses import dataclass, field

from services import identity, manifests
from services.errors import FieldViolation, InvalidArgument
from services.manifests.resources import check_size, requested, scaled_to_zero
from services.orchestrator import selection
from services.orchestrator.model import Action, Config, Deployment, Issue, Policy, Wish

_FORMATS = {"KUBERNETES": 1, "COMPOSE": 2, "VIRTUAL_MACHINE": 3, "FUNCTION": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyRequest:
    """What a client asks for."""

    manifest: str
    format: int = 0
    """What the client believes the manifest is (the numbers of beemesh.type.v1.ManifestFormat); 0: found out."""
    deployment_id: str = ""
    config: Config = field(default_factory=Config)
    engine_id: str = ""
    policy: Policy | None = None
    warn: bool = False
    validate_only: bool = False
    etag: str = ""
    request_id: str = ""
    rollback_on_failure: bool = False
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The record once the request is durable (or, with validate_only, as it would be)."""

    deployment: Deployment
    action: Action
    issues: tuple[Issue, ...] = ()


def read(request: ApplyRequest, *, name_required: bool = False) -> tuple[manifests.Manifest, Wish]:
    """The documents and the wish that a request states; raises InvalidArgument with paths and lines, all at once.

    `name_required`: the request or its manifest must name the deployment.
    """
    manifest = manifests.parse(request.manifest, name_required=name_required and not request.deployment_id)
    if request.format and request.format != _FORMATS[manifest.format.name]:
        message = f"the content is {manifest.format.name}"
        raise InvalidArgument(
            f"manifest.format: {message}",
            reason="FORMAT_MISMATCH",
            violations=[FieldViolation(field_path="manifest.format", message=message)],
        )
    check_size(manifest, replicas=request.config.replicas)
    asked = requested(manifest, replicas=request.config.replicas)
    config = request.config
    wish = Wish(
        manifest=request.manifest,
        format=_FORMATS[manifest.format.name],
        kinds=tuple(manifest.kinds),
        canonical_digest=identity.canonical_digest(manifest.canonical_digest, counted(config)),
        config=config,
        annotations=dict(manifest.annotations),
        engine_id=request.engine_id,
        policy=selection.policy_of(
            request.policy, engine_named=bool(request.engine_id), annotations=manifest.annotations
        ),
        warn=request.warn,
        scaled_to_zero=scaled_to_zero(manifest, replicas=config.replicas),
        cpu_cores=asked.cpu_cores if config.cpu_cores is None else config.cpu_cores,
        memory_bytes=asked.memory_bytes if config.memory_bytes is None else config.memory_bytes,
    )
    return manifest, wish


def name_of(request: ApplyRequest, manifest: manifests.Manifest) -> str:
    """The deployment id that a request means: its own, or the one its manifest stands for."""
    return (
        identity.check_deployment_id(request.deployment_id)
        if request.deployment_id
        else (
            identity.default_deployment_id(kind=manifest.primary.kind, namespace=manifest.namespace, name=manifest.name)
        )
    )


def counted(config: Config) -> dict[str, object]:
    """The part of a config that decides whether anything changed, JSON-shaped."""
    return {
        "replicas": config.replicas,
        "cpu_cores": config.cpu_cores,
        "memory_bytes": config.memory_bytes,
        "storage_bytes": config.storage_bytes,
        "env": dict(config.env),
        "engine_options": dict(config.engine_options),
        "labels": dict(config.labels),
    }
