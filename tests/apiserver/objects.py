"""Objects of the API server, as JSON, and a kubeconfig for it."""

import itertools
from pathlib import Path
from typing import Any

import yaml

from tests.apiserver import ApiServer
from tests.apiserver.client import Client

Json = dict[str, Any]
_addresses = itertools.count(1)


def service(name: str, **meta: Any) -> Json:
    """Return a Service with a unique address within the real server's range."""
    number = next(_addresses)
    spec = {"clusterIP": f"10.100.{number // 250}.{number % 250 + 1}", "ports": [{"port": 80}]}
    meta = {"name": name, "namespace": "default", **meta}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def endpoint_slice(name: str, address: str = "10.1.0.5", **labels: str) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "web", **labels}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
        "ports": [{"port": 8080}],
    }


def node(name: str) -> Json:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def kubeconfig(
    directory: Path, client: Client | ApiServer, user: Json | None = None, cluster: Json | None = None
) -> str:
    """Write a kubeconfig for *client*'s server and return its path."""
    ca = {"certificate-authority": str(client.ca_file)} if isinstance(client, Client) and client.ca_file else {}
    token = {"token": client.token} if isinstance(client, Client) else {}
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": client.url, **ca, **(cluster or {})}}],
        "users": [{"name": "u", "user": token if user is None else user}],
    }
    path = directory / "kubeconfig"
    path.write_text(yaml.safe_dump(body))
    return str(path)
