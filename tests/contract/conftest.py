"""The kernels that the contract tests run on: MemoryKernel always, LinuxKernel inside the lab."""

from collections.abc import Iterator

import pytest

from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.memory import MemoryKernel
from tests.contract.contract import LINUX, LINUX_IPSET_COMMAND, LINUX_LIBIPTC, SYSCTL, linux_kernel


@pytest.fixture(params=["memory", LINUX, LINUX_LIBIPTC])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """A kernel without any row but the sysctl ip_forward, which is 0."""
    if request.param == "memory":
        yield MemoryKernel({SYSCTL: "0"}, idempotent=True)
        return
    use_ipset_command = request.param in LINUX_IPSET_COMMAND.values
    use_libiptc = request.param in LINUX_LIBIPTC.values
    with linux_kernel(use_ipset_command=use_ipset_command, use_libiptc=use_libiptc) as linux:
        yield linux
