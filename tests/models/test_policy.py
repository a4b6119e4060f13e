"""Model folders are whole and repeatable, and of each choice of weights those are trained that it names."""

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file

from models.core.errors import StageError, UserError
from models.train import policy, pretrained, reward_model, training, vocabulary
from models.train.settings import Scratch
from tests.architectures import PUBLISHED
from tests.tiny import weights_of
from tests.trainings import finetuning

SHAPE = Scratch(take="scratch", layers=3, hidden_size=32, feed_forward_size=64, heads=2)


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
    policy.freeze(model, weights_of("last-layers"))
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    assert all(name.startswith(("model.layers.2.", "model.norm", "model.embed_tokens")) for name in trained)
    assert not any(name.startswith(("model.layers.0.", "model.layers.1.")) for name in trained)


def test_full_trains_everything(model):
    policy.freeze(model, weights_of("full"))
    assert all(weight.requires_grad for weight in model.parameters())
    assert policy.adapter(weights_of("full"), model) is None


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_a_merged_adapter_gives_a_plain_model_with_the_adapter_in_its_weights(model, kind):
    ids = torch.tensor([[3, 4, 5]])
    before = model(input_ids=ids).logits.detach()
    adapted = get_peft_model(model, policy.adapter(weights_of(kind), model))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    expected = adapted(input_ids=ids).logits.detach()
    plain = policy.merged(adapted)
    assert type(plain).__name__ == "LlamaForCausalLM"
    assert torch.allclose(plain(input_ids=ids).logits, expected, atol=1e-5)
    assert not torch.allclose(expected, before, atol=1e-3)


def test_an_adapter_that_cannot_be_merged_is_told_before_anything_is_saved(model, monkeypatch):
    adapted = get_peft_model(model, policy.adapter(weights_of("lora"), model))
    whole = adapted.merge_and_unload

    def half():
        plain = whole()
        plain.get_output_embeddings().weight.data.mul_(1.01)
        return plain

    monkeypatch.setattr(adapted, "merge_and_unload", half)
    with pytest.raises(StageError, match="with its adapter merged answers otherwise than before, by "):
        policy.merged(adapted)


def test_rank_stabilised_adapters_are_scaled_by_the_root_of_their_rank(model):
    adapted = get_peft_model(model, policy.adapter(weights_of("rslora", rank=16, alpha=8), model))
    assert {module.scaling["default"] for module in adapted.modules() if hasattr(module, "lora_A")} == {2.0}


def trained_a_little(model):
    """An optimiser step on everything that is trained, in bfloat16."""
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    with training.precision("bfloat16", "cpu"):
        model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.AdamW([*policy.trained(model).values()], lr=1e-2).step()
    return model


@pytest.mark.parametrize("train", ["full", "lora", "last-layers"])
def test_in_bfloat16_what_is_trained_is_float32_and_what_is_saved_is_not(model, tokenizer, tmp_path, train):
    policy.save(model, tokenizer, tmp_path / "model")
    plan = finetuning(train).model_copy(update={"precision": "bfloat16"})
    opened = policy.opened(tmp_path / "model", plan, "cpu")
    policy.freeze(opened, plan.weights)
    adapter = policy.adapter(plan.weights, opened)
    opened = trained_a_little(get_peft_model(opened, adapter) if adapter else opened)
    kinds = {(weight.requires_grad, weight.dtype) for weight in opened.parameters()}
    assert kinds - {(False, torch.bfloat16)} == {(True, torch.float32)}
    assert (kinds == {(True, torch.float32)}) is (train == "full")
    policy.save(policy.merged(opened, "bfloat16"), tokenizer, tmp_path / "saved")
    assert {weight.dtype for weight in load_file(tmp_path / "saved" / "model.safetensors").values()} == {torch.bfloat16}
    assert {weight.dtype for weight in policy.load(tmp_path / "saved").parameters()} == {torch.float32}


def test_weights_of_four_bits_are_trained_beside_and_written_out(model, tokenizer, tmp_path):
    pytest.importorskip("bitsandbytes")
    policy.save(model, tokenizer, tmp_path / "model")
    plan = finetuning("qlora")
    opened, ids = policy.opened(tmp_path / "model", plan, "cpu"), torch.tensor([[3, 4, 5, 6, 7]])
    coarse = opened(input_ids=ids).logits.detach()
    assert not torch.allclose(coarse, model(input_ids=ids).logits, atol=1e-4)  # four bits are not the weights that they stand for
    adapted = get_peft_model(opened, policy.adapter(plan.weights, opened))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1e-3)  # steps that four bits would swallow
    expected = adapted(input_ids=ids).logits.detach()
    plain = policy.merged(adapted)
    assert torch.allclose(plain(input_ids=ids).logits, expected, atol=1e-4)
    assert not torch.allclose(coarse, expected, atol=1e-4)
    policy.save(plain, tokenizer, tmp_path / "saved")
    assert torch.allclose(policy.load(tmp_path / "saved")(input_ids=ids).logits, expected, atol=1e-4)


def test_without_the_package_four_bits_are_refused_in_one_line(model, tokenizer, tmp_path, monkeypatch):
    policy.save(model, tokenizer, tmp_path / "model")
    monkeypatch.setattr(policy, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"weights.train is qlora, and the package bitsandbytes is not installed"):
        policy.opened(tmp_path / "model", finetuning("qlora"), "cpu")


def test_new_tokens_get_rows_in_the_model(model, tokenizer):
    tokenizer.add_tokens(["<|new|>"])
    policy.fit_vocabulary(model, tokenizer)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert (model.get_input_embeddings().weight[-1] == model.get_input_embeddings().weight[:-1].mean(0)).all()


AFTER = {  # what stands between the last layer and the logits, as each architecture names it
    "gpt2": {"transformer.h.1", "transformer.ln_f", "transformer.wte"},
    "gpt_neox": {"gpt_neox.layers.1", "gpt_neox.final_layer_norm", "embed_out"},
    "opt": {"model.decoder.layers.1", "model.decoder.final_layer_norm", "model.decoder.project_out", "model.decoder.embed_tokens"},
    "phi": {"model.layers.1", "model.final_layernorm", "lm_head"},
    **{name: {"model.layers.1", "model.norm", "lm_head"} for name in ("llama", "mistral", "mixtral", "qwen2", "qwen3")},
    **{name: {"model.layers.1", "model.norm", "model.embed_tokens"} for name in ("gemma2", "gemma3", "granite")},
}


def published(name, tmp_path):
    folder = PUBLISHED[name].write(tmp_path / name)
    words = vocabulary.chat_ready(pretrained.tokenizer(folder, name))
    found = pretrained.model(folder, name)
    rows = found.get_input_embeddings().weight.shape[0]
    policy.fit_vocabulary(found, words)
    assert found.get_input_embeddings().weight.shape[0] == rows == len(words) + PUBLISHED[name].spare_rows
    return found, words


@pytest.mark.parametrize("name", PUBLISHED)
def test_last_layers_are_found_in_any_architecture_with_norm_and_head(name, tmp_path):
    found, words = published(name, tmp_path)
    policy.freeze(found, weights_of("last-layers"))
    trained = {weight for weight, value in found.named_parameters() if value.requires_grad}
    assert all(any(weight.startswith(f"{part}.") for part in AFTER[name]) for weight in trained)
    assert all(any(weight.startswith(f"{part}.") for weight in trained) for part in AFTER[name])
    assert found.training is False
    policy.save(found, words, tmp_path / "saved")
    rated = reward_model.load(tmp_path / "saved")
    policy.freeze(rated, weights_of("last-layers"))
    trained = {weight for weight, value in rated.named_parameters() if value.requires_grad}
    assert "score.weight" in trained
    assert not [weight for weight in trained if ".0." in weight or "embed" in weight or ".wte." in weight]


def test_a_model_that_is_no_list_of_layers_is_refused_in_one_line(model):
    model.model.layers = torch.nn.Sequential(*model.model.layers)
    with pytest.raises(StageError, match=r"LlamaForCausalLM is no list of layers, must be one: set weights.train to full or lora"):
        policy.freeze(model, weights_of("last-layers"))


@pytest.mark.parametrize("name", ["gemma2", "qwen2"])
def test_a_saved_model_stops_where_its_template_ends_a_reply(name, tmp_path):
    found, words = published(name, tmp_path)
    policy.save(found, words, tmp_path / "saved")
    stops = policy.load(tmp_path / "saved").generation_config.eos_token_id
    named = words.convert_ids_to_tokens(stops if isinstance(stops, list) else [stops])
    assert named == (["<eos>", "<end_of_turn>"] if name == "gemma2" else ["<|im_end|>"])
