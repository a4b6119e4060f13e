"""How well pairs are ranked, on worked numbers."""

import numpy as np
import pytest

from models.train.pairs import calibration_error, correlation, ranked


def test_a_tie_counts_half():
    assert ranked(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == (0.75, 1.0)


def test_the_margin_is_signed():
    assert ranked(np.array([0.0, 1.0]), np.array([4.0, 0.0])) == (0.5, -1.5)


def test_unequal_or_no_pairs_are_refused():
    for chosen, rejected in ((np.zeros(2), np.zeros(3)), (np.zeros(0), np.zeros(0))):
        with pytest.raises(ValueError, match="need two equal, non-empty"):
            ranked(chosen, rejected)


def test_a_judge_that_is_as_sure_as_it_is_right_has_no_calibration_error():
    surely = np.log(3)  # 75% sure
    assert calibration_error(np.array([surely, surely, surely, -surely])) == pytest.approx(0.0)
    assert calibration_error(np.array([9.0, -9.0])) == pytest.approx(0.5, abs=1e-3), "wholly sure, and right half the time"
    assert calibration_error(np.array([0.0, 0.0])) == 0.0


def test_a_reward_that_follows_length_is_correlated_with_it():
    gaps = np.array([1.0, -2.0, 3.0])
    assert correlation(gaps, 4 * gaps) == pytest.approx(1.0)
    assert correlation(gaps, -gaps) == pytest.approx(-1.0)
    assert correlation(gaps, np.ones(3)) is None
