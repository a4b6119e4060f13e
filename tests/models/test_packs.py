"""Several texts in a row: none sees another, and the loss is that of each alone."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import MambaConfig, MambaForCausalLM

from models.core.errors import StageError
from models.core.files import write_lines
from models.train import chat, packs, policy, vocabulary
from models.train.methods import finetune
from tests.architectures import PUBLISHED
from tests.tiny import tiny_model

LENGTHS = [5, 9, 3, 7, 1, 10]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def test_texts_go_where_they_leave_least_room():
    rows = packs.best_fit(LENGTHS, 10)
    assert rows == [[5], [1, 4], [3, 2], [0]]
    assert packs.best_fit([], 10) == []


def test_positions_begin_anew_with_each_text():
    assert packs.positions([2, 3]) == [0, 1, 0, 1, 2]


def conversations(folder, tmp_path):
    rows = [
        {"id": f"c{number}", "messages": [{"role": "user", "content": "a" * (3 + number)}, {"role": "assistant", "content": "b" * length}]}
        for number, length in enumerate(LENGTHS)
    ]
    write_lines(tmp_path / "train.jsonl", rows)
    return finetune.conversations(tmp_path / "train.jsonl", vocabulary.load(folder), 64)[0]


def test_every_token_that_counts_is_in_a_row_once_and_named(folder, tmp_path):
    records = conversations(folder, tmp_path)
    rows = finetune.packed(records, 64)
    counted = sum(sum(said) for said in records["assistant_masks"])
    assert sum(label != packs.IGNORED for labels in rows["labels"] for label in labels) == counted
    assert sorted(", ".join(rows["record"]).split(", ")) == sorted(records["record"]) == [f"c{number}" for number in range(len(LENGTHS))]
    assert max(map(len, rows["input_ids"])) <= 64
    assert len(rows) < len(records)


def mean_loss(model, batch):
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=packs.IGNORED)


def test_the_loss_of_rows_is_that_of_the_conversations_alone(folder, tmp_path):
    model, records = policy.load(folder), conversations(folder, tmp_path)
    batch = packs.Collator(pad=3)(list(finetune.packed(records, 64)))
    assert mean_loss(model, batch).item() == pytest.approx(finetune.loss(model, records, 1), rel=1e-5)
    mixed = batch | {"position_ids": torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])}
    assert mean_loss(model, mixed).item() != pytest.approx(finetune.loss(model, records, 1), rel=1e-3)


def test_so_are_the_gradients(folder, tmp_path):
    records = conversations(folder, tmp_path)
    apart, together = policy.load(folder), policy.load(folder)
    mean_loss(together, packs.Collator(pad=3)(list(finetune.packed(records, 64)))).backward()
    counted = sum(sum(said[1:]) for said in records["assistant_masks"])
    for ids, said in zip(records["input_ids"], records["assistant_masks"], strict=True):
        labels = [token if own else packs.IGNORED for token, own in zip(ids, said, strict=True)]
        mean = mean_loss(apart, {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels])})
        (mean * sum(said[1:]) / counted).backward()
    for one, other in zip(apart.parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "gemma3", "mixtral", "granite"])
def test_a_model_that_keeps_texts_apart_is_seen_to(name, tmp_path):
    model = policy.load(PUBLISHED[name].write(tmp_path))
    packs.require_apart(model, "sft.packing")


def test_one_that_mixes_them_is_refused():
    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(
        StageError, match=r"^sft.packing is true, and MambaForCausalLM mixes the texts of a row, must keep them apart: set it"
    ):
        packs.require_apart(MambaForCausalLM(config), "sft.packing")


def test_the_chat_s_first_token_never_counts(folder):
    """Else it would be foretold from the text before it in its row."""
    _, said = chat.coder(vocabulary.load(folder))([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert said[0] == 0
