"""Writing on from prompts, a token at a time: the one loop that everything which a model writes goes through."""

import weakref
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

Choose = Callable[[Tensor, Sequence[int]], Tensor]  # logits [rows, vocabulary] of the rows that are named, to the next token of each [rows]
_takes = weakref.WeakKeyDictionary[Any, frozenset[str]]()


@torch.no_grad()
def written(model: Any, prompts: Sequence[Sequence[int]], most: int, choose: Choose, over: Callable[[list[int]], bool]) -> list[list[int]]:
    """What is written after each prompt, `most` tokens at most: until `over` says of a row's tokens that they have come to an end.

    A row that has ended leaves the batch: what is left to compute is what is left to say. The prompts are padded on the left to
    [rows, tokens]; an architecture that keeps what it has read in a way of its own reads all anew at each token.
    """
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(row)) + [*row] for row in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=model.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    found: list[list[int]] = [[] for _ in prompts]
    rows, cache = list(range(len(prompts))), None
    for _ in range(most):
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache, "use_cache": True}
        step = forward(model, **given, logits_to_keep=1)
        cache, new = getattr(step, "past_key_values", None), choose(step.logits[:, -1], rows)[:, None]
        if cache is None:
            ids, positions = torch.cat([ids, new], -1), torch.cat([positions, positions[:, -1:] + 1], -1)
        else:
            ids, positions = new, positions[:, -1:] + 1
        for row, token in zip(rows, new[:, 0].tolist(), strict=True):
            found[row].append(token)
        left = [place for place, row in enumerate(rows) if not over(found[row])]
        if not left:
            break
        if len(left) < len(rows):
            keep = torch.tensor(left, device=model.device)
            ids, mask, positions, rows = ids[keep], mask[keep], positions[keep], [rows[place] for place in left]
            if cache is not None:
                cache.batch_select_indices(keep)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], -1)
    return found


def forward(model: Any, **given: Any) -> Any:
    """What a model makes of the arguments that its architecture takes: not every one takes positions, or tells which logits."""
    if model not in _takes:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        _takes[model] = frozenset(signature(inner.forward).parameters)
    return model(**{name: value for name, value in given.items() if name in _takes[model]})


def chosen(temperature: float, chance: Sequence[torch.Generator]) -> Choose:
    """The likeliest token at temperature 0; else one that is drawn, with random numbers of the row's own, whatever rows are beside it."""

    def choose(logits: Tensor, rows: Sequence[int]) -> Tensor:
        if temperature == 0:
            return logits.argmax(-1)
        odds = (logits.float() / temperature).softmax(-1)
        return torch.cat([torch.multinomial(own, 1, generator=chance[row]) for own, row in zip(odds, rows, strict=True)])

    return choose
