"""The training stages over a handful of records, as functions."""

from pathlib import Path

from models.core.files import write_lines
from models.core.work import Work
from models.train.settings import Finetuning, Reinforcement
from models.world import world
from tasks.base import BaseInputs, BaseOutputs, BaseParams, base
from tasks.preference import PreferenceInputs, PreferenceOutputs, PreferenceParams, preference
from tasks.reward import RewardInputs, RewardOutputs, RewardParams, reward
from tasks.rlhf import RlhfInputs, RlhfOutputs, RlhfParams, rlhf
from tasks.sft import SftInputs, SftOutputs, SftParams, sft
from tasks.tokenizer import TokenizerInputs, TokenizerOutputs, TokenizerParams, tokenizer
from tests.tiny import ROOM, WARNED, method_of, preferring, weights_of

SIZE = world.Size(
    people=16,
    towns=8,
    people_documents=40,
    town_documents=10,
    answer_documents=10,
    sum_documents=10,
    code_documents=20,
    fact_conversations=30,
    code_conversations=5,
    open_conversations=5,
    preferences=16,
    items=20,
    dirt=0,
)
SPEED = {"learning_rate": 1e-3, "warmup_share": 0.1, "schedule": "linear", "precision": "float32"}
STEADY = {"weight_decay": 0.0, "max_rise": None}
PLAN = {key: value for key, value in SPEED.items() if key != "precision"}
JUDGED = {"judge": {"take": "model", "weight": 1.0}}
PRETRAINING = {
    "start": {"take": "scratch", "layers": 2, "hidden_size": 32, "feed_forward_size": 64, "heads": 2},
    "blocks": {"tokens": 64, "batch": 4, "precision": "float32", **ROOM},
    "training": {"steps": 6, "optimizer": "muon", **STEADY, **PLAN},
}


def finetuning(name="full", epochs=1):
    return Finetuning(weights=weights_of(name, 4, 8), epochs=epochs, batch_size=8, max_tokens=256, **STEADY, **ROOM, **SPEED)


def reinforcement(name="full", max_kl=50.0, steps=2, algorithm="grpo", **method):
    sampling = {"max_new_tokens": 8, "temperature": 1.0, "measured_answers": 2, "measured_prompts": 4, "answers_per_batch": 8}
    sizes = {"steps": steps, "prompts_per_step": 2, "answers_per_prompt": 2, **ROOM, **WARNED}
    chosen = {"method": method_of(algorithm, **method), "weights": weights_of(name, 4, 8)}
    return Reinforcement(**chosen, beta=0.1, max_kl=max_kl, **sampling, **sizes, **SPEED)


class Pipeline:
    """The stages over one folder of records."""

    def __init__(self, records: Path, target: Path, **work) -> None:
        self.records, self.target = records, target
        self.work = Work(folder=target / "work", reports=target / "reports", **work)

    def tokenizer(self):
        params = TokenizerParams(pretrained=None, vocabulary={"take": "texts", "size": 500, "max_tokens": 256})
        inputs = TokenizerInputs(pretrained=self.target, documents=self.records / "documents", instructions=self.records / "instructions")
        return tokenizer(params, inputs, TokenizerOutputs(tokenizer=self.target / "tokenizer"))

    def base(self, name="base", pretrained=None, plan=PRETRAINING):
        inputs = BaseInputs(pretrained=self.target / "published", tokenizer=self.target / "tokenizer", documents=self.records / "documents")
        params = BaseParams(seed=1, pretrained=pretrained, **plan)
        return base(params, inputs, BaseOutputs(base=self.target / name), self.work)

    def sft(self, name="sft", plan=None):
        inputs = SftInputs(base=self.target / "base", instructions=self.records / "instructions")
        params = SftParams(**{"seed": 1, "neftune": 0.0, "packing": False, **dict(plan or finetuning())})
        return sft(params, inputs, SftOutputs(sft=self.target / name), self.work)

    def reward(self, name="reward", plan=None):
        inputs = RewardInputs(sft=self.target / "sft", preferences=self.records / "preferences")
        return reward(
            RewardParams(seed=1, floor=0.0, **dict(plan or finetuning())), inputs, RewardOutputs(reward=self.target / name), self.work
        )

    def rlhf(self, name="rlhf", plan=None, rewards=None, judged=True):
        judge = self.target / "reward" if judged else None
        inputs = RlhfInputs(sft=self.target / "sft", reward=judge, prompts=self.records / "prompts")
        params = RlhfParams(seed=1, rewards=rewards or JUDGED, **dict(plan or reinforcement()))
        return rlhf(params, inputs, RlhfOutputs(rlhf=self.target / name), self.work)

    def preference(self, name="preference", plan=None, algorithm="dpo", **changes):
        inputs = PreferenceInputs(sft=self.target / "sft", preferences=self.records / "preferences")
        params = PreferenceParams(seed=1, method=preferring(algorithm), **{**dict(plan or finetuning()), **changes})
        return preference(params, inputs, PreferenceOutputs(preference=self.target / name), self.work)

    def run(self):
        self.metrics = [self.tokenizer(), self.base(), self.sft(), self.reward(), self.rlhf(), self.preference()]
        return self


def write_records(folder):
    """Records of every kind, trained on and held out."""
    for kind, rows in world.generate(5, SIZE, ())[0].items():
        write_lines(folder / kind / "train.jsonl", rows[4:])
        write_lines(folder / kind / "held_out.jsonl", rows[:4])
    return folder
