"""Tokenizer, base, sft, reward, rlhf and dpo on a handful of records: whole model folders, equal for equal runs."""

import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from models.core.content import folder_md5
from models.core.errors import StageError
from models.core.files import write_lines
from models.core.given import read_lines
from models.core.work import Work
from models.train.settings import Finetuning, Reinforcement
from models.world import world
from tasks.base import BaseInputs, BaseOutputs, BaseParams, base
from tasks.dpo import DpoInputs, DpoOutputs, DpoParams, dpo
from tasks.reward import RewardInputs, RewardOutputs, RewardParams, reward
from tasks.rlhf import RlhfInputs, RlhfOutputs, RlhfParams, rlhf
from tasks.sft import SftInputs, SftOutputs, SftParams, sft
from tasks.tokenizer import TokenizerInputs, TokenizerOutputs, TokenizerParams, tokenizer
from tests.tiny import weights_of

pytestmark = pytest.mark.long

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
SPEED = {"learning_rate": 1e-3, "warmup_share": 0.1, "precision": "float32"}
PLAN = {key: value for key, value in SPEED.items() if key != "precision"}
PRETRAINING = {
    "start": {"take": "scratch", "layers": 2, "hidden_size": 32, "feed_forward_size": 64, "heads": 2},
    "blocks": {"tokens": 64, "batch": 4, "precision": "float32"},
    "training": {"steps": 6, "weight_decay": 0.0, **PLAN},
}


def finetuning(name="full"):
    return Finetuning(weights=weights_of(name, 4, 8), epochs=1, batch_size=8, max_tokens=256, weight_decay=0.0, **SPEED)


def reinforcement(name="full", max_kl=50.0):
    sampling = {"max_new_tokens": 8, "temperature": 1.0, "measured_answers": 2, "measured_prompts": 4, "answers_per_batch": 8}
    sizes = {"steps": 2, "prompts_per_step": 2, "answers_per_prompt": 2}
    return Reinforcement(weights=weights_of(name, 4, 8), beta=0.1, max_kl=max_kl, **sampling, **sizes, **SPEED)


class Pipeline:
    """The stages over one folder of records."""

    def __init__(self, records: Path, target: Path) -> None:
        self.records, self.target = records, target
        self.work = Work(folder=target / "work", reports=target / "reports")

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
        return sft(SftParams(seed=1, **dict(plan or finetuning())), inputs, SftOutputs(sft=self.target / name), self.work)

    def reward(self, name="reward", plan=None):
        inputs = RewardInputs(sft=self.target / "sft", preferences=self.records / "preferences")
        return reward(RewardParams(seed=1, **dict(plan or finetuning())), inputs, RewardOutputs(reward=self.target / name), self.work)

    def rlhf(self, name="rlhf", plan=None):
        inputs = RlhfInputs(sft=self.target / "sft", reward=self.target / "reward", prompts=self.records / "prompts")
        return rlhf(RlhfParams(seed=1, **dict(plan or reinforcement())), inputs, RlhfOutputs(rlhf=self.target / name), self.work)

    def dpo(self, name="dpo", plan=None, **changes):
        inputs = DpoInputs(sft=self.target / "sft", preferences=self.records / "preferences")
        params = DpoParams(seed=1, beta=0.1, label_smoothing=0.0, **{**dict(plan or finetuning()), **changes})
        return dpo(params, inputs, DpoOutputs(dpo=self.target / name), self.work)

    def run(self):
        self.metrics = [self.tokenizer(), self.base(), self.sft(), self.reward(), self.rlhf(), self.dpo()]
        return self


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for kind, rows in world.generate(5, SIZE, ())[0].items():
        write_lines(folder / kind / "train.jsonl", rows[4:])
        write_lines(folder / kind / "held_out.jsonl", rows[:4])
    return folder


@pytest.fixture(scope="module")
def done(records, tmp_path_factory):
    return Pipeline(records, tmp_path_factory.mktemp("one")).run()


def test_every_language_model_is_a_whole_folder_that_answers(done):
    for name in ("base", "sft", "rlhf", "dpo"):
        model, words = (kind.from_pretrained(done.target / name) for kind in (AutoModelForCausalLM, AutoTokenizer))
        asked = words.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt")
        assert model.generate(**asked, max_new_tokens=3).shape[1] > asked["input_ids"].shape[1]


def test_the_reward_model_gives_one_number(done):
    assert AutoModelForSequenceClassification.from_pretrained(done.target / "reward").config.num_labels == 1


def test_equal_runs_give_equal_metrics_and_equal_bytes(done, records, tmp_path):
    again = Pipeline(records, tmp_path / "elsewhere").run()
    assert again.metrics == done.metrics
    for name in ("tokenizer", "base", "sft", "reward", "rlhf", "dpo"):
        assert folder_md5(again.target / name) == folder_md5(done.target / name)


def test_no_out_holds_a_pickle_or_a_path(done):
    for name in ("tokenizer", "base", "sft", "reward", "rlhf", "dpo"):
        for path in (done.target / name).rglob("*"):
            assert path.suffix in (".json", ".jinja", ".safetensors")
            assert str(done.target).encode() not in path.read_bytes()


def test_each_stage_changes_the_weights(done):
    assert len({folder_md5(done.target / name) for name in ("base", "sft", "rlhf", "dpo")}) == 4


def test_progress_ends_with_the_last_step(done):
    told = []
    done.work = Work(folder=done.work.folder, reports=done.work.reports, progress=lambda *call: told.append(call))
    done.sft("sft-told")
    assert told[-1][0] == told[-1][1] > 1
    assert "loss" in [values for *_, values in told if values][-1]


@pytest.mark.parametrize("name", ["lora", "last-layers"])
def test_other_weights_give_whole_models_too(done, name):
    done.sft(f"sft-{name}", finetuning(name))
    done.reward(f"reward-{name}", finetuning(name))
    done.rlhf(f"rlhf-{name}", reinforcement(name))
    done.dpo(f"dpo-{name}", finetuning(name))
    for stage in ("sft", "reward", "rlhf", "dpo"):
        same, other = ({path.name for path in (done.target / folder).iterdir()} for folder in (stage, f"{stage}-{name}"))
        assert same == other
        assert folder_md5(done.target / stage) != folder_md5(done.target / f"{stage}-{name}")


def test_a_pretrained_model_that_is_not_trained_is_taken_as_it_is(done):
    shutil.copytree(done.target / "sft", done.target / "published" / "model")
    metrics = done.base("taken", "sft", {**PRETRAINING, "start": {"take": "pretrained"}, "training": None})
    assert metrics.train_loss is None
    assert metrics.pretrained_md5 == folder_md5(done.target / "sft")
    assert metrics.training_tokens == 0
    assert (done.target / "taken" / "model.safetensors").read_bytes() == (done.target / "sft" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("changed", "pretrained", "said"),
    [
        ({"training": None}, None, "training is null, and from scratch there is nothing else to take"),
        ({"start": {"take": "pretrained"}}, None, "start takes pretrained, and the key 'pretrained' names none"),
        ({}, "sft", "start takes scratch, and the key 'pretrained' is sft"),
        ({"blocks": None}, None, "blocks is null, and training reads documents"),
    ],
)
def test_what_does_not_fit_together_is_refused(done, changed, pretrained, said):
    with pytest.raises(ValidationError, match=said):
        done.base("none", pretrained, {**PRETRAINING, **changed})


def test_one_prompt_is_trained_on_as_often_as_a_step_asks(done, records, tmp_path):
    rows = list(read_lines(records / "prompts" / "train.jsonl"))
    few = Pipeline(tmp_path, done.target)
    write_lines(tmp_path / "prompts" / "train.jsonl", rows[:1])
    write_lines(tmp_path / "prompts" / "held_out.jsonl", rows[1:3])
    told = []
    few.work = Work(folder=done.work.folder, reports=done.work.reports, progress=lambda *call: told.append(call))
    assert few.rlhf("few").held_out_prompts == 2
    assert told[-1][:2] == (2, 2)
    write_lines(tmp_path / "prompts" / "held_out.jsonl", rows[1:2])
    with pytest.raises(StageError, match=r"held_out.jsonl: 1 of 1 prompts leave room .* must be 2 at least"):
        few.rlhf("fewer")


def test_too_far_from_sft_fails_and_leaves_no_model(done):
    with pytest.raises(StageError, match=r"must be at most rlhf.max_kl = 1e-09"):
        done.rlhf("far", reinforcement(max_kl=1e-9))
    assert not (done.target / "far").exists()


def test_records_that_are_all_too_long_are_refused(done):
    with pytest.raises(StageError, match="raise the key max_tokens"):
        done.sft("none", finetuning().model_copy(update={"max_tokens": 16}))
