"""What is right field by field may still not fit together.

Law: a check is a row of one table, and is asked only if all the fields that it names could be read.
"""

from collections.abc import Callable

from kubeproxy_py.config.durations import format_duration
from kubeproxy_py.config.errors import InvalidValue
from kubeproxy_py.config.read import ValidationResult
from kubeproxy_py.config.types import DetectLocal, DetectLocalMode, KubeProxyConfiguration

_Check = Callable[[KubeProxyConfiguration], InvalidValue | None]


def cross_check(config: KubeProxyConfiguration, findings: ValidationResult) -> None:
    """Note in *findings* what in *config* contradicts itself, at the first field that each check names."""
    for paths, check in _CHECKS:
        if findings.refused.isdisjoint(paths) and (reason := check(config)):
            findings.refuse(paths[0], reason)


def _periods(config: KubeProxyConfiguration) -> InvalidValue | None:
    least_s, period_s = config.ipvs.min_sync_period_s, config.ipvs.sync_period_s
    if least_s <= period_s:
        return None
    too_long = f"{format_duration(least_s)} is longer than ipvs.syncPeriod, {format_duration(period_s)}"
    return InvalidValue(too_long, "at most ipvs.syncPeriod")


def _needed(mode: DetectLocalMode, what: str, value: Callable[[DetectLocal], str]) -> _Check:
    def check(config: KubeProxyConfiguration) -> InvalidValue | None:
        missing = config.detect_local_mode == mode and not value(config.detect_local)
        return InvalidValue(f"empty, and detectLocalMode is {mode}", what) if missing else None

    return check


def _patterns(config: KubeProxyConfiguration) -> InvalidValue | None:
    if config.logging.vmodule and config.logging.format != "text":
        return InvalidValue("needs the log format text", "leave it out, or logging.format: text")
    return None


_CHECKS: tuple[tuple[tuple[str, ...], _Check], ...] = (
    (("ipvs.minSyncPeriod", "ipvs.syncPeriod"), _periods),
    (
        ("detectLocal.bridgeInterface", "detectLocalMode"),
        _needed("BridgeInterface", "the pods' bridge, such as cni0", lambda of: of.bridge_interface),
    ),
    (
        ("detectLocal.interfaceNamePrefix", "detectLocalMode"),
        _needed(
            "InterfaceNamePrefix",
            "how the pods' interfaces begin, such as veth",
            lambda of: of.interface_name_prefix,
        ),
    ),
    (("logging.vmodule", "logging.format"), _patterns),
)
