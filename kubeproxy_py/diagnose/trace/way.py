"""One way of a packet: the steps that happened to it, and how it ended."""

from typing import Literal

from msgspec import Struct

from kubeproxy_py.diagnose.trace.packet import Packet

StepKind = Literal["hook", "rule", "policy", "routing", "server", "delivery"]


class Step(Struct, frozen=True, gc=False):
    """One thing that happens to the packet.

    Attributes:
        kind: what decides: a rule, the policy of a chain, the routing decision, a virtual server.
        table: the table, of a rule or policy.
        chain: the chain, of a rule or policy.
        number: the position of the rule in its chain, from 1 on.
        rule: the rule as iptables-save prints it.
        because: what of the packet decided it, in words.
        effect: what follows, in words.
        certain: False for a rule that may match.
        foreign: whether the rule is another program's.
    """

    kind: StepKind
    effect: str
    because: str = ""
    table: str = ""
    chain: str = ""
    number: int = 0
    rule: str = ""
    certain: bool = True
    foreign: bool = False


class Way(Struct, frozen=True, gc=False):
    """One way that a packet may go.

    Attributes:
        packet: The packet at its end.
        steps: What happened on it.
        doubts: The rules that only may match, and that match on this way.
    """

    packet: Packet
    steps: tuple[Step, ...] = ()
    doubts: tuple[Step, ...] = ()

    def with_step(self, step: Step, packet: Packet | None = None) -> "Way":
        """Return this way with one more step, after which the packet is *packet*."""
        return Way(packet or self.packet, (*self.steps, step), self.doubts)

    def assuming(self, step: Step) -> "Way":
        """Return this way on which the rule of *step* matches."""
        return Way(self.packet, self.steps, (*self.doubts, step))


Verdict = Literal["dropped", "rejected", "unknown"]


class End(Struct, frozen=True, gc=False):
    """A way that ends at a rule."""

    way: Way
    verdict: Verdict

    @property
    def step(self) -> Step:
        """Return the step at which it ends."""
        return self.way.steps[-1]
