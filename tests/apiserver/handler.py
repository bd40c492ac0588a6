"""One connection to the stand-in: responses, byte for byte as kube-apiserver writes them.

Source: kubernetes.io/docs/reference/using-api/api-concepts; responses of kube-apiserver 1.36.
"""

import base64
import binascii
import json
import ssl
import time
import zlib
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.apiserver import events
from tests.apiserver.selector import Selects, make_selector
from tests.apiserver.store import TYPES, ApiType, Change, Json, Key, StatusError, Stored, at_version

if TYPE_CHECKING:
    from tests.apiserver.server import ApiServer

EXPIRED = "too old resource version: {} ({})"
_GZIP_FROM_BYTES = 128 * 1024  # kube-apiserver's, and its level
_GZIP_LEVEL = 1
_GZIP = 16 + zlib.MAX_WBITS
_NOT_OLDER_THAN, _EXACT = "NotOlderThan", "Exact"


class Handler(BaseHTTPRequestHandler):
    """Handles the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: "ApiServer"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the name is the base's
        pass

    def do_GET(self) -> None:
        self.freezes = self.server.freezes  # before the request can be seen by a test
        self.server.requests.append(self.path)
        self._respond(self._get)

    def do_POST(self) -> None:
        self.server.writes.append(f"POST {self.path}")
        self._respond(self._post)

    def do_PUT(self) -> None:
        self._respond(self._put)

    def do_PATCH(self) -> None:
        self.server.writes.append(f"PATCH {self.path}")
        self._respond(self._patch)

    def do_DELETE(self) -> None:
        self._respond(self._delete)

    def date_time_string(self, timestamp: float | None = None) -> str:
        now_s = time.time() if timestamp is None else timestamp
        return super().date_time_string(now_s + self.server.faults.clock_skew_s)

    # Responses -----------------------------------------------------------------------------------------------------

    def _respond(self, respond: Any) -> None:
        """Call *respond*, which sends the response; send a Status if it raises StatusError."""
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        faults = self.server.faults
        self.server.stopping.wait(faults.delay_s)
        self._hang_while_dead()
        try:
            if response := faults.pop_response():
                status, headers, body = response
                self._send(status, _status_body(status, body.get("reason", ""), body.get("message", "")), headers)
                return
            self._authenticate()
            respond()
        except StatusError as error:
            self._send(error.code, _status_body(error.code, error.reason, error.message, error.cause))
        except (BrokenPipeError, ConnectionError, ssl.SSLError):
            self.close_connection = True

    def _hang_while_dead(self) -> None:
        while self.server.faults.dead and not self.server.stopping.is_set():
            time.sleep(0.02)

    def _authenticate(self) -> None:
        tokens = self.server.faults.tokens
        if tokens is None:
            return
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or token not in tokens:
            raise StatusError(401, "Unauthorized", "Unauthorized")

    def _authorize(self, verb: str, api_type: ApiType, field_selector: str | None = None) -> None:
        faults = self.server.faults
        names_none = field_selector is not None and "metadata.name=" not in field_selector
        if (verb, api_type.plural) in faults.forbidden or (names_none and api_type.plural in faults.named_only):
            message = f'{api_type.plural} is forbidden: User "test" cannot {verb} resource "{api_type.plural}"'
            raise StatusError(403, "Forbidden", message)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _send_list(self, body: bytes) -> None:
        """Send the list *body*, compressed as kube-apiserver does."""
        if len(body) <= _GZIP_FROM_BYTES or not self._accepts_gzip():
            self._send(200, body)
            return
        self.server.compressed.append(self.path)
        compressor = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP)
        self._begin_chunks(compressed=True)
        self._send_lines([compressor.compress(body), compressor.flush()])
        self._end_chunks()

    def _accepts_gzip(self) -> bool:
        return not self.server.faults.no_gzip and "gzip" in (self.headers.get("Accept-Encoding") or "")

    def _begin_chunks(self, *, compressed: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        if compressed:
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Vary", "Accept-Encoding")
        self.end_headers()

    def _end_chunks(self) -> None:
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _send_object(self, api_type: ApiType, stored: Stored, status: int = 200) -> None:
        self._send(status, _with_kind(api_type, stored))

    # Requests ----------------------------------------------------------------------------------------------------

    def _target(self) -> tuple[ApiType, str | None, str | None, str]:
        """Return type, namespace, name and subresource of the path.  Raises StatusError (404)."""
        path = urlsplit(self.path).path
        for api_type in TYPES:
            if api_type.plural in self.server.faults.missing_types or not path.startswith(f"{api_type.root}/"):
                continue
            parts = path.removeprefix(f"{api_type.root}/").split("/")
            namespace = parts[1] if parts[0] == "namespaces" and len(parts) > 2 else None
            plural, *name_parts = parts[2:] if namespace else parts
            if plural == api_type.plural and len(name_parts) <= 2:
                name, subresource = [*name_parts, "", ""][:2]
                return api_type, namespace, name or None, subresource
        raise StatusError(404, "NotFound", "the server could not find the requested resource")

    def _get(self) -> None:
        path = urlsplit(self.path).path
        if path in ("/healthz", "/livez", "/readyz"):
            self._send(200, b"ok")
            return
        if path == "/version":
            self._send(200, b'{"major":"1","minor":"36","gitVersion":"v1.36.2"}')
            return
        api_type, namespace, name, _ = self._target()
        if name:
            self._send_object(api_type, self.server.store.get(api_type.plural, (namespace or "", name)))
            return
        query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
        selects = self._selects(api_type, namespace, query)
        if query.get("watch") in ("true", "1"):
            self._authorize("watch", api_type, query.get("fieldSelector", ""))
            self._watch(api_type, query, selects)
        else:
            self._authorize("list", api_type, query.get("fieldSelector", ""))
            self._list(api_type, query, selects)

    def _selects(self, api_type: ApiType, namespace: str | None, query: dict[str, str]) -> Selects:
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        selects = make_selector(api_type.plural, labels, fields, self.server.faults.unsupported_field_selectors)
        return lambda candidate: (namespace is None or candidate.key[0] == namespace) and selects(candidate)

    def _read_object(self, api_type: ApiType, namespace: str | None, name: str | None = None) -> Json:
        try:
            body = dict(json.loads(self.body))
        except (ValueError, TypeError):
            raise StatusError(400, "BadRequest", "the object provided is unrecognized") from None
        meta = body.setdefault("metadata", {})
        if api_type.namespaced:
            meta["namespace"] = namespace
        if name:
            meta["name"] = name
        return body

    def _post(self) -> None:
        if self.path.startswith("/standin/"):
            self._command(self.path.removeprefix("/standin/"))
            return
        api_type, namespace, _, _ = self._target()
        self._authorize("create", api_type)
        if namespace in self.server.faults.terminating_namespaces:
            message = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise StatusError(403, "Forbidden", message, cause="NamespaceTerminating")
        body = self._read_object(api_type, namespace)
        if api_type.kind == "Event":
            events.validate_create(body)
        if api_type.kind == "Service":
            self.server.store.reject_taken_address(body)
        self._send_object(api_type, self.server.store.create(api_type.plural, body), 201)

    def _put(self) -> None:
        api_type, namespace, name, subresource = self._target()
        key: Key = (namespace or "", name or "")
        body = self._read_object(api_type, namespace, name)

        def change(now: Json) -> Json:
            if subresource == "status":
                return {**now, "status": body.get("status"), "metadata": {**now["metadata"], **_version_of(body)}}
            return {**body, "status": body.get("status") or now.get("status")}

        self._send_object(api_type, self.server.store.replace(api_type.plural, key, change))

    def _patch(self) -> None:
        """Apply a merge patch, which is supported for Events only."""
        api_type, namespace, name, _ = self._target()
        self._authorize("patch", api_type)
        if self.headers.get("Content-Type") not in events.PATCH_TYPES:
            raise StatusError(415, "UnsupportedMediaType", "the body of the request was_selected in an unknown format")
        if api_type.kind != "Event":
            raise StatusError(405, "MethodNotAllowed", "the stand-in supports patches of Events only")
        patch = dict(json.loads(self.body))

        def change(now: Json) -> Json:
            after = events.apply_merge_patch(now, patch)
            events.validate_update(now, after)
            return after

        self._send_object(api_type, self.server.store.replace(api_type.plural, (namespace or "", name or ""), change))

    def _delete(self) -> None:
        api_type, namespace, name, _ = self._target()
        self._send_object(api_type, self.server.store.delete(api_type.plural, (namespace or "", name or "")))

    def _command(self, command: str) -> None:
        """Run a command that is sent over HTTP: close all connections, or compact the history."""
        commands = {"cut": self.server.close_connections, "compact": self.server.store.compact}
        if command not in commands:
            raise StatusError(404, "NotFound", f"one of {', '.join(commands)}")
        self._send(200, b"{}")
        commands[command]()

    # Lists -------------------------------------------------------------------------------------------------------

    def _list(self, api_type: ApiType, query: dict[str, str], selects: Selects) -> None:
        store, limit, faults = self.server.store, int(query.get("limit") or 0), self.server.faults
        if raw := faults.raw_lists.get(api_type.plural):
            self._send_list(raw)
            return
        if faults.endless_lists:
            self._send_endless_list(api_type)
            return
        self._check_version(query)
        if query.get("resourceVersion") == "0" and not faults.pages_from_cache:
            limit = 0
        if "continue" in query:
            version, page = _read_continue(query["continue"])
            if faults.expire_after_pages is not None and page >= faults.expire_after_pages:
                raise StatusError(410, "Expired", "The provided continue parameter is too old")
            selected = store.saved_pages(api_type.plural, version)[page * limit :]
        else:
            page = 0
            version, objects = store.snapshot(api_type.plural)
            selected = [candidate for candidate in objects if selects(candidate)]
            if limit and len(selected) > limit:
                store.save_pages(api_type.plural, version, selected)
        meta: Json = {"resourceVersion": str(version)}
        if limit and len(selected) > limit:
            meta["continue"] = _write_continue(version, page + 1)
            selected = selected[:limit]
        head = {"kind": f"{api_type.kind}List", "apiVersion": api_type.api_version, "metadata": meta}
        items = b",".join(candidate.body for candidate in selected)
        self._send_list(_compact(head)[:-1] + b',"items":[' + items + b"]}\n")

    def _check_version(self, query: dict[str, str]) -> None:
        """Raise StatusError for a version and a match that do not fit, and (504) for a version that does not exist yet.

        Source: k8s.io/apimachinery, pkg/apis/meta/internalversion/validation.
        """
        match = query.get("resourceVersionMatch")
        if match and not query.get("resourceVersion"):
            _reject_options("resourceVersionMatch is forbidden unless resourceVersion is provided")
        if match and "continue" in query:
            _reject_options("resourceVersionMatch is forbidden when continue is provided")
        if match not in (None, _NOT_OLDER_THAN, _EXACT):
            _reject_options(f'Unsupported value: "{match}"')
        version, current = int(query.get("resourceVersion") or 0), self.server.store.version
        if (cached := self.server.faults.cached_version) is not None:
            current = min(current, cached)
        if version > current:
            message = f"Too large resource version: {version}, current: {current}"
            raise StatusError(504, "Timeout", message, cause="ResourceVersionTooLarge")

    def _send_endless_list(self, api_type: ApiType) -> None:
        head = {
            "kind": f"{api_type.kind}List",
            "apiVersion": api_type.api_version,
            "metadata": {"resourceVersion": "1"},
        }
        start = _compact(head)[:-1] + b',"items":['
        item = b'{"metadata":{"name":"x","annotations":{"x":"' + b"y" * (1 << 20) + b'"}}},'
        if compressed := self._accepts_gzip():
            # Flushed so that what follows depends on nothing before it, and can be sent again and again.
            compressor = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP)
            start = compressor.compress(start) + compressor.flush(zlib.Z_FULL_FLUSH)
            item = compressor.compress(item) + compressor.flush(zlib.Z_FULL_FLUSH)
        self._begin_chunks(compressed=compressed)
        self._send_lines([start])
        while not self.server.stopping.is_set():
            self._send_lines([item])

    # Watches -----------------------------------------------------------------------------------------------------

    def _watch(self, api_type: ApiType, query: dict[str, str], selects: Selects) -> None:
        if "sendInitialEvents" in query or "resourceVersionMatch" in query:  # as a server without WatchList
            _reject_options("resourceVersionMatch is forbidden for watch")
        self._begin_chunks()
        self.wfile.flush()
        end_s = time.monotonic() + float(query.get("timeoutSeconds") or 3600)
        version = int(query.get("resourceVersion") or 0)
        if version == 0:
            version, objects = self.server.store.snapshot(api_type.plural)
            self._send_lines([_line("ADDED", _with_kind(api_type, stored)) for stored in objects if selects(stored)])
        self._send_changes(api_type, version, selects, end_s, "allowWatchBookmarks" in query)
        self._end_chunks()

    def _send_changes(self, api_type: ApiType, version: int, selects: Selects, end_s: float, bookmarks: bool) -> None:
        """Send all changes after *version*, until *end_s*."""
        store, faults, begin = self.server.store, self.server.faults, version
        bookmark_s = _next_bookmark_s(faults.bookmark_period_s)
        while not self.server.stopping.is_set() and time.monotonic() < end_s:
            with store.changed:
                if version < store.oldest:
                    message = EXPIRED.format(version, store.oldest)
                    self._send_lines([_line("ERROR", _status_body(410, "Expired", message))])
                    return
                changes = store.changes_since(api_type.plural, version)
                newest, newest_of_type = store.version, store.tables[api_type.plural].version
                if not changes and not self.server.stopping.is_set():
                    store.changed.wait(max(0.0, min(end_s, bookmark_s) - time.monotonic()))
            self._hang_while_dead()
            if self.server.freezes > self.freezes:
                time.sleep(0.02)
                continue
            self._send_lines([line for change in changes for line in _change_lines(api_type, change, selects)])
            version = max(version, newest)  # a version that does not exist yet is waited for
            if bookmarks and time.monotonic() >= bookmark_s:
                bookmark_s = _next_bookmark_s(faults.bookmark_period_s)
                seen = version if faults.progress_notices else newest_of_type  # of the changes that were sent
                if seen > begin:
                    self._send_lines([_bookmark(api_type, min(seen, version))])

    def _send_lines(self, lines: Iterable[bytes]) -> None:
        """Send each line in a separate chunk, as Go's encoder flushes them."""
        for line in lines:
            if line:  # an empty chunk would be the end
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()


def _change_lines(api_type: ApiType, change: Change, selects: Selects) -> list[bytes]:
    """Return the lines that a watch with this selector sends for *change*."""
    was_selected = change.before is not None and selects(change.before)
    now = change.after is not None and selects(change.after)
    if now and change.after:
        return [_line("MODIFIED" if was_selected else "ADDED", _with_kind(api_type, change.after))]
    if was_selected and change.before:
        return [_line("DELETED", _with_kind(api_type, at_version(change.before, change.version)))]
    return []


def _next_bookmark_s(period_s: float | None) -> float:
    return float("inf") if period_s is None else time.monotonic() + period_s


def _line(event: str, body: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (event.encode(), body)


def _bookmark(api_type: ApiType, version: int) -> bytes:
    meta = {"resourceVersion": str(version), "creationTimestamp": None}
    return _line("BOOKMARK", _compact({"kind": api_type.kind, "apiVersion": api_type.api_version, "metadata": meta}))


def _with_kind(api_type: ApiType, stored: Stored) -> bytes:
    return (
        b'{"kind":"%s","apiVersion":"%s",' % (api_type.kind.encode(), api_type.api_version.encode()) + stored.body[1:]
    )


def _status_body(code: int, reason: str, message: str, cause: str = "") -> bytes:
    status = "Failure" if code >= 400 else "Success"
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": status, "message": message}
    details = {"details": {"causes": [{"reason": cause}]}} if cause else {}
    return _compact({**body, "reason": reason, **details, "code": code})


def _version_of(body: Json) -> Json:
    version = body["metadata"].get("resourceVersion")
    return {"resourceVersion": version} if version else {}


def _reject_options(message: str) -> None:
    raise StatusError(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: {message}')


def _compact(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _write_continue(version: int, page: int) -> str:
    return base64.urlsafe_b64encode(_compact({"v": "meta.k8s.io/v1", "rv": version, "page": page})).decode()


def _read_continue(text: str) -> tuple[int, int]:
    try:
        token = json.loads(base64.urlsafe_b64decode(text))
        return int(token["rv"]), int(token["page"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise StatusError(400, "BadRequest", "continue key is not valid") from None
