"""The programs that the adapter of iptables runs, recorded while it works as usual."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kubeproxy_py.kernel.host import command
from kubeproxy_py.kernel.host.command import Result
from kubeproxy_py.kernel.iptables import adapter as iptables_adapter


def record_runs(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Return a list to which each command line that the adapter runs from now on is appended."""
    calls: list[Sequence[str]] = []
    real = command.run

    def recorded(argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = command.TIMEOUT_S) -> Result:
        calls.append(argv)
        return real(argv, stdin=stdin, timeout_s=timeout_s)

    monkeypatch.setattr(iptables_adapter, "run", recorded)
    return calls
