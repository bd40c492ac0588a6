"""`python -m tests.recorded_objects`: record what a kube-apiserver (KUBEBUILDER_ASSETS) makes of written.py.

It lists them with the agent's selectors, so what the server must not send is not recorded either.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from kubeproxy_py.sources.kubernetes.listing import target_of
from kubeproxy_py.sources.kubernetes.resources import PEERS, SERVICES, SLICES, Resource
from tests.apiserver.objects import Json
from tests.apiserver.real import MissingProgramError, RealServer, binaries, real_server
from tests.recorded_objects import write
from tests.recorded_objects.written import LOAD_BALANCER, objects

_SELECTORS_SINCE = 31  # of Kubernetes 1.: servers before reject the field selector


def main() -> int:
    """Record, print the file's path, and return the exit status."""
    try:
        folder = binaries()
    except MissingProgramError as error:
        print(error, file=sys.stderr)
        return 1
    if not folder:
        print("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd", file=sys.stderr)
        return 1
    with TemporaryDirectory() as directory, real_server(folder, Path(directory)) as server:
        version, lists = _record(server)
    print(write(version, lists))
    return 0


def _record(server: RealServer) -> tuple[str, dict[str, Json]]:
    for body in objects():
        server.create(body)
    path = "/api/v1/namespaces/shop/services/balanced"
    _, balanced = server.request_json("GET", path)
    status, answer = server.request_json("PUT", f"{path}/status", {**balanced, "status": LOAD_BALANCER})
    assert status == 200, answer
    _, version = server.request_json("GET", "/version")
    return version["gitVersion"].removeprefix("v"), dict(_listed(server, each) for each in _resources(server))


def _resources(server: RealServer) -> list[Resource]:
    """Return what the agent lists of this server, and the Endpoints, which each server has."""
    assert SLICES.fallback
    return [SERVICES, *([SLICES] if server.has_slices else []), SLICES.fallback, PEERS]


def _listed(server: RealServer, resource: Resource) -> tuple[str, Json]:
    """Return the path of *resource*, and the list there."""
    target = target_of(resource, {"resourceVersion": "0"})
    if server.minor < _SELECTORS_SINCE:
        target = target.replace("&fieldSelector=spec.clusterIP%21%3DNone", "")
    status, listed = server.request_json("GET", target)
    assert status == 200, listed
    return resource.path, listed


if __name__ == "__main__":
    sys.exit(main())
