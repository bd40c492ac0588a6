"""The runc configuration of a container of a pod, as kubelet and containerd derive it from the manifest.

No field of the manifest is ignored silently: it is applied here, or it is in a table of fields that do not matter to
one container on one machine.  Any other field is an error, so that a manifest cannot get a field that no test covers.

Sources: the OCI runtime specification, config.md and config-linux.md; containerd's CRI plugin for its defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

# Fields for other parts of Kubernetes: the scheduler, the controllers, kubelet with its probes.
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
    """The state of kubelet on this node.

    root: the unpacked image.  image: its configuration.  config_maps, service_account: their folders.
    host_paths: host paths that are elsewhere on this machine.  seccomp: the profile RuntimeDefault.
    """

    node_name: str
    root: Path
    image: Json
    config_maps: Mapping[str, Path]
    service_account: Path
    host_paths: Mapping[str, Path]
    seccomp: Json


def oci_config(pod: Json, container: Json, machine: Machine) -> Json:
    """Return the config.json for *container* of *pod*, a PodSpec.  Raises AssertionError for an unknown field."""
    _check_fields(pod, _POD | _POD_ELSEWHERE)
    _check_fields(container, _CONTAINER | _CONTAINER_ELSEWHERE)
    security = container.get("securityContext", {})
    _check_fields(security, _SECURITY)
    assert pod.get("hostNetwork"), "this module supports only pods with hostNetwork"
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
    """Convert *profile*, a seccomp.json of the containers project, to OCI, for *capabilities* on amd64."""
    rules = [
        {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) is not None}
        for rule in profile["syscalls"]
        if _applies(rule.get("includes") or {}, capabilities, if_empty=True)
        and not _applies(rule.get("excludes") or {}, capabilities, if_empty=False)
    ]
    return {
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile.get("defaultErrnoRet", 1),
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    }


def _applies(conditions: Json, capabilities: set[str], *, if_empty: bool) -> bool:
    arches, required = conditions.get("arches"), conditions.get("caps")
    if not arches and not required:
        return if_empty
    return (not arches or "amd64" in arches) and (not required or set(required) <= capabilities)


def _check_fields(fields: Json, known: set[str]) -> None:
    assert not (unknown := set(fields) - known), f"fields {sorted(unknown)} of the manifest are unknown to tests/image"


def _user(security: Json, machine: Machine) -> Json:
    """Return the user of the manifest, or else the image's `UID:GID`."""
    uid, _, gid = (machine.image.get("User") or "0:0").partition(":")
    return {"uid": security.get("runAsUser", int(uid)), "gid": security.get("runAsGroup", int(gid or 0))}


def _words(container: Json, machine: Machine) -> list[str]:
    """Return the command line: `command` replaces the entry point, `args` its arguments; $(NAME) is expanded."""
    environment = _environment(container, machine)
    entry = container.get("command") or machine.image.get("Entrypoint") or []
    arguments = container.get("args") or ([] if container.get("command") else machine.image.get("Cmd") or [])
    return [re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], word) for word in [*entry, *arguments]]


def _environment(container: Json, machine: Machine) -> dict[str, str]:
    fields = {"spec.nodeName": machine.node_name}
    return {
        entry["name"]: entry["value"] if "value" in entry else fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        for entry in container.get("env", ())
    }


def _capabilities(security: Json) -> list[str]:
    if security.get("privileged"):
        return [f"CAP_{name}" for name in _all_capabilities()]
    changed = security.get("capabilities", {})
    _check_fields(changed, {"add", "drop"})
    dropped = set(changed.get("drop", ()))
    kept = [name for name in _DEFAULT_CAPABILITIES if name not in dropped and "ALL" not in dropped]
    return [f"CAP_{name}" for name in dict.fromkeys([*kept, *changed.get("add", ())])]


def _all_capabilities() -> list[str]:
    """Return the capabilities that this kernel knows."""
    return _ALL_CAPABILITIES[: int(_LAST_CAPABILITY.read_text()) + 1]


def _resources(container: Json, privileged: bool) -> Json:
    """Return the memory limit, the only limit that is supported here, and access to the usual devices only."""
    limits = container.get("resources", {}).get("limits", {})
    _check_fields(limits, {"memory"})
    memory = {"memory": {"limit": memory_bytes(limits["memory"])}} if "memory" in limits else {}
    return {"devices": [{"allow": privileged, "access": "rwm"}], **memory}


def memory_bytes(quantity: str) -> int:
    """Return a quantity such as 512Mi in bytes."""
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
        _check_fields(mount, {"name", "mountPath", "readOnly"})
        source = _volume(volumes[mount["name"]], machine)
        yield _bind(source, mount["mountPath"], read_only=mount.get("readOnly", False))
    if pod.get("automountServiceAccountToken", True):
        yield _bind(machine.service_account, _SERVICE_ACCOUNT, read_only=True)


def _volume(volume: Json, machine: Machine) -> Path:
    """Return the volume's path on the node; create it where kubelet creates it."""
    _check_fields(volume, {"name", "configMap", "hostPath"})
    if "configMap" in volume:
        return machine.config_maps[volume["configMap"]["name"]]
    path = machine.host_paths.get(volume["hostPath"]["path"], Path(volume["hostPath"]["path"]))
    if volume["hostPath"].get("type") == "FileOrCreate":
        path.touch(mode=0o644)
    if volume["hostPath"].get("type") == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    return path


def _bind(source: Path, destination: str, *, read_only: bool) -> Json:
    options = ["rbind", "rprivate", "ro" if read_only else "rw"]
    return {"destination": destination, "type": "bind", "source": str(source), "options": options}


def write_config_map(config_map: Json, folder: Path) -> Path:
    """Write *config_map* as kubelet mounts it: a file for each key, behind two links, so that all change at once."""
    version = folder / "..version"
    version.mkdir(parents=True)
    for key, text in config_map["data"].items():
        (version / key).write_text(text)
        (folder / key).symlink_to(f"..data/{key}")
    (folder / "..data").symlink_to(version.name)
    return folder
