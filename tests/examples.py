"""How many examples a property gets that needs more of them than the profile of the run gives."""

import os

from hypothesis import settings

SHARE = 1 if os.environ.get("ALL_EXAMPLES") else 5
"""``make test`` tries all examples; ``make check`` the first fifth of the same ones, because it is to take a minute."""


def at_most(examples: int) -> settings:
    """Return settings for so many *examples* in ``make test``, and a fifth of them in ``make check``."""
    return settings(max_examples=examples // SHARE, deadline=None)
