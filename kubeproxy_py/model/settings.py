"""What annotations of a Service change for it alone: ServiceSettings.

Invariants:
- A Service without such annotations has NO_SETTINGS, the very same value, so it costs one pointer.
- A value that was wrong is not in its field, which has its default, but among ``problems``.
"""

from typing import Literal

from msgspec import Struct

from kubeproxy_py.net import Family

WeightKey = Literal["address", "node", "own-node", "label", "zone", "own-zone", "others"]
"""What a weight belongs to; the first of this order that an endpoint fits decides its weight.

Of several labels, the one that was written first does.
"""

HealthCheck = Literal["none", "tcp"]

DirectReturn = Literal["", "route", "tunnel"]
"""How packets are handed on to nodes that answer themselves; "": they are not."""


class Weight(Struct, frozen=True, gc=False):
    """The weight of the endpoints that *key* and *name* select."""

    key: WeightKey
    name: str  # of the zone or node, the address, or the label of the node (key=value); "" for the others
    weight: int  # 1 to 65535

    def __str__(self) -> str:
        """Return it as it is written: ``zone/a=3``, ``own-node=20``, ``pool=large:4``."""
        if self.key == "label":
            return f"{self.name}:{self.weight}"
        return f"{self.key}/{self.name}={self.weight}" if self.name else f"{self.key}={self.weight}"


class SettingProblem(Struct, frozen=True, gc=False):
    """An annotation that is ignored, and why."""

    annotation: str  # its whole name
    value: str
    message: str
    hint: str  # the remedy


class Written(Struct, frozen=True, gc=False):
    """An annotation that is used, as its author wrote it."""

    setting: str  # its name without our prefix; also where the annotation is another program's
    annotation: str  # its whole name
    value: str


class ServiceSettings(Struct, frozen=True, gc=False, omit_defaults=True):
    """The settings of one Service; docs/service-settings.md has the annotation of each."""

    scheduler: str = ""  # "": that of the configuration
    scheduler_flags: tuple[str, ...] | None = None  # of SCHEDULER_FLAGS; None: those that kube-proxy sets
    source_hash_port: bool | None = None  # whether sh and mh hash the client's port, too; None: by scheduler_flags
    weights: tuple[Weight, ...] = ()  # in order of their precedence; (): all endpoints have the weight 1
    drain_deadline_s: float | None = None  # how long a TCP real server may drain; 0: no limit; None: as configured
    slow_start_s: float = 0.0  # how long the weight of a new endpoint grows; 0: it has its weight at once
    affinity_timeout_s: int = 0  # 0: that of spec.sessionAffinityConfig
    affinity_prefixes: tuple[tuple[Family, int], ...] = ()  # of client networks that share an endpoint, by family
    max_connections: int = 0  # of each endpoint, from this node at one frontend; 0: no limit
    health_check: HealthCheck = "none"
    health_check_interval_s: float = 5.0
    direct_return: DirectReturn = ""
    health_check_threshold: int = 3  # failures in a row after which an endpoint is set aside
    problems: tuple[SettingProblem, ...] = ()
    written: tuple[Written, ...] = ()  # what the fields above were read from

    def written_as(self, setting: str) -> Written:
        """Return what *setting* was read from."""
        return next((one for one in self.written if one.setting == setting), Written(setting, setting, ""))


NO_SETTINGS = ServiceSettings()

FALLBACK_FLAG, PORT_FLAG = "fallback", "port"
SCHEDULER_FLAGS: tuple[str, ...] = (FALLBACK_FLAG, PORT_FLAG)
"""The flags that schedulers of the kernel have: sh-fallback and mh-fallback, sh-port and mh-port."""

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh", "twos")
"""Every scheduler of Linux (net/netfilter/ipvs/ip_vs_*.c), by the names in their ``.name``; a kernel may lack some."""
