"""Processes that do one piece of work together: alike in all but the rows that each computes, and one of them leads.

All hold the same weights and go through the same steps; a batch is parted among them, and what they find of it is added up. So the number
of them changes nothing but the order of sums, and a checkpoint of any number of them serves any other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's place among `count`; alone it has nobody to talk to, and nothing here does anything."""

    place: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        return self.place == 0

    def share(self, rows: int) -> slice:
        """The rows of so many that are this process's: neighbours, as many as the others have, or one more."""
        start, end = (rows * place // self.count for place in (self.place, self.place + 1))
        return slice(start, end)

    def total(self, tensors: Sequence["Tensor"]) -> None:
        """Have each tensor be the sum of all processes' own, in place, the same bytes in each."""

    def collect(self, _tensor: "Tensor", _owner: int) -> Callable[[], None]:
        """Begin to have the owner's tensor be the sum of all processes' own; they end when what it returns is called."""
        return lambda: None

    def spread(self, tensor: "Tensor", owner: int) -> None:
        """Have each process's tensor be the owner's, in place."""

    def gather(self, value: T) -> list[T]:
        """The value of each process, in their order."""
        return [value]

    def told(self, value: T) -> T:
        """The leader's value."""
        return self.gather(value)[0]

    def once(self, work: Callable[[], T]) -> T:
        """What the leader's `work` returns; the others do not do it. What it raises, all raise."""
        if self.count == 1:
            return work()
        found: Any = None
        failure: Exception | None = None
        if self.leads:
            try:
                found = work()
            except Exception as error:  # whatever it is: the others wait for it
                failure = error
        found, said = self.told((found, failure and f"{type(failure).__name__}: {failure}"))
        if failure is not None:
            raise failure
        if said is not None:
            raise RuntimeError(f"the leader: {said}")
        result: T = found
        return result


ALONE = Ranks()
