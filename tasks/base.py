"""Base stage: a language model pretrained from scratch, or a published one, trained further where that is asked. SFT reads it next."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from models.core.errors import UserError
from models.train.settings import Blocks, Pretraining, Scratch, Taken
from tasks.stage import Inputs, Metrics, Outputs, Params, Seed, Work


class BaseParams(Params):
    seed: Seed = Field(description="of the first weights and of the order of the texts")
    pretrained: str | None = Field(description="a published model, or null to train from scratch")
    start: Annotated[Scratch | Taken, Field(discriminator="take", description="the weights before any training here")]
    blocks: Blocks | None = Field(description="how documents are read; null where the pipeline has none")
    training: Pretraining | None = Field(description="null to leave the weights as they are")

    @model_validator(mode="after")
    def something_is_taken_or_trained(self) -> "BaseParams":
        if (self.pretrained is None) != isinstance(self.start, Scratch):
            named = "names none" if self.pretrained is None else f"is {self.pretrained}"
            raise ValueError(f"start takes {self.start.take}, and the key 'pretrained' {named}: change one of the two")
        if isinstance(self.start, Scratch) and self.training is None:
            raise ValueError("training is null, and from scratch there is nothing else to take: give it steps")
        if self.training is not None and self.blocks is None:
            raise ValueError("blocks is null, and training reads documents: say how")
        return self


class BaseInputs(Inputs):
    pretrained: Path
    tokenizer: Path
    documents: Path | None = None  # where nothing is trained on documents they may be missing


class BaseOutputs(Outputs):
    base: Path


class BaseMetrics(Metrics):
    held_out_loss: float | None = Field(description="nats a token, on held-out documents; none without documents")
    train_loss: float | None = Field(description="nats a token, mean of the last tenth of the steps; none without training")
    parameters: int
    training_tokens: int = Field(description="tokens seen, padding included")
    pretrained_md5: str | None = Field(description="of the published model's files, as they were read; none from scratch")


def base(params: BaseParams, inputs: BaseInputs, outputs: BaseOutputs, work: Work) -> BaseMetrics:
    from models.core.content import folder_md5
    from models.train import chat, policy, pretrained, training, vocabulary
    from models.train.methods import pretraining

    reading, plan, documents = params.blocks, params.training, inputs.documents
    if (reading is None) != (documents is None):
        must = "name artifacts/prepared/documents there, or set it to null" if documents is None else "say how documents are read"
        raise UserError(f"base.blocks is {'null' if reading is None else 'set'}, and dvc.yaml gives the stage no other: {must}")
    training.make_repeatable(params.seed)
    tokenizer = vocabulary.load(inputs.tokenizer)
    published, published_md5 = inputs.pretrained / "model", None
    if isinstance(params.start, Scratch):
        model = policy.new(params.start, tokenizer, tokenizer.model_max_length)
    else:
        assert params.pretrained is not None
        own = vocabulary.as_saved(vocabulary.chat_ready(pretrained.tokenizer(published, params.pretrained)))
        chat.refuse_drift(tokenizer, own, "tokenizer", params.pretrained)
        model, published_md5 = pretrained.model(published, params.pretrained), folder_md5(published)
        policy.fit_vocabulary(model, tokenizer)
    model.to(work.device)
    train_loss = held_out_loss = None
    if reading is not None and documents is not None:
        policy.require_positions(model, reading.tokens, "base.blocks.tokens")
        if plan is not None:
            texts, names = training.texts(documents / "train.jsonl")
            blocks, places = pretraining.packed(texts, tokenizer, reading.tokens)
            records = [[names[place] for place in some] for some in places]
            train_loss = pretraining.fit(model, blocks, plan, reading, params.seed, work, records)
        model = policy.merged(model, reading.precision)
        held_out = pretraining.pack(training.texts(documents / "held_out.jsonl")[0], tokenizer, reading.tokens)
        held_out_loss = pretraining.loss(model, held_out, reading)
    policy.save(model, tokenizer, outputs.base)
    return BaseMetrics(
        held_out_loss=held_out_loss,
        train_loss=train_loss,
        parameters=model.num_parameters(),
        training_tokens=plan.steps * reading.batch * reading.tokens if plan is not None and reading is not None else 0,
        pretrained_md5=published_md5,
    )
