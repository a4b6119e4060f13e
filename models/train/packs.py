"""Several texts in a row of tokens: which go together, and whether a model keeps them apart."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from models.core.errors import StageError
from models.train.policy import ROUNDING

IGNORED = -100  # in place of a token that no loss counts


def best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """The places of texts of these lengths, at most `room` each, row by row: longest first, each where it leaves the least room."""
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room left, row), ascending
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        at = bisect_left(free, (lengths[place], 0))
        left, row = free.pop(at) if at < len(free) else (room, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(place)
        if left > lengths[place]:
            insort(free, (left - lengths[place], row))
    return rows


def positions(lengths: Sequence[int]) -> list[int]:
    """Each token's place in its own text, of texts that lie end to end: where it falls, attention of a model begins anew."""
    return [*chain.from_iterable(map(range, lengths))]


@torch.no_grad()
def require_apart(model: PreTrainedModel, key: str) -> None:
    """Raise StageError where the model, given two texts in one row with their positions, does not say of each what it says of it alone.

    No flag of an architecture tells: one that carries a state from token to token, or counts positions by itself, mixes them.
    """
    model.eval()
    tokens = torch.linspace(0, model.get_input_embeddings().num_embeddings - 1, 20, device=model.device).long()
    texts = tokens.split((8, 12))
    try:
        alone = torch.cat([model(input_ids=text[None], use_cache=False).logits for text in texts], 1).float()
        places = torch.tensor([positions([8, 12])], device=model.device)
        together = model(input_ids=tokens[None], position_ids=places, use_cache=False).logits.float()
        off = float((together - alone).abs().max() / alone.abs().max().clamp(min=1.0))
    except TypeError:  # it takes no positions
        off = float("inf")
    if not off <= ROUNDING[model.dtype]:
        raise StageError(f"{key} is true, and {type(model).__name__} mixes the texts of a row, must keep them apart: set it to false")


class Collator:
    """Rows of texts as a batch [rows, tokens], padded on the right by tokens that are a text of their own each and count for nothing.

    There is no attention mask: with one, models do not look at the positions.
    """

    def __init__(self, pad: int) -> None:
        self.fill = {"input_ids": pad, "labels": IGNORED, "position_ids": 0}

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        longest = max(len(example["input_ids"]) for example in examples)
        return {
            name: torch.tensor([[*example[name], *[fill] * (longest - len(example[name]))] for example in examples])
            for name, fill in self.fill.items()
        }
