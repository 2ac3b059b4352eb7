"""From a pod's volumes to a backend's, with the files that stand in them, and to the mounts of its containers. Pure.

Backends' own ways to make files from ConfigMaps ignore modes, fsGroup and subPath, and podman's Secrets from a manifest
are broken in 4.3. So all that is mounted is a named volume that the engine makes and fills. Contents of Secrets lie in
such a volume on disk, for root alone, for as long as the workload is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from services.engines.engine import Spec
from services.engines.pods.downward import Facts
from services.engines.pods.environment import expand
from services.engines.pods.labels import LABEL_POD
from services.engines.pods.security import fs_group
from services.engines.pods.sources import Data, Sources
from services.errors import FailedPrecondition
from services.manifests import quantities

LABEL_VOLUME = "beemesh.io/volume"
"""What a volume is: `claim`, `files` or `scratch`. Claims outlive their workload."""
CLAIM, FILES, SCRATCH = "claim", "files", "scratch"

HOST_PATH_TYPES = ("", "Directory", "File")

_DEFAULT_MODE = 0o644
_OPEN_DIRECTORY = 0o777
_FILES_DIRECTORY = 0o755
_SET_GROUP = 0o2000
_PAGE = 4096
_MAX_NAME = 200
_READ_ONLY_SOURCES = ("configMap", "secret", "downwardAPI", "projected")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a volume."""

    path: str
    """Inside the volume."""
    content: bytes = field(repr=False)
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume that the engine makes."""

    name: str
    kind: str
    labels: Mapping[str, str]
    mode: int
    """Of its root directory."""
    group: int | None = None
    """Of all in it."""
    files: tuple[File, ...] = ()
    in_memory: bool = False
    size: int | None = None
    """Bytes that it may hold; only in memory."""

    @property
    def memory_options(self) -> list[str]:
        """Those of the mount of a volume in memory; podman takes `size` for a quota of the disk, so it is in blocks."""
        wanted = [f"mode={self.mode:o}", *([f"gid={self.group}"] if self.group is not None else [])]
        if self.size is not None:
            wanted.append(f"nr_blocks={max(1, self.size // _PAGE)}")
        return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A place in a container."""

    source: Volume | str
    """A volume, or a path of the machine."""
    part: str = ""
    """The directory or file of it that is mounted; empty: all."""
    target: str
    read_only: bool
    host_type: str = ""
    """What a path of the machine must be; one of HOST_PATH_TYPES."""


class Volumes:
    """The volumes of one workload document."""

    def __init__(self, *, spec: Spec, facts: Facts, sources: Sources) -> None:
        self._spec = spec
        self._facts = facts
        self._sources = sources
        self._template = facts.template
        self._group = fs_group(facts.template.spec)
        self._described = {volume["name"]: volume for _, volume in facts.template.volumes()}

    def of_pod(self, number: int) -> dict[str, Volume | str]:
        """What each volume of the replica is, by the manifest's name for it."""
        return {name: self._one(volume, number) for name, volume in self._described.items()}

    def mounts(
        self, container: Mapping[str, Any], volumes: Mapping[str, Volume | str], env: Mapping[str, str]
    ) -> Iterator[Mount]:
        """The mounts of a container, outer ones before those inside them."""
        mounts = container.get("volumeMounts") or ()
        for mount in sorted(mounts, key=lambda mount: len(PurePosixPath(mount["mountPath"]).parts)):
            described = self._described[mount["name"]]
            read_only = any(source in described for source in _READ_ONLY_SOURCES)
            claim = described.get("persistentVolumeClaim") or {}
            yield Mount(
                source=volumes[mount["name"]],
                part=_part(mount, env),
                target=mount["mountPath"],
                read_only=read_only or bool(mount.get("readOnly")) or bool(claim.get("readOnly")),
                host_type=(described.get("hostPath") or {}).get("type") or "",
            )

    def _one(self, volume: Mapping[str, Any], number: int) -> Volume | str:
        if path := (volume.get("hostPath") or {}).get("path"):
            return str(path)
        if claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
            return self._claim(claim)
        if any(source in volume for source in _READ_ONLY_SOURCES):
            return self._files(volume)
        return self._scratch(volume, number)

    def _claim(self, claim: str) -> Volume:
        return self._volume(f"{self._spec.workload_id}.claim.{claim}", CLAIM)

    def _scratch(self, volume: Mapping[str, Any], number: int) -> Volume:
        pod = self._template.pod_name(self._spec.workload_id, number)
        name = f"{pod}.scratch.{volume['name']}"
        source = volume.get("emptyDir") or {}
        if source.get("medium") != "Memory":
            return self._volume(name, SCRATCH, pod=pod)
        size = quantities.memory(source["sizeLimit"]) if source.get("sizeLimit") else None
        return self._volume(name, SCRATCH, pod=pod, in_memory=True, size=size)

    def _files(self, volume: Mapping[str, Any]) -> Volume:
        """The same for all replicas, and another one for each revision: a running replica's files do not change."""
        revision = self._spec.ownership.manifest_hash.removeprefix("sha256:")[:8]
        prefix = self._template.prefix(self._spec.workload_id)
        files = {file.path: file for file in self._described_files(volume)}
        return self._volume(f"{prefix}.files.{volume['name']}.{revision}", FILES, files=tuple(files.values()))

    def _volume(self, name: str, kind: str, *, pod: str = "", **fields: Any) -> Volume:
        directory = _FILES_DIRECTORY if kind == FILES else _OPEN_DIRECTORY
        return Volume(
            name=_short(name),
            kind=kind,
            labels={**self._spec.ownership.labels(), LABEL_VOLUME: kind, **({LABEL_POD: pod} if pod else {})},
            mode=directory if self._group is None else directory | _SET_GROUP,
            group=self._group,
            **fields,
        )

    # Files

    def _described_files(self, volume: Mapping[str, Any]) -> Iterator[File]:
        for name_field, kind in (("name", "configMap"), ("secretName", "secret")):
            if source := volume.get(kind):
                data = self._data(kind, source.get(name_field, ""))
                yield from self._entries(source, data, source.get("defaultMode"))
        if source := volume.get("downwardAPI"):
            yield from self._downward(source, source.get("defaultMode"))
        if projected := volume.get("projected"):
            mode = projected.get("defaultMode")
            for part in projected.get("sources") or ():
                for kind in ("configMap", "secret"):
                    if source := part.get(kind):
                        yield from self._entries(source, self._data(kind, source.get("name", "")), mode)
                if source := part.get("downwardAPI"):
                    yield from self._downward(source, mode)

    def _data(self, kind: str, name: str) -> Data:
        look = self._sources.config_map if kind == "configMap" else self._sources.secret
        return look(self._template.namespace, name) or {}

    def _entries(self, source: Mapping[str, Any], data: Data, default: int | None) -> Iterator[File]:
        items = source.get("items") or [{"key": key, "path": key} for key in data]
        for item in items:
            if item["key"] in data:
                yield self._file(item, data[item["key"]], default)

    def _downward(self, source: Mapping[str, Any], default: int | None) -> Iterator[File]:
        for item in source.get("items") or ():
            if reference := item.get("fieldRef"):
                text = self._facts.field(reference["fieldPath"])
            else:
                text = self._facts.resource(item["resourceFieldRef"], container="")
            yield self._file(item, text.encode(), default)

    def _file(self, item: Mapping[str, Any], content: bytes, default: int | None) -> File:
        mode = item.get("mode", _DEFAULT_MODE if default is None else default)
        return File(path=item["path"], content=content, mode=mode if self._group is None else mode | 0o440)


def _part(mount: Mapping[str, Any], env: Mapping[str, str]) -> str:
    part = mount.get("subPath") or expand(mount.get("subPathExpr") or "", env)
    steps = PurePosixPath(part)
    if steps.is_absolute() or ".." in steps.parts:
        raise FailedPrecondition(
            f"volume {mount['name']}: the part at {mount['mountPath']} must lie inside the volume",
            reason="UNSUPPORTED_FIELD",
        )
    return "" if str(steps) == "." else str(steps)


def _short(name: str) -> str:
    """The name, cut where the file system ends it, with a hash in place of the rest."""
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[: _MAX_NAME - 17]}.{hashlib.sha256(name.encode()).hexdigest()[:16]}"
