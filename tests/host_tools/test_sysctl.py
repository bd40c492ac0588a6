"""Settings as rows, on a folder that stands for the host's /proc/sys and /sys."""

import os
from errno import EINVAL, ENOENT, EROFS
from pathlib import Path

import pytest

from kubeproxy_py.kernel import SYSCTLS
from kubeproxy_py.kernel.host.sysctl import SysctlAdapter
from kubeproxy_py.model.rows import Sysctl
from kubeproxy_py.model.steps import Step
from tests.host_tools.tables_of_a_node import network_of_ones_own

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


def test_settings_that_exist_are_rows(host: Path) -> None:
    assert _adapter(host).read(SYSCTLS) == {FORWARD: "0", HASHSIZE: "16384"}


@pytest.mark.parametrize("verb", ["add", "update"])
def test_adding_and_updating_is_writing(host: Path, verb: str) -> None:
    assert _adapter(host).apply([Step(verb, FORWARD, "1", "0")]) == []  # type: ignore[arg-type]
    assert _adapter(host).read(SYSCTLS)[FORWARD] == "1"


def test_deleting_leaves_the_setting_as_it_is(host: Path) -> None:
    assert _adapter(host).apply([Step("delete", FORWARD, None, "0")]) == []
    assert _adapter(host).read(SYSCTLS)[FORWARD] == "0"


def test_a_missing_setting_names_the_module_to_load(host: Path) -> None:
    [failed] = _adapter(host).apply([Step("add", CONNTRACK, "1")])
    assert failed.errno == ENOENT
    assert failed.message == (
        "net/ipv4/vs/conntrack could not be set to 1: No such file or directory"
        " (load the module that brings it: modprobe ip_vs)"
    )


def test_a_missing_setting_is_not_made(host: Path) -> None:
    (host / "proc/sys/net/ipv4/vs").mkdir()
    _adapter(host).apply([Step("add", CONNTRACK, "1")])
    assert not (host / "proc/sys/net/ipv4/vs/conntrack").exists()


def test_a_read_only_setting_says_what_the_operator_can_do(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object) -> int:
        raise OSError(EROFS, os.strerror(EROFS))

    monkeypatch.setattr(os, "open", read_only)
    [failed] = _adapter(host).apply([Step("update", FORWARD, "1", "0")])
    assert failed.errno == EROFS
    assert "sysctl -w net/ipv4/ip_forward=1" in failed.message


def test_one_failing_setting_leaves_the_others(host: Path) -> None:
    steps = [Step("add", CONNTRACK, "1"), Step("update", FORWARD, "1", "0")]
    assert [failed.step.key for failed in _adapter(host).apply(steps)] == [CONNTRACK]
    assert _adapter(host).read(SYSCTLS)[FORWARD] == "1"


@pytest.mark.kernel
def test_the_kernel_itself_takes_and_refuses_values() -> None:
    with network_of_ones_own():
        adapter = SysctlAdapter([FORWARD.path])
        [failed] = adapter.apply([Step("update", FORWARD, "1", "0"), Step("update", CONNTRACK, "yes", "0")])
        assert adapter.read(SYSCTLS) == {FORWARD: "1"}
    assert (failed.step.key, failed.errno) == (CONNTRACK, EINVAL)
