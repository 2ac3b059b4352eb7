"""The workloads of the conformance suite that are Pods and Deployments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.conformance.workloads import (
    FAILED,
    RUNNING,
    STOPPED,
    SUCCEEDED,
    Answers,
    Example,
    Is,
    Logs,
    Shows,
    Step,
    start,
    stop,
)

WAITS = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
_MEMORY = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
_QUOTA = "cut -d' ' -f1 /sys/fs/cgroup/cpu.max 2>/dev/null || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"


def main(script: str = WAITS, *, name: str = "main", **fields: Any) -> dict[str, Any]:
    """A container that runs a script."""
    return {"name": name, "image": "IMAGE", "command": ["sh", "-c", script], **fields}


def pod(*containers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A Pod of these containers."""
    spec = {"terminationGracePeriodSeconds": 5, "containers": list(containers), **fields}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "NAME"}, "spec": spec}


def deployment(replicas: int, *containers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A Deployment of them."""
    made, labels = pod(*containers, **fields), {"app": "NAME"}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": made["spec"]},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "NAME"}, "spec": spec}


def text(*documents: dict[str, Any]) -> str:
    """The manifest."""
    return "\n---\n".join(json.dumps(document) for document in documents)


def of(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    """A ConfigMap, Secret or claim."""
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **fields}


SETTINGS = of("ConfigMap", "settings", data={"colour": "blue", "empty": ""}, binaryData={"bin": "AAEC"})
KEYS = of("Secret", "keys", data={"token": "aHVzaA=="}, stringData={"user": "me"})
CLAIM = of(
    "PersistentVolumeClaim",
    "data",
    spec={"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
)
SERVES = f"mkdir -p /w; echo here > /w/index.html; httpd -p 8080 -h /w; {WAITS}"


def _reads(name: str, kind: str, key: str) -> dict[str, Any]:
    reference = {"name": "settings" if kind == "configMapKeyRef" else "keys", "key": key}
    return {"name": name, "valueFrom": {kind: reference}}


EXAMPLES: Sequence[Example] = (
    Example(
        name="one-network",
        title="Containers of a pod reach each other on localhost, and the machine reaches their port.",
        text=text(
            pod(
                main(SERVES, ports=[{"containerPort": 8080, "hostPort": "PORT"}]),
                main(f"until wget -qO- localhost:8080; do sleep 0.1; done; {WAITS}", name="client"),
            )
        ).replace('"PORT"', "PORT"),
        expects=[
            Is("main", RUNNING),
            Is("client", RUNNING),
            Answers("here"),
            Logs("client", ["here"]),
            Shows("client", "hostname", "NAME"),
        ],
        steps=[
            Step(act=stop, expects=[Is("main", STOPPED, exit_code=0)]),
            Step(act=start, expects=[Is("main", RUNNING), Is("client", RUNNING), Answers("here")]),
        ],
    ),
    Example(
        name="variables",
        title="Variables come from literals, ConfigMaps, Secrets and the pod itself, and refer to each other.",
        text=text(
            pod(
                main(
                    'echo "$1"; ' + WAITS,
                    args=["sh", "$(GREETING) $(NOBODY) $$(GREETING)"],
                    env=[
                        {"name": "WHO", "value": "you"},
                        {"name": "GREETING", "value": "hello $(WHO)"},
                        _reads("COLOUR", "configMapKeyRef", "colour"),
                        _reads("TOKEN", "secretKeyRef", "token"),
                        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                        {"name": "ROOM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                    ],
                    envFrom=[{"prefix": "K_", "secretRef": {"name": "keys"}}],
                    resources={"limits": {"memory": "64Mi"}},
                )
            ),
            SETTINGS,
            KEYS,
        ),
        expects=[
            Shows("main", "echo $COLOUR $TOKEN $POD $K_user $ROOM", "blue hush NAME me 67108864"),
            Logs("main", ["hello you $(NOBODY) $(GREETING)"]),
        ],
    ),
    Example(
        name="files",
        title="Files come from ConfigMaps, Secrets and the pod itself, with modes and group, and cannot be changed.",
        text=text(
            pod(
                main(
                    volumeMounts=[
                        {"name": "settings", "mountPath": "/settings"},
                        {"name": "all", "mountPath": "/all"},
                        {"name": "settings", "mountPath": "/one", "subPath": "colour"},
                    ]
                ),
                securityContext={"fsGroup": 4321},
                volumes=[
                    {"name": "settings", "configMap": {"name": "settings", "defaultMode": 0o640}},
                    {
                        "name": "all",
                        "projected": {
                            "sources": [
                                {"secret": {"name": "keys", "items": [{"key": "token", "path": "a/t", "mode": 256}]}},
                                {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                            ]
                        },
                    },
                ],
            ),
            SETTINGS,
            KEYS,
        ),
        expects=[
            Shows("main", "cat /settings/colour /one /all/a/t; cat /all/n; wc -c < /settings/bin", "bluebluehushNAME3"),
            Shows("main", "stat -c '%a %g' /settings/colour /all/a/t | tr '\\n' ' '", "640 4321 440 4321"),
            Shows("main", "touch /settings/x 2>/dev/null || echo no", "no"),
        ],
    ),
    Example(
        name="directories",
        title="An emptyDir is one for all containers of a replica and each replica's own; a part of it can be mounted.",
        text=text(
            deployment(
                2,
                main(f"hostname > /d/name; ls /d > /d/seen; {WAITS}", volumeMounts=[{"name": "d", "mountPath": "/d"}]),
                main(name="side", volumeMounts=[{"name": "d", "mountPath": "/e", "readOnly": True}]),
                main(name="part", volumeMounts=[{"name": "p", "mountPath": "/p", "subPath": "x/y"}]),
                volumes=[{"name": "d", "emptyDir": {}}, {"name": "p", "emptyDir": {}}],
            )
        ),
        expects=[
            Is("main", RUNNING, replicas=2),
            Shows("side", "cat /e/seen | tr '\\n' ' '", "name seen"),
            Shows("side", "touch /e/x 2>/dev/null || echo no", "no"),
            Shows("part", "echo 1 > /p/f && cat /p/f", "1"),
        ],
    ),
    Example(
        name="memory",
        title="An emptyDir in memory has the size that it was given.",
        text=text(
            pod(
                main(volumeMounts=[{"name": "m", "mountPath": "/m"}]),
                volumes=[{"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
            )
        ),
        expects=[
            Shows("main", "df -k /m | tail -1 | awk '{print $2}'", "1024"),
            Shows("main", "dd if=/dev/zero of=/m/f bs=64k count=32 2>/dev/null || echo full", "full"),
        ],
    ),
    Example(
        name="claim",
        title="What is written into a claim is there after a stop.",
        text=text(
            pod(
                main(f"echo run >> /d/runs; {WAITS}", volumeMounts=[{"name": "d", "mountPath": "/d"}]),
                volumes=[{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}],
            ),
            CLAIM,
        ),
        expects=[Shows("main", "cat /d/runs", "run")],
        steps=[
            Step(act=stop, expects=[Is("main", STOPPED)]),
            Step(act=start, expects=[Shows("main", "cat /d/runs", "run\nrun")]),
        ],
    ),
    Example(
        name="limits",
        title="Limits are those that the kernel enforces.",
        text=text(pod(main(resources={"limits": {"memory": "64Mi", "cpu": "500m"}, "requests": {"memory": "16Mi"}}))),
        expects=[Shows("main", _MEMORY, str(64 << 20)), Shows("main", _QUOTA, "50000")],
    ),
    Example(
        name="too-much-memory",
        title="Who takes more memory than it may is killed, and told so.",
        text=text(
            pod(
                main("exec tail /dev/zero", resources={"limits": {"memory": "16Mi"}}),
                restartPolicy="Never",
            )
        ),
        expects=[Is("main", FAILED, exit_code=137, reason="OOMKilled")],
    ),
    Example(
        name="exits",
        title="What ends is told with its exit code, whole pods that run once to their end too.",
        text=text(pod(main("echo done; exit 0"), main("echo broken >&2; exit 3", name="bad"), restartPolicy="Never")),
        expects=[
            Is("main", SUCCEEDED, exit_code=0),
            Is("bad", FAILED, exit_code=3),
            Logs("main", ["done"]),
            Logs("bad", ["broken"]),
        ],
    ),
    Example(
        name="restarts",
        title="What fails is started again, counted, and told how it ended; its log goes on.",
        text=text(
            pod(
                main(
                    f"echo run; [ -e /d/2 ] && {{ echo up; {WAITS}; }}; touch /d/2; exit 7",
                    volumeMounts=[{"name": "d", "mountPath": "/d"}],
                ),
                restartPolicy="OnFailure",
                volumes=[{"name": "d", "emptyDir": {}}],
            )
        ),
        expects=[Is("main", RUNNING, restarts=1, last_exit_code=7), Logs("main", ["run", "run", "up"])],
    ),
    Example(
        name="first",
        title="Init containers run one after the other, to their ends, before the others start.",
        text=text(
            pod(
                main(f"cat /d/order; {WAITS}", volumeMounts=[{"name": "d", "mountPath": "/d"}]),
                initContainers=[
                    main(
                        f"sleep 0.3; echo {name} >> /d/order",
                        name=name,
                        volumeMounts=[{"name": "d", "mountPath": "/d"}],
                    )
                    for name in ("one", "two")
                ],
                volumes=[{"name": "d", "emptyDir": {}}],
            )
        ),
        expects=[
            Is("one", SUCCEEDED, exit_code=0),
            Is("two", SUCCEEDED, exit_code=0),
            Is("main", RUNNING),
            Logs("main", ["one", "two"]),
        ],
    ),
    Example(
        name="rights",
        title="Users, groups, capabilities and a root directory that cannot be written are the manifest's.",
        text=text(
            pod(
                main(
                    securityContext={
                        "runAsUser": 1234,
                        "readOnlyRootFilesystem": True,
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    }
                ),
                main(name="root", securityContext={"capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}}),
                securityContext={"runAsGroup": 2345, "supplementalGroups": [3456]},
            )
        ),
        expects=[
            Shows("main", "id -u; id -g; id -G", "1234\n2345\n2345 3456"),
            Shows("main", "touch /x 2>/dev/null || echo no", "no"),
            Shows("main", "grep NoNewPrivs /proc/self/status | tr -d '\\t'", "NoNewPrivs:1"),
            Shows("root", "grep CapEff /proc/self/status | tr -d '\\t'", "CapEff:0000000000000001"),
        ],
    ),
    Example(
        name="readiness",
        title="A container is ready when its probe says so, and not before.",
        text=text(
            pod(
                main(
                    f"mkdir /w; httpd -p 8080 -h /w; sleep 2; echo up > /w/index.html; {WAITS}",
                    readinessProbe={"httpGet": {"port": 8080, "path": "/index.html"}, "periodSeconds": 1},
                )
            )
        ),
        expects=[Is("main", RUNNING, ready=False, reason="NotReady"), Is("main", RUNNING, ready=True)],
    ),
    Example(
        name="liveness",
        title="A container whose probe fails is restarted, and told why.",
        text=text(
            pod(
                main(
                    f"[ -e /d/2 ] || {{ touch /d/2; touch /sick; }}; {WAITS}",
                    livenessProbe={
                        "exec": {"command": ["sh", "-c", "[ ! -e /sick ] || [ -e /d/3 ] || { touch /d/3; exit 1; }"]},
                        "periodSeconds": 1,
                        "failureThreshold": 1,
                    },
                    volumeMounts=[{"name": "d", "mountPath": "/d"}],
                ),
                volumes=[{"name": "d", "emptyDir": {}}],
            )
        ),
        expects=[Is("main", RUNNING, restarts=1, last_exit_code=0)],
    ),
    Example(
        name="hooks",
        title="Hooks run after the start and before the end, which comes with the signal and in time.",
        text=text(
            pod(
                main(
                    "trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.1; done",
                    lifecycle={
                        "postStart": {"exec": {"command": ["sh", "-c", "echo started > /proc/1/fd/1"]}},
                        "preStop": {"exec": {"command": ["sh", "-c", "echo ending > /proc/1/fd/1"]}},
                    },
                )
            )
        ),
        expects=[Logs("main", ["started"])],
        steps=[Step(act=stop, expects=[Logs("main", ["ending", "term"]), Is("main", STOPPED, exit_code=0)])],
    ),
    Example(
        name="names",
        title="The pod's own names for hosts, its resolver and its hostname count in all its containers.",
        text=text(
            pod(
                main(),
                hostname="inside",
                hostAliases=[{"ip": "192.0.2.7", "hostnames": ["far", "away"]}],
                dnsPolicy="None",
                dnsConfig={"nameservers": ["192.0.2.53"], "searches": ["corp.example"]},
            )
        ),
        expects=[
            Shows("main", "hostname", "inside"),
            Shows("main", "grep -c '^192.0.2.7.*far' /etc/hosts", "1"),
            Shows("main", "grep nameserver /etc/resolv.conf", "nameserver 192.0.2.53"),
            Shows("main", "grep search /etc/resolv.conf", "search corp.example"),
        ],
    ),
    Example(
        name="processes",
        title="Containers that share their processes see each other's.",
        text=text(pod(main(f"sleep 4242 & {WAITS}"), main(name="side"), shareProcessNamespace=True)),
        expects=[Shows("side", "ps | grep -c '[s]leep 4242$'", "1")],
    ),
    Example(
        name="terminal",
        title="A container has a terminal where it asks for one.",
        text=text(
            pod(main(f"[ -t 1 ] && echo yes; {WAITS}", tty=True), main(f"[ -t 1 ] || echo no; {WAITS}", name="side"))
        ),
        expects=[Logs("main", ["yes"]), Logs("side", ["no"])],
    ),
    Example(
        name="terminal-first",
        title="An init container has a terminal where it asks for one.",
        text=text(pod(main(), initContainers=[main("[ -t 1 ] && echo yes", name="first", tty=True)])),
        expects=[Logs("first", ["yes"])],
    ),
    Example(
        name="little-memory",
        title="A container may be given very little memory.",
        text=text(pod(main(resources={"limits": {"memory": "5Mi"}}))),
        expects=[Shows("main", _MEMORY, str(5 << 20))],
    ),
    Example(
        name="new-working-directory",
        title="A working directory that the image does not have is made.",
        text=text(pod(main(f"pwd; {WAITS}", workingDir="/not/there"))),
        expects=[Logs("main", ["/not/there"])],
    ),
)
