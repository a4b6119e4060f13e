"""Ranks: what each has to compute, and what all know of it afterwards."""

import json
import subprocess
import sys

import pytest
import torch

from models.core.ranks import Ranks
from models.train.parts import Parts

SCRIPT = """
import json, sys
import torch
from models.train import together
from models.train.parts import Parts

together.BUCKET = 4  # so that sums go in several pieces
place = int(sys.argv[1])
ranks = together.join(sys.argv[2], place, 2, "cpu", 60.0)
sums = [torch.full((3,), place + 1.0), torch.full((2, 2), 10.0 * place), torch.tensor(place, dtype=torch.float64)]
ranks.total(sums)
said = {"sums": [one.tolist() for one in sums], "gathered": ranks.gather("x" * (1000 * place + 1))[1][:2], "told": ranks.told(place + 7)}
said["once"] = ranks.once(lambda: f"by {place}")
try:
    ranks.once(lambda: 1 / 0)
except Exception as error:
    said["failed"] = f"{type(error).__name__}: {error}"
weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
def work(part):
    weights[0].grad = torch.full((2,), float(part.stop - part.start))
    if place:
        weights[1].grad = torch.ones(2)
    torch.rand(place + 1)  # each draws another number of times
parts = Parts(None, ranks)
parts.step(5, work, lambda: None, weights)
said["grads"] = [None if weight.grad is None else weight.grad.tolist() for weight in weights]
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
    assert [*Parts(None, Ranks(0, 8)).of(4)] == []


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
    first, second = (json.loads(child.communicate(timeout=120)[0]) for child in children)
    assert first["sums"] == [[3.0] * 3, [[10.0] * 2] * 2, 1.0]
    assert (first["gathered"], first["told"], first["once"], first["sum"]) == ("xx", 7, "by 0", 2.0)
    assert first["grads"] == [[5.0, 5.0], [1.0, 1.0], None]
    assert (first.pop("failed"), second.pop("failed")) == (
        "ZeroDivisionError: division by zero",
        "RuntimeError: the leader: ZeroDivisionError: division by zero",
    )
    assert first == second
