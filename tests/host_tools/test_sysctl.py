"""Sysctl rows, on a folder in place of the host's /proc/sys and /sys."""

import os
from errno import EINVAL, ENOENT, EROFS
from pathlib import Path

import pytest

from kubeproxy_py.kernel import SYSCTLS
from kubeproxy_py.kernel.host.sysctl import SysctlAdapter
from kubeproxy_py.model.rows import Sysctl
from kubeproxy_py.model.steps import Step
from tests.host_tools.recorded_tables import private_network

FORWARD, CONNTRACK = Sysctl("net/ipv4/ip_forward"), Sysctl("net/ipv4/vs/conntrack")
HASHSIZE = Sysctl("/sys/module/nf_conntrack/parameters/hashsize")


@pytest.fixture
def host(tmp_path: Path) -> Path:
    for path, text in {"proc/sys/net/ipv4/ip_forward": "0\n", HASHSIZE.path[1:]: "16384\n"}.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def _adapter(host: Path) -> SysctlAdapter:
    return SysctlAdapter([FORWARD.path, CONNTRACK.path, HASHSIZE.path], root=host)


def test_sysctls_that_exist_are_rows(host: Path) -> None:
    assert _adapter(host).read(SYSCTLS) == {FORWARD: "0", HASHSIZE: "16384"}


def test_the_mark_changes_with_each_value_and_with_files_that_appear(host: Path) -> None:
    adapter = _adapter(host)
    (reader,) = adapter.mark_readers()
    marks = [reader.read()]
    (host / "proc/sys/net/ipv4/ip_forward").write_text("1\n")
    marks.append(reader.read())
    (host / "proc/sys/net/ipv4/vs").mkdir()
    (host / "proc/sys/net/ipv4/vs/conntrack").write_text("1\n")
    marks.append(reader.read())
    assert reader.read() == marks[-1]
    assert len({mark[str(SYSCTLS)].value for mark in marks}) == 3
    adapter.close()
    assert reader.read() == marks[-1]
    adapter.close()


@pytest.mark.parametrize("verb", ["add", "update"])
def test_adds_and_updates_write_the_file(host: Path, verb: str) -> None:
    assert _adapter(host).apply([Step(verb, FORWARD, "1", "0")]) == []  # type: ignore[arg-type]
    assert _adapter(host).read(SYSCTLS)[FORWARD] == "1"


def test_a_delete_does_not_change_the_sysctl(host: Path) -> None:
    assert _adapter(host).apply([Step("delete", FORWARD, None, "0")]) == []
    assert _adapter(host).read(SYSCTLS)[FORWARD] == "0"


def test_a_missing_sysctl_is_a_failure_with_the_module_to_load(host: Path) -> None:
    [failure] = _adapter(host).apply([Step("add", CONNTRACK, "1")])
    assert failure.errno == ENOENT
    assert failure.message == (
        "net/ipv4/vs/conntrack could not be set to 1: No such file or directory"
        " (load the kernel module that provides it: modprobe ip_vs)"
    )


def test_a_missing_sysctl_file_is_not_created(host: Path) -> None:
    (host / "proc/sys/net/ipv4/vs").mkdir()
    _adapter(host).apply([Step("add", CONNTRACK, "1")])
    assert not (host / "proc/sys/net/ipv4/vs/conntrack").exists()


def test_a_read_only_sysctl_is_a_failure_with_a_hint(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object) -> int:
        raise OSError(EROFS, os.strerror(EROFS))

    monkeypatch.setattr(os, "open", read_only)
    [failure] = _adapter(host).apply([Step("update", FORWARD, "1", "0")])
    assert failure.errno == EROFS
    assert "sysctl -w net/ipv4/ip_forward=1" in failure.message


def test_a_failing_sysctl_does_not_prevent_the_others(host: Path) -> None:
    steps = [Step("add", CONNTRACK, "1"), Step("update", FORWARD, "1", "0")]
    assert [failure.step.key for failure in _adapter(host).apply(steps)] == [CONNTRACK]
    assert _adapter(host).read(SYSCTLS)[FORWARD] == "1"


@pytest.mark.kernel
def test_the_kernel_accepts_valid_values_and_rejects_others() -> None:
    with private_network():
        adapter = SysctlAdapter([FORWARD.path])
        [failure] = adapter.apply([Step("update", FORWARD, "1", "0"), Step("update", CONNTRACK, "yes", "0")])
        assert adapter.read(SYSCTLS) == {FORWARD: "1"}
    assert (failure.step.key, failure.errno) == (CONNTRACK, EINVAL)
