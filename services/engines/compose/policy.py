"""What becomes of each field of a Compose file: one table, applied by `fields`. Pure data.

A field is honoured, refused where it has one of the values that `Not` or `Only` tell, needs the node's leave, or is
warned of. What has no row is refused: Compose learns new fields faster than we judge what they may reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Honoured:
    """Compose does what it says."""


@dataclass(frozen=True, slots=True)
class Silent:
    """It changes nothing of what runs here."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """Compose drops it without a word, and the workload means the same: warned of."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """It cannot be kept; who can live without it may ask for lenient validation."""

    why: str


@dataclass(frozen=True, slots=True)
class Forbidden:
    """Never: it makes Compose itself read, fetch or execute something."""

    why: str


@dataclass(frozen=True, slots=True)
class Guarded:
    """It reaches for the machine: only where the node's policy grants that."""

    why: str


@dataclass(frozen=True, slots=True)
class Only:
    """Honoured with these values; `otherwise` for any other."""

    values: tuple[object, ...]
    otherwise: Refused | Guarded | Forbidden


@dataclass(frozen=True, slots=True)
class Not:
    """Honoured, except for a text that begins with one of these words."""

    prefixes: tuple[str, ...]
    otherwise: Refused | Guarded | Forbidden


@dataclass(frozen=True, slots=True)
class Without:
    """Honoured, except for a text that has this word in it."""

    word: str
    otherwise: Refused | Guarded | Forbidden


@dataclass(frozen=True, slots=True)
class Entries:
    """A list, or a mapping by free names, whose entries each follow the rule; where the entry is text, `text` does."""

    rule: Rule
    text: Rule = field(default_factory=Honoured)


@dataclass(frozen=True, slots=True)
class Judged:
    """A function of `fields` knows, beside what is said of the fields in it."""

    name: str
    fields: Tree | None = None


Tree = Mapping[str, "Rule"]
Rule = Honoured | Silent | Ignored | Refused | Forbidden | Guarded | Only | Not | Without | Entries | Judged | Tree

_YES = Honoured()
_MACHINE = "reaches for the machine itself"
_OTHERS = "reaches for what is not of this workload"
_GUARDED = Guarded(_MACHINE)
_SHARED = Guarded(_OTHERS)
_SWARM = Ignored("has no effect outside a Swarm")
_HOOK = Refused("would not be run when the engine stops or starts the workload")
_OTHER_SPACE = Not(("host", "container:"), Guarded(_MACHINE))

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
"""What a container has anyway, or may have by the Baseline pod security standard."""

_ROOM: Tree = {"cpus": _YES, "memory": _YES, "pids": _YES}
_DEPLOY: Tree = {
    "mode": Only(("replicated", "global"), Refused("is of a Swarm")),
    "replicas": _YES,
    "resources": {
        "limits": _ROOM,
        "reservations": {
            **_ROOM,
            "devices": _GUARDED,
            "generic_resources": Refused("is of a Swarm"),
        },
    },
    "restart_policy": {
        "condition": _YES,
        "max_attempts": _YES,
        "delay": _SWARM,
        "window": _SWARM,
    },
    "labels": _SWARM,
    "update_config": _SWARM,
    "rollback_config": _SWARM,
    "endpoint_mode": Only(("vip", "dnsrr"), Refused("is no endpoint mode")),
    "placement": Refused("is a condition that only a Swarm keeps"),
}
_LOGGING: Tree = {
    "driver": Only(("json-file", "local", "none", ""), Guarded("sends the log elsewhere, as the machine's own daemon")),
    "options": _YES,
}
MOUNT: Tree = {
    "type": Only(("volume", "tmpfs", "bind"), Refused("is no kind of mount that this engine has")),
    "source": _YES,  # judged with the type
    "target": _YES,
    "read_only": _YES,
    "consistency": Silent(),
    "bind": _YES,
    "volume": {"nocopy": _YES, "labels": _YES, "subpath": _YES},
    "tmpfs": {"size": _YES, "mode": _YES},
}

SERVICE: Tree = {
    "annotations": _YES,
    "attach": Silent(),
    "blkio_config": _GUARDED,
    "build": Refused("images are not built here; build it, push it, and name it under image"),
    "cap_add": Judged("capabilities"),
    "cap_drop": _YES,
    "cgroup": Only(("private",), _GUARDED),
    "cgroup_parent": _GUARDED,
    "command": _YES,
    "configs": Entries({"source": _YES, "target": _YES, "uid": _YES, "gid": _YES, "mode": _YES}),
    "container_name": Guarded("is one name for the whole machine, which two workloads cannot both have"),
    "cpu_period": _YES,
    "cpu_quota": _YES,
    "cpu_shares": _YES,
    "cpus": _YES,
    "cpuset": _YES,
    "depends_on": Entries({"condition": _YES, "required": _YES, "restart": _YES}),
    "deploy": _DEPLOY,
    "develop": Ignored("is for `docker compose watch`"),
    "device_cgroup_rules": _GUARDED,
    "devices": _GUARDED,
    "dns": _YES,
    "dns_opt": _YES,
    "dns_search": _YES,
    "domainname": _YES,
    "entrypoint": _YES,
    "env_file": Judged("files"),
    "environment": _YES,
    "expose": _YES,
    "extends": Judged("extends"),
    "external_links": _SHARED,
    "extra_hosts": _YES,
    "gpus": _GUARDED,
    "group_add": _YES,
    "healthcheck": _YES,
    "hostname": _YES,
    "image": _YES,
    "init": _YES,
    "ipc": _OTHER_SPACE,
    "label_file": Judged("files"),
    "labels": Judged("labels"),
    "links": _YES,
    "logging": _LOGGING,
    "mac_address": _YES,
    "mem_limit": _YES,
    "mem_reservation": _YES,
    "mem_swappiness": _YES,
    "memswap_limit": _YES,
    "models": Forbidden("makes Compose run a model on this machine"),
    "network_mode": Judged("network_mode"),
    "networks": Entries(
        {
            "aliases": _YES,
            "driver_opts": _GUARDED,
            "gw_priority": _YES,
            "interface_name": _YES,
            "ipv4_address": _YES,
            "ipv6_address": _YES,
            "link_local_ips": _YES,
            "mac_address": _YES,
            "priority": _YES,
        }
    ),
    "oom_kill_disable": Only((False,), _GUARDED),
    "oom_score_adj": _GUARDED,
    "pid": _OTHER_SPACE,
    "pids_limit": _YES,
    "platform": _YES,
    "ports": _YES,
    "post_start": _HOOK,
    "pre_stop": _HOOK,
    "privileged": Only((False,), _GUARDED),
    "profiles": _YES,
    "provider": Forbidden("makes Compose execute a program of this machine"),
    "pull_policy": Not(("build",), Refused("images are not built here")),
    "read_only": _YES,
    "restart": _YES,
    "runtime": _GUARDED,
    "scale": _YES,
    "secrets": Entries({"source": _YES, "target": _YES, "uid": _YES, "gid": _YES, "mode": _YES}),
    "security_opt": Judged("security_options"),
    "shm_size": _YES,
    "stdin_open": _YES,
    "stop_grace_period": _YES,
    "stop_signal": _YES,
    "storage_opt": _YES,
    "sysctls": _YES,
    "tmpfs": _YES,
    "tty": _YES,
    "ulimits": _YES,
    "use_api_socket": Only((False,), _GUARDED),
    "user": _YES,
    "userns_mode": _GUARDED,
    "uts": _OTHER_SPACE,
    "volumes": Entries(Judged("mount", MOUNT), text=Judged("mount")),
    "volumes_from": Entries({}, text=Not(("container:",), _SHARED)),
    "working_dir": _YES,
}
NETWORK: Tree = {
    "attachable": _YES,
    "driver": Only(("", "bridge", "default"), Guarded("joins the machine's own network")),
    "driver_opts": _GUARDED,
    "enable_ipv4": _YES,
    "enable_ipv6": _YES,
    "external": Only((False,), _SHARED),
    "internal": _YES,
    "ipam": _YES,
    "labels": Judged("labels"),
    "name": _SHARED,
}
VOLUME: Tree = {
    "driver": Only(("", "local", "default"), _GUARDED),
    "driver_opts": _GUARDED,
    "external": Only((False,), _SHARED),
    "labels": _YES,
    "name": _SHARED,
}
_DRIVEN = Refused("is of a Swarm")
_CONFIG: Tree = {
    "content": _YES,
    "environment": Judged("variable"),
    "external": Only((False,), Refused("is kept by a Swarm, which is not here")),
    "file": Judged("files"),
    "labels": Silent(),
    "name": Silent(),
    "driver": _DRIVEN,
    "driver_opts": _DRIVEN,
    "template_driver": _DRIVEN,
}
PROJECT: Tree = {
    "version": Silent(),
    "name": Silent(),
    "services": Entries(SERVICE),
    "networks": Entries(NETWORK),
    "volumes": Entries(VOLUME),
    "configs": Entries(_CONFIG),
    "secrets": Entries(_CONFIG),
    "models": Forbidden("makes Compose run a model on this machine"),
    "include": Forbidden("makes Compose read other files, and fetch repositories"),
}
