"""Direct preference optimisation: what counts, its loss on worked numbers, and that it learns."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset

from models.core.work import Work
from models.train import chat, pairs, policy, vocabulary
from models.train.methods import direct
from models.train.settings import DirectPreference
from tests.tiny import ROOM, tiny_model, weights_of

pytestmark = pytest.mark.long

SPEED = {"learning_rate": 1e-3, "warmup_share": 0.0, "schedule": "linear"}
PLAN = {"epochs": 1, "batch_size": 4, "max_tokens": 256, "weight_decay": 0.0, **ROOM, **SPEED}


def plan(train="full", **changes):
    return DirectPreference(weights=weights_of(train), **{"precision": "float32", "beta": 0.1, "loss": sigmoid(0.0), **PLAN, **changes})


def sigmoid(smoothing):
    return {"form": "sigmoid", "label_smoothing": smoothing}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def words(folder):
    return vocabulary.load(folder)


def said(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def records():
    asked = [
        [{"role": "system", "content": "Be brief."}] * (number % 2) + [{"role": "user", "content": f"{number}?"}] for number in range(8)
    ]
    return Dataset.from_list([{"prompt": prompt, "chosen": said("yes" * 3), "rejected": said("no")} for prompt in asked])


def test_what_counts_is_the_reply_and_the_token_that_ends_it(words, records):
    for pair, coded in zip(records, direct.coded(records, words), strict=True):
        for side in direct.SIDES:
            ids, mine = chat.coder(words)(pair["prompt"] + pair[side])
            assert coded[f"{side}_ids"] == [token for token, own in zip(ids, mine, strict=True) if own]
            assert (coded["prompt_ids"] + coded[f"{side}_ids"]) == ids[: len(coded["prompt_ids"] + coded[f"{side}_ids"])]


def test_an_earlier_reply_in_the_prompt_does_not_count(words):
    earlier = [{"role": "user", "content": "a"}, *said("b"), {"role": "user", "content": "c"}]
    [coded] = direct.coded(Dataset.from_list([{"prompt": earlier, "chosen": said("d"), "rejected": said("e")}]), words)
    assert words.decode(coded["chosen_ids"]) == "d<|end|>"
    assert words.decode(coded["prompt_ids"]) == chat.rendered(words, earlier, prompt=True)


def test_answers_that_begin_alike_keep_what_they_share(words):
    [coded] = direct.coded(
        Dataset.from_list([{"prompt": [{"role": "user", "content": "a"}], "chosen": said("yes"), "rejected": said("yet")}]), words
    )
    assert [words.decode(coded[f"{side}_ids"]) for side in direct.SIDES] == ["yes<|end|>", "yet<|end|>"]


def test_likelihoods_are_those_of_the_plain_model_whatever_the_batch(folder, words, records):
    model, coded = policy.load(folder).eval(), direct.coded(records, words)
    wanted = []
    for row in coded:
        for side in direct.SIDES:
            ids, at = torch.tensor([row["prompt_ids"] + row[f"{side}_ids"]]), len(row["prompt_ids"])
            with torch.no_grad():
                logs = model(ids).logits.double().log_softmax(-1)[0, at - 1 : -1]
            wanted.append(float(logs.gather(1, ids[0, at:, None]).sum()))
    for batch in (1, 3, 8):
        np.testing.assert_allclose(direct.likelihoods(model, coded, batch).ravel(), wanted, rtol=1e-4)


def test_the_loss_on_worked_numbers():
    ratios = np.array([[1.0, -1.0], [0.0, 0.0], [-3.0, 1.0]])
    sure = [-math.log(1 / (1 + math.exp(-gap))) for gap in (1.0, 0.0, -2.0)]  # beta .5
    wrong = [-math.log(1 / (1 + math.exp(gap))) for gap in (1.0, 0.0, -2.0)]
    tokens = np.array([[2, 4], [1, 1], [3, 1]])
    np.testing.assert_allclose(direct.losses(ratios, tokens, plan(beta=0.5)), sure)
    smoothed = [0.9 * one + 0.1 * other for one, other in zip(sure, wrong, strict=True)]
    np.testing.assert_allclose(direct.losses(ratios, tokens, plan(beta=0.5, loss=sigmoid(0.1))), smoothed)
    a_token = [(0.5 + 0.25 - 1) ** 2, 1.0, (-1.0 - 1.0 - 1) ** 2]  # 1 / (2 beta) is 1
    np.testing.assert_allclose(direct.losses(ratios, tokens, plan(beta=0.5, loss={"form": "ipo"})), a_token)


def fitted(folder, words, records, how, tmp_path):
    coded, reference = direct.coded(records, words), policy.load(folder)
    before = direct.likelihoods(reference, coded, 8)
    model, loss = direct.fit(policy.load(folder), reference, words, coded, how, 1, Work(folder=tmp_path, reports=tmp_path))
    return direct.likelihoods(model, coded, 8) - before, loss, direct.lengths(coded)


@pytest.mark.parametrize(("form", "still"), [(sigmoid(0.0), math.log(2)), (sigmoid(0.2), math.log(2)), ({"form": "ipo"}, 25.0)])
def test_what_the_trainer_lowers_is_the_loss_that_is_measured(folder, words, records, tmp_path, form, still):
    """At a rate of nearly nothing the mean loss over an epoch is that of a policy equal to its reference; a large step gives another."""
    how = plan(learning_rate=1e-12, loss=form)
    ratios, loss, tokens = fitted(folder, words, records, how, tmp_path)
    assert loss == pytest.approx(still, rel=1e-4) == direct.losses(ratios, tokens, how).mean()


def test_ipo_stops_at_its_gap(folder, words, records, tmp_path):
    how = plan(epochs=40, learning_rate=3e-3, beta=2.0, loss={"form": "ipo"})
    ratios, _, tokens = fitted(folder, words, records, how, tmp_path)
    each = ratios / tokens
    assert (each[:, 0] - each[:, 1]).mean() == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize("train", ["full", "lora", "last-layers"])
def test_the_chosen_answers_win(folder, words, records, tmp_path, train):
    how = plan(train, epochs=8, learning_rate=3e-3 if train == "full" else 1e-2)
    ratios, loss, tokens = fitted(folder, words, records, how, tmp_path)
    accuracy, margin = pairs.ranked(*(how.beta * ratios).T)
    assert accuracy == 1.0
    assert margin > 0
    assert direct.losses(ratios, tokens, how).mean() < loss < math.log(2)


def test_a_larger_beta_holds_the_policy_nearer(folder, words, records, tmp_path):
    moved = [fitted(folder, words, records, plan(epochs=8, beta=beta), tmp_path)[0] for beta in (0.1, 5.0)]
    gaps = [float((ratios[:, 0] - ratios[:, 1]).mean()) for ratios in moved]
    assert gaps[0] > gaps[1] > 0
