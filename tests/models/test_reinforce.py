"""Reinforcement learning: each method raises a reward that can be raised, and is held near where it began."""

import numpy as np
import pytest
import torch

from models.core.errors import UserError
from models.core.ranks import Ranks
from models.core.work import Work
from models.train import generation, policy, reinforce, reward_model, training, vocabulary
from models.train.methods import group, ppo
from models.train.settings import Reinforcement
from models.train.worth import Rewards
from tests.tiny import ROOM, WARNED, method_of, recorder_of, tiny_model, weights_of

pytestmark = pytest.mark.long

ASKED = [{"prompt": [{"role": "user", "content": f"{number}?"}]} for number in range(8)]
PLAN = {
    **ROOM,
    **WARNED,
    "weights": weights_of("full"),
    "steps": 25,
    "prompts_per_step": 4,
    "answers_per_prompt": 6,
    "max_new_tokens": 8,
    "temperature": 1.0,
    "learning_rate": 0.003,
    "warmup_share": 0.0,
    "schedule": "linear",
    "beta": 0.01,
    "max_kl": 1e9,
    "measured_answers": 8,
    "measured_prompts": 8,
    "answers_per_batch": 64,
    "precision": "float32",
}
METHODS = {
    "grpo": method_of("grpo"),
    "rloo": method_of("rloo"),
    "ppo": method_of("ppo"),
    "ppo with KL in the loss": method_of("ppo", kl="loss"),
}


def letters(_asked, answers):
    """A reward that pays for the letters a to m: how many of them an answer has."""
    return np.array([float(sum(letter in "abcdefghijklm" for letter in answer)) for answer in answers])


LETTERS = Rewards({"letters": (1.0, letters)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def trained(folder, tmp_path):
    """(reward gained, KL in nats an answer) of a training by a method, each from the same seed."""
    words, plain = vocabulary.load(folder), policy.load(folder)

    def train(method, **changes):
        training.make_repeatable(1)
        plan = Reinforcement(method=method, **{**PLAN, **changes})
        first, work = policy.load(folder), Work(tmp_path, tmp_path)
        if method["algorithm"] == "ppo":
            model = ppo.fit(first, plain, reward_model.load(folder), LETTERS, words, ASKED, plan, 1, work, recorder_of(plan, tmp_path))
        else:
            model = group.fit(first, LETTERS, words, ASKED, plan, 1, work, recorder_of(plan, tmp_path))
        before, after = (reinforce.sample(one, words, ASKED, plan, 1) for one in (plain, model))
        gained = reinforce.mean_rewards(LETTERS, after, plan)[0].mean() - reinforce.mean_rewards(LETTERS, before, plan)[0].mean()
        return gained, reinforce.divergence(model, plain, after).mean()

    return train


@pytest.mark.parametrize("name", [name if name == "ppo" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS])
def test_a_reward_that_can_be_raised_is_raised_and_kl_holds_it_back(name, trained):
    free, held = trained(METHODS[name]), trained(METHODS[name], beta=5.0)
    assert free[0] > 1.0
    assert held[1] < free[1] / 2


def test_without_vllm_its_setting_is_refused_in_one_line(trained):
    with pytest.raises(UserError, match=r"^rlhf.method.vllm_memory is set, and the package vllm is not installed: "):
        trained(method_of("grpo", vllm_memory=0.3))


def test_what_is_drawn_for_a_prompt_does_not_depend_on_the_prompts_beside_it(folder):
    """Random numbers are a row's own: a rank that draws some of the rows draws the same answers."""
    model, words = policy.load(folder), vocabulary.load(folder)
    prompts = [generation.prompt_ids(words, record["prompt"]) for record in ASKED]

    def drawn(ranks):
        torch.manual_seed(5)
        return generation.answers(model, prompts, [0], 12, 1.0, ranks)

    whole = drawn(Ranks())
    assert len({tuple(answer) for answer in whole}) > 1
    for place in range(3):
        part = Ranks(place, 3)
        assert drawn(part) == whole[part.share(len(prompts))]


def test_greedy_answers_are_those_of_transformers(folder):
    model, words = policy.load(folder), vocabulary.load(folder)
    [batch] = generation.batches(model, words, [record["prompt"] for record in ASKED], len(ASKED), 12)
    for record, text, ended in zip(ASKED, batch.texts, batch.ended, strict=True):
        ids = torch.tensor([generation.prompt_ids(words, record["prompt"])])
        alone = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
        assert words.decode(alone, skip_special_tokens=True) == text
        assert (words.eos_token_id in alone.tolist()) == bool(ended)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_few_logits_at_once_train_as_many_piece_by_piece(folder, tmp_path, algorithm, monkeypatch):
    plan, words, found = Reinforcement(method=method_of(algorithm), **{**PLAN, "steps": 3}), vocabulary.load(folder), []
    for most in (group.LOGITS, 0):
        monkeypatch.setattr(group, "LOGITS", most)
        training.make_repeatable(1)
        recorder = recorder_of(plan, tmp_path)
        found.append(group.fit(policy.load(folder), LETTERS, words, ASKED, plan, 1, Work(tmp_path, tmp_path), recorder).state_dict())
    start = policy.load(folder).state_dict()
    for name, weight in found[0].items():
        assert (weight - found[1][name]).norm() <= 0.02 * (weight - start[name]).norm() + 1e-6, name
