"""The validation of Events (events.k8s.io/v1) by kube-apiserver, and merge patches.

Source: kubernetes, pkg/apis/core/validation/events.go (ValidateEventCreate, ValidateEventUpdate); RFC 7386.
"""

import json
import re
from datetime import datetime

from tests.apiserver.store import Json, StatusError

_TEXTS = {"reportingController": 63, "reportingInstance": 128, "action": 128, "reason": 128}
_NOTE_MAX_BYTES = 1024
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")
_MAY_CHANGE = ("series", "metadata")
PATCH_TYPES = ("application/merge-patch+json", "application/strategic-merge-patch+json")  # equal, except for lists


def validate_create(body: Json) -> None:
    """Raise StatusError (422) unless *body* may be created.

    kube-apiserver 1.36.2 accepts one whose object is in another namespace, in spite of the source.
    """
    if not _NAME.match(body["metadata"].get("name", "")):
        _reject("metadata.name", "a lowercase RFC 1123 subdomain is needed")
    for field, longest in _TEXTS.items():
        if not body.get(field):
            _reject(field, "Required value")
        if len(body[field]) > longest:
            _reject(field, f"can have at most {longest} characters")
    if body.get("type") not in ("Normal", "Warning"):
        _reject("type", "must be Normal or Warning")
    if len((body.get("note") or "").encode()) > _NOTE_MAX_BYTES:
        _reject("note", f"can have at most {_NOTE_MAX_BYTES} characters")
    _check_time("eventTime", body.get("eventTime"))
    _check_series(body)
    if deprecated := [field for field in body if field.startswith("deprecated")]:
        _reject(deprecated[0], "needs to be unset")


def validate_update(before: Json, after: Json) -> None:
    """Raise StatusError (422) unless *before* may become *after*: only the series may change."""
    for field in {**before, **after}:
        if field not in _MAY_CHANGE and before.get(field) != after.get(field):
            _reject(field, "field is immutable")
    _check_series(after)


def apply_merge_patch(target: Json, patch: Json) -> Json:
    """Return *target* with the JSON merge patch *patch* applied."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            now = result.get(key)
            result[key] = apply_merge_patch(now if isinstance(now, dict) else {}, value)
        else:
            result[key] = json.loads(json.dumps(value))
    return result


def _check_series(body: Json) -> None:
    series = body.get("series")
    if series is None:
        return
    if series.get("count", 0) < 2:
        _reject("series.count", "should be at least 2")
    _check_time("series.lastObservedTime", series.get("lastObservedTime"))


def _check_time(field: str, text: object) -> None:
    """Raise StatusError (422) unless *text* is a MicroTime: RFC 3339 with exactly six digits of a second."""
    try:
        datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S.%f%z")
    except ValueError:
        _reject(field, "Required value")


def _reject(field: str, message: str) -> None:
    raise StatusError(422, "Invalid", f"{field}: {message}")
