"""A real kube-apiserver with its etcd, from the folder that KUBEBUILDER_ASSETS names (the convention of envtest).

It has two users: an admin, and the agent by the name of its pod's service account.  With the authorization mode
AlwaysAllow both may do everything; with RBAC the agent has the permissions of the roles bound to it, and the admin, in
system:masters, has all.

Invariants:
- Where the variable is set, the real programs run or an error says why not; nothing else takes their place.

Source: kubernetes.io/docs/reference/access-authn-authz, authentication (the static token file is token, user, uid and
groups; the name and the groups of a service account) and rbac; kubernetes.io/docs/reference, kube-apiserver;
etcd.io/docs/v3.4/dev-guide/api_grpc_gateway.
"""

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import NamedTuple

from tests.apiserver.certificates import Authority
from tests.apiserver.client import Client
from tests.apiserver.old_servers import both_forms
from tests.apiserver.store import Json
from tests.free_ports import port_of, reserve_port

ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
PROGRAMS = ("kube-apiserver", "etcd")
SERVICE_NETWORK = "10.96.0.0/12"
OWN_SERVICE_ADDRESS = str(next(ip_network(SERVICE_NETWORK).hosts()))
"""The clusterIP of the Service default/kubernetes, which the server creates itself."""

START_TIMEOUT_S = 240  # in user-mode-linux it takes up to 95 s
_STOP_TIMEOUT_S = 20
_SLICES_SINCE = 21  # of Kubernetes 1.
_TOKEN, _AGENT_TOKEN = "real-server-token", "real-server-agent-token"  # in a throw-away server on 127.0.0.1
_USERS = f"""\
{_TOKEN},admin,1,"system:masters"
{_AGENT_TOKEN},system:serviceaccount:kube-system:kubeproxy-py,2,"system:serviceaccounts,system:serviceaccounts:kube-system"
"""


class MissingProgramError(Exception):
    """An environment variable names a program that is not there."""


class Ports(NamedTuple):
    """The TCP ports of both programs, on 127.0.0.1."""

    etcd: int
    etcd_peers: int
    server: int

    @property
    def etcd_url(self) -> str:
        return f"http://127.0.0.1:{self.etcd}"

    @property
    def server_url(self) -> str:
        return f"https://127.0.0.1:{self.server}"


def binaries() -> Path | None:
    """Return the folder with both programs; None if the variable is not set.  Raises MissingProgramError."""
    named = os.environ.get(ASSETS_VARIABLE)
    if not named:
        return None
    for name in PROGRAMS:
        require_program(ASSETS_VARIABLE, Path(named, name))
    return Path(named)


def require_program(variable: str, path: Path) -> None:
    """Raise MissingProgramError unless the file *path*, which *variable* names, can be executed."""
    if not path.is_file():
        raise MissingProgramError(f"{variable} is set, but there is no file {path}")
    if not os.access(path, os.X_OK):
        raise MissingProgramError(f"{variable} is set, but {path} is not executable")


def etcd_command(program: Path, data: Path, ports: Ports) -> list[str]:
    """Return the command line of etcd, which keeps its data in the folder *data*."""
    peers_url = f"http://127.0.0.1:{ports.etcd_peers}"
    return [
        str(program),
        f"--data-dir={data}",
        f"--listen-client-urls={ports.etcd_url}",
        f"--advertise-client-urls={ports.etcd_url}",
        f"--listen-peer-urls={peers_url}",
        f"--initial-advertise-peer-urls={peers_url}",
        f"--initial-cluster=default={peers_url}",
        "--unsafe-no-fsync",
    ]


def server_command(
    program: Path, certificate: Path, key: Path, tokens: Path, ports: Ports, authorization: str
) -> list[str]:
    """Return the command line of kube-apiserver, with a *certificate*, its *key*, and a file of *tokens*."""
    return [
        str(program),
        f"--etcd-servers={ports.etcd_url}",
        f"--secure-port={ports.server}",
        "--bind-address=127.0.0.1",
        # In a network namespace without a default route it finds no address by itself.  It writes none to the endpoints
        # of its own Service, where a loopback address is not allowed.
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}",
        f"--token-auth-file={tokens}",
        f"--authorization-mode={authorization}",
        "--anonymous-auth=false",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={certificate}",  # it takes a public key, not a private one in PKCS#8
        f"--service-account-signing-key-file={key}",
        "--disable-admission-plugins=ServiceAccount",
        "--allow-privileged=true",  # as kubeadm sets it, for the DaemonSet's init container
    ]


class RealServer(Client):
    """The admin's client of a running server.

    Args:
        ports: Those of both programs.
        command: The command line of kube-apiserver.
        ca_file: The CA of its certificate.
        log: The file with its output.

    Attributes:
        minor: N of Kubernetes 1.N, once it has started.
        has_slices: It has discovery.k8s.io/v1.
    """

    def __init__(self, ports: Ports, command: list[str], ca_file: Path, log: Path) -> None:
        super().__init__(ports.server_url, _TOKEN, ca_file)
        self._ports = ports
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.has_slices = True
        self.minor = 0

    @property
    def pid(self) -> int:
        """The process of kube-apiserver."""
        assert self._process, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start kube-apiserver and wait until it is ready."""
        self._process = _start(self._command, self._log)
        _wait_until_ready(self, self._process, self._log)
        self.minor = int(self.request_json("GET", "/version")[1]["minor"].rstrip("+"))
        self.has_slices = self.minor >= _SLICES_SINCE

    def apply(self, body: Json) -> Json:
        """Create or replace the object *body*; of an EndpointSlice, on a server without them, its older forms."""
        stored, *_ = [Client.apply(self, form) for form in self._forms(body)]
        return stored

    def create(self, body: Json) -> None:
        """Create the object *body*, as `apply` does."""
        for form in self._forms(body):
            Client.create(self, form)

    def delete(self, body: Json) -> None:
        """Delete the object *body*, as `apply` does."""
        for form in self._forms(body):
            Client.delete(self, form)

    def _forms(self, body: Json) -> list[Json]:
        return [body] if self.has_slices or body["kind"] != "EndpointSlice" else both_forms(body)

    def stop(self) -> None:
        """Stop kube-apiserver."""
        if self._process:
            _stop(self._process)

    def expire_versions(self) -> None:
        """Compact etcd up to now, and restart the server: its watch cache remembers what it saw."""
        _, listed = self.request_json("GET", "/api/v1/namespaces")
        body = json.dumps({"revision": listed["metadata"]["resourceVersion"], "physical": True}).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(f"{self._ports.etcd_url}/v3/kv/compaction", body, timeout=_STOP_TIMEOUT_S).close()
        self.stop()
        self.start()


@contextmanager
def real_server(folder: Path, directory: Path, authorization: str = "AlwaysAllow") -> Iterator[RealServer]:
    """Start a server with its files in *directory*, and yield the admin's client; *authorization* is its mode."""
    authority = Authority(directory / "pki")
    certificate, key = authority.issue("apiserver")
    tokens = directory / "tokens.csv"
    tokens.write_text(_USERS)
    with ExitStack() as reserved:
        ports = Ports(*(port_of(reserved.enter_context(reserve_port())) for _ in Ports._fields))
        command = server_command(folder / "kube-apiserver", certificate, key, tokens, ports, authorization)
        server = RealServer(ports, command, authority.file, directory / "apiserver.log")
        etcd = _start(etcd_command(folder / "etcd", directory / "etcd", ports), directory / "etcd.log")
        try:
            server.start()
            yield server
        finally:
            server.stop()
            _stop(etcd)


def agent_client(admin: Client) -> Client:
    """Return a client of the same server with the agent's token."""
    return Client(admin.url, _AGENT_TOKEN, admin.ca_file)


def _start(command: list[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(client: Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            ready, _ = client.request_json("GET", "/readyz")
            namespace, _ = client.request_json("GET", "/api/v1/namespaces/default")
            if ready == namespace == 200:
                return
        except OSError:
            pass
        time.sleep(0.2)
    ended = f"ended with status {process.returncode}" if process.poll() is not None else "did not become ready"
    raise AssertionError(f"kube-apiserver {ended}: {log.read_text(errors='replace')[-2000:]}")
