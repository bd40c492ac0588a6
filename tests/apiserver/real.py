"""A real kube-apiserver with its etcd, from the folder that KUBEBUILDER_ASSETS names (the convention of envtest).

It has two users: an admin, and the agent by the name of its pod's service account.  With the authorization mode
AlwaysAllow both may do everything; with RBAC the agent has the permissions of the roles bound to it, and the admin, in
system:masters, has all.

Source: kubernetes.io/docs/reference/access-authn-authz, authentication (the static token file is token, user, uid and
groups; the name and the groups of a service account) and rbac.
"""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.apiserver.certificates import Authority
from tests.apiserver.client import Client

START_TIMEOUT_S = 60
_TOKEN, _AGENT_TOKEN = "real-server-token", "real-server-agent-token"  # in a throw-away server on 127.0.0.1
_USERS = f"""\
{_TOKEN},admin,1,"system:masters"
{_AGENT_TOKEN},system:serviceaccount:kube-system:kubeproxy-py,2,"system:serviceaccounts,system:serviceaccounts:kube-system"
"""


def binaries() -> Path | None:
    """Return the folder with both programs, if there is one."""
    folder = Path(os.environ.get("KUBEBUILDER_ASSETS") or "/nonexistent")
    return folder if all((folder / name).is_file() for name in ("kube-apiserver", "etcd")) else None


@contextmanager
def real_server(folder: Path, directory: Path, authorization: str = "AlwaysAllow") -> Iterator[Client]:
    """Start a server with its files in *directory*, and yield the admin's client; *authorization* is its mode."""
    authority = Authority(directory / "pki")
    certificate, key = authority.issue("apiserver")
    tokens = directory / "tokens.csv"
    tokens.write_text(_USERS)
    etcd_port, peer_port, port = _free_port(), _free_port(), _free_port()
    etcd_url, peer_url = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
    etcd: list[Path | str] = [folder / "etcd", f"--data-dir={directory / 'etcd'}", f"--listen-client-urls={etcd_url}"]
    etcd += [f"--advertise-client-urls={etcd_url}", f"--listen-peer-urls={peer_url}", "--unsafe-no-fsync"]
    etcd += [f"--initial-advertise-peer-urls={peer_url}", f"--initial-cluster=default={peer_url}"]
    server: list[Path | str] = [folder / "kube-apiserver", f"--etcd-servers={etcd_url}", f"--secure-port={port}"]
    server += ["--bind-address=127.0.0.1", f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"]
    server += [f"--token-auth-file={tokens}", f"--authorization-mode={authorization}", "--anonymous-auth=false"]
    server += ["--service-cluster-ip-range=10.96.0.0/12", "--service-account-issuer=https://kubernetes.default.svc"]
    server += [f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"]
    server += ["--disable-admission-plugins=ServiceAccount"]
    with _running(etcd, directory / "etcd.log"), _running(server, directory / "apiserver.log") as process:
        client = Client(f"https://127.0.0.1:{port}", _TOKEN, authority.file)
        _wait_until_ready(client, process, directory / "apiserver.log")
        yield client


def agent_client(admin: Client) -> Client:
    """Return a client of the same server with the agent's token."""
    return Client(admin.url, _AGENT_TOKEN, admin.ca_file)


@contextmanager
def _running(command: list[Path | str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
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
    raise AssertionError(f"kube-apiserver did not become ready: {log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
