"""Published models in small: one of random weights for each architecture, with a tokenizer and a chat template as published ones have."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

CHATML_WITH_DEFAULT = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\nYou help.<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
THINKING = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.role == 'assistant' and loop.last %}{{- '<think>\n\n</think>\n\n' + message.content.lstrip('\n') }}"
    "{%- else %}{{- message.content }}{%- endif %}"
    "{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}"
    "{% for message in rest %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    '{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}'
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + date_string + '\n\n' + system + '<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
MISTRAL = (  # the system message goes to the last question: what comes before a reply changes with every turn
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}{%- set rest = messages[1:] %}"
    "{%- else %}{%- set rest = messages %}{%- endif %}{{- bos_token }}"
    "{%- for message in rest %}"
    "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Roles must alternate') }}{%- endif %}"
    "{%- if message['role'] == 'user' %}"
    "{%- if system is defined and loop.index0 >= rest | length - 2 %}{{- '[INST] ' + system + '\n\n' + message['content'] + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + message['content'] + '[/INST]' }}{%- endif %}"
    "{%- else %}{{- ' ' + message['content'] | trim + eos_token }}{%- endif %}{%- endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n' + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)


def byte_level(special: list[str], template: str | None = None, **named: str) -> Any:
    """A byte-level tokenizer without merges; `named` are its special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: place for place, token in enumerate([*special, *letters])}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **named)
    tokenizer.chat_template = template
    return tokenizer


def pieces(special: list[str], template: str | None = None, prepend: bool = False, **named: str) -> Any:
    """A Unigram tokenizer of letters and a few words with marked blanks, as SentencePiece makes them; it begins texts with <s>.

    With `prepend` a normalizer puts the blank before a text, as Llama's converted tokenizers do, else the pre-tokenizer does.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["▁Hello", "▁Ton", "▁in", "▁the", "Ton", "ing"]
    letters = ["▁", *(chr(code) for code in range(33, 127)), "\n"]
    bytes_ = [f"<0x{code:02X}>" for code in range(256)]
    scores = [(token, 0.0) for token in special] + [(token, -20.0) for token in bytes_]
    scores += [(token, -2.0) for token in words] + [(token, -4.0) for token in letters]
    made = Tokenizer(models.Unigram(scores, unk_id=special.index("<unk>"), byte_fallback=True))
    if prepend:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        made.decoder = decoders.Sequence(parts)
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    made.add_special_tokens(special)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", special.index("<s>"))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="<unk>", **named)
    tokenizer.chat_template = template
    return tokenizer


@dataclass(frozen=True)
class Published:
    """How a small published model is made: its tokenizer, its architecture and its shape."""

    tokenizer: Any
    kind: str
    shape: dict[str, Any] = field(default_factory=dict)
    spare_rows: int = 0

    def write(self, folder: Path, seed: int = 1) -> Path:
        """Write it as publishers do: bfloat16, in several shards, here without a generation config."""
        from transformers import AutoConfig, AutoModelForCausalLM

        tokenizer = self.tokenizer()
        torch.manual_seed(seed)
        ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": None}
        config = AutoConfig.for_model(self.kind, vocab_size=len(tokenizer) + self.spare_rows, **self.shape, **ends)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(folder, max_shard_size="16KB")
        (folder / "generation_config.json").unlink()
        tokenizer.save_pretrained(folder)
        return folder


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 512}
GROUPED = {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
UNTIED, TIED = {"tie_word_embeddings": False}, {"tie_word_embeddings": True}
CHATML_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
END_OF_TEXT = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
QWEN = partial(byte_level, CHATML_TOKENS, eos_token="<|im_end|>", pad_token="<|endoftext|>")
GEMMA_TOKENS = ["<pad>", "<eos>", "<s>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
GEMMA_TOKENIZER = partial(pieces, GEMMA_TOKENS, GEMMA, eos_token="<eos>", pad_token="<pad>")
LLAMA_TOKENS = ["<unk>", "<s>", "</s>"]
PUBLISHED = {
    "gpt2": Published(
        partial(byte_level, ["<|endoftext|>"], **END_OF_TEXT), "gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512}
    ),
    "gpt_neox": Published(
        partial(byte_level, ["<|endoftext|>"], **END_OF_TEXT, pad_token="<|endoftext|>"), "gpt_neox", {**SMALL, **UNTIED}, spare_rows=20
    ),
    "opt": Published(
        partial(byte_level, ["<pad>", "</s>"], eos_token="</s>", bos_token="</s>", pad_token="<pad>"),
        "opt",
        {**{name: SMALL[name] for name in SMALL if name != "intermediate_size"}, "ffn_dim": 32, "word_embed_proj_dim": 8},
    ),
    "llama": Published(partial(pieces, LLAMA_TOKENS, LLAMA_2, prepend=True, eos_token="</s>"), "llama", {**GROUPED, **UNTIED}),
    "mistral": Published(partial(pieces, LLAMA_TOKENS, MISTRAL, eos_token="</s>"), "mistral", {**GROUPED, "sliding_window": 8}),
    "qwen2": Published(partial(QWEN, CHATML_WITH_DEFAULT), "qwen2", {**SMALL, "num_key_value_heads": 1, **UNTIED}, spare_rows=40),
    "qwen3": Published(partial(QWEN, THINKING), "qwen3", {**GROUPED, **UNTIED}, spare_rows=40),
    "gemma2": Published(GEMMA_TOKENIZER, "gemma2", {**GROUPED, "sliding_window": 8, **TIED}),
    "gemma3": Published(GEMMA_TOKENIZER, "gemma3_text", {**GROUPED, "sliding_window": 8, **TIED}),
    "phi": Published(partial(byte_level, ["<|endoftext|>"], **END_OF_TEXT), "phi", {**SMALL, **UNTIED}),
    "granite": Published(partial(pieces, LLAMA_TOKENS, ZEPHYR, eos_token="</s>"), "granite", {**SMALL, "logits_scaling": 4.0, **TIED}),
    "mixtral": Published(
        partial(pieces, LLAMA_TOKENS, MISTRAL, eos_token="</s>"), "mixtral", {**SMALL, "num_key_value_heads": 1, "num_local_experts": 4}
    ),
}
