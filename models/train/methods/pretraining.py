"""Pretraining: texts packed into blocks of equal length, and a plain loop over them."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.core.checkpoints import Checkpoints
from models.core.work import Work
from models.train import chat, resuming
from models.train.muon import Muon
from models.train.packs import IGNORED, best_fit
from models.train.parts import Parts
from models.train.settings import Blocks, Pretraining
from models.train.spikes import WINDOW, Spikes
from models.train.training import log_likelihoods, precision, rate

# A few hundred steps are too short for Muon's usual momentum of .95 and for an embedding that moves no faster than the layers: with these,
# 400 steps of the tiny recipe learn to copy out of their context what 780 steps did not learn without them.
MOMENTUM = 0.8
EMBEDDING_RATE = 5.0  # times that of the matrices


def pack(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, block_tokens: int) -> Tensor:
    """Token ids [blocks, block_tokens]: whole texts, each with the end token, put where they fit best; the rest of a block is IGNORED.

    Best fit, longest first, leaves a few per cent of padding and cuts no text that fits a block; longer ones are cut into blocks. No token
    stands for padding, because some tokenizers pad with the one that ends a text. Texts begin with the token that the tokenizer begins them
    with, if any.
    """
    return packed(texts, tokenizer, block_tokens)[0]


def packed(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, block_tokens: int) -> tuple[Tensor, list[list[int]]]:
    """As `pack`, with the places of the texts that each block holds."""
    every, first = tokenizer(list(texts), add_special_tokens=False)["input_ids"], chat.begin(tokenizer)
    pieces = [
        (place, ids[at : at + block_tokens])
        for place, ids in enumerate([*first, *text, tokenizer.eos_token_id] for text in every)
        for at in range(0, len(ids), block_tokens)
    ]
    rows = [[pieces[place] for place in places] for places in best_fit([len(ids) for _, ids in pieces], block_tokens)]
    blocks = [[*chain.from_iterable(ids for _, ids in row)] for row in rows]
    ids = torch.tensor([block + [IGNORED] * (block_tokens - len(block)) for block in blocks])
    return ids, [[place for place, _ in row] for row in rows]


def _batches(count: int, size: int, steps: int, seed: int) -> Iterator[list[int]]:
    """The places of each step's blocks, in an order of its own every time that all have been read."""
    source, order = random.Random(seed), list[int]()
    for _ in range(steps):
        while len(order) < size:
            epoch = list(range(count))
            source.shuffle(epoch)
            order = epoch[::-1] + order
        yield [order.pop() for _ in range(size)]


def _loss(model: PreTrainedModel, batch: Tensor, precision_name: str, room: Parts) -> float:
    """The mean loss over the tokens of a batch, its gradients added to the weights', in parts that there is room for."""
    counted, losses = batch[:, 1:] != IGNORED, list[Tensor]()

    def one(part: slice) -> None:
        with precision(precision_name, batch.device.type):
            logits = model(input_ids=batch[part].clamp(min=0)).logits
        mean = cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[part, 1:].flatten(), ignore_index=IGNORED)
        loss = mean * (counted[part].sum() / counted.sum())
        loss.backward()
        losses.append(loss.detach())

    def clear() -> None:
        losses.clear()
        model.zero_grad(set_to_none=True)

    room.step(len(batch), one, clear)
    return room.sum(losses, batch.device).item()


def _optimizers(model: PreTrainedModel, plan: Pretraining) -> list[torch.optim.Optimizer]:
    """AdamW for all weights, with decay on those inside the layers; or Muon for these, and AdamW for the embedding and the norms.

    Muon's updates are as large as AdamW's, so that one rate serves both; the embedding's is EMBEDDING_RATE times it. At this size Muon
    needs about half the tokens of AdamW alone.
    """
    tables = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]  # of tokens and, with some, of positions
    embeddings = {id(weight) for module in (*tables, model.get_output_embeddings()) for weight in module.parameters()}
    matrices = [weight for weight in model.parameters() if weight.ndim == 2 and id(weight) not in embeddings]
    others = [weight for weight in model.parameters() if weight.ndim != 2 or id(weight) in embeddings]
    adamw = partial(torch.optim.AdamW, betas=(0.9, 0.95), fused=True)
    if plan.optimizer == "adamw":
        decayed = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return [adamw(decayed, lr=plan.learning_rate)]
    return [
        Muon(matrices, plan.learning_rate, MOMENTUM, plan.weight_decay),
        adamw(others, lr=EMBEDDING_RATE * plan.learning_rate, weight_decay=0.0),
    ]


def fit(
    model: PreTrainedModel,
    blocks: Tensor,
    plan: Pretraining,
    reading: Blocks,
    seed: int,
    work: Work,
    records: Sequence[Sequence[str]] = (),
) -> float:
    """Train in place on `plan.steps` batches of `blocks` [blocks, tokens]; the mean loss of the last tenth, in nats a token.

    Goes on from the last checkpoint, where there is one. records: the names of the texts in each block, for a step that goes wrong.
    """
    model.train()
    optimizers = _optimizers(model, plan)
    schedules = [LambdaLR(optimizer, lambda step: rate(step, plan.steps, plan.warmup_share, plan.schedule)) for optimizer in optimizers]
    parts: list[Any] = [model, *schedules]
    checkpoints, room = work.checkpoints or Checkpoints(), Parts(reading.micro_batch, work.ranks, model.parameters())
    if reading.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    losses, spikes = _resumed(parts, optimizers, room, checkpoints), Spikes(plan.max_rise)
    spikes.recent = losses[-WINDOW:]
    with checkpoints.training():
        for step, places in islice(enumerate(_batches(len(blocks), reading.batch, plan.steps, seed), 1), len(losses), None):
            loss = _loss(model, blocks[places].to(model.device), reading.precision, room)
            spikes.see(loss, step, [name for place in places for name in records[place]] if records else ())
            norm = room.shards.clip(model.parameters(), 1.0)
            learning_rate = float(schedules[0].get_last_lr()[0])
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            room.shards.spread()
            losses.append(loss)
            if step % 10 == 0 or step == plan.steps:
                mean = sum(losses[-10:]) / len(losses[-10:])
                told = {"loss": mean, "learning_rate": learning_rate, "gradient_norm": norm.item()}
                work.progress(step, plan.steps, told)
                resuming.require_number(told, step)
            if checkpoints.due():
                checkpoints.save(step, partial(_save, parts, optimizers, room, losses))
    last = losses[-max(1, plan.steps // 10) :]
    return sum(last) / len(last)


def _save(parts: Sequence[Any], optimizers: Sequence[Any], room: Parts, losses: list[float], folder: Path) -> None:
    room.shards.save(optimizers, folder)
    if room.ranks.leads:
        resuming.save({"losses": losses, "room": room.size, "parts": [part.state_dict() for part in parts]}, folder / resuming.FILE)


def _resumed(parts: Sequence[Any], optimizers: Sequence[Any], room: Parts, checkpoints: Checkpoints) -> list[float]:
    """Put model, optimisers and schedules where the last checkpoint has them; the losses of the steps until then."""
    kept = checkpoints.latest()
    if kept is None:
        return []
    states = resuming.load(kept / resuming.FILE)
    for part, state in zip(parts, states["parts"], strict=True):
        part.load_state_dict(state)
    room.shards.load(optimizers, kept)
    room.size = states["room"]
    losses: list[float] = states["losses"]
    return losses


@torch.no_grad()
def loss(model: PreTrainedModel, blocks: Tensor, reading: Blocks) -> float:
    """Mean loss over the tokens of `blocks` [blocks, tokens] that are not padding, in nats."""
    total, count = 0.0, 0
    for batch in blocks.split(reading.batch):
        counted = batch[:, 1:] != IGNORED
        with precision(reading.precision, model.device.type):
            total -= float(log_likelihoods(model, batch.clamp(min=0))[counted].sum())
        count += int(counted.sum())
    return total / count if count else math.nan
