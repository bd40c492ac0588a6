"""kube-proxy and kubeproxy-py side by side: the same objects, the same kernel, measured from outside.

bench/peers.py finds the programs.  `beside-standin` takes the stand-in API server, to test the procedure.

Invariants:
  - Only the kernel's state counts; neither program is queried.
  - A change is timed from before it is written, so both times include the API server's part.
"""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench import objects, peers
from bench.inside import agent
from bench.inside.network import fresh_namespace
from bench.inside.process import agent_words, memory_bytes
from bench.inside.standin import stand_in
from kubeproxy_py.kernel import Kernel, Scope
from kubeproxy_py.model.rows import IpsetEntry, RealServer, VirtualServer
from lab.namespace import Namespace
from tests.apiserver.client import Client
from tests.apiserver.real import OWN_SERVICE_ADDRESS, real_server

_LOOK_S, _LOOK_AT_CHANGE_S = 0.05, 0.002
_TIMEOUT_S, _END_TIMEOUT_S = 500.0, 60.0
_LOG_SHOWN = 2000  # characters
_CHANGES = 5  # endpoints replaced one by one
_KUBE_PROXY_FLAGS = ("--proxy-mode=ipvs", "--cluster-cidr=10.128.0.0/10")

Figures = dict[str, list[float]]


def measure(n: int, repeats: int) -> dict[str, Figures]:
    """Return the figures of each program, alternately: see _one.

    Raises:
        MissingProgramError: A program is not there.
    """
    kube_proxy, assets = peers.programs()
    return _measure(n, repeats, kube_proxy, lambda _namespace: real_api_server(assets, n))


def measure_with_standin(n: int, repeats: int) -> dict[str, Figures]:
    """Return the same, with the stand-in API server.  Raises MissingProgramError."""
    return _measure(n, repeats, peers.kube_proxy(), lambda namespace: _stand_in(n, namespace))


_MakeServer = Callable[[Namespace], AbstractContextManager[Client]]


def _measure(n: int, repeats: int, kube_proxy: Path, make_server: _MakeServer) -> dict[str, Figures]:
    by_program: dict[str, Figures] = {"kube-proxy": {}, "kubeproxy-py": {}}
    with TemporaryDirectory() as folder:
        for _ in range(repeats):
            for name, figures in by_program.items():
                own = kube_proxy if name == "kube-proxy" else None
                for figure, took_s in _one(own, make_server, Path(folder), n).items():
                    figures.setdefault(figure, []).append(took_s)
    return by_program


def command(kube_proxy: Path | None, kubeconfig: Path) -> list[str]:
    """Return the command line of kube-proxy; None: of the agent."""
    if kube_proxy is None:
        return agent_words("--kubeconfig", str(kubeconfig))
    flags = [f"--{key}={value}" for key, value in agent.FLAGS.items()]
    return [str(kube_proxy), f"--kubeconfig={kubeconfig}", *flags, *_KUBE_PROXY_FLAGS]


def _one(kube_proxy: Path | None, make_server: _MakeServer, folder: Path, n: int) -> dict[str, float]:
    """Return the seconds until all is programmed, until an endpoint is replaced (the median), until a new Service is
    programmed, and the bytes of memory at the end.
    """
    with fresh_namespace() as namespace, make_server(namespace) as client:
        words = command(kube_proxy, kubeconfig(folder, client))
        kernel = agent.make_parts().kernel
        with running(words, namespace, folder / "log") as check:
            started_s = seconds_until(lambda: _is_programmed(kernel, n), _LOOK_S, check)
            changed_s = [_replace(kernel, client, number, check) for number in range(_CHANGES)]
            began_s = time.monotonic()
            for document in objects.documents(n):
                client.apply(objects.bare(document))
            seconds_until(lambda: is_added(kernel, n), _LOOK_AT_CHANGE_S, check)
            added_s = time.monotonic() - began_s
            memory = memory_bytes(check.pid)["rss_bytes"]
        kernel.close()
        return {"started": started_s, "changed": median(changed_s), "added": added_s, "rss_bytes": memory}


def _replace(kernel: Kernel, client: Client, number: int, check: Callable[[], None]) -> float:
    """Replace the first endpoint of the Service *number*; return the seconds until the kernel has it."""
    began_s = time.monotonic()
    client.apply(objects.bare(objects.slice_json(number, replaced=True)))
    seconds_until(lambda: is_replaced(kernel, number, 1), _LOOK_AT_CHANGE_S, check)
    return time.monotonic() - began_s


class Check:
    """A check that the running process *pid* has not ended."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._log = log

    def __call__(self) -> None:
        """Raise AssertionError, with the end of the log, if the process has ended."""
        if (status := self._process.poll()) is not None:
            shown = self._log.read_text(errors="replace")[-_LOG_SHOWN:]
            raise AssertionError(f"{self._process.args!r} ended with status {status}: {shown}")


@contextmanager
def running(words: Sequence[str], namespace: Namespace, log: Path) -> Iterator[Check]:
    """Run *words* with its output in the file *log*, so that it waits for no reader; yield a check that it runs."""
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, preexec_fn=namespace.enter)  # noqa: PLW1509 - no threads here
    try:
        yield Check(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_END_TIMEOUT_S)


@contextmanager
def real_api_server(assets: Path, n: int) -> Iterator[Client]:
    """Yield a real API server in this namespace that has the objects."""
    with TemporaryDirectory() as state, real_server(assets, Path(state)) as client:
        fill(client, n)
        yield client


@contextmanager
def _stand_in(n: int, namespace: Namespace) -> Iterator[Client]:
    """Yield the stand-in API server in this namespace, with the objects."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "objects.json")
        objects.write_list(path, n)
        with stand_in(path, namespace) as server:
            yield Client(server.url)


def fill(client: Client, n: int) -> None:
    """Create the objects of *n* Services."""
    for body in objects.creations(n):
        client.create(body)


def kubeconfig(folder: Path, client: Client) -> Path:
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


def seconds_until(holds: Callable[[], bool], look_s: float, check: Callable[[], None]) -> float:
    began_s = time.monotonic()
    while not holds():
        check()
        assert time.monotonic() - began_s < _TIMEOUT_S, f"not within {_TIMEOUT_S:.0f} s"
        time.sleep(look_s)
    return time.monotonic() - began_s


def _is_programmed(kernel: Kernel, n: int) -> bool:
    """Return whether all is programmed: first the virtual servers, which is cheap, then everything else."""
    if sum(map(len, kernel.virtual_servers())) < n:
        return False
    try:
        agent.check_programmed(kernel, n, besides=OWN_SERVICE_ADDRESS)
    except AssertionError:
        return False
    return True


def is_replaced(kernel: Kernel, number: int, replaced: int) -> bool:
    """Return whether the Service *number* has its first endpoint after it was replaced *replaced* times."""
    after = objects.endpoint_slice(number, replaced=replaced).endpoints[0].address
    server = VirtualServer(objects.service(number).cluster_ips[0], 80, "TCP")
    return any(isinstance(key, RealServer) and key.address == after for key in kernel.snapshot(server).rows())


def is_added(kernel: Kernel, number: int) -> bool:
    """Return whether the Service *number* is in IPVS and in the set of ClusterIPs: first what is cheap to ask."""
    address = objects.service(number).cluster_ips[0]
    servers = [key for key in kernel.snapshot(VirtualServer(address, 80, "TCP")).rows() if isinstance(key, RealServer)]
    if len(servers) < objects.ENDPOINTS:
        return False
    entry = IpsetEntry("KUBE-CLUSTER-IP", f"{address},tcp:80")
    return entry in kernel.read(Scope("ipset", "KUBE-CLUSTER-IP"))
