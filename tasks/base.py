"""Base stage: a language model pretrained from scratch, or a published one, trained further where steps are given. SFT reads it next."""

from pathlib import Path

from pydantic import Field

from models.core.errors import StageError
from models.train.settings import Pretraining
from tasks.stage import Inputs, Metrics, Outputs, Params, Seed, Work


class BaseParams(Pretraining, Params):
    seed: Seed = Field(description="of the first weights and of the order of the texts")
    pretrained: str | None = Field(description="a published model, or null to train from scratch")


class BaseInputs(Inputs):
    pretrained: Path
    tokenizer: Path
    documents: Path


class BaseOutputs(Outputs):
    base: Path


class BaseMetrics(Metrics):
    held_out_loss: float = Field(description="nats a token, on held-out documents")
    train_loss: float | None = Field(description="nats a token, mean of the last tenth of the steps; none without steps")
    parameters: int
    training_tokens: int = Field(description="tokens seen, padding included")
    pretrained_md5: str | None = Field(description="of the published model's files, as they were read; none from scratch")


def base(params: BaseParams, inputs: BaseInputs, outputs: BaseOutputs, work: Work) -> BaseMetrics:
    from models.core.content import folder_md5
    from models.train import chat, policy, pretrained, pretraining, training, vocabulary

    training.make_repeatable(params.seed)
    tokenizer = vocabulary.load(inputs.tokenizer)
    published, published_md5 = inputs.pretrained / "model", None
    if params.pretrained is not None:
        own = vocabulary.as_saved(vocabulary.chat_ready(pretrained.tokenizer(published, params.pretrained)))
        chat.refuse_drift(tokenizer, own, "tokenizer", params.pretrained)
        model, published_md5 = pretrained.model(published, params.pretrained), folder_md5(published)
        policy.fit_vocabulary(model, tokenizer)
    elif params.steps:
        model = policy.new(params.shape, tokenizer, tokenizer.model_max_length)
    else:
        raise StageError("base.steps is 0 and pretrained is null: there is nothing to train and nothing to take; set one of the two")
    policy.require_positions(model, params.block_tokens, "base.block_tokens")
    model.to(work.device)
    train_loss = None
    if params.steps:
        blocks = pretraining.pack(training.texts(inputs.documents / "train.jsonl"), tokenizer, params.block_tokens)
        train_loss = pretraining.fit(model, blocks, params, params.seed, work.progress)
    held_out = pretraining.pack(training.texts(inputs.documents / "held_out.jsonl"), tokenizer, params.block_tokens)
    held_out_loss = pretraining.loss(model, held_out, params.batch_blocks, params.precision)
    policy.save(model, tokenizer, outputs.base)
    return BaseMetrics(
        held_out_loss=held_out_loss,
        train_loss=train_loss,
        parameters=model.num_parameters(),
        training_tokens=params.steps * params.batch_blocks * params.block_tokens,
        pretrained_md5=published_md5,
    )
