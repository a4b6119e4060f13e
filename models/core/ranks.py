"""Processes that do one piece of work together: alike in all but the rows that each computes, and one of them leads.

All hold the same weights and go through the same steps; a batch is parted among them, and what they find of it is added up. So the number
of them changes nothing but the order of sums, and a checkpoint of any number of them serves any other.
"""

import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

T = TypeVar("T")
BUCKET = 1 << 25  # numbers sent at once


@dataclass(frozen=True)
class Ranks:
    """This process's place among `count`; alone it has nobody to talk to, and nothing here does anything."""

    place: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        return self.place == 0

    def share(self, rows: int) -> slice:
        """The rows of so many that are this process's: neighbours, as many as the others have, or one more."""
        start, end = (rows * place // self.count for place in (self.place, self.place + 1))
        return slice(start, end)

    def total(self, tensors: Sequence["Tensor"]) -> None:
        """Have each tensor be the sum of all processes' own, in place, the same bytes in each."""

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


@dataclass(frozen=True)
class Group(Ranks):
    """Several, over a group for tensors and, where that speaks of a GPU's only, another for everything else."""

    tensors: "ProcessGroup | None" = None
    others: "ProcessGroup | None" = None

    def total(self, tensors: Sequence["Tensor"]) -> None:
        import torch

        assert self.tensors is not None
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            self.tensors.allreduce([flat]).wait()
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def gather(self, value: T) -> list[T]:
        import torch

        assert self.others is not None
        own = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.count)]
        self.others.allgather([sizes], [torch.tensor([len(own)])]).wait()
        longest = max(int(size) for size in sizes)
        every = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.count)]
        self.others.allgather([every], [torch.cat([own, own.new_zeros(longest - len(own))])]).wait()
        return [pickle.loads(bytes(one[: int(size)].numpy())) for one, size in zip(every, sizes, strict=True)]


def _buckets(tensors: Iterable["Tensor"]) -> Iterable[list["Tensor"]]:
    """Neighbours of one kind, some BUCKET numbers at once."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or sum(one.numel() for one in bucket) + tensor.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def join(store: str, place: int, count: int, device: str, seconds: float) -> Ranks:
    """The ranks of this machine that meet at the file `store`, this one at its place; an answer may take `seconds` to come.

    No global state of torch.distributed is touched: to the libraries that train, each process is alone.
    """
    if count == 1:
        return Ranks(device=device)
    from datetime import timedelta

    import torch.distributed as dist
    from torch._C._distributed_c10d import FileStore, PrefixStore

    limit = timedelta(seconds=seconds)
    meeting = FileStore(store, count)
    others: Any = dist.ProcessGroupGloo(PrefixStore("others", meeting), place, count, limit)
    tensors: Any = others
    if device.startswith("cuda"):
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = limit
        tensors = dist.ProcessGroupNCCL(PrefixStore("tensors", meeting), place, count, options)
    return Group(place, count, device, tensors, others)
