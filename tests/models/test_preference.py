"""What sft learns from pairs, by every method: what counts, each loss on worked numbers, that it is what is lowered, and that it learns."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset

from models.core.work import Work
from models.train import chat, pairs, policy, vocabulary
from models.train.methods import dpo, kto, orpo
from models.train.settings import Preference
from tests.tiny import ROOM, preferring, tiny_model, weights_of

pytestmark = pytest.mark.long

SPEED = {"learning_rate": 1e-3, "warmup_share": 0.0, "schedule": "linear"}
PLAN = {"epochs": 1, "batch_size": 4, "max_tokens": 256, "weight_decay": 0.0, "max_rise": None, **ROOM, **SPEED}


def plan(train="full", algorithm="dpo", method=None, **changes):
    chosen = preferring(algorithm, **(method or {}))
    return Preference(weights=weights_of(train), method=chosen, **{"precision": "float32", **PLAN, **changes})


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
    return Dataset.from_list([{"record": "a", "prompt": prompt, "chosen": said("yes" * 3), "rejected": said("no")} for prompt in asked])


def test_what_counts_is_the_reply_and_the_token_that_ends_it(words, records):
    for pair, coded in zip(records, pairs.coded(records, words), strict=True):
        for side in pairs.SIDES:
            ids, mine = chat.coder(words)(pair["prompt"] + pair[side])
            assert coded[f"{side}_ids"] == [token for token, own in zip(ids, mine, strict=True) if own]
            assert (coded["prompt_ids"] + coded[f"{side}_ids"]) == ids[: len(coded["prompt_ids"] + coded[f"{side}_ids"])]


def test_an_earlier_reply_in_the_prompt_does_not_count(words):
    earlier = [{"role": "user", "content": "a"}, *said("b"), {"role": "user", "content": "c"}]
    [coded] = pairs.coded(Dataset.from_list([{"record": "a", "prompt": earlier, "chosen": said("d"), "rejected": said("e")}]), words)
    assert words.decode(coded["chosen_ids"]) == "d<|end|>"
    assert words.decode(coded["prompt_ids"]) == chat.rendered(words, earlier, prompt=True)


def test_answers_that_begin_alike_keep_what_they_share(words):
    [coded] = pairs.coded(
        Dataset.from_list([{"record": "a", "prompt": [{"role": "user", "content": "a"}], "chosen": said("yes"), "rejected": said("yet")}]),
        words,
    )
    assert [words.decode(coded[f"{side}_ids"]) for side in pairs.SIDES] == ["yes<|end|>", "yet<|end|>"]


def test_likelihoods_are_those_of_the_plain_model_whatever_the_batch(folder, words, records):
    model, coded = policy.load(folder).eval(), pairs.coded(records, words)
    wanted = []
    for row in coded:
        for side in pairs.SIDES:
            ids, at = torch.tensor([row["prompt_ids"] + row[f"{side}_ids"]]), len(row["prompt_ids"])
            with torch.no_grad():
                logs = model(ids).logits.double().log_softmax(-1)[0, at - 1 : -1]
            wanted.append(float(logs.gather(1, ids[0, at:, None]).sum()))
    for batch in (1, 3, 8):
        np.testing.assert_allclose(pairs.likelihoods(model, coded, batch).ravel(), wanted, rtol=1e-4)


METHODS = {"dpo": dpo, "kto": kto, "orpo": orpo}


def test_the_losses_of_dpo_on_worked_numbers():
    before, after = np.zeros((3, 2)), np.array([[1.0, -1.0], [0.0, 0.0], [-3.0, 1.0]])
    sure = [-math.log(1 / (1 + math.exp(-gap))) for gap in (1.0, 0.0, -2.0)]  # beta .5
    wrong = [-math.log(1 / (1 + math.exp(gap))) for gap in (1.0, 0.0, -2.0)]
    tokens = np.array([[2, 4], [1, 1], [3, 1]])

    def found(**method):
        return dpo.losses(before, after, tokens, plan(method={"beta": 0.5, **method}))

    np.testing.assert_allclose(found(), sure)
    smoothed = [0.9 * one + 0.1 * other for one, other in zip(sure, wrong, strict=True)]
    np.testing.assert_allclose(found(loss=sigmoid(0.1)), smoothed)
    a_token = [(0.5 + 0.25 - 1) ** 2, 1.0, (-1.0 - 1.0 - 1) ** 2]  # 1 / (2 beta) is 1
    np.testing.assert_allclose(found(loss={"form": "ipo"}), a_token)


def test_the_loss_of_kto_on_worked_numbers():
    ratios = np.array([[1.0, -1.0, 0.5, 0.1], [0.0, 2.0, 0.2, 0.4]])  # the last two: with answers of the other prompt, .3 at the mean
    before = np.full((2, 4), -5.0)
    how = plan(algorithm="kto", method={"beta": 0.5, "chosen_weight": 1.0, "rejected_weight": 2.0})

    def gain(value):
        return 1 / (1 + math.exp(-0.5 * value))

    wanted = [
        (1 - gain(1.0 - 0.3) + 2 * (1 - gain(0.3 + 1.0))) / 2,
        (1 - gain(0.0 - 0.3) + 2 * (1 - gain(0.3 - 2.0))) / 2,
    ]
    np.testing.assert_allclose(kto.losses(before, before + ratios, np.ones((2, 2)), how), wanted)
    nearer = -abs(ratios)  # a policy below its reference everywhere: it has moved by 0, not by less
    np.testing.assert_allclose(kto.losses(before, before + nearer, np.ones((2, 2)), how)[0], (1 - gain(-1.0) + 2 * (1 - gain(1.0))) / 2)


def test_the_loss_of_orpo_on_worked_numbers():
    after, tokens = np.array([[2 * math.log(0.8), 3 * math.log(0.5)]]), np.array([[2, 3]])  # .8 and .5 a token: odds of 4 and 1
    found = orpo.losses(np.zeros((1, 2)), after, tokens, plan(algorithm="orpo", method={"odds_weight": 0.5}))
    np.testing.assert_allclose(found, [-math.log(0.8) - 0.5 * math.log(4 / 5)])  # the sigmoid of log 4 is 4 / 5


def fitted(folder, words, records, how, tmp_path):
    method, coded, reference = METHODS[how.method.algorithm], pairs.coded(records, words), policy.load(folder)
    before = method.measured(reference, coded, 8)
    model, loss = method.fit(policy.load(folder), reference, words, coded, how, 1, Work(folder=tmp_path, reports=tmp_path))
    after = method.measured(model, coded, 8)
    return (after - before)[:, :2], loss, float(method.losses(before, after, pairs.lengths(coded), how).mean())


STILL = {"learning_rate": 1e-12}


@pytest.mark.parametrize(("form", "still"), [(sigmoid(0.0), math.log(2)), (sigmoid(0.2), math.log(2)), ({"form": "ipo"}, 25.0)])
def test_what_the_trainer_lowers_is_the_loss_that_is_measured(folder, words, records, tmp_path, form, still):
    """At a rate of nearly nothing the mean loss over an epoch is that of a policy equal to its reference; a large step gives another."""
    _, loss, measured = fitted(folder, words, records, plan(method={"loss": form}, **STILL), tmp_path)
    assert loss == pytest.approx(still, rel=1e-4) == measured


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize("algorithm", ["kto", "orpo"])
def test_so_it_is_with_the_others(folder, words, records, tmp_path, algorithm, train):
    _, loss, measured = fitted(folder, words, records, plan(train, algorithm, **STILL), tmp_path)
    assert loss == pytest.approx(measured, rel=1e-4)
    assert loss == pytest.approx(0.5, rel=1e-4) or algorithm == "orpo"  # nobody has moved: every sigmoid is a half


def test_the_odds_are_those_of_trl():
    from trl.experimental.orpo import ORPOTrainer

    means = torch.tensor([-0.2, -3.0, -1e-4]), torch.tensor([-0.9, -0.01, -2.0])
    one = type("One", (), {"beta": 1.0, "accelerator": type("Place", (), {"device": "cpu"})})
    theirs = -ORPOTrainer.odds_ratio_loss(one, *means)[0]
    tokens = np.ones((3, 2))
    ours = orpo.losses(tokens, torch.stack(means, 1).double().numpy(), tokens, plan(algorithm="orpo", method={"odds_weight": 1.0}))
    np.testing.assert_allclose(ours + means[0].numpy(), theirs, rtol=1e-4)


@pytest.mark.slow
def test_parts_of_a_batch_have_the_batch_s_distance(folder, words, records, tmp_path):
    """z0 of kto is a mean over the batch: in parts of two it is the same, and so are the steps."""
    how = plan(algorithm="kto", epochs=3, learning_rate=3e-3)
    whole, in_parts = (
        fitted(folder, words, records, how.model_copy(update={"micro_batch": size}), tmp_path / str(size))[0] for size in (None, 2)
    )
    np.testing.assert_allclose(in_parts, whole, rtol=1e-3)


def test_kto_needs_another_prompt_in_the_batch():
    with pytest.raises(ValueError, match="batch_size is 1, must be 2 at least: kto holds an answer against others' prompts"):
        plan(algorithm="kto", batch_size=1)


@pytest.mark.slow
def test_ipo_stops_at_its_gap(folder, words, records, tmp_path):
    how = plan(epochs=40, learning_rate=3e-3, method={"beta": 2.0, "loss": {"form": "ipo"}})
    ratios, *_ = fitted(folder, words, records, how, tmp_path)
    each = ratios / pairs.lengths(pairs.coded(records, words))
    assert (each[:, 0] - each[:, 1]).mean() == pytest.approx(0.25, abs=0.1)


@pytest.mark.parametrize(
    "train", ["full", pytest.param("lora", marks=pytest.mark.slow), pytest.param("last-layers", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("algorithm", METHODS)
def test_the_chosen_answers_win(folder, words, records, tmp_path, algorithm, train):
    how = plan(train, algorithm, epochs=8, learning_rate=3e-3 if train == "full" else 1e-2)
    ratios, loss, measured = fitted(folder, words, records, how, tmp_path)
    accuracy, margin = pairs.ranked(*ratios.T)
    assert accuracy == 1.0
    assert margin > 0
    assert measured < loss


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dpo", "kto"])
def test_a_larger_beta_holds_the_policy_nearer(folder, words, records, tmp_path, algorithm):
    moved = [fitted(folder, words, records, plan(algorithm=algorithm, method={"beta": beta}, epochs=8), tmp_path)[0] for beta in (0.1, 5.0)]
    gaps = [float((ratios[:, 0] - ratios[:, 1]).mean()) for ratios in moved]
    assert gaps[0] > gaps[1] > 0
