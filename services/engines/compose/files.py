"""Compose files as workloads: what of one is refused, and the project that the rest becomes."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from services.engines.compose import fields, source
from services.engines.compose.expected import components
from services.engines.compose.fields import Finding, NodePolicy
from services.engines.compose.limits import limits
from services.engines.compose.policy import PROJECT, Rule
from services.engines.compose.runner import Project, Runner
from services.engines.compose.stamp import Hashes, LogCap, Model, Stamp
from services.engines.engine import Config, Issue, Severity, Spec
from services.errors import FailedPrecondition, FieldViolation
from services.manifests import Document, Manifest

PROFILES = "profiles"
"""The engine option: profiles that are active, separated by commas."""

_ANY_PROJECT = "bm-any-project"
"""Stands for a project whose name does not matter yet."""
_REMEMBERED = 16
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*|\*")


class ComposeFiles:
    """Turns a Compose file into a project for `Runner.up`."""

    def __init__(
        self,
        *,
        runner: Runner,
        policy: NodePolicy | None = None,
        log_cap: LogCap | None = None,
        rules: Rule = PROJECT,
        adjust: Callable[[Model], Model] = lambda model: model,
    ) -> None:
        """`rules` and `adjust` are what the daemon makes of a file, and needs changed in it, once it is stamped."""
        self._runner = runner
        self._policy = policy or NodePolicy()
        self._log_cap = log_cap or LogCap()
        self._rules = rules
        self._adjust = adjust
        self._resolved: OrderedDict[object, Mapping[str, Any]] = OrderedDict()
        """What Compose made of the last files, by all that it depends on: what was validated is deployed next."""

    def check(self, manifest: Manifest, config: Config) -> list[Issue]:
        """Every field, variable and option that cannot be honoured as it is written. Pure."""
        document = manifest.primary
        found = self._findings(document, config)
        return [*(finding.issue(document) for finding in found), *_of_config(config, manifest.text)]

    def components(self, manifest: Manifest, config: Config) -> Sequence[str]:
        """The places of its containers; none where only Compose can tell. Pure."""
        return components(manifest.primary.body, config, _profiles(config))

    async def resolve(self, spec: Spec, there: Hashes) -> Project:
        """The project, resolved by Compose and stamped; `there`: the labels of what is there already.

        Raises InvalidArgument(MANIFEST_INVALID) for what Compose does not take, FailedPrecondition for what a variable
        has brought in that is not allowed, and what `Runner.config` raises.
        """
        document, env = spec.manifest.primary, source.variables(spec.config.env)
        name = project_name(spec.workload_id)
        model = await self._model(spec.manifest, spec.config, name)
        stamp = Stamp(
            ownership=spec.ownership,
            config=spec.config,
            log_cap=self._log_cap,
            limits=limits(model, document, spec.config.resources),
            there=there,
        )
        return Project(name=name, model=self._adjust(stamp.on(model)), env=env)

    async def examine(self, manifest: Manifest, config: Config) -> None:
        """Have Compose read it; raises as `resolve` does."""
        await self._model(manifest, config, _ANY_PROJECT)

    async def _model(self, manifest: Manifest, config: Config, name: str) -> Mapping[str, Any]:
        """What Compose makes of the file as project `name`, held to our rules once more."""
        document, env, profiles = manifest.primary, source.variables(config.env), _profiles(config)
        asked_as = name if source.PROJECT_VARIABLE in manifest.text else _ANY_PROJECT
        key = (
            await self._runner.finder.find(),
            manifest.content_digest,
            frozenset(env.items()),
            tuple(profiles),
            asked_as,
        )
        model = self._resolved.get(key)
        if model is None:
            text = source.written(document, self._findings(document, config))
            model = await self._runner.config(asked_as, text, document, env=env, profiles=profiles)
            self._refuse(document, source.own_names(model, asked_as), env)
            if self._policy.file_root is None:  # else a file that it names may change, and it with it
                self._resolved[key] = model
                if len(self._resolved) > _REMEMBERED:
                    self._resolved.popitem(last=False)
        return source.renamed(model, asked_as, name)

    def _findings(self, document: Document, config: Config) -> list[Finding]:
        return fields.check(document.body, self._policy, source.variables(config.env), self._rules)

    def _refuse(self, document: Document, model: Mapping[str, Any], env: Mapping[str, str]) -> None:
        """What Compose has filled in is held to the same rules."""
        found = fields.check(model, self._policy, env, self._rules)
        issues = [each.issue(document) for each in found if each.severity is Severity.ERROR]
        if issues:
            raise FailedPrecondition(
                f"with its variables filled in, {issues[0].field_path} {issues[0].message}",
                reason=issues[0].reason,
                violations=[
                    FieldViolation(
                        field_path=issue.field_path,
                        message=issue.message,
                        reason=issue.reason,
                        line=issue.line,
                        column=issue.column,
                    )
                    for issue in issues
                ],
            )


def project_name(workload_id: str) -> str:
    """The Compose project of a workload."""
    return f"bm-{workload_id}"


def _profiles(config: Config) -> Sequence[str]:
    return [name for name in config.engine_options.get(PROFILES, "").split(",") if name]


def _of_config(config: Config, text: str) -> Iterator[Issue]:
    for name, value in config.engine_options.items():
        path = f'config.engine_options["{name[:80]}"]'
        if name != PROFILES:
            yield _error(path, "UNKNOWN_OPTION", f"the only option is {PROFILES}: names separated by commas")
        elif not all(_PROFILE.fullmatch(profile) for profile in value.split(",")):
            yield _error(path, "BAD_VALUE", f"{value[:80]!r} is not a list of profiles separated by commas")
    for name in source.steering(config.env, text):
        message = f"{name} steers programs and cannot be a variable of the file; give it another name"
        yield _error(f'config.env["{name[:80]}"]', "RESERVED_VARIABLE", message)
    if config.resources.storage_bytes is not None:
        message = "the storage of a container cannot be limited"
        yield _error("config.resources.storage_bytes", fields.UNSUPPORTED_FIELD, message)


def _error(path: str, reason: str, message: str) -> Issue:
    return Issue(severity=Severity.ERROR, field_path=path, reason=reason, message=message)
