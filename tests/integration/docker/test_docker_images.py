"""Images from a registry with TLS and a login: pulled when they must be, and by who may."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from services.errors import BeemeshError
from tests.harness.docker import IMAGE, DockerMachine
from tests.harness.registry import PASSWORD, USER, Registry, skip_without_registry
from tests.integration.compose.workloads import remove, spec

pytestmark = [pytest.mark.docker, pytest.mark.timeout(90)]

FILE = 'services: {{web: {{image: "{image}", command: [sh, -c, "WAITS"]{more}}}}}\n'


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    """A registry for the tests of this file."""
    with ExitStack() as stack:
        with skip_without_registry():
            made = stack.enter_context(Registry())
        yield made


@pytest.fixture
def image(docker: DockerMachine, registry: Registry, node_id: str) -> str:
    """An image that only the registry has, for who has a login."""
    name = f"{registry.host}/t{node_id[:8]}"
    with docker.sdk() as sdk:
        sdk.tag(IMAGE, name, "1")
        said = sdk.push(name, tag="1", auth_config={"username": USER, "password": PASSWORD})
        assert "digest" in said, said
        sdk.remove_image(f"{name}:1")
    return f"{name}:1"


def logins(directory: Path, registry: Registry, password: str) -> Path:
    """A directory with what `docker login` writes."""
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (directory / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
    return directory


async def test_who_has_a_login_gets_the_image(
    docker: DockerMachine, registry: Registry, node_id: str, image: str, tmp_path: Path
) -> None:
    """It is pulled once, and told of; `always` asks the registry again, `missing` and `never` do not."""
    told: list[str] = []
    async with docker.engine(node_id, logins=logins(tmp_path, registry, PASSWORD)) as engine:
        engine.listener = lambda _, progress: told.append(progress)
        mine = spec(node_id, FILE.format(image=image, more=""))
        await engine.create(mine)
        assert any(f"pulling image {image}" in progress for progress in told)
        await remove(engine, mine)
        for policy, asks in (("missing", False), ("never", False), ("always", True)):
            before = len(registry.requests())
            mine = spec(node_id, FILE.format(image=image, more=f", pull_policy: {policy}"))
            await engine.create(mine)
            await remove(engine, mine)
            assert (len(registry.requests()) > before) is asks, policy


async def test_who_has_a_wrong_one_is_refused(
    docker: DockerMachine, registry: Registry, node_id: str, image: str, tmp_path: Path
) -> None:
    """IMAGE_DENIED with the full name, before anything else is touched; no word of the password."""
    before = docker.objects()
    async with docker.engine(node_id, logins=logins(tmp_path, registry, "battery staple")) as engine:
        for asked in (engine.prepare, engine.create):
            with pytest.raises(BeemeshError) as caught:
                await asked(spec(node_id, FILE.format(image=image, more="")))
            assert caught.value.reason == "IMAGE_DENIED", caught.value
            assert caught.value.metadata["image"] == image
            assert "staple" not in caught.value.message
    assert docker.objects() == before


async def test_a_tag_that_nobody_has_is_not_found(
    docker: DockerMachine, registry: Registry, node_id: str, image: str, tmp_path: Path
) -> None:
    """IMAGE_NOT_FOUND with the full name."""
    wanted = f"{image}23"
    async with docker.engine(node_id, logins=logins(tmp_path, registry, PASSWORD)) as engine:
        with pytest.raises(BeemeshError) as caught:
            await engine.prepare(spec(node_id, FILE.format(image=wanted, more="")))
    assert (caught.value.reason, caught.value.metadata.get("image")) == ("IMAGE_NOT_FOUND", wanted)
