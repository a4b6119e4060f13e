"""The gate's error rates, measured: thousands of simulated gates, see tests/bench/calibration.py."""

import pytest

from tests.bench.calibration import ALPHA, SUITES, false_promotions, rate

GATES = 2000
ERROR = 2.5 * (ALPHA * (1 - ALPHA) / GATES) ** 0.5  # of the simulation: passed by chance once in 160 tests


@pytest.mark.slow
@pytest.mark.parametrize("require", ["non-inferior", "better"])
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_a_false_promotion_is_no_more_frequent_than_alpha(suite, require):
    assert false_promotions(suite, require, GATES, seed=11) <= ALPHA + ERROR


@pytest.mark.slow
@pytest.mark.parametrize("suite", [suite for suite in SUITES if suite.discordance == 0.1], ids=lambda suite: suite.name)
def test_a_margin_that_a_suite_can_reach_promotes_equals_with_the_power_that_was_promised(suite):
    # margins of the list are those that `warnings` accepts: power .8 at equality, by the normal approximation
    assert rate(suite, 0.0, "non-inferior", 500, seed=12) >= 0.7
