"""A published model's files are whole and all there, or one line says which is not and what to do."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from models.core.errors import UserError
from models.train import weights

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 269060552\n"


def test_a_model_is_its_weights_and_what_is_read_beside_them(folder):
    for name in ("README.md", "optimizer.pt", "consolidated.safetensors"):
        (folder / name).write_text("not read")
    assert sorted(weights.files(folder)) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_shards_that_the_index_names_are_its_weights(folder):
    shard(folder)
    assert {"one.safetensors", weights.INDEX} <= set(weights.files(folder))


def shard(folder, *names):
    """Leave the weights as a shard, and an index that names it and `names`."""
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    named = {str(place): name for place, name in enumerate(["one.safetensors", *names])}
    (folder / weights.INDEX).write_text(json.dumps({"weight_map": named}))


def pointer(name):
    return lambda folder: (folder / name).write_text(POINTER)


def cut(kept):
    def spoil(folder):
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: int(len(content) * kept)])

    return spoil


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def without(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (pointer("model.safetensors"), r"model/model\.safetensors is a Git LFS pointer, must be the file itself: 'git lfs pull' there"),
        (pointer("tokenizer.json"), r"tokenizer\.json is a Git LFS pointer"),
        (cut(0.5), r"model\.safetensors is cut short: [\d,]+ of [\d,]+ bytes are there; copy it again"),
        (cut(0.001), r"model\.safetensors is cut short"),
        (cut(0), r"\(0 bytes\) is no safetensors file"),
        (text("model.safetensors", "<html>404: there is no such file</html>"), "is no safetensors file"),
        (lambda folder: (folder / "model.safetensors").open("ab").write(b"more"), "is no whole safetensors file"),
        (lambda folder: shard(folder, "two.safetensors"), r"lacks two\.safetensors, which model\.safetensors\.index\.json names"),
        (lambda folder: [shard(folder), (folder / weights.INDEX).write_text("{}")], "has no weight_map"),
        (without("model.safetensors"), "holds no weights: must be model.safetensors"),
        (pickled, r"holds pickled weights only \(pytorch_model\.bin\), .*must be safetensors; .*save_pretrained"),
        (without("config.json"), r"has no config\.json"),
        (text("config.json", "{"), r"config\.json is not valid JSON"),
        (text("config.json", "[]"), r"config\.json holds a list"),
        (text("config.json", "{}"), "names no model_type"),
        (text("adapter_config.json", "{}"), r"holds an adapter \(LoRA\), must be a whole model"),
        (without("tokenizer.json"), "has no tokenizer"),
    ],
)
def test_what_is_not_whole_is_one_line_that_names_the_file(folder, spoil, said):
    spoil(folder)
    with pytest.raises(UserError, match=said) as caught:
        weights.files(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_folder_with_a_gguf_file_says_to_name_the_file(tmp_path):
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=re.escape(f"write {tmp_path / 'small.gguf'}")):
        weights.files(tmp_path)


@pytest.mark.parametrize(("content", "said"), [(POINTER.encode(), "Git LFS pointer"), (b"<html>", "no GGUF file"), (b"", "no GGUF file")])
def test_a_gguf_file_that_is_none_is_named(tmp_path, content, said):
    (tmp_path / "small.gguf").write_bytes(content)
    with pytest.raises(UserError, match=said):
        weights.files(tmp_path / "small.gguf")


@pytest.mark.parametrize("source", ["no/such/folder", "/not/there.gguf", "gguf:no_such_package", "gguf:not a package"])
def test_what_is_not_there_is_a_user_error(source, tmp_path):
    with pytest.raises(UserError, match=r"is missing|is not installed"):
        weights.locate(source, tmp_path)
