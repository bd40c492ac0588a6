"""The agent is killed during its first sync: what it had done is consistent, and the next start completes it."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from lab.namespace import Namespace, new_namespace
from lab.rtnl import Rtnl
from tests.e2e.agent_process import INITIAL_LISTS, SYNCED, AgentProcess, wait_until
from tests.e2e.kernel_state import State, differences, kernel_state
from tests.e2e.manifests import Folder, Object, Port, service_with_slice
from tests.e2e.safe.patched_agent import PatchedAgent
from tests.e2e.wrapped_programs import WrappedPrograms

pytestmark = pytest.mark.kernel

SERVICES = 300
SEED = int(os.environ.get("CRASH_SEED", "20"))
SIGTERM_WITHIN_S = 4.0  # 2 to 22 ms here, more on a busy machine; who waits for a thread gives it 5 s


def many_services() -> Iterator[Object]:
    for number in range(SERVICES):
        node_port = 30000 + number if number % 10 == 0 else 0
        port = Port(80, ("TCP", "UDP", "SCTP")[number % 3], 8080, node_port)
        yield from service_with_slice(
            f"s{number}", f"10.96.{number // 200}.{number % 200 + 1}", ["pod-a1", "pod-b1"], [port]
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Folder(tmp_path_factory.mktemp("manifests"))
    made.write("all", many_services())
    return made.path


@contextmanager
def fresh_node() -> Iterator[Namespace]:
    """Yield a namespace like a machine after boot, with one network interface."""
    with new_namespace("crash") as node:
        with node.inside():
            links = Rtnl()
        links.add_link("eth0", "dummy")
        links.set_up("eth0")
        links.add_address("eth0", "192.168.3.10/24")
        yield node
        links.close()


class Undisturbed(NamedTuple):
    """The kernel state before and after a first sync that is not interrupted, and how long that took."""

    empty: State
    complete: State
    took_s: float


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Undisturbed:
    with fresh_node() as node:
        empty = kernel_state(node)
        with AgentProcess(node, folder) as agent:
            agent.wait_for(INITIAL_LISTS)
            began_s = time.monotonic()
            agent.wait_synced()
            took_s = time.monotonic() - began_s
            return Undisturbed(empty, kernel_state(node), took_s)


Stage = Callable[[Path], bool]
"""Return whether the first sync has reached the stage; called within the node's namespace, with the marks of _MARK."""

# Before a program runs it leaves a mark, because it may be over sooner than a busy machine looks for its process.
_MARK = ': > "${0%/*}/../{program}.mark"; exec /usr/sbin/{program} "$@"\n'


def makes_device(_: Path) -> bool:
    return any(name == "kube-ipvs0" for _, name in socket.if_nameindex())


def restores(family: str) -> Stage:
    """Return the stage at which *family*-restore (iptables or ip6tables, legacy or nft) is started."""
    return lambda marks: any(marks.glob(f"{family}-*-restore.mark"))


def makes_servers(_: Path) -> bool:
    return Path("/proc/thread-self/net/ip_vs").read_text().count("\n") > 3  # its heading


@contextmanager
def agent_right_after(node: Namespace, folder: Path, stage: Stage, after_s: float) -> Iterator[AgentProcess]:
    """Yield an agent *after_s* after its first sync has reached *stage*.

    This thread gets real-time priority, because otherwise the sync is over before the thread checks the stage.
    """
    with TemporaryDirectory() as made:
        marks = Path(made)
        programs = WrappedPrograms(marks / "programs", _MARK, "restore")
        with PatchedAgent(node, folder, programs.statements()) as agent:
            agent.wait_for(INITIAL_LISTS)
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
            try:
                with node.inside():
                    wait_until(lambda: stage(marks), poll_s=0.001)
                time.sleep(after_s)
                yield agent
            finally:
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


# In the order of a first sync; each twice.
STAGES = (makes_device, restores("iptables"), restores("ip6tables"), makes_servers)
# A restore takes a tenth of the sync on the slowest of the lab's kernels, and everything after both no more.
CHANCE_SHARE, CHANCE_MAX_S = 0.05, 0.02
KILLS = 2 * STAGES


class Crash(NamedTuple):
    """The kernel state after a kill, and after the next start."""

    left: State
    completed: State


@pytest.fixture(scope="module")
def crashes(folder: Path, undisturbed: Undisturbed) -> list[Crash]:
    """Kill the first sync on a fresh node, once for each of KILLS, at a random moment after its stage."""
    chance = random.Random(SEED)
    longest_s = min(CHANCE_MAX_S, CHANCE_SHARE * undisturbed.took_s)
    return [crash(folder, stage, chance.random() * longest_s) for stage in KILLS]


def crash(folder: Path, stage: Stage, after_s: float) -> Crash:
    with fresh_node() as node:
        with agent_right_after(node, folder, stage, after_s) as agent:
            agent.stop(signal.SIGKILL)
        left = kernel_state(node)
        with AgentProcess(node, folder) as agent:
            agent.wait_synced()
            return Crash(left, kernel_state(node))


def test_start_after_a_kill_ends_with_the_state_of_an_undisturbed_sync(
    crashes: list[Crash], undisturbed: Undisturbed
) -> None:
    assert [differences(undisturbed.complete, crash.completed) for crash in crashes] == [[]] * len(KILLS)


def test_kills_hit_the_middle_of_the_sync(crashes: list[Crash], undisturbed: Undisturbed) -> None:
    stages = [{part: len(lines) for part, lines in crash.left.items()} for crash in crashes]
    partly_done = [crash for crash in crashes if crash.left not in (undisturbed.empty, undisturbed.complete)]
    assert len(partly_done) >= 2 * len(STAGES[:3]), stages


def test_after_a_kill_no_address_is_bound_without_its_service(crashes: list[Crash]) -> None:
    assert [incomplete_addresses(crash.left) for crash in crashes] == [[]] * len(KILLS)


def incomplete_addresses(state: State) -> list[str]:
    """Return addresses on kube-ipvs0 that have no virtual server with a real server, or no entry in the sets."""
    bound = re.findall(r"kube-ipvs0\s+inet (\S+)/32", "\n".join(state["addresses"]))
    served = set(re.findall(r"^-a -\S+ (?:sctp:)?(10\.96\.\d+\.\d+):80 ", "\n".join(state["virtual servers"]), re.M))
    named = set(re.findall(r"^add KUBE-CLUSTER-IP ([\d.]+),", "\n".join(state["ipsets"]), re.M))
    return [address for address in bound if address not in served & named]


@pytest.mark.parametrize("stage", STAGES[:3], ids=["device", "iptables", "ip6tables"])
def test_sigterm_during_a_sync_stops_the_agent_at_once_with_status_0(folder: Path, stage: Stage) -> None:
    with fresh_node() as node, agent_right_after(node, folder, stage, after_s=0.0) as agent:
        status, took_s = agent.stop(signal.SIGTERM)
        in_the_middle = not any(re.search(SYNCED, line) for line in agent.lines())
        assert (status, took_s < SIGTERM_WITHIN_S, in_the_middle) == (0, True, True), f"{took_s:.3f} s"
