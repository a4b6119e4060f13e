"""A model of random weights with a byte-level tokenizer: whole, and small enough to make for a test."""

from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from models.train.recorder import Recorder
from models.train.settings import Weights

CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


ROOM = {"micro_batch": None, "gradient_checkpointing": False}  # all the memory there is


WARNED = {"recorder": {"act": "warn"}}  # whatever the flight recorder finds


def recorder_of(plan: Any, folder: Path, **others: Any) -> Recorder:
    """A flight recorder that counts letters and finds every model as good."""
    known = {"tokens": lambda texts: list(map(len, texts)), "measure": lambda _: 0.0, "folder": folder}
    return Recorder(plan, **{**known, **others})


def weights_of(train: str, rank: int = 2, alpha: float = 4, layers: int = 1) -> Weights:
    """Which weights are trained, in small numbers."""
    numbers = {"full": {}, "last-layers": {"layers": layers}}
    return TypeAdapter(Weights).validate_python({"train": train, **numbers.get(train, {"rank": rank, "alpha": alpha})})


def method_of(algorithm: str, **changes: Any) -> dict[str, Any]:
    """How answers are learned from, in usual numbers."""
    ppo = {"passes": 2, "minibatches": 2, "clip": 0.2, "value_clip": 0.2, "value_weight": 0.5, "trace": 0.95}
    kl = {"kl": "reward", "target_kl": None, "cut_reward": None}
    return {"algorithm": algorithm, **(ppo | kl if algorithm == "ppo" else {"vllm_memory": None}), **changes}


def preferring(algorithm: str, **changes: Any) -> dict[str, Any]:
    """What is learned of a pair, in usual numbers."""
    numbers = {
        "dpo": {"beta": 0.1, "loss": {"form": "sigmoid", "label_smoothing": 0.0}},
        "kto": {"beta": 0.1, "chosen_weight": 1.0, "rejected_weight": 1.0},
        "orpo": {"odds_weight": 0.1},
    }
    return {"algorithm": algorithm, **numbers[algorithm], **changes}


def tiny_model(folder: Path, seed: int = 1) -> Path:
    """Write model, tokenizer and chat template into the folder, and return it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    specials = ["<|end|>", "<|user|>", "<|assistant|>", "<|pad|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = Tokenizer(models.BPE({token: place for place, token in enumerate([*specials, *letters])}, []))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=260, max_position_embeddings=1024, eos_token_id=0, pad_token_id=3, initializer_range=0.3, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
