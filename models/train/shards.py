"""Each trained weight has an owner among the ranks, which alone keeps its summed gradient and what the optimiser remembers of it.

Stage 2 of ZeRO (Rajbhandari et al., 2020), weight by weight: of the 16 bytes that a float32 weight takes with Adam, every rank holds 4 and
shares out 12. A gradient leaves for its owner while the rest of the backward pass goes on; after the owner's step all get the weight anew.
Whole matrices stay together, so that any optimiser serves, Muon too; the owner of nothing steps nothing, for there no gradient is.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from models.core.ranks import Ranks

MOST = 1 << 25  # numbers sent at once, but for a weight that has more itself
SHARE = 4  # buckets a rank at least, where there are weights enough: few would leave some ranks with nothing
FLYING = 2  # buckets on their way at once


class Bucket(NamedTuple):
    """Weights of one kind that travel together."""

    weights: list[Tensor]
    owner: int

    def numbers(self) -> int:
        return sum(weight.numel() for weight in self.weights)

    def parts(self, flat: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        """Each weight, with its part of what was sent, in its shape."""
        pieces = flat.split([weight.numel() for weight in self.weights])
        return ((weight, piece.view_as(weight)) for weight, piece in zip(self.weights, pieces, strict=True))


class Shards:
    """Who of `ranks` owns which of the trained `weights`, which all list in one order. Alone one owns all, and nothing is sent."""

    def __init__(self, ranks: Ranks, weights: Iterable[Tensor]) -> None:
        self.ranks, self.buckets = ranks, _dealt([*weights], ranks.count)
        self.bucket_of = {weight: number for number, bucket in enumerate(self.buckets) for weight in bucket.weights}
        self.sums: dict[Tensor, Tensor] = {}  # of the weights that are owned here
        self.moved: set[int] = set()  # the buckets of which some weight had a gradient
        self.flying: list[tuple[Bucket, Tensor, Callable[[], None]]] = []
        self._begin()
        for weight in self.bucket_of if ranks.count > 1 else ():
            weight.register_post_accumulate_grad_hook(self._arrived)

    def owns(self, weight: Tensor) -> bool:
        return weight not in self.bucket_of or self.buckets[self.bucket_of[weight]].owner == self.ranks.place

    def _begin(self) -> None:
        self.awaited, self.sent = [{*bucket.weights} for bucket in self.buckets], 0

    def _arrived(self, weight: Tensor) -> None:
        """Send what is complete. All ranks send in one order, whatever order theirs comes in."""
        self.awaited[self.bucket_of[weight]].discard(weight)
        while self.sent < len(self.buckets) and not self.awaited[self.sent]:
            self._send()

    def _send(self) -> None:
        bucket = self.buckets[self.sent]
        if any(weight.grad is not None for weight in bucket.weights):
            self.moved.add(self.sent)
        self.sent += 1
        flat = torch.cat([(torch.zeros_like(weight) if weight.grad is None else weight.grad).reshape(-1) for weight in bucket.weights])
        for weight in bucket.weights:
            weight.grad = None
        self.flying.append((bucket, flat, self.ranks.collect(flat, bucket.owner)))
        while len(self.flying) > FLYING:
            self._land()

    def _land(self) -> None:
        bucket, flat, landed = self.flying.pop(0)
        landed()
        if bucket.owner == self.ranks.place:
            for weight, part in bucket.parts(flat):
                self.sums[weight] = self.sums[weight].add_(part) if weight in self.sums else part

    def flush(self) -> None:
        """After a backward pass, or what there was of one: send the rest, zeros where there is nothing, and wait for all."""
        if self.ranks.count == 1:
            return
        while self.sent < len(self.buckets):
            self._send()
        while self.flying:
            self._land()
        self._begin()

    def forget(self) -> None:
        """Remove all sums."""
        self.sums, self.moved = {}, set()

    def gradients(self) -> None:
        """Have each owner's weights have the sum of all ranks' gradients since the last call; those that nobody had one for keep none."""
        if self.ranks.count == 1:
            return
        moved = set[int]().union(*self.ranks.gather(self.moved))
        for weight, total in self.sums.items():
            weight.grad = total if self.bucket_of[weight] in moved else None
        self.forget()

    def clip(self, weights: Iterable[Tensor], most: float) -> Tensor:
        """Scale the gradients of some weights to a norm of at most `most`, all ranks' together; what the norm was."""
        some = [*weights]
        if self.ranks.count == 1:
            return clip_grad_norm_(some, most)
        square: Tensor = get_total_norm([weight.grad for weight in some if weight.grad is not None]).to(some[0].device) ** 2
        self.ranks.total([square])
        norm = square.sqrt()
        clip_grads_with_norm_(some, most, norm)
        return norm

    @torch.no_grad()
    def spread(self) -> None:
        """After a step: give every rank the weights as their owners have them now."""
        for bucket in self.buckets if self.ranks.count > 1 else ():
            flat = torch.cat([weight.reshape(-1) for weight in bucket.weights])
            self.ranks.spread(flat, bucket.owner)
            if bucket.owner != self.ranks.place:
                for weight, part in bucket.parts(flat):
                    weight.copy_(part)

    def save(self, optimizers: Sequence[Any], folder: Path) -> None:
        """Write what the optimisers remember of this rank's weights into the folder of all."""
        torch.save([optimizer.state_dict() for optimizer in optimizers], folder / f"optimizers-{self.ranks.place}.pt")

    def load(self, optimizers: Sequence[Any], folder: Path) -> None:
        """Put back what any number of ranks wrote: of it, what is this rank's. Nothing in the files is ever run."""
        every = [torch.load(path, map_location="cpu", weights_only=True, mmap=True) for path in sorted(folder.glob("optimizers-*.pt"))]
        for number, optimizer in enumerate(optimizers):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            known = {place: kept for states in every for place, kept in states[number]["state"].items()}
            own = {place: kept for place, kept in known.items() if self.owns(weights[place])}
            optimizer.load_state_dict({"state": own, "param_groups": every[0][number]["param_groups"]})


def _dealt(weights: list[Tensor], count: int) -> list[Bucket]:
    """Neighbours in buckets, the last first, as gradients come; the largest bucket to whom has least so far."""
    most = min(MOST, -(-sum(weight.numel() for weight in weights) // (SHARE * count)))
    found: list[Bucket] = []
    for weight in reversed(weights):
        last = found[-1] if found else None
        if last and last.numbers() + weight.numel() <= most and last.weights[0].dtype == weight.dtype:
            last.weights.append(weight)
        else:
            found.append(Bucket([weight], 0))
    held = [0] * count
    for place in sorted(range(len(found)), key=lambda place: -found[place].numbers()):
        owner = held.index(min(held))
        held[owner] += found[place].numbers()
        found[place] = found[place]._replace(owner=owner)
    return found
