"""Every stage takes published models of any architecture as they are: bfloat16 in several shards, with whatever tokenizer and template.

What runs by default takes nearly every architecture, every stage and every choice of weights; the whole matrix is marked slow.
"""

from itertools import product
from pathlib import Path

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, pipeline

from models.core.errors import StageError
from models.core.files import write_lines
from models.core.given import read_lines
from models.core.work import Work
from models.train import policy, reward_model, vocabulary
from models.train.settings import Finetuning, Reinforcement, Weights
from tasks.base import BaseInputs, BaseOutputs, BaseParams, base
from tasks.preference import PreferenceInputs, PreferenceOutputs, PreferenceParams, preference
from tasks.reward import RewardInputs, RewardOutputs, RewardParams, reward
from tasks.rlhf import RlhfInputs, RlhfOutputs, RlhfParams, rlhf
from tasks.sft import SftInputs, SftOutputs, SftParams, sft
from tasks.tokenizer import TokenizerInputs, TokenizerOutputs, TokenizerParams, tokenizer
from tests.architectures import PUBLISHED
from tests.tiny import ROOM, WARNED, method_of, preferring, weights_of
from tests.trainings import JUDGED, STEADY

pytestmark = pytest.mark.long

METHODS = ("full", "lora", "last-layers")
STAGES = ("sft", "reward", "rlhf", "preference")
OFTEN = {
    ("gpt2", "rlhf", "last-layers"),
    ("mixtral", "rlhf", "full"),
    ("qwen2", "reward", "lora"),
    ("granite", "reward", "last-layers"),
    ("opt", "sft", "last-layers"),
    ("gemma3", "sft", "lora"),
    ("gpt2", "preference", "full"),
}
MATRIX = [
    pytest.param(*case, marks=[] if case in OFTEN else pytest.mark.slow, id="-".join(case)) for case in product(PUBLISHED, STAGES, METHODS)
]
SPEED = {"learning_rate": 1e-2, "warmup_share": 0.0, "schedule": "linear", "precision": "float32"}


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
        self.published = PUBLISHED[name].write(target / "pretrained" / "model")
        words = TokenizerInputs(pretrained=target / "pretrained", documents=records / "documents", instructions=records / "instructions")
        params = TokenizerParams(pretrained=str(self.published), vocabulary={"take": "pretrained"})
        tokenizer(params, words, TokenizerOutputs(tokenizer=target / "tokenizer"))

    def base(self, steps: int = 0, block_tokens: int = 32):
        speed = {key: value for key, value in SPEED.items() if key != "precision"}
        plan = {
            "start": {"take": "pretrained"},
            "blocks": {"tokens": block_tokens, "batch": 4, "precision": SPEED["precision"], **ROOM},
            "training": {"steps": steps, "optimizer": "muon", **STEADY, **speed} if steps else None,
        }
        inputs = BaseInputs(pretrained=self.published.parent, tokenizer=self.target / "tokenizer", documents=self.records / "documents")
        params = BaseParams(seed=1, pretrained=str(self.published), **plan)
        return base(params, inputs, BaseOutputs(base=self.target / "base"), self.work)

    def train(self, stage: str, train: str = "full", out: Path | None = None, **changes):
        return getattr(self, f"_{stage}")(weights_of(train), out or self.target / stage, changes)

    def need(self, *stages: str) -> "Stages":
        for stage in stages:
            if not (self.target / stage).exists():
                self.base() if stage == "base" else self.train(stage)
        return self

    def _finetuning(self, weights: Weights, changes: dict):
        numbers = {"epochs": 1, "batch_size": 4, "max_tokens": 256, **STEADY, **ROOM, **SPEED, **changes}
        return dict(Finetuning(weights=weights, **numbers))

    def _sft(self, weights: Weights, out: Path, changes: dict):
        inputs = SftInputs(base=self.target / "base", instructions=self.records / "instructions")
        return sft(
            SftParams(seed=1, neftune=0.0, packing=False, **self._finetuning(weights, changes)), inputs, SftOutputs(sft=out), self.work
        )

    def _reward(self, weights: Weights, out: Path, changes: dict):
        inputs = RewardInputs(sft=self.target / "sft", preferences=self.records / "preferences")
        return reward(RewardParams(seed=1, floor=0.0, **self._finetuning(weights, changes)), inputs, RewardOutputs(reward=out), self.work)

    def _preference(self, weights: Weights, out: Path, changes: dict):
        inputs = PreferenceInputs(sft=self.target / "sft", preferences=self.records / "preferences")
        params = PreferenceParams(seed=1, method=preferring("dpo"), **self._finetuning(weights, changes))
        return preference(params, inputs, PreferenceOutputs(preference=out), self.work)

    def _rlhf(self, weights: Weights, out: Path, changes: dict):
        sizes = {"steps": 1, "prompts_per_step": 1, "answers_per_prompt": 2, "max_new_tokens": 4, "temperature": 1.0}
        measured = {"measured_answers": 2, "measured_prompts": 2, "answers_per_batch": 3, "beta": 0.1, "max_kl": 1000.0}
        inputs = RlhfInputs(sft=self.target / "sft", reward=self.target / "reward", prompts=self.records / "prompts")
        numbers = {"method": method_of("grpo"), **sizes, **measured, **WARNED, **ROOM, **SPEED, **changes}
        params = RlhfParams(seed=1, rewards=JUDGED, **dict(Reinforcement(weights=weights, **numbers)))
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


NEEDS = {"sft": ("base",), "reward": ("base", "sft"), "rlhf": ("base", "sft", "reward"), "preference": ("base", "sft")}


@pytest.mark.parametrize(("name", "stage", "train"), MATRIX)
def test_every_choice_of_weights_in_every_stage_trains_every_architecture_into_a_whole_model(made, tmp_path, name, stage, train):
    stages, out = made(name).need(*NEEDS[stage]), tmp_path / "out"
    stages.train(stage, train, out)
    assert {path.suffix for path in out.iterdir()} == {".json", ".jinja", ".safetensors"}
    load = reward_model.load if stage == "reward" else policy.load
    after, before = load(out), load(stages.target / NEEDS[stage][-1 if stage != "rlhf" else 1])
    pairs = list(zip(after.named_parameters(), before.parameters(), strict=True))
    moved = {name for (name, weight), other in pairs if not torch.equal(weight, other)}
    assert moved
    if train == "last-layers":
        first = {name for name, _ in after.get_decoder().named_parameters() if ".0." in f".{name}"}
        assert first
        assert not {name for name in moved if any(name.endswith(own) for own in first)}


@pytest.mark.slow
@pytest.mark.parametrize("train", ["full", "lora", "last-layers"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_ppo_trains_every_architecture_too(made, tmp_path, name, train):
    stages = made(name).need(*NEEDS["rlhf"])
    metrics = stages.train("rlhf", train, tmp_path / "out", method=method_of("ppo"), answers_per_prompt=1, prompts_per_step=2)
    assert metrics.kl >= 0
    after, before = policy.load(tmp_path / "out").state_dict(), policy.load(stages.target / "sft").state_dict()
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[weight], before[weight]) for weight in after)


def test_pretraining_goes_on_from_a_published_model(made):
    stages = Stages("opt", made("opt").records, made("opt").target.parent / "opt-further")
    metrics = stages.base(steps=2)
    trained, published = (policy.load(place).state_dict() for place in (stages.target / "base", stages.published))
    assert metrics.train_loss > 0
    assert not torch.equal(trained["model.decoder.embed_positions.weight"], published["model.decoder.embed_positions.weight"])
    assert trained.keys() == published.keys()


@pytest.mark.parametrize("name", ["gpt2", "llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma2", "qwen3"))])
def test_a_trained_model_answers_a_chat_as_a_server_asks_it(made, name):
    folder = made(name).need("base", "sft").target / "sft"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello Ton"}]
    answer = pipeline("text-generation", model=str(folder))(chat, max_new_tokens=3, return_full_text=True)[0]["generated_text"]
    assert answer[:-1] == chat
    assert answer[-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("stage", "key", "too_many"),
    [("sft", "max_tokens", 513), ("reward", "max_tokens", 600), ("preference", "max_tokens", 600), ("rlhf", "max_new_tokens", 513)],
)
def test_more_tokens_than_the_model_has_positions_are_refused(made, tmp_path, stage, key, too_many):
    stages = made("opt").need(*NEEDS[stage])
    with pytest.raises(StageError, match=rf"^{stage}.{key} is {too_many}, must be at most the model's 512 positions: lower it"):
        stages.train(stage, out=tmp_path / "out", **{key: too_many})
    assert not (tmp_path / "out").exists()


def test_blocks_longer_than_the_model_has_positions_are_refused(made, tmp_path):
    stages = Stages("gpt2", made("gpt2").records, tmp_path)
    with pytest.raises(StageError, match=r"^base.blocks.tokens is 513, must be at most the model's 512 positions"):
        stages.base(block_tokens=513)


def test_prompts_that_leave_no_room_for_an_answer_are_left_out_and_counted(made, tmp_path):
    stages = made("gpt2").need(*NEEDS["rlhf"])
    long = [{"id": "long", "prompt": [{"role": "user", "content": "Hello Ton " * 60}]}]
    kept, own = stages.records, stages.records / "prompts"
    try:
        stages.records = tmp_path
        for part in ("train", "held_out"):
            write_lines(tmp_path / "prompts" / f"{part}.jsonl", [*read_lines(own / f"{part}.jsonl"), *long])
        assert stages.train("rlhf", out=tmp_path / "out").too_long == 2
        write_lines(tmp_path / "prompts" / "train.jsonl", long)
        with pytest.raises(StageError, match="0 of 1 prompts leave room for an answer"):
            stages.train("rlhf", out=tmp_path / "none")
    finally:
        stages.records = kept


def test_a_record_that_the_template_refuses_is_named(made, tmp_path):
    stages = made("mistral").need("base")
    kept = stages.records
    try:
        stages.records = tmp_path
        messages = [{"role": role, "content": "a"} for role in ("user", "user", "assistant")]
        for part in ("train", "held_out"):
            write_lines(tmp_path / "instructions" / f"{part}.jsonl", [{"id": "i9", "messages": messages, "source": "x"}])
        with pytest.raises(StageError, match=r"train.jsonl, i9: .* refuses a conversation of user user assistant \(Roles must alternate\)"):
            stages.train("sft", out=tmp_path / "out")
    finally:
        stages.records = kept


def test_a_tokenizer_of_another_model_is_refused_with_the_difference(made, tmp_path):
    stages, other = Stages("qwen2", made("qwen2").records, tmp_path / "one"), made("qwen3")
    stages.published = other.published
    with pytest.raises(StageError, match=r"the tokenizer of tokenizer is not the one that .* was made with(?s:.*)\n-<think>"):
        stages.base()


def test_a_reward_model_with_another_template_is_refused_with_the_difference(made, tmp_path):
    stages = made("qwen2").need(*NEEDS["rlhf"])
    template = stages.target / "reward" / "chat_template.jinja"
    kept = template.read_text()
    try:
        template.write_text(kept.replace("You help.", "You harm."))
        with pytest.raises(StageError, match=r"the tokenizer of reward .*(?s:.*)\n-You help.<\|im_end\|>\n\+You harm.<\|im_end\|>"):
            stages.train("rlhf", out=tmp_path / "out")
    finally:
        template.write_text(kept)


def test_a_longer_conversation_than_the_reward_model_can_place_is_read_from_its_end(made):
    stages = made("gpt2").need("base", "sft", "reward")
    model, words = reward_model.load(stages.target / "reward"), vocabulary.load(stages.target / "reward")
    long, other = ([{"role": "user", "content": start + "Hello Ton " * 100}] for start in ("a", "b"))
    one, two = reward_model.rewards(model, words, [long, other], 2)
    assert one == two


@pytest.mark.parametrize("name", [pytest.param("qwen2", marks=pytest.mark.slow), "gemma3"])
def test_answers_do_not_depend_on_how_many_are_rated_at_once(made, name):
    from models.train import reinforce

    stages = made(name).need("base", "sft")
    model, words = policy.load(stages.target / "sft"), vocabulary.load(stages.target / "sft")
    sizes = {"steps": 1, "prompts_per_step": 1, "answers_per_prompt": 2, "max_new_tokens": 5, "temperature": 1.0, "max_kl": 1.0}
    plan = Reinforcement(
        method=method_of("grpo"),
        weights=weights_of("full"),
        measured_answers=2,
        measured_prompts=3,
        answers_per_batch=4,
        beta=0.1,
        **sizes,
        **ROOM,
        **WARNED,
        **SPEED,
    )
    asked = [{"prompt": [{"role": "user", "content": text}]} for text in ("Hello", "Who is in Ton?", "a")]
    answers = reinforce.sample(model, words, asked, plan, 1)
    assert [len(batch.ids) for batch in answers.batches] == [4, 2]
    assert len(answers.texts) == len(answers.tokens) == 6
    assert answers.asked == [record for record in asked for _ in range(2)]
    other = policy.load(stages.target / "base")
    with torch.no_grad():
        expected = []
        for batch in answers.batches:
            for row in range(len(batch.ids)):
                own = batch.attention[row].bool()
                ours, theirs = (one(batch.ids[row, own][None]).logits[0].log_softmax(-1) for one in (model, other))
                said = batch.said[row, own][1:]
                expected.append(float(((ours.exp() * (ours - theirs)).sum(-1)[:-1] * said).sum()))
    assert reinforce.divergence(model, other, answers) == pytest.approx(expected, abs=1e-4)


def test_an_architecture_that_cannot_rate_is_refused_in_one_line(tmp_path):
    MambaForCausalLM(MambaConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1)).save_pretrained(tmp_path / "mamba")
    with pytest.raises(StageError, match=r"^MambaForCausalLM keeps what it has read in its own way, .*: take another architecture$"):
        reward_model.load(tmp_path / "mamba")
