"""What tells one cluster from another without asking its API server."""

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Iterator
from hashlib import sha256

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


def cluster_ids(server: str, authorities: bytes) -> tuple[str, ...]:
    """Return the IDs of a cluster; two descriptions of the same cluster have one in common.

    An ID is the SHA-256 of a certificate of the certificate authority.  A bundle has several, so that the cluster
    stays recognizable while its authority is replaced.  Without a certificate the ID is the URL of the server.

    Not used is the UID of the namespace kube-system: it cannot be read while the API server does not answer, and
    kube-proxy's role does not permit it.

    Args:
        server: The URL of the API server.
        authorities: The certificates by which it is verified, PEM; b"": those of the system, or none.
    """
    ids = tuple(dict.fromkeys(f"ca {digest}" for digest in _digests(authorities)))
    return ids or (f"server {server}",)


def _digests(pem: bytes) -> Iterator[str]:
    for match in _CERTIFICATE.finditer(pem):
        try:
            certificate = b64decode(match[1])
        except Error:
            continue
        if certificate:
            yield sha256(certificate).hexdigest()
