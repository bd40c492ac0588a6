"""`python -m bench.inside WHAT REPEATS N...`, in the lab: print the raw figures as JSON, by N.

REPEATS is the duration in seconds for idle, churn and failover-cost; N a number of connections a second for failover.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from bench.inside import (
    asked,
    beside,
    change,
    churn,
    cold,
    contested,
    drift,
    failover,
    failover_cost,
    floor,
    idle,
    machine,
    policies,
    rollout,
    takeover,
    weights,
)

_Measure = Callable[[Sequence[int], int], Mapping[str, Any]]


def _each(measure: Callable[[int, int], Any]) -> _Measure:
    """Return a measurement of several N, one after the other."""
    return lambda sizes, repeats: {str(n): measure(n, repeats) for n in sizes}


_MEASURES: dict[str, _Measure] = {
    "asked": _each(asked.measure),
    "cold": _each(cold.measure),
    "cold-api": _each(cold.measure_api),
    "cold-offline": _each(cold.measure_offline),
    "change": change.measure,
    "churn": _each(churn.measure),
    "churn-new": _each(churn.measure_new_addresses),
    "rollout": rollout.measure,
    "contested": _each(contested.measure),
    "drift": _each(drift.measure),
    "failover": failover.measure,
    "failover-cost": _each(failover_cost.measure),
    "floor": _each(floor.measure),
    "idle": idle.measure,
    "policies-change": _each(policies.measure_changes),
    "policies-cold": _each(policies.measure_starts),
    "policies-connections": _each(policies.measure_connections),
    "machine": lambda _sizes, repeats: {"0": machine.measure(repeats)},
    "beside": _each(beside.measure),
    "beside-standin": _each(beside.measure_with_standin),
    "takeover": _each(takeover.measure),
    "weights": _each(weights.measure),
}

if __name__ == "__main__":
    what, repeats, *sizes = sys.argv[1:]
    figures = _MEASURES[what]([int(n) for n in sizes], int(repeats))
    sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
