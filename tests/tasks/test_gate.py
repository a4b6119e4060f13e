"""The gate's statistics and verdicts, on worked numbers."""

import math

import pytest

from tasks.gate import Evidence, Policy, SuitePolicy, judge, mcnemar_p, tango_interval, tango_z

IDENTITY = {"suite_md5": "s", "harness": "h"}


def evidence(right, n, chance=0.25, first=0, **identity):
    """n items of which `right`, counted from item `first`, are answered right."""
    scores = {f"item-{i}": float(first <= i < first + right) for i in range(n)}
    return Evidence(scores=scores, chance=chance, identity={**IDENTITY, **identity})


def policy(margin=0.05, floor=None, require="non-inferior", without_sandbox="refuse"):
    return Policy(alpha=0.05, without_sandbox=without_sandbox, suites={"mmlu": SuitePolicy(margin=margin, floor=floor, require=require)})


def verdict(candidate, champion, **rules):
    result = judge(policy(**rules), {"mmlu": candidate}, None if champion is None else {"mmlu": champion})
    return result.decision, result.suites[0].verdict


def test_at_difference_zero_tango_is_mcnemars_statistic():
    assert tango_z(12, 5, 100, 0.0) == pytest.approx((12 - 5) / math.sqrt(12 + 5))


def test_tango_favours_neither_side():
    assert tango_z(12, 5, 100, 0.03) == pytest.approx(-tango_z(5, 12, 100, -0.03))


@pytest.mark.parametrize(("gained", "lost", "n"), [(12, 5, 100), (0, 0, 164), (1, 0, 44), (30, 60, 250), (0, 20, 20)])
def test_the_interval_ends_where_the_test_starts_to_reject(gained, lost, n):
    lower, upper = tango_interval(gained, lost, n, 0.05)
    assert -1 <= lower <= (gained - lost) / n <= upper <= 1
    if lower > -1:
        assert tango_z(gained, lost, n, -lower) == pytest.approx(1.6449, abs=1e-3)
    if upper < 1:
        assert tango_z(gained, lost, n, -upper) == pytest.approx(-1.6449, abs=1e-3)


def test_mcnemar_counts_the_binomial_tail():
    assert mcnemar_p(8, 2) == pytest.approx((45 + 10 + 1) / 1024)
    assert mcnemar_p(0, 0) == 1.0


def test_without_a_champion_only_the_floors_decide():
    assert verdict(evidence(60, 100), None, floor=0.5) == ("promote", "floor")
    assert verdict(evidence(40, 100), None, floor=0.5) == ("refuse", "below floor")


def test_the_same_answers_are_non_inferior():
    assert verdict(evidence(150, 250), evidence(150, 250)) == ("promote", "non-inferior")


def test_a_clear_gain_is_better():
    assert verdict(evidence(200, 250), evidence(150, 250), require="better") == ("promote", "better")


def test_equal_quality_is_refused_where_better_is_asked():
    assert verdict(evidence(150, 250), evidence(150, 250), require="better") == ("refuse", "non-inferior")


def test_a_clear_loss_is_worse():
    assert verdict(evidence(100, 250), evidence(150, 250)) == ("refuse", "worse")


def test_few_items_with_much_disagreement_cannot_tell():
    assert verdict(evidence(15, 30, first=5), evidence(15, 30)) == ("undecided", "underpowered")


def test_a_champion_at_chance_shows_nothing():
    assert verdict(evidence(60, 250), evidence(62, 250)) == ("promote", "uninformative")


@pytest.mark.parametrize("change", [{"harness": "other"}, {"suite_md5": "other"}])
def test_scores_of_two_evaluations_are_not_compared(change):
    assert verdict(evidence(200, 250), evidence(150, 250, **change)) == ("invalid", "invalid")


def test_other_items_are_not_compared():
    assert verdict(evidence(200, 250), evidence(150, 249)) == ("invalid", "invalid")


def test_a_suite_without_evidence_is_invalid_not_zero():
    assert judge(policy(), {}, None).decision == "invalid"


def test_the_policy_says_whether_a_version_without_code_scores_may_pass():
    missing = Evidence(scores=None, chance=0.0, identity=IDENTITY)
    assert verdict(missing, None) == ("refuse", "unavailable")
    assert verdict(missing, None, without_sandbox="allow") == ("promote", "unavailable")
