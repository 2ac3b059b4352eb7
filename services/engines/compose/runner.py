"""What Compose is asked to do: resolve a file, have its images, bring it up, start and stop it. Knows no engine.

Each run is bounded in time and output, knows of our environment nothing but the daemon's socket, and ends with its
process group, whatever becomes of the caller. It reads what it works on from its standard input.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.engines.compose import classify, process
from services.engines.compose.binary import Finder
from services.engines.compose.classify import Said
from services.errors import Internal
from services.manifests import Document

_STOP_SECONDS = 60.0
"""Beyond the containers' grace period."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds that Compose is given."""

    config: float = 20.0
    pull: float = 600.0
    up: float = 600.0
    """Waiting for dependencies to be healthy included."""
    start: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project that is ready to be brought up."""

    name: str
    model: Mapping[str, Any]
    """Resolved and stamped, `$` doubled."""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Values of the secrets and configs that are given as variables."""


class Runner:
    """Compose on one daemon. Calls raise what `Finder.find` and `process.run` raise, besides what they say."""

    def __init__(
        self,
        *,
        finder: Finder,
        socket: Path,
        workdir: Path,
        logins: Path | None = None,
        times: Times | None = None,
    ) -> None:
        """`workdir` is empty and stays so; `logins` is a directory with a config.json as `docker login` writes it."""
        self.finder = finder
        self._socket = socket
        self.workdir = workdir
        self._logins = logins or workdir
        self._times = times or Times()

    async def config(
        self, project: str, text: bytes, document: Document, *, env: Mapping[str, str], profiles: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The file with all that it refers to filled in; asks no daemon. Raises InvalidArgument(MANIFEST_INVALID)."""
        asked = [option for profile in profiles for option in ("--profile", profile)]
        compose = await self.finder.find()
        done = await process.run(
            process.Command(
                argv=[str(compose.path), "-p", project, *asked, "-f", "-", "config", "--format", "json"],
                env=env,
                workdir=self.workdir,
                stdin=text,
                timeout=self._times.config,
            )
        )
        if done.code != 0:
            raise classify.bad_file(_last(done.err), document)
        try:
            model: dict[str, Any] = json.loads(done.out)
        except ValueError as error:
            raise Internal("Compose wrote a project that is no JSON", reason="BACKEND_ERROR") from error
        return model

    async def pull(self, project: Project, tell: Tell) -> None:
        """Have the images, as each service's pull policy says."""
        await self._run(
            project, ("pull",), tell, self._times.pull, what=f"the images of project {project.name} cannot be had"
        )

    async def up(self, project: Project, tell: Tell) -> None:
        """Make what is missing, make anew what has changed, remove what is no longer in the project, start it all."""
        arguments = ("up", "-d", "--no-build", "--remove-orphans")
        await self._run(project, arguments, tell, self._times.up, what=f"project {project.name} cannot be started")

    async def start(self, name: str) -> None:
        """Start the containers that are there, those first that others depend on; known by Compose's own labels."""
        await self._labelled(name, ("start",), self._times.start, what=f"project {name} cannot be started again")

    async def stop(self, name: str, grace_seconds: float | None, *, within: float) -> None:
        """Stop them, those last that others depend on; `grace_seconds` None: each as its service said.

        `within`: what their grace periods come to at most, in seconds.
        """
        timeout = () if grace_seconds is None else ("-t", str(math.ceil(grace_seconds)))
        await self._labelled(name, ("stop", *timeout), _STOP_SECONDS + within, what=f"project {name} cannot be stopped")

    async def _run(self, project: Project, arguments: Sequence[str], tell: Tell, seconds: float, *, what: str) -> None:
        text = json.dumps(project.model).encode()
        await self._compose(project.name, ("-f", "-", *arguments), seconds, what, tell, env=project.env, stdin=text)

    async def _labelled(self, name: str, arguments: Sequence[str], seconds: float, *, what: str) -> None:
        await self._compose(name, arguments, seconds, what, lambda _: None)

    async def _compose(
        self,
        name: str,
        arguments: Sequence[str],
        seconds: float,
        what: str,
        tell: Tell,
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
    ) -> None:
        compose, said = await self.finder.find(), Said()

        def hear(line: str) -> None:
            if words := said.take(line):
                tell(words)

        command = process.Command(
            argv=[str(compose.path), "--progress", "json", "-p", name, *arguments],
            env={**(env or {}), "DOCKER_HOST": f"unix://{self._socket}", "DOCKER_CONFIG": str(self._logins)},
            workdir=self.workdir,
            stdin=stdin,
            timeout=seconds,
        )
        done = await process.run(command, hear)
        if done.code != 0:
            raise classify.failure(said, what=what)


def _last(lines: Sequence[str]) -> str:
    """Compose's error: its last line that is no warning."""
    words = [line for line in lines if line.strip() and "level=warning" not in line]
    return words[-1] if words else "Compose does not take it, and does not say why"
