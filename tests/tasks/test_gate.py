"""The gate's statistics and verdicts, on worked numbers."""

import pytest

from tasks.gate import Evidence, Policy, SuitePolicy, judge

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
