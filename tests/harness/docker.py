"""A docker that belongs to one test run: daemon, images and containers in a directory of its own.

It has no default bridge and leaves iptables alone: two daemons, and podman's networks, would take each other's rules
away. Projects have bridges of their own, and published ports go through docker's proxy.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from scripts.make_test_image import REFERENCE, busybox_tar
from services.engines.compose.fields import NodePolicy
from services.engines.docker.engine import DockerEngine, Machine
from services.engines.docker_api.sdk import API_VERSION, listens

if TYPE_CHECKING:
    from docker import APIClient

IMAGE = REFERENCE
_START_SECONDS = 30.0
_STOP_SECONDS = 20.0
_CHANGES = ["ENV PATH=/bin", 'CMD ["sh"]']


class DockerMachine:
    """A daemon, and engines on it. Raises RuntimeError or OSError when docker cannot be used here."""

    def __init__(self, config: Mapping[str, object] | None = None) -> None:
        """`config` is the daemon's daemon.json."""
        self._config = config or {}
        self._daemon: subprocess.Popen[bytes] | None = None
        self._engines = 0

    def __enter__(self) -> Self:
        for program in ("dockerd", "busybox"):
            if shutil.which(program) is None:
                raise RuntimeError(f"{program} is not installed")
        self.directory = Path(tempfile.mkdtemp(prefix="bmd"))  # short: sockets go into it
        (self.directory / "daemon.json").write_text(json.dumps(self._config))
        # 64 networks of 16 addresses, apart from podman's 10.88 and 10.89, and from another run's
        self._pool = f"10.{secrets.randbelow(64) + 128}.{secrets.randbelow(64) * 4}.0/22"
        try:
            self.start()
            self.make_image(IMAGE)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(Exception):
            if self._daemon is None:
                self.start()
            self.remove_all()
        self.stop()
        _unmount_below(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def socket(self) -> Path:
        """The API socket."""
        return self.directory / "docker.sock"

    @property
    def pid(self) -> int:
        """The daemon's process."""
        if self._daemon is None:
            raise RuntimeError("dockerd does not run")
        return self._daemon.pid

    @property
    def runs(self) -> bool:
        """Whether the daemon runs, as far as it was left alone."""
        return self._daemon is not None

    # The daemon

    def start(self) -> None:
        """Start the daemon; returns when it answers.

        The containerd of one that was killed has died with it, but may be a zombie, which the next one takes for alive.
        """
        (self.directory / "exec/containerd/containerd.pid").unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as log:
            self._daemon = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._daemon.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"dockerd does not start: {self.last_words()}")
            time.sleep(0.05)

    def _command(self) -> list[str]:
        own = self.directory
        return [
            *("dockerd", "--config-file", f"{own}/daemon.json", "--pidfile", f"{own}/pid"),
            *("--data-root", f"{own}/root", "--exec-root", f"{own}/exec", "-H", f"unix://{self.socket}"),
            *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
            *("--default-address-pool", f"base={self._pool},size=28", "--live-restore"),
        ]

    def _answers(self) -> bool:
        try:
            listens(self.socket)
            with self.sdk() as sdk:
                return bool(sdk.ping())
        except OSError:  # what the SDK raises is one too
            return False

    def last_words(self) -> str:
        """The end of the daemon's log."""
        return (self.directory / "log").read_text(errors="replace")[-600:]

    def kill(self) -> None:
        """End the daemon by -9: containers run on, and the next `start` finds them."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the daemon, and the containerd that it started."""
        self._end(signal.SIGTERM)
        with suppress(OSError, ValueError):
            os.kill(int((self.directory / "exec/containerd/containerd.pid").read_text()), signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._daemon is None:
            return
        self._daemon.send_signal(number)
        try:
            self._daemon.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait(_STOP_SECONDS)
        self._daemon = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within it the daemon takes connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    # What is in it

    @contextmanager
    def sdk(self) -> Iterator[APIClient]:
        """A client of its own."""
        from docker import APIClient

        client = APIClient(base_url=f"unix://{self.socket}", version=API_VERSION, timeout=60)
        try:
            yield client
        finally:
            client.close()

    def make_image(self, reference: str, *, changes: list[str] | None = None) -> None:
        """Import a busybox image; `changes` are Dockerfile instructions."""
        name, _, tag = reference.rpartition(":")
        busybox = shutil.which("busybox")
        assert busybox is not None
        with self.sdk() as sdk:
            data = busybox_tar(Path(busybox))
            sdk.import_image_from_data(data, repository=name, tag=tag, changes=[*_CHANGES, *(changes or [])])

    def containers(self, label: str = "") -> list[dict[str, Any]]:
        """All about the containers with this label; one that goes just then is left out."""
        from docker.errors import NotFound

        found = []
        with self.sdk() as sdk:
            for each in sdk.containers(all=True, filters={"label": [label]} if label else {}):
                with suppress(NotFound):
                    found.append(sdk.inspect_container(each["Id"]))
        return found

    def inside(self, container: str, command: str) -> str:
        """What a shell command prints in a container; what went wrong where it cannot be run."""
        from docker.errors import APIError

        with self.sdk() as sdk:
            try:
                made = sdk.exec_create(container, ["sh", "-c", command])
                return bytes(sdk.exec_start(made["Id"])).decode()
            except APIError as error:
                return str(error)

    def objects(self) -> set[str]:
        """All there is, images left out."""
        with self.sdk() as sdk:
            return {
                *(f"container {each['Names'][0]}" for each in sdk.containers(all=True)),
                *(f"network {each['Name']}" for each in sdk.networks()),
                *(f"volume {each['Name']}" for each in sdk.volumes()["Volumes"] or []),
            }

    def images(self) -> set[str]:
        """The images by name."""
        with self.sdk() as sdk:
            return {tag for each in sdk.images() for tag in each.get("RepoTags") or []}

    def remove_all(self) -> None:
        """Remove every container, network and volume: a network's bridge would outlive the daemon."""
        with self.sdk() as sdk:
            for each in sdk.containers(all=True):
                sdk.remove_container(each["Id"], force=True, v=True)
            sdk.prune_networks()
            for each in sdk.volumes()["Volumes"] or []:
                sdk.remove_volume(each["Name"], force=True)

    # Engines

    def machine(self, **fields: Any) -> Machine:
        """Where everything is for one more engine; `fields` are those of `Machine`."""
        self._engines += 1
        home = self.directory / f"e{self._engines}"
        return replace(Machine(socket=self.socket, run_dir=home, data_dir=home / "data"), **fields)

    def engine(self, node_id: str, *, policy: NodePolicy | None = None, **fields: Any) -> DockerEngine:
        """An engine for `async with`."""
        machine = self.machine(policy=policy or NodePolicy(), **fields)
        return DockerEngine(node_id=node_id, machine=machine, clock=time.time)


@contextmanager
def skip_without_docker() -> Iterator[None]:
    """Where docker cannot be used: fail if BEEMESH_REQUIRE_ENGINES names it, else skip, with the reason."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if "docker" in os.environ.get("BEEMESH_REQUIRE_ENGINES", "").split(","):
            pytest.fail(f"docker must be here and cannot be used: {error}")
        pytest.skip(f"docker cannot be used here: {error}")


def compose_binary() -> Path:
    """The Compose that the tests' Python has beside it."""
    return Path(sys.executable).parent / "docker-compose"


def _unmount_below(directory: Path) -> None:
    """What a daemon that was killed has left mounted, the innermost first."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "-l", mount], capture_output=True, check=False)
