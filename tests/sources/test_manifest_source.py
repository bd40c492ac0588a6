"""ManifestFolder's thread: changes arrive soon, whoever makes them and however."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kubeproxy_py.model.events import Event, ObjectProblem, ServiceDeleted, ServiceUpserted, Synced
from kubeproxy_py.sources.manifests import source as files
from kubeproxy_py.sources.manifests.source import ManifestFolder
from tests.sources.conftest import Heard
from tests.sources.test_manifests import service


def port_is(port: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, ServiceUpserted) and event.service.ports[0].port == port


def synced(event: Event) -> bool:
    return event == Synced("node")


@pytest.fixture
def source(tmp_path: Path, heard: Heard) -> Iterator[ManifestFolder]:
    (tmp_path / "a.json").write_text(json.dumps(service()))
    source = ManifestFolder(str(tmp_path), "node-a")
    source.start(heard)
    heard.wait_for(synced)
    yield source
    source.stop()


@pytest.mark.usefixtures("source")
def test_a_renamed_file_arrives_within_20_ms(tmp_path: Path, heard: Heard) -> None:
    latencies_s = []
    for port in (81, 82, 83):
        (tmp_path / ".new").write_text(json.dumps(service("web", port)))
        before = time.monotonic()
        (tmp_path / ".new").rename(tmp_path / "a.json")
        latencies_s.append(heard.wait_for(port_is(port))[0] - before)
    assert min(latencies_s) < 0.02, latencies_s


@pytest.mark.usefixtures("source")
def test_a_file_renamed_in_from_elsewhere_needs_no_second_look(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLE_S", 60)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.json").write_text(json.dumps(service("api", 90)))
    (elsewhere / "b.json").rename(tmp_path / "b.json")
    heard.wait_for(port_is(90))


@pytest.mark.usefixtures("source")
def test_a_file_that_is_written_in_place_is_read_when_it_is_closed(tmp_path: Path, heard: Heard) -> None:
    body = json.dumps(service("web", 81))
    with (tmp_path / "a.json").open("w") as file:
        file.write(body[:50])
        file.flush()
        time.sleep(0.02)
        file.write(body[50:])
    heard.wait_for(port_is(81))
    assert not any(isinstance(event, ObjectProblem) for _, event in heard.events)


@pytest.mark.usefixtures("source")
def test_a_removed_file_lets_its_objects_go(tmp_path: Path, heard: Heard) -> None:
    (tmp_path / "a.json").unlink()
    heard.wait_for(lambda event: isinstance(event, ServiceDeleted))


def test_changes_arrive_without_inotify(tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files._Notifier, "watch", lambda self: None)
    monkeypatch.setattr(files, "SWEEP_PERIOD_S", 0.05)
    source = ManifestFolder(str(tmp_path), "node-a")
    source.start(heard)
    heard.wait_for(synced)
    (tmp_path / "a.json").write_text(json.dumps(service("web", 81)))
    heard.wait_for(port_is(81))
    source.stop()


def test_a_folder_that_comes_later_is_watched(tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SWEEP_PERIOD_S", 0.05)
    source = ManifestFolder(str(tmp_path / "later"), "node-a")
    source.start(heard)
    heard.wait_for(lambda event: isinstance(event, ObjectProblem))
    (tmp_path / "later").mkdir()
    heard.wait_for(synced)
    monkeypatch.setattr(files, "SWEEP_PERIOD_S", 60)
    time.sleep(0.1)
    (tmp_path / ".new").write_text(json.dumps(service("web", 81)))
    (tmp_path / ".new").rename(tmp_path / "later" / "a.json")
    heard.wait_for(port_is(81))
    source.stop()


def test_nothing_is_told_after_stop(tmp_path: Path, heard: Heard, source: ManifestFolder) -> None:
    before = time.monotonic()
    source.stop()
    took_s = time.monotonic() - before
    heard.events.clear()
    (tmp_path / "a.json").write_text(json.dumps(service("web", 81)))
    time.sleep(0.15)
    assert heard.events == []
    assert took_s < 1
