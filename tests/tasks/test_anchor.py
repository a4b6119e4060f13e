"""The anchor: what its looks may spend, who becomes it, and that no chain of promotions falls below it."""

import math
import random

import pytest

from tasks.gate.anchor import Standing, after_gate, after_person, level, pinned
from tasks.gate.verdicts import Evidence, Policy, Reference, SuitePolicy, judge
from tests.bench import drift
from tests.limits import ANY


def evidence(wrong, n=250, **more):
    """n items of which those in `wrong` are answered wrong."""
    scores = {f"item-{i}": float(i not in wrong) for i in range(n)}
    return Evidence(scores=scores, chance=0.25, identity={}, **more)


def policy(margin=0.1, require="non-inferior", alpha=0.05):
    rules = SuitePolicy(margin=margin, floor=None, require=require)
    return Policy(alpha=alpha, without_sandbox="refuse", better_on_one_of=[], contaminated=0.05, health=ANY, suites={"mmlu": rules})


def decided(candidate, champion, anchor, look=1, **rules):
    reference = Reference(version="1", look=look, evidence=anchor)
    found = judge(policy(**rules), {"mmlu": candidate}, {"mmlu": champion}, {"mmlu": reference})
    return found.decision, found.suites[0]


def test_all_looks_together_spend_no_more_than_alpha():
    assert math.fsum(level(0.05, look) for look in range(1, 200_000)) < 0.05
    assert math.fsum(level(0.05, look) for look in range(1, 200_000)) > 0.0499


def test_the_first_look_may_spend_a_quarter_and_no_look_more_than_the_one_before():
    assert level(1.0, 1) == pytest.approx(1 / 4 + 1 / 732)
    shares = [level(1.0, look) for look in range(1, 400)]
    assert shares == sorted(shares, reverse=True)


def test_a_loss_that_the_champion_hides_is_refused_against_the_anchor():
    """Each step is 8 of 250 items, far inside the margin of 25; the fourth is beyond it, counted from the anchor."""
    steps = [evidence(set(range(8 * step))) for step in range(5)]
    decision, verdict = decided(steps[4], steps[3], steps[0], look=4)
    assert (decision, verdict.verdict) == ("refuse", "below anchor")
    assert judge(policy(), {"mmlu": steps[4]}, {"mmlu": steps[3]}).decision == "promote"
    assert verdict.anchor.difference == pytest.approx(-32 / 250)
    assert "against the anchor (version 1) -0.128" in verdict.reason


def test_a_candidate_like_its_anchor_passes_and_says_how_far_it_drifted():
    decision, verdict = decided(evidence({1, 2, 3}), evidence({1, 2}), evidence({2}), look=3)
    assert (decision, verdict.verdict) == ("promote", "non-inferior")
    assert (verdict.anchor.version, verdict.anchor.look) == ("1", 3)
    assert verdict.anchor.lower < verdict.anchor.difference < verdict.anchor.upper


def test_where_no_loss_is_shown_and_too_many_looks_are_spent_the_gate_cannot_tell():
    ours, theirs = evidence(set(range(14))), evidence(set(range(14, 28)))
    assert decided(ours, theirs, theirs, look=1)[0] == "promote"
    decision, verdict = decided(ours, theirs, theirs, look=3000)
    assert (decision, verdict.verdict) == ("undecided", "underpowered")
    assert "must be" in verdict.reason
    assert "at look 3000" in verdict.reason


def test_an_anchor_scored_otherwise_unreadable_or_leaked_is_invalid_and_named():
    other = evidence({1}).model_copy(update={"identity": {"harness": "older"}})
    gone = Evidence(scores={}, chance=0.25, identity={}, unreadable="it is not registered any more")
    leaked = evidence({1}).model_copy(update={"contaminated": {f"item-{i}": ["instructions/forum"] for i in range(100)}})
    for anchor, said in ((other, "scored otherwise (harness)"), (gone, "not registered any more"), (leaked, "instructions/forum 100")):
        decision, verdict = decided(evidence({1}), evidence({1}), anchor)
        assert decision == "invalid"
        assert "the anchor (version 1): " in verdict.reason
        assert said in verdict.reason


def test_what_the_champion_refuses_the_anchor_does_not_let_through():
    assert decided(evidence(set(range(80))), evidence({1}), evidence(set(range(100))))[0] == "refuse"


def test_an_anchor_at_chance_has_nothing_to_lose():
    guess = evidence(set(range(180)))
    assert decided(evidence(set(range(60, 240))), guess, guess, look=3000)[1].verdict == "uninformative"


def standing(version, looks=0, drift=None):
    return Standing(version=version, looks=looks, drift=drift)


def looked(candidate, champion, anchor, look):
    return {"mmlu": decided(candidate, champion, anchor, look)[1].anchor}


def test_the_first_champion_is_the_first_anchor():
    assert after_gate({}, ["mmlu"], {}, "1") == {"mmlu": standing("1", drift=(0.0, 0.0, 0.0))}
    assert after_gate({}, ["mmlu"], {}, None) == {}


def test_every_decision_is_a_look_and_only_one_shown_to_be_better_than_the_anchor_takes_its_place():
    before = {"mmlu": standing("1", 4)}
    equal, better = (looked(evidence(wrong), evidence(set(range(60))), evidence(set(range(60))), 5) for wrong in (set(range(59)), set()))
    assert after_gate(before, ["mmlu"], equal, None)["mmlu"].looks == 5
    promoted = after_gate(before, ["mmlu"], equal, "7")["mmlu"]
    assert (promoted.version, promoted.looks) == ("1", 5)
    assert promoted.drift[0] == pytest.approx(1 / 250)
    assert after_gate(before, ["mmlu"], better, "7")["mmlu"] == standing("7", drift=(0.0, 0.0, 0.0))
    assert after_gate(before, ["mmlu"], better, None)["mmlu"].version == "1"


def test_better_than_a_champion_that_slid_is_no_reason_to_forget_the_anchor():
    anchor, slid, risen = evidence(set()), evidence(set(range(20))), evidence(set(range(8)))
    verdict = decided(risen, slid, anchor, look=2)[1]
    assert verdict.verdict == "better"
    assert after_gate({"mmlu": standing("1", 1)}, ["mmlu"], {"mmlu": verdict.anchor}, "9")["mmlu"].version == "1"


def test_a_person_moves_the_champion_and_not_the_anchor_unless_they_pin_it():
    before = {"mmlu": standing("1", 4, (0.0, -0.1, 0.1))}
    assert after_person(before, ["mmlu", "gpqa"], "5") == {"mmlu": standing("1", 4), "gpqa": standing("5")}
    assert pinned(before, ["gpqa"], "5") == {**before, "gpqa": standing("5")}
    assert pinned(before, ["mmlu"], "5")["mmlu"] == standing("5")


@pytest.mark.long
@pytest.mark.parametrize("n", [60, 600])
def test_the_simulated_night_decides_as_the_gate_does(n):
    """The simulation of a year asks the tests on counts; the gate gets the items."""
    source, suite = random.Random(n), drift.Suite("any", n, 0.1)
    for look in (1, 5, 300):
        for _ in range(8):
            rates = [source.random() / 4 for _ in range(3)]
            ours, theirs, first = ({i for i in range(n) if source.random() < rate} for rate in rates)
            counts = [(len(other - ours), len(ours - other)) for other in (theirs, first)]
            simulated = drift.passes(counts[0], suite, 0.05) and drift.no_loss_p(*counts[1], n, 0.1) <= level(0.05, look)
            decision, verdict = decided(evidence(ours, n), evidence(theirs, n), evidence(first, n), look)
            assert (decision == "promote") == simulated
            assert verdict.anchor.better == (drift.better_p(*counts[1]) <= level(0.05, look))


YEARS = 60
ERROR = 2.5 * (0.05 * 0.95 / YEARS) ** 0.5  # of the simulation


@pytest.mark.long
@pytest.mark.parametrize(
    "slide",
    [pytest.param(slide, marks=() if slide in (drift.slow, drift.edge) else pytest.mark.slow) for slide in drift.SLIDES],
    ids=lambda slide: slide.__name__,
)
def test_in_a_year_no_champion_falls_below_its_anchor_by_more_than_the_margin_more_often_than_alpha(slide):
    assert drift.share_violated(drift.MMLU, slide, YEARS, seed=5) <= 0.05 + ERROR


@pytest.mark.slow
@pytest.mark.parametrize("suite", [drift.MINI, drift.HUMANEVAL], ids=lambda suite: suite.name)
@pytest.mark.parametrize("slide", drift.SLIDES, ids=lambda slide: slide.__name__)
def test_in_a_year_on_few_items_neither(suite, slide):
    assert drift.share_violated(suite, slide, YEARS, seed=6) <= 0.05 + ERROR


@pytest.mark.slow
def test_models_that_inherit_their_champions_luck_need_new_items_and_are_held_by_them():
    """Each made from the champion keeps what it happened to get right: the same items, asked for ever, are learned by selection alone."""
    found = [drift.share_violated(drift.MMLU, drift.slow, 60, 7, inherited=True, fresh_every=every) for every in (7, 400)]
    assert found[0] <= 0.05 + 0.07  # and the error of 60 years
    assert found[1] > 0.2  # what docs/gate.md says it cannot do


def test_without_an_anchor_a_slow_slide_ends_far_below():
    assert drift.year(drift.MMLU, drift.steady, 1, anchored=False).end < -10 * drift.MMLU.margin
    assert drift.year(drift.MMLU, drift.steady, 1).end > -2 * drift.MMLU.margin


@pytest.mark.long
def test_honest_candidates_are_still_promoted_a_year_later():
    curve = drift.honest_curve(drift.MMLU, 40, seed=3)
    assert drift.around(curve, 7) > 0.9
    assert drift.around(curve, 365) > 0.7
