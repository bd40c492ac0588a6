"""Label and field selectors, as far as service proxies use them.

Source: k8s.io/apimachinery/pkg/labels and pkg/fields; the fields of each type, pkg/apis/core/v1/conversion.go.
"""

from collections.abc import Callable

from tests.apiserver.store import StatusError, Stored

Selects = Callable[[Stored], bool]

_COMMON_FIELDS = ("metadata.name", "metadata.namespace")
FIELDS = {"services": (*_COMMON_FIELDS, "spec.clusterIP", "spec.type")}


def make_selector(plural: str, labels: str, fields: str, unsupported: frozenset[str]) -> Selects:
    """Return a test whether both select an object.  Raises StatusError for an unsupported field."""
    tests = [_label_test(term.strip()) for term in labels.split(",") if term.strip()]
    tests += [_field_test(plural, term, unsupported) for term in fields.split(",") if term]
    return lambda candidate: all(test(candidate) for test in tests)


def _label_test(term: str) -> Selects:
    if term.startswith("!"):
        return lambda candidate: term[1:] not in candidate.labels
    key, equal, value = _split(term)
    if equal is None:
        return lambda candidate: key in candidate.labels
    return lambda candidate: (candidate.labels.get(key) == value) is equal


def _field_test(plural: str, term: str, unsupported: frozenset[str]) -> Selects:
    key, equal, value = _split(term)
    known = [field for field in FIELDS.get(plural, _COMMON_FIELDS) if field not in unsupported]
    if key not in known:
        names = ", ".join(f'"{field}"' for field in known)
        raise StatusError(400, "BadRequest", f'"{key}" is not a known field selector: only {names}')
    return lambda candidate: (candidate.fields[key] == value) is (equal is not False)


def _split(term: str) -> tuple[str, bool | None, str]:
    """Return key, whether the value must be equal (None: the term has no value), and the value."""
    for sign, equal in (("!=", False), ("==", True), ("=", True)):
        key, separator, value = term.partition(sign)
        if separator:
            return key.strip(), equal, value.strip()
    return term, None, ""
