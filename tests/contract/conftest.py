"""The kernels that are held to one contract: the one in memory always, and Linux inside the lab."""

from collections.abc import Iterator

import pytest

from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.memory import MemoryKernel
from tests.contract.contract import LINUX, LINUX_BY_TOOL, SETTING, linux_kernel


@pytest.fixture(params=["memory", LINUX])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """A kernel without any row but the setting ip_forward, which is 0."""
    if request.param == "memory":
        yield MemoryKernel({SETTING: "0"}, forgiving=True)
        return
    with linux_kernel(ipset_by_tool=request.param in LINUX_BY_TOOL.values) as made:
        yield made
