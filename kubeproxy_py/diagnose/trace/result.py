"""The result of a trace: its steps, and what becomes of the packet."""

from typing import Literal

from msgspec import Struct

from kubeproxy_py.diagnose.trace.packet import Packet
from kubeproxy_py.diagnose.trace.way import Step
from kubeproxy_py.net import IP

Fate = Literal["served", "host", "refused", "rejected", "dropped", "forwarded", "unknown"]
"""What becomes of the packet.

served: a virtual server has real servers for it.  host: the programs of this node get it.  refused: a virtual server
has no real server for it, or no program of this node listens for it.  rejected, dropped: by a rule, dropped also by
one of routing.  forwarded: this node has neither the address nor a virtual server for it.  unknown: a rule of another
program takes it elsewhere.
"""

ANSWERED: frozenset[Fate] = frozenset(("served", "host"))
NOT_LOOKED = 1
NOT_ANSWERED = 2


class RealServerChoice(Struct, frozen=True, gc=False):
    """A real server that may get the packet."""

    address: IP
    port: int
    weight: int
    is_here: bool  # on this node
    handed_on: str = ""  # by "route" or "tunnel": it is another node, which answers the client; "": an endpoint


class Branch(Struct, frozen=True, gc=False):
    """What happens between IPVS and those real servers for which the same happens.

    Attributes:
        real_servers: The real servers.
        steps: What happens after IPVS.
        fate: "served", or how it ends there.
        is_masqueraded: None if it is unknown.
        source: the source address that the real servers see; "" if it is unknown.
        interface: by which the packet leaves; "" if it is not known.
    """

    real_servers: tuple[RealServerChoice, ...]
    steps: tuple[Step, ...]
    fate: Fate
    is_masqueraded: bool | None
    source: IP
    interface: str


class Outcome(Struct, frozen=True, gc=False):
    """One thing that may become of the packet.

    Attributes:
        fate: What becomes of it.
        reason: Why, in words.
        remedy: What to look at, or do; "" if nothing.
        steps: All steps that lead to it, up to IPVS.
        doubts: The rules that only may match, and that have to match for it.
        server: The virtual server; "" if none takes it.
        scheduler: How it chooses among its real servers, in words.
        branches: What happens after IPVS, by real servers.
        draining: Real servers that get no new connection.
        notes: What else an operator should know.
    """

    fate: Fate
    reason: str
    remedy: str = ""
    steps: tuple[Step, ...] = ()
    doubts: tuple[Step, ...] = ()
    server: str = ""
    scheduler: str = ""
    branches: tuple[Branch, ...] = ()
    draining: tuple[RealServerChoice, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def real_servers(self) -> tuple[RealServerChoice, ...]:
        """Return the real servers that may get the packet and that it reaches."""
        return tuple(choice for branch in self.branches if branch.fate == "served" for choice in branch.real_servers)


class Trace(Struct, frozen=True, gc=False):
    """The way of one packet.

    Attributes:
        packet: The packet as it begins.
        sender: Who sends it, in words.
        service: The Service that its destination belongs to; "" if none or not known.
        outcomes: What may become of it, the first without the rules that only may match; several if it is not certain.
        has_foreign: whether rules of other programs were looked at.
        notes: What was assumed.
    """

    packet: Packet
    sender: str
    service: str
    outcomes: tuple[Outcome, ...]
    has_foreign: bool = False
    notes: tuple[str, ...] = ()

    @property
    def is_certain(self) -> bool:
        """Return whether only one thing may become of the packet."""
        outcome = self.outcomes[0]
        unknown = any(
            branch.fate == "unknown" or (branch.fate == "served" and branch.is_masqueraded is None)
            for branch in outcome.branches
        )
        return len(self.outcomes) == 1 and outcome.fate != "unknown" and not unknown

    @property
    def exit_status(self) -> int:
        """Return 0 if it is answered in any case, 2 if in none, 1 if that is unknown."""
        answered = {outcome.fate in ANSWERED for outcome in self.outcomes}
        if len(answered) > 1 or any(outcome.fate == "unknown" for outcome in self.outcomes):
            return NOT_LOOKED
        return 0 if answered == {True} else NOT_ANSWERED
