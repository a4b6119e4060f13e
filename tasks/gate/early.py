"""The gate's early decision: both models are asked the same items, a batch at a time in a seeded random order, until the bet is decided."""

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.core.errors import UserError
from models.core.records import Record
from tasks.gate import sequential
from tasks.gate.comparison import at_chance
from tasks.gate.evidence import identity
from tasks.gate.health import broken, health_sheet
from tasks.gate.verdicts import Policy, SuitePolicy, differing, dirty, passes

BATCH_ITEMS = 32  # asked at least before a look
GROWTH = 0.5  # the share of those asked that is asked before the next look: large batches share the beginnings of prompts
QUIET_S = 20.0  # between two lines of progress
Tell = Callable[[str], object]
Scores = NDArray[np.float64]
Decision = Literal["promote", "refuse", "undecided", "invalid"]
MakeScorer = Callable[[Path, str, Callable[[int, int], None]], Any]  # of a model and a suite, and what hears of its progress


class EarlyVerdict(Record):
    """One suite: what was shown after `used` of `items` items; `gained` and `lost` among those."""

    suite: str
    verdict: sequential.Sequential | Literal["invalid", "unavailable", "below floor", "uninformative"]
    passed: bool
    used: int
    items: int
    gained: int
    lost: int
    reason: str


class EarlyResult(Record):
    decision: Decision
    suites: list[EarlyVerdict]


Leaks = Mapping[str, Mapping[str, Sequence[str]]]  # by suite, by id of an item that training text held: where


class Ask:
    """One early decision: who is compared, by which policy, asked how."""

    def __init__(self, candidate: Path, champion: Path, policy: Policy, scorer: MakeScorer, seed: int, tell: Tell) -> None:
        self.models, self.policy, self.scorer, self.seed, self.tell = (candidate, champion), policy, scorer, seed, tell

    def suite(self, name: str, leaked: Mapping[str, Sequence[str]]) -> EarlyVerdict:
        """Ask both models until the bets on this suite are decided, or no clean item is left."""
        rules, progress = self.policy.suites[name], self._progress(name)
        ours, theirs = (self.scorer(model, name, progress) for model in self.models)
        contaminated = {item.id: leaked[item.id] for item in ours.items if item.id in leaked}
        places = [place for place, item in enumerate(ours.items) if item.id not in contaminated]
        verdict = partial(EarlyVerdict, suite=name, items=len(ours.items))
        if not ours.available:
            allowed = self.policy.without_sandbox == "allow"
            return verdict(verdict="unavailable", passed=allowed, used=0, gained=0, lost=0, reason="no sandbox, not run")
        sources = Counter(source for where in contaminated.values() for source in set(where))
        wrong = dirty(self.policy, len(ours.items), len(places), dict(sorted(sources.items())))
        facts = [scorer.evidence() for scorer in (ours, theirs)]
        for key, what in (("target", "a target"), ("of_set", "a metric of the whole set")):
            if facts[0].get(key) is not None:
                raise UserError(f"{name} has {what}, which only the tests at fixed size can judge: run the gate without --sequential")
        keys = differing(*map(identity, facts))
        if keys:
            wrong = f"the champion is asked otherwise ({', '.join(keys)}): scores of two evaluations are not compared"
        if wrong:
            return verdict(verdict="invalid", passed=False, used=0, gained=0, lost=0, reason=wrong)
        scores, answers = (list[float](), list[float]()), (list[dict[str, Any]](), list[dict[str, Any]]())
        for batch in _batches(places, self.seed, _first_look(self.policy.alpha, rules.margin)):
            for scorer, mine, said in zip((ours, theirs), scores, answers, strict=True):
                found = {item["id"]: item for item in scorer.results(sorted(batch))}
                said += [found[ours.items[place].id] for place in batch]
                mine += [found[ours.items[place].id]["score"] for place in batch]
            shown = self._shown(rules, facts[0]["chance"], np.array(scores[0]), np.array(scores[1]), len(scores[0]) == len(places))
            self.tell(f"{name}: {len(scores[0])} of {len(places)} items asked, {shown[0] if shown else 'undecided'}")
            if shown:
                break
        gained, lost = (sum(sign * (one - other) > 0 for one, other in zip(*scores, strict=True)) for sign in (1, -1))
        verdict = partial(verdict, used=len(scores[0]), gained=gained, lost=lost)
        wrong = broken(health_sheet(answers[0]), health_sheet(answers[1]), self.policy.limits(name))
        if wrong:
            return verdict(verdict="invalid", passed=False, reason=wrong)
        assert shown
        return verdict(verdict=shown[0], passed=shown[1], reason=shown[2])

    def _shown(self, rules: SuitePolicy, chance: float, ours: Scores, theirs: Scores, whole: bool) -> tuple[Any, bool, str] | None:
        """(verdict, whether it passes, why) once all is known that the policy asks about; None while items are left and something is open.

        Floor and chance level are bets of their own; with all items asked they are known, as at fixed size. The paired bet never is.
        """
        alpha, n = self.policy.alpha, len(ours)
        found, used = sequential.judge(ours - theirs, alpha, rules.margin, rules.require)
        floor = rules.floor
        if floor is not None:
            if sequential.above(1 - ours, 1 - floor, alpha) or (whole and ours.mean() < floor):
                return "below floor", False, f"{ours.mean():.3f} of {n} items, the floor is {floor:.3f}"
            if not (whole or sequential.above(ours, floor, alpha)):
                return None
        if found == "undecided" and not whole:
            return None
        if found != "better" and not sequential.above(theirs, chance, alpha):
            if not whole:
                return None
            if at_chance(ours.tolist(), theirs.tolist(), chance, alpha):
                return "uninformative", passes("uninformative", found, rules.require), f"the champion is not above chance on {n} items"
        if found == "undecided":
            why = f"all items were asked, the bet is open at margin {rules.margin:g}: the fixed test would have to be chosen before looking"
            return found, False, why
        why = f"shown after {used} items at margin {rules.margin:g}, by a test that may be stopped at any time"
        return found, passes(found, found, rules.require), why

    def _progress(self, name: str) -> Callable[[int, int], None]:
        """Say, now and then, how far a model is with the items that it was given."""
        told = time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told >= QUIET_S:
                told = time.monotonic()
                self.tell(f"{name}: asking, {done} of {total} rows")

        return progress


def compare(
    candidate: Path,
    champion: Path,
    policy: Policy,
    scorer: MakeScorer,
    seed: int,
    leaked: Leaks,
    tell: Tell,
) -> EarlyResult:
    """Ask both models until every suite is decided or has no item left, in an order by `seed`. `leaked` items are never asked.

    Raises UserError where the policy asks for what only the tests at fixed size can show.
    """
    if policy.better_on_one_of:
        raise UserError(
            "gate.better_on_one_of is a choice among tests at fixed size, an early decision cannot make it: "
            "run the gate without --sequential, or ask 'require: better' of a suite"
        )
    ask = Ask(candidate, champion, policy, scorer, seed, tell)
    verdicts = [ask.suite(name, leaked.get(name, {})) for name in policy.suites]
    kinds = {verdict.verdict for verdict in verdicts if not verdict.passed}
    decision: Decision = "promote"
    if kinds:
        decision = "invalid" if "invalid" in kinds else "undecided" if kinds == {"undecided"} else "refuse"
    return EarlyResult(decision=decision, suites=verdicts)


def _first_look(alpha: float, margin: float) -> int:
    """How many items to ask before the first look: with fewer, not even the same answers throughout would show that nothing is lost."""
    return max(BATCH_ITEMS, math.ceil(-math.log(alpha) / math.log1p(margin)))


def _batches(places: Sequence[int], seed: int, least: int) -> Iterator[list[int]]:
    """All places in a seeded random order, `least` at first, then half as many as were asked."""
    order, start = list(places), 0
    random.Random(seed).shuffle(order)
    while start < len(order):
        size = max(least, int(GROWTH * start))
        yield order[start : start + size]
        start += size
