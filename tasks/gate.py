"""The gate: whether a candidate may become champion, from the per-item scores of both on the same items. Pure: no file, no clock.

Per suite, in this order: `invalid`, `uninformative`, `better`, `worse`, `non-inferior`, `underpowered`. Non-inferiority and the interval
come from one inversion of a test for paired proportions, superiority from the exact McNemar test: see tasks/paired.py. Every suite must
pass, each at alpha (intersection-union). Without a champion only the floors decide.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from tasks.paired import bounds, items_to_decide, mcnemar_p
from tasks.stage import Record

Verdict = Literal["invalid", "uninformative", "better", "worse", "non-inferior", "underpowered", "floor", "below floor", "unavailable"]
Decision = Literal["promote", "refuse", "undecided", "invalid", "unchanged"]
PASSES = ("better", "non-inferior", "uninformative", "floor")


class SuitePolicy(Record):
    margin: float = Field(gt=0, lt=1, description="largest loss of accuracy that is still no loss, 0-1")
    floor: float | None = Field(ge=0, le=1, description="accuracy below which no version is promoted; null for none")
    require: Literal["non-inferior", "better"] = Field(description="what the candidate must show against the champion")


class Policy(Record):
    alpha: float = Field(gt=0, lt=0.5, description="one-sided error rate of each test")
    without_sandbox: Literal["refuse", "allow"] = Field(description="whether a version whose code suites could not be run may be promoted")
    suites: dict[str, SuitePolicy] = Field(description="what each gated suite asks")


class Evidence(Record):
    """One model on one suite: `scores` by item id, `identity` what must be equal for two scores to be comparable."""

    scores: dict[str, float] | None = Field(description="per item, 0-1; null where the suite could not be run")
    chance: float
    identity: dict[str, str | int | float | None]


class SuiteVerdict(Record):
    suite: str
    verdict: Verdict
    passed: bool
    reason: str
    n: int = 0
    candidate: float | None = None
    champion: float | None = None
    gained: int = Field(default=0, description="items that only the candidate gets right")
    lost: int = Field(default=0, description="items that only the champion gets right")
    lower: float | None = Field(default=None, description="of candidate - champion, one-sided at alpha")
    upper: float | None = None


class GateResult(Record):
    decision: Decision
    reason: str
    suites: list[SuiteVerdict]


def judge_suite(suite: str, policy: SuitePolicy, alpha: float, candidate: Evidence, champion: Evidence | None) -> SuiteVerdict:
    """The verdict on one suite whose candidate evidence is at hand; `champion` is None where there is no champion yet."""
    assert candidate.scores is not None
    n = len(candidate.scores)
    mean = math.fsum(candidate.scores.values()) / n if n else 0.0
    facts: dict[str, Any] = {"suite": suite, "n": n, "candidate": mean}
    if not n:
        return SuiteVerdict(**facts, verdict="invalid", passed=False, reason="no item was scored")
    if policy.floor is not None and mean < policy.floor:
        return SuiteVerdict(**facts, verdict="below floor", passed=False, reason=f"{mean:.3f} is below the floor {policy.floor:.3f}")
    if champion is None:
        floor = "no floor is set" if policy.floor is None else f"{mean:.3f} reaches the floor {policy.floor:.3f}"
        return SuiteVerdict(**facts, verdict="floor", passed=True, reason=f"no champion yet; {floor}")
    differing = _differences(candidate, champion)
    if differing:
        reason = f"the champion was scored otherwise ({', '.join(differing)}): scores of two evaluations are not compared"
        return SuiteVerdict(**facts, verdict="invalid", passed=False, reason=reason)
    return _compare(facts, policy, alpha, candidate.scores, champion)


def _differences(candidate: Evidence, champion: Evidence) -> list[str]:
    keys = [key for key, value in candidate.identity.items() if champion.identity.get(key) != value]
    same_items = candidate.scores is not None and champion.scores is not None and candidate.scores.keys() == champion.scores.keys()
    return keys or ([] if same_items else ["items"])


def _compare(facts: dict[str, Any], policy: SuitePolicy, alpha: float, scores: Mapping[str, float], champion: Evidence) -> SuiteVerdict:
    assert champion.scores is not None
    n, pairs = len(scores), [(score, champion.scores[item]) for item, score in scores.items()]
    gained, lost = sum(ours > theirs for ours, theirs in pairs), sum(ours < theirs for ours, theirs in pairs)
    before = math.fsum(champion.scores.values()) / n
    lower, upper = bounds(gained, lost, n, alpha, policy.margin)
    facts |= {"champion": before, "gained": gained, "lost": lost, "lower": lower, "upper": upper}
    verdict: Verdict = "underpowered"
    if not _above_chance(before, champion.chance, n, alpha):
        verdict = "uninformative"
    elif mcnemar_p(gained, lost) <= alpha:
        verdict = "better"
    elif upper < -policy.margin:
        verdict = "worse"
    elif lower > -policy.margin:
        verdict = "non-inferior"
    passed = verdict == "better" or (policy.require == "non-inferior" and verdict in PASSES)
    reason = f"{facts['candidate']:.3f} against {before:.3f}: difference {lower:+.3f} to {upper:+.3f}, margin {policy.margin:.3f}"
    if verdict == "non-inferior" and upper < 0:
        reason += ", a small loss"
    if verdict == "underpowered":
        reason += f"; about {items_to_decide(gained, lost, n, alpha, policy.margin)} items would decide between equals"
    return SuiteVerdict(**facts, verdict=verdict, passed=passed, reason=reason)


def _above_chance(accuracy: float, chance: float, n: int, alpha: float) -> bool:
    from scipy.stats import binom

    return bool(binom.sf(round(accuracy * n) - 1, n, chance) <= alpha)


def judge(policy: Policy, candidate: Mapping[str, Evidence], champion: Mapping[str, Evidence] | None) -> GateResult:
    """The decision over all gated suites. A suite of the policy without evidence is invalid, never a score of zero."""
    verdicts = [
        _judge_or_explain(suite, rules, policy, candidate.get(suite), None if champion is None else champion.get(suite))
        if champion is None or suite in champion
        else SuiteVerdict(suite=suite, verdict="invalid", passed=False, reason="the champion was never scored on this suite")
        for suite, rules in policy.suites.items()
    ]
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if not failed:
        return GateResult(decision="promote", reason="every suite passed", suites=verdicts)
    kinds = {verdict.verdict for verdict in failed}
    decision: Decision = "refuse"
    if "invalid" in kinds:
        decision = "invalid"
    elif kinds == {"underpowered"}:
        decision = "undecided"
    return GateResult(decision=decision, reason="; ".join(f"{v.suite} is {v.verdict}: {v.reason}" for v in failed), suites=verdicts)


def _judge_or_explain(
    suite: str, rules: SuitePolicy, policy: Policy, candidate: Evidence | None, champion: Evidence | None
) -> SuiteVerdict:
    if candidate is None:
        return SuiteVerdict(suite=suite, verdict="invalid", passed=False, reason="the candidate was not scored on this suite")
    if candidate.scores is None:
        allowed = policy.without_sandbox == "allow"
        reason = f"no sandbox, the suite was not run; gate.without_sandbox is {policy.without_sandbox}"
        return SuiteVerdict(suite=suite, verdict="unavailable", passed=allowed, reason=reason)
    return judge_suite(suite, rules, policy.alpha, candidate, champion)
