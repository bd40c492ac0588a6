"""How the real kube-apiserver is found, started and restarted; with programs in its place that refuse the same."""

from pathlib import Path

import pytest

from tests.apiserver import real
from tests.apiserver.fake_programs import write_programs
from tests.apiserver.objects import service
from tests.apiserver.real import MissingProgramError, Ports, agent_client, binaries, real_server, server_command


def test_programs_are_not_needed_where_the_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
        if value is not None:
            monkeypatch.setenv("KUBEBUILDER_ASSETS", value)
        assert binaries() is None


@pytest.mark.parametrize("lacks", ["kube-apiserver", "etcd", "both", "the right"])
def test_program_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacks: str) -> None:
    write_programs(tmp_path)
    for name in ("kube-apiserver", "etcd"):
        if lacks in (name, "both"):
            (tmp_path / name).unlink()
        elif lacks == "the right":
            (tmp_path / name).chmod(0o644)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    with pytest.raises(MissingProgramError, match="KUBEBUILDER_ASSETS is set, but"):
        binaries()


def test_programs_in_the_folder_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(write_programs(tmp_path)))
    assert binaries() == tmp_path


def test_server_is_started_restarted_without_its_history_and_stopped(tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "state").mkdir()
    with real_server(write_programs(tmp_path / "programs"), tmp_path / "state") as admin:
        version = admin.apply(service("web"))["metadata"]["resourceVersion"]
        assert agent_client(admin).request_json("GET", "/api/v1/services")[0] == 200
        admin.expire_versions()
        assert (tmp_path / "state" / "etcd" / "compacted").read_text() == version
        assert admin.request_json("GET", "/api/v1/services")[1]["items"] == []  # of a new process
    with pytest.raises(OSError, match="refused"):
        admin.request_json("GET", "/readyz")


def test_server_that_ends_is_an_error_with_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_address(*arguments: object) -> list[str]:
        return [word for word in server_command(*arguments) if "advertise" not in word]  # type: ignore[arg-type]

    (tmp_path / "programs").mkdir()
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(real, "server_command", without_address)
    with (
        pytest.raises(AssertionError, match=r"ended with status 1: unable to find suitable network address"),
        real_server(write_programs(tmp_path / "programs"), tmp_path / "state"),
    ):
        pass


def test_key_of_the_service_accounts_is_a_public_one_and_the_network_has_the_services(tmp_path: Path) -> None:
    words = server_command(Path("k"), tmp_path / "a.crt", tmp_path / "a.key", tmp_path / "t", Ports(1, 2, 3), "RBAC")
    assert f"--service-account-key-file={tmp_path / 'a.crt'}" in words
    assert f"--service-account-signing-key-file={tmp_path / 'a.key'}" in words
    assert "--service-cluster-ip-range=10.96.0.0/12" in words
    assert real.OWN_SERVICE_ADDRESS == "10.96.0.1"
