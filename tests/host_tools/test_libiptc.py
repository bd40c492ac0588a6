"""python-iptables where it can't be used: refused before anything is written, with a reason and a hint."""

import sys

import pytest

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.iptables.libiptc import LibiptcAdapter


def test_on_a_node_with_nf_tables_it_is_refused() -> None:
    with pytest.raises(KernelError) as caught:
        LibiptcAdapter([], "nft")
    assert str(caught.value) == (
        "libiptc knows legacy tables alone, and this node uses nf_tables (use --iptables-backend=restore)"
    )


def test_without_the_extra_the_hint_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "iptc", None)
    with pytest.raises(KernelError) as caught:
        LibiptcAdapter([], "legacy")
    assert caught.value.hint == "pip install 'kubeproxy-py[libiptc]', or use --iptables-backend=restore"


def test_without_its_libraries_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "iptc"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("ctypes.util.find_library", lambda _: None)
    monkeypatch.setattr("ctypes.CDLL", _not_found)
    with pytest.raises(KernelError, match="python-iptables finds no libxtables or libiptc") as caught:
        LibiptcAdapter([], "legacy")
    assert caught.value.hint == "apt-get install iptables, or use --iptables-backend=restore"


def _not_found(*_words: object, **_options: object) -> None:
    raise OSError("no such library")
