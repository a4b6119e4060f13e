"""Several processes train what one does, at the same batch: the same losses and weights but for rounding, whatever their number."""

import pytest
import torch

from tests.ranked import train
from tests.tasks.test_parts import KINDS, assert_alike, start, weights
from tests.trainings import Pipeline, write_records

pytestmark = pytest.mark.long

PARTS = "tests.tasks.test_parts"
TOLERANCE = 1e-3  # of a loss, in nats: sums over a batch are made in another order, and the difference grows with the steps


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return Pipeline(write_records(tmp_path_factory.mktemp("records")), tmp_path_factory.mktemp("done")).run()


@pytest.fixture(scope="module")
def alone(done):
    known = {}

    def of(kind):
        if kind not in known:
            known[kind] = train(done, PARTS, kind, f"alone-{kind}", 1)
        return known[kind]

    return of


def assert_same_way(rows, expected, names=("loss", "mean_reward", "accuracy")):
    assert [step for step, _ in rows] == [step for step, _ in expected]
    for (_, values), (_, others) in zip(rows, expected, strict=True):
        assert values.keys() == others.keys()
        for name in values.keys() & {*names}:
            assert values[name] == pytest.approx(others[name], abs=TOLERANCE), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_go_the_way_of_one(done, alone, kind):
    expected = alone(kind)
    rows = train(done, PARTS, kind, f"two-{kind}", 2)
    assert_same_way(rows, expected)
    found, wanted, other = (weights(done, name) for name in (f"two-{kind}", f"alone-{kind}", f"ranks-two-{kind}/1"))
    assert_alike(found, wanted, start(done, kind))
    assert all(torch.equal(weight, other[name]) for name, weight in found.items()), "both ranks have the same bytes"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["base", "sft-lora", "grpo", "ppo"])
def test_so_do_four(done, alone, kind):
    expected = alone(kind)
    assert_same_way(train(done, PARTS, kind, f"four-{kind}", 4), expected)
    assert_alike(weights(done, f"four-{kind}"), weights(done, f"alone-{kind}"), start(done, kind))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "first", "then"), [("base", 2, 1), ("base", 1, 2), ("sft-full", 2, 4), ("ppo", 2, 1)])
def test_a_checkpoint_serves_any_number_of_ranks(done, alone, tmp_path, kind, first, then):
    expected, name = alone(kind), f"resumed-{kind}-{first}-{then}"
    train(done, PARTS, kind, name, first, tmp_path / "kept", stop=1)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["000000001"]
    assert len([*tmp_path.glob("kept/*/optimizers-*.pt")]) == first, "each rank wrote what it owns"
    rows = train(done, PARTS, kind, name, then, tmp_path / "kept")
    assert_same_way(rows, [row for row in expected if row[0] >= rows[0][0]])
    assert_alike(weights(done, name), weights(done, f"alone-{kind}"), start(done, kind))
