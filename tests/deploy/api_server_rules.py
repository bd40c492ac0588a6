"""What an API server refuses of objects that its OpenAPI schema accepts: names, labels, quantities, paths, duplicates.

Written from the validation that Kubernetes describes for each field, for the kinds that the chart renders, and apart
from the chart's own patterns, so that the two check each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from tests.deploy.manifests import Object

_ALPHANUMERIC = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_LOWER = {character for character in _ALPHANUMERIC if character == character.lower()}
_FACTORS: dict[str, Decimal] = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(1000),
} | {suffix: Decimal(10 ** (3 * power)) for power, suffix in enumerate("MGTPE", start=2)}
_FACTORS |= {f"{suffix}i": Decimal(1024**power) for power, suffix in enumerate("KMGTPE", start=1)}


def problems(document: Object) -> list[str]:
    """Return what an API server refuses of *document*."""
    return [*_metadata("metadata", document["metadata"]), *_KINDS.get(document["kind"], _nothing)(document)]


def _nothing(_document: Object) -> Iterator[str]:
    yield from ()


def is_label(text: Any) -> bool:
    """Return whether *text* is a DNS label."""
    return isinstance(text, str) and 0 < len(text) <= 63 and _is_word(text, _LOWER, "-")


def is_subdomain(text: Any) -> bool:
    """Return whether *text* is a DNS subdomain."""
    return isinstance(text, str) and len(text) <= 253 and all(_is_word(part, _LOWER, "-") for part in text.split("."))


def is_key(text: Any) -> bool:
    """Return whether *text* is a key of a label or annotation."""
    if not isinstance(text, str):
        return False
    prefix, slash, name = text.rpartition("/")
    return (not slash or is_subdomain(prefix)) and len(name) <= 63 and _is_word(name, _ALPHANUMERIC, "-_.")


def is_label_value(text: Any) -> bool:
    """Return whether *text* is the value of a label."""
    return isinstance(text, str) and len(text) <= 63 and (not text or _is_word(text, _ALPHANUMERIC, "-_."))


def quantity(value: Any) -> Decimal | None:
    """Return *value* as a number, None if it is no quantity."""
    text = str(value)
    suffix = text.lstrip("+-0123456789.eE") if not text.endswith("E") else "E"
    if text.endswith("Ei"):
        suffix = "Ei"
    try:
        return Decimal(text.removesuffix(suffix)) * _FACTORS[suffix]
    except (KeyError, InvalidOperation):
        return None


def _is_word(text: str, ends: set[str], middle: str) -> bool:
    return bool(text) and text[0] in ends and text[-1] in ends and set(text) <= ends | set(middle)


def _metadata(where: str, metadata: Any) -> Iterator[str]:
    if "name" in metadata and not is_subdomain(metadata["name"]):
        yield f"{where}.name: {metadata['name']!r}"
    if "namespace" in metadata and not is_label(metadata["namespace"]):
        yield f"{where}.namespace: {metadata['namespace']!r}"
    yield from _labels(f"{where}.labels", metadata.get("labels", {}))
    for key, value in metadata.get("annotations", {}).items():
        if not is_key(key) or not isinstance(value, str):
            yield f"{where}.annotations: {key!r}: {value!r}"


def _labels(where: str, labels: Any) -> Iterator[str]:
    for key, value in labels.items():
        if not is_key(key) or not is_label_value(value):
            yield f"{where}: {key!r}: {value!r}"


def _daemon_set(document: Object) -> Iterator[str]:
    spec = document["spec"]
    template = spec["template"]
    if not spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items():
        yield "spec.selector: does not match the pods"
    strategy = spec.get("updateStrategy", {})
    rolling = strategy.get("rollingUpdate")
    if strategy.get("type") != "OnDelete" and rolling:
        moved = [rolling.get(name, default) for name, default in (("maxUnavailable", 1), ("maxSurge", 0))]
        if sum(str(amount) not in ("0", "0%") for amount in moved) != 1:
            yield f"spec.updateStrategy: {moved}"
    yield from _metadata("template", template["metadata"])
    yield from _pod(template["spec"])


def _pod(pod: Any) -> Iterator[str]:
    for name in ("serviceAccountName", "priorityClassName", "runtimeClassName"):
        if name in pod and not is_subdomain(pod[name]):
            yield f"{name}: {pod[name]!r}"
    yield from _labels("nodeSelector", pod.get("nodeSelector", {}))
    for toleration in pod.get("tolerations", ()):
        yield from _toleration(toleration)
    volumes = [volume["name"] for volume in pod["volumes"]]
    containers = [*pod["containers"], *pod.get("initContainers", ())]
    yield from _repeated("volumes", volumes)
    yield from _repeated("containers", (container["name"] for container in containers))
    for name in (*volumes, *(container["name"] for container in containers)):
        if not is_label(name):
            yield f"name: {name!r}"
    for volume in pod["volumes"]:
        path = volume.get("hostPath", {}).get("path", "/")
        if not path.startswith("/") or ".." in path.split("/"):
            yield f"hostPath: {path!r}"
    for container in containers:
        yield from _container(container, volumes)
    ports = [port for container in pod["containers"] for port in container.get("ports", ())]
    yield from _repeated("hostPort", (port["hostPort"] for port in ports if "hostPort" in port))


def _container(container: Any, volumes: list[str]) -> Iterator[str]:
    if container["image"] != container["image"].strip() or not container["image"]:
        yield f"image: {container['image']!r}"
    for port in container.get("ports", ()):
        if not 1 <= port["containerPort"] <= 65535:
            yield f"containerPort: {port['containerPort']}"
    mounts = container.get("volumeMounts", ())
    yield from _repeated("mountPath", (mount["mountPath"] for mount in mounts))
    yield from (f"volumeMounts: {mount['name']}" for mount in mounts if mount["name"] not in volumes)
    yield from _resources(container.get("resources", {}))
    for name in ("livenessProbe", "startupProbe"):
        if container.get(name, {}).get("successThreshold", 1) != 1:
            yield f"{name}.successThreshold"
    if "terminationGracePeriodSeconds" in container.get("readinessProbe", {}):
        yield "readinessProbe.terminationGracePeriodSeconds"
    for variable in container.get("env", ()):
        if not variable.get("name") or "=" in variable["name"] or ("value" in variable and "valueFrom" in variable):
            yield f"env: {variable}"


def _resources(resources: Any) -> Iterator[str]:
    parts = {kind: resources.get(kind, {}) for kind in ("requests", "limits")}
    for kind, amounts in parts.items():
        for name, value in amounts.items():
            number = quantity(value)
            if number is None or number < 0:
                yield f"{kind}.{name}: {value!r}"
    for name in parts["requests"].keys() & parts["limits"].keys():
        if (quantity(parts["requests"][name]) or 0) > (quantity(parts["limits"][name]) or 0):
            yield f"requests.{name}: above its limit"


def _toleration(toleration: Any) -> Iterator[str]:
    operator = toleration.get("operator") or "Equal"
    wrong = (
        (operator == "Exists" and toleration.get("value"), "value with Exists"),
        (operator != "Exists" and not toleration.get("key"), "no key"),
        (toleration.get("key") and not is_key(toleration["key"]), "key"),
        (not is_label_value(toleration.get("value", "")), "value"),
        ("tolerationSeconds" in toleration and toleration.get("effect") != "NoExecute", "tolerationSeconds"),
    )
    yield from (f"toleration: {what}: {toleration}" for is_wrong, what in wrong if is_wrong)


def _service(document: Object) -> Iterator[str]:
    name = document["metadata"]["name"]
    if not is_label(name) or name[0].isdigit():
        yield f"Service: {name!r}"
    yield from (f"port: {port['port']}" for port in document["spec"].get("ports", ()) if not 1 <= port["port"] <= 65535)


def _repeated(where: str, names: Iterable[object]) -> Iterator[str]:
    yield from (f"{where}: {name} more than once" for name, count in Counter(names).items() if count > 1)


_KINDS = {"DaemonSet": _daemon_set, "Service": _service}
