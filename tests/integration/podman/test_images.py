"""Images from a registry with TLS and a login: pulled when they must be, by who may, and as they were named."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import os
import re
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from services.engines.engine import WorkloadState
from services.engines.podman.api import Deadlines, Podman
from services.engines.podman.http import UnixHttp
from services.engines.podman.images import PodmanImages
from services.engines.podman.service import PodmanService
from services.engines.pods.credentials import Login
from services.errors import DeadlineExceeded, FailedPrecondition, Unavailable
from services.identity import LABEL_NODE_ID
from services.manifests import parse
from tests.harness.podman import IMAGE, PodmanMachine
from tests.harness.registry import PASSWORD, USER, Registry, skip_without_registry
from tests.integration.podman.workloads import FOREVER, all_in, answering, container, destroy, spec, until

pytestmark = [pytest.mark.podman, pytest.mark.timeout(60)]

GOOD = Login(username=USER, password=PASSWORD)
BAD = Login(username=USER, password="battery staple")


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    """A registry for the tests of this file."""
    with ExitStack() as stack:
        with skip_without_registry():
            made = stack.enter_context(Registry())
        yield made


class Shelf:
    """Pushes images of one repository, under a name of the test's own."""

    def __init__(self, machine: PodmanMachine, registry: Registry, name: str) -> None:
        self._machine = machine
        self._registry = registry
        self.name = f"{registry.host}/{name}"

    def push(self, tag: str, *, label: str = "1", content: bytes = b"") -> str:
        """Push an image under this tag and forget it here; its id."""
        reference = f"{self.name}:{tag}"
        source = self._machine.directory / "layer.tar"
        with tarfile.open(source, "w") as tar:
            (self._machine.directory / "content").write_bytes(content)
            tar.add(self._machine.directory / "content", "content")
        self._machine.podman("import", "--change", f"LABEL v={label}", str(source), reference)
        return self._send(reference)

    def push_runnable(self, tag: str) -> str:
        """Push the test image under this tag."""
        reference = f"{self.name}:{tag}"
        self._machine.podman("tag", IMAGE, reference)
        return self._send(reference)

    def _send(self, reference: str) -> str:
        image: str = self._machine.listed("image", "inspect", reference)[0]["Id"]
        subprocess.run(
            ["podman", "push", "--quiet", "--creds", f"{USER}:{PASSWORD}", reference],
            env={**self._machine.env, "SSL_CERT_DIR": str(self._registry.certs)},
            check=True,
            capture_output=True,
            timeout=60,
        )
        self._machine.podman("rmi", reference)
        return image

    def digest(self, tag: str) -> str:
        """The digest of what the registry has under this tag."""
        data = self._registry.directory / "data/docker/registry/v2/repositories"
        repository = self.name.partition("/")[2]
        return (data / repository / f"_manifests/tags/{tag}/current/link").read_text()

    def asked(self) -> int:
        """How often the registry was asked for something of this repository."""
        repository = self.name.partition("/")[2]
        return sum(f"/v2/{repository}/" in request for request in self._registry.requests())


@pytest.fixture
def shelf(machine: PodmanMachine, registry: Registry, node_id: str) -> Shelf:
    """An empty repository."""
    return Shelf(machine, registry, f"team/{node_id[:12]}")


def trusting(machine: PodmanMachine, registry: Registry) -> PodmanService:
    """A podman service that trusts the registry's authority."""
    settings = dataclasses.replace(machine.service_settings(), registry_certs=registry.certs)
    return PodmanService(settings, env=machine.env)


@asynccontextmanager
async def images_of(service: PodmanService, deadlines: Deadlines | None = None) -> AsyncIterator[PodmanImages]:
    """The images of a podman service that is started for it."""
    async with service:
        http = UnixHttp(service.socket)
        while not await _answers(http):
            await asyncio.sleep(0.02)
        async with PodmanImages(podman=Podman(http, deadlines=deadlines)) as images:
            yield images


async def _answers(http: UnixHttp) -> bool:
    try:
        return (await http.call("GET", "/libpod/_ping", timeout=5)).ok
    except Unavailable:
        return False


async def test_always_brings_a_tag_that_moved(machine: PodmanMachine, registry: Registry, shelf: Shelf) -> None:
    """Always brings what a tag means now; IfNotPresent keeps what is here and does not even ask."""
    async with images_of(trusting(machine, registry)) as images:
        first = shelf.push("1", label="first")
        assert (await images.provide(f"{shelf.name}:1", policy="missing", logins=[GOOD])).image_id == first
        second = shelf.push("1", label="second")
        machine.podman("tag", first, f"{shelf.name}:1")
        asked = shelf.asked()
        assert (await images.provide(f"{shelf.name}:1", policy="missing", logins=[GOOD])).image_id == first
        assert shelf.asked() == asked
        assert (await images.provide(f"{shelf.name}:1", policy="always", logins=[GOOD])).image_id == second
        assert shelf.asked() > asked


async def test_never_does_not_ask(machine: PodmanMachine, registry: Registry, shelf: Shelf) -> None:
    """Never takes what is here, and refuses what is not, without a request to the registry."""
    shelf.push("1")
    asked = len(registry.requests())
    async with images_of(trusting(machine, registry)) as images:
        with pytest.raises(FailedPrecondition, match="imagePullPolicy is Never") as caught:
            await images.provide(f"{shelf.name}:1", policy="never", logins=[GOOD])
        assert (await images.provide(IMAGE, policy="never")).image_id
    assert caught.value.reason == "IMAGE_NOT_FOUND"
    assert len(registry.requests()) == asked


async def test_a_digest_is_honoured(machine: PodmanMachine, registry: Registry, shelf: Shelf) -> None:
    """A digest brings exactly its image although the tag has moved on, and is not asked for again."""
    first = shelf.push("1", label="first")
    digest = shelf.digest("1")
    shelf.push("1", label="second")
    reference = f"{shelf.name}@{digest}"
    async with images_of(trusting(machine, registry)) as images:
        found = await images.provide(reference, policy="missing", logins=[GOOD])
        asked = shelf.asked()
        assert (found.image_id, reference in found.digests) == (first, True)
        assert await images.provide(reference, policy="missing") == found
        assert shelf.asked() == asked
        with pytest.raises(FailedPrecondition) as caught:
            await images.provide(f"{shelf.name}@sha256:{'0' * 64}", policy="missing", logins=[GOOD])
    assert caught.value.reason == "IMAGE_NOT_FOUND"


async def test_a_wrong_login_is_denied_and_no_password_is_told(
    machine: PodmanMachine, registry: Registry, shelf: Shelf
) -> None:
    """A wrong login, and none, are IMAGE_DENIED with the reference and without the password; then a right one helps."""
    shelf.push("1")
    async with images_of(trusting(machine, registry)) as images:
        for logins in ([BAD], [], [BAD, BAD]):
            with pytest.raises(FailedPrecondition) as caught:
                await images.provide(f"{shelf.name}:1", policy="always", logins=logins)
            assert caught.value.reason == "IMAGE_DENIED"
            assert caught.value.metadata["image"] == f"{shelf.name}:1"
            assert BAD.password not in str(caught.value)
        assert (await images.provide(f"{shelf.name}:1", policy="always", logins=[BAD, GOOD])).image_id
    assert BAD.password not in repr(BAD)


async def test_what_is_not_there_is_told_apart(machine: PodmanMachine, registry: Registry, shelf: Shelf) -> None:
    """A missing tag is IMAGE_NOT_FOUND; so is one whose registry is away or not trusted, and that is said."""
    shelf.push("1")
    async with images_of(trusting(machine, registry)) as images:
        with pytest.raises(FailedPrecondition) as missing:
            await images.provide(f"{shelf.name}:2", policy="always", logins=[GOOD])
        with pytest.raises(FailedPrecondition) as away:
            await images.provide("127.0.0.1:1/team/app:1", policy="always")
    async with images_of(machine.service()) as images:
        with pytest.raises(FailedPrecondition, match="certificate") as untrusted:
            await images.provide(f"{shelf.name}:1", policy="always", logins=[GOOD])
    assert [caught.value.reason for caught in (missing, away, untrusted)] == ["IMAGE_NOT_FOUND"] * 3
    assert [caught.value.metadata.get("registry") for caught in (missing, away, untrusted)] == [
        None,
        "unreachable",
        "unreachable",
    ]


async def test_a_newer_image_is_wished_for_and_not_required(
    machine: PodmanMachine, registry: Registry, shelf: Shelf
) -> None:
    """Without a policy `latest` is looked up anew, and what is here will do when the registry does not answer."""
    first = shelf.push("latest", label="first")
    async with images_of(trusting(machine, registry)) as images:
        await images.provide(f"{shelf.name}:latest", policy="newer", logins=[GOOD])
        second = shelf.push("latest", label="second")
        machine.podman("tag", first, f"{shelf.name}:latest")
        assert (await images.provide(f"{shelf.name}:latest", policy="newer", logins=[GOOD])).image_id == second
        machine.podman("tag", first, "127.0.0.1:1/team/app:latest")
        assert (await images.provide("127.0.0.1:1/team/app:latest", policy="newer")).image_id == first


async def test_the_progress_of_a_pull_is_told(machine: PodmanMachine, registry: Registry, shelf: Shelf) -> None:
    """Who waits for a pull hears which image it is, how much of it is here, and how much there is."""
    shelf.push("big", content=os.urandom(8 << 20))
    heard: list[str] = []
    async with images_of(trusting(machine, registry)) as images, registry.slowly(4e6) as host:
        reference = f"{shelf.name}:big".replace(registry.host, host)
        await images.provide(reference, policy="always", logins=[GOOD], on_progress=heard.append)
    assert heard[0] == f"pulling image {reference}"
    assert re.search(rf"^pulling image {reference}: [1-7]\.\d of 8\.4 MB$", heard[1]), heard


async def test_a_pull_that_takes_too_long_is_left(machine: PodmanMachine, registry: Registry, shelf: Shelf) -> None:
    """A pull beyond its deadline is BACKEND_TIMEOUT and names the setting; podman does not go on with it."""
    shelf.push("slow", content=os.urandom(8 << 20))
    async with (
        images_of(trusting(machine, registry), Deadlines(pull=0.5)) as images,
        registry.slowly(4e6) as host,
    ):
        reference = f"{shelf.name}:slow".replace(registry.host, host)
        with pytest.raises(DeadlineExceeded, match="pull_timeout"):
            await images.provide(reference, policy="always", logins=[GOOD])
        await asyncio.sleep(3)
        assert await images.find(reference) is None


@pytest.mark.parametrize("kind", ["dockerconfigjson", "dockercfg"])
async def test_the_manifests_own_secrets_open_the_registry(
    machine: PodmanMachine, registry: Registry, shelf: Shelf, node_id: str, kind: str
) -> None:
    """A Pod whose imagePullSecrets are documents of its manifest runs its private image; passwords stay nowhere."""
    shelf.push_runnable("1")
    wanted = spec(
        node_id,
        container(FOREVER, image=f"{shelf.name}:1", imagePullPolicy="Always"),
        imagePullSecrets=[{"name": "elsewhere"}, {"name": "mine"}],
    )
    documents = [wanted.manifest.documents[0].body, secret("elsewhere", "other.example:1", kind)]
    documents.append(secret("mine", registry.host, kind))
    wanted = dataclasses.replace(wanted, manifest=parse("\n---\n".join(map(json.dumps, documents))))
    heard: list[tuple[str, str]] = []
    async with machine.engine(node_id, service=trusting(machine, registry)) as engine:
        await answering(engine)
        engine.listener = lambda workload, progress: heard.append((workload, progress))
        await engine.create(wanted)
        await until(engine, wanted.workload_id, all_in(WorkloadState.RUNNING), "it runs")
        inspected = machine.podman("pod", "inspect", *machine.podman("pod", "ls", "-q", "--no-trunc").split())
        await destroy(engine, wanted.workload_id, force=True)
        assert LABEL_NODE_ID in inspected
        assert PASSWORD not in inspected
    assert heard[0] == (wanted.workload_id, f"pulling image {shelf.name}:1")
    assert heard[-1] == (wanted.workload_id, "")
    assert not holding(PASSWORD.encode(), machine.directory)


def secret(name: str, host: str, kind: str) -> dict[str, object]:
    """An imagePullSecret for one host, as kubectl writes it."""
    login = {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
    held = {"auths": {host: login}} if kind == "dockerconfigjson" else {f"https://{host}/v1/": login}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": f"kubernetes.io/{kind}",
        "data": {f".{kind}": base64.b64encode(json.dumps(held).encode()).decode()},
    }


def holding(secret: bytes, directory: Path) -> list[Path]:
    """The small files below a directory that hold these bytes."""
    small = (path for path in directory.rglob("*") if path.is_file() and path.stat().st_size < 1 << 20)
    return [path for path in small if secret in path.read_bytes()]
