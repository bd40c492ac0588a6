"""Forms in which people name a target: a URL, or a name of the cluster's DNS; `explain` and `trace` take them.

Invariants:
- What is none of these forms is returned as it is, without the white space around it.
"""

import re

from kubeproxy_py.net import PROTOCOL_NUMBERS

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(?:[^/?#@]*@)?([^/?#]*)(?:[/?#].*)?", re.IGNORECASE | re.DOTALL)
_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_DNS_NAME = re.compile(rf"({_LABEL})\.({_LABEL})(?:\.svc(?:\.[a-z0-9.-]*)?)?\.?((?::|/).*)?", re.IGNORECASE | re.DOTALL)
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}  # of schemes


def plain_target(text: str) -> str:
    """Return ``shop/web:443`` for ``https://web.shop.svc.cluster.local/``, and ``10.96.0.10:80`` for a URL with it."""
    body = text.strip()
    if url := _URL.fullmatch(body):
        scheme, body = url[1].lower(), url[2]
        has_port = re.search(r":\d+$", body) and (body.count(":") == 1 or "]:" in body)
        if scheme in _PORTS and body and not has_port:
            body = f"{body}:{_PORTS[scheme]}"
        if scheme.upper() in PROTOCOL_NUMBERS:
            body = f"{body}/{scheme}"
    name = _DNS_NAME.fullmatch(body)
    if name and not (name[1].isdecimal() and name[2].isdecimal()):  # "10.96" is a part of an address
        return f"{name[2].lower()}/{name[1].lower()}{name[3] or ''}"
    return body
