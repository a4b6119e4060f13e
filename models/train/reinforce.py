"""Reinforcement learning with TRL's GRPO: answers are sampled, scored by the reward model, and held near sft by a KL term."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

from models.core.errors import StageError
from models.core.lines import read_rows
from models.core.work import Work
from models.train import chat, policy, preference
from models.train.chat import Messages
from models.train.settings import Reinforcement
from models.train.training import Progress, logits_in_pieces, options, quiet, run


def prompts(path: Path, tokenizer: PreTrainedTokenizerBase, room: int | None, least: int) -> tuple[list[Messages], int]:
    """The prompts of a file, and how many were left out because they are longer than `room` tokens.

    Raises StageError where fewer than `least` are left, or the chat template cannot take one.
    """
    kept, dropped = [], 0
    for number, record in enumerate(read_rows(path), 1):
        try:
            text = chat.rendered(tokenizer, record["prompt"], prompt=True)
        except StageError as error:
            raise StageError(f"{path}, {record.get('id', f'record {number}')}: {error}: mend or remove the record") from error
        if room is not None and len(tokenizer(text, add_special_tokens=False)["input_ids"]) > room:
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
    """The trained policy, adapters merged. Shao et al. (2024), section 4.1; the KL term is to the policy as it came.

    Departs from the paper as TRL does by default: the loss is a mean over all tokens of the batch (Yu et al., 2025, "DAPO").
    """
    policy.freeze(model, plan.weights)

    def rewards(prompts: list[Messages], completions: list[Messages], **_: Any) -> list[float]:
        answered = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        return [float(value) for value in preference.rewards(reward, tokenizer, answered, plan.answers_per_batch)]

    answers = plan.prompts_per_step * plan.answers_per_prompt
    asked = asked * -(-plan.prompts_per_step // len(asked))  # TRL leaves a step out that it cannot fill: with few prompts, all of them
    arguments = options(work, seed, plan.precision, logging_steps=2) | {
        "max_steps": plan.steps,
        "per_device_train_batch_size": answers,
        "num_generations": plan.answers_per_prompt,
        "max_completion_length": plan.max_new_tokens,
        "temperature": plan.temperature,
        "learning_rate": plan.learning_rate,
        "warmup_steps": plan.warmup_share,
        "lr_scheduler_type": "linear",
        "beta": plan.beta,
        "disable_dropout": True,
    }
    with quiet():
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=rewards,
            args=GRPOConfig(**arguments),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in asked]),
            processing_class=tokenizer,
            peft_config=policy.adapter(plan.weights, model),
            callbacks=[Progress(work)],
        )
        run(trainer)
    return policy.merged(trainer.model)


@dataclass(frozen=True)
class Batch:
    """Sampled answers: token ids [answers, tokens] with the prompt on the left, and which tokens are the answer's own."""

    ids: torch.Tensor
    attention: torch.Tensor
    said: torch.Tensor


@dataclass(frozen=True)
class Answers:
    """Sampled answers in the batches in which they were made, and each with its prompt as a conversation."""

    batches: list[Batch]
    conversations: list[Messages]

    @property
    def tokens(self) -> np.ndarray:
        """The length of each answer [answers], the token that ends it included."""
        return np.concatenate([batch.said.sum(1).cpu().numpy() for batch in self.batches])


@torch.no_grad()
def sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: list[Messages], plan: Reinforcement, seed: int) -> Answers:
    """`plan.measured_answers` answers to each prompt, one prompt's after another's."""
    model.eval()
    torch.manual_seed(seed)
    ends = chat.ends(tokenizer)
    settings = GenerationConfig(
        do_sample=True,
        temperature=plan.temperature,
        top_k=0,
        max_new_tokens=plan.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    repeated = [prompt for prompt in asked for _ in range(plan.measured_answers)]
    batches, conversations = [], []
    for start in range(0, len(repeated), plan.answers_per_batch):
        prompts = repeated[start : start + plan.answers_per_batch]
        ids, attention = _prompts(tokenizer, prompts, model.device)
        written = model.generate(input_ids=ids, attention_mask=attention, generation_config=settings)
        new = written[:, ids.shape[1] :]
        over = torch.isin(new, torch.tensor(ends, device=new.device)).int()
        own = over.cumsum(-1) - over == 0
        said = torch.cat([torch.zeros_like(ids, dtype=torch.bool), own], dim=1)
        batches.append(Batch(written, torch.cat([attention, own.int()], 1), said))
        replies = tokenizer.batch_decode(new, skip_special_tokens=True)
        conversations += [[*prompt, {"role": "assistant", "content": reply}] for prompt, reply in zip(prompts, replies, strict=True)]
    return Answers(batches, conversations)


def _prompts(tokenizer: PreTrainedTokenizerBase, asked: list[Messages], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of prompts, padded on the left [prompts, tokens], and which of them are the prompts' own."""
    texts = [chat.rendered(tokenizer, prompt, prompt=True) for prompt in asked]
    rows = [torch.tensor(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    ids = pad_sequence(rows, True, float(tokenizer.pad_token_id), padding_side="left")
    attention = pad_sequence([torch.ones_like(row) for row in rows], True, padding_side="left")
    return ids.to(device), attention.to(device)


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
