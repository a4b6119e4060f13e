"""How well pairs are ranked, on worked numbers."""

import numpy as np
import pytest

from models.train.pairs import ranked


def test_a_tie_counts_half():
    assert ranked(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == (0.75, 1.0)


def test_the_margin_is_signed():
    assert ranked(np.array([0.0, 1.0]), np.array([4.0, 0.0])) == (0.5, -1.5)


def test_unequal_or_no_pairs_are_refused():
    for chosen, rejected in ((np.zeros(2), np.zeros(3)), (np.zeros(0), np.zeros(0))):
        with pytest.raises(ValueError, match="need two equal, non-empty"):
            ranked(chosen, rejected)
