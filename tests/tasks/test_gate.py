"""The gate's statistics and verdicts, on worked numbers."""

import math

import pytest

from tasks.gate import paired
from tasks.gate.health import health_sheet
from tasks.gate.verdicts import Evidence, Policy, SuitePolicy, judge, warnings
from tests.limits import STRICT

IDENTITY = {"suite_md5": "s", "harness": "h"}


def evidence(right, n, chance=0.25, first=0, **identity):
    """n items of which `right`, counted from item `first`, are answered right."""
    scores = {f"item-{i}": float(first <= i < first + right) for i in range(n)}
    return Evidence(scores=scores, chance=chance, identity={**IDENTITY, **identity})


def policy(margin=0.05, floor=None, require="non-inferior", without_sandbox="refuse", one_of=(), suites=("mmlu",), contaminated=0.05):
    rules = SuitePolicy(margin=margin, floor=floor, require=require)
    return Policy(
        alpha=0.05,
        without_sandbox=without_sandbox,
        better_on_one_of=list(one_of),
        contaminated=contaminated,
        health=STRICT,
        suites=dict.fromkeys(suites, rules),
    )


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


def test_a_candidate_below_chance_is_worse_than_a_champion_at_chance():
    assert verdict(evidence(27, 250), evidence(70, 250)) == ("refuse", "worse")


def test_a_gain_over_a_champion_at_chance_counts_and_so_does_a_loss():
    found = judge(policy(require="better"), {"mmlu": evidence(230, 250)}, {"mmlu": evidence(70, 250)})
    assert (found.decision, found.suites[0].verdict) == ("promote", "uninformative")
    assert "not above chance, the candidate is better all the same" in found.suites[0].reason
    assert verdict(evidence(60, 250), evidence(62, 250), require="better") == ("refuse", "uninformative")
    lost = judge(policy(margin=0.06), {"mmlu": evidence(40, 198)}, {"mmlu": evidence(59, 198)})
    assert (lost.decision, lost.suites[0].verdict) == ("refuse", "uninformative")


def test_items_too_few_to_show_anything_above_chance_are_no_champion_at_chance():
    assert verdict(evidence(0, 2), evidence(2, 2)) == ("undecided", "underpowered")


@pytest.mark.parametrize("score", [math.nan, -1.0, 100.0])
def test_a_score_that_is_none_makes_the_evaluation_invalid_and_never_better(score):
    odd = evidence(150, 250)
    odd = odd.model_copy(update={"scores": {**odd.scores, "item-7": score}})
    for pair in ((odd, evidence(150, 250)), (odd, None), (evidence(150, 250), odd)):
        assert verdict(*pair, floor=0.3) == ("invalid", "invalid")


def test_what_only_one_evaluation_says_of_itself_sets_them_apart():
    assert verdict(evidence(200, 250), evidence(150, 250, scoring="choices 2")) == ("invalid", "invalid")
    assert verdict(evidence(200, 250, scoring="choices 2"), evidence(150, 250)) == ("invalid", "invalid")
    assert verdict(evidence(200, 250, chance=0.2), evidence(150, 250)) == ("invalid", "invalid")


def test_a_policy_gates_at_least_one_suite():
    with pytest.raises(ValueError, match="at least 1 item"):
        policy(suites=())


def test_a_champion_whose_own_evaluation_is_broken_proves_nothing():
    slow = [{"id": f"item-{i}", "score": i < 50, "response": f"answer {i}", "flags": ["timeout"] * (i >= 50)} for i in range(250)]
    champion = evidence(50, 250, chance=0.0).model_copy(update={"health": health_sheet(slow)})
    candidate = evidence(80, 250, chance=0.0).model_copy(update={"health": written([f"answer {i}" for i in range(250)], score=0.5)})
    found = judge(policy(), {"mmlu": candidate}, {"mmlu": champion})
    assert found.decision == "invalid"
    assert "the champion's evaluation is broken: 200 programs out of time of 250 (gate.health.timeouts 0.2)" in found.reason


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


def leaked(right, n, items, **more):
    return evidence(right, n, **more).model_copy(update={"contaminated": {f"item-{i}": ["instructions/forum"] for i in items}})


def test_a_suite_that_training_was_fed_is_invalid_and_the_source_is_named():
    result = judge(policy(), {"mmlu": leaked(220, 250, range(100))}, {"mmlu": evidence(150, 250)})
    assert result.decision == "invalid"
    assert "100 of 250 items are in the training text (instructions/forum 100)" in result.suites[0].reason


def test_few_leaked_items_are_left_out_of_the_verdict_and_shown_beside_it():
    # the 10 leaked items are all that the candidate gains
    candidate, champion = leaked(160, 250, range(150, 160)), evidence(150, 250)
    found = judge(policy(), {"mmlu": candidate}, {"mmlu": champion}).suites[0]
    assert (found.n, found.clean_n, found.gained, found.lost) == (250, 240, 0, 0)
    assert (found.candidate, found.champion) == (0.64, 0.6)
    assert found.clean_candidate == found.clean_champion == 150 / 240
    assert found.verdict == "non-inferior"
    assert found.leaks == {"instructions/forum": 10}
    assert "on 240 clean items of 250 (all: 0.640 against 0.600)" in found.reason


def test_what_the_champion_was_fed_is_left_out_too():
    found = judge(policy(), {"mmlu": evidence(150, 250)}, {"mmlu": leaked(160, 250, range(150, 160))}).suites[0]
    assert (found.clean_n, found.lost, found.verdict) == (240, 0, "non-inferior")


def test_the_floor_is_held_against_the_clean_items():
    assert judge(policy(floor=0.62), {"mmlu": leaked(160, 250, range(150, 160))}, None).suites[0].verdict == "floor"
    assert judge(policy(floor=0.63), {"mmlu": leaked(160, 250, range(150, 160))}, None).suites[0].verdict == "below floor"


def test_leaks_elsewhere_than_in_the_scored_subset_do_not_count():
    assert judge(policy(), {"mmlu": leaked(150, 250, range(300, 400))}, {"mmlu": evidence(150, 250)}).suites[0].clean_n == 250


def written(responses, score=0):
    return health_sheet(
        [{"id": f"item-{i}", "score": score, "response": text, "flags": ["empty"] * (not text)} for i, text in enumerate(responses)]
    )


def test_an_evaluation_whose_answers_are_all_empty_is_invalid_and_not_a_zero():
    candidate = evidence(0, 100, chance=0.0).model_copy(update={"health": written([""] * 100)})
    result = judge(policy(floor=0.2), {"mmlu": candidate}, {"mmlu": evidence(60, 100, chance=0.0)})
    assert (result.decision, result.suites[0].verdict) == ("invalid", "invalid")
    assert "100 empty answers of 100" in result.suites[0].reason


def test_better_on_one_of_pays_for_the_choice():
    suites = ("mmlu", "gpqa")
    champion = dict.fromkeys(suites, evidence(100, 200))
    rules = policy(one_of=suites, suites=suites)
    one = evidence(104, 200)  # 4 gained, none lost: p = 1/16
    five = evidence(105, 200)  # p = 1/32: enough alone at .05, not as the better of two
    six = evidence(106, 200)  # p = 1/64
    assert judge(rules, {"mmlu": one, "gpqa": one}, champion).decision == "refuse"
    refused = judge(rules, {"mmlu": five, "gpqa": one}, champion)
    assert refused.decision == "refuse"
    assert "better on none of mmlu, gpqa at alpha 0.05 by Holm" in refused.reason
    assert judge(rules, {"mmlu": six, "gpqa": one}, champion).better == ["mmlu"]
    assert judge(rules, {"mmlu": six, "gpqa": five}, champion).better == ["mmlu", "gpqa"]


def test_better_on_one_of_names_suites_of_the_policy():
    with pytest.raises(ValueError, match="better_on_one_of names"):
        policy(one_of=["mlu"])


def graded(shift):
    scores = {f"item-{i}": min(1.0, 0.3 + (i % 40) / 100 + shift * (1 + i % 3) / 2) for i in range(200)}
    return Evidence(scores=scores, chance=0.0, identity=IDENTITY)


def test_graded_scores_are_judged_by_resampling():
    assert verdict(graded(0.05), graded(0.0)) == ("promote", "better")
    assert verdict(graded(0.0), graded(0.0)) == ("promote", "non-inferior")
    assert verdict(graded(-0.1), graded(0.0)) == ("refuse", "worse")
    small = judge(policy(), {"mmlu": graded(-0.03)}, {"mmlu": graded(0.0)}).suites[0]
    assert small.verdict == "non-inferior"
    assert "a small loss" in small.reason


def test_subjects_give_two_averages_with_their_errors():
    candidate = evidence(6, 10).model_copy(update={"subjects": {f"item-{i}": "law" if i < 2 else "art" for i in range(10)}})
    found = judge(policy(), {"mmlu": candidate}, None).suites[0]
    micro, macro = paired.averages([[1.0, 1.0], [1.0] * 4 + [0.0] * 4])
    assert (found.micro.value, found.micro.stderr) == micro
    assert (found.macro.value, found.macro.stderr) == macro
    assert macro[0] == 0.75


def test_a_margin_that_a_suite_cannot_reach_is_said_when_the_policy_is_loaded():
    found = warnings(policy(margin=0.05, suites=("humaneval", "mmlu")), {"humaneval": 164, "mmlu": 14042})
    assert len(found) == 1
    assert "gate.suites.humaneval.margin is 0.05, must be about 0.0761 or more for 164 items" in found[0]
    assert "for a week of nightly looks" in warnings(policy(margin=0.0763, suites=("humaneval",)), {"humaneval": 164})[0]
    assert warnings(policy(margin=0.103, suites=("humaneval",)), {"humaneval": 164}) == []


def test_a_margin_that_is_out_of_reach_within_a_week_of_nights_is_said_too():
    found = warnings(policy(margin=0.1, suites=("humaneval", "gpqa")), {"humaneval": 164, "gpqa": 198})
    assert len(found) == 1
    assert "gate.suites.humaneval.margin is 0.1, must be about 0.102 or more for 164 items to decide it for a week of nightly" in found[0]
