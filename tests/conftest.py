"""Hypothesis runs few examples in ``make check``, many in ``make test``, and very few on further Python versions."""

import os

from hypothesis import HealthCheck, settings

for _profile, _examples in (("brief", 10), ("fast", 60), ("full", 500), ("thorough", 5000)):
    settings.register_profile(
        _profile, max_examples=_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
