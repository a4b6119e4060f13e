"""Reward stage: a scalar preference model from (chosen, rejected) pairs. RLHF reads it next."""

from pathlib import Path

from pydantic import Field, model_validator

from models.core.errors import StageError
from models.train.settings import Finetuning
from tasks.stage import Inputs, Metrics, Outputs, Params, Seed, Work


class RewardParams(Finetuning, Params):
    seed: Seed = Field(description="of the head's first weights and of the order of the pairs")
    floor: float = Field(ge=0, le=1, description="held-out accuracy below which the stage fails, so that nothing is trained on it")

    @model_validator(mode="after")
    def the_head_is_whole(self) -> "RewardParams":
        if self.weights.train == "qlora":
            raise ValueError("weights.train is qlora, must be one of full, lora, rslora, dora, last-layers: four bits are for what writes")
        return self


class RewardInputs(Inputs):
    sft: Path
    preferences: Path


class RewardOutputs(Outputs):
    reward: Path


class RewardMetrics(Metrics):
    accuracy: float = Field(description="held-out pairs ranked as the annotator did, 0-1; a tie counts half")
    accuracy_stderr: float = Field(description="its standard error, over pairs")
    margin: float = Field(description="mean chosen - rejected on held-out pairs, nats")
    length_correlation: float | None = Field(
        description="of the reward's gap between the two answers with that of their lengths, -1 to 1: near 1, length is what it pays for"
    )
    calibration_error: float = Field(description="how far its certainty and how often it is right are apart, 0-1 (Guo et al. 2017, eq. 5)")
    held_out_pairs: int
    train_loss: float = Field(description="nats a pair, mean over training")
    pairs: int = Field(description="trained on")
    too_long: int = Field(description="left out because longer than max_tokens, held-out ones included")


def reward(params: RewardParams, inputs: RewardInputs, outputs: RewardOutputs, work: Work) -> RewardMetrics:
    import numpy as np

    from models.train import pairs, policy, reward_model, training, vocabulary
    from models.train.methods import bradley_terry

    training.make_repeatable(params.seed)
    tokenizer = vocabulary.load(inputs.sft)
    train, held_out, too_long = pairs.splits(inputs.preferences, tokenizer, params.max_tokens)
    model = reward_model.opened(inputs.sft, params, work.device)
    policy.require_positions(model, params.max_tokens, "reward.max_tokens")
    model, train_loss = bradley_terry.fit(model, tokenizer, train, params, params.seed, work)
    sides = [[pair["prompt"] + pair[side] for pair in held_out] for side in ("chosen", "rejected")]
    chosen, rejected = (reward_model.rewards(model, tokenizer, side, params.batch_size) for side in sides)
    accuracy, margin = pairs.ranked(chosen, rejected)
    error = pairs.standard_error(accuracy, len(held_out))
    if accuracy < params.floor:
        raise StageError(
            f"the reward model ranks {accuracy:.3f} ± {error:.3f} of {len(held_out)} held-out pairs as people did, must be reward.floor = "
            f"{params.floor} at least: bring more or clearer preferences, train longer, or lower the floor"
        )
    policy.save(model, tokenizer, outputs.reward)
    longer = np.subtract(*(reward_model.tokens(tokenizer, side) for side in sides))
    return RewardMetrics(
        accuracy=accuracy,
        accuracy_stderr=error,
        margin=margin,
        length_correlation=pairs.correlation(chosen - rejected, longer),
        calibration_error=pairs.calibration_error(chosen - rejected),
        held_out_pairs=len(held_out),
        train_loss=train_loss,
        pairs=len(train),
        too_long=too_long,
    )
