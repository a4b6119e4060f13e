"""Reinforcement learning: each method raises a reward that can be raised, and is held near where it began."""

import numpy as np
import pytest

from models.core.work import Work
from models.train import policy, reinforce, reward_model, training, vocabulary
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
