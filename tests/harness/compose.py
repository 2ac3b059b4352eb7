"""The machines that Compose files run on in tests, seen alike: a docker, or a podman, of one test run's own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from services.engines.compose.binary import Places
from services.engines.compose.fields import NodePolicy
from services.engines.compose.stamp import LogCap
from services.engines.docker_api.sdk import API_VERSION, listens
from services.engines.engine import Engine
from services.engines.podman.engine import PodmanEngine
from services.engines.podman.projects import ComposeSetup
from services.engines.podman.service import PodmanService
from services.engines.podman.shelf import DEFAULT_BYTES, FILES
from services.identity import LABEL_WORKLOAD_ID
from tests.harness.docker import DockerMachine, skip_without_docker
from tests.harness.podman import PodmanMachine, skip_without_podman

if TYPE_CHECKING:
    from docker import APIClient

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an engine is to have, beside its backend."""

    policy: NodePolicy = NodePolicy()  # noqa: RUF009 - frozen
    compose: Places = Places()  # noqa: RUF009 - frozen
    run_dir: Path | None = None
    log_bytes: int = DEFAULT_BYTES
    """Of a container's log."""


class ComposeMachine(Protocol):
    """A backend and engines on it."""

    name: str
    """The engine's."""
    directory: Path
    """For whatever a test needs a short path to."""

    def engine(self, node_id: str, **wanted: Any) -> Engine:
        """An engine for `async with`; `wanted` are the fields of `Wanted`."""

    def program(self, directory: Path) -> tuple[Sequence[str], Mapping[str, str]]:
        """The engine as a program with its data in a directory: how it is called, and its environment."""

    def make_image(self, reference: str, *, changes: Sequence[str] = ()) -> None:
        """A busybox image; `changes` are Dockerfile instructions."""

    def containers(self, label: str = "") -> list[dict[str, Any]]:
        """All about the containers with this label, as docker's API has it."""

    def labels(self, workload: str) -> list[Mapping[str, str]]:
        """Of each container, network and volume of a workload."""

    def log_limit(self, container: Mapping[str, Any]) -> int:
        """How many bytes of a container's log are kept."""

    def objects(self) -> set[str]:
        """All there is, images left out."""

    def remove(self, container: str) -> None:
        """Behind the engine's back."""

    def kill(self) -> None:
        """End the backend's service by -9: containers run on."""

    def start(self) -> None:
        """Start it again; returns when it answers."""

    @property
    def pid(self) -> int:
        """The service's process."""


@contextmanager
def frozen(machine: ComposeMachine) -> Iterator[None]:
    """Within it the service takes connections and answers nothing."""
    os.kill(machine.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(machine.pid, signal.SIGCONT)


class _Asked:
    """What is asked by docker's SDK, whoever listens."""

    socket: Path

    @contextmanager
    def sdk(self) -> Iterator[APIClient]:
        """A client of its own."""
        from docker import APIClient

        client = APIClient(base_url=f"unix://{self.socket}", version=API_VERSION, timeout=60)
        try:
            yield client
        finally:
            client.close()

    def containers(self, label: str = "") -> list[dict[str, Any]]:
        """One that goes just then is left out."""
        from docker.errors import APIError

        found = []
        with self.sdk() as sdk:
            for each in sdk.containers(all=True, filters={"label": [label]} if label else {}):
                with suppress(APIError):
                    found.append(sdk.inspect_container(each["Id"]))
        return found

    def labels(self, workload: str) -> list[Mapping[str, str]]:
        """Networks and volumes by name, in case that they have none."""
        with self.sdk() as sdk:
            found = [each["Config"]["Labels"] for each in self.containers(f"{LABEL_WORKLOAD_ID}={workload}")]
            found += [each["Labels"] for each in sdk.networks() if f"bm-{workload}_" in each["Name"]]
            return found + [each["Labels"] for each in sdk.volumes()["Volumes"] if f"bm-{workload}_" in each["Name"]]

    def remove(self, container: str) -> None:
        """As `docker rm -f` does."""
        with self.sdk() as sdk:
            sdk.remove_container(container, force=True)


class OnDocker(_Asked):
    """A docker."""

    name = "docker"

    def __init__(self, docker: DockerMachine) -> None:
        self._docker = docker
        self.directory = docker.directory
        self.socket = docker.socket
        self.objects: Callable[[], set[str]] = docker.objects
        self.kill: Callable[[], None] = docker.kill
        self.start: Callable[[], None] = docker.start

    @property
    def pid(self) -> int:
        """The daemon."""
        return self._docker.pid

    def engine(self, node_id: str, **wanted: Any) -> Engine:
        """See `ComposeMachine.engine`."""
        asked = Wanted(**wanted)
        cap = LogCap(max_size=f"{asked.log_bytes // FILES}b", max_files=FILES)
        where = {"run_dir": asked.run_dir} if asked.run_dir else {}
        return self._docker.engine(node_id, policy=asked.policy, compose=asked.compose, log_cap=cap, **where)

    def program(self, directory: Path) -> tuple[Sequence[str], Mapping[str, str]]:
        """See `ComposeMachine.program`."""
        return ["-m", "services.engines.docker", "--docker-socket", str(self.socket)], os.environ

    def make_image(self, reference: str, *, changes: Sequence[str] = ()) -> None:
        """See `ComposeMachine.make_image`."""
        self._docker.make_image(reference, changes=list(changes))

    def log_limit(self, container: Mapping[str, Any]) -> int:
        """As its options say."""
        options = container["HostConfig"]["LogConfig"]["Config"]
        return int(options["max-size"].removesuffix("b")) * int(options["max-file"])


class OnPodman(_Asked):
    """A podman, whose service is no engine's own: so it can be ended, and frozen, while an engine looks on."""

    name = "podman"

    def __init__(self, podman: PodmanMachine) -> None:
        self._podman = podman
        self.directory = podman.directory
        self.socket = podman.directory / "api.sock"
        self.make_image = podman.make_image
        self._service: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        """The service."""
        assert self._service is not None
        return self._service.pid

    def start(self) -> None:
        """See `ComposeMachine.start`."""
        workdir = self.directory / "empty"
        workdir.mkdir(exist_ok=True)
        self.socket.unlink(missing_ok=True)
        command = ["podman", "system", "service", "--time=0", f"unix://{self.socket}"]
        with (self.directory / "service.log").open("ab") as log:
            self._service = subprocess.Popen(
                command, env=self._podman.env, cwd=workdir, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + _START_SECONDS
        while True:
            with suppress(OSError):
                return listens(self.socket)
            if time.monotonic() > end:
                raise RuntimeError("podman's service does not start")
            time.sleep(0.02)

    def kill(self) -> None:
        """See `ComposeMachine.kill`."""
        if self._service is not None:
            self._service.kill()
            self._service.wait(_STOP_SECONDS)
            self._service = None

    def engine(self, node_id: str, **wanted: Any) -> Engine:
        """See `ComposeMachine.engine`."""
        asked = Wanted(**wanted)
        settings = replace(self._podman.service_settings(), socket=self.socket)
        if asked.run_dir:
            settings = replace(settings, run_dir=asked.run_dir)
        return PodmanEngine(
            node_id=node_id,
            service=PodmanService(settings, env=self._podman.env),
            clock=time.time,
            log_bytes=asked.log_bytes,
            compose=ComposeSetup(places=asked.compose, policy=asked.policy),
        )

    def program(self, directory: Path) -> tuple[Sequence[str], Mapping[str, str]]:
        """See `ComposeMachine.program`."""
        return ["-m", "services.engines.podman", "--podman-socket", str(self.socket)], self._podman.env

    def objects(self) -> set[str]:
        """See `ComposeMachine.objects`."""
        return self._podman.objects()

    def log_limit(self, container: Mapping[str, Any]) -> int:
        """Podman tells it in megabytes; two more files have second names."""
        (found,) = self._podman.listed("inspect", container["Id"])
        size = found["HostConfig"]["LogConfig"]["Size"]
        return int(float(size.removesuffix("MB")) * 1e6) * FILES


@contextmanager
def on_docker() -> Iterator[ComposeMachine]:
    """Skips, or fails, where docker cannot be used."""
    with ExitStack() as stack:
        with skip_without_docker():
            docker = stack.enter_context(DockerMachine())
        yield OnDocker(docker)


@contextmanager
def on_podman() -> Iterator[ComposeMachine]:
    """Skips, or fails, where podman cannot be used."""
    with ExitStack() as stack:
        with skip_without_podman():
            podman = stack.enter_context(PodmanMachine())
        machine = OnPodman(podman)
        stack.callback(machine.kill)
        yield machine


MACHINES: Mapping[str, Callable[[], Any]] = {"docker": on_docker, "podman": on_podman}
