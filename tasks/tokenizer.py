"""Tokenizer stage: byte-level BPE trained on the prepared texts, or a published one, with the chat template. Base reads it next."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from models.core.errors import UserError
from models.train.settings import Learned, Taken
from tasks.stage import Inputs, Metrics, Outputs, Params


class TokenizerParams(Params):
    pretrained: str | None = Field(description="a published model, or null to learn from the documents")
    vocabulary: Annotated[Learned | Taken, Field(discriminator="take", description="learned here, or the pretrained model's")]

    @model_validator(mode="after")
    def it_is_taken_from_what_is_there(self) -> "TokenizerParams":
        if (self.pretrained is None) != isinstance(self.vocabulary, Learned):
            named = "names none" if self.pretrained is None else f"is {self.pretrained}"
            raise ValueError(f"vocabulary takes {self.vocabulary.take}, and the key 'pretrained' {named}: change one of the two")
        return self


class TokenizerInputs(Inputs):
    pretrained: Path
    documents: Path | None = None  # a kind that the pipeline does not prepare may be missing, not both
    instructions: Path | None = None


class TokenizerOutputs(Outputs):
    tokenizer: Path


class TokenizerMetrics(Metrics):
    bytes_per_token: float = Field(description="on held-out documents, or conversations where there are none")
    vocabulary_size: int = Field(description="tokens, special ones included")


def tokenizer(params: TokenizerParams, inputs: TokenizerInputs, outputs: TokenizerOutputs) -> TokenizerMetrics:
    from models.train import pretrained, vocabulary

    if isinstance(params.vocabulary, Learned):
        texts = [text for kind in ("documents", "instructions") for text in _texts(getattr(inputs, kind), "train")]
        made = vocabulary.train([*texts, "user\n", "assistant\n", "system\n"], params.vocabulary.size, params.vocabulary.max_tokens)
    else:
        assert params.pretrained is not None
        made = vocabulary.chat_ready(pretrained.tokenizer(inputs.pretrained / "model", params.pretrained))
    vocabulary.save(made, outputs.tokenizer)
    held_out = list(_texts(inputs.documents or inputs.instructions, "held_out"))
    if not held_out:
        raise UserError("the tokenizer is measured on held-out texts: dvc.yaml must give the stage documents or instructions")
    tokens = sum(map(len, made(held_out, add_special_tokens=False)["input_ids"]))
    return TokenizerMetrics(bytes_per_token=sum(len(text.encode()) for text in held_out) / max(1, tokens), vocabulary_size=len(made))


def _texts(prepared: Path | None, split: str) -> Iterator[str]:
    """The texts of a prepared kind, documents or conversations; none where it is not prepared."""
    from models.core.records import read_lines

    for record in read_lines(prepared / f"{split}.jsonl") if prepared is not None else ():
        yield from [record["text"]] if "text" in record else (message["content"] for message in record["messages"])
