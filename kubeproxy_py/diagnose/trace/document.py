"""A trace as a JSON document, whose form is described in docs/trace.md.

Invariants:
- A field is never renamed or removed within a version.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from kubeproxy_py.diagnose.trace.packet import Packet
from kubeproxy_py.diagnose.trace.result import Branch, Outcome, RealServerChoice, Trace
from kubeproxy_py.diagnose.trace.text import trace_text
from kubeproxy_py.diagnose.trace.way import Step

VERSION = 1

Document = dict[str, Any]


def trace_json(trace: Trace) -> bytes:
    """Return the document as JSON."""
    return msgspec.json.encode(trace_document(trace))


def trace_document(trace: Trace) -> Document:
    """Return the document."""
    return {
        "version": VERSION,
        "packet": _packet(trace.packet, trace.sender),
        "service": trace.service,
        "certain": trace.is_certain,
        "exitStatus": trace.exit_status,
        "foreignRules": trace.has_foreign,
        "notes": list(trace.notes),
        "outcomes": [_outcome(outcome) for outcome in trace.outcomes],
        "text": trace_text(trace),
    }


def _packet(packet: Packet, sender: str) -> Document:
    return {
        "source": packet.source,
        "sender": sender,
        "destination": packet.destination,
        "port": packet.port,
        "protocol": packet.protocol,
        "fromHost": packet.from_host,
        "inInterface": packet.in_interface or "",
    }


def _outcome(outcome: Outcome) -> Document:
    return {
        "fate": outcome.fate,
        "reason": outcome.reason,
        "remedy": outcome.remedy,
        "ifTheseMatch": [_step(step) for step in outcome.doubts],
        "steps": [_step(step) for step in outcome.steps],
        "virtualServer": outcome.server,
        "scheduler": outcome.scheduler,
        "branches": [_branch(branch) for branch in outcome.branches],
        "draining": _real_servers(outcome.draining),
        "notes": list(dict.fromkeys(outcome.notes)),
    }


def _branch(branch: Branch) -> Document:
    return {
        "realServers": _real_servers(branch.real_servers),
        "fate": branch.fate,
        "masqueraded": branch.is_masqueraded,
        "source": branch.source,
        "outInterface": branch.interface,
        "steps": [_step(step) for step in branch.steps],
    }


def _real_servers(choices: Iterable[RealServerChoice]) -> list[Document]:
    return [
        {
            "address": choice.address,
            "port": choice.port,
            "weight": choice.weight,
            "onThisNode": choice.is_here,
            **({"handedOn": choice.handed_on} if choice.handed_on else {}),
        }
        for choice in choices
    ]


def _step(step: Step) -> Document:
    return {
        "kind": step.kind,
        "table": step.table,
        "chain": step.chain,
        "number": step.number,
        "rule": step.rule,
        "because": step.because,
        "effect": step.effect,
        "certain": step.certain,
        "foreign": step.foreign,
    }
