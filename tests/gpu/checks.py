"""Trainings, scoring and generation on the device against the CPU, against themselves, and against a kill."""

import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from safetensors.torch import load_file

from models.core.content import folder_md5
from models.score.local_model import LocalModel
from models.train import policy, vocabulary
from models.train.generation import batches
from tests.bench.scoring import settings
from tests.gpu.models import Shape, Stages
from tests.gpu.reporting import Line, Part
from tests.tasks import test_resuming
from tests.tasks.test_parts import KINDS

TOLERANCE = 2e-3  # of a loss, in float32: sums are made in another order, and the difference grows over a few steps
KILLED = ("base", "sft-full", "rlhf-full", "rlhf-ppo-full")
WEIGHTS = "model.safetensors"


def parts(stages: Stages, cpu: Stages, shape: Shape, size: str, kinds: list[str], killed: tuple[str, ...] = KILLED) -> Iterator[Part]:
    """The checks with one model. `stages` and `cpu` have one folder; what the first makes the second begins from."""
    yield begun(stages, shape, size)
    yield Part(f"{size}: reward model", lambda: {"ok": bool(stages.reward())}, 15)
    for kind in kinds:
        yield Part(f"{size}: {kind}", lambda kind=kind: trained(stages, cpu, kind), 20)
    for kind in killed:
        yield Part(f"{size}: {kind}, killed", lambda kind=kind: killed_and_resumed(stages, kind), 20)
    yield Part(f"{size}: scoring", lambda: scored(stages.target / "sft", stages.work.device), 15)
    yield Part(f"{size}: generation", lambda: generated(stages.target / "sft", stages.work.device), 15)


def begun(stages: Stages, shape: Shape, size: str) -> Part:
    """The model that the others begin from."""
    return Part(f"{size}: random weights", lambda: {"ok": bool(stages.begin(shape)), "parameters": shape.multiplied}, 30)


def once(stages: Stages, size: str, kinds: list[str], seconds: float) -> Iterator[Part]:
    """Every training with one large model, once: that it ends, with a loss that is a number."""
    yield Part(f"{size}: reward model", lambda: {"ok": bool(stages.reward())}, seconds)
    for kind in kinds:
        yield Part(f"{size}: {kind}", lambda kind=kind: _finite(stages, kind), seconds)


def trained(stages: Stages, cpu: Stages, kind: str) -> Line:
    """One training twice on the device and once on the CPU.

    Losses are compared where all see the same records. What a policy writes is drawn by the device's own generator: there only two runs
    on the device can be compared.
    """
    losses = [_run(stages, kind, f"{kind}-{turn}") for turn in ("first", "second")]
    found: Line = {"losses": [round(loss, 5) for loss in losses[0][:3]]}
    same = folder_md5(stages.target / f"{kind}-first") == folder_md5(stages.target / f"{kind}-second")
    found |= {"two_runs_byte_equal": same}
    if not same:
        found["largest_difference"] = _apart(stages.target / f"{kind}-first", stages.target / f"{kind}-second")
    drawn = any("mean_reward" in values for _, values in stages.rows)
    if not drawn:
        found["off_the_cpu"] = off = _off(losses[0], _run(cpu, kind, f"{kind}-cpu"))
    for turn in ("first", "second", "cpu"):
        shutil.rmtree(stages.target / f"{kind}-{turn}", ignore_errors=True)
    return {"ok": same and all(map(math.isfinite, losses[0])) and (drawn or off <= TOLERANCE), **found}


def _run(stages: Stages, kind: str, name: str) -> list[float]:
    stages.rows.clear()
    KINDS[kind](stages, name)
    return stages.losses()


def _finite(stages: Stages, kind: str) -> Line:
    losses = _run(stages, kind, "once")
    shutil.rmtree(stages.target / "once")
    return {"ok": bool(losses) and all(map(math.isfinite, losses)), "losses": [round(loss, 5) for loss in losses[:3]]}


def _off(found: list[float], expected: list[float]) -> float:
    """The largest difference between two curves, as a share of the larger value, with 1 as the least that is divided by."""
    assert len(found) == len(expected) > 0
    return max(abs(one - other) / max(1.0, abs(other)) for one, other in zip(found, expected, strict=True))


def _apart(one: Path, other: Path) -> float:
    ours, theirs = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def killed_and_resumed(stages: Stages, kind: str) -> Line:
    """A training that dies at a step after its checkpoint, and goes on from that, leaves what one that nobody touched leaves."""
    made, killing, folder = test_resuming.made, test_resuming.Killing, stages.target / "killed"
    try:
        whole = made(stages, kind, folder / "whole", killing(None))
        kept, steps = folder / "kept", whole[2][-1][1]
        first = random.Random(kind).randint(1, steps - 2)
        try:
            made(stages, kind, folder / "again", killing(kept, {first}, dies=first + 1))
        except test_resuming.KilledError:
            pass
        else:
            return {"ok": False, "error": f"it was to die at step {first + 1} of {steps}"}
        again = made(stages, kind, folder / "again", killing(kept))
        same = {name: one == other for name, one, other in zip(("metrics", "weights", "curve"), again, whole, strict=True)}
        return {"ok": all(same.values()), "checkpoint": first, "of_steps": steps, **same}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


SHARED = "The town of Ton lies by the river. Its people bake bread and mend boats, and in the evening they tell what was. " * 2
QUESTIONS = [f"{SHARED}What does number {number} bake? {'It is an old question. ' * (number % 4)}Answer:" for number in range(8)]


def choices(questions: list[str], letters: str = "ABCD") -> list[Instance]:
    """A request for the likelihood of each letter after each question."""
    pairs = [(question, f" {letter}") for question in questions for letter in letters]
    return [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]


def scored(model: Path, device: str) -> Line:
    """Log-likelihoods of letters after questions with a common beginning, in float32: the packed way of a GPU against the CPU's own."""
    found = {}
    for place in ("cpu", device):
        network = ours(model, place, 4, "float32")
        found[place] = [value for value, _ in network.loglikelihood(choices(QUESTIONS), disable_tqdm=True)]
    off = max(abs(one - other) for one, other in zip(found["cpu"], found[device], strict=True))
    return {"ok": network.packs and off <= 1e-3, "packed": network.packs, "off_the_cpu": off}


def ours(model: Path, device: str, batch_size: int, dtype: str, new_tokens: int = 16) -> LocalModel:
    how = settings(None, batch_size).model_copy(update={"dtype": dtype, "max_new_tokens": new_tokens})
    return LocalModel(model, vocabulary.load(model), how, device, lambda _done, _all: None)


def generated(model: Path, device: str) -> Line:
    """Greedy answers of both of our loops in float32: how many are the CPU's.

    Random weights know no right token: the two likeliest may be closer than rounding, so that a few may part. On the device all must be
    the same twice.
    """
    asked = [[{"role": "user", "content": question}] for question in QUESTIONS]
    requests = [Instance("generate_until", {}, (question, {"until": ["\n\n"]}), at) for at, question in enumerate(QUESTIONS)]

    def written(place: str) -> Any:
        network, tokenizer = policy.load(model).to(place), vocabulary.load(model)
        texts = [text for batch in batches(network, tokenizer, asked, 4, 16) for text in batch.texts]
        return texts + ours(model, place, 4, "float32").generate_until(requests)

    first, second, cpu = written(device), written(device), written("cpu")
    same = sum(one == other for one, other in zip(first, cpu, strict=True))
    return {"ok": first == second and 2 * same >= len(cpu), "answers": len(cpu), "same_as_the_cpu": same, "twice_the_same": first == second}


def memory(call: Callable[[], object]) -> float:
    """Peak of what PyTorch held on the GPU meanwhile, GiB; 0 without one."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    call()
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else 0.0
