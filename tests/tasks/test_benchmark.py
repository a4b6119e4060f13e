"""The score that tables show is the mean of the items that were written, or the metric of the whole set, with its own standard error."""

from typing import Any

import pytest

from models.core.sets import OfSet
from models.score.asking import Result
from tasks import benchmark
from tasks.benchmark import BenchmarkMetrics


def items(*scores: int, flags: tuple[str, ...] = ()) -> list[dict[str, object]]:
    return [{"id": str(place), "score": score, "flags": list(flags)} for place, score in enumerate(scores)]


def summary(found: list[dict[str, Any]] | None, chance: float, of_set: OfSet | None = None) -> BenchmarkMetrics:
    return benchmark.summary(Result(items=found, chance=chance, of_set=of_set))


def test_value_and_standard_error_are_those_of_the_sample() -> None:
    found = summary(items(1, 1, 1, 0), chance=0.25)
    assert (found.value, found.n, found.chance, found.available) == (0.75, 4, 0.25, True)
    assert found.stderr == pytest.approx((0.75 * 0.25 / 3) ** 0.5)


def test_one_item_has_no_standard_error() -> None:
    assert summary(items(1), chance=0).stderr is None


def test_each_flag_is_counted_once_an_item() -> None:
    found = summary([*items(0, 0, flags=("empty", "truncated")), *items(0, flags=("timeout",))], chance=0)
    assert (found.empty, found.truncated, found.timeouts, found.extraction_failed) == (2, 2, 1, 0)


def test_a_suite_that_could_not_run_has_no_value_instead_of_zero() -> None:
    found = summary(None, chance=0)
    assert (found.value, found.stderr, found.n, found.available) == (None, None, 0, False)


def test_the_value_is_the_first_metric() -> None:
    assert next(iter(type(summary(None, chance=0)).model_fields)) == "value"


def test_a_metric_of_the_whole_set_is_no_mean_of_items_and_has_its_own_spread() -> None:
    said = [(1, 1), (1, 1), (1, 0), (0, 1), (0, 0), (0, 0), (0, 0), (0, 0)]
    found = summary(
        [{**item, "answer": right, "predicted": chosen} for item, (right, chosen) in zip(items(*[0] * 8), said, strict=True)],
        chance=0.4,
        of_set=OfSet(metric="f1", classes=2, positive=1),
    )
    assert found.value == pytest.approx(2 / 3, abs=1e-6)  # two of three chosen and two of three right
    assert found.stderr is not None
    assert 0.1 < found.stderr < 0.4
