"""Samples stage: what one model answers to the questions, greedily, so that people can read it beside what another answers."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from models.core.files import write_lines
from models.core.lines import read_rows
from tasks.stage import Inputs, Metrics, Outputs, Params, Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOADS = ("torch", "transformers", "profanity_check")
TIMES, LONGEST_PIECE = 4, 400  # how often a piece of so many characters at most must come at the end of an answer that repeats itself


class SamplesParams(Params):
    max_new_tokens: int = Field(ge=1, le=8192, description="a longer answer is cut")
    batch_size: int = Field(ge=1, le=4096, description="questions that are answered at once")


class SamplesInputs(Inputs):
    model: Path
    questions: Path


class SamplesOutputs(Outputs):
    answers: Path


class SamplesMetrics(Metrics):
    answers: int
    cut: int = Field(description="answers that were not over after max_new_tokens")
    empty: int
    repeating: int = Field(description="answers that end in the same words again and again")
    toxic: int = Field(description="answers that a classifier of words calls toxic, see models/score/toxicity.py for what it cannot tell")
    mean_tokens: float = Field(description="of an answer, the token that ends it included")
    too_long: int = Field(description="questions that leave no room for an answer: not asked")


def samples(params: SamplesParams, inputs: SamplesInputs, outputs: SamplesOutputs, work: Work) -> SamplesMetrics:
    """Write {id, from, prompt, answer, tokens, flags, toxicity}, a line a question."""
    from models.score import toxicity
    from models.train import policy, training, vocabulary

    training.make_repeatable(0)
    tokenizer, model = vocabulary.load(inputs.model), policy.load(inputs.model).to(work.device)
    rows = list(read_rows(inputs.questions))
    answered = _answers(params, model, tokenizer, rows, work)
    found = [{**row, **answered.get(row["id"], {"answer": "", "tokens": 0, "flags": ["too-long"]})} for row in rows]
    harms = toxicity.scores([row["answer"] for row in found])
    write_lines(outputs.answers, ({**row, "toxicity": round(harm, 3)} for row, harm in zip(found, harms, strict=True)))
    tokens = [answer["tokens"] for answer in answered.values()]
    return SamplesMetrics(
        answers=len(tokens),
        **{
            name: sum(flag in row["flags"] for row in found)
            for name, flag in (("cut", "cut"), ("empty", "empty"), ("repeating", "repeats"))
        },
        toxic=sum(harm >= toxicity.LIKELY for harm in harms),
        mean_tokens=sum(tokens) / len(tokens) if tokens else 0.0,
        too_long=len(rows) - len(tokens),
    )


def _answers(
    params: SamplesParams, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[dict[str, Any]], work: Work
) -> dict[str, dict[str, Any]]:
    """What the model answers, by question; the shortest prompts first, so that a batch is padded little."""
    from models.train import generation, policy

    most, sizes = policy.positions(model), {row["id"]: len(generation.prompt_ids(tokenizer, row["prompt"])) for row in rows}
    fits = sorted(
        (row for row in rows if most is None or sizes[row["id"]] + params.max_new_tokens <= most), key=lambda row: sizes[row["id"]]
    )
    found: dict[str, dict[str, Any]] = {}
    for group in _alike(fits, sizes, params.batch_size):
        [batch] = generation.batches(
            model, tokenizer, [row["prompt"] for row in group], len(group), params.max_new_tokens, ranks=work.ranks
        )
        written = zip(group, batch.texts, batch.said.sum(1).tolist(), batch.ended.tolist(), strict=True)
        found |= {
            row["id"]: {"answer": text.strip(), "tokens": tokens, "flags": flags(text, ended)} for row, text, tokens, ended in written
        }
        work.progress(len(found), len(fits), {})
    return found


def _alike(rows: list[dict[str, Any]], sizes: Mapping[str, int], most: int) -> Iterator[list[dict[str, Any]]]:
    """Up to `most` questions at a time, of rows sorted by size, none of which is padded to more than twice its tokens: beside a page of
    text, each token of a short question's answer would look back at as much padding."""
    group: list[dict[str, Any]] = []
    for row in rows:
        if group and (len(group) == most or sizes[row["id"]] > 2 * sizes[group[0]["id"]]):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def flags(text: str, ended: bool) -> list[str]:
    """What is wrong with an answer at first sight."""
    found = {"cut": not ended, "empty": not text.strip(), "repeats": _repeats(text.strip())}
    return [name for name, holds in found.items() if holds]


def _repeats(text: str) -> bool:
    """Whether the text ends in the same piece again and again; where it was cut within one, another piece is the one."""
    sizes = range(2, min(LONGEST_PIECE, len(text) // TIMES) + 1)
    return any(text.endswith(text[-size:] * TIMES) and re.search(r"\w", text[-size:]) for size in sizes)
