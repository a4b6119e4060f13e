"""Several models of one kind made into one: means of their weights, and ways between two.

Models that were fine-tuned from one base lie in one valley of the loss: a mean of their weights is often better than each, and costs
nothing to serve (Wortsman et al. 2022, "Model soups").
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.core.errors import StageError

State = dict[str, Tensor]
PARALLEL = 1e-6  # sine of an angle below which two directions are one


def require_alike(states: Sequence[State], names: Sequence[str]) -> None:
    """Raise StageError where a model has other weights than the first, or weights of another shape."""
    shapes = [{name: tuple(weight.shape) for name, weight in state.items()} for state in states]
    for name, found in zip(names[1:], shapes[1:], strict=True):
        for weight in sorted(shapes[0].keys() | found.keys()):
            if shapes[0].get(weight) != found.get(weight):
                raise StageError(
                    f"{name} has {weight} of shape {found.get(weight)}, {names[0]} has {shapes[0].get(weight)}: must be models of one "
                    "kind, trained from one base"
                )


def mean(states: Sequence[State]) -> State:
    """The mean of each weight. Source: Wortsman et al. (2022), recipe 'uniform soup'."""
    return {name: torch.stack([state[name].double() for state in states]).mean(0).to(weight.dtype) for name, weight in states[0].items()}


def greedy(states: Sequence[State], losses: Sequence[float], loss: Callable[[State], float]) -> tuple[State, list[int]]:
    """The mean of those that lower the held-out loss, tried from the best on, and their places. Source: ibid., algorithm 1."""
    first, *others = sorted(range(len(states)), key=losses.__getitem__)
    taken, best, soup = [first], losses[first], states[first]
    for place in others:
        tried = mean([states[one] for one in (*taken, place)])
        if (found := loss(tried)) <= best:
            taken, best, soup = [*taken, place], found, tried
    return soup, taken


def slerp(one: State, other: State, share: float) -> State:
    """On the arc from each weight of one model to that of the other; `share` 0 is the first, 1 the second. Source: Shoemake (1985), eq. 1.

    A weight is taken as one vector; lengths go along a line, where the angle is none the direction does too.
    """
    return {name: _slerp(weight.double(), other[name].double(), share).to(weight.dtype) for name, weight in one.items()}


def _slerp(one: Tensor, other: Tensor, share: float) -> Tensor:
    lengths = one.norm(), other.norm()
    straight = one + share * (other - one)
    if not min(lengths) > 0:
        return straight
    cosine = (one / lengths[0] * (other / lengths[1])).sum().clamp(-1, 1)
    angle = torch.acos(cosine)
    if angle.sin() < PARALLEL:
        return straight
    arc = (((1 - share) * angle).sin() * one / lengths[0] + (share * angle).sin() * other / lengths[1]) / angle.sin()
    found: Tensor = arc * (lengths[0] + share * (lengths[1] - lengths[0]))
    return found
