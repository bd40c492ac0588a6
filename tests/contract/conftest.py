"""The kernels that are held to one contract: the one in memory always, and Linux inside the lab."""

from collections.abc import Iterator

import pytest

from kubeproxy_py.kernel import Kernel
from kubeproxy_py.kernel.memory import MemoryKernel
from tests.contract.contract import LINUX, LINUX_BY_LIBIPTC, LINUX_BY_TOOL, SETTING, linux_kernel


@pytest.fixture(params=["memory", LINUX, LINUX_BY_LIBIPTC])
def kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """A kernel without any row but the setting ip_forward, which is 0."""
    if request.param == "memory":
        yield MemoryKernel({SETTING: "0"}, forgiving=True)
        return
    by_tool, by_libiptc = (request.param in way.values for way in (LINUX_BY_TOOL, LINUX_BY_LIBIPTC))
    with linux_kernel(ipset_by_tool=by_tool, by_libiptc=by_libiptc) as made:
        yield made
