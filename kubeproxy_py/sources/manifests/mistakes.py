"""Recognize mistakes in what an object of a manifest is, and in the names of its fields.

A folder may contain all of an application, so kinds that are not ours are ignored.  But an object that was misspelt
must not look like one that was removed.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from kubeproxy_py.sources.decode.errors import FieldError, quoted
from kubeproxy_py.sources.decode.objects import Kind, unknown_fields_of

VERSIONS: dict[Kind, str] = {
    "Service": "v1",
    "Endpoints": "v1",
    "Node": "v1",
    "EndpointSlice": "discovery.k8s.io/v1",
}
"""The apiVersion of each kind that is read."""

_LIST = "List"
_KIND_VERSIONS = {_LIST: "v1"} | {kind + end: version for kind, version in VERSIONS.items() for end in ("", _LIST)}
_ABBREVIATIONS = {"svc": "Service", "ep": "Endpoints", "no": "Node", "eps": "EndpointSlice"}
_OTHER_CORE_KINDS = frozenset(
    {
        "Binding",
        "ComponentStatus",
        "Config",
        "ConfigMap",
        "Event",
        "LimitRange",
        "Namespace",
        "PersistentVolume",
        "PersistentVolumeClaim",
        "Pod",
        "PodTemplate",
        "ReplicationController",
        "ResourceQuota",
        "Secret",
        "ServiceAccount",
        "Status",
    }
)
_TYPO_CUTOFF = 0.82  # "Servcie" is 0.86 like "Service", "ServiceCIDR" 0.78

_ESSENTIAL = frozenset({"clusterIP", "clusterIPs", "ports", "endpoints", "subsets", "loadBalancerSourceRanges"})
"""Fields without which an object serves nobody, or (source ranges) everybody."""


def mistaken_type(version: str, kind: str) -> FieldError | None:
    """Return what is wrong with the type of an object that is none of ours; None if it is just another kind."""
    group = version.rpartition("/")[0]
    if kind in _KIND_VERSIONS:
        if "." in group and not group.endswith(".k8s.io"):  # another project's kind of the same name
            return None
        return FieldError("apiVersion", f"is not supported for {_article(kind)}", f"use {_KIND_VERSIONS[kind]}")
    if near := _ABBREVIATIONS.get(kind.lower()) or _nearest(kind, _KIND_VERSIONS):
        return FieldError("kind", f"unknown kind {quoted(kind)}", f"did you mean {near}?")
    is_closed = not group or group == "discovery.k8s.io"  # all kinds of these groups are known
    if is_closed and kind.removesuffix(_LIST) not in _OTHER_CORE_KINDS:
        return FieldError("kind", f"unknown kind {quoted(kind)}", f"{version} has none; see kubectl api-resources")
    return None


def mistaken_fields(kind: Kind, plain: Mapping[str, object]) -> tuple[list[FieldError], list[FieldError]]:
    """Return the errors of unknown fields that are nearly ours: those of essential fields, and others.

    Args:
        kind: The object's kind.
        plain: The object as plain values.
    """
    fatal: list[FieldError] = []
    others: list[FieldError] = []
    for unknown in unknown_fields_of(kind, plain):
        near = _nearest(unknown.key, (*unknown.read, *unknown.unread))
        if near in unknown.read:
            error = FieldError(unknown.path, "unknown field", f"did you mean {near}?")
            (fatal if near in _ESSENTIAL and near not in unknown.present else others).append(error)
    return fatal, others


def _nearest(word: str, words: Iterable[str]) -> str | None:
    """Return the one of *words* that *word* nearly is, or is in other capitals."""
    lowered = {known.lower(): known for known in words}
    near = get_close_matches(word.lower()[:64], lowered, n=1, cutoff=_TYPO_CUTOFF)
    return lowered[near[0]] if near else None


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AEIOU" else f"a {kind}"
