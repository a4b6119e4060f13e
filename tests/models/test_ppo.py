"""PPO against values worked by hand, in float64, and against what it must be equal to."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from pydantic import ValidationError
from trl import RLOOConfig, RLOOTrainer

from models.core.work import Work
from models.train import generation, policy, reinforce, reward_model, training, vocabulary
from models.train.methods import ppo
from models.train.settings import Reinforcement
from models.train.worth import Rewards
from tests.models.test_reinforce import ASKED, LETTERS, PLAN
from tests.tiny import method_of, recorder_of, tiny_model, weights_of

ALL = torch.ones(1, 3, dtype=torch.bool)


def row(*values):
    return torch.tensor([values], dtype=torch.float64)


def test_advantages_and_returns_worked_by_hand():
    found, returns = ppo.advantages(row(0.0, 0.0, 1.0), row(0.5, 0.4, 0.3), ALL, 0.95)
    # last: 1 - .3; before: .3 - .4 + .95 * .7; first: .4 - .5 + .95 * .565
    assert found[0].tolist() == pytest.approx([0.43675, 0.565, 0.7], abs=1e-15)
    assert returns[0].tolist() == pytest.approx([0.93675, 0.965, 1.0], abs=1e-15)


def test_trace_1_trusts_what_came_and_0_one_token_more():
    rewards, values = row(0.1, -0.2, 1.0), row(0.5, 0.4, 0.3)
    assert ppo.advantages(rewards, values, ALL, 1.0)[1][0].tolist() == pytest.approx([0.9, 0.8, 1.0])  # the rewards to come
    assert ppo.advantages(rewards, values, ALL, 0.0)[1][0].tolist() == pytest.approx([0.1 + 0.4, -0.2 + 0.3, 1.0])


def test_advantages_are_the_weighted_sums_of_what_was_not_foreseen_and_padding_counts_for_nothing():
    draw = torch.Generator().manual_seed(3)
    rewards, values = (torch.randn(4, 9, dtype=torch.float64, generator=draw) for _ in range(2))
    begins, ends = (2, 0, 5, 3), (9, 4, 6, 8)
    said = torch.tensor([[begin <= at < end for at in range(9)] for begin, end in zip(begins, ends, strict=True)])
    found, returns = ppo.advantages(rewards, values, said, 0.9)
    for place, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        foreseen = [*values[place, begin:end].tolist(), 0.0]
        errors = [rewards[place, begin + at].item() + foreseen[at + 1] - foreseen[at] for at in range(end - begin)]
        expected = [sum(0.9**later * errors[at + later] for later in range(len(errors) - at)) for at in range(len(errors))]
        assert found[place, begin:end].tolist() == pytest.approx(expected, abs=1e-12)
    assert not found[~said].any()
    assert not returns[~said].any()
    assert torch.equal(returns[said], (found + values)[said])


@pytest.mark.parametrize(
    ("now", "gain", "loss", "slope"),
    [
        (0.2, 1.0, -1.0, -1.0),  # where they were drawn: the plain gradient of the policy
        (0.3, 1.0, -1.2, 0.0),  # half as likely again, and clipped at a fifth: pushed no further
        (0.3, -1.0, 1.5, 1.5),  # against the gain: not clipped
        (0.1, -1.0, 0.8, 0.0),
        (0.1, 1.0, -0.5, -0.5),
    ],
)
def test_the_policys_loss_worked_by_hand(now, gain, loss, slope):
    logs = row(math.log(now)).requires_grad_()
    found = ppo.policy_loss(logs, row(math.log(0.2)), row(gain), ALL[:, :1], 0.2)
    found.backward()
    assert found.item() == pytest.approx(loss, abs=1e-12)
    assert logs.grad.item() == pytest.approx(slope, abs=1e-12)


@pytest.mark.parametrize(
    ("now", "loss", "slope"),
    [(0.5, 0.125, -0.5), (0.9, 0.5 * 0.8**2, 0.0), (-0.5, 0.5 * 1.5**2, -1.5)],  # before it was 0, and 1 is right
)
def test_the_values_loss_worked_by_hand(now, loss, slope):
    value = row(now).requires_grad_()
    found = ppo.value_loss(value, row(0.0), row(1.0), ALL[:, :1], 0.5 if now == 0.5 else 0.2)
    found.backward()
    assert found.item() == pytest.approx(loss, abs=1e-12)
    assert value.grad.item() == pytest.approx(slope, abs=1e-12)


def test_the_kls_estimate_is_never_negative_and_right_on_average():
    ours, theirs = (torch.tensor(weights, dtype=torch.float64).log_softmax(0) for weights in ([1.0, 0.0, -2.0], [0.0, 0.5, 1.0]))
    found = ppo.kl_terms(ours, theirs)
    assert (found >= 0).all()
    assert (ours.exp() * found).sum().item() == pytest.approx((ours.exp() * (ours - theirs)).sum().item(), abs=1e-12)


@pytest.mark.parametrize(("kl", "weight"), [(6.0, 0.1), (6.6, 0.101), (60.0, 0.102), (5.4, 0.099), (-3.0, 0.098)])
def test_the_kls_weight_follows_its_target_by_two_hundredths_a_step_at_most(kl, weight):
    assert ppo.followed(0.1, kl, 6.0) == pytest.approx(weight)
    assert ppo.followed(0.1, kl, None) == 0.1


def test_whitened_numbers_have_mean_0_and_variance_1_over_what_is_said():
    said = torch.tensor([[True, True, False], [False, True, True]])
    found = ppo.whitened(torch.tensor([[1.0, 2.0, 99.0], [99.0, 3.0, 6.0]], dtype=torch.float64), said)
    assert found[said].tolist() == pytest.approx([value / math.sqrt(14 / 3) for value in (-2, -1, 0, 3)])
    assert not found[~said].any()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


def test_at_its_first_update_it_is_rloo_where_nothing_is_foreseen(folder, tmp_path):
    """Rewards against the mean of the others, no value model, trace 1, no KL, answers of one length: TRL's gradient, but for a factor."""
    words, rewards = vocabulary.load(folder), torch.tensor([1.0, 0.0, 0.5, 2.0])
    baseline = (rewards.sum() - rewards) / 3
    draw = torch.Generator().manual_seed(1)
    prompt, answers = torch.randint(5, 250, (1, 6), generator=draw).repeat(4, 1), torch.randint(5, 250, (4, 5), generator=draw)
    asked = Dataset.from_list([{"prompt": "a"}])
    config = RLOOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False)
    more = {"args": config, "train_dataset": asked, "processing_class": words}
    trainer = RLOOTrainer(model=policy.load(folder), reward_funcs=lambda **_: [0.0], **more)
    inputs = {"prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt), "completion_ids": answers}
    inputs |= {"completion_mask": torch.ones_like(answers), "advantages": rewards - baseline}
    with torch.no_grad():
        drawn, *_ = trainer._get_per_token_logps_and_entropies(trainer.model, torch.cat([prompt, answers], 1), torch.ones(4, 11).long(), 5)
    trainer._compute_loss(trainer.model, {**inputs, "old_logps": drawn.sum(1)}).backward()
    theirs = {name: weight.grad for name, weight in trainer.model.named_parameters()}

    model, ids = policy.load(folder), torch.cat([prompt, answers], 1)
    said = torch.tensor([[False] * 5 + [True] * 5] * 4)
    now = ppo._of_next(model(input_ids=ids).logits[:, :-1], ids)
    gains, _ = ppo.advantages(ppo._at_the_end(rewards - baseline, said), torch.zeros(4, 10), said, 1.0)
    (5 * ppo.policy_loss(now, now.detach(), gains, said, 0.2)).backward()  # a mean over 20 tokens there, over 4 answers here
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, theirs[name], rtol=1e-4, atol=1e-6)


@pytest.fixture
def begun(folder):
    """A training that has not made a step yet."""
    training.make_repeatable(1)
    words, plan = vocabulary.load(folder), Reinforcement(method=method_of("ppo"), **{**PLAN, "temperature": 0.7})
    return ppo.Training(policy.load(folder), reward_model.load(folder), policy.load(folder), words, plan)


def test_what_is_known_of_an_answer_does_not_depend_on_the_others_padding(begun):
    asked = [{"prompt": [{"role": "user", "content": "long " * length}]} for length in (1, 9, 3)]
    found, told = begun._answered(asked, LETTERS)
    values = []
    for ids, attention, said, drawn, value in zip(found.ids, found.attention, found.said, found.drawn, found.values, strict=True):
        alone = ids[attention.bool()][None]
        logs = (begun.model(alone).logits[0, :-1] / 0.7).log_softmax(-1).gather(1, alone[0, 1:, None])[:, 0]
        kept = said[: len(logs)]
        torch.testing.assert_close(drawn[: len(logs)][kept], logs[kept], rtol=1e-4, atol=1e-5)
        values.append(reward_model.at_tokens(begun.value, alone, torch.ones_like(alone))[0, :-1][kept])
        torch.testing.assert_close(value[: len(logs)][kept], values[-1], rtol=1e-4, atol=1e-5)
        assert generation.prompt_ids(begun.tokenizer, asked[0]["prompt"])[-1] in alone[0, : -kept.sum()].tolist()
    assert torch.equal(found.drawn, found.reference)  # the policy is the reference still
    assert told["kl_per_token"] == 0.0
    assert found.said.sum(1).tolist() == [len(value) for value in values]


def test_a_value_at_the_last_token_is_the_reward_of_the_whole(begun):
    texts = [[{"role": "user", "content": "a"}], [{"role": "user", "content": "some more words"}]]
    rewards = reward_model.rewards(begun.value, begun.tokenizer, texts, 2)
    for text, reward in zip(texts, rewards, strict=True):
        ids = torch.tensor([begun.tokenizer(begun.tokenizer.apply_chat_template(text, tokenize=False))["input_ids"]])
        assert reward_model.at_tokens(begun.value, ids, torch.ones_like(ids))[0, -1].item() == pytest.approx(float(reward), abs=1e-5)


def test_an_answer_that_was_cut_is_worth_what_the_recipe_says(folder):
    words = vocabulary.load(folder)
    plan = Reinforcement(method=method_of("ppo", cut_reward=-5.0), **PLAN)
    begun = ppo.Training(policy.load(folder), reward_model.load(folder), policy.load(folder), words, plan)
    training.make_repeatable(1)
    asked = [ASKED[0]] * 64
    _, told = begun._answered(asked, Rewards({"one": (1.0, lambda asked, _: np.ones(len(asked)))}))
    assert 0 < told["answers_cut"] < 1
    assert told["mean_reward"] == pytest.approx(1 - 6 * told["answers_cut"])


def test_every_record_is_asked_once_before_any_is_asked_again():
    plan = Reinforcement(method=method_of("ppo"), **{**PLAN, "prompts_per_step": 3, "answers_per_prompt": 2, "steps": 8})
    steps = list(ppo._batches([{"prompt": place} for place in range(8)], plan, seed=1))
    assert [len(step) for step in steps] == [6] * 8
    order = [record["prompt"] for step in steps for record in step[::2]]
    assert [sorted(order[at : at + 8]) for at in (0, 8, 16)] == [list(range(8))] * 3
    assert [record["prompt"] for step in steps for record in step[1::2]] == order
    assert order[:8] != order[8:16]


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_group_of_one_is_refused_where_answers_are_compared(algorithm):
    assert Reinforcement(method=method_of("ppo"), **{**PLAN, "answers_per_prompt": 1})
    with pytest.raises(ValidationError, match=f"answers_per_prompt is 1, must be 2 at least: {algorithm} compares them"):
        Reinforcement(method=method_of(algorithm), **{**PLAN, "answers_per_prompt": 1})


@pytest.mark.long
def test_a_lora_has_its_reference_in_itself_and_ends_as_a_plain_model(folder, tmp_path):
    training.make_repeatable(1)
    words, plan = vocabulary.load(folder), Reinforcement(method=method_of("ppo"), **{**PLAN, "weights": weights_of("lora"), "steps": 6})
    rows = []
    work = Work(tmp_path, tmp_path, progress=lambda *told: rows.append(told[-1]))
    model = ppo.fit(policy.load(folder), None, reward_model.load(folder), LETTERS, words, ASKED, plan, 1, work, recorder_of(plan, tmp_path))
    assert rows[0]["kl_per_token"] == 0.0
    assert abs(rows[-1]["kl_per_token"]) > 0
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in policy.load(folder).named_parameters()}
    assert reinforce.sample(model, words, ASKED, plan, 1).texts
