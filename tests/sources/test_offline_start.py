"""A start while the API server does not answer: saved objects are served, and replaced when it does."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.model.events import (
    Event,
    NodeUpserted,
    PeerDeleted,
    PeerUpserted,
    ServiceDeleted,
    ServiceUpserted,
    SliceUpserted,
    Synced,
    TakenAddresses,
)
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.peers import NO_NEEDS, PeerNeeds
from kubeproxy_py.sources import FEEDS
from kubeproxy_py.sources.client_metrics import ClientMetrics
from kubeproxy_py.sources.kubernetes import reachability, retry_schedule, saved_objects, source
from kubeproxy_py.sources.kubernetes.saved_objects import Saving, Use
from kubeproxy_py.sources.kubernetes.source import KubeSource
from kubeproxy_py.sources.saved.content import Objects, Saved, decode, encode
from kubeproxy_py.sources.saved.folder import StateFolder
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.apiserver.objects import endpoint_slice, kubeconfig, node, service
from tests.sources.conftest import PATIENCE_S, EventLog, wait_until

_WEEK_S = 7 * 86400.0
ADDRESSES = PeerNeeds(addresses=True)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_schedule, "BACKOFF", Backoff(0.02, 30.0, jitter=1.0))
    monkeypatch.setattr(retry_schedule, "CONFIRM_S", (0.05, 0.05))
    monkeypatch.setattr(reachability, "DELAY", Backoff(0.02, 0.2))
    monkeypatch.setattr(saved_objects, "SETTLE_S", 0.02)
    monkeypatch.setattr(saved_objects, "PERIOD_S", 0.02)


class Recorded(ClientMetrics):
    """Records what concerns saved objects."""

    def __init__(self) -> None:
        self.serving: list[bool] = []
        self.saved_s: list[float] = []
        self.failures = 0

    def serving_saved_objects(self, *, serving: bool) -> None:
        self.serving.append(serving)

    def objects_saved(self, at_s: float) -> None:
        self.saved_s.append(at_s)

    def saved_objects_failed(self) -> None:
        self.failures += 1


class Agent:
    """A source that runs, with what it emits and records."""

    def __init__(self, url: str, folder: Path, **saving: Any) -> None:
        served = saving.pop("served", frozenset())
        path = saving.pop("kubeconfig", None)
        self.log: EventLog = saving.pop("log", None) or EventLog()
        self.metrics = Recorded()
        self.uses: list[Use] = []
        options = {"max_age_s": _WEEK_S, "silence_s": 60.0, **saving}
        self.source = KubeSource(
            path,
            None if path else url,
            "node-a",
            metrics=self.metrics,
            caution=source.Caution(served=served),
            saving=Saving(str(folder), on_replaced=self.uses.append, **options),
        )
        self.source.start(self.log)

    @property
    def events(self) -> list[Event]:
        return [event for _, event in list(self.log.events)]

    def wait_for_saved(self, *feeds: str) -> float:
        """Wait until saved objects of all feeds were emitted, and return when they were saved."""
        times: list[float] = []
        for feed in feeds or FEEDS:
            wait_until(lambda feed=feed: any(_is_saved(event, feed) for event in self.events))  # type: ignore[misc]
        times = [event.saved_s for event in self.events if isinstance(event, Synced) and event.saved_s]
        return times[0]

    def forget(self) -> None:
        self.log.events.clear()


def _is_saved(event: Event, feed: str) -> bool:
    return isinstance(event, Synced) and event.feed == feed and event.saved_s is not None


@pytest.fixture
def start_agent(server: ApiServer, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def start(**options: Any) -> Agent:
        agents.append(Agent(options.pop("url", server.url), tmp_path / "state", **options))
        return agents[-1]

    yield start
    for agent in agents:
        agent.source.stop()


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(str(tmp_path / "state"))


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """Return what was logged, with its values."""
    return "\n".join(f"{record.getMessage()} {getattr(record, 'values', {})}" for record in list(caplog.records))


def objects_in(folder: StateFolder) -> Objects:
    content = folder.read()
    return decode(content).objects if content else {}


def labels_in(folder: StateFolder) -> dict[str, tuple[str, ...]]:
    """The labels of the Nodes in the file."""
    nodes = [one for values in objects_in(folder).values() for one in values if isinstance(one, Node)]
    return {node.name: node.labels for node in nodes}


def names_in(folder: StateFolder) -> set[str]:
    return {name.name for _, name in objects_in(folder)}


@pytest.fixture
def saved(server: ApiServer, start_agent: Callable[..., Agent], folder: StateFolder) -> ApiServer:
    """A server that has stopped, after an agent saved its objects: two Services, a slice, a Node."""
    for body in (service("first"), service("second"), endpoint_slice("web-1"), node("node-a"), node("node-b")):
        server.apply(body)
    agent = start_agent()
    wait_until(lambda: names_in(folder) == {"first", "second", "web-1", "node-a"})
    agent.source.stop()
    server.stop()
    return server


@pytest.fixture
def restart(saved: ApiServer) -> Iterator[Callable[[], ApiServer]]:
    """Start the server again, with the objects that *saved* has by then."""
    started: list[ApiServer] = []

    def start() -> ApiServer:
        again = ApiServer(saved.server_address[1])
        again.store = saved.store
        started.append(again.start())
        return again

    yield start
    for server in started:
        server.stop()


def test_objects_are_saved_when_they_change(
    server: ApiServer, start_agent: Callable[..., Agent], folder: StateFolder
) -> None:
    server.apply(service("first"))
    agent = start_agent()
    wait_until(lambda: names_in(folder) == {"first"})
    server.apply(endpoint_slice("web-1"))
    server.apply(node("node-a"))
    wait_until(lambda: names_in(folder) == {"first", "web-1", "node-a"})
    server.store.delete("services", ("default", "first"))
    wait_until(lambda: names_in(folder) == {"web-1", "node-a"})
    assert agent.metrics.saved_s
    assert agent.metrics.failures == 0


def test_nothing_is_written_while_nothing_changes(
    server: ApiServer, start_agent: Callable[..., Agent], folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.apply(service("first"))
    agent = start_agent()
    wait_until(folder.exists)
    wait_until(lambda: bool(agent.metrics.saved_s))
    before = folder.file.stat()
    agent.source._saved.after_emit()  # type: ignore[union-attr]  # as for an event that changes nothing
    time.sleep(0.3)
    assert folder.file.stat() == before
    monkeypatch.setattr(saved_objects, "REFRESH_S", 0.05)  # after an hour it is written again, with the time
    agent.source._saved.after_emit()  # type: ignore[union-attr]
    wait_until(lambda: folder.file.stat().st_ino != before.st_ino)
    wait_until(lambda: len(agent.metrics.saved_s) >= 2)


def test_saved_objects_are_served_while_the_server_refuses_connections(
    saved: ApiServer, start_agent: Callable[..., Agent], caplog: pytest.LogCaptureFixture
) -> None:
    before_s = time.time()
    with caplog.at_level(logging.INFO):
        agent = start_agent()
        saved_s = agent.wait_for_saved()
    assert before_s - 60 < saved_s <= before_s
    assert {event.service.name.name for event in agent.events if isinstance(event, ServiceUpserted)} == {
        "first",
        "second",
    }
    assert [event.slice.name.name for event in agent.events if isinstance(event, SliceUpserted)] == ["web-1"]
    assert [event.node.name for event in agent.events if isinstance(event, NodeUpserted)] == ["node-a"]
    assert not any(isinstance(event, Synced) and event.saved_s is None for event in agent.events)
    assert agent.metrics.serving == [True]
    assert agent.source.saved_s() == saved_s
    wait_until(lambda: "API server does not answer; serving objects that were saved" in logged(caplog))


def with_address(name: str, address: str) -> dict[str, Any]:
    labels = {"topology.kubernetes.io/zone": "a"} if name in ("node-a", "node-b") else {}
    addresses = [{"type": "InternalIP", "address": address}]
    body = node(name)
    return {**body, "metadata": {**body["metadata"], "labels": labels}, "status": {"addresses": addresses}}


def peers_of(agent: Agent) -> list[Event]:
    return [event for event in agent.events if isinstance(event, PeerUpserted | PeerDeleted)]


def test_addresses_of_other_nodes_are_saved_and_served_while_they_are_wanted(
    server: ApiServer, start_agent: Callable[..., Agent], folder: StateFolder
) -> None:
    for number in range(3):
        server.apply(with_address(f"node-{'abc'[number]}", f"192.168.3.1{number}"))
    agent = start_agent()
    agent.source.watch_peers(ADDRESSES)
    wait_until(lambda: names_in(folder) == {"node-a", "node-b", "node-c"})
    saved_nodes = {name.name: values for (kind, name), values in objects_in(folder).items() if kind == "Node"}
    assert saved_nodes["node-b"] == (Node("node-b", addresses=("192.168.3.11",)),)
    assert saved_nodes["node-a"] == (Node("node-a", "a", ("192.168.3.10",)),)
    agent.source.stop()
    server.stop()

    offline = start_agent()
    saved_s = offline.wait_for_saved()
    assert [event.node.name for event in offline.events if isinstance(event, NodeUpserted)] == ["node-a"]
    assert not peers_of(offline)
    offline.source.watch_peers(ADDRESSES)
    assert offline.wait_for_saved("peers") == saved_s
    assert peers_of(offline) == [
        PeerUpserted("node-a", ("192.168.3.10",)),
        PeerUpserted("node-b", ("192.168.3.11",)),
        PeerUpserted("node-c", ("192.168.3.12",)),
    ]
    offline.source.watch_peers(NO_NEEDS)
    assert peers_of(offline)[3:] == [PeerDeleted("node-a"), PeerDeleted("node-b"), PeerDeleted("node-c")]


def test_server_that_answers_again_changes_only_those_other_nodes_that_differ(
    server: ApiServer, start_agent: Callable[..., Agent], folder: StateFolder
) -> None:
    for number in (1, 2, 3):
        server.apply(with_address(f"node-{'abcd'[number]}", f"192.168.3.1{number}"))
    agent = start_agent()
    agent.source.watch_peers(ADDRESSES)
    wait_until(lambda: names_in(folder) == {"node-b", "node-c", "node-d"})
    agent.source.stop()
    server.stop()

    offline = start_agent()
    offline.wait_for_saved()
    offline.source.watch_peers(ADDRESSES)
    offline.wait_for_saved("peers")
    offline.forget()
    again = ApiServer(server.server_address[1])
    again.store = server.store
    again.apply(with_address("node-c", "192.168.3.99"))
    again.start()
    try:
        wait_until(lambda: PeerUpserted("node-c", ("192.168.3.99",)) in peers_of(offline))
        assert not any(isinstance(event, PeerDeleted) for event in offline.events)
        assert PeerUpserted("node-d", ("192.168.3.13",)) not in peers_of(offline)
        wait_until(lambda: offline.source.saved_s() is None)
        offline.source.watch_peers(NO_NEEDS)
        wait_until(lambda: names_in(folder) == set())
    finally:
        offline.source.stop()
        again.stop()


def test_so_many_other_nodes_are_saved(
    server: ApiServer, start_agent: Callable[..., Agent], folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_objects, "PEERS_MAX", 2)
    for name in ("node-a", "node-d", "node-c", "node-b"):
        server.apply(with_address(name, "192.168.3.10"))
    agent = start_agent()
    agent.source.watch_peers(ADDRESSES)
    wait_until(lambda: names_in(folder) == {"node-a", "node-b", "node-c"})


def test_labels_of_nodes_are_saved_also_of_this_one_and_do_not_change_when_the_server_answers(
    server: ApiServer, start_agent: Callable[..., Agent], folder: StateFolder
) -> None:
    needs = PeerNeeds(labels=frozenset({"pool", "disk"}))
    for name in ("node-a", "node-b"):
        body = with_address(name, "192.168.3.10")
        body["metadata"]["labels"] |= {"pool": "large", "secret": "x"}
        server.apply(body)
    agent = start_agent()
    agent.source.watch_peers(needs)
    wait_until(lambda: labels_in(folder) == {"node-a": ("pool=large",), "node-b": ("pool=large",)})
    agent.source.stop()
    server.stop()

    offline = start_agent()
    offline.wait_for_saved()
    assert [event.node for event in offline.events if isinstance(event, NodeUpserted)] == [
        Node("node-a", "a", ("192.168.3.10",))
    ]
    offline.source.watch_peers(needs)
    offline.wait_for_saved("peers")
    restored = [PeerUpserted(name, ("192.168.3.10",), ("pool=large",)) for name in ("node-a", "node-b")]
    assert peers_of(offline) == restored
    again = ApiServer(server.server_address[1])
    again.store = server.store
    again.apply(with_address("node-c", "192.168.3.12"))
    again.start()
    try:
        wait_until(lambda: PeerUpserted("node-c", ("192.168.3.12",)) in peers_of(offline))
        assert peers_of(offline)[2:] == [PeerUpserted("node-c", ("192.168.3.12",))]
    finally:
        offline.source.stop()
        again.stop()


def test_addresses_of_the_server_stay_protected_although_its_name_is_not_resolved(
    saved: ApiServer, start_agent: Callable[..., Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "addresses_of", lambda _url, _timeout_s: ())
    agent = start_agent()
    agent.wait_for_saved()
    taken = [event for event in agent.events if isinstance(event, TakenAddresses) and event.api_servers]
    assert [address.port for address in taken[0].api_servers] == [saved.server_address[1]]
    assert agent.events.index(taken[0]) < next(
        index for index, event in enumerate(agent.events) if isinstance(event, ServiceUpserted)
    )


def test_server_that_answers_again_changes_only_what_differs(
    saved: ApiServer, restart: Callable[[], ApiServer], start_agent: Callable[..., Agent], folder: StateFolder
) -> None:
    agent = start_agent()
    agent.wait_for_saved()
    agent.forget()
    saved.apply(endpoint_slice("web-1", "10.1.0.77"))
    saved.store.delete("services", ("default", "second"))
    restart()
    agent.log.wait_for_synced(*FEEDS)
    changes = [event for event in agent.events if isinstance(event, ServiceUpserted | ServiceDeleted | SliceUpserted)]
    assert [type(event) for event in changes] in ([SliceUpserted, ServiceDeleted], [ServiceDeleted, SliceUpserted])
    wait_until(lambda: agent.metrics.serving == [True, False])
    wait_until(lambda: [use.services for use in agent.uses] == [2])
    assert agent.source.saved_s() is None
    wait_until(lambda: names_in(folder) == {"first", "web-1", "node-a"})


def test_server_that_lacks_most_of_the_saved_objects_is_asked_twice(
    saved: ApiServer, restart: Callable[[], ApiServer], start_agent: Callable[..., Agent]
) -> None:
    agent = start_agent()
    agent.wait_for_saved()
    for name in ("first", "second"):
        saved.store.delete("services", ("default", name))
    restart()
    agent.log.wait_for(lambda event: "2 of 2 known Service objects are missing" in str(event))
    agent.log.wait_for(lambda event: isinstance(event, ServiceDeleted))


@pytest.mark.parametrize("kind", ["accepts and is silent", "503", "403"])
def test_server_that_does_not_answer_with_lists_is_not_waited_for(
    saved: ApiServer, restart: Callable[[], ApiServer], start_agent: Callable[..., Agent], kind: str
) -> None:
    server = restart()
    server.faults.dead = kind == "accepts and is silent"
    if kind == "403":
        server.faults.forbidden = {(verb, plural) for verb in ("list", "watch") for plural in _PLURALS}
    elif kind == "503":
        server.respond_next(503, times=10_000, kind="Status", code=503)
    agent = start_agent(silence_s=0.3)
    agent.wait_for_saved()
    server.faults.dead, server.faults.forbidden = False, set()
    server.faults.next_responses.clear()


_PLURALS = ("services", "endpointslices", "nodes")


def test_one_list_that_does_not_come_is_replaced_by_saved_objects(
    saved: ApiServer,
    restart: Callable[[], ApiServer],
    start_agent: Callable[..., Agent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saved_objects, "LISTS_S", 600.0)
    saved.apply(service("new"))
    server = restart()
    server.faults.forbidden = {("list", "nodes")}
    agent = start_agent()
    agent.log.wait_for_synced("services", "slices")
    monkeypatch.setattr(saved_objects, "LISTS_S", 0.0)
    agent.wait_for_saved("node")
    synced = {event.feed: event.saved_s for event in agent.events if isinstance(event, Synced)}
    assert (synced["services"], synced["slices"]) == (None, None)
    assert {event.service.name.name for event in agent.events if isinstance(event, ServiceUpserted)} == {
        "first",
        "second",
        "new",
    }


def test_server_that_answers_in_time_is_not_preceded_by_saved_objects(
    saved: ApiServer, restart: Callable[[], ApiServer], start_agent: Callable[..., Agent]
) -> None:
    saved.store.delete("services", ("default", "second"))
    server = restart()
    server.faults.delay_s = 0.1
    agent = start_agent()
    agent.log.wait_for_synced(*FEEDS)
    assert not any(isinstance(event, Synced) and event.saved_s for event in agent.events)
    assert [event.service.name.name for event in agent.events if isinstance(event, ServiceUpserted)] == ["first"]
    assert agent.metrics.serving == []


# What the kernel has


def test_saved_objects_are_not_served_where_the_kernel_serves_already(
    saved: ApiServer, start_agent: Callable[..., Agent], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        agent = start_agent(served=frozenset({"10.96.0.1"}))
        wait_until(lambda: "Saved objects not used: the kernel serves Services already" in logged(caplog))
    assert not any(isinstance(event, ServiceUpserted | Synced) for event in agent.events)


def test_second_start_of_the_same_boot_serves_saved_objects_again(
    saved: ApiServer, start_agent: Callable[..., Agent]
) -> None:
    first = start_agent()
    first.wait_for_saved()
    first.source.stop()
    second = start_agent(served=frozenset({"10.96.0.1"}))  # by what the first one programmed
    second.wait_for_saved()


def test_what_the_server_listed_is_newer_than_what_was_saved(
    saved: ApiServer, restart: Callable[[], ApiServer], start_agent: Callable[..., Agent], folder: StateFolder
) -> None:
    recorded: list[bool] = []

    class Noticing(EventLog):
        def __call__(self, *events: Event) -> None:
            if any(isinstance(event, Synced) and event.saved_s is None for event in events):
                recorded.append(folder.is_in_use())
            super().__call__(*events)

    agent = start_agent(log=Noticing())
    agent.wait_for_saved()
    assert folder.is_in_use()
    restart()
    agent.log.wait_for_synced(*FEEDS)
    assert recorded == [False] * 3  # before the first change that follows from it


# Files that cannot be used


def altered(folder: StateFolder, alter: Callable[[Saved], Saved]) -> None:
    content = folder.read()
    assert content
    folder.write([encode(alter(decode(content)))])


def damage(folder: StateFolder) -> None:
    content = bytearray(folder.file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    folder.file.write_bytes(content)


def make_foreign(folder: StateFolder) -> None:
    altered(folder, lambda saved: replace(saved, origin=replace(saved.origin, cluster=("ca 0123",))))


def make_old(folder: StateFolder) -> None:
    altered(folder, lambda saved: replace(saved, origin=replace(saved.origin, written_s=time.time() - _WEEK_S - 60)))


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (damage, "is damaged"),
        (make_foreign, "is of another cluster"),
        (make_old, "is too old: it was written 168 h ago"),
    ],
)
def test_file_that_cannot_be_used_is_set_aside_and_written_again(
    saved: ApiServer,
    restart: Callable[[], ApiServer],
    start_agent: Callable[..., Agent],
    folder: StateFolder,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[StateFolder], None],
    cause: str,
) -> None:
    spoil(folder)
    agent = start_agent()
    wait_until(lambda: not folder.exists())
    wait_until(lambda: "Saved objects cannot be used" in logged(caplog))
    assert cause in logged(caplog)
    assert str(folder.file) in logged(caplog)
    wait_until(lambda: "it is written again when the API server answers" in logged(caplog))
    assert agent.metrics.failures == 1
    assert len(list(folder.path.glob("objects.json.gz.bad-*"))) == 1
    assert not any(isinstance(event, ServiceUpserted | Synced) for event in agent.events)
    restart()
    agent.log.wait_for_synced(*FEEDS)
    wait_until(lambda: names_in(folder) == {"first", "second", "web-1", "node-a"})


def test_old_objects_are_served_if_their_age_does_not_matter(
    saved: ApiServer, start_agent: Callable[..., Agent], folder: StateFolder
) -> None:
    make_old(folder)
    start_agent(max_age_s=0.0).wait_for_saved()


def test_node_of_another_name_is_left_out(
    saved: ApiServer, start_agent: Callable[..., Agent], folder: StateFolder
) -> None:
    def rename(before: Saved) -> Saved:
        objects = dict(before.objects)
        (identity,) = (each for each in objects if each[0] == "Node")
        del objects[identity]
        objects["Node", replace(identity[1], name="node-b")] = (replace(before.objects[identity][0], name="node-b"),)
        return replace(before, objects=objects)

    altered(folder, rename)
    agent = start_agent()
    agent.wait_for_saved()
    assert not any(isinstance(event, NodeUpserted) for event in agent.events)


def test_clusters_are_told_apart_by_their_certificate_authority(
    start_agent: Callable[..., Agent], folder: StateFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = Authority(_made(tmp_path / "pki-1")), Authority(_made(tmp_path / "pki-2"))
    server = ApiServer(tls=first.server_context()).start()
    server.apply(service("first"))
    paths = {}
    for authority in (first, second):
        folder_of = _made(tmp_path / f"config-{id(authority)}")
        paths[authority] = kubeconfig(folder_of, server, cluster={"certificate-authority": str(authority.file)})
    agent = start_agent(kubeconfig=paths[first])
    wait_until(lambda: names_in(folder) == {"first"})
    agent.source.stop()
    server.stop()
    same = start_agent(kubeconfig=paths[first])
    same.wait_for_saved()
    same.source.stop()
    start_agent(kubeconfig=paths[second])
    wait_until(lambda: "is of another cluster" in logged(caplog))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


# Files that cannot be written


def test_folder_that_cannot_be_written_disturbs_nothing_and_is_reported_once(
    server: ApiServer, start_agent: Callable[..., Agent], folder: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.path.write_text("a file")
    server.apply(service("first"))
    agent = start_agent()
    agent.log.wait_for_synced(*FEEDS)
    wait_until(lambda: agent.metrics.failures >= 1)
    server.apply(service("second"))
    wait_until(lambda: agent.metrics.failures >= 2)
    assert logged(caplog).count("Failed to save objects") == 1
    folder.path.unlink()
    server.apply(service("third"))
    wait_until(lambda: names_in(folder) == {"first", "second", "third"})


def test_write_that_failed_is_tried_again_although_nothing_changes(
    server: ApiServer,
    start_agent: Callable[..., Agent],
    folder: StateFolder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saved_objects, "RETRY_S", 0.05)
    server.apply(service("web"))
    folder.path.touch()  # not a folder: as a disk that is full
    start_agent()
    wait_until(lambda: "Failed to save objects" in logged(caplog))
    time.sleep(0.2)  # changes are over
    folder.path.unlink()
    wait_until(folder.exists)
    assert names_in(folder) == {"web"}


def test_more_objects_than_would_be_read_are_not_written(
    server: ApiServer,
    start_agent: Callable[..., Agent],
    folder: StateFolder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(saved_objects, "UNPACKED_MAX_BYTES", 100)
    server.apply(service("first"))
    agent = start_agent()
    wait_until(lambda: agent.metrics.failures >= 1)
    wait_until(lambda: "there are more objects than are saved" in logged(caplog))
    assert not folder.exists()


# Commands that run once


def test_command_that_runs_once_uses_saved_objects_and_writes_nothing(
    saved: ApiServer, folder: StateFolder, tmp_path: Path
) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.path.iterdir())
    once = KubeSource(None, saved.url, "node-a", saving=Saving(str(folder.path), may_write=False, silence_s=60.0))
    events = once.read_once(PATIENCE_S, lambda _problem: None)
    assert sum(isinstance(event, ServiceUpserted) for event in events) == 2
    assert once.saved_s() is not None
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.path.iterdir()) == before


def test_command_that_runs_once_sets_nothing_aside(
    saved: ApiServer, folder: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    damage(folder)
    once = KubeSource(None, saved.url, "node-a", saving=Saving(str(folder.path), may_write=False, silence_s=60.0))
    once.start(EventLog())
    try:
        wait_until(lambda: "Saved objects cannot be used" in logged(caplog))
    finally:
        once.stop()
    assert [*folder.path.iterdir()] == [folder.file]


def test_name_that_does_not_resolve_delays_no_start_with_saved_objects(
    saved: ApiServer, start_agent: Callable[..., Agent], folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def hang(*_words: object, **_options: object) -> list[object]:
        released.wait(20 * PATIENCE_S)
        raise socket.gaierror

    monkeypatch.setattr(source, "RESOLVE_TIMEOUT_S", 10 * PATIENCE_S)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    altered(folder, lambda content: replace(content, origin=replace(content.origin, cluster=("server http://api:1",))))
    before_s = time.monotonic()
    agent = start_agent(url="http://api:1", silence_s=0.2)
    agent.wait_for_saved()
    took_s = time.monotonic() - before_s
    released.set()
    assert took_s < PATIENCE_S  # without them it would wait for RESOLVE_TIMEOUT_S
