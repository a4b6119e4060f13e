"""Metrics of whole sets are those of scikit-learn, and the gate's claims about them are wrong no more often than alpha."""

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn

from models.core import sets
from models.core.sets import Answers, OfSet
from tasks.gate.comparison import Matched
from tasks.gate.evidence import load_evidence
from tasks.gate.verdicts import Evidence, Policy, judge_suite, value_of

CLASSES = 3


def drawn(n: int, seed: int, classes: int = CLASSES, skill: float = 0.6) -> Answers:
    generator = np.random.default_rng(seed)
    right = generator.integers(0, classes, n)
    chosen = np.where(generator.random(n) < skill, right, generator.integers(0, classes, n))
    return Answers(right, chosen, (right == 1) + generator.normal(0, 1, n))


@pytest.mark.parametrize("seed", range(3))
def test_each_metric_is_that_of_scikit_learn(seed: int) -> None:
    found = drawn(200, seed)
    right, chosen, is_one = found.right, found.chosen, found.right == 1

    def of(metric: Any, positive: int | None = None) -> float:
        return float(sets.value(OfSet(metric=metric, classes=CLASSES, positive=positive), found))

    assert of("macro-f1") == pytest.approx(sklearn.f1_score(right, chosen, average="macro"))
    assert of("f1", 1) == pytest.approx(sklearn.f1_score(is_one, chosen == 1))
    assert of("precision", 1) == pytest.approx(sklearn.precision_score(is_one, chosen == 1))
    assert of("recall", 1) == pytest.approx(sklearn.recall_score(is_one, chosen == 1))
    assert of("auc", 1) == pytest.approx(sklearn.roc_auc_score(is_one, found.rank))
    assert of("mcc") == pytest.approx(sklearn.matthews_corrcoef(right, chosen))


def test_weights_are_copies_of_an_item_and_a_tie_of_ranks_counts_half() -> None:
    found = drawn(40, 5)
    copies = np.random.default_rng(0).integers(0, 4, 40)
    many = found.at([place for place, count in enumerate(copies) for _ in range(count)])
    for of_set in (
        OfSet(metric="macro-f1", classes=CLASSES),
        OfSet(metric="auc", classes=CLASSES, positive=1),
        OfSet(metric="mcc", classes=CLASSES),
    ):
        assert sets.value(of_set, found, copies[None])[0] == pytest.approx(float(sets.value(of_set, many)))
    tied = Answers(np.array([1, 0]), np.array([1, 1]), np.array([0.5, 0.5]))
    assert float(sets.value(OfSet(metric="auc", classes=2, positive=1), tied)) == 0.5


def test_what_is_nothing_of_nothing_is_nothing() -> None:
    none = Answers(np.array([0, 0]), np.array([0, -1]), np.array([0.0, 0.0]))
    for metric in ("f1", "precision", "recall", "mcc"):
        assert float(sets.value(OfSet(metric=metric, classes=2, positive=1), none)) == 0
    assert float(sets.value(OfSet(metric="auc", classes=2, positive=1), none)) == 0.5


def both(ours: Answers, theirs: Answers, of_set: OfSet) -> Matched:
    pairs = [(float(a == r), float(b == r)) for a, b, r in zip(ours.chosen, theirs.chosen, ours.right, strict=True)]
    return Matched(pairs, None, of_set, (ours, theirs))


def test_equal_models_are_not_told_apart_and_a_loss_is() -> None:
    of_set, theirs = OfSet(metric="macro-f1", classes=CLASSES), drawn(400, 1, skill=0.8)
    same = both(theirs, theirs, of_set).test(0.05)
    assert same.bounds(0.05)[0] <= 0 <= same.bounds(0.05)[1]
    assert same.p_loss(0.05) <= 0.05
    worse = both(drawn(400, 1, skill=0.4), theirs, of_set).test(0.05)
    assert worse.bounds(0.05)[1] < -0.05
    assert worse.p_better() > 0.9


def test_a_small_class_promises_little_though_nothing_differs() -> None:
    right = np.array([1] * 4 + [0] * 400)
    few = Answers(right, right.copy(), right.astype(float))
    test = both(few, few, OfSet(metric="recall", classes=2, positive=1)).test(0.05)
    assert test.bounds(0.05)[0] < -0.3  # four items of the class
    assert test.p_loss(0.05) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["macro-f1", "f1", "recall", "auc"])
def test_a_loss_of_the_margin_is_called_none_no_more_often_than_alpha(metric: Any) -> None:
    """Two models whose metric differs by the margin in truth: by simulation, 300 pairs of 200 items."""
    of_set, n, pairs = OfSet(metric=metric, classes=2, positive=1), 200, 300
    if metric == "macro-f1":
        of_set = of_set.model_copy(update={"positive": None})
    generator = np.random.default_rng(3)

    def answers(count: int) -> tuple[Answers, Answers]:
        right = (generator.random(count) < 0.4).astype(int)
        lucky, shared = generator.random(count), generator.random(count)
        theirs, ours = (np.where(shared < skill, right, (lucky < 0.5).astype(int)) for skill in (0.8, 0.7))
        noise = generator.normal(0, 1, count)
        return Answers(right, ours, right * 1.2 + noise), Answers(right, theirs, right * 1.5 + noise + generator.normal(0, 0.3, count))

    large = answers(400_000)
    margin = float(sets.value(of_set, large[1]) - sets.value(of_set, large[0]))
    assert margin > 0.02
    wrong = sum(both(*answers(n), of_set).test(margin).bounds(0.05)[0] > -margin for _ in range(pairs))
    assert wrong / pairs <= 0.05 + 2.5 * (0.05 * 0.95 / pairs) ** 0.5


LIMITS = {
    "extraction_failed": 1, "not_loaded": 1, "timeouts": 1, "empty": 1, "truncated": 1, "more_truncated": 1, "repeated": 1, "one_letter": 1,
    "length_ratio": 99, "exact": True,
}  # fmt: skip


def evidence(found: Answers, of_set: OfSet) -> Evidence:
    records = {
        f"i{n}": {"answer": int(right), "predicted": int(chosen), "log_likelihoods": [0.0, float(rank)]}
        for n, (right, chosen, rank) in enumerate(zip(*found, strict=True))
    }
    scores = {item: float(record["answer"] == record["predicted"]) for item, record in records.items()}
    return Evidence(scores=scores, chance=0.4, identity={}, of_set=of_set, answers=records)


def test_the_gate_shows_the_metric_and_not_the_share_of_right_answers() -> None:
    of_set = OfSet(metric="f1", classes=2, positive=1)
    policy = Policy.model_validate(
        {
            "alpha": 0.05, "without_sandbox": "refuse", "better_on_one_of": [], "contaminated": 0.0, "health": LIMITS,
            "suites": {"mood": {"margin": 0.1, "floor": None, "require": "non-inferior"}},
        }
    )  # fmt: skip
    ours, theirs = (evidence(drawn(300, seed, 2, 0.8), of_set) for seed in (1, 1))
    verdict = judge_suite("mood", policy, ours, theirs)
    assert verdict.candidate == pytest.approx(value_of(ours, ours.scores or {}))
    assert verdict.candidate != pytest.approx(sum((ours.scores or {}).values()) / 300)
    assert (verdict.verdict, verdict.passed) == ("non-inferior", True)
    assert verdict.reason.startswith("f1 ")
    worse = judge_suite("mood", policy, evidence(drawn(300, 1, 2, 0.2), of_set), theirs)
    assert (worse.verdict, worse.passed) == ("worse", False)


@pytest.mark.parametrize(
    ("of_set", "record", "said"),
    [
        ({"metric": "fame", "classes": 2}, {"answer": 0}, "evidence.json names no metric of a set"),
        ({"metric": "f1", "classes": 2, "positive": 1}, {}, "does not say which class is right"),
        ({"metric": "f1", "classes": 2, "positive": 1}, {"answer": 5}, "does not say which class is right"),
    ],
)
def test_records_that_do_not_hold_what_the_metric_needs_are_unreadable(tmp_path: Any, of_set: Any, record: Any, said: str) -> None:
    import json

    (tmp_path / "evidence.json").write_text(json.dumps({"chance": 0.5, "items": 1, "of_set": of_set}))
    (tmp_path / "items.jsonl").write_text(json.dumps({"id": "a", "subject": "s", "score": 0, "flags": [], **record}) + "\n")
    assert said in load_evidence(tmp_path, None).unreadable
