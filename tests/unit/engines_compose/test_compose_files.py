"""Compose files become projects: what Compose has read once is not read again, and is held to the same rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.engines.compose.binary import Compose, Finder, Places
from services.engines.compose.fields import NodePolicy
from services.engines.compose.files import ComposeFiles
from services.engines.compose.runner import Runner
from services.engines.compose.stamp import Hashes
from services.engines.engine import Config, Spec
from services.errors import FailedPrecondition
from services.identity import Ownership
from services.manifests import Document, parse

NOWHERE = Path("/nowhere")
PLAIN = "services:\n  web:\n    image: example:${TAG}\nvolumes: {data: {}}\n"
PRIVILEGED = "services:\n  web:\n    image: example:1\n    privileged: ${YES}\n"


class Installed(Finder):
    """A machine whose Compose can be exchanged."""

    version = "5.0.0"

    async def find(self) -> Compose:
        """It is there."""
        return Compose(path=NOWHERE / "docker-compose", version=self.version)


class Reading(Runner):
    """Resolves as Compose would, as far as these tests look, and keeps count."""

    def __init__(self, places: Installed) -> None:
        super().__init__(finder=places, socket=NOWHERE, workdir=NOWHERE)
        self.asked: list[str] = []

    async def config(
        self, project: str, text: bytes, document: Document, *, env: Mapping[str, str], profiles: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Names as Compose makes them; the one variable is filled in."""
        self.asked.append(project)
        web = dict(document.body["services"]["web"])
        web["image"] = web["image"].replace("${TAG}", env.get("TAG", ""))
        if "privileged" in web:
            web["privileged"] = env.get("YES") == "true"
        return {
            "name": project,
            "services": {"web": web},
            "networks": {"default": {"name": f"{project}_default"}},
            "volumes": {key: {"name": f"{project}_{key}"} for key in document.body.get("volumes") or {}},
        }


def spec(text: str, *, workload_id: str = "beemesh-shop-1", **env: str) -> Spec:
    ownership = Ownership(node_id="a" * 40, deployment_id="shop", workload_id=workload_id, manifest_hash="f" * 64)
    return Spec(ownership=ownership, manifest=parse(text), config=Config(env=env))


def parts(policy: NodePolicy | None = None) -> tuple[ComposeFiles, Reading, Installed]:
    places = Installed(Places(), workdir=NOWHERE)
    runner = Reading(places)
    return ComposeFiles(runner=runner, policy=policy), runner, places


async def test_what_was_validated_is_not_read_again_to_be_deployed() -> None:
    """The project has the workload's name all the same, in each name that Compose has made."""
    files, runner, _ = parts()
    asked = spec(PLAIN, TAG="7")
    await files.examine(asked.manifest, asked.config)
    project = await files.resolve(asked, Hashes())
    assert len(runner.asked) == 1
    assert project.name == project.model["name"] == "bm-beemesh-shop-1"
    assert project.model["services"]["web"]["image"] == "example:7"
    assert project.model["networks"]["default"]["name"] == "bm-beemesh-shop-1_default"
    assert project.model["volumes"]["data"]["name"] == "bm-beemesh-shop-1_data"


async def test_other_variables_make_another_project() -> None:
    """The same text with another value is read anew."""
    files, _, _ = parts()
    images = [
        (await files.resolve(spec(PLAIN, TAG=tag), Hashes())).model["services"]["web"]["image"] for tag in ("1", "2")
    ]
    assert images == ["example:1", "example:2"]


async def test_another_compose_reads_anew() -> None:
    """What an earlier version has made of a file does not count."""
    files, runner, places = parts()
    asked = spec(PLAIN)
    await files.examine(asked.manifest, asked.config)
    places.version = "5.1.0"
    await files.resolve(asked, Hashes())
    assert len(runner.asked) == 2


async def test_a_file_that_names_its_project_is_read_under_its_name() -> None:
    """COMPOSE_PROJECT_NAME means the workload's project."""
    files, runner, _ = parts()
    asked = spec(PLAIN + "x-note: ${COMPOSE_PROJECT_NAME}\n")
    await files.resolve(asked, Hashes())
    assert runner.asked == ["bm-beemesh-shop-1"]


async def test_where_files_may_be_named_nothing_is_remembered(tmp_path: Path) -> None:
    """A file that the manifest names may have changed meanwhile."""
    files, runner, _ = parts(NodePolicy(file_root=tmp_path))
    asked = spec(PLAIN)
    await files.examine(asked.manifest, asked.config)
    await files.resolve(asked, Hashes())
    assert len(runner.asked) == 2


async def test_what_a_variable_brings_in_is_refused_when_it_is_validated() -> None:
    """With path and line, each time it is asked."""
    files, _, _ = parts()
    asked = spec(PRIVILEGED, YES="true")
    for _ in range(2):
        with pytest.raises(FailedPrecondition) as caught:
            await files.examine(asked.manifest, asked.config)
        assert (caught.value.violations[0].field_path, caught.value.violations[0].line) == (
            "services.web.privileged",
            4,
        )
