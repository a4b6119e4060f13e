"""Packing loses and cuts nothing that fits, and equal training gives equal weights."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.core.errors import StageError
from models.core.work import Work
from models.train import policy, training, vocabulary
from models.train.methods import pretraining
from models.train.settings import Blocks, Pretraining, Scratch
from tests.architectures import PUBLISHED
from tests.tiny import ROOM

pytestmark = pytest.mark.long

TEXTS = [f"the {word} is {number}." for number in range(40) for word in ("river", "town", "house that is far away from here")]
SHAPE = Scratch(take="scratch", layers=2, hidden_size=32, feed_forward_size=64, heads=2)
READING = Blocks(tokens=32, batch=4, precision="float32", **ROOM)
PLAN = Pretraining(steps=30, optimizer="muon", learning_rate=0.01, warmup_share=0.1, schedule="linear", weight_decay=0.0, max_rise=None)


@pytest.fixture(scope="module")
def tokenizer():
    return vocabulary.train(TEXTS, 320, 64)


def trained(tokenizer, plan=PLAN):
    training.make_repeatable(3)
    model = policy.new(SHAPE, tokenizer, 64)
    blocks = pretraining.pack(TEXTS, tokenizer, READING.tokens)
    before = pretraining.loss(model, blocks, READING)
    pretraining.fit(model, blocks, plan, READING, 3, Work(Path(), Path()))
    return model, before, pretraining.loss(model, blocks, READING)


def test_every_text_that_fits_a_block_stands_whole_in_one_block(tokenizer):
    blocks = pretraining.pack(TEXTS, tokenizer, 32)
    found = [text for block in blocks for text in tokenizer.decode(block[block >= 0]).split(vocabulary.END) if text]
    assert sorted(found) == sorted(TEXTS)


def test_best_fit_leaves_little_padding(tokenizer):
    blocks = pretraining.pack(TEXTS, tokenizer, 64)
    assert (blocks == pretraining.IGNORED).float().mean() < 0.15


def test_a_text_longer_than_a_block_is_cut_into_blocks_and_keeps_every_token(tokenizer):
    text = " ".join(TEXTS)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    blocks = pretraining.pack([text], tokenizer, 16)
    assert sorted(token for block in blocks.tolist() for token in block if token != pretraining.IGNORED) == sorted(
        [*tokens, tokenizer.eos_token_id]
    )


def test_padding_has_no_loss(tokenizer):
    model = policy.new(SHAPE, tokenizer, 64)
    row = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    padded = [*row, *[pretraining.IGNORED] * 9]
    assert pretraining.loss(model, torch.tensor([padded]), READING) == pytest.approx(
        pretraining.loss(model, torch.tensor([row]), READING), abs=1e-5
    )


def test_the_end_of_a_text_is_learned_where_padding_is_the_same_token(tokenizer):
    model, blocks = policy.new(SHAPE, tokenizer, 64), pretraining.pack(TEXTS[:3], tokenizer, 64)
    twin = vocabulary.train(TEXTS, 320, 64)
    twin.pad_token = twin.eos_token
    assert torch.equal(pretraining.pack(TEXTS[:3], twin, 64), blocks)
    assert int((blocks == twin.eos_token_id).sum()) == 3
    before = pretraining.loss(model, blocks, READING)
    model.config.pad_token_id = twin.pad_token_id
    assert pretraining.loss(model, blocks, READING) == before


def test_a_text_begins_as_the_tokenizer_begins_it():
    words = PUBLISHED["llama"].tokenizer()
    assert pretraining.pack(["Ton"], words, 16)[0].tolist() == [*words("Ton").input_ids, words.eos_token_id, *[pretraining.IGNORED] * 13]


def test_likelihoods_are_the_same_in_whatever_pieces(tokenizer, monkeypatch):
    model, ids = policy.new(SHAPE, tokenizer, 64), torch.arange(3, 63).view(4, 15)
    with torch.no_grad():
        expected = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    rows = len(tokenizer)
    for logits in (1, 7 * rows, 31 * rows, 1 << 24):
        monkeypatch.setattr(training, "LOGITS", logits)
        torch.testing.assert_close(training.log_likelihoods(model, ids), expected)
        assert max(len(piece) for piece in training.logits_in_pieces(model, ids)) <= max(1, logits // rows)


@pytest.mark.slow
def test_measuring_with_a_large_vocabulary_takes_memory_for_one_conversation_not_for_a_batch():
    program = """
import resource, torch
from transformers import LlamaConfig, LlamaForCausalLM
from datasets import Dataset
from models.train.methods import finetune
shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=151936, **shape)).eval()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before, rows = peak(), [{"input_ids": [7] * 512, "assistant_masks": [1] * 512}] * 8
finetune.loss(model, Dataset.from_list(rows), 8)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # MiB; the logits of the batch alone are 2,374


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_training_lowers_the_loss_and_equal_runs_give_equal_weights(tokenizer, optimizer):
    plan = PLAN.model_copy(update={"optimizer": optimizer})
    (model, before, after), (again, _, _) = trained(tokenizer, plan), trained(tokenizer, plan)
    assert after < before - 1
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))


def test_a_loss_that_is_no_number_ends_the_training(tokenizer):
    model = policy.new(SHAPE, tokenizer, 64)
    model.model.norm.weight.data.fill_(1e38)
    blocks = pretraining.pack(TEXTS, tokenizer, READING.tokens)
    with pytest.raises(StageError, match=r"loss is (nan|inf) at step 1, must be a number"):
        pretraining.fit(model, blocks, PLAN, READING, 3, Work(Path(), Path()))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
def test_the_rate_rises_to_its_peak_and_falls_to_nearly_nothing(schedule):
    rates = [training.rate(step, 100, 0.1, schedule) for step in range(100)]
    assert rates[9] == 1.0
    assert rates[0] == 0.1
    assert 0 < rates[-1] < 0.05
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[78] == pytest.approx({"linear": 0.242, "cosine": 0.137, "wsd": 1.0}[schedule], abs=1e-3)
