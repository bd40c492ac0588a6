"""ManifestSource's thread: changes are read soon, with and without inotify."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kubeproxy_py.model.events import Event, ServiceDeleted, ServiceUpserted, Synced
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources.manifests import source as manifest_source
from kubeproxy_py.sources.manifests.source import ManifestSource
from tests.sources.conftest import PATIENCE_S, EventLog, wait_until
from tests.sources.manifest_objects import service


def port_is(port: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, ServiceUpserted) and event.service.ports[0].port == port


def synced(event: Event) -> bool:
    return event == Synced("node")


@pytest.fixture
def source(tmp_path: Path, event_log: EventLog, monkeypatch: pytest.MonkeyPatch) -> Iterator[ManifestSource]:
    """A source that has synced, and reads changes by inotify only."""
    monkeypatch.setattr(manifest_source, "POLL_PERIOD_S", 600)
    (tmp_path / "a.json").write_text(json.dumps(service()))
    source = ManifestSource(str(tmp_path), "node-a")
    source.start(event_log)
    event_log.wait_for(synced)
    yield source
    source.stop()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The observers that were started, in order."""
    observers: list[Any] = []
    start = manifest_source._Notifier._start

    def start_and_record(notifier: manifest_source._Notifier) -> None:
        start(notifier)
        observers.append(notifier._observer)

    monkeypatch.setattr(manifest_source._Notifier, "_start", start_and_record)
    return observers


@pytest.mark.usefixtures("source")
def test_renamed_file_is_read_within_20_ms(tmp_path: Path, event_log: EventLog) -> None:
    latencies_s: list[float] = []
    while min(latencies_s, default=1.0) >= 0.02 and len(latencies_s) < 50:  # a busy machine delays some
        port = 81 + len(latencies_s)
        (tmp_path / ".new").write_text(json.dumps(service("web", port)))
        before = time.monotonic()
        (tmp_path / ".new").rename(tmp_path / "a.json")
        latencies_s.append(event_log.wait_for(port_is(port))[0] - before)
    assert min(latencies_s) < 0.02, latencies_s


@pytest.mark.parametrize(("confirm_empty", "confirm_s"), [(True, 0.4), (False, 600.0)])
def test_empty_folder_at_start_is_confirmed_where_the_kernel_serves_services(
    tmp_path: Path, event_log: EventLog, monkeypatch: pytest.MonkeyPatch, confirm_empty: bool, confirm_s: float
) -> None:
    monkeypatch.setattr(manifest_source, "POLL_PERIOD_S", 0.05)
    monkeypatch.setattr(manifest_source, "CONFIRM_EMPTY_S", confirm_s)
    source = ManifestSource(str(tmp_path), "node-a", confirm_empty=confirm_empty)
    started_s = time.monotonic()
    source.start(event_log)
    synced_s, _ = event_log.wait_for(synced)
    source.stop()
    assert (synced_s - started_s >= confirm_s) is confirm_empty


def test_folder_that_is_mounted_late_is_read_before_it_counts_as_empty(
    tmp_path: Path, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_source, "POLL_PERIOD_S", 0.05)
    monkeypatch.setattr(manifest_source, "CONFIRM_EMPTY_S", 120.0)
    source = ManifestSource(str(tmp_path), "node-a", confirm_empty=True)
    source.start(event_log)
    time.sleep(0.2)
    assert not any(synced(event) for _, event in event_log.events)
    (tmp_path / "a.json").write_text(json.dumps(service()))
    event_log.wait_for(port_is(80))
    event_log.wait_for(synced)
    source.stop()


def test_folder_is_not_accepted_while_its_first_file_is_being_written(
    tmp_path: Path, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_source, "POLL_PERIOD_S", 0.05)
    monkeypatch.setattr(manifest_source, "CONFIRM_EMPTY_S", 120.0)
    monkeypatch.setattr(manifest_source, "SETTLE_S", 60.0)  # only closing the file makes it complete
    source = ManifestSource(str(tmp_path), "node-a", confirm_empty=True)
    source.start(event_log)
    time.sleep(0.2)
    with (tmp_path / "a.json").open("w") as file:
        time.sleep(0.2)
        assert not any(synced(event) for _, event in event_log.events)
        json.dump(service(), file)
    event_log.wait_for(port_is(80))
    event_log.wait_for(synced)
    source.stop()


@pytest.mark.usefixtures("source")
def test_file_renamed_in_from_another_folder_needs_no_second_poll(
    tmp_path: Path, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_source, "SETTLE_S", 60)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.json").write_text(json.dumps(service("api", 90)))
    (elsewhere / "b.json").rename(tmp_path / "b.json")
    event_log.wait_for(port_is(90))


@pytest.mark.usefixtures("source")
def test_file_written_in_place_is_read_when_it_is_closed(tmp_path: Path, event_log: EventLog) -> None:
    body = json.dumps(service("web", 81))
    with (tmp_path / "a.json").open("w") as file:
        file.write(body[:50])
        file.flush()
        time.sleep(0.02)
        file.write(body[50:])
    event_log.wait_for(port_is(81))
    assert not any(isinstance(event, Problem) for _, event in event_log.events)


@pytest.mark.usefixtures("source")
def test_removed_file_deletes_its_objects(tmp_path: Path, event_log: EventLog) -> None:
    (tmp_path / "a.json").unlink()
    event_log.wait_for(lambda event: isinstance(event, ServiceDeleted))


def test_changes_are_read_without_inotify(tmp_path: Path, event_log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_source._Notifier, "watch", lambda self: None)
    monkeypatch.setattr(manifest_source, "POLL_PERIOD_S", 0.05)
    source = ManifestSource(str(tmp_path), "node-a")
    source.start(event_log)
    event_log.wait_for(synced)
    (tmp_path / "a.json").write_text(json.dumps(service("web", 81)))
    event_log.wait_for(port_is(81))
    source.stop()


def test_folder_created_later_is_watched(
    tmp_path: Path, event_log: EventLog, monkeypatch: pytest.MonkeyPatch, started: list[Any]
) -> None:
    monkeypatch.setattr(manifest_source, "POLL_PERIOD_S", 0.05)
    source = ManifestSource(str(tmp_path / "later"), "node-a")
    source.start(event_log)
    event_log.wait_for(lambda event: isinstance(event, Problem))
    (tmp_path / "later").mkdir()
    event_log.wait_for(synced)
    wait_until(lambda: len(started) == 1)
    monkeypatch.setattr(manifest_source, "POLL_PERIOD_S", 600)
    time.sleep(0.1)
    (tmp_path / ".new").write_text(json.dumps(service("web", 81)))
    (tmp_path / ".new").rename(tmp_path / "later" / "a.json")
    event_log.wait_for(port_is(81))
    source.stop()


def test_nothing_is_emitted_after_stop(
    tmp_path: Path, event_log: EventLog, source: ManifestSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_source, "_JOIN_TIMEOUT_S", 2 * PATIENCE_S)
    before = time.monotonic()
    source.stop()
    took_s = time.monotonic() - before
    assert source._thread is not None
    assert not source._thread.is_alive()
    event_log.events.clear()
    (tmp_path / "a.json").write_text(json.dumps(service("web", 81)))
    time.sleep(0.15)
    assert event_log.events == []
    assert took_s < PATIENCE_S  # the join did not time out


def test_inotify_that_ends_is_started_again(
    tmp_path: Path,
    event_log: EventLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    started: list[Any],
) -> None:
    monkeypatch.setattr(manifest_source, "POLL_PERIOD_S", 0.05)
    source = ManifestSource(str(tmp_path), "node-a")
    source.start(event_log)
    event_log.wait_for(synced)
    for emitter in started[0].emitters:
        emitter.stop()
        emitter.join(PATIENCE_S)
    wait_until(lambda: len(started) == 2)
    assert "inotify stopped" in caplog.text
    monkeypatch.setattr(manifest_source, "POLL_PERIOD_S", 600)
    (tmp_path / "a.json").write_text(json.dumps(service("web", 81)))
    event_log.wait_for(port_is(81))
    source.stop()


def test_thread_that_fails_is_started_again(
    tmp_path: Path, event_log: EventLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = ManifestSource(str(tmp_path), "node-a")
    poll, failures = source._folder.poll, iter([OSError("a bug"), RuntimeError("another")])

    def fail_twice(*arguments: Any) -> Any:
        if error := next(failures, None):
            raise error
        return poll(*arguments)

    monkeypatch.setattr(source._folder, "poll", fail_twice)
    source.start(event_log)
    event_log.wait_for(synced)
    source.stop()
    assert len([record for record in caplog.records if record.levelname == "ERROR" and record.exc_info]) == 2
