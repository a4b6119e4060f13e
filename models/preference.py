"""Reward models: one number for a conversation, learned with TRL from pairs of answers (Bradley-Terry)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import TaskType
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

from models import policy
from models.errors import StageError
from models.finetune import arguments
from models.records import read_lines
from models.settings import Finetuning
from models.training import Progress, quiet, run
from models.vocabulary import conversation_text
from models.work import Work

Messages = list[dict[str, Any]]


def load(folder: Path) -> PreTrainedModel:
    """The model with a head of one output in place of its vocabulary's; the head's weights are random unless the folder has them."""
    with quiet():
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32, local_files_only=True)


def pairs(path: Path, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> tuple[Dataset, int]:
    """The pairs of a file, and how many were left out because an answer with its prompt is longer than `max_tokens`.

    Raises StageError where none is left.
    """
    rows, dropped = [], 0
    for record in read_lines(path):
        both = [conversation_text(tokenizer, record["prompt"] + record[side]) for side in ("chosen", "rejected")]
        if max(map(len, tokenizer(both, add_special_tokens=False)["input_ids"])) > max_tokens:
            dropped += 1
        else:
            rows.append({side: record[side] for side in ("prompt", "chosen", "rejected")})
    if not rows:
        raise StageError(f"{path}: none of {dropped} pairs has at most {max_tokens} tokens a side: raise the key max_tokens")
    return Dataset.from_list(rows), dropped


def fit(model: Any, tokenizer: PreTrainedTokenizerBase, records: Dataset, plan: Finetuning, seed: int, work: Work) -> tuple[Any, float]:
    """The trained reward model (adapters merged), and the mean loss over training, in nats a pair."""
    policy.freeze(model, plan.method)
    with quiet():
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(**arguments(plan, work, seed) | {"train_sampling_strategy": "random"}),
            train_dataset=records,
            processing_class=tokenizer,
            peft_config=policy.adapter(plan.method, TaskType.SEQ_CLS),
            callbacks=[Progress(work)],
        )
        trained = run(trainer)
    return policy.merged(trainer.model), float(trained.training_loss)


@torch.no_grad()
def rewards(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, conversations: list[Messages], batch_size: int) -> np.ndarray:
    """The reward of each conversation [conversations], in nats: differences are log-odds of being preferred."""
    model.eval()
    values = []
    for start in range(0, len(conversations), batch_size):
        texts = [conversation_text(tokenizer, messages) for messages in conversations[start : start + batch_size]]
        batch = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt").to(model.device)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        values.append(logits[:, 0].float().cpu().numpy())
    return np.concatenate(values)
