"""One model of several: worked by hand on weights of a few numbers."""

import math

import pytest
import torch

from models.core.errors import StageError
from models.train import averaging


def state(*values):
    return {"w": torch.tensor(values)}


def test_a_mean_is_that_of_each_weight():
    found = averaging.mean([state(1.0, 2.0), state(3.0, 6.0), state(5.0, 1.0)])
    assert found["w"].tolist() == [3.0, 3.0]
    assert found["w"].dtype == torch.float32


def test_a_greedy_soup_takes_what_lowers_the_loss_beginning_with_the_best():
    """The loss is the distance from 0: 1 is best; with -2 the mean is -.5, better; with 4 it would be 1, worse."""
    states = [state(4.0), state(1.0), state(-2.0)]
    asked = []

    def loss(found):
        asked.append(found["w"].item())
        return abs(found["w"].item())

    soup, taken = averaging.greedy(states, [4.0, 1.0, 2.0], loss)
    assert (soup["w"].item(), taken) == (-0.5, [1, 2])
    assert asked == [-0.5, 1.0]


@pytest.mark.parametrize(("share", "expected"), [(0.0, (1.0, 0.0)), (1.0, (0.0, 1.0)), (0.5, (math.sqrt(0.5), math.sqrt(0.5)))])
def test_slerp_keeps_to_the_arc(share, expected):
    assert averaging.slerp(state(1.0, 0.0), state(0.0, 1.0), share)["w"].tolist() == pytest.approx(expected)


def test_slerp_of_other_lengths_goes_from_one_to_the_other():
    third = averaging.slerp(state(2.0, 0.0), state(0.0, 4.0), 1 / 3)["w"]
    assert third.norm().item() == pytest.approx(2 + 2 / 3)
    assert math.degrees(math.atan2(third[1], third[0])) == pytest.approx(30.0, abs=1e-4)


@pytest.mark.parametrize(("one", "other"), [((1.0, 1.0), (3.0, 3.0)), ((0.0, 0.0), (2.0, 2.0)), ((1.0, 0.0), (-1.0, 0.0))])
def test_slerp_goes_straight_where_there_is_no_arc(one, other):
    middle = [(a + b) / 2 for a, b in zip(one, other, strict=True)]
    assert averaging.slerp(state(*one), state(*other), 0.5)["w"].tolist() == pytest.approx(middle)


@pytest.mark.parametrize("other", [{"w": torch.zeros(3)}, {"v": torch.zeros(2)}])
def test_models_of_another_kind_are_refused(other):
    with pytest.raises(StageError, match=r"^second has .* must be models of one kind, trained from one base$"):
        averaging.require_alike([state(1.0, 2.0), other], ["first", "second"])
