"""Plans as text or JSON, for ``kubeproxy-py plan`` and golden tests."""

from collections.abc import Iterator

import msgspec

from kubeproxy_py.model.rows import SERVING, ChainSpec
from kubeproxy_py.model.steps import Plan, Step

_SIGNS = {"add": "+", "update": "~", "delete": "-"}
_KIND_WIDTH = len("VirtualServer")


def plan_text(plan: Plan) -> str:
    """Return one line for each step, ``+`` added, ``~`` updated, ``-`` deleted, with changed rules below a chain."""
    return "".join(f"{line}\n" for step in plan for line in _lines(step))


def plan_json(plan: Plan) -> bytes:
    """Return a JSON list of ``{"verb", "kind", "key", "spec", "before"}``; specs are text, or null if there is none."""
    return msgspec.json.encode([_as_dict(step) for step in plan])


def _lines(step: Step) -> Iterator[str]:
    detail = ""
    if step.verb == "update" and not isinstance(step.spec, ChainSpec):
        detail = f"  (was {step.before})" if step.spec is None else f"  ({step.before} -> {step.spec})"
    elif step.spec is not None and step.spec != SERVING:
        detail = f"  ({step.spec})"
    yield f"{_SIGNS[step.verb]} {type(step.key).__name__:{_KIND_WIDTH}} {step.key}{detail}"
    if isinstance(step.spec, ChainSpec):
        before = step.before.rules if isinstance(step.before, ChainSpec) else ()
        yield from (f"    - {rule}" for rule in before if rule not in step.spec.rules)
        yield from (f"    + {rule}" for rule in step.spec.rules if rule not in before)


def _as_dict(step: Step) -> dict[str, str | None]:
    return {
        "verb": step.verb,
        "kind": type(step.key).__name__,
        "key": str(step.key),
        "spec": None if step.spec is None else str(step.spec),
        "before": None if step.before is None else str(step.before),
    }
