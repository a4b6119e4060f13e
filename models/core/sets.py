"""Metrics that belong to a whole set of items: F1, precision, recall, Matthews' correlation, the area under the ROC curve. Pure.

Every item has the class that is right, the one that was chosen, and a rank of the positive class. Items carry weights, so that a bootstrap
asks for thousands of resamples at once.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.core.records import Record

RESAMPLES = 1000
Metric = Literal["macro-f1", "f1", "precision", "recall", "auc", "mcc"]


class OfSet(Record):
    """Which metric, of how many classes; `positive` is the class that a metric of one class is of."""

    metric: Metric
    classes: int
    positive: int | None = None


class Answers(NamedTuple):
    """What was right, what was chosen (-1 where nothing could be read), and how likely the positive class seemed; each of shape [items]."""

    right: NDArray[np.int64]
    chosen: NDArray[np.int64]
    rank: NDArray[np.float64]

    def at(self, places: Sequence[int]) -> "Answers":
        """The answers at these places."""
        where = np.asarray(places, dtype=np.int64)
        return Answers(self.right[where], self.chosen[where], self.rank[where])


def answers(items: Iterable[Mapping[str, Any]], of_set: OfSet) -> Answers:
    """The answers in per-item records."""
    records = list(items)
    right = np.array([item["answer"] for item in records], dtype=np.int64)
    chosen = np.array([-1 if item.get("predicted") is None else item["predicted"] for item in records], dtype=np.int64)
    return Answers(right, chosen, np.array([_rank(item.get("log_likelihoods"), of_set) for item in records], dtype=float))


def _rank(likelihoods: Sequence[float | None] | None, of_set: OfSet) -> float:
    """The log-odds of the positive class; the lowest where they cannot be told."""
    if of_set.metric != "auc" or not likelihoods or None in likelihoods or of_set.positive is None:
        return -np.inf
    own = np.array(likelihoods, dtype=float)
    return float(own[of_set.positive] - np.logaddexp.reduce(np.delete(own, of_set.positive)))


def value(of_set: OfSet, found: Answers, weights: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """The metric [...] of items with weights [..., items], all 1 where there are none.

    What is 0/0 is 0: the F1 of a class that is neither right nor chosen, the precision of one that is never chosen. The area is .5 where
    one of the two sides is missing.
    """
    given = np.ones(len(found.right)) if weights is None else np.asarray(weights, dtype=float)
    if of_set.metric == "auc":
        return _area(found, of_set.positive or 0, given)
    if of_set.metric == "mcc":
        return _correlation(found, of_set.classes, given)
    if of_set.metric == "macro-f1":
        return np.asarray(np.mean([_of_class(found, place, given)[0] for place in range(of_set.classes)], axis=0))
    return _of_class(found, of_set.positive or 0, given)[("f1", "precision", "recall").index(of_set.metric)]


def mean(scores: Sequence[float]) -> tuple[float, float | None]:
    """The mean of scores, one at least, and its standard error sqrt(s² / n), of two or more."""
    n = len(scores)
    middle = sum(scores) / n
    return middle, (sum((score - middle) ** 2 for score in scores) / (n - 1) / n) ** 0.5 if n > 1 else None


def stderr(of_set: OfSet, found: Answers) -> float:
    """The standard error of the metric: the spread of that of RESAMPLES resamples, always the same ones."""
    n = len(found.right)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    return float(value(of_set, found, weights).std(ddof=1))


def _of_class(found: Answers, place: int, weights: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """F1, precision and recall of one class."""
    right, chosen = found.right == place, found.chosen == place
    both, those, picked = (weights @ mask.astype(float) for mask in (right & chosen, right, chosen))
    return _ratio(2 * both, those + picked), _ratio(both, picked), _ratio(both, those)


def _ratio(above: NDArray[Any], below: NDArray[Any]) -> NDArray[Any]:
    return np.where(below > 0, above / np.where(below > 0, below, 1), 0.0)


def _correlation(found: Answers, classes: int, weights: NDArray[Any]) -> NDArray[Any]:
    """Matthews' correlation of several classes. Source: Gorodkin (2004), Computational Biology and Chemistry 28:367-374, eq. 8."""
    hits, total = weights @ (found.right == found.chosen).astype(float), weights.sum(-1)
    sides = [[weights @ (side == place).astype(float) for place in range(classes)] for side in (found.right, found.chosen)]
    product = sum((one * other for one, other in zip(*sides, strict=True)), start=np.zeros_like(total))
    squares = [total**2 - sum((one**2 for one in side), start=np.zeros_like(total)) for side in sides]
    below = np.sqrt(np.maximum(squares[0] * squares[1], 0.0))
    return np.where(below > 0, (hits * total - product) / np.where(below > 0, below, 1), 0.0)


def _area(found: Answers, positive: int, weights: NDArray[Any]) -> NDArray[Any]:
    """The probability that a positive item ranks above another, a tie counting half.

    Source: Hanley & McNeil (1982), Radiology 143:29-36.
    """
    order = np.argsort(found.rank, kind="stable")
    starts = np.unique(found.rank[order], return_index=True)[1]  # of each rank's items, in that order
    is_positive = (found.right == positive).astype(float)
    above, below = (np.add.reduceat((weights * side)[..., order], starts, axis=-1) for side in (is_positive, 1 - is_positive))
    before = np.cumsum(below, axis=-1) - below
    pairs = above.sum(-1) * below.sum(-1)
    won = (above * (before + below / 2)).sum(-1)
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1), 0.5)
