"""Limits on the health of answers, for tests of the gate."""

from tasks.gate.health import HealthLimits

SHARES = ("extraction_failed", "not_loaded", "timeouts", "empty", "truncated", "more_truncated", "repeated", "one_letter")
ANY = HealthLimits(**dict.fromkeys(SHARES, 1.0), length_ratio=1e9, exact=True)
STRICT = HealthLimits(
    extraction_failed=0.1,
    not_loaded=0.4,
    timeouts=0.2,
    empty=0.1,
    truncated=0.5,
    more_truncated=0.2,
    repeated=0.3,
    one_letter=0.9,
    length_ratio=3.0,
    exact=False,
)
