"""Hypothesis runs few examples in ``make check``, many in ``make test``, and very few on further Python versions.

These are the same examples in each run, so that a change is blamed for what it breaks and for nothing else.
``make laws`` looks for new ones at random.
"""

import os

from hypothesis import HealthCheck, settings

for _profile, _examples in (("brief", 10), ("fast", 60), ("full", 500), ("thorough", 5000)):
    settings.register_profile(
        _profile,
        max_examples=_examples,
        derandomize=_profile != "thorough",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
