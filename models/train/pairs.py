"""Pairs of answers to one prompt, of which somebody chose one: read for training, and how well a model ranks them."""

import math
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.core.errors import StageError
from models.core.lines import read_rows
from models.train import chat
from models.train.training import log_likelihoods

BINS = 10  # of certainty
SIDES = ("chosen", "rejected")


def read(path: Path, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> tuple[Dataset, int]:
    """The pairs of a file, and how many were left out because an answer with its prompt is longer than `max_tokens`.

    Raises StageError where none is left, or the chat template cannot take one.
    """
    rows, dropped = [], 0
    for number, record in enumerate(read_rows(path), 1):
        try:
            both = [chat.rendered(tokenizer, record["prompt"] + record[side]) for side in SIDES]
        except StageError as error:
            raise StageError(f"{path}, {record.get('id', f'record {number}')}: {error}: mend or remove the record") from error
        if max(map(len, tokenizer(both, add_special_tokens=False)["input_ids"])) > max_tokens:
            dropped += 1
        else:
            rows.append({"record": record.get("id", f"record {number}")} | {side: record[side] for side in ("prompt", *SIDES)})
    if not rows:
        raise StageError(f"{path}: none of {dropped} pairs has at most {max_tokens} tokens a side: raise the key max_tokens")
    return Dataset.from_list(rows), dropped


def splits(folder: Path, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> tuple[Dataset, Dataset, int]:
    """The pairs to train on, those held out, and how many of both were left out; as `read` has them."""
    (train, too_long), (held_out, more) = (read(folder / f"{split}.jsonl", tokenizer, max_tokens) for split in ("train", "held_out"))
    return train, held_out, too_long + more


def coded(pairs: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Each pair as `prompt_ids`, what both conversations begin with, and the rest of each up to the token that ends the last reply."""
    as_tokens, rows = chat.coder(tokenizer), []
    for pair in pairs:
        both = []
        for side in SIDES:
            ids, said = as_tokens(pair["prompt"] + pair[side])
            both.append(ids[: len(said) - said[::-1].index(1)])
        asked = tokenizer(chat.rendered(tokenizer, pair["prompt"], prompt=True), add_special_tokens=False)["input_ids"]
        # Where tokens merge across the end of the prompt, the answers begin at the merged one.
        begin = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(asked, *both, strict=False)))
        rest = {"chosen_ids": both[0][begin:], "rejected_ids": both[1][begin:]}
        rows.append({"prompt_ids": both[0][:begin], **rest, "record": pair["record"]})
    return Dataset.from_list(rows)


def likelihoods(model: PreTrainedModel, pairs: Dataset, batch_size: int) -> np.ndarray:
    """Log-likelihood of both answers of each pair, in nats an answer: [pairs, 2], chosen and rejected."""
    return np.stack([_likelihoods(model, pairs, f"{side}_ids", batch_size) for side in SIDES], axis=1)


def _likelihoods(model: PreTrainedModel, pairs: Dataset, side: str, batch_size: int) -> np.ndarray:
    values = []
    for start in range(0, len(pairs), batch_size):
        rows = pairs[start : start + batch_size]
        both = list(zip(rows["prompt_ids"], rows[side], strict=True))
        ids = pad_sequence([torch.tensor(asked + answer) for asked, answer in both], True)  # on the right: any token does
        said = pad_sequence([torch.tensor([0] * len(asked) + [1] * len(answer)) for asked, answer in both], True)
        values.append((log_likelihoods(model, ids) * said[:, 1:]).sum(-1).double().numpy())
    return np.concatenate(values)


def lengths(pairs: Dataset) -> np.ndarray:
    """The tokens of both answers of each pair, the one that ends them included [pairs, 2]."""
    return np.array([[len(pair[f"{side}_ids"]) for side in SIDES] for pair in pairs])


def ranked(chosen: np.ndarray, rejected: np.ndarray) -> tuple[float, float]:
    """Accuracy and mean margin of rewards of shape [pairs], in nats: chosen - rejected is the log-odds of the preference.

    A tie counts half, so that a model which cannot tell has accuracy 0.5. Raises ValueError where the shapes differ or no pair is left.
    Source: Bradley & Terry (1952); Ouyang et al. (2022), eq. 1.
    """
    if chosen.shape != rejected.shape or not chosen.size:
        raise ValueError(f"need two equal, non-empty [pairs] arrays, got {chosen.shape} and {rejected.shape}")
    gap = chosen - rejected
    return float(np.mean((np.sign(gap) + 1) / 2)), float(gap.mean())


def standard_error(accuracy: float, count: int) -> float:
    """Of an accuracy 0-1 over `count` pairs."""
    return math.sqrt(accuracy * (1 - accuracy) / count)


def calibration_error(gaps: np.ndarray) -> float:
    """How far certainty and truth are apart, 0-1, of a model whose log-odds of the preference are `gaps` [pairs].

    The expected calibration error of Guo et al. (2017), eq. 5: pairs are put by the certainty sigmoid(|gap|) into BINS from .5 to 1.
    """
    certain, right = 1 / (1 + np.exp(-np.abs(gaps))), (np.sign(gaps) + 1) / 2
    bins = np.minimum(((certain - 0.5) * 2 * BINS).astype(int), BINS - 1)
    return float(sum(abs((right - certain)[bins == place].sum()) for place in range(BINS)) / len(gaps))


def correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Pearson's, of two arrays [pairs]; None where one of them is the same throughout."""
    return float(np.corrcoef(one, other)[0, 1]) if min(one.std(), other.std()) > 0 else None
