"""Model folders are whole and repeatable, and each method trains the weights that it names."""

import pytest
import torch
from peft import get_peft_model

from models import policy, training, vocabulary
from models.settings import Method, Shape

SHAPE = Shape(layers=3, hidden_size=32, feed_forward_size=64, heads=2)


def method(name):
    return Method(name=name, rank=4, alpha=8, layers=1)


@pytest.fixture
def tokenizer():
    return vocabulary.train(["the town of Ton"], 300, 64)


@pytest.fixture
def model(tokenizer):
    training.make_repeatable(1)
    return policy.new(SHAPE, tokenizer, 64)


def test_a_saved_folder_loads_again_and_holds_no_pickle_and_no_path(model, tokenizer, tmp_path):
    policy.save(model, tokenizer, tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    again = policy.load(tmp_path / "model")
    policy.save(again, vocabulary.load(tmp_path / "model"), tmp_path / "again")
    for name in names:
        content = (tmp_path / "again" / name).read_bytes()
        assert content == (tmp_path / "model" / name).read_bytes()
        assert str(tmp_path).encode() not in content


def test_last_layers_trains_the_last_layer_and_what_follows(model):
    policy.freeze(model, method("last-layers"))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert all(name.startswith(("model.layers.2.", "model.norm", "model.embed_tokens")) for name in trained)
    assert not any(name.startswith(("model.layers.0.", "model.layers.1.")) for name in trained)


def test_full_trains_everything(model):
    policy.freeze(model, method("full"))
    assert all(weight.requires_grad for weight in model.parameters())
    assert policy.adapter(method("full"), model) is None


def test_a_merged_adapter_gives_a_plain_model_with_the_adapter_in_its_weights(model):
    ids = torch.tensor([[3, 4, 5]])
    before = model(input_ids=ids).logits.detach()
    adapted = get_peft_model(model, policy.adapter(method("lora"), model))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    expected = adapted(input_ids=ids).logits.detach()
    plain = policy.merged(adapted)
    assert type(plain).__name__ == "LlamaForCausalLM"
    assert torch.allclose(plain(input_ids=ids).logits, expected, atol=1e-5)
    assert not torch.allclose(expected, before, atol=1e-3)


def test_new_tokens_get_rows_in_the_model(model, tokenizer):
    tokenizer.add_tokens(["<|new|>"])
    policy.fit_vocabulary(model, tokenizer)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
