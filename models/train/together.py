"""Ranks of one machine, over torch's process groups."""

import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import FileStore, PrefixStore

from models.core.ranks import Ranks

T = TypeVar("T")
BUCKET = 1 << 25  # numbers sent at once


@dataclass(frozen=True)
class Group(Ranks):
    """Several, over a group for tensors and, where that speaks of a GPU's only, another for everything else."""

    tensors: Any = None
    others: Any = None

    def total(self, tensors: Sequence[Tensor]) -> None:
        assert self.tensors is not None
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            self.tensors.allreduce([flat]).wait()
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def collect(self, tensor: Tensor, owner: int) -> Callable[[], None]:
        assert self.tensors is not None
        work = self.tensors.reduce(tensor, owner)
        return lambda: work.wait() and None

    def spread(self, tensor: Tensor, owner: int) -> None:
        assert self.tensors is not None
        self.tensors.broadcast(tensor, owner).wait()

    def gather(self, value: T) -> list[T]:
        assert self.others is not None
        own = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.count)]
        self.others.allgather([sizes], [torch.tensor([len(own)])]).wait()
        longest = max(int(size) for size in sizes)
        every = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.count)]
        self.others.allgather([every], [torch.cat([own, own.new_zeros(longest - len(own))])]).wait()
        return [pickle.loads(bytes(one[: int(size)].numpy())) for one, size in zip(every, sizes, strict=True)]


def _buckets(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
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
        return Ranks()
    limit = timedelta(seconds=seconds)
    meeting = FileStore(store, count)
    others: Any = dist.ProcessGroupGloo(PrefixStore("others", meeting), place, count, limit)
    tensors: Any = others
    if device.startswith("cuda"):
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = limit
        tensors = dist.ProcessGroupNCCL(PrefixStore("tensors", meeting), place, count, options)
    return Group(place, count, tensors, others)
