"""What an attacker sends to the public port of a real node: every answer is a canonical status that says why."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest
from beemesh.engine.v1 import (
    engine_service_pb2,
    function_service_pb2,
    image_service_pb2,
    mock_engine_service_pb2,
)
from beemesh.orchestrator.v1 import orchestrator_service_pb2
from beemesh.provider.v1 import provider_service_pb2
from beemesh.registry.v1 import registry_service_pb2
from beemesh.type.v1.types_pb2 import Manifest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.local_node import LocalNode
from services.identity import workload_id
from tests.harness.messages import messages

METHODS: Sequence[MethodDescriptor] = [
    method
    for module in (
        orchestrator_service_pb2,
        registry_service_pb2,
        provider_service_pb2,
        engine_service_pb2,
        function_service_pb2,
        image_service_pb2,
        mock_engine_service_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
UNARY = [method for method in METHODS if not (method.client_streaming or method.server_streaming)]
STREAMS = [method for method in METHODS if method not in UNARY]

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: fuzz, annotations: {beemesh.io/runtime-engine: mock}}
spec: {containers: [{name: main, image: "localhost/busybox:1"}]}
"""
COMPOSE = "x-beemesh: {annotations: {beemesh.io/runtime-engine: mock}}\nservices: {web: {image: x}}\n"
ID = "pod-default-fuzz"

NEAR: dict[str, Sequence[Any]] = {
    "name": [ID, f"deployments/{ID}", "engines/mock"],
    "deployment_id": [ID, "", "other"],
    "manifest_id": [ID],
    "engine_id": ["mock", "", "podman"],
    "engine": ["mock"],
    "content": [POD, COMPOSE, POD.replace("fuzz,", "fuzz, x: 1,"), "a: &a [*a]", "{" * 100, "services: {}", "\ufeff"],
    "filter": ["state=ACTIVE", "engine=mock AND deployment_id=x", "engine_id=mock"],
    "page_token": ["AAAA", "MDAw", "////"],
    "resume_token": ["1", "e:1", "٣", "00000000000000000001"],
    "resume_cursor": ["1", "9" * 30, "٣"],
    "request_id": ["r1", "r2"],
    "etag": ["absent", "x"],
    "method": ["GetWorkload", "DeployWorkload"],
}
"""Values that come close to being right, by the name of the field."""

ALLOWED = {code for code in grpc.StatusCode} - {  # noqa: C416 - an enum is no set
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.CANCELLED,
}
_REASON = re.compile(r"[A-Z][A-Z0-9_]{1,62}")
_INSIDES = re.compile(r"Traceback|\.py\b|line \d+, in |object at 0x|/tmp/beemesh|Error\(")
_SECONDS = 1.5

OFTEN = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


class Target:
    """The public port of a node with the mock engine, as an attacker with the token sees it."""

    def __init__(self, node: LocalNode) -> None:
        self.node = node
        self._channel: Any = grpc.insecure_channel(node.public)
        self._metadata = (("authorization", f"Bearer {node.token}"), ("beemesh-engine", "mock"))
        self.workload_id = workload_id(node=node.node_id(), deployment=ID)
        self.restore()

    def send(self, method: MethodDescriptor, raw: bytes, *more: tuple[str, str]) -> grpc.RpcError | None:
        """One request of one message; the error, or None when there was an answer (of a stream: the first)."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        metadata = (*self._metadata, *more)
        try:
            if not (method.client_streaming or method.server_streaming):
                self._channel.unary_unary(path)(raw, timeout=_SECONDS, metadata=metadata)
                return None
            call = self._channel.stream_stream(path)(iter([raw]), timeout=0.5, metadata=metadata)
            next(call, None)
            call.cancel()
        except grpc.RpcError as error:
            return error
        return None

    def ask(self, name: str, request: Message) -> grpc.RpcError | None:
        """One call of the orchestrator."""
        method = next(item for item in METHODS if item.name == name)
        return self.send(method, request.SerializeToString())

    def restore(self) -> None:
        """Undo what makes the node unfit for further tests, and have a deployment for them."""
        for name, request in (
            ("SetMockBehavior", mock_engine_service_pb2.SetMockBehaviorRequest()),
            ("CordonEngine", registry_service_pb2.CordonEngineRequest(engine_id="mock")),
            ("SetDefaultEngine", registry_service_pb2.SetDefaultEngineRequest()),
            ("ApplyManifest", orchestrator_service_pb2.ApplyManifestRequest(manifest=Manifest(content=POD))),
        ):
            self.ask(name, request)

    def close(self) -> None:
        self._channel.close()


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    """A node of its own; at the end none of its services may have logged a defect."""
    with LocalNode(engines="mock") as node:
        found = Target(node)
        yield found
        found.close()
        log = node.log.read_text()
    assert [line for line in log.splitlines() if " error " in line or line.startswith("Traceback")] == []


@pytest.fixture
def restored(target: Target) -> Iterator[Target]:
    """The node, fit again afterwards."""
    yield target
    target.restore()


def check(error: Any, what: object) -> str:
    """A refusal is canonical, carries ErrorInfo and tells nothing of our insides; its reason, "" for an answer."""
    if error is None:
        return ""
    code, told = error.code(), error.details() or ""
    assert code in ALLOWED, f"{what}: {code} {told}"
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if raw is None:
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED, f"{what}: {code} without ErrorInfo: {told}"
        return ""
    status, info = status_pb2.Status.FromString(raw), error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert (info.domain, bool(_REASON.fullmatch(info.reason))) == ("beemesh.io", True), f"{what}: {info}"
    insides = set(_INSIDES.findall(told)) - set(_INSIDES.findall(str(what)))
    assert not insides, f"{what}: {told}"
    return str(info.reason)


def _name(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}.{method.name}"


@pytest.mark.parametrize("method", METHODS, ids=_name)
def test_nonsense_is_refused_with_a_reason(restored: Target, method: MethodDescriptor) -> None:
    """Any message of the contract's types gets an answer or a canonical status with ErrorInfo; no defect of ours."""
    workload = restored.workload_id
    near = {**NEAR, "workload_id": [workload, ""], "workload_name": [f"engines/mock/workloads/{workload}"]}

    @OFTEN
    @given(messages(method.input_type, near=near))
    def attack(message: Message) -> None:
        check(restored.send(method, message.SerializeToString()), message)

    attack()


@settings(OFTEN, max_examples=60)
@given(method=st.sampled_from(METHODS), raw=st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused(target: Target, method: MethodDescriptor, raw: bytes) -> None:
    """Frames of random bytes are decoded or refused; they reach no handler as something else."""
    reason = check(target.send(method, raw), raw)
    try:
        GetMessageClass(method.input_type).FromString(raw)
    except Exception:  # whatever protobuf raises for it
        assert reason in ("REQUEST_UNDECODABLE", "UNSUPPORTED_VERB")
    target.restore()
