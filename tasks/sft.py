"""SFT stage: supervised fine-tuning on conversations. The reward stage and RLHF read it next."""

from pathlib import Path

from pydantic import Field

from models.train.settings import Supervised
from tasks.stage import Inputs, Metrics, Outputs, Params, Seed, Work


class SftParams(Supervised, Params):
    seed: Seed = Field(description="of the order of the conversations")


class SftInputs(Inputs):
    base: Path
    instructions: Path


class SftOutputs(Outputs):
    sft: Path


class SftMetrics(Metrics):
    held_out_loss: float = Field(description="nats a token of the assistant's, on held-out conversations")
    held_out_loss_before: float = Field(description="the same of the base model")
    train_loss: float = Field(description="nats a token of the assistant's, mean over training")
    conversations: int = Field(description="trained on")
    too_long: int = Field(description="left out because longer than max_tokens, held-out ones included")
    tools_not_shown: int = Field(description="left out because the chat template cannot show their tool calls, held-out ones included")


def sft(params: SftParams, inputs: SftInputs, outputs: SftOutputs, work: Work) -> SftMetrics:
    from models.train import policy, training, vocabulary
    from models.train.methods import finetune

    training.make_repeatable(params.seed)
    tokenizer = vocabulary.load(inputs.base)
    model = policy.opened(inputs.base, params, work.device)
    policy.require_positions(model, params.max_tokens, "sft.max_tokens")
    train, train_left_out = finetune.conversations(inputs.instructions / "train.jsonl", tokenizer, params.max_tokens)
    held_out, held_out_left_out = finetune.conversations(inputs.instructions / "held_out.jsonl", tokenizer, params.max_tokens)
    before = finetune.loss(model, held_out, params.batch_size)
    model, train_loss = finetune.fit(model, tokenizer, train, params, params.seed, work)
    policy.save(model, tokenizer, outputs.sft)
    return SftMetrics(
        held_out_loss=finetune.loss(model, held_out, params.batch_size),
        held_out_loss_before=before,
        train_loss=train_loss,
        conversations=len(train),
        too_long=train_left_out.too_long + held_out_left_out.too_long,
        tools_not_shown=train_left_out.tools_not_shown + held_out_left_out.tools_not_shown,
    )
