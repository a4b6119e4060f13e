"""Every stage takes published models of any architecture as they are: bfloat16 in several shards, with whatever tokenizer and template.

What runs by default takes each architecture once and each method once; the whole matrix is marked slow.
"""

from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import pipeline

from models import chat, policy, preference, vocabulary
from models.errors import StageError
from models.records import write_lines
from models.settings import Finetuning, Method, Pretraining, Reinforcement, Shape
from models.work import Work
from tasks.base import BaseInputs, BaseOutputs, BaseParams, base
from tasks.reward import RewardInputs, RewardOutputs, RewardParams, reward
from tasks.rlhf import RlhfInputs, RlhfOutputs, RlhfParams, rlhf
from tasks.sft import SftInputs, SftOutputs, SftParams, sft
from tasks.tokenizer import TokenizerInputs, TokenizerOutputs, TokenizerParams, tokenizer
from tests.architectures import PUBLISHED

METHODS = ("full", "lora", "last-layers")
STAGES = ("sft", "reward", "rlhf")
OFTEN = {("gpt2", "rlhf", "last-layers"), ("opt", "rlhf", "full"), ("qwen2", "reward", "lora"), ("granite", "reward", "last-layers")}
OFTEN |= {(name, "sft", METHODS[place % 3]) for place, name in enumerate(PUBLISHED)} | {("gpt_neox", "sft", "last-layers")}
MATRIX = [
    pytest.param(*case, marks=[] if case in OFTEN else pytest.mark.slow, id="-".join(case)) for case in product(PUBLISHED, STAGES, METHODS)
]
SPEED = {"learning_rate": 1e-2, "warmup_share": 0.0, "precision": "float32"}
ASKED = [{"role": "user", "content": "Hello Ton"}]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, system = tmp_path_factory.mktemp("records"), [{"role": "system", "content": "Be brief."}]
    rows: dict[str, list[dict]] = {"documents": [], "instructions": [], "preferences": [], "prompts": []}
    for number in range(4):
        prompt = [*system * (number == 1), {"role": "user", "content": f"Who is in Ton {number}?"}]
        good, bad = ([{"role": "assistant", "content": text}] for text in ("Hello", "Nobody ü"))
        rows["documents"].append({"id": f"d{number}", "text": "Hello in the Ton " * 3, "source": "x"})
        rows["instructions"].append({"id": f"i{number}", "messages": prompt + good, "source": "x"})
        rows["preferences"].append({"id": f"p{number}", "prompt": prompt, "chosen": good, "rejected": bad, "source": "x"})
        rows["prompts"].append({"id": f"q{number}", "prompt": prompt})
    for kind, found in rows.items():
        write_lines(folder / kind / "train.jsonl", found)
        write_lines(folder / kind / "held_out.jsonl", found[:2])
    return folder


class Stages:
    """The stages from a published model on, each made when it is first asked for."""

    def __init__(self, name: str, records: Path, target: Path) -> None:
        self.records, self.target = records, target
        self.work = Work(folder=target / "work", reports=target / "reports")
        self.published = PUBLISHED[name].write(target / "published")
        words = TokenizerInputs(documents=records / "documents", instructions=records / "instructions")
        params = TokenizerParams(pretrained=str(self.published), vocabulary_size=300, max_tokens=512)
        tokenizer(params, words, TokenizerOutputs(tokenizer=target / "tokenizer"))

    def base(self, steps: int = 0, block_tokens: int = 32):
        shape = Shape(layers=1, hidden_size=16, feed_forward_size=16, heads=1)
        plan = Pretraining(shape=shape, block_tokens=block_tokens, batch_blocks=4, steps=steps, weight_decay=0.0, **SPEED)
        inputs = BaseInputs(tokenizer=self.target / "tokenizer", documents=self.records / "documents")
        params = BaseParams(seed=1, pretrained=str(self.published), **dict(plan))
        return base(params, inputs, BaseOutputs(base=self.target / "base"), self.work)

    def train(self, stage: str, method: str = "full", out: Path | None = None, **changes):
        return getattr(self, f"_{stage}")(Method(name=method, rank=2, alpha=4, layers=1), out or self.target / stage, changes)

    def need(self, *stages: str) -> "Stages":
        for stage in stages:
            if not (self.target / stage).exists():
                self.base() if stage == "base" else self.train(stage)
        return self

    def _finetuning(self, method: Method, changes: dict):
        return dict(Finetuning(method=method, **{"epochs": 1, "batch_size": 4, "max_tokens": 256, "weight_decay": 0.0, **SPEED, **changes}))

    def _sft(self, method: Method, out: Path, changes: dict):
        inputs = SftInputs(base=self.target / "base", instructions=self.records / "instructions")
        return sft(SftParams(seed=1, **self._finetuning(method, changes)), inputs, SftOutputs(sft=out), self.work)

    def _reward(self, method: Method, out: Path, changes: dict):
        inputs = RewardInputs(sft=self.target / "sft", preferences=self.records / "preferences")
        return reward(RewardParams(seed=1, **self._finetuning(method, changes)), inputs, RewardOutputs(reward=out), self.work)

    def _rlhf(self, method: Method, out: Path, changes: dict):
        sizes = {"steps": 1, "prompts_per_step": 1, "answers_per_prompt": 2, "max_new_tokens": 4, "temperature": 1.0}
        measured = {"measured_answers": 2, "measured_prompts": 2, "answers_per_batch": 3, "beta": 0.1, "max_kl": 1000.0}
        inputs = RlhfInputs(sft=self.target / "sft", reward=self.target / "reward", prompts=self.records / "prompts")
        params = RlhfParams(seed=1, **dict(Reinforcement(method=method, **{**sizes, **measured, **SPEED, **changes})))
        return rlhf(params, inputs, RlhfOutputs(rlhf=out), self.work)


@pytest.fixture(scope="module")
def made(records: Path, tmp_path_factory: pytest.TempPathFactory):
    """The stages of an architecture, kept for the tests that follow."""
    known: dict[str, Stages] = {}

    def stages(name: str) -> Stages:
        if name not in known:
            known[name] = Stages(name, records, tmp_path_factory.mktemp(name))
        return known[name]

    return stages


NEEDS = {"sft": ("base",), "reward": ("base", "sft"), "rlhf": ("base", "sft", "reward")}


@pytest.mark.parametrize(("name", "stage", "method"), MATRIX)
def test_every_method_of_every_stage_trains_every_architecture_into_a_whole_model(made, tmp_path, name, stage, method):
    stages, out = made(name).need(*NEEDS[stage]), tmp_path / "out"
    stages.train(stage, method, out)
    assert {path.suffix for path in out.iterdir()} == {".json", ".jinja", ".safetensors"}
    load = preference.load if stage == "reward" else policy.load
    after, before = load(out), load(stages.target / NEEDS[stage][-1 if stage != "rlhf" else 1])
    pairs = list(zip(after.named_parameters(), before.parameters(), strict=True))
    moved = {name for (name, weight), other in pairs if not torch.equal(weight, other)}
    assert moved
    if method == "last-layers":
        first = {name for name, _ in after.get_decoder().named_parameters() if ".0." in f".{name}"}
        assert first
        assert not {name for name in moved if any(name.endswith(own) for own in first)}
