"""The test that fits a suite's scores: counts where items are right or wrong, the bootstrap where they are graded, and the distance from a
target where a suite has one. Pure: no file, no clock. A difference above 0 always favours the candidate."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tasks.gate import paired
from tasks.gate.sequential import whole_log_capital

BOOTSTRAP_SEED = 0
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


class Graded:
    """Scores between right and wrong: the paired bootstrap of their mean difference."""

    def __init__(self, pairs: Pairs) -> None:
        self.resampled = paired.Resampled([ours - theirs for ours, theirs in pairs], BOOTSTRAP_SEED)

    def bounds(self, alpha: float) -> tuple[float, float]:
        return self.resampled.bounds(alpha)

    def p_better(self) -> float:
        return self.resampled.p(0.0)

    def p_loss(self, margin: float) -> float:
        return self.resampled.p(margin)


class Targeted:
    """A suite whose best mean is a target t, on either side of which a model may be: the difference is |theirs - t| - |ours - t|.

    With d = ours - theirs and s = ours + theirs - 2t it is -sign(s d) min(|s|, |d|), which is monotone in each, so that its extremes over a
    box of d and s lie at the box's corners. Four one-sided bounds make the box, each at alpha / 4 (Bonferroni): wider than it need be, and
    never narrower.
    """

    def __init__(self, pairs: Pairs, target: float, margin: float) -> None:
        self.apart: Comparison = Counted(pairs, margin) if is_binary(pairs) else Graded(pairs)
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


def is_binary(pairs: Pairs) -> bool:
    """Whether every score is 0 or 1."""
    return all(score in (0.0, 1.0) for pair in pairs for score in pair)


def comparison(pairs: Pairs, target: float | None, margin: float) -> Comparison:
    """The one that fits: `target` is the suite's best mean where more is not better; intervals and verdicts agree at `margin`."""
    if target is not None:
        return Targeted(pairs, target, margin)
    return Counted(pairs, margin) if is_binary(pairs) else Graded(pairs)


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
