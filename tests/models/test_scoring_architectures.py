"""Scores of any architecture are those of its own forward pass, packed or padded, in float32 and in bfloat16."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.sandbox import sandbox
from models.score import asking, evaluation, packing
from models.train import policy, pretrained, vocabulary
from tests.architectures import LLAMA_TOKENS, PUBLISHED, ZEPHYR, Published, pieces

pytestmark = pytest.mark.long

torch.set_num_threads(1)
WINDOWED = {"mistral", "gemma2", "gemma3"}
OTHERS = {  # without positions, with positions added to scores, without attention
    name: Published(lambda: pieces(LLAMA_TOKENS, ZEPHYR, eos_token="</s>"), name, shape)
    for name, shape in {
        "bloom": {"hidden_size": 16, "n_layer": 2, "n_head": 2},
        "mpt": {"d_model": 16, "n_layers": 2, "n_heads": 2},
        "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    }.items()
}
PACKED = set(PUBLISHED) - WINDOWED
LIMITS = sandbox.ResourceLimits(wall_seconds=10, cpu_seconds=5, memory_mib=256, processes=8, output_kib=64)
PROMPTS = ["Hello in the Ton", "Hello in the Ton, by the", "Ton"]
NEXT = ["Ton", "Hi you", "B"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model folder of the architecture, its weights large enough that what is attended to matters."""
    known: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in known:
            place = tmp_path_factory.mktemp(name)
            source = {**PUBLISHED, **OTHERS}[name].write(place / "published")
            words, network = vocabulary.chat_ready(pretrained.tokenizer(source, name)), pretrained.model(source, name)
            policy.fit_vocabulary(network, words)
            with torch.no_grad():
                for weight in network.parameters():
                    if weight.ndim > 1:
                        weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(weight.numel()))
            policy.save(network, words, place / "saved")
            known[name] = place / "saved"
        return known[name]

    return folder


def asked(folder: Path, dtype: str = "float32", new_tokens: int = 6) -> evaluation.LocalModel:
    how = evaluation.Settings(
        batch_size=3, dtype=dtype, items=None, items_seed=0, max_new_tokens=new_tokens, sampling=evaluation.GREEDY, limits=LIMITS
    )
    return evaluation.LocalModel(folder, AutoTokenizer.from_pretrained(folder), how, "cpu", lambda _done, _all: None)


@pytest.mark.parametrize(
    ("name", "dtype", "rounding"),
    [
        *((name, "float32", 1e-4) for name in [*PUBLISHED, *OTHERS]),
        *(
            pytest.param(name, "bfloat16", 0.15, marks=[] if name in ("gpt2", "phi") else pytest.mark.slow)
            for name in [*PUBLISHED, *OTHERS]
        ),
    ],
)
def test_likelihoods_packed_or_padded_are_those_of_the_tokens_one_by_one(saved, name, dtype, rounding):
    ours = asked(saved(name), dtype)
    assert ours.packs == (name in PACKED)
    encode = ours.tokenizer.encode
    requests = [(None, encode(prompt) * 4, encode(then, add_special_tokens=False)) for prompt in PROMPTS for then in NEXT]
    expected = []
    with torch.inference_mode():
        for _, context, then in requests:
            steps = ours.model(input_ids=torch.tensor([context + then])).logits[0, len(context) - 1 : -1].log_softmax(-1)
            expected.append(float(steps.gather(-1, torch.tensor(then)[:, None]).sum()))
    assert [value for value, _ in ours._loglikelihood_tokens(requests)] == pytest.approx(expected, abs=rounding)
    ours.packs = False
    assert [value for value, _ in ours._loglikelihood_tokens(requests)] == pytest.approx(expected, abs=rounding)


@pytest.mark.parametrize("name", [*PUBLISHED, "bloom", "mpt", "mamba"])
def test_replies_are_those_of_the_models_own_generation_alone(saved, name):
    ours, network = asked(saved(name)), AutoModelForCausalLM.from_pretrained(saved(name))
    prompts = [ours.tokenizer.encode(text) for text in PROMPTS]
    for prompt, reply in zip(prompts, ours._replies(prompts, ["never"]), strict=True):
        ids = torch.tensor([prompt])
        written = network.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)[0]
        whole, before = (ours.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in (written, prompt))
        assert reply.text == whole.removeprefix(before)


def test_a_pack_is_not_trusted_where_its_trial_disagrees(saved):
    network = AutoModelForCausalLM.from_pretrained(saved("llama"))
    assert packing.can_pack(network)
    inner = network.model.layers[0].self_attn.o_proj
    inner.register_forward_hook(lambda _, __, states: states + states.cumsum(1))  # mixes the rows of a pack, as no flag tells
    assert not packing.can_pack(network)


def test_a_turn_has_what_the_template_writes_around_the_words():
    turns = {name: asking.turn(vocabulary.chat_ready(PUBLISHED[name].tokenizer())) for name in ("llama", "gemma2", "qwen3", "gpt2")}
    assert turns == {
        "llama": (" ", " </s>"),
        "gemma2": ("", "<end_of_turn>"),
        "qwen3": ("<think>\n\n</think>\n\n", "<|im_end|>"),
        "gpt2": ("", "<|endoftext|>"),
    }


@pytest.mark.parametrize("prepend", [True, False])
def test_a_program_keeps_its_indentation_under_tokenizers_that_drop_a_first_blank(saved, prepend):
    words = pieces(LLAMA_TOKENS, eos_token="</s>", prepend=prepend)
    whole, prompt = words.encode("def f(x):    return x\n"), words.encode("def f(x):")
    assert whole[: len(prompt)] == prompt
    assert words.decode(whole[len(prompt) :]) == "   return x\n"
    ours = asked(saved("llama"))
    ours.tokenizer = words
    assert ours._text(prompt, whole[len(prompt) :], ["never"]) == "    return x\n"
