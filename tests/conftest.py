"""Hypothesis runs few examples in ``make check`` and many in ``make test`` (HYPOTHESIS_PROFILE=full)."""

import os

from hypothesis import HealthCheck, settings

for _profile, _examples in (("fast", 60), ("full", 500)):
    settings.register_profile(
        _profile, max_examples=_examples, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
