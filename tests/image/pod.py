"""pod: a container of a pod as runc is told to run it: what kubelet and containerd make of the manifest's words.

Law: no field of the manifest is passed over.  It is carried out here, or it stands in a table of those that mean
nothing to one container on one machine; any other is an error, so that a manifest can't come to say what no test heeds.

Sources: the OCI runtime specification, config.md and config-linux.md; containerd's CRI plugin for its defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

# What other parts of Kubernetes do: the scheduler, the controllers, kubelet with its probes.
_POD_ELSEWHERE = {
    "automountServiceAccountToken",
    "nodeSelector",
    "priorityClassName",
    "serviceAccountName",
    "terminationGracePeriodSeconds",
    "tolerations",
}
_POD = {"containers", "hostNetwork", "initContainers", "volumes"}
_CONTAINER_ELSEWHERE = {"image", "livenessProbe", "name", "ports", "readinessProbe", "startupProbe"}
_CONTAINER = {"args", "command", "env", "resources", "securityContext", "volumeMounts"}
_SECURITY = {
    "allowPrivilegeEscalation",
    "capabilities",
    "privileged",
    "readOnlyRootFilesystem",
    "runAsGroup",
    "runAsUser",
    "seccompProfile",
}
# containerd's, before `drop` and `add`.
_DEFAULT_CAPABILITIES = re.findall(
    r"\w+",
    """
    CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL
    AUDIT_WRITE
    """,
)
# By number, from 0; linux/capability.h.
_ALL_CAPABILITIES = re.findall(
    r"\w+",
    """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
    """,
)
_LAST_CAPABILITY = Path("/proc/sys/kernel/cap_last_cap")
_NAMESPACES = ("pid", "ipc", "mount", "cgroup")  # those of network and host name are the node's, with hostNetwork
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_MASKED = ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"]
_SUFFIXES = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_CRITICAL_OOM_SCORE = -997  # kubelet's, for system-node-critical pods; pkg/kubelet/qos/policy.go
_SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True)
class Machine:
    """What kubelet has on this node: its name; each ConfigMap, and the service account, as a folder; host paths.

    *image* is the image's configuration, unpacked at *root*.  *host_paths* has those that lie elsewhere here.
    *seccomp* is the profile called RuntimeDefault.
    """

    node_name: str
    root: Path
    image: Json
    config_maps: Mapping[str, Path]
    service_account: Path
    host_paths: Mapping[str, Path]
    seccomp: Json


def oci_config(pod: Json, container: Json, machine: Machine) -> Json:
    """The config.json for *container* of *pod*, a PodSpec.  Raises AssertionError at a field that it does not know."""
    _know(pod, _POD | _POD_ELSEWHERE)
    _know(container, _CONTAINER | _CONTAINER_ELSEWHERE)
    security = container.get("securityContext", {})
    _know(security, _SECURITY)
    assert pod.get("hostNetwork"), "a pod with a network of its own is more than this module knows"
    privileged = security.get("privileged", False)
    hidden: Json = {} if privileged else {"maskedPaths": _MASKED, "readonlyPaths": _READ_ONLY}
    capabilities = _capabilities(security)
    if not privileged and security.get("seccompProfile", {}).get("type") == "RuntimeDefault":
        hidden["seccomp"] = _seccomp(machine.seccomp, set(capabilities))
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": _user(security, machine),
            "args": _words(container, machine),
            "env": [*machine.image.get("Env", ()), *(f"{k}={v}" for k, v in _environment(container, machine).items())],
            "cwd": machine.image.get("WorkingDir") or "/",
            "capabilities": dict.fromkeys(("bounding", "permitted", "effective"), capabilities),
            "noNewPrivileges": not security.get("allowPrivilegeEscalation", True),
            "oomScoreAdj": _CRITICAL_OOM_SCORE,
        },
        "root": {"path": str(machine.root), "readonly": security.get("readOnlyRootFilesystem", False)},
        "mounts": [*_system_mounts(privileged), *_volume_mounts(pod, container, machine)],
        "linux": {
            "namespaces": [{"type": kind} for kind in _NAMESPACES],
            "resources": _resources(container, privileged),
            **hidden,
        },
    }


def _seccomp(profile: Json, capabilities: set[str]) -> Json:
    """*profile*, a seccomp.json of the containers project, for a container with *capabilities* on amd64, as OCI."""
    rules = [
        {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) is not None}
        for rule in profile["syscalls"]
        if _holds(rule.get("includes") or {}, capabilities, if_empty=True)
        and not _holds(rule.get("excludes") or {}, capabilities, if_empty=False)
    ]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    }


def _holds(conditions: Json, capabilities: set[str], *, if_empty: bool) -> bool:
    arches, wanted = conditions.get("arches"), conditions.get("caps")
    if not arches and not wanted:
        return if_empty
    return (not arches or "amd64" in arches) and (not wanted or set(wanted) <= capabilities)


def _know(fields: Json, known: set[str]) -> None:
    assert not (unknown := set(fields) - known), f"the manifest says {sorted(unknown)}, which tests/image does not know"


def _user(security: Json, machine: Machine) -> Json:
    """The manifest's word, else the image's `UID:GID`."""
    uid, _, gid = (machine.image.get("User") or "0:0").partition(":")
    return {"uid": security.get("runAsUser", int(uid)), "gid": security.get("runAsGroup", int(gid or 0))}


def _words(container: Json, machine: Machine) -> list[str]:
    """`command` stands for the image's entry point and its arguments, `args` for the latter; $(NAME) is a variable."""
    environment = _environment(container, machine)
    entry = container.get("command") or machine.image.get("Entrypoint") or []
    arguments = container.get("args") or ([] if container.get("command") else machine.image.get("Cmd") or [])
    return [re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], word) for word in [*entry, *arguments]]


def _environment(container: Json, machine: Machine) -> dict[str, str]:
    fields = {"spec.nodeName": machine.node_name}
    return {
        each["name"]: each["value"] if "value" in each else fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
        for each in container.get("env", ())
    }


def _capabilities(security: Json) -> list[str]:
    if security.get("privileged"):
        return [f"CAP_{name}" for name in _all_capabilities()]
    changed = security.get("capabilities", {})
    _know(changed, {"add", "drop"})
    dropped = set(changed.get("drop", ()))
    kept = [name for name in _DEFAULT_CAPABILITIES if name not in dropped and "ALL" not in dropped]
    return [f"CAP_{name}" for name in dict.fromkeys([*kept, *changed.get("add", ())])]


def _all_capabilities() -> list[str]:
    """Those that this kernel knows."""
    return _ALL_CAPABILITIES[: int(_LAST_CAPABILITY.read_text()) + 1]


def _resources(container: Json, privileged: bool) -> Json:
    """Requests are the scheduler's; of the limits only memory's is known here.  Devices: none but the usual ones."""
    limits = container.get("resources", {}).get("limits", {})
    _know(limits, {"memory"})
    memory = {"memory": {"limit": memory_bytes(limits["memory"])}} if "memory" in limits else {}
    return {"devices": [{"allow": privileged, "access": "rwm"}], **memory}


def memory_bytes(quantity: str) -> int:
    """512Mi as a number."""
    return int(quantity[:-2]) * _SUFFIXES[quantity[-2:]]


def _system_mounts(privileged: bool) -> Iterator[Json]:
    safe = ["nosuid", "noexec", "nodev"]
    yield {"destination": "/proc", "type": "proc", "source": "proc", "options": safe}
    yield {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]}
    yield {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*safe, "rw" if privileged else "ro"]}
    for file in ("/etc/hosts", "/etc/resolv.conf"):
        yield _bind(Path(file), file, read_only=True)


def _volume_mounts(pod: Json, container: Json, machine: Machine) -> Iterator[Json]:
    volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
    for mount in container.get("volumeMounts", ()):
        _know(mount, {"name", "mountPath", "readOnly"})
        source = _volume(volumes[mount["name"]], machine)
        yield _bind(source, mount["mountPath"], read_only=mount.get("readOnly", False))
    if pod.get("automountServiceAccountToken", True):
        yield _bind(machine.service_account, _SERVICE_ACCOUNT, read_only=True)


def _volume(volume: Json, machine: Machine) -> Path:
    """Where the volume lies on the node; kubelet makes what is to be made if it is not there."""
    _know(volume, {"name", "configMap", "hostPath"})
    if "configMap" in volume:
        return machine.config_maps[volume["configMap"]["name"]]
    path = machine.host_paths.get(volume["hostPath"]["path"], Path(volume["hostPath"]["path"]))
    if volume["hostPath"].get("type") == "FileOrCreate":
        path.touch(mode=0o644)
    return path


def _bind(source: Path, destination: str, *, read_only: bool) -> Json:
    options = ["rbind", "rprivate", "ro" if read_only else "rw"]
    return {"destination": destination, "type": "bind", "source": str(source), "options": options}


def write_config_map(config_map: Json, folder: Path) -> Path:
    """*config_map* as kubelet mounts it: a file for each key, behind two links, so that all change at once."""
    version = folder / "..version"
    version.mkdir(parents=True)
    for key, text in config_map["data"].items():
        (version / key).write_text(text)
        (folder / key).symlink_to(f"..data/{key}")
    (folder / "..data").symlink_to(version.name)
    return folder
