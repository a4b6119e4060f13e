"""The test that fits a suite's scores: counts where items are right or wrong, the bootstrap where they are graded or the metric is one of
the whole set, the distance from a target where a suite has one.

Pure: no file, no clock. A difference above 0 always favours the candidate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.core import sets
from models.core.sets import Answers, OfSet
from tasks.gate import paired
from tasks.gate.sequential import whole_log_capital

BOOTSTRAP_SEED = 0
RESAMPLES, CHUNK = 9999, 500  # draws of a whole set, and how many at once: [500, items] numbers
SMALLEST = 1e-9  # no p-value by bisection is said to be below it
Pairs = Sequence[tuple[float, float]]  # (candidate's, champion's) score of each item


class Comparison(Protocol):
    """Two models on the same items."""

    def bounds(self, alpha: float) -> tuple[float, float]:
        """The lower and the upper bound of the difference, each one-sided at alpha."""
        ...

    def p_better(self) -> float:
        """The p-value of "the candidate is no better"."""
        ...

    def p_loss(self, margin: float) -> float:
        """The p-value of "the candidate loses `margin` or more": at most alpha where it is shown to be non-inferior."""
        ...


class Counted:
    """Items that are right or wrong: Tango's score test for interval and loss, exact McNemar for superiority; see tasks/gate/paired.py."""

    def __init__(self, pairs: Pairs, margin: float) -> None:
        self.gained, self.lost = (sum(sign * (ours - theirs) > 0 for ours, theirs in pairs) for sign in (1, -1))
        self.n, self.margin = len(pairs), margin

    def bounds(self, alpha: float) -> tuple[float, float]:
        return paired.bounds(self.gained, self.lost, self.n, alpha, self.margin)

    def p_better(self) -> float:
        return paired.mcnemar_p(self.gained, self.lost)

    def p_loss(self, margin: float) -> float:
        return paired.non_inferiority_p(self.gained, self.lost, self.n, margin)


class Bootstrapped:
    """What resamples of the items say of a difference; see tasks/gate/paired.py."""

    def __init__(self, resampled: paired.Resampled) -> None:
        self.resampled = resampled

    def bounds(self, alpha: float) -> tuple[float, float]:
        return self.resampled.bounds(alpha)

    def p_better(self) -> float:
        return self.resampled.p(0.0)

    def p_loss(self, margin: float) -> float:
        return self.resampled.p(margin)


def graded(pairs: Pairs) -> Bootstrapped:
    """Scores between right and wrong: the paired bootstrap of their mean difference."""
    return Bootstrapped(paired.Resampled([ours - theirs for ours, theirs in pairs], BOOTSTRAP_SEED))


class Targeted:
    """A suite whose best mean is a target t, on either side of which a model may be: the difference is |theirs - t| - |ours - t|.

    With d = ours - theirs and s = ours + theirs - 2t it is -sign(s d) min(|s|, |d|), which is monotone in each, so that its extremes over a
    box of d and s lie at the box's corners. Four one-sided bounds make the box, each at alpha / 4 (Bonferroni): wider than it need be, and
    never narrower.
    """

    def __init__(self, pairs: Pairs, target: float, margin: float) -> None:
        self.apart: Comparison = Counted(pairs, margin) if is_binary(pairs) else graded(pairs)
        self.together = paired.Resampled([(ours + theirs) / 2 - target for ours, theirs in pairs], BOOTSTRAP_SEED)

    def bounds(self, alpha: float) -> tuple[float, float]:
        d, s = self.apart.bounds(alpha / 4), [2 * bound for bound in self.together.bounds(alpha / 4)]
        corners = [-math.copysign(1.0, one) * math.copysign(1.0, other) * min(abs(one), abs(other)) for one in d for other in s]
        return min(corners), max(corners)

    def p_better(self) -> float:
        return self.p_loss(0.0)

    def p_loss(self, margin: float) -> float:
        """The smallest alpha whose lower bound is above -margin, by bisection of its logarithm."""
        rejected, kept = 1.0, SMALLEST
        while rejected / kept > 1.01:
            alpha = math.sqrt(rejected * kept)
            rejected, kept = (alpha, kept) if self.bounds(min(alpha, 0.999))[0] > -margin else (rejected, alpha)
        return rejected


def of_sets(of_set: OfSet, ours: Answers, theirs: Answers) -> Bootstrapped:
    """A metric of the whole set, such as F1: the bootstrap draws items, and asks both models' metric of each draw.

    Bias-corrected and accelerated as in tasks/gate/paired.py, the acceleration from leaving out one item after another (Efron 1987, 6.6).
    Where fewer than FEW items speak against a claim, the bound is at least as wide as that of a bet on the items' pseudo-values, scaled to
    -1..1 by the size of the smallest class: a metric of a class is known no better than its items allow.
    """
    difference, n = partial(_difference, of_set, ours, theirs), len(ours.right)
    whole = float(difference(np.ones((1, n)))[0])
    left_out = np.concatenate([difference(_without(start, min(CHUNK, n - start), n)) for start in range(0, n, CHUNK)])
    counts = [min(CHUNK, RESAMPLES - start) for start in range(0, RESAMPLES, CHUNK)]
    generator, even = np.random.default_rng(BOOTSTRAP_SEED), np.full(n, 1 / n)
    drawn = np.concatenate([difference(generator.multinomial(n, even, count).astype(float)) for count in counts])
    smallest = max(1, min(int((ours.right == place).sum()) for place in _classes(of_set)))
    return Bootstrapped(paired.Resampled.of_statistic(whole, drawn, left_out, scale=n / smallest))


def _without(start: int, count: int, n: int) -> NDArray[np.float64]:
    """Weights [count, n] of n items, each row without another one, from the item at `start` on."""
    weights = np.ones((count, n))
    weights[np.arange(count), start + np.arange(count)] = 0
    return weights


def _difference(of_set: OfSet, ours: Answers, theirs: Answers, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return sets.value(of_set, ours, weights) - sets.value(of_set, theirs, weights)


def _classes(of_set: OfSet) -> Sequence[int]:
    """The classes on whose items the metric hangs."""
    return range(of_set.classes) if of_set.positive is None else [of_set.positive]


@dataclass(frozen=True)
class Matched:
    """Two models' scores of the same items, the candidate's first, and what the suite makes of them."""

    pairs: Pairs
    target: float | None = None
    of_set: OfSet | None = None
    sides: tuple[Answers, Answers] | None = None

    def values(self) -> tuple[float, float]:
        """The suite's metric of each: the mean score, or the metric of the whole set."""
        if self.of_set is not None and self.sides is not None:
            return tuple(float(sets.value(self.of_set, side)) for side in self.sides)  # type: ignore[return-value]
        return tuple(math.fsum(pair[side] for pair in self.pairs) / max(1, len(self.pairs)) for side in (0, 1))  # type: ignore[return-value]

    def test(self, margin: float) -> Comparison:
        """The test that fits; intervals and verdicts agree at `margin`."""
        if self.of_set is not None and self.sides is not None:
            return of_sets(self.of_set, *self.sides)
        return comparison(self.pairs, self.target, margin)

    def at_chance(self, chance: float, alpha: float) -> bool:
        """Whether there is nothing to lose: see `at_chance`; with a target no mean is at chance."""
        if self.target is not None:
            return False
        if self.of_set is None or self.sides is None:
            ours, theirs = ([pair[side] for pair in self.pairs] for side in (0, 1))
            return at_chance(ours, theirs, chance, alpha)
        ours_at, theirs_at = (partial(_above_chance, self.of_set, side, chance) for side in self.sides)
        return theirs_at(1, alpha) and ours_at(-1, alpha)


def _above_chance(of_set: OfSet, side: Answers, chance: float, sign: int, alpha: float) -> bool:
    """Whether the metric is not shown to be above chance (sign 1), or below it (-1): by the share of resamples beyond it."""
    n = len(side.right)
    drawn = sets.value(of_set, side, np.random.default_rng(BOOTSTRAP_SEED).multinomial(n, np.full(n, 1 / n), CHUNK).astype(float))
    return bool(np.mean(sign * (drawn - chance) <= 0) > alpha)


def is_binary(pairs: Pairs) -> bool:
    """Whether every score is 0 or 1."""
    return all(score in (0.0, 1.0) for pair in pairs for score in pair)


def comparison(pairs: Pairs, target: float | None, margin: float) -> Comparison:
    """The one that fits: `target` is the suite's best mean where more is not better; intervals and verdicts agree at `margin`."""
    if target is not None:
        return Targeted(pairs, target, margin)
    return Counted(pairs, margin) if is_binary(pairs) else graded(pairs)


def at_chance(candidate: Sequence[float], champion: Sequence[float], chance: float, alpha: float) -> bool:
    """Whether the champion's mean is not shown to be above chance, nor the candidate's to be below it.

    Of right and wrong answers the count is binomial; the mean of graded scores is bootstrapped. False where n items could not show it: not
    even perfect scores would be above chance.
    """
    if chance == 0:  # any point is above it, and nothing below
        return not any(champion)
    n = len(champion)
    if is_binary([*zip(candidate, champion, strict=True)]):
        from scipy.stats import binom

        above, below = binom.sf(round(sum(champion)) - 1, n, chance), binom.cdf(round(sum(candidate)), n, chance)
        return chance**n <= alpha and bool(above > alpha and below > alpha)
    if whole_log_capital(np.ones(n), -chance) < -math.log(alpha):
        return False
    above = paired.Resampled([score - chance for score in champion], BOOTSTRAP_SEED).p(0.0)
    return above > alpha and paired.Resampled([chance - score for score in candidate], BOOTSTRAP_SEED).p(0.0) > alpha
