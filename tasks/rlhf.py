"""RLHF stage: reinforcement learning from the learned reward, with a KL term to sft. The benchmark and the gate read it next."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from models.core.errors import StageError
from models.score.rewards import Source, sum_of
from models.train.settings import Reinforcement
from tasks.stage import Inputs, Metrics, Outputs, Params, Seed, Work

EVIDENCE = 5  # answers before and after, for people to read
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,39}$")]


class RlhfParams(Reinforcement, Params):
    rewards: dict[Name, Source] = Field(min_length=1, description="what is learned from, by a name of your own: their weighted sum")
    seed: Seed = Field(description="of the order of the prompts and of the sampling")


class RlhfInputs(Inputs):
    sft: Path
    reward: Path | None = None  # where no reward takes the model, there may be none
    prompts: Path


class RlhfOutputs(Outputs):
    rlhf: Path


class RlhfMetrics(Metrics):
    reward_gain: float = Field(description="what is learned from, on held-out prompts, after minus before; nats where a model gives it")
    reward_gain_stderr: float = Field(description="its standard error, paired over prompts")
    gains: dict[str, float] = Field(description="the same of each reward by its name, before its weight")
    reward_before: float
    reward_after: float
    kl: float = Field(description="KL to sft on held-out prompts' answers, nats an answer")
    kl_per_token: float
    tokens_before: float = Field(description="mean length of an answer")
    tokens_after: float
    diagnoses: dict[str, str] = Field(description="what the flight recorder found, by name: empty in an honest run")
    handed_on: int | None = Field(description="the step whose weights these are; null: the last")
    held_out_prompts: int
    too_long: int = Field(description="prompts left out because no room for an answer is left, held-out ones included")


def gain(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """Mean of after - before over prompts [prompts], and its standard error: prompts are paired, so their own spread cancels.

    Raises ValueError for fewer than two prompts or unequal shapes.
    """
    if before.shape != after.shape or before.size < 2:
        raise ValueError(f"need two equal [prompts] arrays of two or more, got {before.shape} and {after.shape}")
    difference = after - before
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(difference.size))


def rlhf(params: RlhfParams, inputs: RlhfInputs, outputs: RlhfOutputs, work: Work) -> RlhfMetrics:
    from models.train import chat, policy, reinforce, reward_model, training, vocabulary
    from models.train.methods import group, ppo
    from models.train.recorder import Recorder

    training.make_repeatable(params.seed)
    tokenizer = vocabulary.load(inputs.sft)
    judge = None
    if inputs.reward is not None:
        chat.refuse_drift(vocabulary.load(inputs.reward), tokenizer, "reward", "sft")
        judge = reinforce.by_model(reward_model.load(inputs.reward, params.precision).to(work.device), tokenizer, params.answers_per_batch)
    rewards, sft = replace(sum_of(params.rewards, judge), ranks=work.ranks), policy.load(inputs.sft, params.precision).to(work.device)
    policy.require_positions(sft, params.max_new_tokens, "rlhf.max_new_tokens")
    most = policy.positions(sft)
    room = None if most is None else most - params.max_new_tokens
    train, train_dropped = reinforce.prompts(inputs.prompts / "train.jsonl", tokenizer, room, least=1)
    held_out, held_out_dropped = reinforce.prompts(inputs.prompts / "held_out.jsonl", tokenizer, room, least=2)
    held_out = held_out[: params.measured_prompts]
    before = reinforce.sample(sft, tokenizer, held_out, params, params.seed, work.ranks)
    model = policy.opened(inputs.sft, params, work.device)
    recorder = Recorder(
        params,
        tokens=lambda texts: [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]],
        measure=lambda now: reinforce.mean_reward(now, rewards, tokenizer, held_out, params, params.seed, work.ranks),
        folder=work.folder,
    )
    if params.method.algorithm == "ppo":
        value = reward_model.opened(inputs.reward or inputs.sft, params, work.device)
        model = ppo.fit(model, sft, value, rewards, tokenizer, train, params, params.seed, work, recorder)
    else:
        model = group.fit(model, rewards, tokenizer, train, params, params.seed, work, recorder)
    after = reinforce.sample(model, tokenizer, held_out, params, params.seed, work.ranks)
    divergence = reinforce.divergence(model, sft, after)
    (first, first_of), (last, last_of) = (reinforce.mean_rewards(rewards, answers, params) for answers in (before, after))
    shown = (reinforce.shown(answers, means, params, EVIDENCE) for answers, means in ((before, first), (after, last)))
    work.reports.mkdir(parents=True, exist_ok=True)
    (work.reports / "flight-recorder.html").write_text(recorder.page(*shown), encoding="utf-8")
    kl, tokens = float(divergence.mean()), float(after.tokens.sum())
    if not kl <= params.max_kl:  # nor a number that is none
        raise StageError(
            f"rlhf moved {kl:.2f} nats an answer away from sft, must be at most rlhf.max_kl = {params.max_kl}: "
            "raise rlhf.beta, or lower rlhf.learning_rate or rlhf.steps" + "".join(f"; {said}" for said in recorder.found.values())
        )
    reward_gain, error = gain(first, last)
    policy.save(model, tokenizer, outputs.rlhf)
    return RlhfMetrics(
        reward_gain=reward_gain,
        reward_gain_stderr=error,
        gains={name: float((last_of[name] - first_of[name]).mean()) for name in params.rewards},
        reward_before=float(first.mean()),
        reward_after=float(last.mean()),
        kl=kl,
        kl_per_token=float(divergence.sum()) / tokens,
        tokens_before=float(before.tokens.mean()),
        tokens_after=float(after.tokens.mean()),
        diagnoses=recorder.found,
        handed_on=recorder.handed_on,
        held_out_prompts=len(held_out),
        too_long=train_dropped + held_out_dropped,
    )
