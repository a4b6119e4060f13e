"""A loss that is no number, or far above those before it, ends a training and names its records."""

import math

import pytest

from models.core.errors import StageError
from models.train.spikes import WINDOW, Spikes


def seen(most, losses):
    spikes = Spikes(most)
    for step, loss in enumerate(losses, 1):
        spikes.see(loss, step, ["a", "b"])
    return spikes


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_one_whatever_the_limit(loss):
    for most in (None, 1.0):
        with pytest.raises(StageError, match=r"loss is (nan|inf) at step 2, must be a number: look at the step's records, a, b, or lower"):
            seen(most, [2.0, loss])


def test_a_loss_far_above_the_median_is_told_with_both():
    with pytest.raises(
        StageError, match=r"loss is 9 at step 6, 7 above the median of the 5 steps before it, must be at most max_rise = 3: "
    ):
        seen(3.0, [2.0, 1.0, 2.0, 3.0, 2.0, 9.0])


def test_a_loss_that_falls_or_rises_slowly_or_comes_early_is_none():
    seen(3.0, [9.0, 1.0, 9.0, 1.0])
    seen(3.0, [number / 10 for number in range(100)])
    seen(None, [1.0] * 9 + [1e9])


def test_it_remembers_a_window():
    assert seen(3.0, [1.0] * 50).recent == [1.0] * WINDOW


def test_many_records_are_counted():
    with pytest.raises(
        StageError, match=r"records, r0, r1, r2, r3, r4, r5, r6, r7 and 4 more, or lower the learning_rate; the last checkpoint"
    ):
        Spikes(None).see(math.nan, 1, [f"r{number}" for number in [*range(12), 3]])


def test_without_records_the_rate_is_named():
    with pytest.raises(StageError, match="must be a number: lower the learning_rate"):
        Spikes(None).see(math.nan, 1)
