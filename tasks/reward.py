"""Reward stage: a scalar preference model from (chosen, rejected) pairs. RLHF reads it next."""

from pathlib import Path

from pydantic import Field

from models.train.settings import Finetuning
from tasks.stage import Inputs, Metrics, Outputs, Params, Seed, Work


class RewardParams(Finetuning, Params):
    seed: Seed = Field(description="of the head's first weights and of the order of the pairs")


class RewardInputs(Inputs):
    sft: Path
    preferences: Path


class RewardOutputs(Outputs):
    reward: Path


class RewardMetrics(Metrics):
    accuracy: float = Field(description="held-out pairs ranked as the annotator did, 0-1; a tie counts half")
    margin: float = Field(description="mean chosen - rejected on held-out pairs, nats")
    held_out_pairs: int
    train_loss: float = Field(description="nats a pair, mean over training")
    pairs: int = Field(description="trained on")
    too_long: int = Field(description="left out because longer than max_tokens, held-out ones included")


def reward(params: RewardParams, inputs: RewardInputs, outputs: RewardOutputs, work: Work) -> RewardMetrics:
    from models.train import pairs, policy, preference, training, vocabulary

    training.make_repeatable(params.seed)
    tokenizer = vocabulary.load(inputs.sft)
    train, held_out, too_long = pairs.splits(inputs.preferences, tokenizer, params.max_tokens)
    model = preference.load(inputs.sft)
    policy.require_positions(model, params.max_tokens, "reward.max_tokens")
    model, train_loss = preference.fit(model, tokenizer, train, params, params.seed, work)
    policy.save(model, tokenizer, outputs.reward)
    sides = ([pair["prompt"] + pair[side] for pair in held_out] for side in ("chosen", "rejected"))
    accuracy, margin = pairs.ranked(*(preference.rewards(model, tokenizer, side, params.batch_size) for side in sides))
    return RewardMetrics(
        accuracy=accuracy,
        margin=margin,
        held_out_pairs=len(held_out),
        train_loss=train_loss,
        pairs=len(train),
        too_long=too_long,
    )
