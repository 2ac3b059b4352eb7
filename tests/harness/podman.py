"""A podman that belongs to one test run: images, containers, locks and events in a directory of its own.

On the machine's own podman two runs would see each other's pods, and "nothing is left" could not be said.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest

from scripts.make_test_image import REFERENCE, import_image
from services.engines.podman.engine import PodmanEngine
from services.engines.podman.machine import needed_config, this_machine
from services.engines.podman.service import PodmanService, ServiceSettings
from services.engines.podman.shelf import DEFAULT_BYTES
from services.engines.pods.acts import SupervisorLimits

_TIMEOUT = 60
IMAGE = REFERENCE
_RESERVED = "reserved-"
_SHARED_LOCK = Path("/etc/containers/networks/netavark.lock")


class PodmanMachine:
    """A podman store, and engines on it. Raises RuntimeError or OSError when podman cannot be used here."""

    def __init__(self) -> None:
        self._engines = 0

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="bmp"))  # short: sockets go into it
        self.env = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
            "CONTAINERS_CONF": str(self.directory / "containers.conf"),
        }
        self.env.pop("CONTAINER_HOST", None)
        try:
            self._set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _set_up(self) -> None:
        (self.directory / "storage.conf").write_text(
            f'[storage]\ndriver = "{_driver()}"\n'
            f'graphroot = "{self.directory}/root"\nrunroot = "{self.directory}/run"\n'
        )
        (self.directory / "containers.conf").write_text(_configuration(self.directory))
        _reserve_networks(self.directory / "networks")
        self.make_image(REFERENCE)

    def __exit__(self, *exc: object) -> None:
        for words in (("pod", "kill"), ("pod", "rm", "--force"), ("rm", "--force", "--time", "0", "--volumes")):
            with suppress(RuntimeError, OSError, subprocess.TimeoutExpired):
                self.podman(*words, "--all")
        shutil.rmtree(self.directory, ignore_errors=True)

    def make_image(self, reference: str, *, changes: Sequence[str] = ()) -> None:
        """Import a busybox image; `changes` are Dockerfile instructions."""
        import_image(reference, podman=["env", *self._settings(), "podman"], changes=changes)

    def podman(self, *arguments: str) -> str:
        """Run the podman program on this store; what it printed. Raises RuntimeError."""
        done = subprocess.run(
            ["podman", *arguments], env=self.env, cwd="/", capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"podman {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        """What a list command says."""
        return json.loads(self.podman(*arguments, "--format", "json") or "[]") or []

    def objects(self) -> set[str]:
        """All there is, images left out."""
        return {
            *(f"container {item['Names'][0]}" for item in self.listed("ps", "--all", "--external")),
            *(f"pod {item['Name']}" for item in self.listed("pod", "ls")),
            *(
                f"network {item['name']}"
                for item in self.listed("network", "ls")
                if not item["name"].startswith(_RESERVED)
            ),
            *(f"volume {item['Name']}" for item in self.listed("volume", "ls")),
            *(f"secret {item['ID']}" for item in self.listed("secret", "ls")),
        }

    def pids(self, label: str) -> dict[str, int]:
        """The process of each running container with this label, by container id."""
        return {item["Id"]: item["Pid"] for item in self.listed("ps", "--filter", f"label={label}")}

    def service(self, data_dir: Path | None = None) -> PodmanService:
        """A service of its own for one more engine."""
        return PodmanService(self.service_settings(data_dir), env=self.env)

    def service_settings(self, data_dir: Path | None = None) -> ServiceSettings:
        """Directories for one more engine; with an earlier one's `data_dir` it goes on where that was."""
        self._engines += 1
        home = self.directory / f"e{self._engines}"
        return ServiceSettings(
            socket=None,
            binary="podman",
            containers_conf=None,
            run_dir=home,
            data_dir=data_dir or home / "data",
        )

    def engine(
        self,
        node_id: str,
        *,
        service: PodmanService | None = None,
        log_bytes: int = DEFAULT_BYTES,
        supervisor_limits: SupervisorLimits | None = None,
    ) -> PodmanEngine:
        """An engine for `async with`."""
        return PodmanEngine(
            node_id=node_id,
            service=service or self.service(),
            clock=time.time,
            log_bytes=log_bytes,
            supervisor_limits=supervisor_limits,
        )

    def _settings(self) -> list[str]:
        return [f"{name}={self.env[name]}" for name in ("CONTAINERS_STORAGE_CONF", "CONTAINERS_CONF")]


@contextmanager
def skip_without_podman() -> Iterator[None]:
    """Where podman cannot be used: fail if BEEMESH_REQUIRE_ENGINES names it, else skip, with the reason."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if "podman" in os.environ.get("BEEMESH_REQUIRE_ENGINES", "").split(","):
            pytest.fail(f"podman must be here and cannot be used: {error}")
        pytest.skip(f"podman cannot be used here: {error}")


def _driver() -> str:
    """The storage driver that podman uses on this machine."""
    done = subprocess.run(
        ["podman", "info", "--format", "{{.Store.GraphDriverName}}"],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"podman info: {done.stderr.strip()}")
    return done.stdout.strip()


def _configuration(directory: Path) -> str:
    """What this machine needs, with locks and events apart from the machine's own podman.

    Networks have addresses and bridges apart from those of other stores, by `_reserve_networks`.
    """
    config: dict[str, dict[str, object]] = tomllib.loads(
        needed_config(this_machine(has_runc=bool(shutil.which("runc"))))
    )
    config.setdefault("engine", {}).update(
        {"tmp_dir": f"{directory}/tmp", "lock_type": "file", "events_logger": "file"}
    )
    pool = {"base": f"10.{secrets.randbelow(48) + 200}.{16 * secrets.randbelow(16)}.0/20", "size": 24}
    config.setdefault("network", {}).update(
        {"network_config_dir": f"{directory}/networks", "default_subnet_pools": [pool]}
    )
    return "\n".join(_table(name, table) for name, table in config.items())


def _reserve_networks(directory: Path) -> None:
    """Networks of a store's own, beside the lock that all share, without which they would race for iptables' chains.

    podman calls a bridge by the first number that is free, of those it knows: so each store knows some others.
    """
    directory.mkdir()
    _SHARED_LOCK.parent.mkdir(parents=True, exist_ok=True)
    _SHARED_LOCK.touch()
    (directory / _SHARED_LOCK.name).symlink_to(_SHARED_LOCK)
    for number in range(1, 1 + secrets.randbelow(100)):
        network = {
            "name": f"{_RESERVED}{number}",
            "id": secrets.token_hex(32),
            "driver": "bridge",
            "network_interface": f"podman{number}",
            "created": "2026-01-01T00:00:00Z",
            "subnets": [{"subnet": f"10.199.{number}.0/24", "gateway": f"10.199.{number}.1"}],
            "ipv6_enabled": False,
            "internal": False,
            "dns_enabled": False,
            "ipam_options": {"driver": "host-local"},
        }
        (directory / f"{network['name']}.json").write_text(json.dumps(network))


def _table(name: str, table: Mapping[str, object]) -> str:
    lines = [f"{key} = {_toml(value)}" for key, value in table.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_toml(item)}' for key, item in value.items())}}}"
    return json.dumps(value)
