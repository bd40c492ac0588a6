"""python-iptables where it cannot be used: rejected before anything is written, with a reason and a hint."""

import sys

import pytest

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.iptables.libiptc import LibiptcAdapter


def test_libiptc_is_rejected_on_a_node_that_uses_nf_tables() -> None:
    with pytest.raises(KernelError) as caught:
        LibiptcAdapter([], "nft")
    assert str(caught.value) == (
        "libiptc supports legacy tables only, and this node uses nf_tables (use --iptables-backend=restore)"
    )


def test_a_missing_extra_is_an_error_with_an_install_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "iptc", None)
    with pytest.raises(KernelError) as caught:
        LibiptcAdapter([], "legacy")
    assert caught.value.hint == "pip install 'kubeproxy-py[libiptc]', or use --iptables-backend=restore"


def test_missing_c_libraries_are_an_error_with_an_install_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "iptc"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    monkeypatch.setattr("ctypes.CDLL", _not_found)
    with pytest.raises(KernelError, match="python-iptables finds no libxtables or libiptc") as caught:
        LibiptcAdapter([], "legacy")
    assert caught.value.hint == "apt-get install iptables, or use --iptables-backend=restore"


def _not_found(*_args: object, **_options: object) -> None:
    raise OSError("no such library")
