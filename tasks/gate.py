"""The gate: whether a candidate may become champion, from the per-item scores of both on the same items. Pure: no file, no clock.

Per suite, in this order: `invalid`, `below floor`, `uninformative`, `better`, `worse`, `non-inferior`, `underpowered`. Non-inferiority and
the interval come from one inversion of a test for paired proportions, superiority from the exact McNemar test: see tasks/paired.py. Every
suite must pass, each at alpha (intersection-union); only "better on at least one of" is a choice among tests, and pays for it (Holm).
Without a champion only the floors decide. Items that the training text held count in `candidate` and `champion`, never in the verdict.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from tasks import paired
from tasks.health import Health, HealthLimits, broken
from tasks.stage import Record

Verdict = Literal["invalid", "uninformative", "better", "worse", "non-inferior", "underpowered", "floor", "below floor", "unavailable"]
Decision = Literal["promote", "refuse", "undecided", "invalid", "unchanged"]
USUAL_DISCORDANCE = 0.1  # share of items on which two retrainings of one model differ; measured here: .05 to .15
BOOTSTRAP_SEED = 0


class SuitePolicy(Record):
    margin: float = Field(gt=0, lt=1, description="largest loss of accuracy that is still no loss, 0-1")
    floor: float | None = Field(ge=0, le=1, description="accuracy below which no version is promoted; null for none")
    require: Literal["non-inferior", "better"] = Field(description="what the candidate must show against the champion")


class Policy(Record):
    alpha: float = Field(gt=0, lt=0.5, description="one-sided error rate of each test")
    without_sandbox: Literal["refuse", "allow"] = Field(description="whether a version whose code suites could not be run may be promoted")
    better_on_one_of: list[str] = Field(description="suites of which at least one must be better (Holm); empty for none")
    contaminated: float = Field(ge=0, le=1, description="largest share of a suite's items that the training text may hold")
    health: HealthLimits = Field(description="beyond these an evaluation is broken, and no score")
    suites: dict[str, SuitePolicy] = Field(min_length=1, description="what each gated suite asks")

    @model_validator(mode="after")
    def _names_known_suites(self) -> "Policy":
        for suite in self.better_on_one_of:
            if suite not in self.suites:
                raise ValueError(f"better_on_one_of names {suite!r}, must name suites of gate.suites: {', '.join(self.suites)}")
        return self


class Evidence(Record):
    """One model on one suite: `scores` by item id, `identity` what must be equal for two scores to be comparable."""

    scores: dict[str, float] | None = Field(description="per item, 0-1; null where the suite could not be run")
    chance: float
    identity: dict[str, str | int | float | None]
    unreadable: str = Field(default="", description="why the records of the items are none; empty where they can be read")
    subjects: dict[str, str] = Field(default={}, description="subject by item id, where the suite has any")
    health: Health | None = Field(default=None, description="what the answers look like")
    contaminated: dict[str, list[str]] = Field(default={}, description="by id of an item that training text holds: where, as stage/source")


class Average(Record):
    value: float
    stderr: float


class SuiteVerdict(Record):
    suite: str
    verdict: Verdict
    passed: bool
    reason: str
    n: int = 0
    candidate: float | None = Field(default=None, description="mean over all items")
    champion: float | None = Field(default=None, description="mean over all items")
    clean_n: int = Field(default=0, description="items that no training text held: these decide")
    clean_candidate: float | None = None
    clean_champion: float | None = None
    leaks: dict[str, int] = Field(default={}, description="contaminated items by stage/source")
    gained: int = Field(default=0, description="clean items that only the candidate gets right, or more of")
    lost: int = Field(default=0, description="clean items that only the champion gets right, or more of")
    lower: float | None = Field(default=None, description="of candidate - champion, one-sided at alpha")
    upper: float | None = None
    superiority_p: float | None = Field(default=None, description='p-value of "the candidate is no better"')
    macro: Average | None = Field(default=None, description="the candidate's mean over subjects, where there are several")
    micro: Average | None = Field(default=None, description="the candidate's mean over items, its error stratified by subject")
    health: Health | None = None


class GateResult(Record):
    decision: Decision
    reason: str
    suites: list[SuiteVerdict]
    better: list[str] = Field(default=[], description="suites shown to be better among better_on_one_of (Holm)")


def judge_suite(suite: str, policy: Policy, candidate: Evidence, champion: Evidence | None) -> SuiteVerdict:
    """The verdict on one suite whose candidate evidence is at hand; `champion` is None where there is no champion yet."""
    assert candidate.scores is not None
    facts = _facts(suite, candidate, champion)
    wrong = _invalid(policy, facts, candidate, champion)
    if wrong:
        return SuiteVerdict(**facts, verdict="invalid", passed=False, reason=wrong)
    rules, value = policy.suites[suite], facts["clean_candidate"]
    if rules.floor is not None and value < rules.floor:
        return SuiteVerdict(**facts, verdict="below floor", passed=False, reason=f"{value:.3f} is below the floor {rules.floor:.3f}")
    if champion is None:
        floor = "no floor is set" if rules.floor is None else f"{value:.3f} reaches the floor {rules.floor:.3f}"
        return SuiteVerdict(**facts, verdict="floor", passed=True, reason=f"no champion yet; {floor}")
    return _compare(facts, rules, policy.alpha, candidate, champion)


def _facts(suite: str, candidate: Evidence, champion: Evidence | None) -> dict[str, Any]:
    """What is known before any test: sizes, means, leaks and the health sheet."""
    assert candidate.scores is not None
    scores, theirs = candidate.scores, (champion.scores if champion else None) or {}
    held = {**(champion.contaminated if champion else {}), **candidate.contaminated}
    clean = [item for item in scores if item not in held]
    sources = [source for item in scores if item in held for source in set(held[item])]
    facts: dict[str, Any] = {"suite": suite, "n": len(scores), "candidate": _mean(scores.values()), "clean_n": len(clean)}
    facts["clean_candidate"] = _mean(scores[item] for item in clean)
    facts["leaks"] = {source: sources.count(source) for source in sorted(set(sources))}
    facts["health"] = candidate.health
    if theirs and scores.keys() == theirs.keys():
        facts |= {"champion": _mean(theirs.values()), "clean_champion": _mean(theirs[item] for item in clean)}
    groups: dict[str, list[float]] = {}
    for item, score in scores.items():
        groups.setdefault(candidate.subjects.get(item, ""), []).append(score)
    if len(groups) > 1:
        facts["micro"], facts["macro"] = (Average(value=value, stderr=error) for value, error in paired.averages(list(groups.values())))
    return facts


def _mean(values: Any) -> float:
    found = list(values)
    return math.fsum(found) / len(found) if found else 0.0


def _invalid(policy: Policy, facts: Mapping[str, Any], candidate: Evidence, champion: Evidence | None) -> str:
    """Why the scores say nothing, or nothing to say."""
    if candidate.unreadable:
        return candidate.unreadable
    if champion is not None and champion.unreadable:
        return f"the champion's {champion.unreadable}"
    if not facts["n"]:
        return "no item was scored"
    for whose, scores in (("", candidate.scores), ("the champion's ", (champion and champion.scores) or {})):
        odd = [item for item, score in (scores or {}).items() if not 0 <= score <= 1]
        if odd:
            return f"{whose}score of item {odd[0]} is {(scores or {})[odd[0]]}, must be from 0 to 1 ({len(odd)} such items)"
    differing = [] if champion is None else _differences(candidate, champion)
    if differing:
        return f"the champion was scored otherwise ({', '.join(differing)}): scores of two evaluations are not compared"
    wrong = broken(candidate.health, champion.health if champion else None, policy.health)
    if wrong:
        return wrong
    return dirty(policy, facts["n"], facts["clean_n"], facts["leaks"])


def dirty(policy: Policy, n: int, clean_n: int, leaks: Mapping[str, int]) -> str:
    """Why too much of a suite stands in the training text; empty where it does not."""
    if n - clean_n <= policy.contaminated * n and clean_n:
        return ""
    where = ", ".join(f"{source} {count}" for source, count in leaks.items())
    return f"{n - clean_n} of {n} items are in the training text ({where}); gate.contaminated allows {policy.contaminated:g}"


def _differences(candidate: Evidence, champion: Evidence) -> list[str]:
    keys = differing(candidate.identity, champion.identity)
    keys += ["chance"] if candidate.chance != champion.chance else []
    same_items = candidate.scores is not None and champion.scores is not None and candidate.scores.keys() == champion.scores.keys()
    return keys or ([] if same_items else ["items"])


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What two evaluations do not have in common, of their identities."""
    missing = object()
    return [key for key in {**one, **other} if one.get(key, missing) != other.get(key, missing)]


def _compare(facts: dict[str, Any], rules: SuitePolicy, alpha: float, candidate: Evidence, champion: Evidence) -> SuiteVerdict:
    assert candidate.scores is not None
    assert champion.scores is not None
    pairs = [
        (score, champion.scores[item])
        for item, score in candidate.scores.items()
        if item not in candidate.contaminated and item not in champion.contaminated
    ]
    n, before = len(pairs), facts["clean_champion"]
    gained, lost = sum(ours > theirs for ours, theirs in pairs), sum(ours < theirs for ours, theirs in pairs)
    lower, upper, p = _tests(pairs, gained, lost, alpha, rules.margin)
    facts |= {"gained": gained, "lost": lost, "lower": lower, "upper": upper, "superiority_p": p}
    shown: Verdict = "underpowered"
    if p <= alpha:
        shown = "better"
    elif upper < -rules.margin:
        shown = "worse"
    elif lower > -rules.margin:
        shown = "non-inferior"
    verdict = "uninformative" if uninformative(facts["clean_candidate"], before, champion.chance, n, alpha) else shown
    reason = _reason(verdict, facts, rules, alpha, n)
    if verdict == "uninformative":
        reason += "; the champion is not above chance" + (
            f", the candidate is {shown} all the same" if shown in ("better", "worse") else ""
        )
    return SuiteVerdict(**facts, verdict=verdict, passed=passes(verdict, shown, rules.require), reason=reason)


def _tests(pairs: Sequence[tuple[float, float]], gained: int, lost: int, alpha: float, margin: float) -> tuple[float, float, float]:
    """(lower bound, upper bound, p-value of superiority): of counts where items are right or wrong, of resampled means where graded."""
    if all(score in (0.0, 1.0) for pair in pairs for score in pair):
        return *paired.bounds(gained, lost, len(pairs), alpha, margin), paired.mcnemar_p(gained, lost)
    resampled = paired.Resampled([ours - theirs for ours, theirs in pairs], BOOTSTRAP_SEED)
    return *resampled.bounds(alpha), resampled.p()


def _reason(verdict: str, facts: Mapping[str, Any], rules: SuitePolicy, alpha: float, n: int) -> str:
    scores = f"{facts['clean_candidate']:.3f} against {facts['clean_champion']:.3f}"
    reason = f"{scores}: difference {facts['lower']:+.3f} to {facts['upper']:+.3f}, margin {rules.margin:.3f}"
    if verdict == "non-inferior" and facts["upper"] < 0:
        reason += ", a small loss"
    if verdict == "underpowered":
        needed = paired.items_to_decide(facts["gained"], facts["lost"], n, alpha, rules.margin)
        reason += f"; about {needed} items would decide between equals"
    if n < facts["n"]:
        reason += f"; on {n} clean items of {facts['n']} (all: {facts['candidate']:.3f} against {facts['champion']:.3f})"
    return reason


def passes(verdict: str, shown: str, require: str) -> bool:
    """Whether a suite lets a candidate pass. At chance there is nothing to lose; a loss or gain that is shown all the same counts."""
    if shown == "better":
        return True
    return require == "non-inferior" and (verdict == "non-inferior" or (verdict == "uninformative" and shown != "worse"))


def uninformative(candidate: float, champion: float, chance: float, n: int, alpha: float) -> bool:
    """Whether the champion's accuracy on n items is not above chance, nor the candidate's below it; False where n could not show it."""
    from scipy.stats import binom

    if chance**n > alpha:  # not even a perfect score
        return False
    above = binom.sf(round(champion * n) - 1, n, chance) <= alpha
    return not above and not binom.cdf(round(candidate * n), n, chance) <= alpha


def judge(policy: Policy, candidate: Mapping[str, Evidence], champion: Mapping[str, Evidence] | None) -> GateResult:
    """The decision over all gated suites. A suite of the policy without evidence is invalid, never a score of zero."""
    verdicts = [
        _judge_or_explain(suite, policy, candidate.get(suite), None if champion is None else champion.get(suite))
        if champion is None or suite in champion
        else SuiteVerdict(suite=suite, verdict="invalid", passed=False, reason="the champion was never scored on this suite")
        for suite in policy.suites
    ]
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if not failed:
        return _one_of(policy, verdicts, champion is None)
    kinds = {verdict.verdict for verdict in failed}
    decision: Decision = "refuse"
    if "invalid" in kinds:
        decision = "invalid"
    elif kinds == {"underpowered"}:
        decision = "undecided"
    return GateResult(decision=decision, reason="; ".join(f"{v.suite} is {v.verdict}: {v.reason}" for v in failed), suites=verdicts)


def _one_of(policy: Policy, verdicts: list[SuiteVerdict], first: bool) -> GateResult:
    """The last condition, once every suite has passed: better on at least one of the suites that the policy names."""
    if first or not policy.better_on_one_of:
        return GateResult(decision="promote", reason="every suite passed", suites=verdicts)
    p_values = {v.suite: v.superiority_p for v in verdicts if v.suite in policy.better_on_one_of and v.superiority_p is not None}
    better = paired.holm(p_values, policy.alpha)
    if better:
        return GateResult(decision="promote", reason=f"every suite passed, better on {', '.join(better)}", suites=verdicts, better=better)
    shown = ", ".join(f"{suite} p {p:.3f}" for suite, p in p_values.items()) or "none could be tested"
    reason = f"better on none of {', '.join(policy.better_on_one_of)} at alpha {policy.alpha:g} by Holm ({shown})"
    return GateResult(decision="refuse", reason=reason, suites=verdicts)


def _judge_or_explain(suite: str, policy: Policy, candidate: Evidence | None, champion: Evidence | None) -> SuiteVerdict:
    if candidate is None:
        return SuiteVerdict(suite=suite, verdict="invalid", passed=False, reason="the candidate was not scored on this suite")
    if candidate.scores is None:
        allowed = policy.without_sandbox == "allow"
        reason = f"no sandbox, the suite was not run; gate.without_sandbox is {policy.without_sandbox}"
        return SuiteVerdict(suite=suite, verdict="unavailable", passed=allowed, reason=reason)
    return judge_suite(suite, policy, candidate, champion)


def warnings(policy: Policy, sizes: Mapping[str, int]) -> list[str]:
    """A line for each suite that cannot reach its margin at its size [items], if equals differ on a tenth of the items."""
    found = []
    for suite, rules in policy.suites.items():
        needed = paired.items_for(USUAL_DISCORDANCE, policy.alpha, rules.margin)
        if suite in sizes and sizes[suite] < needed:
            reach = math.sqrt(needed / sizes[suite]) * rules.margin
            found.append(
                f"gate.suites.{suite}.margin is {rules.margin:g}, must be about {reach:.2g} or more for {sizes[suite]} items to decide it "
                f"({needed} items, if two equally good models differ on {USUAL_DISCORDANCE:.0%} of them, power {paired.POWER}): "
                "expect 'underpowered', widen the margin or add items"
            )
    return found
