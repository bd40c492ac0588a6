"""kube-proxy and kubeproxy-py side by side: the same objects, the same kernel, measured from outside.

KUBE_PROXY_BIN names kube-proxy, KUBEBUILDER_ASSETS a folder with kube-apiserver and etcd; without the latter both use
the stand-in API server.

Invariants:
  - Only the kernel's state counts; neither program is queried.
  - A change is timed from before it is written, so both times include the API server's part.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import objects
from bench.inside import agent
from bench.inside.network import fresh_namespace
from bench.inside.process import agent_words, running
from bench.inside.standin import stand_in
from kubeproxy_py.kernel import Kernel
from kubeproxy_py.model.rows import RealServer, VirtualServer
from lab.namespace import Namespace
from tests.apiserver.client import Client
from tests.apiserver.real import binaries, real_server

_LOOK_S, _LOOK_AT_CHANGE_S = 0.05, 0.002
_TIMEOUT_S = 500.0
_KUBE_PROXY_FLAGS = ("--proxy-mode=ipvs", "--cluster-cidr=10.128.0.0/10")

Figures = dict[str, list[float]]


def measure(n: int, repeats: int) -> dict[str, Figures]:
    """Return the seconds until all is programmed, and until one endpoint is replaced, of each program, alternately."""
    by_program: dict[str, Figures] = {"kube-proxy": {}, "kubeproxy-py": {}}
    with TemporaryDirectory() as folder:
        for _ in range(repeats):
            for name, figures in by_program.items():
                for figure, took_s in _one(name, Path(folder), n).items():
                    figures.setdefault(figure, []).append(took_s)
    return by_program


def _one(name: str, folder: Path, n: int) -> dict[str, float]:
    with fresh_namespace() as namespace, _api_server(folder, n, namespace) as client:
        kubeconfig = _kubeconfig(folder, client)
        words = agent_words("--kubeconfig", str(kubeconfig))
        if name == "kube-proxy":
            flags = [f"--{key}={value}" for key, value in agent.FLAGS.items()]
            words = [os.environ["KUBE_PROXY_BIN"], f"--kubeconfig={kubeconfig}", *flags, *_KUBE_PROXY_FLAGS]
        kernel = agent.make_parts().kernel
        with running(words, namespace):
            started_s = _seconds_until(lambda: _is_programmed(kernel, n), _LOOK_S)
            began_s = time.monotonic()
            client.apply(objects.bare(objects.slice_json(0, replaced=True)))
            _seconds_until(lambda: _is_replaced(kernel), _LOOK_AT_CHANGE_S)
            changed_s = time.monotonic() - began_s
        kernel.close()
        return {"started": started_s, "changed": changed_s}


@contextmanager
def _api_server(folder: Path, n: int, namespace: Namespace) -> Iterator[Client]:
    """Yield an API server in this namespace that has the objects."""
    if assets := binaries():
        with TemporaryDirectory() as state, real_server(assets, Path(state)) as client:
            _fill(client, n)
            yield client
        return
    path = folder / "objects.json"
    objects.write_list(path, n)
    with stand_in(path, namespace) as server:
        yield Client(server.url)


def _fill(client: Client, n: int) -> None:
    for path, body in objects.creations(n):
        status, answer = client.request_json("POST", path, body)
        assert status == 201, answer


def _kubeconfig(folder: Path, client: Client) -> Path:
    """Write a kubeconfig, as JSON, which is YAML."""
    cluster = {"server": client.url, **({"certificate-authority": str(client.ca_file)} if client.ca_file else {})}
    user = {"token": client.token} if client.token else {}
    text = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [{"name": "bench", "user": user}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "current-context": "bench",
    }
    path = folder / "kubeconfig"
    path.write_text(json.dumps(text))
    return path


def _seconds_until(holds: Callable[[], bool], look_s: float) -> float:
    began_s = time.monotonic()
    while not holds():
        assert time.monotonic() - began_s < _TIMEOUT_S, f"not within {_TIMEOUT_S:.0f} s"
        time.sleep(look_s)
    return time.monotonic() - began_s


def _is_programmed(kernel: Kernel, n: int) -> bool:
    """Return whether all is programmed: first the virtual servers, which is cheap, then everything else."""
    if sum(map(len, kernel.virtual_servers())) < n:
        return False
    try:
        agent.check_programmed(kernel, n)
    except AssertionError:
        return False
    return True


def _is_replaced(kernel: Kernel) -> bool:
    after = objects.endpoint_slice(0, replaced=True).endpoints[0].address
    server = VirtualServer(objects.service(0).cluster_ips[0], 80, "TCP")
    return any(isinstance(key, RealServer) and key.address == after for key in kernel.snapshot(server).rows())
