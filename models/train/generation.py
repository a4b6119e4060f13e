"""What a model writes after prompts, in batches: greedily, or drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from models.train import chat, training
from models.train.chat import Messages


@dataclass(frozen=True)
class Batch:
    """Written answers: token ids [answers, tokens] with the prompt on the left, which tokens are the answer's own, its end included, and
    which answers came to an end [answers]."""

    ids: torch.Tensor
    attention: torch.Tensor
    said: torch.Tensor
    ended: torch.Tensor
    texts: list[str]


@torch.no_grad()
def batches(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[Messages],
    size: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    precision: str = "float32",
) -> Iterator[Batch]:
    """One answer to each prompt, `size` prompts at a time, in their order; at temperature 0 the likeliest token each time."""
    model.eval()
    ends = chat.ends(tokenizer)
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    settings = GenerationConfig(**drawn, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    for start in range(0, len(asked), size):
        ids, attention = _prompts(tokenizer, asked[start : start + size], model.device)
        with training.precision(precision, model.device.type):
            written = model.generate(input_ids=ids, attention_mask=attention, generation_config=settings)
        new = written[:, ids.shape[1] :]
        over = torch.isin(new, torch.tensor(ends, device=new.device)).int()
        own = over.cumsum(-1) - over == 0
        said = torch.cat([torch.zeros_like(ids, dtype=torch.bool), own], dim=1)
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        yield Batch(written, torch.cat([attention, own.int()], 1), said, over.any(1), texts)


def _prompts(tokenizer: PreTrainedTokenizerBase, asked: Sequence[Messages], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of prompts, padded on the left [prompts, tokens], and which of them are the prompts' own."""
    rows = [torch.tensor(prompt_ids(tokenizer, prompt)) for prompt in asked]
    ids = pad_sequence(rows, True, float(tokenizer.pad_token_id), padding_side="left")
    attention = pad_sequence([torch.ones_like(row) for row in rows], True, padding_side="left")
    return ids.to(device), attention.to(device)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Messages) -> list[int]:
    """The tokens after which an answer begins. Raises StageError where the chat template refuses the conversation."""
    ids: list[int] = tokenizer(chat.rendered(tokenizer, prompt, prompt=True), add_special_tokens=False)["input_ids"]
    return ids
