"""Statistics of two models on the same items. Pure functions of counts and scores; `delta` is a loss of accuracy, 0-1.

Of n items, `gained` (b) are those that only the candidate gets right, `lost` (c) those that only the champion does. The null hypothesis
of non-inferiority is p(candidate) - p(champion) <= -delta; every p-value and bound here is one-sided.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.gate.sequential import whole_log_capital

EXACT_ITEMS = (
    500  # an exact test takes hundredths of a second up to here; at 501 the score test's size at .05 is .051 to .055 (margins .01 to .1)
)
NEGLIGIBLE = 1e-20  # a probability
FEW = 10  # items against a claim, below which a bootstrap is too sure of it
TAIL = 10  # resamples beyond a quantile, below which there are too few to know it by
POWER = 0.8
Counts = int | NDArray[Any]


def tango_z(gained: Counts, lost: Counts, n: int, delta: float) -> Any:
    """The score statistic of a difference of -delta; positive favours the candidate. Counts may be arrays that broadcast.

    z = (b - c + n delta) / sqrt(n (2q - delta (1 + delta))), q the restricted maximum-likelihood estimate of p(only champion right);
    0 or infinite where the variance is 0. Source: Tango (1998), Statistics in Medicine 17:891-908, eq. 9.
    """
    b, c = np.asarray(gained, dtype=float), np.asarray(lost, dtype=float)
    linear = -(b + c) - (2 * n - b + c) * delta
    q = (np.sqrt(np.maximum(linear**2 - 8 * n * c * delta * (1 + delta), 0.0)) - linear) / (4 * n)
    variance = n * (2 * q - delta * (1 + delta))
    numerator = b - c + n * delta
    certain = variance <= 1e-12
    edge = np.where(np.abs(numerator) > 1e-9, np.copysign(np.inf, numerator), 0.0)
    return np.where(certain, edge, numerator / np.sqrt(np.where(certain, 1.0, variance)))[()]


def non_inferiority_p(gained: int, lost: int, n: int, delta: float) -> float:
    """The p-value of "the candidate loses delta or more": exact for up to EXACT_ITEMS items, else that of Tango's score test."""
    from scipy.stats import norm

    return _exact_p(gained, lost, n, delta) if n <= EXACT_ITEMS else float(norm.sf(tango_z(gained, lost, n, delta)))


def _exact_p(gained: int, lost: int, n: int, delta: float) -> float:
    """The probability of a score statistic at least as large, at its highest over p(only champion right), at a true difference of -delta.

    Source: Hsueh, Liu & Chen (2001), Biometrics 57:478-483, the unconditional test on the score statistic with restricted estimates.
    For a given c the statistic grows with b, so the rejection region is one least b for each c.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import betainc, gammaln, xlog1py, xlogy

    counts = np.arange(n + 1)
    b, c = counts[:, None], counts[None, :]
    region = (tango_z(b, c, n, delta) >= tango_z(gained, lost, n, delta) - 1e-9) & (b + c <= n)
    least = np.where(region.any(axis=0), region.argmax(axis=0), n + 1)
    always, open_ends = least <= 0, (least > 0) & (least <= n - counts)
    log_ways = gammaln(n + 1) - gammaln(counts + 1) - gammaln(n - counts + 1)

    def tail(lost_share: Any) -> Any:
        """P(region) at p(only champion right) = lost_share [...]; c is binomial, and b given c is."""
        share = np.asarray(lost_share, dtype=float)[..., None]
        chance = np.exp(log_ways + xlogy(counts, share) + xlog1py(n - counts, -share))
        given = np.broadcast_to(np.clip((share - delta) / np.maximum(1 - share, 1e-12), 0.0, 1.0), chance.shape)
        enough = np.broadcast_to(always, chance.shape).astype(float)
        place = np.nonzero(open_ends & (chance > NEGLIGIBLE))
        k, rest = least[place[-1]], n - place[-1]
        enough[place] = betainc(k, rest - k + 1, given[place])  # P(b >= k), b binomial of the rest
        return (chance * enough).sum(-1)

    grid = np.linspace(max(delta, 0.0), (1 + delta) / 2, 201)
    found = tail(grid)
    peak = int(found.argmax())
    around = (grid[max(peak - 1, 0)], grid[min(peak + 1, len(grid) - 1)])
    refined = minimize_scalar(lambda share: -float(tail(share)), bounds=around, method="bounded", options={"xatol": 1e-6})
    return min(1.0, max(float(found[peak]), -float(refined.fun)))


@lru_cache(maxsize=65536)  # up to 500 items it takes a second, and simulations ask for the same counts again
def bounds(gained: int, lost: int, n: int, alpha: float, margin: float) -> tuple[float, float]:
    """The lower and the upper bound of candidate - champion, each one-sided at alpha: the inversion of `non_inferiority_p`.

    The lower bound is at least -margin exactly where the p-value at `margin` is at most alpha, the upper one at most -margin where the
    mirrored test says so: both searches start there, so that verdict and interval never disagree.
    """
    return _lower(gained, lost, n, alpha, margin), -_lower(lost, gained, n, alpha, -margin)


def _lower(gained: int, lost: int, n: int, alpha: float, pivot: float) -> float:
    """The largest loss that is rejected, negated, to 1e-6; searched on the side of `pivot` that its own test leaves open."""
    from scipy.optimize import brentq

    def excess(delta: float) -> float:
        return non_inferiority_p(gained, lost, n, delta) - alpha

    kept, rejected = -(gained - lost) / n, 1.0
    if kept < pivot < rejected:
        kept, rejected = (kept, pivot) if excess(pivot) <= 0 else (pivot, rejected)
    if rejected - kept <= 1e-6:
        return -rejected
    return -max(float(brentq(excess, kept, rejected, xtol=1e-7)), math.nextafter(kept, 1.0))


def mcnemar_p(gained: int, lost: int) -> float:
    """The exact p-value of "the candidate is no better": P(Binomial(b + c, 1/2) >= b). Source: McNemar (1947), Psychometrika 12:153-157."""
    from scipy.stats import binom

    return float(binom.sf(gained - 1, gained + lost, 0.5)) if gained + lost else 1.0


def items_to_decide(gained: int, lost: int, n: int, alpha: float, margin: float) -> int:
    """How many items would show non-inferiority with a power of 0.8 if the two models were equally good.

    ceil((z(1 - alpha) + z(0.8))^2 p / margin^2), p the upper Clopper-Pearson bound, at alpha, of the share of items on which they differ.
    """
    from scipy.stats import beta

    differing = gained + lost
    share = 1.0 if differing == n else float(beta.ppf(1 - alpha, differing + 1, n - differing))
    return items_for(share, alpha, margin)


def items_for(discordance: float, alpha: float, margin: float) -> int:
    """The same for a share of items, 0-1, on which two equally good models differ."""
    z = NormalDist().inv_cdf  # SciPy's takes most of a second to import, and every run asks
    return math.ceil((z(1 - alpha) + z(POWER)) ** 2 * discordance / margin**2)


def items_by_width(width: float, n: int, alpha: float, margin: float) -> int:
    """The same from the width of an interval, both ends at alpha, of n items: errors shrink with the root of n."""
    z = NormalDist().inv_cdf
    error = width / (2 * z(1 - alpha))
    return math.ceil(n * ((z(1 - alpha) + z(POWER)) * error / margin) ** 2)


class Resampled:
    """The bootstrap of the mean of graded differences [items], drawn with `seed`, and the bet beside it.

    Bias-corrected and accelerated (Efron 1987, J. Amer. Statist. Assoc. 82:171-185): differences of graded scores are skewed where one
    model is near an end of the scale, and percentiles alone would be off by the skew. Resampling cannot show what the sample did not hold:
    where fewer than FEW items speak against a claim, or alpha is finer than the resamples, the bound is at least as wide as that of a bet,
    which holds for any scores in 0 to 1, any alpha and any number of items; see tasks/gate/sequential.py.
    """

    def __init__(self, differences: Sequence[float], seed: int, resamples: int = 9999) -> None:
        values = np.asarray(differences, dtype=float)
        generator, n = np.random.default_rng(seed), len(values)
        counts = [min(1000, resamples - start) for start in range(0, resamples, 1000)]
        means = np.concatenate([values[generator.integers(0, n, (count, n))].mean(-1) for count in counts])
        self._take(values, means, float(values.mean()))

    @classmethod
    def of_statistic(cls, whole: float, drawn: NDArray[Any], left_out: NDArray[Any], scale: float) -> "Resampled":
        """The same for any difference of two metrics: its value, that of each resample, and that without each of the items.

        Pseudo-values, whole + (n - 1) (whole - left out), stand for the items' differences (Tukey's jackknife); `scale` bounds them.
        """
        made, n = cls.__new__(cls), len(left_out)
        made._take(whole + (n - 1) * (left_out.mean() - left_out), drawn, whole, scale)
        return made

    def _take(self, values: NDArray[Any], means: NDArray[Any], mean: float, scale: float = 1.0) -> None:
        self.values, self.means, self.scale = np.clip(values, -scale, scale), np.sort(means), scale
        self.finest = TAIL / len(means)
        from_mean = values - values.mean()
        self.skew = float((from_mean**3).sum() / (6 * (from_mean**2).sum() ** 1.5)) if np.ptp(values) else 0.0
        below = (np.searchsorted(self.means, mean) + np.searchsorted(self.means, mean, "right")) / 2
        self.bias = NormalDist().inv_cdf(min(max(below / len(means), 0.5 / len(means)), 1 - 0.5 / len(means)))

    def bounds(self, alpha: float) -> tuple[float, float]:
        """The lower and the upper bound of the mean, each one-sided at alpha."""
        low, high, sure = self._quantile(alpha), self._quantile(1 - alpha), alpha >= self.finest
        if not sure or _effective(-self.values) < FEW:
            low = min(low, self.scale * _bet_lower(self.values / self.scale, alpha))
        if not sure or _effective(self.values) < FEW:
            high = max(high, -self.scale * _bet_lower(-self.values / self.scale, alpha))
        return low, high

    def p(self, loss: float) -> float:
        """The p-value of "the mean is -loss or less": the alpha at which the lower bound is -loss."""
        kept, rejected = 0.0, 1.0
        while rejected - kept > 1e-5:
            alpha = (kept + rejected) / 2
            kept, rejected = (kept, alpha) if self._quantile(alpha) > -loss else (alpha, rejected)
        few = _effective(-self.values) < FEW
        if not few and rejected >= self.finest:
            return rejected
        bet = min(1.0, math.exp(-whole_log_capital(self.values / self.scale, loss / self.scale)))
        return max(rejected, bet if few else min(bet, self.finest))

    def _quantile(self, share: float) -> float:
        normal = NormalDist()
        shifted = self.bias + normal.inv_cdf(share)
        return float(np.quantile(self.means, normal.cdf(self.bias + shifted / max(1 - self.skew * shifted, 1e-9))))


def _effective(values: NDArray[Any]) -> float:
    """How many positive values there are, were they all alike: (sum v)^2 / sum v^2. Source: Kish (1965), Survey Sampling, 11.7."""
    positive = values[values > 0]
    return float(positive.sum() ** 2 / (positive**2).sum()) if len(positive) else 0.0


def _bet_lower(values: NDArray[Any], alpha: float) -> float:
    """The largest loss that the bet on these differences rejects, negated, to 1e-6; -1 where it rejects none."""
    kept, rejected = -float(values.mean()), 1.0
    while rejected - kept > 1e-6:
        loss = (kept + rejected) / 2
        if whole_log_capital(values, loss) >= -math.log(alpha):
            rejected = loss
        else:
            kept = loss
    return -rejected


def holm(p_values: Mapping[str, float], alpha: float) -> list[str]:
    """The names whose hypotheses are rejected with a family-wise error of alpha. Source: Holm (1979), Scand. J. Statist. 6:65-70."""
    rejected = []
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        if p_values[name] > alpha / (len(p_values) - place):
            break
        rejected.append(name)
    return rejected


def averages(groups: Sequence[Sequence[float]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """(micro average, standard error), (macro average, standard error) of scores in groups, such as MMLU's subjects.

    Micro weighs items alike, macro groups. The groups are the benchmark's own and not a sample of groups, so errors come from the
    spread inside them: a stratified mean. Source: Cochran (1977), Sampling Techniques, eq. 5.7.
    A group of one shows no spread and adds none.
    """
    sizes = np.array([len(group) for group in groups], dtype=float)
    means = np.array([math.fsum(group) / len(group) for group in groups])
    errors = np.array([np.var(group, ddof=1) / len(group) if len(group) > 1 else 0.0 for group in groups])

    def weighted(weights: NDArray[Any]) -> tuple[float, float]:
        return float(weights @ means), math.sqrt(float(weights**2 @ errors))

    return weighted(sizes / sizes.sum()), weighted(np.full(len(sizes), 1 / len(sizes)))
