"""Causal language models: made, loaded, saved, and opened for full, LoRA or last-layers training."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from models import vocabulary
from models.settings import Method, Shape


def new(shape: Shape, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> PreTrainedModel:
    """A Llama-architecture model with random weights (torch's global generator) and tied embeddings."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.feed_forward_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def fit_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model a row for every token, and the ids of the tokens that end and pad."""
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.eos_token_id, model.config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a whole model folder: weights (safetensors), configuration, tokenizer, chat template; nothing else, and no paths."""
    model.config.name_or_path = ""
    model.config.use_cache = True
    if hasattr(model, "generation_config") and model.can_generate():
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        model.generation_config = GenerationConfig(do_sample=False, **ends)
    model.save_pretrained(folder, safe_serialization=True)
    vocabulary.save(tokenizer, folder)


def adapter(method: Method, task: TaskType = TaskType.CAUSAL_LM) -> LoraConfig | None:
    """The LoRA adapter that `method` asks for, on every linear layer, or None. Source: Hu et al. (2021), eq. 3; no dropout."""
    if method.name != "lora":
        return None
    kept = ["score"] if task == TaskType.SEQ_CLS else None
    return LoraConfig(task_type=task, r=method.rank, lora_alpha=method.alpha, target_modules="all-linear", modules_to_save=kept)


def freeze(model: PreTrainedModel, method: Method) -> None:
    """Leave trainable what last-layers trains: the last layers and all that comes after them. Other methods freeze nothing here."""
    if method.name != "last-layers":
        return
    model.requires_grad_(False)
    after = [model.base_model.norm, *(getattr(model, name) for name in ("lm_head", "score") if hasattr(model, name))]
    for module in [*model.base_model.layers[-method.layers :], *after]:
        module.requires_grad_(True)


def merged(model: Any) -> PreTrainedModel:
    """The plain model again, with any adapter's weights added into its own."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
