"""Supervised fine-tuning on conversations, with TRL: the loss counts what the assistant says, and the token that ends it."""

import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from models import policy
from models.errors import StageError
from models.records import read_lines
from models.settings import Finetuning
from models.training import Progress, options, quiet, run
from models.work import Work


def conversations(path: Path, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> tuple[Dataset, int]:
    """The conversations of a file as `input_ids` with an `assistant_masks`, and how many were longer than `max_tokens` and left out.

    Raises StageError where none is left.
    """
    rows, dropped = [], 0
    for record in read_lines(path):
        coded = tokenizer.apply_chat_template(record["messages"], return_dict=True, return_assistant_tokens_mask=True)
        if len(coded["input_ids"]) > max_tokens:
            dropped += 1
        else:
            rows.append({"input_ids": coded["input_ids"], "assistant_masks": coded["assistant_masks"]})
    if not rows:
        raise StageError(f"{path}: none of {dropped} conversations has at most {max_tokens} tokens: raise the key max_tokens")
    return Dataset.from_list(rows), dropped


def arguments(plan: Finetuning, work: Work, seed: int) -> dict[str, Any]:
    """What SFT and reward training have in common."""
    return options(work, seed, plan.precision) | {
        "num_train_epochs": plan.epochs,
        "per_device_train_batch_size": plan.batch_size,
        "per_device_eval_batch_size": plan.batch_size,
        "learning_rate": plan.learning_rate,
        "warmup_steps": plan.warmup_share,
        "lr_scheduler_type": "linear",
        "weight_decay": plan.weight_decay,
        "max_length": plan.max_tokens,
        # Padding a short question to the length of a function would double the work.
        "train_sampling_strategy": "group_by_length",
    }


def fit(model: Any, tokenizer: PreTrainedTokenizerBase, records: Dataset, plan: Finetuning, seed: int, work: Work) -> tuple[Any, float]:
    """The trained model (adapters merged), and the mean loss over training, in nats a token."""
    policy.freeze(model, plan.method)
    with quiet():
        trainer = SFTTrainer(
            model=model,
            # The masks in the records say what counts; assistant_only_loss would ask for untokenised conversations.
            args=SFTConfig(**arguments(plan, work, seed), packing=False, assistant_only_loss=False),
            train_dataset=records,
            processing_class=tokenizer,
            peft_config=policy.adapter(plan.method),
            callbacks=[Progress(work)],
        )
        trained = run(trainer)
    return policy.merged(trainer.model), float(trained.training_loss)


@torch.no_grad()
def loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, records: Dataset, batch_size: int) -> float:
    """Mean loss over what the assistant says in `records`, in nats a token."""
    model.eval()
    total, count = 0.0, 0
    for start in range(0, len(records), batch_size):
        rows = records[start : start + batch_size]
        ids = pad_sequence([torch.tensor(row) for row in rows["input_ids"]], True, float(tokenizer.pad_token_id))
        said = pad_sequence([torch.tensor(row) for row in rows["assistant_masks"]], True)
        logs = model(input_ids=ids.to(model.device)).logits[:, :-1].float().log_softmax(-1).cpu()
        picked = logs.gather(-1, ids[:, 1:, None])[..., 0] * said[:, 1:]
        total, count = total - float(picked.sum()), count + int(said[:, 1:].sum())
    return total / count if count else math.nan
