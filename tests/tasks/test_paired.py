"""Statistics of paired comparisons: worked numbers, brute force, and what a test of size alpha must hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binomtest, bootstrap, multinomial, norm
from statsmodels.stats import contingency_tables, multitest, power, proportion, weightstats

from tasks.gate.paired import (
    Resampled,
    averages,
    bounds,
    holm,
    items_for,
    items_to_decide,
    mcnemar_p,
    non_inferiority_p,
    tango_z,
)


def test_tangos_first_example():
    # Tango (1998), section 5: chemical against thermal disinfection of 44 pairs of lenses, one pair discordant, delta 0.1
    assert tango_z(0, 1, 44, 0.1) == pytest.approx(1.709, abs=5e-4)


def test_tangos_interval_of_a_published_example():
    # Fagerland, Lydersen & Laake (2014), Statistics in Medicine 33:2850-2875: airway hyper-responsiveness of 21 children before and after
    # stem cell transplantation (Bentur et al. 2009), 1 and 7 pairs discordant: Tango's 95% interval is -0.517 to -0.026
    z = norm.ppf(0.975)
    lower = brentq(lambda difference: tango_z(1, 7, 21, -difference) - z, -0.999, -6 / 21 - 1e-9)
    upper = brentq(lambda difference: tango_z(1, 7, 21, -difference) + z, -6 / 21 + 1e-9, 0.999)
    assert (lower, upper) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_at_difference_zero_tango_is_mcnemars_statistic():
    assert tango_z(12, 5, 100, 0.0) == pytest.approx((12 - 5) / math.sqrt(12 + 5))


def test_tango_favours_neither_side():
    assert tango_z(12, 5, 100, 0.03) == pytest.approx(-tango_z(5, 12, 100, -0.03))


def test_counts_may_be_arrays():
    assert tango_z(np.array([12, 0]), np.array([5, 1]), 100, 0.03).tolist() == [tango_z(12, 5, 100, 0.03), tango_z(0, 1, 100, 0.03)]


def tables(n):
    return [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]


@pytest.mark.parametrize(("gained", "lost", "n", "delta"), [(3, 1, 12, 0.1), (0, 0, 15, 0.2), (2, 5, 14, 0.05), (5, 2, 10, -0.1)])
def test_the_exact_p_value_is_the_worst_sum_over_all_tables(gained, lost, n, delta):
    least = tango_z(gained, lost, n, delta) - 1e-9
    region = [(b, c) for b, c in tables(n) if tango_z(b, c, n, delta) >= least]
    share = np.linspace(max(delta, 0.0), (1 + delta) / 2, 2001)
    rest = np.maximum(0.0, 1 - 2 * share + delta)
    ways = {(b, c): math.comb(n, b) * math.comb(n - b, c) for b, c in region}
    worst = sum(ways[b, c] * (share - delta) ** b * share**c * rest ** (n - b - c) for b, c in region).max()
    assert non_inferiority_p(gained, lost, n, delta) == pytest.approx(worst, abs=2e-5)


def test_no_discordant_pair_is_as_likely_as_no_loss_at_all():
    assert non_inferiority_p(0, 0, 164, 0.02) == pytest.approx(0.98**164, abs=1e-6)


def test_the_exact_test_never_rejects_more_often_than_alpha():
    n, delta, alpha = 20, 0.1, 0.05
    rejected = [(b, c) for b, c in tables(n) if non_inferiority_p(b, c, n, delta) <= alpha]
    for share in np.linspace(delta, (1 + delta) / 2, 60):
        shares = [share - delta, share, max(0.0, 1 - 2 * share + delta)]
        assert sum(multinomial.pmf([b, c, n - b - c], n, shares) for b, c in rejected) <= alpha + 1e-6


def test_beyond_500_items_the_score_test_takes_over_without_a_jump():
    assert non_inferiority_p(30, 40, 501, 0.05) == pytest.approx(float(norm.sf(tango_z(30, 40, 501, 0.05))))
    assert non_inferiority_p(30, 40, 500, 0.05) == pytest.approx(non_inferiority_p(30, 40, 501, 0.05), abs=2e-3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.data(), st.sampled_from([0.01, 0.05, 0.2]))
def test_verdict_and_interval_never_disagree(n, data, margin):
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    lower, upper = bounds(gained, lost, n, 0.05, margin)
    assert -1 <= lower <= (gained - lost) / n + 1e-6
    assert (gained - lost) / n - 1e-6 <= upper <= 1
    if -margin < (gained - lost) / n:
        assert (lower > -margin - 1e-12) == (non_inferiority_p(gained, lost, n, margin) <= 0.05)
    else:
        assert (upper < -margin + 1e-12) == (non_inferiority_p(lost, gained, n, -margin) <= 0.05)


def test_swapping_the_models_mirrors_the_interval():
    lower, upper = bounds(12, 5, 100, 0.05, 0.03)
    assert bounds(5, 12, 100, 0.05, 0.03) == pytest.approx((-upper, -lower), abs=1e-5)


def test_mcnemar_counts_the_binomial_tail():
    assert mcnemar_p(8, 2) == pytest.approx((45 + 10 + 1) / 1024)
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(25, 11) == pytest.approx(binomtest(25, 36, alternative="greater").pvalue)


@pytest.mark.parametrize(("gained", "lost"), [(8, 2), (25, 11), (3, 0), (17, 16)])
def test_mcnemar_is_that_of_statsmodels(gained, lost):
    two_sided = contingency_tables.mcnemar([[50, gained], [lost, 30]], exact=True).pvalue
    assert min(1.0, 2 * mcnemar_p(gained, lost)) == pytest.approx(two_sided)


@pytest.mark.slow
@pytest.mark.long
def test_holm_is_that_of_statsmodels():
    source = np.random.default_rng(5)
    for _ in range(20):
        p_values = dict(zip("abcde", source.uniform(0, 0.1, 5), strict=True))
        rejected = multitest.multipletests(list(p_values.values()), alpha=0.05, method="holm")[0]
        assert set(holm(p_values, 0.05)) == {name for name, gone in zip(p_values, rejected, strict=True) if gone}


def test_the_items_that_would_decide_are_those_of_statsmodels():
    upper = proportion.proportion_confint(16, 164, alpha=0.1, method="beta")[1]
    sized = power.normal_sample_size_one_tail(0.05, 0.8, 0.05, math.sqrt(upper))
    assert items_to_decide(8, 8, 164, 0.05, 0.05) == math.ceil(sized)


def test_the_bootstrap_is_that_of_scipy_and_close_to_statsmodels_interval_of_the_mean():
    differences = np.random.default_rng(11).choice([-1.0, 0.0, 0.25, 1.0], 400, p=[0.05, 0.8, 0.05, 0.1])
    interval = weightstats.DescrStatsW(differences).tconfint_mean(alpha=0.1)
    found = Resampled(differences.tolist(), 1)
    assert found.bounds(0.05) == pytest.approx(interval, abs=0.004)
    theirs = bootstrap((differences,), np.mean, confidence_level=0.9, method="BCa", rng=2).confidence_interval
    assert found.bounds(0.05) == pytest.approx((theirs.low, theirs.high), abs=0.002)


def test_humaneval_cannot_decide_a_margin_below_six_points_at_a_discordance_of_a_tenth():
    assert items_for(0.1, 0.05, 0.06) == math.ceil((1.644854 + 0.841621) ** 2 * 0.1 / 0.0036)
    assert items_for(0.1, 0.05, 0.06) > 164
    assert items_for(0.1, 0.05, 0.0625) < 164


def test_the_items_that_would_decide_use_the_upper_bound_of_the_discordance():
    assert items_to_decide(8, 8, 164, 0.05, 0.05) > items_for(16 / 164, 0.05, 0.05)
    assert items_to_decide(2, 2, 4, 0.05, 0.1) == items_for(1.0, 0.05, 0.1)


def test_graded_scores_are_resampled_the_same_way_twice_and_cover_the_mean():
    source = np.random.default_rng(3)
    differences = source.normal(0.02, 0.1, 300)
    found = Resampled(differences.tolist(), 7).bounds(0.05)
    assert found == Resampled(differences.tolist(), 7).bounds(0.05)
    half = 1.645 * differences.std(ddof=1) / math.sqrt(300)
    assert found == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.003)


def test_a_gain_of_all_items_is_bounded_by_resampling_above_and_by_the_bet_below():
    lower, upper = Resampled([0.25] * 20, 1).bounds(0.05)
    assert upper == 0.25
    assert lower < 0.2


def test_few_items_are_no_certainty():
    lower, upper = Resampled([0.0] * 5, 1).bounds(0.05)
    assert (lower, upper) == pytest.approx((-0.6, 0.6), abs=0.15)
    assert Resampled([0.0] * 300, 1).bounds(0.05)[0] > -0.05


def test_one_difference_next_to_nothing_is_no_item_against_a_claim():
    assert Resampled([0.0] * 100 + [-0.1] * 19 + [1e-9], 1).bounds(0.05)[1] > 0


def test_the_p_value_is_the_alpha_at_which_the_lower_bound_is_zero():
    found = Resampled(np.random.default_rng(4).normal(0.015, 0.1, 200).tolist(), 1)
    assert 0.001 < found.p(0.0) < 0.1
    assert found.bounds(found.p(0.0) * 0.98)[0] <= 0 <= found.bounds(found.p(0.0) * 1.02)[0]
    mirrored = Resampled((-found.values).tolist(), 1)
    assert found.p(0.0) + mirrored.p(0.0) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("n", "gain", "loss"), [(30, 0.02, 0.4), (164, 0.01, 0.4), (400, 0.01, 0.5)])
def test_small_gains_beside_rare_large_losses_are_seldom_called_better(n, gain, loss):
    # the true difference is 0: a permutation test, exact for symmetric differences only, calls up to a quarter of these better
    source, simulations = np.random.default_rng(6), 100
    samples = np.where(source.random((simulations, n)) < gain / (gain + loss), -loss, gain)
    assert sum(Resampled(sample.tolist(), 1, 499).p(0.0) <= 0.05 for sample in samples) <= simulations * 0.05 + 5


@pytest.mark.slow
@pytest.mark.parametrize(("n", "margin"), [(20, 0.1), (60, 0.1), (164, 0.0625)])
def test_graded_scores_are_seldom_shown_non_inferior_at_a_loss_of_the_margin(n, margin):
    # losses of 1 on a share `margin` of the items, the rest equal: the fewest items differ
    source, simulations = np.random.default_rng(5), 400
    samples = -(source.random((simulations, n)) < margin).astype(float)
    shown = sum(Resampled(sample.tolist(), 1, 999).bounds(0.05)[0] > -margin for sample in samples)
    assert shown <= simulations * 0.05 + 2.5 * math.sqrt(simulations * 0.05 * 0.95)


def test_micro_weighs_items_and_macro_weighs_groups():
    micro, macro = averages([[1.0, 0.0], [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]])
    assert micro[0] == pytest.approx(0.8)
    assert macro[0] == pytest.approx((0.5 + 0.875) / 2)
    spread = (0.5 / 2, 0.125 / 8)  # variance of each mean
    assert micro[1] == pytest.approx(math.sqrt(0.2**2 * spread[0] + 0.8**2 * spread[1]))
    assert macro[1] == pytest.approx(math.sqrt(0.25 * spread[0] + 0.25 * spread[1]))
