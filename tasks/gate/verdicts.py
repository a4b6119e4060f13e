"""The gate: whether a candidate may become champion, from the per-item scores of both on the same items. Pure: no file, no clock.

Per suite, in this order: `invalid`, `below floor`, `uninformative`, `better`, `worse`, `non-inferior`, `underpowered`. The tests are those
of tasks/gate/comparison.py. Every suite must pass, each at alpha (intersection-union); only "better on at least one of" is a choice among
tests, and pays for it (Holm). What passes against the champion must hold against the suite's anchor too, at what this look may spend of
alpha: see tasks/gate/anchor.py; else it is `below anchor`, or `underpowered` where no loss is shown. Without a champion only the floors
decide. Items that the training text held count in `candidate` and `champion`, never in the verdict.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from models.core.sets import OfSet, answers, value
from tasks.gate import paired
from tasks.gate.anchor import Against, level
from tasks.gate.comparison import Comparison, Matched
from tasks.gate.health import Health, HealthLimits, broken
from tasks.stage import Record

Verdict = Literal[
    "invalid", "uninformative", "better", "worse", "non-inferior", "underpowered", "floor", "below floor", "below anchor", "unavailable"
]
Decision = Literal["promote", "refuse", "undecided", "invalid", "unchanged"]
LOOKS = {1: "decide it", 7: "decide it for a week of nightly looks at an anchor"}  # what a size is for
USUAL_DISCORDANCE = 0.1  # share of items on which two retrainings of one model differ; measured here: .05 to .15


class SuitePolicy(Record):
    margin: float = Field(gt=0, lt=1, description="largest loss of accuracy that is still no loss, 0-1")
    floor: float | None = Field(
        ge=0, le=1, description="accuracy below which no version is promoted; null for none; with a target, 1 - distance"
    )
    require: Literal["non-inferior", "better"] = Field(description="what the candidate must show against the champion")
    health: dict[str, float | bool] = Field(default={}, description="keys of gate.health that are otherwise on this suite")


def _gated(suites: Any) -> Any:
    """What is asked of suites, without those of which nothing is."""
    return {name: asked for name, asked in suites.items() if asked is not None} if isinstance(suites, Mapping) else suites


class Policy(Record):
    alpha: float = Field(gt=0, lt=0.5, description="one-sided error rate of each test")
    without_sandbox: Literal["refuse", "allow"] = Field(description="whether a version whose code suites could not be run may be promoted")
    better_on_one_of: list[str] = Field(description="suites of which at least one must be better (Holm); empty for none")
    contaminated: float = Field(ge=0, le=1, description="largest share of a suite's items that the training text may hold")
    health: HealthLimits = Field(description="beyond these an evaluation is broken, and no score")
    suites: Annotated[dict[str, SuitePolicy], BeforeValidator(_gated)] = Field(
        min_length=1, description="what each gated suite asks; null of one that is scored and decides nothing"
    )

    def limits(self, suite: str) -> HealthLimits:
        """The limits on the health of a suite's answers: its own over those of all."""
        return HealthLimits.model_validate({**self.health.model_dump(), **self.suites[suite].health})

    @model_validator(mode="after")
    def _limits_are_limits(self) -> "Policy":
        for suite in self.suites:
            try:
                self.limits(suite)
            except ValidationError as error:
                fault = error.errors(include_url=False)[0]
                key, said = f"suites.{suite}.health.{fault['loc'][0]}", fault["msg"]
                if fault["type"] == "extra_forbidden":
                    raise ValueError(f"{key} is not a known key, must be one of {', '.join(HealthLimits.model_fields)}") from None
                raise ValueError(f"{key} is {fault['input']!r}: {said[0].lower()}{said[1:]}") from None
        return self

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
    target: float | None = Field(default=None, description="the best mean, where more is not better; see tasks/gate/comparison.py")
    of_set: OfSet | None = Field(default=None, description="the metric, where it belongs to the whole set of items")
    answers: dict[str, Mapping[str, Any]] = Field(default={}, description="by item id what such a metric needs of its record")
    identity: dict[str, str | int | float | None]
    unreadable: str = Field(default="", description="why the records of the items are none; empty where they can be read")
    subjects: dict[str, str] = Field(default={}, description="subject by item id, where the suite has any")
    health: Health | None = Field(default=None, description="what the answers look like")
    contaminated: dict[str, list[str]] = Field(default={}, description="by id of an item that training text holds: where, as stage/source")


class Reference(Record):
    """The anchor of one suite: which version it is, what it scored, and which look at it this is, from 1."""

    version: str
    look: int
    evidence: Evidence


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
    leaks: dict[str, int] = Field(default={}, description="contaminated items by kind/source")
    gained: int = Field(default=0, description="clean items that only the candidate gets right, or more of")
    lost: int = Field(default=0, description="clean items that only the champion gets right, or more of")
    lower: float | None = Field(default=None, description="of candidate - champion, one-sided at alpha")
    upper: float | None = None
    anchor: Against | None = Field(default=None, description="the same against the anchor, on the items that neither was trained on")
    superiority_p: float | None = Field(default=None, description='p-value of "the candidate is no better"')
    macro: Average | None = Field(default=None, description="the candidate's mean over subjects, where there are several")
    micro: Average | None = Field(default=None, description="the candidate's mean over items, its error stratified by subject")
    health: Health | None = None


class GateResult(Record):
    decision: Decision
    reason: str
    suites: list[SuiteVerdict]
    better: list[str] = Field(default=[], description="suites shown to be better among better_on_one_of (Holm)")


def judge_suite(
    suite: str, policy: Policy, candidate: Evidence, champion: Evidence | None, reference: Reference | None = None
) -> SuiteVerdict:
    """The verdict on one suite whose candidate evidence is at hand; `champion` is None where there is no champion yet, `reference` where
    the suite has no anchor."""
    assert candidate.scores is not None
    facts = _facts(suite, candidate, champion)
    wrong = _invalid(policy, facts, candidate, champion)
    if wrong:
        return SuiteVerdict(**facts, verdict="invalid", passed=False, reason=wrong)
    rules, value = policy.suites[suite], closeness(facts["clean_candidate"], candidate.target)
    if rules.floor is not None and value < rules.floor:
        return SuiteVerdict(**facts, verdict="below floor", passed=False, reason=f"{value:.3f} is below the floor {rules.floor:.3f}")
    if champion is None:
        floor = "no floor is set" if rules.floor is None else f"{value:.3f} reaches the floor {rules.floor:.3f}"
        return SuiteVerdict(**facts, verdict="floor", passed=True, reason=f"no champion yet; {floor}")
    found = _compare(facts, rules, policy.alpha, candidate, champion)
    return found if reference is None else _anchored(found, policy, candidate, reference)


def closeness(mean: float, target: float | None) -> float:
    """How good a mean score is, 0-1: the mean itself or, where the suite has a target, one less the distance from it."""
    return mean if target is None else 1 - abs(mean - target)


def matched(candidate: Evidence, other: Evidence) -> Matched:
    """The scores of the items that both were asked and neither's training text held."""
    ours, theirs, leaked = candidate.scores or {}, other.scores or {}, candidate.contaminated.keys() | other.contaminated.keys()
    clean = [item for item in ours if item in theirs and item not in leaked]
    of_set = candidate.of_set if candidate.of_set == other.of_set else None
    sides = None if of_set is None else tuple(answers((side.answers[item] for item in clean), of_set) for side in (candidate, other))
    return Matched([(ours[item], theirs[item]) for item in clean], candidate.target, of_set, sides)  # type: ignore[arg-type]


def value_of(evidence: Evidence, items: Iterable[str]) -> float:
    """The suite's metric of these items: their mean score, or the metric of the whole set; 0 of none."""
    asked = list(items)
    if evidence.of_set is not None and asked:
        return float(value(evidence.of_set, answers((evidence.answers[item] for item in asked), evidence.of_set)))
    return math.fsum((evidence.scores or {})[item] for item in asked) / len(asked) if asked else 0.0


def _facts(suite: str, candidate: Evidence, champion: Evidence | None) -> dict[str, Any]:
    """What is known before any test: sizes, means, leaks and the health sheet."""
    assert candidate.scores is not None
    scores, theirs = candidate.scores, (champion.scores if champion else None) or {}
    leaked = {**(champion.contaminated if champion else {}), **candidate.contaminated}
    clean = [item for item in scores if item not in leaked]
    sources = [source for item in scores if item in leaked for source in set(leaked[item])]
    facts: dict[str, Any] = {"suite": suite, "n": len(scores), "candidate": value_of(candidate, scores), "clean_n": len(clean)}
    facts["clean_candidate"] = value_of(candidate, clean)
    facts["leaks"] = {source: sources.count(source) for source in sorted(set(sources))}
    facts["health"] = candidate.health
    if champion is not None and theirs and scores.keys() == theirs.keys():
        facts |= {"champion": value_of(champion, theirs), "clean_champion": value_of(champion, clean)}
    groups: dict[str, list[float]] = {}
    for item, score in scores.items():
        groups.setdefault(candidate.subjects.get(item, ""), []).append(score)
    if len(groups) > 1 and candidate.of_set is None:
        facts["micro"], facts["macro"] = (Average(value=value, stderr=error) for value, error in paired.averages(list(groups.values())))
    return facts


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
    wrong = broken(candidate.health, champion.health if champion else None, policy.limits(facts["suite"]))
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
    both = matched(candidate, champion)
    pairs, test = both.pairs, both.test(rules.margin)
    (lower, upper), p = test.bounds(alpha), test.p_better()
    facts |= {"gained": sum(one > other for one, other in pairs), "lost": sum(one < other for one, other in pairs)}
    facts |= {"lower": lower, "upper": upper, "superiority_p": p}
    shown: Verdict = "underpowered"
    if p <= alpha:
        shown = "better"
    elif upper < -rules.margin:
        shown = "worse"
    elif lower > -rules.margin:
        shown = "non-inferior"
    verdict = "uninformative" if both.at_chance(champion.chance, alpha) else shown
    reason = _reason(verdict, facts, rules, alpha, both)
    if verdict == "uninformative":
        reason += "; the champion is not above chance" + (
            f", the candidate is {shown} all the same" if shown in ("better", "worse") else ""
        )
    return SuiteVerdict(**facts, verdict=verdict, passed=passes(verdict, shown, rules.require), reason=reason)


def _anchored(found: SuiteVerdict, policy: Policy, candidate: Evidence, reference: Reference) -> SuiteVerdict:
    """The verdict with the comparison to the anchor in it: one that passed stands only where no loss of the margin since the anchor is left
    open. At an anchor that is not above chance itself there is nothing to lose."""
    rules, anchor, who = policy.suites[found.suite], reference.evidence, f"the anchor (version {reference.version})"
    both = matched(candidate, anchor)
    wrong = _incomparable(policy, found.suite, candidate, anchor, len(both.pairs))
    if wrong:
        return found.model_copy(update={"verdict": "invalid", "passed": False, "reason": f"{who}: {wrong}"}) if found.passed else found
    against = _against(both.test(rules.margin), both, reference, policy.alpha, rules.margin)
    keeps = against.p <= against.level
    if not found.passed or keeps or both.at_chance(anchor.chance, policy.alpha):
        return found.model_copy(update={"anchor": against})
    lost = against.upper < 0 or against.difference <= -rules.margin
    reason = (
        f"against {who} {against.difference:+.3f}, {against.lower:+.3f} to {against.upper:+.3f}: that it has not lost the margin "
        f"{rules.margin:.3f} since then is not shown (p {against.p:.2g}, must be {against.level:.2g} at look {against.look}); "
        f"against the champion: {found.reason}"
    )
    return found.model_copy(
        update={"anchor": against, "verdict": "below anchor" if lost else "underpowered", "passed": False, "reason": reason}
    )


def _incomparable(policy: Policy, suite: str, candidate: Evidence, anchor: Evidence, clean_n: int) -> str:
    """Why candidate and anchor cannot be compared; empty where they can."""
    if anchor.unreadable:
        return anchor.unreadable
    differing = _differences(candidate, anchor)
    if differing:
        return f"it was scored otherwise ({', '.join(differing)}): scores of two evaluations are not compared"
    wrong = broken(None, anchor.health, policy.limits(suite))
    n = len(candidate.scores or {})
    where = Counter(source for sources in anchor.contaminated.values() for source in set(sources))
    return wrong or dirty(policy, n, clean_n, dict(sorted(where.items())))


def _against(test: Comparison, both: Matched, reference: Reference, alpha: float, margin: float) -> Against:
    (lower, upper), spent = test.bounds(alpha), level(alpha, reference.look)
    ours, theirs = (closeness(side, both.target) for side in both.values())
    return Against(
        version=reference.version,
        look=reference.look,
        level=spent,
        p=test.p_loss(margin),
        difference=ours - theirs,
        lower=lower,
        upper=upper,
        better=test.p_better() <= spent,
    )


def _reason(verdict: str, facts: Mapping[str, Any], rules: SuitePolicy, alpha: float, both: Matched) -> str:
    n, target = len(both.pairs), both.target
    scores = f"{facts['clean_candidate']:.3f} against {facts['clean_champion']:.3f}" + ("" if target is None else f", target {target:g}")
    scores = scores if both.of_set is None else f"{both.of_set.metric} {scores}"
    reason = f"{scores}: difference {facts['lower']:+.3f} to {facts['upper']:+.3f}, margin {rules.margin:.3f}"
    if verdict == "non-inferior" and facts["upper"] < 0:
        reason += ", a small loss"
    if verdict == "underpowered":
        needed = paired.items_to_decide(facts["gained"], facts["lost"], n, alpha, rules.margin)
        if both.of_set is not None:
            needed = paired.items_by_width(facts["upper"] - facts["lower"], n, alpha, rules.margin)
        reason += f"; about {needed} items would decide between equals"
    if n < facts["n"]:
        reason += f"; on {n} clean items of {facts['n']} (all: {facts['candidate']:.3f} against {facts['champion']:.3f})"
    return reason


def passes(verdict: str, shown: str, require: str) -> bool:
    """Whether a suite lets a candidate pass. At chance there is nothing to lose; a loss or gain that is shown all the same counts."""
    if shown == "better":
        return True
    return require == "non-inferior" and (verdict == "non-inferior" or (verdict == "uninformative" and shown != "worse"))


def judge(
    policy: Policy,
    candidate: Mapping[str, Evidence],
    champion: Mapping[str, Evidence] | None,
    anchors: Mapping[str, Reference] | None = None,
) -> GateResult:
    """The decision over all gated suites, each held against its anchor in `anchors` too. A suite of the policy without evidence is invalid,
    never a score of zero."""
    verdicts = [
        _judge_or_explain(
            suite, policy, candidate.get(suite), None if champion is None else champion.get(suite), (anchors or {}).get(suite)
        )
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


def _judge_or_explain(
    suite: str, policy: Policy, candidate: Evidence | None, champion: Evidence | None, reference: Reference | None
) -> SuiteVerdict:
    if candidate is None:
        return SuiteVerdict(suite=suite, verdict="invalid", passed=False, reason="the candidate was not scored on this suite")
    if candidate.scores is None:
        allowed = policy.without_sandbox == "allow"
        reason = f"no sandbox, the suite was not run; gate.without_sandbox is {policy.without_sandbox}"
        return SuiteVerdict(suite=suite, verdict="unavailable", passed=allowed, reason=reason)
    return judge_suite(suite, policy, candidate, champion, reference)


def reach(size: int, alpha: float) -> float:
    """The margin that a suite of so many items can decide for as long as LOOKS say, rounded up to a hundredth; see `warnings`."""
    needed = paired.items_for(USUAL_DISCORDANCE, level(alpha, max(LOOKS)), 0.01)
    return min(0.99, math.ceil(math.sqrt(needed / size)) / 100)


def warnings(policy: Policy, sizes: Mapping[str, int]) -> list[str]:
    """A line for each suite that cannot reach its margin at its size [items], if equals differ on a tenth of the items.

    Each look at an anchor asks more than the one before, see tasks/gate/anchor.py: a suite must do for the first, and for those of a week.
    """
    found = (_beyond_reach(suite, policy.alpha, rules.margin, sizes[suite]) for suite, rules in policy.suites.items() if suite in sizes)
    return [line for line in found if line]


def _beyond_reach(suite: str, alpha: float, margin: float, size: int) -> str:
    for look, purpose in LOOKS.items():
        needed = paired.items_for(USUAL_DISCORDANCE, level(alpha, look), margin)
        if size < needed:
            return (
                f"gate.suites.{suite}.margin is {margin:g}, must be about {math.sqrt(needed / size) * margin:.3g} or more "
                f"for {size} items to {purpose} "
                f"({needed} items, if two equally good models differ on {USUAL_DISCORDANCE:.0%} of them, power {paired.POWER}): "
                "expect 'underpowered', widen the margin or add items"
            )
    return ""
