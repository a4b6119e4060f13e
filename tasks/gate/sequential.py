"""Early decision: a test of non-inferiority that may be looked at after every item, and stopped. Pure: no file, no clock.

Betting on the paired differences D = candidate - champion, each -1, 0 or 1 (graded scores: between), in a random order of items. For each
stake lambda, capital grows by 1 + lambda (D + delta); under "the candidate loses delta or more" no stake's capital is expected to grow, so
that by Ville's inequality their mean reaches 1/alpha at any time with probability alpha at most. Source: Waudby-Smith & Ramdas (2024),
Journal of the Royal Statistical Society B 86:1-27, section 4, with a mixture over stakes in place of a stake that is tuned on the way.
"""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

STAKES = 200
Sequential = Literal["better", "non-inferior", "worse", "undecided"]


def log_capital(differences: NDArray[Any], delta: float) -> NDArray[np.float64]:
    """The log of the mean capital after each item, against "the mean of D is at most -delta".

    Shape [..., items], many sequences at once; differences are in -1 to 1. delta may be negative: "the candidate gains -delta or less".
    """
    stakes = (np.arange(STAKES) + 0.5) / STAKES / (1 - delta)
    gains = np.asarray(differences, dtype=float) + delta
    total = np.full(gains.shape, -np.inf)
    for stake in stakes:
        np.logaddexp(total, np.log1p(stake * gains).cumsum(-1), out=total)
    return total - math.log(STAKES)


def whole_log_capital(differences: NDArray[Any], delta: float) -> float:
    """The same after all of the differences [items], whose order does not matter: equal ones are counted, not walked."""
    stakes = (np.arange(STAKES) + 0.5) / STAKES / (1 - delta)
    values, counts = np.unique(np.asarray(differences, dtype=float), return_counts=True)
    logs = np.log1p(stakes[:, None] * (values + delta)) @ counts  # [stakes]
    return float(np.logaddexp.reduce(logs) - math.log(STAKES))


def first_crossing(differences: NDArray[Any], delta: float, alpha: float) -> int | None:
    """After how many items the capital reaches 1/alpha; None where it never does."""
    reached = np.flatnonzero(log_capital(differences, delta) >= -math.log(alpha))
    return int(reached[0]) + 1 if len(reached) else None


def above(scores: NDArray[Any], level: float, alpha: float) -> bool:
    """Whether a mean above `level` is shown for scores [items] of 0 to 1, in a random order, however often one looks."""
    return first_crossing(scores, -level, alpha) is not None


def judge(differences: NDArray[Any], alpha: float, margin: float, require: str) -> tuple[Sequential, int]:
    """The verdict so far and the items that it needed; `require` is what the policy asks, which bets are placed follows from it.

    For `non-inferior` two bets run: "it loses the margin or more" and its mirror "it loses no more than the margin"; for `better`: "it
    gains nothing" and its mirror. Each is wrong with probability alpha at most, however often one looks.
    """
    values = np.asarray(differences, dtype=float)
    delta = margin if require == "non-inferior" else 0.0
    won, lost = first_crossing(values, delta, alpha), first_crossing(-values, -delta, alpha)
    if won is not None and (lost is None or won < lost):
        return ("better" if require == "better" else "non-inferior"), won
    if lost is not None:
        return "worse", lost
    return "undecided", len(values)
