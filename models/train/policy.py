"""Causal language models of any architecture: made, loaded, saved, and opened for full, LoRA or last-layers training.

Nothing here knows an architecture by its name: layers, head and limits are found in the model itself.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType
from peft.tuners.lora import LoraLayer
from torch.nn import Module, ModuleList
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from models.core.errors import StageError, UserError
from models.train import chat, vocabulary
from models.train.settings import Finetuning, Full, LastLayers, Lora, Reinforcement, Scratch, Weights

PROBE = 32  # tokens on which a merged adapter is compared with the unmerged one
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of the largest logit, that merging may move


def new(shape: Scratch, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> PreTrainedModel:
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


@torch.no_grad()
def fit_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model a row for every token, and the ids of the tokens that end and pad.

    Rows that the tokenizer does not use stay. Rows that it lacks become the mean of the others: random ones would compete with them.
    """
    rows, needed = model.get_input_embeddings().weight.shape[0], max(tokenizer.get_vocab().values()) + 1
    if needed > rows:
        model.resize_token_embeddings(needed, mean_resizing=False)
        for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
            weight[rows:] = weight[:rows].mean(0)
    for config in (model.config, model.config.get_text_config()):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id


def positions(model: PreTrainedModel) -> int | None:
    """How many tokens the model was made for at most; None where it does not say."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return most if isinstance(most, int) and most > 0 else None


def require_positions(model: PreTrainedModel, tokens: int, key: str) -> None:
    """Raise StageError where `tokens`, the value of `key` in params.yaml, is more than the model was made for."""
    most = positions(model)
    if most is not None and tokens > most:
        raise StageError(f"{key} is {tokens}, must be at most the model's {most} positions: lower it in params.yaml")


def load(folder: Path, precision: str = "float32", **more: Any) -> PreTrainedModel:
    """A saved model, to be used as it is."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[precision], local_files_only=True, **more)


def opened(folder: Path, plan: Finetuning | Reinforcement, device: str) -> PreTrainedModel:
    """A saved model, to be trained: what is trained of it is float32, or sums of small steps would be lost; the rest as `plan` has it.

    Raises UserError where weights of four bits are asked for and the package that makes them is missing.
    """
    if isinstance(plan.weights, Lora) and plan.weights.train == "qlora":
        if find_spec("bitsandbytes") is None:
            raise UserError(
                "weights.train is qlora, and the package bitsandbytes is not installed: 'pip install bitsandbytes', or take lora"
            )
        form = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=DTYPES[plan.precision]
        )
        return load(folder, plan.precision, quantization_config=form, device_map={"": device})
    return load(folder, opening(plan)).to(device)


def opening(plan: Finetuning | Reinforcement) -> str:
    """The precision in which a model is loaded that is to be trained; `freeze` and PEFT make float32 of the part that is trained."""
    return "float32" if isinstance(plan.weights, Full) else plan.precision


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a whole model folder: weights (safetensors), configuration, tokenizer, chat template; nothing else, and no paths."""
    for config in (model.config, model.config.get_text_config()):
        config.name_or_path = ""
        config.use_cache = True
        if hasattr(config, "output_router_logits"):
            config.output_router_logits = False  # TRL turns it on for a mixture of experts, which then cannot generate
    if hasattr(model, "generation_config") and model.can_generate():
        stops = chat.ends(tokenizer)
        ends = {"eos_token_id": stops if len(stops) > 1 else stops[0], "pad_token_id": tokenizer.pad_token_id}
        model.generation_config = GenerationConfig(do_sample=False, **ends)
    model.save_pretrained(folder, safe_serialization=True)
    vocabulary.save(tokenizer, folder)


def trained(model: Module) -> dict[str, torch.Tensor]:
    """The weights that a training moves."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def remove_dropout(model: Module) -> None:
    """Have the model compute the same in training as at work."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if "attention_dropout" in vars(module):
            module.attention_dropout = 0.0  # type: ignore[assignment]


def adapter(weights: Weights, model: PreTrainedModel, task: TaskType = TaskType.CAUSAL_LM) -> LoraConfig | None:
    """The LoRA adapter that `weights` asks for, on every linear layer, or None. Source: Hu et al. (2021), eq. 3; no dropout.

    A reward model's head is trained whole: its first weights are random.
    """
    if not isinstance(weights, Lora):
        return None
    kept = [name for name, _ in model.named_children() if name != model.base_model_prefix] if task == TaskType.SEQ_CLS else None
    shape = {"r": weights.rank, "lora_alpha": weights.alpha, "use_rslora": weights.train == "rslora"}
    return LoraConfig(task_type=task, target_modules="all-linear", modules_to_save=kept, use_dora=weights.train == "dora", **shape)


def freeze(model: PreTrainedModel, weights: Weights) -> None:
    """Leave trainable what last-layers trains: the last layers and all that comes after them. For others nothing is frozen here.

    Raises StageError for a model that is not made of layers.
    """
    if not isinstance(weights, LastLayers):
        return
    layers = list(_layers(model))
    trained = [*layers[-weights.layers :], *_after(model, layers[-1])]
    model.requires_grad_(False)
    for module in trained:
        module.requires_grad_(True).float()


def _layers(model: PreTrainedModel) -> ModuleList:
    """The decoder's layers: its list of modules that holds most weights. A layer may hold longer lists itself, such as its experts."""
    found = [module for module in model.get_decoder().modules() if isinstance(module, ModuleList) and len(module)]
    if not found:
        kind = type(model).__name__
        raise StageError(f"weights: last-layers: {kind} is no list of layers, must be one: set weights.train to full or lora")
    return max(found, key=lambda layers: sum(weight.numel() for weight in layers.parameters()))


@torch.no_grad()
def _after(model: PreTrainedModel, last: Module) -> list[Module]:
    """The modules with weights of their own that run once the last layer has: norm, projection, head.

    They are seen at work on one token, because neither their names nor the order in which a model lists them tells.
    """
    order: list[Module] = []
    owners = [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]
    hooks = [module.register_forward_hook(lambda module, *_: order.append(module)) for module in {*owners, last}]
    training = model.training
    try:
        model.eval()(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return order[order.index(last) + 1 :]


@torch.no_grad()
def merged(model: Any, precision: str = "float32") -> PreTrainedModel:
    """The plain model again, with any adapter's weights added into its own, all in one precision.

    Raises StageError where its outputs on tokens from all over the vocabulary are no longer the adapted model's, but for rounding.
    """
    if not hasattr(model, "merge_and_unload"):
        plain: PreTrainedModel = model
        return plain.to(DTYPES[precision])
    model.eval()
    probe = torch.linspace(0, model.get_input_embeddings().num_embeddings - 1, PROBE, device=model.device).long()[None]
    before = model(input_ids=probe, use_cache=False).logits.float()
    plain = _dequantized(model) if getattr(model, "is_loaded_in_4bit", False) else model.merge_and_unload()
    plain = plain.to(DTYPES[precision])
    off = float((plain(input_ids=probe, use_cache=False).logits.float() - before).abs().max() / before.abs().max().clamp(min=1.0))
    if not off <= ROUNDING[plain.dtype]:
        raise StageError(
            f"the model with its adapter merged answers otherwise than before, by {off:.2g} of its largest logit, must be at most "
            f"{ROUNDING[plain.dtype]:g}: train with weights full or last-layers, or another rank"
        )
    return plain


def _dequantized(model: Any) -> PreTrainedModel:
    """The weights of four bits written out, and the adapter's added: put back into four bits, its small steps would be rounded away."""
    added = {name: part.get_delta_weight("default") for name, part in model.base_model.model.named_modules() if isinstance(part, LoraLayer)}
    plain: PreTrainedModel = model.unload().dequantize()
    for name, change in added.items():
        weight = plain.get_parameter(f"{name}.weight")
        weight.copy_(weight.float() + change.float())
    return plain
