"""What kube-apiserver demands of Events (events.k8s.io/v1), and how a merge patch changes an object.

Source: kubernetes, pkg/apis/core/validation/events.go (ValidateEventCreate, ValidateEventUpdate); RFC 7386.
"""

import json
import re
from datetime import datetime

from tests.apiserver.store import Json, RefusedError

_TEXTS = {"reportingController": 63, "reportingInstance": 128, "action": 128, "reason": 128}
_NOTE_MAX_BYTES = 1024
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z")
_MAY_CHANGE = ("series", "metadata")
PATCH_TYPES = ("application/merge-patch+json", "application/strategic-merge-patch+json")  # alike, but for lists


def check_created(body: Json, namespace: str) -> None:
    """Raises RefusedError (422) unless *body* may be created in *namespace*."""
    regarding = body.get("regarding") or {}
    if (regarding.get("namespace") or "default") != namespace:
        _refuse("involvedObject.namespace", "does not match event.namespace")
    if not _NAME.match(body["metadata"].get("name", "")):
        _refuse("metadata.name", "a lowercase RFC 1123 subdomain is needed")
    for field, longest in _TEXTS.items():
        if not body.get(field):
            _refuse(field, "Required value")
        if len(body[field]) > longest:
            _refuse(field, f"can have at most {longest} characters")
    if body.get("type") not in ("Normal", "Warning"):
        _refuse("type", "must be Normal or Warning")
    if len((body.get("note") or "").encode()) > _NOTE_MAX_BYTES:
        _refuse("note", f"can have at most {_NOTE_MAX_BYTES} characters")
    _check_time("eventTime", body.get("eventTime"))
    _check_series(body)
    if deprecated := [field for field in body if field.startswith("deprecated")]:
        _refuse(deprecated[0], "needs to be unset")


def check_changed(before: Json, after: Json) -> None:
    """Raises RefusedError (422) unless *before* may become *after*: its series may be another, no more."""
    for field in {**before, **after}:
        if field not in _MAY_CHANGE and before.get(field) != after.get(field):
            _refuse(field, "field is immutable")
    _check_series(after)


def patched(target: Json, patch: Json) -> Json:
    """*target* after the JSON merge patch *patch*."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            now = result.get(key)
            result[key] = patched(now if isinstance(now, dict) else {}, value)
        else:
            result[key] = json.loads(json.dumps(value))
    return result


def _check_series(body: Json) -> None:
    series = body.get("series")
    if series is None:
        return
    if series.get("count", 0) < 2:
        _refuse("series.count", "should be at least 2")
    _check_time("series.lastObservedTime", series.get("lastObservedTime"))


def _check_time(field: str, text: object) -> None:
    """A MicroTime: RFC 3339 with exactly six digits of a second."""
    try:
        datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S.%f%z")
    except ValueError:
        _refuse(field, "Required value")


def _refuse(field: str, message: str) -> None:
    raise RefusedError(422, "Invalid", f"{field}: {message}")
