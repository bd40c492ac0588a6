"""A small client for tests, which reads and changes objects of the stand-in or a real server."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.apiserver.store import BY_KIND, ApiType, Json

TIMEOUT_S = 60  # a real server in user-mode-linux takes more than 10 s on a busy machine
_OLD_SLICES = ApiType("endpointslices", "discovery.k8s.io/v1beta1", "EndpointSlice")  # of servers before 1.21
_TYPES = {**BY_KIND, (_OLD_SLICES.api_version, _OLD_SLICES.kind): _OLD_SLICES}


class Client:
    """Sends requests to the server at *url*, whose CA is *ca_file*, with *token*."""

    def __init__(self, url: str, token: str = "", ca_file: Path | None = None) -> None:
        self.url = url
        self.token = token
        self.ca_file = ca_file
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else None
        handlers: list[Any] = [urllib.request.ProxyHandler({})]
        if self._tls:
            handlers.append(urllib.request.HTTPSHandler(context=self._tls))
        self._opener = urllib.request.build_opener(*handlers)

    def request_json(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        """Send a request; return the HTTP status and the JSON body of the response."""
        with self.open(self.request(method, path, body)) as response:
            text = response.read()
            return response.status, json.loads(text) if text.startswith(b"{") else {}

    @contextmanager
    def watch(self, path: str) -> Iterator[Iterator[Json]]:
        """Open a watch and yield its events as they arrive."""
        with self.open(self.request("GET", path)) as response:
            yield (json.loads(line) for line in response)

    def apply(self, body: Json) -> Json:
        """Create or replace the object *body*; return it as the server stored it."""
        path = path_of(body)
        status, now = self.request_json("GET", path)
        if status == 404:
            status, after = self.request_json("POST", path.rpartition("/")[0], body)
        else:
            version = {"resourceVersion": now["metadata"]["resourceVersion"]}
            status, after = self.request_json("PUT", path, {**body, "metadata": {**body["metadata"], **version}})
        assert status in (200, 201), after
        return after

    def create(self, body: Json) -> None:
        """Create the object *body*."""
        status, answer = self.request_json("POST", path_of(body).rpartition("/")[0], body)
        assert status == 201, answer

    def delete(self, body: Json) -> None:
        status, response = self.request_json("DELETE", path_of(body))
        assert status == 200, response

    def expire_versions(self) -> None:
        """Have the stand-in forget all versions before the current one."""
        status, response = self.request_json("POST", "/standin/compact")
        assert status == 200, response

    def request(self, method: str, path: str, body: Json | None = None) -> urllib.request.Request:
        """Return a request with *body* as JSON."""
        data = json.dumps(body).encode() if body is not None else None
        return urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)

    def open(self, request: urllib.request.Request) -> Any:
        """Send *request* and return the response, including that of an error."""
        request.add_header("Accept", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            return self._opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            return error


def path_of(body: Json) -> str:
    """Return the path of the object *body*."""
    api_type: ApiType = _TYPES[body["apiVersion"], body["kind"]]
    meta = body["metadata"]
    within = f"namespaces/{meta['namespace']}/" if api_type.namespaced else ""
    return f"{api_type.root}/{within}{api_type.plural}/{meta['name']}"
