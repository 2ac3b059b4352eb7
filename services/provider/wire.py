"""Between the contract's messages and the provider's own words."""

from __future__ import annotations

from collections.abc import Sequence

from beemesh.provider.v1 import provider_service_pb2 as pb
from beemesh.type.v1 import types_pb2

from services import identity
from services.errors import FieldViolation, InvalidArgument
from services.provider import metadata
from services.provider.catalogue import provider_name
from services.provider.discovery import Selector, selector
from services.provider.metadata import Amounts
from services.provider.store import Holding
from services.rpc.convert import timestamp

MAX_RESULTS = 1000

_NODE_PREFIX = "capacity."


def to_selector(message: pb.ProviderSelector) -> Selector:
    """Raises InvalidArgument when an engine's name or an amount is none."""
    metadata.check_engines(message.runtime_engines, field="selector.runtime_engines")
    metadata.check_engines(message.capabilities, field="selector.capabilities")
    return selector(
        runtime_engines=message.runtime_engines,
        capabilities=message.capabilities,
        minimum=to_amounts(message.min_resources, field="selector.min_resources"),
        metadata=message.metadata,
    )


def to_amounts(message: types_pb2.Resources, *, field: str) -> Amounts:
    """Raises InvalidArgument when one is negative or not a number."""
    found = Amounts(
        cpu_cores=message.cpu_cores if message.HasField("cpu_cores") else None,
        memory_bytes=message.memory_bytes if message.HasField("memory_bytes") else None,
        storage_bytes=message.storage_bytes if message.HasField("storage_bytes") else None,
    )
    names = ("cpu_cores", "memory_bytes", "storage_bytes")
    if bad := [name for name, amount in zip(names, found.each(), strict=True) if not _is_amount(amount)]:
        raise invalid(f"{field}.{bad[0]}", "must be a finite number and not negative")
    return found


def from_amounts(amounts: Amounts) -> types_pb2.Resources:
    """Unknown ones stay unset."""
    return types_pb2.Resources(
        cpu_cores=amounts.cpu_cores, memory_bytes=amounts.memory_bytes, storage_bytes=amounts.storage_bytes
    )


def from_provider(holding: Holding) -> pb.Provider:
    """An announcement as a message; the typed fields are read from its verified metadata."""
    record = holding.record
    facts = metadata.facts(record.metadata)
    locality = pb.Provider.LOCALITY_LOCAL if holding.own else pb.Provider.LOCALITY_REMOTE
    return pb.Provider(
        name=provider_name(record),
        manifest_id=record.subject,
        node_id=record.node_id,
        runtime_engine=facts.runtime_engine,
        workload_id=facts.workload_id,
        capabilities=facts.capabilities,
        resources=from_amounts(facts.resources),
        metadata=record.metadata,
        locality=locality,
        announce_time=timestamp(record.issued_ms / 1000),
        last_seen_time=timestamp(holding.seen_ms / 1000),
        expire_time=timestamp(record.expires_ms / 1000),
        sequence=record.seq,
    )


def to_provider_name(name: str, *, own: str) -> tuple[str, str]:
    """Manifest id and node id of `manifests/{manifest}/providers/{node}`; a bare manifest id means this node's."""
    match name.split("/"):
        case ["manifests", manifest, "providers", node]:
            return manifest_id(manifest, field="name"), identity.check_node_id(node)
        case [manifest]:
            return manifest_id(manifest, field="name"), own
        case _:
            raise invalid("name", f"{name[:120]!r}: expected manifests/{{manifest}}/providers/{{node}}")


def manifest_id(text: str, *, field: str = "manifest_id") -> str:
    """Return it; raises InvalidArgument (BAD_MANIFEST_ID)."""
    try:
        return identity.check_deployment_id(text, field=field)
    except InvalidArgument as error:
        error.reason = f"BAD_{field.upper()}"
        raise


def limit(max_results: int) -> int:
    """How many to return; raises InvalidArgument when negative."""
    if max_results < 0:
        raise invalid("max_results", "must not be negative")
    return min(max_results or MAX_RESULTS, MAX_RESULTS)


def to_node_metadata(message: pb.Node) -> dict[str, str]:
    """What a node record carries: the selector's keys, so that nodes are found as providers are."""
    metadata.check_engines(message.capabilities, field="node.capabilities")
    entries = dict(message.metadata)
    entries[metadata.CAPABILITIES] = ",".join(map(metadata.engine_id, message.capabilities))
    entries |= _amount_entries(to_amounts(message.allocatable, field="node.allocatable"))
    entries |= _amount_entries(to_amounts(message.capacity, field="node.capacity"), prefix=_NODE_PREFIX)
    return entries


def from_node(holding: Holding) -> pb.Node:
    """A node record as a message."""
    record = holding.record
    facts = metadata.facts(record.metadata)
    return pb.Node(
        node_id=record.node_id,
        endpoint=record.address,
        capabilities=facts.capabilities,
        capacity=from_amounts(metadata.amounts(record.metadata, prefix=_NODE_PREFIX)),
        allocatable=from_amounts(facts.resources),
        metadata={key: value for key, value in record.metadata.items() if not _is_typed(key)},
        announce_time=timestamp(record.issued_ms / 1000),
        expire_time=timestamp(record.expires_ms / 1000),
        sequence=record.seq,
    )


def invalid(field: str, message: str) -> InvalidArgument:
    """A wrong field of a request: BAD_<FIELD>."""
    return InvalidArgument(
        f"{field} {message}",
        reason="BAD_" + field.rpartition(".")[2].upper(),
        violations=[FieldViolation(field_path=field, message=message)],
    )


def _is_amount(amount: float | None) -> bool:
    return amount is None or 0 <= amount < float("inf")


def _typed() -> Sequence[str]:
    return (metadata.CPU, metadata.MEMORY, metadata.STORAGE)


def _is_typed(key: str) -> bool:
    return key == metadata.CAPABILITIES or key.removeprefix(_NODE_PREFIX) in _typed()


def _amount_entries(amounts: Amounts, *, prefix: str = "") -> dict[str, str]:
    return {
        prefix + key: format(amount, ".12g") if isinstance(amount, float) else str(amount)
        for key, amount in zip(_typed(), amounts.each(), strict=True)
        if amount is not None
    }
