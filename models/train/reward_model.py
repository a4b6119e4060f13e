"""Reward models: one number for a conversation."""

import sys
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GenericForSequenceClassification

from models.core.errors import StageError
from models.train import chat, policy
from models.train.chat import Messages
from models.train.settings import Finetuning, Reinforcement
from models.train.training import quiet


def load(folder: Path, precision: str = "float32") -> PreTrainedModel:
    """The model with a head of one output in place of its vocabulary's; the head's weights are random unless the folder has them.

    Raises StageError for an architecture that cannot have such a head.
    """
    with quiet():
        kind = _kind(AutoConfig.from_pretrained(folder, local_files_only=True))
        how = {"num_labels": 1, "dtype": policy.DTYPES[precision], "local_files_only": True}
        model, found = kind.from_pretrained(folder, output_loading_info=True, **how)
    if lost := [name for name in found["missing_keys"] if name.startswith(f"{model.base_model_prefix}.")]:
        raise StageError(f"{folder} has no weights for {lost[0]} of {type(model).__name__}: take another architecture as 'pretrained'")
    return model


def opened(folder: Path, plan: Finetuning | Reinforcement, device: str) -> PreTrainedModel:
    """The same, to be trained: as policy.opened, with the head, whose first weights are random, in float32."""
    model = load(folder, policy.opening(plan))
    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float()
    return model.to(device)


def _kind(config: PretrainedConfig) -> Any:
    """The class of an architecture's models with such a head; made here where transformers has none."""
    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return AutoModelForSequenceClassification
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    base = next(kind for kind in model.__mro__[1:] if issubclass(kind, PreTrainedModel))
    if base is PreTrainedModel or type(config) not in MODEL_MAPPING:
        raise StageError(f"{model.__name__} cannot be given a head for rewards: take another architecture as 'pretrained'")
    if "past_key_values" not in signature(model.forward).parameters:
        raise StageError(
            f"{model.__name__} keeps what it has read in its own way, which no head for rewards knows: take another architecture"
        )
    name = f"{base.__name__.removesuffix('PreTrainedModel')}ForSequenceClassification"
    return type(name, (GenericForSequenceClassification, base), {"base_model_prefix": base.base_model_prefix})


def tokens(tokenizer: PreTrainedTokenizerBase, conversations: list[Messages]) -> np.ndarray:
    """How many tokens each conversation has [conversations]."""
    texts = [chat.rendered(tokenizer, messages) for messages in conversations]
    return np.array([len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]])


@torch.no_grad()
def rewards(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, conversations: list[Messages], batch_size: int) -> np.ndarray:
    """The reward of each conversation [conversations], in nats: differences are log-odds of being preferred.

    One that is longer than the model was made for is read from where its end fits.
    """
    model.eval()
    texts = [chat.rendered(tokenizer, messages) for messages in conversations]
    most, values = policy.positions(model) or sys.maxsize, []
    for start in range(0, len(texts), batch_size):
        rows = [torch.tensor(ids[-most:]) for ids in tokenizer(texts[start : start + batch_size], add_special_tokens=False)["input_ids"]]
        ids = pad_sequence(rows, True, float(tokenizer.pad_token_id)).to(model.device)
        seen = pad_sequence([torch.ones_like(row) for row in rows], True).to(model.device)
        values.append(model(input_ids=ids, attention_mask=seen).logits[:, 0].float().cpu().numpy())
    return np.concatenate(values)


def at_tokens(model: Any, ids: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """The head's output at every token [conversations, tokens], of which a reward is the last; `model` may be inside an adapter.

    ids, attention [conversations, tokens].
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    beside = [module for name, module in inner.named_children() if name != inner.base_model_prefix]
    *_, head = (module for module in beside if next(module.parameters(), None) is not None)  # dropout may stand beside it
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda *found: seen.append(found[-1]))
    try:
        model(input_ids=ids, attention_mask=attention, use_cache=False)
    finally:
        hook.remove()
    return seen[-1][..., 0]
