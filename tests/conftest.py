"""Hypothesis runs few examples in ``make check``, many in ``make test``, and very few on further Python versions.

These are the same examples in each run, so that a change is blamed for what it breaks and for nothing else.
``make laws`` looks for new ones at random.
"""

import gc
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator

import pytest

_EXAMPLES = {"brief": 10, "fast": 30, "full": 500, "thorough": 5000}
"""The number of examples by profile."""


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Undo what a command sets up for the log of its process."""
    root, package = logging.getLogger(), logging.getLogger("kubeproxy_py")
    handlers, levels, hooks = root.handlers[:], (root.level, package.level), (sys.excepthook, threading.excepthook)
    yield
    root.handlers[:], (root.level, package.level) = handlers, levels
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(capture=False)


def _load_profile(name: str) -> None:
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        name,
        max_examples=_EXAMPLES[name],
        derandomize=name != "thorough",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile(name)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Load the profile of Hypothesis, but for kernel tests: they have no properties, and its import is slow in the lab.

    Give each pytest process a folder of its own for temporary files; --basetemp=DIR chooses one and keeps it.

    Whenever a process starts, pytest closes the common folder to other users, while tests of another process may have
    opened it to read files as nobody.
    """
    if config.option.markexpr != "kernel":
        _load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
    if config.option.basetemp is None and not hasattr(config, "workerinput"):
        config.option.basetemp = tempfile.mkdtemp(prefix="kubeproxy-py-tests-")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


def pytest_collection_finish() -> None:
    """Have the garbage collector leave alone what exists by now, and run more seldom: it took a tenth of the laws."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
