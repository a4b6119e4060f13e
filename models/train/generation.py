"""What a model writes after prompts, in batches: greedily, or drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.core.ranks import ALONE, Ranks
from models.train import chat, decoding, training
from models.train.chat import Messages


@dataclass(frozen=True)
class Batch:
    """Written answers: token ids [answers, tokens] with the prompt on the left, which tokens are the answer's own, its end included, and
    which answers came to an end [answers]."""

    ids: Tensor
    attention: Tensor
    said: Tensor
    ended: Tensor
    texts: list[str]


def batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Messages],
    size: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    precision: str = "float32",
    ranks: Ranks = ALONE,
) -> Iterator[Batch]:
    """One answer to each prompt, `size` prompts at a time, in their order; at temperature 0 the likeliest token each time."""
    ends = chat.ends(tokenizer)
    for start in range(0, len(asked), size):
        prompts = [prompt_ids(tokenizer, prompt) for prompt in asked[start : start + size]]
        with training.precision(precision, model.device.type):
            new = answers(model, prompts, ends, max_new_tokens, temperature, ranks)
        ended = torch.tensor([tokens[-1] in ends for tokens in new], device=model.device)
        yield _batch(prompts, new, ended, tokenizer, model.device)


def answers(
    model: Any, prompts: Sequence[Sequence[int]], ends: Sequence[int], most: int, temperature: float, ranks: Ranks = ALONE
) -> list[list[int]]:
    """The tokens of an answer to each prompt, its end included. Each row has random numbers of its own, seeded by torch's global generator:
    what is drawn depends on no other row, and on no number of ranks.
    """
    model.eval()
    seeds = torch.randint(1 << 62, (len(prompts),)).tolist() if temperature else []
    mine = ranks.share(len(prompts))
    chance = [torch.Generator(model.device).manual_seed(seed) for seed in seeds[mine]]
    stops = frozenset(ends)
    found = decoding.written(model, prompts[mine], most, decoding.chosen(temperature, chance), lambda tokens: tokens[-1] in stops)
    return [tokens for some in ranks.gather(found) for tokens in some]


def _batch(
    prompts: Sequence[Sequence[int]], new: Sequence[Sequence[int]], ended: Tensor, tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> Batch:
    """Prompts padded on the left and answers on the right of where they meet."""

    def padded(rows: Sequence[Sequence[int]], side: str, fill: float) -> Tensor:
        return pad_sequence([torch.tensor(row) for row in rows], True, fill, padding_side=side).to(device)

    pad = float(tokenizer.pad_token_id)
    asked, own = ([[1] * len(row) for row in rows] for rows in (prompts, new))
    said = padded(own, "right", 0.0)
    before = padded(asked, "left", 0.0)
    return Batch(
        ids=torch.cat([padded(prompts, "left", pad), padded(new, "right", pad)], 1),
        attention=torch.cat([before, said], 1),
        said=torch.cat([torch.zeros_like(before), said], 1).bool(),
        ended=ended,
        texts=tokenizer.batch_decode([[*row] for row in new], skip_special_tokens=True),
    )


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Messages) -> list[int]:
    """The tokens after which an answer begins. Raises StageError where the chat template refuses the conversation."""
    ids: list[int] = tokenizer(chat.rendered(tokenizer, prompt, prompt=True), add_special_tokens=False)["input_ids"]
    return ids
