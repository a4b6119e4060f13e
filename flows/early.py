"""The gate's early decision: both models are asked the same items, a batch at a time in a seeded random order, until the bet is decided."""

import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flows.runner import device
from models.records import Record
from tasks import sequential
from tasks.benchmark import BenchmarkParams
from tasks.benchmark import settings as settings_of
from tasks.gate import Policy
from tasks.health import broken, health

BATCH_ITEMS = 32  # asked before the first look, and at least before any other
GROWTH = 0.5  # the share of those asked that is asked before the next look: large batches share the beginnings of prompts
Decision = Literal["promote", "refuse", "undecided", "invalid"]


class EarlyVerdict(Record):
    """One suite: what was shown after `used` of `items` items; `gained` and `lost` among those."""

    suite: str
    verdict: sequential.Sequential | Literal["invalid", "unavailable"]
    passed: bool
    used: int
    items: int
    gained: int
    lost: int
    reason: str


class EarlyResult(Record):
    decision: Decision
    suites: list[EarlyVerdict]


def decide(
    candidate: Path,
    champion: Path,
    suites: Path,
    policy: Policy,
    benchmark: Mapping[str, Any],
    leaked: Mapping[str, set[str]],
    tell: Callable[[str], object],
) -> EarlyResult:
    """Ask both models until every suite is decided or has no item left. `leaked` items are never asked."""
    verdicts = [
        _decide_suite(candidate, champion, suites / name, policy, benchmark, leaked.get(name, set()), tell) for name in policy.suites
    ]
    kinds = {verdict.verdict for verdict in verdicts if not verdict.passed}
    decision: Decision = "promote"
    if kinds:
        decision = "invalid" if "invalid" in kinds else "undecided" if kinds == {"undecided"} else "refuse"
    return EarlyResult(decision=decision, suites=verdicts)


def _decide_suite(
    candidate: Path,
    champion: Path,
    suite: Path,
    policy: Policy,
    benchmark: Mapping[str, Any],
    leaked: set[str],
    tell: Callable[[str], object],
) -> EarlyVerdict:
    from models import evaluation

    name, rules = suite.name, policy.suites[suite.name]
    settings = settings_of(BenchmarkParams.model_validate(benchmark), name)
    ours, theirs = (evaluation.Scorer(model, suite, settings, device("gpu"), lambda _done, _all: None) for model in (candidate, champion))
    facts: dict[str, Any] = {"suite": name, "items": len(ours.items)}
    if not ours.available:
        allowed = policy.without_sandbox == "allow"
        return EarlyVerdict(**facts, verdict="unavailable", passed=allowed, used=0, gained=0, lost=0, reason="no sandbox, not run")
    differences, answers = list[float](), tuple(list[dict[str, Any]]() for _ in range(2))
    verdict: sequential.Sequential = "undecided"
    used = 0
    for places in _batches(ours, leaked, benchmark["items_seed"]):
        batch = [{item["id"]: item for item in scorer.results(sorted(places))} for scorer in (ours, theirs)]
        for place in places:
            one, other = (side[ours.items[place].id] for side in batch)
            differences.append(one["score"] - other["score"])
            answers[0].append(one)
            answers[1].append(other)
        verdict, used = sequential.judge(np.array(differences), policy.alpha, rules.margin, rules.require)
        tell(f"{name}: {len(differences)} of {len(ours.items)} items asked, {verdict}")
        if verdict != "undecided":
            break
    gained, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    facts |= {"used": len(differences), "gained": gained, "lost": lost}
    wrong = broken(health(answers[0]), health(answers[1]), policy.health)
    if wrong:
        return EarlyVerdict(**facts, verdict="invalid", passed=False, reason=wrong)
    passed = verdict == "better" or (verdict == "non-inferior" and rules.require == "non-inferior")
    return EarlyVerdict(**facts, verdict=verdict, passed=passed, reason=_reason(verdict, used, rules.margin))


def _batches(scorer: Any, leaked: set[str], seed: int) -> Iterator[list[int]]:
    places = [place for place, item in enumerate(scorer.items) if item.id not in leaked]
    random.Random(seed).shuffle(places)
    start = 0
    while start < len(places):
        size = max(BATCH_ITEMS, int(GROWTH * start))
        yield places[start : start + size]
        start += size


def _reason(verdict: str, used: int, margin: float) -> str:
    if verdict == "undecided":
        return f"all items were asked and the bet is open at margin {margin:g}: the fixed test would have to be chosen before looking"
    return f"shown after {used} items at margin {margin:g}, by a test that may be stopped at any time"
