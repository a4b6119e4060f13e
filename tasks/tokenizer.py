"""Tokenizer stage: byte-level BPE trained on the prepared texts, or a published one, with the chat template. Base reads it next."""

from pathlib import Path

from pydantic import Field

from tasks.stage import Inputs, Metrics, Outputs, Params


class TokenizerParams(Params):
    pretrained: str | None = Field(description="a published model, or null to learn from the documents")
    vocabulary_size: int = Field(ge=300, le=500_000, description="tokens to learn; not read where a pretrained model is named")
    max_tokens: int = Field(ge=32, description="the longest text that the model is made for")


class TokenizerInputs(Inputs):
    pretrained: Path
    documents: Path
    instructions: Path


class TokenizerOutputs(Outputs):
    tokenizer: Path


class TokenizerMetrics(Metrics):
    bytes_per_token: float = Field(description="on held-out documents")
    vocabulary_size: int = Field(description="tokens, special ones included")


def tokenizer(params: TokenizerParams, inputs: TokenizerInputs, outputs: TokenizerOutputs) -> TokenizerMetrics:
    from models.core.lines import read_rows
    from models.train import pretrained, vocabulary

    if params.pretrained is not None:
        made = vocabulary.chat_ready(pretrained.tokenizer(inputs.pretrained / "model", params.pretrained))
    else:
        texts = [record["text"] for record in read_rows(inputs.documents / "train.jsonl")]
        texts += [message["content"] for record in read_rows(inputs.instructions / "train.jsonl") for message in record["messages"]]
        made = vocabulary.train([*texts, "user\n", "assistant\n", "system\n"], params.vocabulary_size, params.max_tokens)
    vocabulary.save(made, outputs.tokenizer)
    held_out = [record["text"] for record in read_rows(inputs.documents / "held_out.jsonl")]
    tokens = sum(map(len, made(held_out, add_special_tokens=False)["input_ids"]))
    return TokenizerMetrics(bytes_per_token=sum(len(text.encode()) for text in held_out) / max(1, tokens), vocabulary_size=len(made))
