"""Flags laid over the fields of a file, in the file's own shape, so that one reader serves both.

Law: nothing is decided here but where a text goes; an empty text is as no flag at all.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from kubeproxy_py.config.errors import InvalidValue
from kubeproxy_py.config.flags import Flag, kind_of
from kubeproxy_py.config.read import ValidationResult
from kubeproxy_py.config.types import HEALTHZ_PORT, METRICS_PORT, OwnSettings
from kubeproxy_py.net import join_host_port, parse_ip

Fields = dict[str, Any]


def lay_flags(
    used: Iterable[Flag], given: Mapping[str, str], upstream: Fields, own: Fields, findings: ValidationResult
) -> None:
    """Set in *upstream* and *own* what the flags *used* name; texts that can't be read go to *findings*."""
    ports: dict[str, int] = {}
    for flag in used:
        try:
            value = kind_of(flag).from_text(given[flag.name])
            if flag.path:
                _put(own if flag.section is OwnSettings else upstream, flag.path, value)
            elif flag.name in _SERVERS:
                kind_of(flag).check(value)
                ports[flag.name] = value
        except InvalidValue as reason:
            findings.refuse(flag.path or flag.name, reason)
    _fill_server_addresses(upstream, ports)


def _put(fields: Fields, path: str, value: Any) -> None:
    *groups, key = path.split(".")
    for group in groups:
        inner = fields.get(group)
        if inner is None:
            inner = fields[group] = {}
        elif not isinstance(inner, dict):
            return  # not fields at all, of which the reader will complain
        fields = inner
    if key == "vmodule" and isinstance(fields.get(key), list):
        value = fields[key] + value  # the one list that adds to the file's
    fields[key] = value


_SERVERS = {  # deprecated flag for the port: field, port, address in IPv4, in IPv6
    "healthz-port": ("healthzBindAddress", HEALTHZ_PORT, "0.0.0.0", "::"),
    "metrics-port": ("metricsBindAddress", METRICS_PORT, "127.0.0.1", "::1"),
}


def _fill_server_addresses(upstream: Fields, ports: Mapping[str, int]) -> None:
    """Servers listen in the family of bindAddress, and the deprecated ports count where an address names none."""
    in_ipv6 = ":" in _ip_or_nothing(upstream.get("bindAddress"))
    for flag, (key, default_port, ipv4, ipv6) in _SERVERS.items():
        if flag not in ports and not in_ipv6:
            continue
        host = upstream.get(key) or (ipv6 if in_ipv6 else ipv4)
        if address := _ip_or_nothing(host):
            upstream[key] = join_host_port(address, ports.get(flag) or default_port)


def _ip_or_nothing(text: Any) -> str:
    try:
        return parse_ip(text) if isinstance(text, str) else ""
    except ValueError:
        return ""
