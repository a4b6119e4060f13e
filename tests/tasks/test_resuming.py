"""A training that is killed goes on from its last checkpoint, and ends as it would have: weights byte for byte, metrics, curves."""

import random
import shutil

import pytest

from models.core.checkpoints import Checkpoints
from models.core.content import folder_md5
from models.train.settings import Restore
from tests.trainings import PRETRAINING, Pipeline, finetuning, reinforcement, write_records

pytestmark = pytest.mark.long

LONG = {**PRETRAINING, "training": {**PRETRAINING["training"], "steps": 23}}
KINDS = {  # each with enough steps for two epochs and more, and for logs that span several steps
    "base": lambda stages: stages.base("made", plan=LONG),
    "base-adamw": lambda stages: stages.base("made", plan={**LONG, "training": {**LONG["training"], "optimizer": "adamw"}}),
    **{f"sft-{name}": lambda stages, name=name: stages.sft("made", finetuning(name, 3)) for name in ("full", "lora", "last-layers")},
    "sft-neftune": lambda stages: stages.sft("made", {**dict(finetuning("full", 3)), "neftune": 5.0}),
    "sft-parts": lambda stages: stages.sft("made", {**dict(finetuning("full", 3)), "micro_batch": 3}),
    "sft-dora": lambda stages: stages.sft("made", finetuning("dora", 3)),
    **{f"reward-{name}": lambda stages, name=name: stages.reward("made", finetuning(name, 5)) for name in ("full", "lora")},
    "sft-packed": lambda stages: stages.sft("made", {**dict(finetuning("full", 5)), "packing": True}),
    "sft-bfloat16": lambda stages: stages.sft("made", {**dict(finetuning("lora", 3)), "precision": "bfloat16"}),
    **{
        f"{algorithm}-{name}": lambda stages, name=name, algorithm=algorithm: stages.preference("made", finetuning(name, 5), algorithm)
        for algorithm in ("dpo", "kto", "orpo")
        for name in ("full", "lora")
    },
    **{f"rlhf-{name}": lambda stages, name=name: stages.rlhf("made", reinforcement(name, steps=14)) for name in ("full", "lora")},
    "rlhf-rloo": lambda stages: stages.rlhf("made", reinforcement(steps=14, algorithm="rloo")),
    **{
        f"rlhf-{algorithm}-restored": lambda stages, algorithm=algorithm: stages.rlhf(
            "made", reinforcement(steps=14, algorithm=algorithm).model_copy(update={"recorder": Restore(act="restore", every=3)})
        )
        for algorithm in ("grpo", "ppo")
    },
    **{
        f"rlhf-ppo-{name}": lambda stages, name=name: stages.rlhf("made", reinforcement(name, steps=14, algorithm="ppo", target_kl=0.01))
        for name in ("full", "lora", "last-layers")
    },
}


class KilledError(Exception):
    pass


class Killing(Checkpoints):
    """Writes one at given steps, and dies at another one, before it could write that."""

    def __init__(self, folder, at=(), dies=0):
        self.rows, self.step, self.at, self.dies = [], 0, at, dies
        super().__init__(folder, notes=lambda: list(self.rows), recall=lambda _, rows: self.rows.extend(rows))

    def due(self):
        self.step += 1
        if self.step == self.dies:
            raise KilledError
        return self.step in self.at

    def latest(self):
        found = super().latest()
        self.step = int(found.name) if found else 0
        return found


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    stages = Pipeline(write_records(tmp_path_factory.mktemp("records")), tmp_path_factory.mktemp("done"))
    return stages.run()


def made(done, kind, folder, checkpoints):
    """What a training leaves: its metrics, the hash of its weights, its curve."""
    for name in ("tokenizer", "base", "sft", "reward"):
        shutil.copytree(done.target / name, folder / name, dirs_exist_ok=True)
    rows = checkpoints.rows
    stages = Pipeline(
        done.records,
        folder,
        device=done.work.device,
        checkpoints=checkpoints,
        progress=lambda step, total, values: rows.append([step, total, dict(values)]),
    )
    metrics = KINDS[kind](stages)
    return metrics, folder_md5(folder / "made"), rows


@pytest.fixture(scope="module")
def whole(done, tmp_path_factory):
    """Of each kind the training that nobody interrupts, and that writes no checkpoint: made once."""
    known = {}

    def of(kind):
        if kind not in known:
            known[kind] = made(done, kind, tmp_path_factory.mktemp("whole"), Killing(None))
        return known[kind]

    return of


QUICK = ("base", "rlhf-full")


@pytest.mark.parametrize("kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
def test_killed_at_any_step_it_ends_with_the_same_bytes_metrics_and_curve(kind, done, whole, tmp_path):
    steps = whole(kind)[2][-1][1]
    draw = random.Random(kind)
    first, second = sorted(draw.sample(range(1, steps), 2))
    with pytest.raises(KilledError):
        made(done, kind, tmp_path, Killing(tmp_path / "kept", {first}, dies=draw.randint(first + 1, steps)))
    with pytest.raises(KilledError):  # and once more, later
        made(done, kind, tmp_path, Killing(tmp_path / "kept", {second}, dies=draw.randint(second + 1, steps)))
    assert [path.name for path in sorted((tmp_path / "kept").iterdir())] == [f"{first:09}", f"{second:09}"]
    assert made(done, kind, tmp_path, Killing(tmp_path / "kept")) == whole(kind)
