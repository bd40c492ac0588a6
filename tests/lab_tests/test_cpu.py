"""Lab kernels are spread over the CPUs evenly."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from contextlib import ExitStack

import pytest

from lab.cpu import reserve_cpu


@pytest.fixture
def prefix() -> str:
    """Names that no lab kernel of this host has."""
    return f"test-{uuid.uuid4().hex}"


def test_lab_kernels_are_spread_evenly(prefix: str) -> None:
    usable = os.sched_getaffinity(0)
    with ExitStack() as kernels:
        counts = Counter(kernels.enter_context(reserve_cpu(prefix)) for _ in range(3 * len(usable)))
    assert counts == dict.fromkeys(usable, 3)


def test_the_next_kernel_gets_the_cpu_of_one_that_ended(prefix: str) -> None:
    with ExitStack() as kernels:
        first = kernels.enter_context(reserve_cpu(prefix))
        others = ExitStack()
        for _ in range(2 * len(os.sched_getaffinity(0)) - 1):
            others.enter_context(reserve_cpu(prefix))
        kernels.enter_context(others)
    with reserve_cpu(prefix) as kept, reserve_cpu(prefix):
        assert kept == first


def test_kernels_beyond_all_places_get_a_cpu_too(prefix: str) -> None:
    usable = os.sched_getaffinity(0)
    with ExitStack() as kernels:
        given = [kernels.enter_context(reserve_cpu(prefix)) for _ in range(16 * len(usable) + 1)]
    assert given[-1] in usable
