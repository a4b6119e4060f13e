"""Reinforcement learning: each method raises a reward that can be raised, and is held near where it began."""

import numpy as np
import pytest

from models.core.work import Work
from models.train import policy, preference, reinforce, training, vocabulary
from models.train.settings import Reinforcement
from tests.tiny import tiny_model, weights_of

pytestmark = pytest.mark.long

ASKED = [[{"role": "user", "content": f"{number}?"}] for number in range(8)]
PLAN = {
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


def letters(_model, _tokenizer, conversations, _size):
    """A reward that pays for the letters a to m: how many of them an answer has."""
    return np.array([float(sum(letter in "abcdefghijklm" for letter in said[-1]["content"])) for said in conversations])


@pytest.mark.parametrize("method", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_a_reward_that_can_be_raised_is_raised_and_kl_holds_it_back(method, tmp_path, monkeypatch):
    monkeypatch.setattr(preference, "rewards", letters)
    folder = tiny_model(tmp_path / "model")
    words, plain = vocabulary.load(folder), policy.load(folder)
    moved = {}
    for beta in (0.01, 5.0):
        training.make_repeatable(1)
        plan = Reinforcement(method=method, **{**PLAN, "beta": beta})
        trained = reinforce.fit(policy.load(folder), plain, words, ASKED, plan, 1, Work(tmp_path, tmp_path))
        before, after = (reinforce.sample(model, words, ASKED, plan, 1) for model in (plain, trained))
        gained = reinforce.mean_rewards(plain, words, after, plan).mean() - reinforce.mean_rewards(plain, words, before, plan).mean()
        moved[beta] = (gained, reinforce.divergence(trained, plain, after).mean())
    assert moved[0.01][0] > 1.0
    assert moved[5.0][1] < moved[0.01][1] / 2
