"""Reinforcement learning with TRL's GRPO or RLOO: answers are sampled, scored by the reward model, and held near sft by a KL term."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from models.core.errors import StageError
from models.core.lines import read_rows
from models.core.work import Work
from models.train import policy, preference
from models.train.chat import Messages
from models.train.generation import Batch, batches, prompt_ids
from models.train.settings import Reinforcement
from models.train.training import Progress, logits_in_pieces, options, quiet, run, schedule_options

METHODS: dict[str, tuple[Any, Any]] = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


def prompts(path: Path, tokenizer: PreTrainedTokenizerBase, room: int | None, least: int) -> tuple[list[Messages], int]:
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
            kept.append(record["prompt"])
    if len(kept) < least:
        raise StageError(
            f"{path}: {len(kept)} of {len(kept) + dropped} prompts leave room for an answer, must be {least} at least: bring shorter ones, "
            "lower rlhf.max_new_tokens, or take a model of more positions"
        )
    return kept, dropped


def fit(
    model: Any,
    reward: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: list[Messages],
    plan: Reinforcement,
    seed: int,
    work: Work,
) -> Any:
    """The trained policy, adapters merged; the KL term is to the policy as it came.

    grpo: Shao et al. (2024), section 4.1, departing from it as TRL does by default: the loss is a mean over all tokens of the batch (Yu et
    al., 2025, "DAPO"). rloo: Ahmadian et al. (2024), eq. 6; the KL of a whole answer is taken off its reward.
    """
    policy.freeze(model, plan.weights)

    def rewards(prompts: list[Messages], completions: list[Messages], **_: Any) -> list[float]:
        answered = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        return [float(value) for value in preference.rewards(reward, tokenizer, answered, plan.answers_per_batch)]

    answers = plan.prompts_per_step * plan.answers_per_prompt
    asked = asked * -(-plan.prompts_per_step // len(asked))  # TRL leaves a step out that it cannot fill: with few prompts, all of them
    arguments = (
        options(work, seed, plan.precision, logging_steps=2)
        | schedule_options(plan.schedule, plan.steps)
        | {
            "max_steps": plan.steps,
            "per_device_train_batch_size": answers,
            "num_generations": plan.answers_per_prompt,
            "max_completion_length": plan.max_new_tokens,
            "temperature": plan.temperature,
            "learning_rate": plan.learning_rate,
            "warmup_steps": plan.warmup_share,
            "beta": plan.beta,
            "disable_dropout": True,
        }
    )
    kind, config = METHODS[plan.method]
    with quiet():
        trainer = kind(
            model=model,
            reward_funcs=rewards,
            args=config(**arguments),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in asked]),
            processing_class=tokenizer,
            peft_config=policy.adapter(plan.weights, model),
            callbacks=[Progress(work)],
        )
        run(trainer, work)
    return policy.merged(trainer.model)


@dataclass(frozen=True)
class Answers:
    """Sampled answers in the batches in which they were made, and each with its prompt as a conversation."""

    batches: list[Batch]
    conversations: list[Messages]

    @property
    def tokens(self) -> np.ndarray:
        """The length of each answer [answers], the token that ends it included."""
        return np.concatenate([batch.said.sum(1).cpu().numpy() for batch in self.batches])


def sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: list[Messages], plan: Reinforcement, seed: int) -> Answers:
    """`plan.measured_answers` answers to each prompt, one prompt's after another's."""
    torch.manual_seed(seed)
    repeated = [prompt for prompt in asked for _ in range(plan.measured_answers)]
    made = list(batches(model, tokenizer, repeated, plan.answers_per_batch, plan.max_new_tokens, plan.temperature))
    replies = [reply for batch in made for reply in batch.texts]
    conversations = [[*prompt, {"role": "assistant", "content": reply}] for prompt, reply in zip(repeated, replies, strict=True)]
    return Answers(made, conversations)


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


def mean_rewards(reward: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, answers: Answers, plan: Reinforcement) -> np.ndarray:
    """The mean reward of each prompt's answers [prompts]."""
    rewards = preference.rewards(reward, tokenizer, answers.conversations, plan.answers_per_batch)
    means: np.ndarray = rewards.reshape(-1, plan.measured_answers).mean(1)
    return means
