"""Programs in the place of kube-apiserver and etcd, to test how the harness starts them where there are none.

They refuse the command lines that the real ones were seen to refuse, and serve the stand-in.  As programs:
``python -m tests.apiserver.fake_programs kube-apiserver --secure-port=...``.
"""

import json
import signal
import socket
import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificate

from tests.apiserver.server import ApiServer

ROOT = Path(__file__).resolve().parents[2]


def write_programs(folder: Path) -> Path:
    """Write both programs to *folder* and return it."""
    for name in ("kube-apiserver", "etcd"):
        path = folder / name
        path.write_text(
            f"#!/bin/sh\ncd '{ROOT}' && exec '{sys.executable}' -m tests.apiserver.fake_programs {name} \"$@\"\n"
        )
        path.chmod(0o755)
    return folder


def serve_api(flags: dict[str, str]) -> None:
    """Serve the stand-in as kube-apiserver would with *flags*."""
    _check_keys(flags)
    if "--advertise-address" not in flags:
        sys.exit("unable to find suitable network address.error='no default routes found'")
    if ip_address(flags["--advertise-address"]).is_loopback and flags.get("--endpoint-reconciler-type") != "none":
        sys.exit("may not be in the loopback range (127.0.0.0/8, ::1/128)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(flags["--tls-cert-file"], flags["--tls-private-key-file"])
    _wait_for_etcd(flags["--etcd-servers"])
    server = ApiServer(int(flags["--secure-port"]), flags["--bind-address"], context)
    lines = Path(flags["--token-auth-file"]).read_text().splitlines()
    server.faults.tokens = {line.partition(",")[0] for line in lines}
    for name in ("default", "kube-system"):
        server.store.create("namespaces", {"metadata": {"name": name}})
    server.serve_forever()


def _wait_for_etcd(url: str) -> None:
    address = (urlsplit(url).hostname, urlsplit(url).port)
    for _ in range(600):
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            time.sleep(0.1)
        else:
            return
    sys.exit("etcd does not answer")


def _check_keys(flags: dict[str, str]) -> None:
    """Exit unless the key file has a public key or a certificate, and the signing key is its private one."""
    pem = Path(flags["--service-account-key-file"]).read_bytes()
    try:
        public = load_pem_x509_certificate(pem).public_key()
    except ValueError:
        sys.exit("error creating service account token authenticator: data does not contain any valid public keys")
    signing = serialization.load_pem_private_key(
        Path(flags["--service-account-signing-key-file"]).read_bytes(), password=None
    )
    if signing.public_key() != public:
        sys.exit("the signing key is not of the public key")


class _Etcd(BaseHTTPRequestHandler):
    """Answers a compaction, and keeps its revision in the file `compacted` of the data folder."""

    data = Path()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v3/kv/compaction", self.path
        (self.data / "compacted").write_text(str(body["revision"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


def serve_etcd(flags: dict[str, str]) -> None:
    """Serve as etcd would with *flags*."""
    _Etcd.data = Path(flags["--data-dir"])
    _Etcd.data.mkdir()
    url = urlsplit(flags["--listen-client-urls"])
    HTTPServer((url.hostname or "", url.port or 0), _Etcd).serve_forever()


def main() -> None:
    program, *words = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    flags = {name: value for name, _, value in (word.partition("=") for word in words)}
    {"kube-apiserver": serve_api, "etcd": serve_etcd}[program](flags)


if __name__ == "__main__":
    main()
