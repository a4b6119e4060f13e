"""What every way of learning from rewards shares: the prompts, what an answer is worth, and how far rewards and policy have moved."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.core.errors import StageError
from models.core.lines import read_rows
from models.core.ranks import ALONE, Ranks
from models.train import reward_model
from models.train.chat import Messages
from models.train.generation import Batch, batches, prompt_ids
from models.train.recorder import Shown
from models.train.settings import Reinforcement
from models.train.training import logits_in_pieces
from models.train.worth import Asked, Judge, Rewards


def prompts(path: Path, tokenizer: PreTrainedTokenizerBase, room: int | None, least: int) -> tuple[list[dict[str, Any]], int]:
    """The prompts of a file, and how many were left out because they are longer than `room` tokens.

    Raises StageError where fewer than `least` are left, or the chat template cannot take one.
    """
    kept, dropped = [], 0
    for number, record in enumerate(read_rows(path), 1):
        try:
            tokens = len(prompt_ids(tokenizer, record["prompt"]))
        except StageError as error:
            raise StageError(f"{path}, {record.get('id', f'record {number}')}: {error}: mend or remove the record") from error
        if room is not None and tokens > room:
            dropped += 1
        else:
            kept.append(record)
    if len(kept) < least:
        raise StageError(
            f"{path}: {len(kept)} of {len(kept) + dropped} prompts leave room for an answer, must be {least} at least: bring shorter ones, "
            "lower rlhf.max_new_tokens, or take a model of more positions"
        )
    return kept, dropped


def conversation(record: Mapping[str, Any], answer: str) -> Messages:
    return [*record["prompt"], {"role": "assistant", "content": answer}]


def by_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Judge:
    """What the reward model says of each answer, in nats: differences are log-odds of being preferred."""
    return lambda asked, answers: reward_model.rewards(model, tokenizer, list(map(conversation, asked, answers)), batch_size)


@dataclass(frozen=True)
class Answers:
    """Sampled answers in the batches in which they were made, and the record that each answers."""

    batches: list[Batch]
    asked: Asked

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.batches for text in batch.texts]

    @property
    def tokens(self) -> np.ndarray:
        """The length of each answer [answers], the token that ends it included."""
        return np.concatenate([batch.said.sum(1).cpu().numpy() for batch in self.batches])


def sample(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Asked, plan: Reinforcement, seed: int, ranks: Ranks = ALONE
) -> Answers:
    """`plan.measured_answers` answers to each prompt, one prompt's after another's."""
    torch.manual_seed(seed)
    repeated = [record for record in asked for _ in range(plan.measured_answers)]
    prompts = [record["prompt"] for record in repeated]
    how = plan.answers_per_batch, plan.max_new_tokens, plan.temperature, plan.precision
    return Answers(list(batches(model, tokenizer, prompts, *how, ranks)), repeated)


@torch.no_grad()
def divergence(model: PreTrainedModel, reference: PreTrainedModel, answers: Answers) -> np.ndarray:
    """KL(model || reference) of each answer [answers], in nats: exact at every token, summed over the answer's tokens."""
    model.eval(), reference.eval()
    totals = []
    for batch in answers.batches:
        at_token = []
        both = (logits_in_pieces(one, batch.ids, batch.attention) for one in (model, reference))
        for logits in zip(*both, strict=True):
            ours, theirs = (one.float().log_softmax(-1) for one in logits)
            at_token.append((ours.exp() * (ours - theirs)).sum(-1))
        of_next = torch.cat(at_token).view(batch.ids.shape)[:, :-1]
        totals.append((of_next * batch.said[:, 1:]).sum(-1).cpu().numpy())
    return np.concatenate(totals)


def mean_rewards(rewards: Rewards, answers: Answers, plan: Reinforcement) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The mean of each prompt's answers [prompts]: of what is learned from, and of each of its sources."""
    parts = rewards.parts(answers.asked, answers.texts)
    total, *sources = (values.reshape(-1, plan.measured_answers).mean(1) for values in (rewards.total(parts), *parts.values()))
    return total, dict(zip(parts, sources, strict=True))


def mean_reward(
    model: PreTrainedModel,
    rewards: Rewards,
    tokenizer: PreTrainedTokenizerBase,
    asked: Asked,
    plan: Reinforcement,
    seed: int,
    ranks: Ranks = ALONE,
) -> float:
    """Of a model as it is, over its answers to these prompts."""
    total, _ = mean_rewards(rewards, sample(model, tokenizer, asked, plan, seed, ranks), plan)
    return float(total.mean())


def shown(answers: Answers, means: np.ndarray, plan: Reinforcement, count: int) -> list[Shown]:
    """The first answer to each of the first prompts, with the mean reward [prompts] of all answers to it."""
    firsts = range(0, min(count, len(means)) * plan.measured_answers, plan.measured_answers)
    prompts = [answers.asked[place]["prompt"][-1]["content"] for place in firsts]
    return [Shown(*one) for one in zip(prompts, [answers.texts[place] for place in firsts], map(float, means), strict=False)]
