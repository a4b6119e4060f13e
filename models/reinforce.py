"""Reinforcement learning with TRL's GRPO: answers are sampled, scored by the reward model, and held near sft by a KL term."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

from models import policy, preference
from models.records import read_lines
from models.settings import Reinforcement
from models.training import Progress, options, quiet, run
from models.work import Work

Messages = list[dict[str, Any]]


def prompts(path: Path, limit: int | None = None) -> list[Messages]:
    """The first `limit` prompts of a file, or all."""
    return [record["prompt"] for record in read_lines(path)][:limit]


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
    policy.freeze(model, plan.method)
    answers = plan.prompts_per_step * plan.answers_per_prompt
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
            reward_funcs=reward,
            reward_processing_classes=tokenizer,
            args=GRPOConfig(**arguments),
            train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in asked]),
            processing_class=tokenizer,
            peft_config=policy.adapter(plan.method),
            callbacks=[Progress(work)],
        )
        run(trainer)
    return policy.merged(trainer.model)


@dataclass(frozen=True)
class Answers:
    """Sampled answers: token ids [answers, tokens] with the prompt on the left, and which tokens are the answer's own."""

    ids: torch.Tensor
    attention: torch.Tensor
    said: torch.Tensor
    conversations: list[Messages]


@torch.no_grad()
def sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: list[Messages], plan: Reinforcement, seed: int) -> Answers:
    """`plan.measured_answers` answers to each prompt, one prompt's after another's."""
    model.eval()
    torch.manual_seed(seed)
    texts = [tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True) for prompt in asked]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt").to(model.device)
    settings = GenerationConfig(
        do_sample=True,
        temperature=plan.temperature,
        top_k=0,
        max_new_tokens=plan.max_new_tokens,
        num_return_sequences=plan.measured_answers,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    ids = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=settings)
    width = batch["input_ids"].shape[1]
    new = ids[:, width:]
    ended = (new == tokenizer.eos_token_id).int().cumsum(-1) - (new == tokenizer.eos_token_id).int()
    said = torch.cat([torch.zeros_like(ids[:, :width], dtype=torch.bool), ended == 0], dim=1)
    replies = tokenizer.batch_decode(new, skip_special_tokens=True)
    repeated = [prompt for prompt in asked for _ in range(plan.measured_answers)]
    conversations = [[*prompt, {"role": "assistant", "content": reply}] for prompt, reply in zip(repeated, replies, strict=True)]
    return Answers(
        ids, torch.cat([batch["attention_mask"].repeat_interleave(plan.measured_answers, 0), (ended == 0).int()], 1), said, conversations
    )


@torch.no_grad()
def divergence(model: PreTrainedModel, reference: PreTrainedModel, answers: Answers, batch_size: int) -> np.ndarray:
    """KL(model || reference) of each answer [answers], in nats: exact at every token, summed over the answer's tokens."""
    model.eval(), reference.eval()
    totals = []
    for start in range(0, len(answers.ids), batch_size):
        part = slice(start, start + batch_size)
        inputs = {"input_ids": answers.ids[part], "attention_mask": answers.attention[part]}
        ours, theirs = (one(**inputs).logits[:, :-1].float().log_softmax(-1) for one in (model, reference))
        at_token = (ours.exp() * (ours - theirs)).sum(-1)
        totals.append((at_token * answers.said[part, 1:]).sum(-1).cpu().numpy())
    return np.concatenate(totals)


def mean_rewards(reward: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, answers: Answers, plan: Reinforcement) -> np.ndarray:
    """The mean reward of each prompt's answers [prompts]."""
    means: np.ndarray = preference.rewards(reward, tokenizer, answers.conversations, 32).reshape(-1, plan.measured_answers).mean(1)
    return means
