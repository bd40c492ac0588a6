"""A small client for tests: it changes objects in a stand-in or a real server alike."""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.apiserver.store import BY_KIND, ApiType, Json

TIMEOUT_S = 10


class Client:
    """Speaks to the server at *url*, whose CA is *ca_file*, with *token*."""

    def __init__(self, url: str, token: str = "", ca_file: Path | None = None) -> None:
        self.url = url
        self.token = token
        self.ca_file = ca_file
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else None
        handlers: list[Any] = [urllib.request.ProxyHandler({})]
        if self._tls:
            handlers.append(urllib.request.HTTPSHandler(context=self._tls))
        self._opener = urllib.request.build_opener(*handlers)

    def ask(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        """The status and the JSON body of the answer."""
        with self.open(self.request(method, path, body)) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith(b"{") else {}

    @contextmanager
    def watch(self, path: str) -> Iterator[Iterator[Json]]:
        """The events of a watch, as they come."""
        with self.open(self.request("GET", path)) as answer:
            yield (json.loads(line) for line in answer)

    def apply(self, body: Json) -> Json:
        """Create or replace *body*; as the server has it then."""
        path = _path(body)
        status, now = self.ask("GET", path)
        if status == 404:
            status, after = self.ask("POST", path.rpartition("/")[0], body)
        else:
            version = {"resourceVersion": now["metadata"]["resourceVersion"]}
            status, after = self.ask("PUT", path, {**body, "metadata": {**body["metadata"], **version}})
        assert status in (200, 201), after
        return after

    def delete(self, body: Json) -> None:
        status, answer = self.ask("DELETE", _path(body))
        assert status == 200, answer

    def request(self, method: str, path: str, body: Json | None = None) -> urllib.request.Request:
        """A request that has *body* as JSON."""
        data = json.dumps(body).encode() if body is not None else None
        return urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)

    def open(self, request: urllib.request.Request) -> Any:
        """The answer to *request*, an error's as well as any other."""
        request.add_header("Accept", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            return self._opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            return error


def _path(body: Json) -> str:
    api_type: ApiType = BY_KIND[body["apiVersion"], body["kind"]]
    meta = body["metadata"]
    within = f"namespaces/{meta['namespace']}/" if api_type.namespaced else ""
    return f"{api_type.root}/{within}{api_type.plural}/{meta['name']}"
