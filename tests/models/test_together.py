"""Ranks: what each has to compute, and what all know of it afterwards."""

import json
import subprocess
import sys

import pytest
import torch

from models.core.ranks import Ranks
from models.train.parts import Parts
from models.train.shards import Shards

SCRIPT = """
import json, sys
import torch
from pathlib import Path
from models.core.ranks import Ranks
from models.train import together
from models.train.parts import Parts
from models.train.shards import Shards

together.BUCKET = 4  # so that sums go in several pieces
place, folder = int(sys.argv[1]), Path(sys.argv[2]).parent
ranks = together.join(sys.argv[2], place, 2, "cpu", 60.0)
sums = [torch.full((3,), place + 1.0), torch.full((2, 2), 10.0 * place), torch.tensor(place, dtype=torch.float64)]
ranks.total(sums)
said = {"sums": [one.tolist() for one in sums], "gathered": ranks.gather("x" * (1000 * place + 1))[1][:2], "told": ranks.told(place + 7)}
said["once"] = ranks.once(lambda: f"by {place}")
try:
    ranks.once(lambda: 1 / 0)
except Exception as error:
    said["failed"] = f"{type(error).__name__}: {error}"
weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(4)]
parts, tried = Parts(2, ranks, weights), []
def work(part):
    tried.append(part.stop - part.start)
    (weights[0] * float(part.stop - part.start)).sum().backward()
    if place and len(tried) == 1:
        raise torch.OutOfMemoryError("no memory")  # in the middle: a gradient was on its way
    if place:
        weights[1].sum().backward()
    torch.rand(place + 1)  # each draws another number of times
parts.step(5, work, lambda: None)
shards, norm = parts.shards, parts.shards.clip(weights, 2.0).item()
said["norm"], said["size"] = norm, parts.size
said["owners"] = [next(place for place in range(2) if shards.buckets[shards.bucket_of[weight]].owner == place) for weight in weights]
own = [weight.grad is not None for weight in weights]
assert own == [shards.owns(weight) and number < 2 for number, weight in enumerate(weights)], own
optimizer = torch.optim.SGD(weights, lr=1.0, momentum=0.5)
optimizer.step()
shards.spread()
said["weights"] = [weight.tolist() for weight in weights]
shards.save([optimizer], folder)
ranks.gather(0)
kept = [torch.load(folder / f"optimizers-{place}.pt")[0]["state"] for place in range(2)]
assert not kept[0].keys() & kept[1].keys() and kept[0].keys() | kept[1].keys() == {0, 1}
again = torch.optim.SGD(weights, lr=1.0, momentum=0.5)
shards.load([again], folder)
assert {*again.state} == {*optimizer.state}, "each has its own back"
alone = torch.optim.SGD(weights, lr=1.0, momentum=0.5)
Shards(Ranks(), weights).load([alone], folder)
said["known"] = [alone.state[weight]["momentum_buffer"].tolist() for weight in weights[:2]]
said["random"] = torch.rand(1).item()
said["sum"] = parts.sum([torch.tensor(2.0)] * place, "cpu").item()
print(json.dumps(said))
"""


def test_rows_are_shared_out_whole_and_evenly():
    for rows in (0, 1, 5, 8):
        for count in (1, 2, 3, 8):
            shares = [range(rows)[Ranks(place, count).share(rows)] for place in range(count)]
            assert [row for share in shares for row in share] == list(range(rows))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_parts_are_of_a_rank_s_own_rows():
    assert [*Parts(2, Ranks(1, 2)).of(7)] == [slice(3, 5), slice(5, 7)]
    assert [*Parts(None, Ranks(3, 8)).of(4)] == [slice(1, 2)]


def test_all_ranks_have_as_many_parts_or_one_would_wait_for_ever():
    assert [*Parts(None, Ranks(0, 8)).of(4)] == [slice(0, 0)]
    assert [*Parts(3, Ranks(0, 2)).of(7)] == [slice(0, 3), slice(3, 3)]
    assert [*Parts(3, Ranks(1, 2)).of(7)] == [slice(3, 6), slice(6, 7)]


def test_every_weight_has_one_owner_and_the_owners_have_alike_much():
    weights = [torch.nn.Parameter(torch.zeros(size)) for size in (1000, 7, 300, 300, 300, 5, 900)]
    held = [sum(weight.numel() for weight in weights if Shards(Ranks(place, 3), weights).owns(weight)) for place in range(3)]
    assert (sum(held), max(held)) == (2812, 1000), held


def test_one_alone_does_all_of_it():
    alone = Ranks()
    alone.total([torch.ones(2)])
    assert (alone.gather(3), alone.told(4), alone.once(lambda: 5), alone.leads) == ([3], 4, 5, True)
    with pytest.raises(ZeroDivisionError):
        alone.once(lambda: 1 / 0)


@pytest.mark.long
def test_two_know_the_same(tmp_path):
    command = [sys.executable, "-c", SCRIPT]
    children = [
        subprocess.Popen([*command, str(place), str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True) for place in range(2)
    ]
    first, second = (json.loads(child.communicate(timeout=120)[0].splitlines()[-1]) for child in children)
    assert first["sums"] == [[3.0] * 3, [[10.0] * 2] * 2, 1.0]
    assert (first["gathered"], first["told"], first["once"], first["sum"]) == ("xx", 7, "by 0", 2.0)
    assert first["size"] == 1, "one has no memory, both halve"
    assert first["norm"] == pytest.approx((2 * 5.0**2 + 2 * 3.0**2) ** 0.5), "five rows, of which the second has three"
    assert sorted(first["owners"]) == [0, 0, 1, 1]
    scale = 2.0 / (first["norm"] + 1e-6)
    assert first["weights"] == [pytest.approx([-5 * scale] * 2), pytest.approx([-3 * scale] * 2), [0.0] * 2, [0.0] * 2]
    assert first["known"] == [pytest.approx([5 * scale] * 2), pytest.approx([3 * scale] * 2)]
    assert (first.pop("failed"), second.pop("failed")) == (
        "ZeroDivisionError: division by zero",
        "RuntimeError: the leader: ZeroDivisionError: division by zero",
    )
    assert first == second
