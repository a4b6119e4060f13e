"""The reward gain on worked numbers."""

import numpy as np
import pytest

from tasks.rlhf import gain


def test_the_spread_of_the_prompts_themselves_cancels():
    mean, error = gain(np.array([0.0, 100.0]), np.array([1.0, 101.0]))
    assert (mean, error) == (1.0, 0.0)


def test_the_standard_error_is_of_the_mean_difference():
    mean, error = gain(np.zeros(4), np.array([0.0, 2.0, 0.0, 2.0]))
    assert mean == 1.0
    assert error == pytest.approx(np.sqrt(4 / 3) / 2)


def test_one_prompt_has_no_standard_error():
    with pytest.raises(ValueError, match="two or more"):
        gain(np.zeros(1), np.ones(1))
