"""What an attacker sends to the public port of a real node: every answer is a canonical status that says why."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from beemesh.engine.v1 import (
    engine_service_pb2,
    function_service_pb2,
    image_service_pb2,
    mock_engine_service_pb2,
)
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as pb
from beemesh.provider.v1 import provider_service_pb2
from beemesh.registry.v1 import registry_service_pb2
from beemesh.type.v1.types_pb2 import Manifest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.local_node import LocalNode
from services.identity import workload_id
from tests.harness.messages import ODD_TEXTS, messages

METHODS: Sequence[MethodDescriptor] = [
    method
    for module in (
        pb,
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
APPLY = next(method for method in METHODS if method.name == "ApplyManifest")

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

    def send(
        self, method: MethodDescriptor, raw: bytes, *more: tuple[str, str], seconds: float = _SECONDS
    ) -> grpc.RpcError | None:
        """One request of one message; the error, or None when there was an answer (of a stream: the first)."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        metadata = (*self._metadata, *more)
        try:
            if not (method.client_streaming or method.server_streaming):
                self._channel.unary_unary(path)(raw, timeout=seconds, metadata=metadata)
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

    def list_deployments(self, token: str) -> pb.ListDeploymentsResponse:
        """One page, as long as may be."""
        call = self._channel.unary_unary(
            "/beemesh.orchestrator.v1.OrchestratorService/ListDeployments",
            response_deserializer=pb.ListDeploymentsResponse.FromString,
        )
        request = pb.ListDeploymentsRequest(page_size=1000, page_token=token).SerializeToString()
        page: pb.ListDeploymentsResponse = call(request, timeout=10, metadata=self._metadata)
        return page

    def restore(self) -> None:
        """Undo what makes the node unfit for further tests, and have a deployment for them."""
        for name, request in (
            ("SetMockBehavior", mock_engine_service_pb2.SetMockBehaviorRequest()),
            ("CordonEngine", registry_service_pb2.CordonEngineRequest(engine_id="mock")),
            ("SetDefaultEngine", registry_service_pb2.SetDefaultEngineRequest()),
            ("ApplyManifest", pb.ApplyManifestRequest(manifest=Manifest(content=POD))),
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


def apply(content: str = POD, *, form: int = 0, **more: Any) -> Message:
    return pb.ApplyManifestRequest(manifest=Manifest(content=content, format=form), **more)  # type: ignore[arg-type]


def of(make: Callable[..., Message], **more: Any) -> Message:
    return make(name=ID, **more)


ATTACKS: Sequence[tuple[str, Message, str]] = [
    ("ListDeployments", pb.ListDeploymentsRequest(page_size=-1), "BAD_PAGE_SIZE"),
    ("ListDeployments", pb.ListDeploymentsRequest(page_token="!"), "BAD_PAGE_TOKEN"),
    ("ListDeployments", pb.ListDeploymentsRequest(page_token="/w"), "BAD_PAGE_TOKEN"),
    ("ListDeployments", pb.ListDeploymentsRequest(filter="state=" + "A" * 10_000), "BAD_FILTER"),
    ("WatchDeployments", pb.WatchDeploymentsRequest(resume_token="no such"), "BAD_RESUME_TOKEN"),
    ("WatchDeployments", pb.WatchDeploymentsRequest(resume_token="0" * 32 + ":1"), "RESUME_TOO_OLD"),
    ("WatchDeploymentEvents", of(pb.WatchDeploymentEventsRequest, resume_token="-1"), "BAD_RESUME_TOKEN"),
    ("WatchDeploymentEvents", of(pb.WatchDeploymentEventsRequest, resume_token="9" * 18), "RESUME_TOO_OLD"),
    ("WaitDeployment", of(pb.WaitDeploymentRequest, states=[99]), "INVALID_FIELD"),
    ("WaitDeployment", of(pb.WaitDeploymentRequest, generation=-1), "INVALID_FIELD"),
    ("WaitDeployment", of(pb.WaitDeploymentRequest, timeout=Duration(seconds=-1)), "BAD_DURATION"),
    ("StreamDeploymentLogs", of(pb.StreamDeploymentLogsRequest, tail_lines=-1), "BAD_FIELD"),
    ("StreamDeploymentLogs", of(pb.StreamDeploymentLogsRequest, resume_cursor="x"), "BAD_CURSOR"),
    ("RollbackDeployment", of(pb.RollbackDeploymentRequest, revision=-1), "INVALID_FIELD"),
    ("ApplyManifest", apply(request_id="r" * 65), "INVALID_FIELD"),
    ("ApplyManifest", apply(request_id="\x1b[2J"), "INVALID_FIELD"),
    ("ApplyManifest", apply(etag="forged"), "STALE_ETAG"),
    ("ApplyManifest", apply(wait=Duration(seconds=10**10)), "BAD_DURATION"),
    ("ApplyManifest", apply(fallback_policy=99), "INVALID_FIELD"),
    ("ApplyManifest", apply(placement=99), "INVALID_FIELD"),
    ("ApplyManifest", apply(validation_mode=99), "INVALID_FIELD"),
    ("ApplyManifest", apply(form=99), "INVALID_FIELD"),
    ("ApplyManifest", apply(form=2), "FORMAT_MISMATCH"),
    ("ApplyManifest", apply(POD.replace("fuzz,", "d\u0435fault,")), "BAD_VALUE"),
    ("ApplyManifest", apply(POD.replace("main,", '"ma\\0in",')), "BAD_VALUE"),
    ("ApplyManifest", apply(POD.replace("main,", "x" * 10_000 + ",")), "BAD_VALUE"),
    ("ApplyManifest", apply(POD.replace("[{", "[{name: main, image: x}, {")), "DUPLICATE_VALUE"),
    ("ApplyManifest", apply(f"{POD}---\n{POD}"), "DUPLICATE_OBJECT"),
    ("ApplyManifest", apply(COMPOSE), "DEPLOYMENT_ID_REQUIRED"),
    ("ApplyManifest", apply(COMPOSE.replace("x}}", "x, scale: 2000000000}}"), deployment_id="x"), "TOO_MANY_REPLICAS"),
    ("ApplyManifest", apply(POD.replace("runtime-engine: mock", "fallback-policy: maybe")), "BAD_FALLBACK_POLICY"),
]
"""Requests that a clever or a careless client would try, and the reason that each is refused for."""


@pytest.mark.parametrize(("name", "request_", "reason"), ATTACKS)
def test_what_is_forged_or_out_of_range_is_refused_for_that(
    target: Target, name: str, request_: Message, reason: str
) -> None:
    """Tokens, numbers, enum values, names and ids that are none of ours, each by its reason."""
    assert check(target.ask(name, request_), request_) == reason


@pytest.mark.parametrize(
    "text", [text for text in ODD_TEXTS if text not in ("deployments/", "")], ids=lambda text: ascii(text)[:20]
)
def test_a_name_that_is_none_is_refused_as_such(target: Target, text: str) -> None:
    """Control characters, look-alikes, ten thousand letters: INVALID_ARGUMENT, and no escape sequence comes back."""
    for method, make in (("GetDeployment", pb.GetDeploymentRequest), ("DeleteDeployment", pb.DeleteDeploymentRequest)):
        error: Any = target.ask(method, make(name=text))
        if re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", text):
            continue
        assert check(error, text) == "BAD_DEPLOYMENT_ID"
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details().isprintable()


def test_a_request_id_stands_for_one_request(target: Target) -> None:
    """Another content, or another deployment, under a request id that was used is refused and changes nothing."""
    assert target.ask("ApplyManifest", apply(deployment_id="mine", request_id="mine")) is None
    changed = apply(POD.replace(":1", ":2"), deployment_id="mine", request_id="mine")
    for other in (changed, apply(request_id="mine")):
        assert check(target.ask("ApplyManifest", other), other) == "REQUEST_ID_REUSED"


def test_who_speaks_no_grpc_disturbs_nobody(target: Target) -> None:
    """Noise, half a greeting, and headers beyond all bounds end that connection or call; the next call is served."""
    host, _, port = target.node.public.rpartition(":")
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for noise in (
        os.urandom(4096),
        b"GET / HTTP/1.1\r\n\r\n",
        greeting[:10],
        greeting + b"\0\0\xff\xff\xff\xff\xff\xff\xff",
    ):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while connection.recv(4096):
                    pass
    listing = next(method for method in METHODS if method.name == "ListDeployments")
    error: Any = target.send(listing, b"", ("x-huge", "x" * 100_000))
    assert error is not None
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # grpc's own, from before any handler
    assert target.send(listing, b"", ("beemesh-engine", "../../x")) is None


def test_a_flood_of_text_keeps_nobody_waiting(target: Target) -> None:
    """While manifests of a megabyte are refused one after the other, lists are answered in between."""
    flood = apply("a: " + "[" * 50 + "x, " * 340_000 + "]" * 50).SerializeToString()
    began = time.monotonic()
    with ThreadPoolExecutor(4) as attackers:
        refused = [attackers.submit(target.send, APPLY, flood, seconds=60.0) for _ in range(4)]
        waited = []
        while not all(each.done() for each in refused):
            asked = time.monotonic()
            assert target.ask("ListDeployments", pb.ListDeploymentsRequest()) is None
            waited.append(time.monotonic() - asked)
    assert {check(each.result(), "flood") for each in refused} == {"MANIFEST_TOO_LARGE"}
    assert max(waited) < (time.monotonic() - began) / 2, "a list had to wait until most of them were read"


def test_fat_deployments_make_no_list_too_long_to_be_read(target: Target) -> None:
    """A client with grpc's usual limit of 4 MiB gets all of them, in pages that are shorter than it asked for."""
    fat = POD.replace("runtime-engine: mock", f"runtime-engine: mock, beemesh.io/note: {'x' * 900_000}")
    ids = {f"fat-{index}" for index in range(6)}
    for name in ids:
        assert target.ask("ApplyManifest", apply(fat, deployment_id=name)) is None
    found: list[str] = []
    token = ""
    while token or not found:
        page = target.list_deployments(token)
        found += [deployment.deployment_id for deployment in page.deployments]
        token = page.next_page_token
    assert ids <= set(found)
    assert len(found) == len(set(found))
