"""What engines make of each field of a manifest: one table, applied by `fields`. Pure data.

tests/corpus/README.md explains the rows: a value is honoured, silent, warned of or refused; what has no row is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Whole:
    """A field that is honoured with all that is in it."""


@dataclass(frozen=True, slots=True)
class Only:
    """A field of which these values alone are honoured, or change nothing here."""

    values: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Ignored:
    """A field without effect on a single node: warned of, but for these values, which ask for what happens anyway."""

    values: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Guarded:
    """A field that reaches for the machine, except with these values: only where the node's policy grants it."""

    values: tuple[object, ...] = (False,)


@dataclass(frozen=True, slots=True)
class Each:
    """A list whose items each follow the rule."""

    rule: Whole | Only | Ignored | Guarded


Tree = Mapping[str, "Rule"]
Rule = Whole | Only | Ignored | Guarded | Each | Tree

_ANY = Whole()
_NO = Only((False,))
_IGNORED = Ignored()

_METADATA: Tree = {"name": _ANY, "namespace": _ANY, "labels": _ANY, "annotations": _ANY}
_HEAD: Tree = {"apiVersion": _ANY, "kind": _ANY, "metadata": _METADATA}
_ROOM: Tree = {"cpu": _ANY, "memory": _ANY}
_KEY_REF: Tree = {"name": _ANY, "key": _ANY, "optional": _ANY}
_RESOURCE_REF: Tree = {
    "containerName": _ANY,
    "divisor": _ANY,
    "resource": Only(("limits.cpu", "limits.memory", "requests.cpu", "requests.memory")),
}
_FIELD_REF: Tree = {"apiVersion": _ANY, "fieldPath": _ANY}  # `references` knows the paths

BASELINE_CAPABILITIES = (
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)

_PROFILE: Tree = {"type": Only(("RuntimeDefault",)), "localhostProfile": _ANY}  # the type says it all
_CONTAINER_SECURITY: Tree = {
    "runAsUser": _ANY,
    "runAsGroup": _ANY,
    "runAsNonRoot": _ANY,
    "readOnlyRootFilesystem": _ANY,
    "allowPrivilegeEscalation": _ANY,
    "privileged": Guarded(),
    "capabilities": {"drop": _ANY, "add": Each(Guarded(BASELINE_CAPABILITIES))},
    "seccompProfile": _PROFILE,
    "appArmorProfile": _PROFILE,
    "seLinuxOptions": _ANY,
    "procMount": Only(("Default",)),
}
_POD_SECURITY: Tree = {
    "runAsUser": _ANY,
    "runAsGroup": _ANY,
    "runAsNonRoot": _ANY,
    "fsGroup": _ANY,
    "fsGroupChangePolicy": _ANY,  # a volume is made with its group
    "supplementalGroups": _ANY,
    "supplementalGroupsPolicy": Only(("Merge",)),
    "seccompProfile": _PROFILE,
    "appArmorProfile": _PROFILE,
    "seLinuxOptions": _ANY,
}
_HOOK: Tree = {"exec": _ANY, "httpGet": _ANY, "tcpSocket": _ANY, "sleep": _ANY}
_PROBE: Tree = {
    "exec": _ANY,
    "httpGet": _ANY,
    "tcpSocket": _ANY,
    "grpc": _ANY,
    "initialDelaySeconds": _ANY,
    "periodSeconds": _ANY,
    "timeoutSeconds": _ANY,
    "successThreshold": _ANY,
    "failureThreshold": _ANY,
    "terminationGracePeriodSeconds": _ANY,
}
_CONTAINER: Tree = {
    "name": _ANY,
    "image": _ANY,
    "imagePullPolicy": _ANY,
    "command": _ANY,
    "args": _ANY,
    "workingDir": _ANY,
    "env": {
        "name": _ANY,
        "value": _ANY,
        "valueFrom": {
            "configMapKeyRef": _KEY_REF,
            "secretKeyRef": _KEY_REF,
            "fieldRef": _FIELD_REF,
            "resourceFieldRef": _RESOURCE_REF,
        },
    },
    "envFrom": {
        "prefix": _ANY,
        "configMapRef": {"name": _ANY, "optional": _ANY},
        "secretRef": {"name": _ANY, "optional": _ANY},
    },
    "ports": {
        "name": _ANY,  # only Services, probes and hooks refer to it
        "containerPort": _ANY,
        "hostPort": _ANY,
        "hostIP": _ANY,
        "protocol": Only(("TCP", "UDP")),
    },
    "resources": {"limits": _ROOM, "requests": {**_ROOM, "ephemeral-storage": _IGNORED}},
    "resizePolicy": _IGNORED,
    "lifecycle": {"postStart": _HOOK, "preStop": _HOOK},
    "startupProbe": _PROBE,
    "livenessProbe": _PROBE,
    "readinessProbe": _PROBE,
    "volumeMounts": {
        "name": _ANY,
        "mountPath": _ANY,
        "readOnly": _ANY,
        "subPath": _ANY,
        "subPathExpr": _ANY,
        "mountPropagation": Only(("None",)),
        "recursiveReadOnly": Only(("Disabled", "IfPossible")),
    },
    "securityContext": _CONTAINER_SECURITY,
    "stdin": _NO,
    "stdinOnce": _NO,
    "tty": _ANY,
    "terminationMessagePath": Ignored(("/dev/termination-log",)),
    "terminationMessagePolicy": Ignored(("File",)),
}

_ITEMS: Tree = {"key": _ANY, "path": _ANY, "mode": _ANY}
_DOWNWARD_ITEMS: Tree = {"path": _ANY, "mode": _ANY, "fieldRef": _FIELD_REF, "resourceFieldRef": _RESOURCE_REF}
_VOLUME: Tree = {
    "name": _ANY,
    "emptyDir": {"medium": Only(("", "Memory")), "sizeLimit": _ANY},  # `references` knows on what
    "configMap": {"name": _ANY, "items": _ITEMS, "defaultMode": _ANY, "optional": _ANY},
    "secret": {"secretName": _ANY, "items": _ITEMS, "defaultMode": _ANY, "optional": _ANY},
    "downwardAPI": {"items": _DOWNWARD_ITEMS, "defaultMode": _ANY},
    "projected": {
        "defaultMode": _ANY,
        "sources": {
            "configMap": {"name": _ANY, "items": _ITEMS, "optional": _ANY},
            "secret": {"name": _ANY, "items": _ITEMS, "optional": _ANY},
            "downwardAPI": {"items": _DOWNWARD_ITEMS},
        },
    },
    "persistentVolumeClaim": {"claimName": _ANY, "readOnly": _ANY},
    "hostPath": Guarded(()),
}

_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_WISHES: Tree = {_PREFERRED: _IGNORED}
_POD_SPEC: Tree = {
    "containers": _CONTAINER,
    "initContainers": _CONTAINER,
    "volumes": _VOLUME,
    "restartPolicy": _ANY,
    "terminationGracePeriodSeconds": _ANY,
    "hostname": _ANY,
    "hostAliases": _ANY,
    "imagePullSecrets": _ANY,
    "dnsPolicy": _ANY,  # without a cluster all but None mean the machine's
    "dnsConfig": _ANY,
    "shareProcessNamespace": _ANY,
    "hostNetwork": Guarded(),
    "hostPID": _NO,
    "hostIPC": _NO,
    "hostUsers": Only((True,)),
    "enableServiceLinks": _ANY,  # there are no Services whose addresses could be added
    "setHostnameAsFQDN": _NO,
    "nodeSelector": _ANY,  # `references` knows this machine
    "affinity": {"nodeAffinity": _WISHES, "podAffinity": _WISHES, "podAntiAffinity": _WISHES},
    "topologySpreadConstraints": _ANY,  # `references` tells wishes from conditions
    "tolerations": _IGNORED,
    "priorityClassName": _IGNORED,
    "priority": _IGNORED,
    "preemptionPolicy": _IGNORED,
    "schedulerName": Ignored(("default-scheduler",)),
    "serviceAccountName": _ANY,  # `references`
    "serviceAccount": _ANY,
    "automountServiceAccountToken": _NO,
    "os": {"name": Only(("linux",))},
    "securityContext": _POD_SECURITY,
}

POD: Tree = {**_HEAD, "spec": _POD_SPEC}
DEPLOYMENT: Tree = {
    **_HEAD,
    "spec": {
        "replicas": _ANY,
        "selector": _ANY,
        "template": {"metadata": _METADATA, "spec": _POD_SPEC},
        "strategy": {"type": _ANY, "rollingUpdate": _IGNORED},
        "minReadySeconds": Ignored((0,)),
        "revisionHistoryLimit": _IGNORED,
        "progressDeadlineSeconds": _IGNORED,
        "paused": _NO,
    },
}
CONFIG_MAP: Tree = {**_HEAD, "data": _ANY, "binaryData": _ANY, "immutable": _ANY}
SECRET: Tree = {**_HEAD, "data": _ANY, "stringData": _ANY, "immutable": _ANY, "type": _ANY}
CLAIM: Tree = {
    **_HEAD,
    "spec": {
        "accessModes": _ANY,  # `references` knows the replicas
        "resources": {"requests": {"storage": _IGNORED}},
        "storageClassName": Ignored(("",)),
        "volumeAttributesClassName": Ignored(("",)),
        "volumeMode": Only(("Filesystem",)),
    },
}
TREES: Mapping[str, Tree] = {
    "Pod": POD,
    "Deployment": DEPLOYMENT,
    "ConfigMap": CONFIG_MAP,
    "Secret": SECRET,
    "PersistentVolumeClaim": CLAIM,
}
KINDS = tuple(TREES)
WORKLOADS = ("Pod", "Deployment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Honours:
    """What one engine keeps of manifests."""

    engine: str
    """Its id, for what is said of it."""
    trees: Mapping[str, Tree] = field(default_factory=lambda: TREES)
    """By kind."""
    init_terminals: bool = True
    """Whether an init container may have a terminal."""


def differing(trees: Mapping[str, Tree], pod_spec: Tree) -> Mapping[str, Tree]:
    """The trees with other rules for some fields of a PodSpec."""
    found = dict(trees)
    pod = found["Pod"]
    found["Pod"] = {**pod, "spec": {**_tree(pod["spec"]), **pod_spec}}
    deployment = found["Deployment"]
    spec = _tree(deployment["spec"])
    template = _tree(spec["template"])
    changed = {**template, "spec": {**_tree(template["spec"]), **pod_spec}}
    found["Deployment"] = {**deployment, "spec": {**spec, "template": changed}}
    return found


def _tree(rule: Rule) -> Tree:
    assert isinstance(rule, Mapping)  # noqa: S101 - the table above has it so
    return rule
