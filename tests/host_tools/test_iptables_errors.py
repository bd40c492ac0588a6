"""Errors of iptables: one text for one cause, and a hint that names what is missing."""

from errno import EAGAIN, EINVAL, ENOENT, EOPNOTSUPP, EPERM

import pytest

from kubeproxy_py.kernel.iptables import errors, nf_tables
from kubeproxy_py.kernel.iptables.errors import errno_and_hint, lock_error, unsupported_steps
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.extensions import Extension
from kubeproxy_py.model.rows import Chain, ChainSpec, JumpSpec, Rows
from kubeproxy_py.model.steps import Step
from kubeproxy_py.net import Family
from tests.host_tools.recorded_tables import recorded_rows, steps_between

HELD = "Another app is currently holding the xtables lock"
HELD_TEXTS = (
    f"{HELD}; still 4s 0us time ahead to have a chance to grab the lock... {HELD}. Stopped waiting after 5s.",
    f"{HELD}; still 1s 31us time ahead to have a chance to grab the lock... {HELD}. Stopped waiting after 5s.",
    f"{HELD}. Perhaps you want to use the -w option?",
)
DIRECTORY = "Fatal: can't open lock file /run/xtables.lock: Is a directory"


def test_a_held_lock_has_one_text_however_long_iptables_waited() -> None:
    texts = {str(lock_error(text)) for text in HELD_TEXTS}
    assert len(texts) == 1
    assert texts.pop().startswith("another program holds the lock of iptables (fuser -v /run/xtables.lock")


@pytest.mark.parametrize(
    ("reason", "text", "hint"),
    [
        ("Is a directory", "/run/xtables.lock is a directory", "rmdir /run/xtables.lock"),
        ("Permission denied", "/run/xtables.lock cannot be opened: Permission denied", "run as root"),
        ("Read-only file system", "/run/xtables.lock cannot be opened: Read-only file system", "must be a file"),
    ],
)
def test_a_lock_that_cannot_be_opened_names_the_reason_and_the_remedy(reason: str, text: str, hint: str) -> None:
    error = lock_error(f"Fatal: can't open lock file /run/xtables.lock: {reason}")
    assert error
    assert str(error).startswith(f"{text} (")
    assert hint in error.hint
    assert error.errno == EAGAIN


def test_the_hint_for_a_directory_says_how_it_came_to_be() -> None:
    assert "type: FileOrCreate" in str(lock_error(DIRECTORY))


@pytest.mark.parametrize(
    ("text", "family", "errno", "hint"),
    [
        ("Set KUBE-X doesn't exist.", "IPv4", EINVAL, ""),
        ("can't initialize iptables table `nat': Table does not exist", "IPv4", ENOENT, "modprobe iptable_nat"),
        ("can't initialize ip6tables table `filter': Table does", "IPv6", ENOENT, "modprobe ip6table_filter"),
        ("Kernel module xt_set is not loaded in.", "IPv4", EOPNOTSUPP, "modprobe xt_set"),
        (
            "Extension physdev revision 0 not supported, missing",
            "IPv4",
            EOPNOTSUPP,
            "modprobe xt_physdev",
        ),
        ("Extension REJECT revision 0 not supported, missing", "IPv6", EOPNOTSUPP, "modprobe ip6t_REJECT"),
        ("Can't open socket to ipset.", "IPv4", EPERM, "this needs the capability NET_RAW"),
        ("Couldn't load match `ipvs':No such file or directory", "IPv4", EOPNOTSUPP, "no extension ipvs"),
        ("Couldn't load target `REJECT':No such file or directory", "IPv4", EOPNOTSUPP, "no extension REJECT"),
        ("Couldn't load target `KUBE-SERVICES':No such file or directory", "IPv4", ENOENT, ""),
        ("Permission denied (you must be root)", "IPv4", EPERM, "this needs the capability NET_ADMIN"),
        ("line 3 failed", "IPv4", 99, ""),
    ],
)
def test_the_hint_names_what_the_message_is_about(text: str, family: Family, errno: int, hint: str) -> None:
    found_errno, found_hint = errno_and_hint(text, family, 99)
    assert found_errno == errno
    assert hint in found_hint
    assert bool(hint) == bool(found_hint)


def _lacking(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def missing(_backend: str, _family: Family, extensions: list[Extension], **_: bool) -> list[Extension]:
        return [extension for extension in extensions if extension.name == name]

    monkeypatch.setattr(errors, "missing_extensions", missing)


def test_only_the_chains_that_need_a_missing_match_and_what_waits_for_them_are_set_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _lacking(monkeypatch, "physdev")
    jumps: Rows = {jump: JumpSpec(rule) for jump, rule in kube_names.jumps("IPv4").items()}
    steps = steps_between({}, {**recorded_rows("IPv4"), **jumps})
    failures = {failure.step.key: failure for failure in unsupported_steps("legacy", steps)}
    services = Chain("IPv4", "nat", "KUBE-SERVICES")
    assert failures.pop(services).message == "the kernel has no match physdev (modprobe xt_physdev)"
    assert {str(key): failure.message for key, failure in failures.items()} == {
        f"IPv4 nat {source} -> KUBE-SERVICES": f"waits for Chain {services}" for source in ("PREROUTING", "OUTPUT")
    }


def test_without_nft_compat_every_rule_of_iptables_nft_names_that_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nf_tables, "has_compat", lambda: False)
    chain = Chain("IPv4", "nat", "KUBE-MARK-MASQ")
    failures = unsupported_steps("nft", [Step("add", chain, ChainSpec(("-j MARK --set-xmark 0x1/0x1",)))])
    assert [(failure.step.key, "modprobe nft_compat" in failure.message) for failure in failures] == [(chain, True)]


def test_nothing_waits_for_a_chain_that_exists_although_it_cannot_be_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    _lacking(monkeypatch, "MARK")
    mark = Chain("IPv4", "nat", "KUBE-MARK-MASQ")
    services = Chain("IPv4", "nat", "KUBE-SERVICES")
    steps = [
        Step("update", mark, ChainSpec(("-j MARK --set-xmark 0x1/0x1",)), ChainSpec(())),
        Step("add", services, ChainSpec(("-j KUBE-MARK-MASQ",))),
    ]
    failures = unsupported_steps("legacy", steps)
    assert {failure.step.key: failure.errno for failure in failures} == {mark: EOPNOTSUPP}


def test_both_updates_of_a_chain_that_keeps_an_unsupported_rule_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    _lacking(monkeypatch, "MARK")
    mark = Chain("IPv4", "nat", "KUBE-MARK-MASQ")
    both, new = ChainSpec(("-j MARK --set-xmark 0x1/0x1", "-j RETURN")), ChainSpec(("-j MARK --set-xmark 0x1/0x1",))
    steps = [Step("update", mark, both, ChainSpec(("-j RETURN",))), Step("update", mark, new, both)]
    assert [failure.step for failure in unsupported_steps("legacy", steps)] == steps
