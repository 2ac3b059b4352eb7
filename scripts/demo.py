"""`make demo`: a pod, or a function, on a node of its own, driven over the public port, and checked from outside.

Exit code 0: all was as claimed and nothing is left. 1: something differs, and it is said what. 3: this machine lacks an
engine, and it is said how to get one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc
from beemesh.engine.v1 import engine_service_pb2 as engine_pb2
from beemesh.orchestrator.v1 import orchestrator_service_pb2 as orchestrator_pb2
from beemesh.provider.v1 import provider_service_pb2 as provider_pb2
from beemesh.registry.v1 import registry_service_pb2 as registry_pb2
from beemesh.type.v1.types_pb2 import Manifest
from google.protobuf.duration_pb2 import Duration

from scripts import podman_state
from scripts.client import Client
from scripts.local_node import REPOSITORY, LocalNode, NodeFailed
from scripts.make_test_image import REFERENCE, import_image

APPLY_SECONDS = 90
BUILD_SECONDS = 600
"""An apply that has to build what functions run on."""
EXAMPLES = {"wasm": "examples/function.yaml"}
CACHE = REPOSITORY / ".build" / "wasm"
"""What functions run on is built once for a checkout."""
METADATA_KEYS = {"runtime_engine", "workload_id", "node_type", "capabilities", "resource.cpu", "resource.memory"}

T = TypeVar("T")


class NotHere(Exception):
    """This machine lacks what is needed; the text says what, and how to get it."""


class Differs(Exception):
    """What is there is not what was claimed; the text says both."""


class Story:
    """What is told on the screen: numbered steps and their results."""

    def __init__(self) -> None:
        self._number = 0

    def step(self, title: str, method: str, by_hand: str) -> None:
        """Head one step: the RPC that it calls, and how to do the same by hand."""
        self._number += 1
        print(f"\n{self._number}. {title}")
        if method:
            print(f"   calls    beemesh.{method.split('Service')[0].lower()}.v1.{method}")
        if by_hand:
            print(f"   by hand  {by_hand}", flush=True)

    def show(self, text: str) -> None:
        """One line of a result."""
        print(f"   | {text}", flush=True)


class Tour:
    """The steps, each printed with the line that does the same by hand."""

    def __init__(self, story: Story, node: LocalNode, client: Client, engine: str, manifest: Path) -> None:
        self._step, self._show = story.step, story.show
        self._node = node
        self._client = client
        self._engine = engine
        self._manifest = manifest
        self._deployment = orchestrator_pb2.Deployment()
        self.node_id = ""

    @property
    def _id(self) -> str:
        return self._deployment.deployment_id

    @property
    def _workload(self) -> Any:
        return self._deployment.instances[0].workload

    def run(self) -> None:
        """All steps; raises Differs."""
        self.meet()
        self.apply()
        if self._engine == "wasm":
            self.invoke()
            self.ask_by_http()
        self.read_logs()
        if self._engine == "podman":
            self.ask_podman()
        self.discover()
        self.delete()
        self.look_for_leftovers()

    def meet(self) -> None:
        """Ask who this node is and whether its engine can be used."""
        self._step("The node and its engine", "RegistryService/CheckAvailableEngines", "beectl engines --probe")
        identity = self._client.call(self._client.provider.GetNodeIdentity, provider_pb2.GetNodeIdentityRequest())
        self.node_id = identity.node_id
        engine = until("the engine is available", self._available_engine, seconds=30)
        self._show(f"node      {self.node_id}")
        self._show(f"engine    {engine.engine_id} {engine.info.backend_version}".rstrip() + " is available")

    def _available_engine(self) -> Any:
        request = registry_pb2.CheckAvailableEnginesRequest(probe=True, probe_timeout=Duration(seconds=10))
        answer = self._client.call(self._client.registry.CheckAvailableEngines, request)
        for engine in answer.engines:
            if engine.engine_id == self._engine and answer.available[self._engine] and engine.info.backend_version:
                return engine
        found = {e.engine_id: f"{e.availability_reason} {e.health.message}".strip() for e in answer.engines}
        raise Differs(f"engine {self._engine} cannot be used; the registry says: {found or 'no engine'}")

    def apply(self) -> None:
        """Apply the manifest and wait until it runs."""
        shown = self._manifest.relative_to(REPOSITORY)
        self._step(
            f"Apply {shown}", "OrchestratorService/ApplyManifest", f"beectl apply -f {shown} --engine {self._engine}"
        )
        request = orchestrator_pb2.ApplyManifestRequest(
            manifest=Manifest(content=self._manifest.read_text()),
            engine_id=self._engine,
            wait=Duration(seconds=self._patience - 30),
        )
        if self._engine == "wasm":
            self._show("the first function of a machine waits for the Python runtime to be built: about a minute")
        began = time.monotonic()
        answer = self._client.call(self._client.orchestrator.ApplyManifest, request, seconds=self._patience)
        self._deployment = answer.deployment
        expect("state", orchestrator_pb2.DeploymentState.Name(self._deployment.state), "DEPLOYMENT_STATE_ACTIVE")
        expect("engine", self._deployment.instances[0].engine_id, self._engine)
        self._show(f"{self._id} is ACTIVE on {self._engine}, {time.monotonic() - began:.2f}s after it was asked for")
        self._show(f"workload  {self._workload.workload_id}")

    @property
    def _patience(self) -> int:
        """Seconds that an apply may take."""
        return BUILD_SECONDS if self._engine == "wasm" else APPLY_SECONDS

    def invoke(self) -> None:
        """Call the function."""
        event = '{"values":[3,4,5]}'
        self._step("Call it", "OrchestratorService/InvokeDeployment", f"beectl invoke {self._id} -d '{event}'")
        request = orchestrator_pb2.InvokeDeploymentRequest(name=self._id, event_json=event.encode())
        for _ in range(2):
            began = time.monotonic()
            answer = self._client.call(self._client.orchestrator.InvokeDeployment, request).invocation
            expect("result", json.loads(answer.result_json), {"count": 3, "sum": 12, "mean": 4.0})
            took = (time.monotonic() - began) * 1000
            self._show(f"{answer.result_json.decode()}  after {took:.1f} ms, {in_guest(answer)} of them in the sandbox")

    def ask_by_http(self) -> None:
        """The same by its HTTP trigger."""
        port = self._workload.ports[0]
        url = f"http://{port.host_ip}:{port.host_port}/"
        self._step("Call it by HTTP", "", f"curl -d '{{\"values\":[1,2]}}' {url}")
        with urllib.request.urlopen(url, data=b'{"values":[1,2]}', timeout=20) as response:
            body = response.read()
            self._show(f"{response.status} {response.headers['content-type']}  {body.decode()}")
        expect("result by HTTP", json.loads(body), {"count": 2, "sum": 3, "mean": 1.5})

    def read_logs(self) -> None:
        """What the workload writes."""
        self._step("Its log lines", "OrchestratorService/StreamDeploymentLogs", f"beectl logs {self._id} --tail 3")

        def lines() -> list[str]:
            request = orchestrator_pb2.StreamDeploymentLogsRequest(name=self._id, tail_lines=3)
            stream = self._client.call(self._client.orchestrator.StreamDeploymentLogs, request)
            found = [entry.text for response in stream for entry in response.entries]
            if len(found) < (3 if self._engine == "podman" else 1):
                raise Differs(f"expected log lines, got {found}")
            return found

        for line in until("there are log lines", lines, seconds=20):
            self._show(line)

    def ask_podman(self) -> None:
        """Podman itself must say the same."""
        label = f"label={podman_state.NODE_LABEL}={self.node_id}"
        self._step("Podman agrees", "", f"podman ps --filter {label}")
        for line in podman_state.podman("ps", "--filter", label).splitlines():
            self._show(line)
        claimed = {part.component_id for part in self._workload.components}
        running = {item["Id"] for item in podman_state.listed("ps", "--filter", label) if not item["IsInfra"]}
        expect("containers that podman runs for this node", running, claimed)

    def discover(self) -> None:
        """Anyone may ask who runs this manifest."""
        self._step(
            "Who provides it",
            "ProviderService/DiscoverProviders",
            f"beectl providers {self._id} --engine {self._engine}",
        )
        provider = until("the provider is announced", self._provider, seconds=20)
        for key, value in sorted(provider.metadata.items()):
            self._show(f"{key:<15} {value}")
        expect("metadata keys", set(provider.metadata), METADATA_KEYS)
        expect("runtime_engine", provider.metadata["runtime_engine"], self._engine)
        expect("workload_id", provider.metadata["workload_id"], self._workload.workload_id)
        if not (
            float(provider.metadata["resource.cpu"]) > 0 and provider.metadata["resource.memory"][0] in "123456789"
        ):
            raise Differs(f"resource.* are no measured values: {dict(provider.metadata)}")

    def _provider(self) -> Any:
        selector = provider_pb2.ProviderSelector(runtime_engines=[self._engine])
        request = provider_pb2.DiscoverProvidersRequest(manifest_id=self._deployment.manifest_id, selector=selector)
        found = self._client.call(self._client.provider.DiscoverProviders, request).providers
        expect("providers", [item.node_id for item in found], [self.node_id])
        return found[0]

    def delete(self) -> None:
        """Delete, and wait until it is gone."""
        self._step("Delete it", "OrchestratorService/DeleteDeployment", f"beectl delete {self._id}")
        request = orchestrator_pb2.DeleteDeploymentRequest(name=self._id)
        began = time.monotonic()
        self._client.call(self._client.orchestrator.DeleteDeployment, request, seconds=APPLY_SECONDS)
        self._show(f"gone after {time.monotonic() - began:.2f}s")

    def look_for_leftovers(self) -> None:
        """No record, announcement, workload or file may be left."""
        self._step("Nothing is left of it", "", f"beectl get {self._id}; beectl providers {self._id}")
        get = orchestrator_pb2.GetDeploymentRequest(name=self._id)
        self._expect_not_found("deployment", self._client.orchestrator.GetDeployment, get)
        applied = provider_pb2.GetAppliedManifestRequest(manifest_id=self._deployment.manifest_id)
        self._expect_not_found("applied-manifest record", self._client.provider.GetAppliedManifest, applied)
        until("the announcement is withdrawn", self._no_provider, seconds=20)
        workloads = engine_pb2.ListWorkloadsRequest()
        left = self._client.call(self._client.engine.ListWorkloads, workloads, engine=self._engine).workloads
        expect("workloads of the engine", [item.workload_id for item in left], [])
        files = sorted(str(path) for path in self._node.data_dir.rglob(f"*{self._workload.workload_id}*"))
        expect("files of the workload", files, [])
        self._show("no deployment, no announcement, no applied-manifest record, no workload, no file")

    def _no_provider(self) -> bool:
        request = provider_pb2.DiscoverProvidersRequest(manifest_id=self._deployment.manifest_id)
        found = self._client.call(self._client.provider.DiscoverProviders, request).providers
        expect("providers", [item.node_id for item in found], [])
        return True

    def _expect_not_found(self, what: str, method: Any, request: Any) -> None:
        try:
            found = self._client.call(method, request)
        except grpc.RpcError as error:
            expect(f"{what} after it was deleted", error.code(), grpc.StatusCode.NOT_FOUND)
            return
        raise Differs(f"{what} is still there: {found}")


def in_guest(answer: Any) -> str:
    """How long a call was in its handler."""
    return f"{answer.duration.ToMicroseconds() / 1000:.1f} ms"


def expect(what: str, found: object, wanted: object) -> None:
    """Raise Differs unless the two are equal."""
    if found != wanted:
        raise Differs(f"{what}: expected {wanted!r}, found {found!r}")


def until(what: str, look: Callable[[], T], *, seconds: float) -> T:
    """Look again until it no longer differs; the last difference is raised when time is over."""
    end = time.monotonic() + seconds
    while True:
        try:
            return look()
        except Differs as error:
            if time.monotonic() > end:
                raise Differs(f"after {seconds:g}s it is still not so that {what}: {error}") from error
        time.sleep(0.1)


@contextmanager
def machine_as_found(story: Story) -> Iterator[frozenset[podman_state.Object]]:
    """Make the image; afterwards remove it and what podman itself made for the first pod of its life."""
    before = podman_state.snapshot()
    made = podman_state.Object(kind="image", name=REFERENCE, node_id="") not in before
    if made:
        story.step("A container image", "", f"python -m scripts.make_test_image {REFERENCE}")
        import_image()
        story.show(f"{REFERENCE}, made from this machine's busybox: no registry is asked")
    try:
        yield podman_state.snapshot()
    finally:
        for item in podman_state.snapshot() - before:
            if (made and item.name == REFERENCE) or by_podman_itself(item):
                with suppress(podman_state.PodmanFailed):  # somebody else uses it by now
                    podman_state.remove(item)


def by_podman_itself(item: podman_state.Object) -> bool:
    """Podman makes a pause image and a network of its own for the first pod of its life, and keeps them."""
    return item.kind in ("image", "network") and "podman" in item.name


def tour(story: Story, engine: str, before: frozenset[podman_state.Object] | None) -> None:
    """One node with this engine, from start to stop; raises Differs."""
    story.step("Start a node of its own", "", f"beemesh-node --engines {engine}")
    with LocalNode(engines=engine, env={"BEEMESH_CACHE_DIR": str(CACHE)}) as node:
        story.show(f"public port {node.public}, directories {node.home}, {len(node.services())} services")
        with Client(node.public, token=node.token) as client:
            steps = Tour(story, node, client, engine, REPOSITORY / EXAMPLES.get(engine, "examples/pod.yaml"))
            try:
                steps.run()
            except (Differs, grpc.RpcError):
                print(f"\nThe end of the node's log:\n{node.log_tail()}", file=sys.stderr)
                if engine == "podman":
                    podman_state.purge(node.node_id())
                raise
        story.step("Stop the node", "", "")
        expect("the node's exit code", node.stop(), 0)
        expect("services that still run", node.wait_gone(5), {})
        story.show("every service has ended")
    if before is not None:
        left = podman_state.left_behind(before, steps.node_id)
        expect("what podman has more than before", [str(item) for item in left if not by_podman_itself(item)], [])
        story.show("podman has what it had before: no container, pod, network or volume more")


def check_machine(engines: list[str]) -> None:
    """Raise NotHere when what an engine needs is not on this machine."""
    if "podman" not in engines:
        return
    try:
        podman_state.podman("info")
        if shutil.which("busybox") is None:
            raise podman_state.PodmanFailed("busybox, which its image is made from, is not installed")
    except podman_state.PodmanFailed as error:
        raise NotHere(
            f"podman cannot be used here: {error}\n  To get it on Debian or Ubuntu, as root:\n"
            "    apt-get install podman catatonit netavark aardvark-dns iptables busybox-static\n"
            "  Without it, a function, for which Python packages are enough: make demo ENGINES=wasm\n"
            "  Or the same with an engine that only pretends: make demo ENGINES=mock"
        ) from error


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description="Shows a node at work, and that nothing is left afterwards.")
    parser.add_argument("--engines", default="podman", help="comma list of podman, wasm, mock")
    engines = parser.parse_args().engines.split(",")
    story = Story()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        check_machine(engines)
        with ExitStack() as stack:
            before = stack.enter_context(machine_as_found(story)) if "podman" in engines else None
            for engine in engines:
                tour(story, engine, before if engine == "podman" else None)
    except NotHere as error:
        print(f"demo: {error}", file=sys.stderr)
        return 3
    except (Differs, NodeFailed, podman_state.PodmanFailed, RuntimeError) as error:
        print(f"\ndemo: FAILED: {error}", file=sys.stderr)
        return 1
    except grpc.RpcError as error:
        print(f"\ndemo: FAILED: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    print("\nAll of it was as claimed, and nothing is left. Next: README.md shows the same by grpcurl and beectl.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
