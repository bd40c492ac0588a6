"""The fixtures of the API server, shared with tests/sources."""

from tests.sources.conftest import *  # noqa: F403
