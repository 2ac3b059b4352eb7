"""Writes services/manifests/kubernetes.schema.json: the strict schema of the Kubernetes kinds that we run.

Its source is the package kubernetes-validate, which carries the JSON schemas of each Kubernetes release. They know
types and field names; this adds what Kubernetes checks in code: enumerations, name formats, ranges and required
fields. Run it when the dependency changes: `python scripts/kubernetes_schemas.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

RELEASE = "v1.37.0"
TARGET = Path(__file__).parent.parent / "services" / "manifests" / "kubernetes.schema.json"

Schema = dict[str, Any]

ROOTS = {
    "Pod": "io.k8s.api.core.v1.Pod",
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "Secret": "io.k8s.api.core.v1.Secret",
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
}

REPLACED: Mapping[str, Schema] = {
    "IntOrString": {"type": ["integer", "string"]},
    "Quantity": {"type": ["number", "string"], "minimum": 0, "format": "quantity"},
}
"""Definitions whose published schema is looser, or reports errors less clearly, than this one."""

WRITTEN_BY_SERVERS = {
    "Pod": ["status"],
    "Deployment": ["status"],
    "PersistentVolumeClaim": ["status"],
    "ObjectMeta": [
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ],
}
"""Taken out: a manifest is cleared of them before it is checked."""

REQUIRED = {
    "Container": ["image"],
    "Pod": ["metadata", "spec"],
    "Deployment": ["metadata"],
    "ConfigMap": ["metadata"],
    "Secret": ["metadata"],
    "PersistentVolumeClaim": ["metadata", "spec"],
    "PersistentVolumeClaimSpec": ["accessModes", "resources"],
    "ConfigMapVolumeSource": ["name"],
    "SecretVolumeSource": ["secretName"],
    "ConfigMapEnvSource": ["name"],
    "SecretEnvSource": ["name"],
    "ConfigMapKeySelector": ["name"],
    "SecretKeySelector": ["name"],
    "ConfigMapProjection": ["name"],
    "SecretProjection": ["name"],
    "LocalObjectReference": ["name"],
}

PROTOCOLS = ["TCP", "UDP", "SCTP"]
RESTART = ["Always", "OnFailure", "Never"]

ENUMS: Mapping[str, Mapping[str, list[str]]] = {
    "Container": {
        "imagePullPolicy": ["Always", "IfNotPresent", "Never"],
        "restartPolicy": RESTART,
        "terminationMessagePolicy": ["File", "FallbackToLogsOnError"],
    },
    "PodSpec": {
        "restartPolicy": RESTART,
        "dnsPolicy": ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        "preemptionPolicy": ["Never", "PreemptLowerPriority"],
    },
    "PodOS": {"name": ["linux", "windows"]},
    "ContainerPort": {"protocol": PROTOCOLS},
    "HTTPGetAction": {"scheme": ["HTTP", "HTTPS"]},
    "VolumeMount": {
        "mountPropagation": ["None", "HostToContainer", "Bidirectional"],
        "recursiveReadOnly": ["Disabled", "IfPossible", "Enabled"],
    },
    "HostPathVolumeSource": {
        "type": ["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"]
    },
    "ImageVolumeSource": {"pullPolicy": ["Always", "IfNotPresent", "Never"]},
    "SeccompProfile": {"type": ["Localhost", "RuntimeDefault", "Unconfined"]},
    "AppArmorProfile": {"type": ["Localhost", "RuntimeDefault", "Unconfined"]},
    "SecurityContext": {"procMount": ["Default", "Unmasked"]},
    "PodSecurityContext": {
        "fsGroupChangePolicy": ["OnRootMismatch", "Always"],
        "supplementalGroupsPolicy": ["Merge", "Strict"],
        "seLinuxChangePolicy": ["MountOption", "Recursive"],
    },
    "ContainerResizePolicy": {"restartPolicy": ["NotRequired", "RestartContainer"]},
    "Toleration": {
        "operator": ["Exists", "Equal", "Lt", "Gt"],
        "effect": ["NoSchedule", "PreferNoSchedule", "NoExecute"],
    },
    "TopologySpreadConstraint": {
        "whenUnsatisfiable": ["DoNotSchedule", "ScheduleAnyway"],
        "nodeAffinityPolicy": ["Honor", "Ignore"],
        "nodeTaintsPolicy": ["Honor", "Ignore"],
    },
    "NodeSelectorRequirement": {"operator": ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]},
    "LabelSelectorRequirement": {"operator": ["In", "NotIn", "Exists", "DoesNotExist"]},
    "DeploymentStrategy": {"type": ["Recreate", "RollingUpdate"]},
    "PersistentVolumeClaimSpec": {"volumeMode": ["Filesystem", "Block"]},
}

ACCESS_MODES = ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]
PORT = {"minimum": 1, "maximum": 65535}
COUNT = {"minimum": 0}
FILE_MODE = {"minimum": 0, "maximum": 0o777}
NOT_EMPTY = {"minLength": 1}
SUBDOMAIN = {"format": "dns-subdomain"}
LABEL = {"format": "dns-label"}
ID = {"minimum": 0, "maximum": 2**31 - 1}
"""Of a user or group."""

CONSTRAINTS: Mapping[str, Mapping[str, Any]] = {
    "ObjectMeta": {
        "name": SUBDOMAIN,
        "namespace": LABEL,
        "labels": {"propertyNames": {"format": "qualified-name"}, "additionalProperties": {"format": "label-value"}},
        "annotations": {"propertyNames": {"format": "qualified-name"}},
    },
    "LabelSelector": {
        "matchLabels": {
            "propertyNames": {"format": "qualified-name"},
            "additionalProperties": {"format": "label-value"},
        },
    },
    "PodSpec": {
        "containers": {"minItems": 1},
        "hostname": LABEL,
        "subdomain": LABEL,
        "serviceAccountName": SUBDOMAIN,
        "terminationGracePeriodSeconds": COUNT,
        "activeDeadlineSeconds": {"minimum": 1},
    },
    "PodSecurityContext": {"runAsUser": ID, "runAsGroup": ID, "fsGroup": ID, "supplementalGroups": {"items": ID}},
    "SecurityContext": {"runAsUser": ID, "runAsGroup": ID},
    "ExecAction": {"command": {"minItems": 1}, "required": ["command"]},
    "Container": {"name": LABEL, "image": {"format": "image-reference"}},
    "ContainerPort": {"containerPort": PORT, "hostPort": COUNT | {"maximum": 65535}, "name": {"format": "port-name"}},
    "GRPCAction": {"port": PORT},
    "TCPSocketAction": {"port": {"format": "port-name", **PORT}},
    "HTTPGetAction": {"port": {"format": "port-name", **PORT}},
    "Probe": {
        "initialDelaySeconds": COUNT,
        "timeoutSeconds": COUNT,
        "periodSeconds": COUNT,
        "successThreshold": COUNT,
        "failureThreshold": COUNT,
        "terminationGracePeriodSeconds": {"minimum": 1},
    },
    "SleepAction": {"seconds": COUNT},
    "EnvVar": {"name": {"format": "environment-name"}},
    "Volume": {"name": LABEL},
    "VolumeMount": {"mountPath": NOT_EMPTY | {"format": "mount-path"}, "subPath": {"format": "inner-path"}},
    "KeyToPath": {"mode": FILE_MODE, "path": NOT_EMPTY | {"format": "inner-path"}},
    "DownwardAPIVolumeFile": {"mode": FILE_MODE, "path": NOT_EMPTY | {"format": "inner-path"}},
    "ConfigMapVolumeSource": {"defaultMode": FILE_MODE},
    "SecretVolumeSource": {"defaultMode": FILE_MODE},
    "ProjectedVolumeSource": {"defaultMode": FILE_MODE},
    "DownwardAPIVolumeSource": {"defaultMode": FILE_MODE},
    "HostPathVolumeSource": {"path": NOT_EMPTY},
    "PersistentVolumeClaimVolumeSource": {"claimName": SUBDOMAIN},
    "PersistentVolumeClaimSpec": {"accessModes": {"minItems": 1, "items": {"enum": ACCESS_MODES}}},
    "ResourceRequirements": {
        "limits": {"propertyNames": {"format": "resource-name"}},
        "requests": {"propertyNames": {"format": "resource-name"}},
    },
    "VolumeResourceRequirements": {"requests": {"required": ["storage"]}, "required": ["requests"]},
    "DeploymentSpec": {
        "replicas": COUNT,
        "minReadySeconds": COUNT,
        "revisionHistoryLimit": COUNT,
        "progressDeadlineSeconds": COUNT,
    },
    "PodTemplateSpec": {"required": ["spec"]},
    "ConfigMap": {
        "data": {"propertyNames": {"format": "data-key"}},
        "binaryData": {"propertyNames": {"format": "data-key"}},
    },
    "Secret": {
        "data": {"propertyNames": {"format": "data-key"}},
        "stringData": {"propertyNames": {"format": "data-key"}},
    },
    "Sysctl": {"name": NOT_EMPTY},
    "HostAlias": {"ip": {"format": "ip-address"}},
}
"""What is merged into the schema of a field; under `required`, into the definition itself."""

INTEGERS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}
KEPT = {"properties", "items", "additionalProperties", "required", "type", "enum", "$ref", "minimum", "maximum"}
NOT_OBJECTS = ("List", "Options", "Status", "WatchEvent", "Scale", "Eviction", "TokenRequest", "Binding")


def main() -> None:
    """Writes the schema file."""
    source = files("kubernetes_validate") / "kubernetes-json-schema" / f"{RELEASE}-local-strict" / "_definitions.json"
    published: Schema = json.loads(source.read_text())["$defs"]
    definitions: Schema = {}
    queue = list(ROOTS.values())
    while queue:
        full_name = queue.pop()
        if (name := short(full_name)) not in definitions:
            fields = without_server_fields(name, published[full_name])
            definitions[name] = define(name, fields)
            queue.extend(() if name in REPLACED else references(fields))
    schema = {
        "$comment": f"Written by scripts/kubernetes_schemas.py from the schemas of Kubernetes {RELEASE}.",
        "kinds": known_kinds(published),
        "$defs": dict(sorted(definitions.items())),
    }
    TARGET.write_text(json.dumps(schema, separators=(",", ":")) + "\n")


def short(name: str) -> str:
    """`io.k8s.api.core.v1.Pod` → `Pod`; the definitions reached from our kinds have distinct short names."""
    return name.rsplit(".", 1)[-1]


def without_server_fields(name: str, published: Schema) -> Schema:
    """The published definition without what only a server writes."""
    left_out = WRITTEN_BY_SERVERS.get(name, [])
    properties = published.get("properties", {})
    return {**published, "properties": {field: schema for field, schema in properties.items() if field not in left_out}}


def define(name: str, published: Schema) -> Schema:
    """The definition `name` with everything added that the published one lacks."""
    if name in REPLACED:
        return dict(REPLACED[name])
    definition = tidy(published)
    properties = definition.get("properties", {})
    for field, values in ENUMS.get(name, {}).items():
        properties[field]["enum"] = values
    for field, constraint in CONSTRAINTS.get(name, {}).items():
        if field == "required":
            definition["required"] = [*definition.get("required", ()), *constraint]
        else:
            properties[field] = combine(properties[field], constraint)
    if name in REQUIRED:
        definition["required"] = [*definition.get("required", ()), *REQUIRED[name]]
    return definition


def tidy(schema: Schema) -> Schema:
    """Without descriptions and extensions; without `null`, which is removed from a manifest before it is checked."""
    tidied = {key: value for key, value in schema.items() if key in KEPT}
    if isinstance(types := tidied.get("type"), list):
        tidied["type"] = next(name for name in types if name != "null")
    if "$ref" in tidied:
        return {"$ref": f"#/$defs/{short(tidied['$ref'])}"}
    if not tidied.get("properties", True):
        del tidied["properties"]
    if "properties" in tidied:
        tidied["properties"] = {name: tidy(field) for name, field in tidied["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(tidied.get(key), dict):
            tidied[key] = tidy(tidied[key])
    if bounds := INTEGERS.get(schema.get("format", "")):
        tidied["minimum"], tidied["maximum"] = bounds
    if schema.get("format") == "byte":
        tidied["format"] = "base64"
    return tidied


def combine(schema: Schema, constraint: Schema) -> Schema:
    """`constraint` over `schema`, one level into `items` and `additionalProperties`."""
    combined = {**schema, **constraint}
    for key in ("items", "additionalProperties"):
        if key in constraint and key in schema:
            combined[key] = {**schema[key], **constraint[key]}
    return combined


def references(schema: Any) -> Iterator[str]:
    """The full names of all definitions that `schema` refers to."""
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.rsplit("/", 1)[-1]
        for value in schema.values():
            yield from references(value)


def known_kinds(published: Schema) -> dict[str, list[str]]:
    """Each kind that Kubernetes has, with the API versions that have it."""
    kinds: dict[str, set[str]] = {"List": {"v1"}}
    for definition in published.values():
        for entry in definition.get("x-kubernetes-group-version-kind", ()):
            if not entry["kind"].endswith(NOT_OBJECTS):
                version = "/".join(part for part in (entry["group"], entry["version"]) if part)
                kinds.setdefault(entry["kind"], set()).add(version)
    return {kind: sorted(versions) for kind, versions in sorted(kinds.items())}


if __name__ == "__main__":
    main()
