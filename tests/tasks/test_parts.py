"""A batch in parts moves the weights as the whole does, but for rounding; so does one that memory ran out for."""

import re

import pytest
import torch
from safetensors.torch import load_file

from models.core.errors import StageError
from models.train.parts import Parts, cut
from tests.trainings import PRETRAINING, Pipeline, finetuning, reinforcement, write_records

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return Pipeline(write_records(tmp_path_factory.mktemp("records")), tmp_path_factory.mktemp("done")).run()


def base(stages, name, **room):
    stages.base(name, plan={**PRETRAINING, "blocks": {**PRETRAINING["blocks"], **room}})


def ppo(kl):
    return lambda stages, name, **room: stages.rlhf(name, _with(reinforcement(algorithm="ppo", kl=kl, minibatches=1), room))


def _with(plan, room):
    return plan.model_copy(update=room)


KINDS = {
    "base": base,
    **{
        f"{stage}-{weights}": lambda stages, name, stage=stage, weights=weights, **room: getattr(stages, stage)(
            name, _with(finetuning(weights), room)
        )
        for stage in ("sft", "reward", "preference")
        for weights in ("full", "lora")
    },
    "sft-packed": lambda stages, name, **room: stages.sft(name, {**dict(_with(finetuning(epochs=3), room)), "packing": True}),
    **{
        algorithm: lambda stages, name, algorithm=algorithm, **room: stages.preference(name, _with(finetuning(), room), algorithm)
        for algorithm in ("kto", "orpo")
    },
    "grpo": lambda stages, name, **room: stages.rlhf(name, _with(reinforcement(), room)),
    "grpo-lora": lambda stages, name, **room: stages.rlhf(name, _with(reinforcement("lora"), room)),
    "rloo": lambda stages, name, **room: stages.rlhf(name, _with(reinforcement(algorithm="rloo"), room)),
    "ppo": ppo("reward"),
    "ppo-loss": ppo("loss"),
}
QUICK = ("sft-full", "ppo")
EACH = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]


def weights(stages, name):
    return load_file(stages.target / name / "model.safetensors")


@pytest.fixture(scope="module")
def whole(done):
    """Weights of a training with all the memory it wants, by kind."""
    known = {}

    def of(kind):
        if kind not in known:
            KINDS[kind](done, f"whole-{kind}")
            known[kind] = weights(done, f"whole-{kind}")
        return known[kind]

    return of


def assert_alike(found, expected, start):
    """Equal but for rounding, which is small beside what was learned."""
    for name, weight in expected.items():
        moved = (weight - start[name]).norm() if name in start else weight.norm()
        assert (found[name] - weight).norm() <= 0.02 * moved + 1e-5, name
    assert any(not torch.equal(found[name], weight) for name, weight in expected.items()), "it was in one part"


def start(done, kind):
    return {} if kind == "base" else weights(done, "base" if kind.startswith("sft") else "sft")


@pytest.mark.parametrize("kind", EACH)
def test_parts_of_a_batch_add_up_to_it(done, whole, kind):
    KINDS[kind](done, f"parts-{kind}", micro_batch=3 if "reward" not in kind else 1)
    assert_alike(weights(done, f"parts-{kind}"), whole(kind), start(done, kind))


@pytest.mark.parametrize("kind", EACH)
def test_activations_that_are_computed_again_are_the_same(done, whole, kind):
    KINDS[kind](done, f"again-{kind}", gradient_checkpointing=True)
    found, expected = weights(done, f"again-{kind}"), whole(kind)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_method_trains_in_bfloat16_and_is_saved_in_it(done, kind):
    KINDS[kind](done, f"half-{kind}", precision="bfloat16")
    found = weights(done, f"half-{kind}")
    assert {weight.dtype for weight in found.values()} == {torch.bfloat16}
    assert all(weight.isfinite().all() for weight in found.values())
    before = start(done, kind)
    assert not before or any(not torch.equal(weight, before[name].bfloat16()) for name, weight in found.items() if name in before)


@pytest.fixture
def small_memory(monkeypatch):
    """A device whose memory runs out in the backward pass, after it has written gradients, where more than some rows go through at once."""
    known = {"most": 10**9}
    real = torch.autograd.backward

    def backward(tensors, *args, **kwargs):
        real(tensors, *args, **kwargs)
        if known["rows"] > known["most"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    forward = torch.nn.Embedding.forward

    def seen(self, ids):
        known["rows"] = len(ids)
        return forward(self, ids)

    monkeypatch.setattr(torch.autograd, "backward", backward)
    monkeypatch.setattr(torch.nn.Embedding, "forward", seen)
    return known


@pytest.mark.parametrize("kind", EACH)
def test_where_memory_runs_out_the_batch_is_halved_and_the_steps_are_the_same(done, whole, kind, small_memory, capsys):
    expected = whole(kind)
    small_memory["most"] = 2
    KINDS[kind](done, f"short-{kind}")
    assert_alike(weights(done, f"short-{kind}"), expected, start(done, kind))
    said = re.findall(r"no memory for (\d+) records at once: (\d+) at once from here on, and the same steps", capsys.readouterr().out)
    assert said
    assert all(int(after) == -(-int(before) // 2) for before, after in said)


def test_one_record_that_does_not_fit_ends_the_training_in_one_line(done, small_memory):
    small_memory["most"] = 0
    with pytest.raises(StageError, match=r"^there is no memory for one record on the device: set gradient_checkpointing"):
        done.sft("none")
    assert not (done.target / "none").exists()


def test_both_sides_of_a_record_go_together():
    batch = {"ids": torch.arange(12).view(6, 2), "count": torch.tensor(3), "names": ["a", "b", "c"], "flag": True}
    part = cut(batch, slice(1, 3), rows=3, sides=2)
    assert part["ids"].tolist() == [[2, 3], [4, 5], [8, 9], [10, 11]]
    assert (int(part["count"]), part["names"], part["flag"]) == (3, ["b", "c"], True)


def test_parts_cover_a_batch_once():
    assert [*Parts(3).of(8)] == [slice(0, 3), slice(3, 6), slice(6, 8)]
    assert [*Parts(None).of(8)] == [slice(0, 8)]
