"""NeighbourCheck: asks the neighbours for an external address before it is bound for the first time.

Only addresses of networks in which this node has an address are asked for; nothing else can be a neighbour's.  What an
answer means is decided in compile/neighbours.py.

Invariants:
- Nothing waits but the address itself, for at most WAIT_S; a neighbour that does not answer within it is absent.
- An address that was bound once, or was found bound at start, is not asked for again for as long as it is desired.
- An address that is another machine's is reported (TakenAddresses), and asked for again from time to time.
"""

import logging
from collections.abc import Collection, Iterable

from msgspec import Struct

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.neighbours import Network, find_owners, interfaces_to, own_networks
from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.events import TakenAddresses
from kubeproxy_py.model.node import HostAddress, Neighbour
from kubeproxy_py.model.rows import Address, Key, Rows
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import IP

SOURCE = "neighbours"
WAIT_S = 1.0
"""How long an address waits for an answer; on a link one takes milliseconds."""
AGAIN_S = 60.0
"""How often an address that is another machine's is asked for again."""
_FIRST_LOOK_S = 0.05  # after the question; then twice as long each time

log = logging.getLogger(__name__)


class _Question(Struct, frozen=True, gc=False):
    """An address that waits for an answer."""

    interfaces: tuple[str, ...]
    deadline_s: float


class _Owned(Struct, frozen=True, gc=False):
    """An address that is another machine's."""

    interfaces: tuple[str, ...]
    neighbour: Neighbour


class NeighbourCheck:
    """Used by one thread; all times are those of the caller.

    Args:
        kernel: Asks, and has the answers.
        compiler: Has the desired rows and the Services, and knows other addresses that are taken.
    """

    def __init__(self, kernel: Kernel, compiler: Compiler) -> None:
        self._kernel = kernel
        self._compiler = compiler
        self._networks: tuple[Network, ...] = ()
        self._waiting: dict[Address, _Question] = {}
        self._look_s, self._pause_s = NEVER, _FIRST_LOOK_S
        self._free: set[Address] = set()  # of own networks: may be bound without asking
        self._owned: dict[Address, _Owned] = {}
        self._again_s = NEVER
        self._is_asked_again = False  # the owned addresses were asked for, and have not been looked up yet

    @property
    def due_s(self) -> float:
        """When ``run`` has something to do."""
        return min(self._look_s, self._again_s)

    def set_addresses(self, addresses: Iterable[HostAddress]) -> None:
        """Derive the networks of this node from its *addresses*."""
        self._networks = own_networks(host for host in addresses if not host.is_gone)

    def adopt(self, rows: Rows) -> None:
        """Remember the addresses of *rows*, which were read from the kernel, as bound."""
        if self._networks:
            self._free.update(key for key in rows if isinstance(key, Address) and self._interfaces(key))

    def hold(self, keys: Iterable[Key], actual: Rows, now_s: float) -> dict[Key, float]:
        """Return those of *keys*, about to be planned, that must wait, and until when; asks for the new ones."""
        held: dict[Key, float] = {}
        asked: dict[Address, _Question] = {}
        for key in keys:
            if not isinstance(key, Address):
                continue
            if key not in self._compiler.desired.rows:
                self._free.discard(key)
                self._waiting.pop(key, None)
            elif key in self._waiting:
                held[key] = self._waiting[key].deadline_s
            elif self._is_new(key, actual) and (interfaces := self._interfaces(key)):
                asked[key] = _Question(interfaces, now_s + WAIT_S)
        if asked and self._solicit(asked):
            self._waiting |= asked
            self._pause_s = _FIRST_LOOK_S
            self._look_s = min(self._look_s, now_s + _FIRST_LOOK_S)
            held |= {key: question.deadline_s for key, question in asked.items()}
        return held

    def run(self, now_s: float) -> list[Key]:
        """Look up answers, ask again what is due, and return the keys that need not wait any longer."""
        released: list[Key] = []
        if now_s >= self._look_s:
            released = self._look(now_s)
        if now_s >= self._again_s:
            self._check_owned(now_s)
        return released

    def _look(self, now_s: float) -> list[Key]:
        neighbours = self._answers(self._waiting.values())
        owners = self._find_owners(neighbours)
        answered = {neighbour.address for neighbour in neighbours}
        released: list[Key] = []
        for key, question in list(self._waiting.items()):
            if key.address in owners:
                self._owned[key] = _Owned(question.interfaces, owners[key.address])
            elif key.address in answered or now_s >= question.deadline_s:
                self._free.add(key)
            else:
                continue
            del self._waiting[key]
            released.append(key)
        self._pause_s *= 2
        deadline_s = min((question.deadline_s for question in self._waiting.values()), default=NEVER)
        self._look_s = min(now_s + self._pause_s, deadline_s) if self._waiting else NEVER
        if any(key in self._owned for key in released):
            self._again_s = min(self._again_s, now_s + AGAIN_S)
            self._report()
        return released

    def _check_owned(self, now_s: float) -> None:
        """Ask again for the addresses that are other machines'; or look up the answers, and drop what is free now."""
        if not self._is_asked_again:
            self._is_asked_again = True
            self._solicit(self._owned)
            self._again_s = now_s + WAIT_S
            return
        self._is_asked_again = False
        owners = self._find_owners(self._answers(self._owned.values()))
        wanted = {key for key in self._owned if self._compiler.cluster.is_external_address(key.address)}
        free = {key for key in wanted if key.address not in owners}
        self._free |= free
        kept = {key: owned for key, owned in self._owned.items() if key in wanted - free}
        if len(kept) < len(self._owned):
            self._owned = kept
            self._report()
        self._again_s = now_s + AGAIN_S if self._owned else NEVER

    def _find_owners(self, neighbours: Collection[Neighbour]) -> dict[IP, Neighbour]:
        asked = {key.address for keys in (self._waiting, self._owned, self._free) for key in keys}
        taken = self._compiler.cluster.taken
        known = {address for address in asked if taken.owner_text(address, besides=SOURCE)}
        return find_owners(asked, neighbours, known)

    def _answers(self, questions: Iterable[_Question | _Owned]) -> tuple[Neighbour, ...]:
        interfaces = {interface for question in questions for interface in question.interfaces}
        try:
            return self._kernel.neighbours(interfaces)
        except KernelError as error:  # no answer is no reason to leave a Service unserved
            log.warning("Failed to read the neighbour table", extra=values(err=error))
            return ()

    def _solicit(self, questions: dict[Address, _Question] | dict[Address, _Owned]) -> bool:
        """Ask the neighbours for the addresses of *questions*, and return whether that was possible."""
        targets = [HostAddress(link, key.address) for key, asked in questions.items() for link in asked.interfaces]
        try:
            self._kernel.solicit(targets)
        except KernelError as error:
            log.warning("Failed to ask the neighbours for Service addresses; binding them", extra=values(err=error))
            return False
        return True

    def _report(self) -> None:
        taken = {
            key.address: f"the address of the machine {owned.neighbour.mac} on {owned.neighbour.interface}"
            for key, owned in self._owned.items()
        }
        self._compiler.handle_event(TakenAddresses(SOURCE, taken))

    def _is_new(self, key: Address, actual: Rows) -> bool:
        """Return whether *key* must be asked for; one that is desired although it is owned is a ClusterIP."""
        return key not in actual and key not in self._free and key not in self._owned

    def _interfaces(self, key: Address) -> tuple[str, ...]:
        return interfaces_to(key.address, self._networks)
