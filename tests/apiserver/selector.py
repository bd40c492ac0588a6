"""Label and field selectors, as far as proxies use them.

Source: k8s.io/apimachinery/pkg/labels and pkg/fields; the fields of each type, pkg/apis/core/v1/conversion.go.
"""

from collections.abc import Callable

from tests.apiserver.store import RefusedError, Stored

Selects = Callable[[Stored], bool]

_COMMON_FIELDS = ("metadata.name", "metadata.namespace")
FIELDS = {"services": (*_COMMON_FIELDS, "spec.clusterIP", "spec.type")}


def selector(plural: str, labels: str, fields: str, refused_fields: frozenset[str]) -> Selects:
    """Whether an object is selected by both.  Raises RefusedError for a field that can't be selected by."""
    tests = [_label_test(term.strip()) for term in labels.split(",") if term.strip()]
    tests += [_field_test(plural, term, refused_fields) for term in fields.split(",") if term]
    return lambda candidate: all(test(candidate) for test in tests)


def _label_test(term: str) -> Selects:
    if term.startswith("!"):
        return lambda candidate: term[1:] not in candidate.labels
    key, equal, value = _split(term)
    if equal is None:
        return lambda candidate: key in candidate.labels
    return lambda candidate: (candidate.labels.get(key) == value) is equal


def _field_test(plural: str, term: str, refused: frozenset[str]) -> Selects:
    key, equal, value = _split(term)
    known = [field for field in FIELDS.get(plural, _COMMON_FIELDS) if field not in refused]
    if key not in known:
        names = ", ".join(f'"{field}"' for field in known)
        raise RefusedError(400, "BadRequest", f'"{key}" is not a known field selector: only {names}')
    return lambda candidate: (candidate.fields[key] == value) is (equal is not False)


def _split(term: str) -> tuple[str, bool | None, str]:
    """Key, whether the value must be equal (None: no value is named), and the value."""
    for sign, equal in (("!=", False), ("==", True), ("=", True)):
        key, found, value = term.partition(sign)
        if found:
            return key.strip(), equal, value.strip()
    return term, None, ""
