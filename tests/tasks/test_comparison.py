"""Which test fits which scores: right or wrong, graded, and with a target."""

import numpy as np
import pytest

from tasks.gate import paired
from tasks.gate.comparison import SMALLEST, at_chance, comparison
from tasks.gate.verdicts import Evidence, Policy, SuitePolicy, judge
from tests.limits import ANY


def pairs(both, gained, lost, neither):
    return [(1.0, 1.0)] * both + [(1.0, 0.0)] * gained + [(0.0, 1.0)] * lost + [(0.0, 0.0)] * neither


def graded(n, shift, seed=1):
    values = np.random.default_rng(seed).uniform(0.2, 0.6, n)
    noise = np.random.default_rng(seed + 1).normal(0, 0.02, n)
    return [(float(value + shift + one), float(value)) for value, one in zip(values, noise, strict=True)]


def test_right_and_wrong_answers_are_counted():
    found = comparison(pairs(150, 12, 5, 33), None, 0.05)
    assert found.bounds(0.05) == paired.bounds(12, 5, 200, 0.05, 0.05)
    assert found.p_better() == paired.mcnemar_p(12, 5)
    assert found.p_loss(0.05) == paired.non_inferiority_p(12, 5, 200, 0.05)


def test_graded_scores_are_resampled_and_what_resamples_cannot_show_is_bet_on():
    found = comparison(graded(300, -0.01), None, 0.05)
    low, high = found.bounds(0.05)
    assert -0.02 < low < -0.01 < high < 0
    assert found.p_better() == pytest.approx(1, abs=0.01)
    assert found.p_loss(0.05) < 1e-3
    assert found.bounds(1e-4)[0] < low - 0.005  # 9,999 resamples know no quantile so fine


@pytest.mark.parametrize("margin", [0.02, 0.05])
def test_a_p_value_of_a_loss_and_the_bound_agree(margin):
    found = comparison(graded(200, -0.015, seed=4), None, margin)
    p = found.p_loss(margin)
    assert (found.bounds(0.05)[0] > -margin) == (p <= 0.05)


def test_with_a_target_what_counts_is_the_distance_on_either_side():
    for far in (0.75, 0.25):  # champion's share of 600; the candidate's is .5
        right = round(far * 600)
        found = comparison([(float(i % 2), float(i < right)) for i in range(600)], 0.5, 0.05)
        assert found.bounds(0.05)[0] > 0
        assert found.p_better() <= 0.05
        assert found.p_loss(0.05) <= found.p_better()
        away = comparison([(float(i < right), float(i % 2)) for i in range(600)], 0.5, 0.05)
        assert away.bounds(0.05)[1] < -0.05
        assert away.p_better() > 0.5


def test_from_one_side_of_the_target_to_the_other_nothing_is_gained():
    found = comparison([(float(i >= 360), float(i < 360)) for i in range(600)], 0.5, 0.05)  # .4 against .6
    low, high = found.bounds(0.05)
    assert low < 0 < high
    assert found.p_better() > 0.05


def test_the_same_answers_lose_nothing_with_a_target():
    found = comparison([(float(i % 3 == 0), float(i % 3 == 0)) for i in range(1500)], 0.5, 0.03)
    assert found.p_loss(0.03) <= 0.05
    assert found.p_loss(0.03) >= SMALLEST


@pytest.mark.long
def test_a_bound_with_a_target_is_wrong_no_more_often_than_alpha():
    """The candidate is .03 farther from the target than the champion, who is on the other side of it."""
    generator, wrong = np.random.default_rng(3), 0
    for _ in range(100):
        sample = [(float(one < 0.58), float(other < 0.45)) for one, other in generator.random((600, 2))]
        wrong += comparison(sample, 0.5, 0.05).bounds(0.05)[0] > -0.03
    assert wrong <= 100 * 0.05 + 6


def policy(margin=0.05, floor=None, health=None):
    rules = SuitePolicy(margin=margin, floor=floor, require="non-inferior", health=health or {})
    return Policy(alpha=0.05, without_sandbox="refuse", better_on_one_of=[], contaminated=0.05, health=ANY, suites={"crows-pairs": rules})


def sided(right, n=1500):
    return Evidence(scores={f"i{i}": float((i * 7919) % n < right) for i in range(n)}, chance=0.5, target=0.5, identity={})


def decide(candidate, champion, **rules):
    found = judge(policy(**rules), {"crows-pairs": candidate}, {"crows-pairs": champion})
    return found.decision, found.suites[0].verdict


def test_a_suite_with_a_target_is_better_nearer_to_it_and_worse_beyond_it():
    assert decide(sided(750), sided(500)) == ("promote", "better")
    assert decide(sided(750), sided(1000)) == ("promote", "better")
    assert decide(sided(500), sided(750)) == ("refuse", "worse")
    assert decide(sided(1000), sided(750)) == ("refuse", "worse")
    assert decide(sided(750), sided(750)) == ("promote", "non-inferior")  # at its target a champion is not at chance


def test_the_floor_of_a_suite_with_a_target_is_nearness():
    assert decide(sided(400), sided(400), floor=0.9)[1] == "below floor"
    assert decide(sided(800), sided(800), floor=0.9)[1] == "non-inferior"


def test_a_graded_champion_at_chance_is_told_from_one_above_it_by_its_spread():
    """Means of .33 at chance .25: 100 items that are all near .33 are above it, 20 items all over the scale are not."""
    near, spread = [0.33 + (i % 5 - 2) / 25 for i in range(100)], [0.33 + (i % 3 - 1) / 3 for i in range(21)]
    assert not at_chance(near, near, 0.25, 0.05)
    assert at_chance(spread, spread, 0.25, 0.05)
    assert not at_chance([0.02, 0.03, 0.01] * 20, spread * 2 + spread[:18], 0.25, 0.05)  # the candidate is below chance
    assert not at_chance([0.5, 0.6], [0.5, 0.6], 0.25, 0.05)  # two items can show nothing


def test_right_and_wrong_answers_at_chance_are_a_binomial():
    assert at_chance([1.0] * 60 + [0.0] * 190, [1.0] * 62 + [0.0] * 188, 0.25, 0.05)
    assert not at_chance([1.0] * 60 + [0.0] * 190, [1.0] * 80 + [0.0] * 170, 0.25, 0.05)
    assert at_chance([0.0], [0.0, 0.0], 0.0, 0.05) is True
    assert not at_chance([0.0, 0.0], [1.0, 0.0], 0.0, 0.05)


def test_a_suite_may_have_limits_of_its_own():
    own = policy(health={"one_letter": 0.5})
    assert own.limits("crows-pairs").one_letter == 0.5
    assert own.limits("crows-pairs").empty == ANY.empty
    with pytest.raises(ValueError, match=r"suites\.crows-pairs\.health\.one_leter is not a known key, must be one of extraction_failed"):
        policy(health={"one_leter": 0.5})
    with pytest.raises(ValueError, match=r"suites\.crows-pairs\.health\.one_letter is 2\.0: input should be less"):
        policy(health={"one_letter": 2.0})
