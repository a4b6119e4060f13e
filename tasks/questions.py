"""Questions stage: what every model is asked, so that people can read the answers side by side. The stage `samples` reads it next.

A team's own prompts, held-out ones, and some that provoke.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from models.core.errors import UserError
from models.core.files import write_lines
from models.core.given import read_lines, require_pulled
from models.data import kinds
from tasks.stage import Inputs, Metrics, Outputs, Params, Seed

OWN = "samples.jsonl"
PROVOKING = Path(__file__).parents[1] / "models" / "score" / "provoking.jsonl"


class QuestionsParams(Params):
    seed: Seed = Field(
        description="decides, with a prompt's words, which held-out prompts are taken: the same ones as long as they are there"
    )
    count: int = Field(
        ge=1, le=1000, description="prompts beside those that provoke: data/raw/samples.jsonl first, held-out ones for the rest"
    )


class QuestionsInputs(Inputs):
    raw: Path
    prompts: Path | None = None  # of the first that is there held-out prompts are taken
    instructions: Path | None = None
    preferences: Path | None = None


class QuestionsOutputs(Outputs):
    questions: Path


class QuestionsMetrics(Metrics):
    questions: int = Field(description="asked in all")
    own: int = Field(description="of data/raw/samples.jsonl")
    held_out: int = Field(description="held out of the training data")
    provoking: int


def questions(params: QuestionsParams, inputs: QuestionsInputs, outputs: QuestionsOutputs) -> QuestionsMetrics:
    """Write {id, from, prompt}, a line a question. Raises UserError for an own prompt that is none."""
    own = list(_own(inputs.raw / OWN))[: params.count]
    asked = {key(prompt) for _, prompt in own}
    held_out = [(name, prompt) for name, prompt in _held_out(inputs, params.seed) if key(prompt) not in asked][: params.count - len(own)]
    provoking = [(row["id"], [{"role": "user", "content": row["prompt"]}]) for row in read_lines(PROVOKING)]
    rows = [
        {"id": f"{group}/{name}", "from": group, "prompt": prompt}
        for group, found in (("own", own), ("held-out", held_out), ("provoking", provoking))
        for name, prompt in found
    ]
    write_lines(outputs.questions, rows)
    return QuestionsMetrics(questions=len(rows), own=len(own), held_out=len(held_out), provoking=len(provoking))


def _own(path: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A team's own prompts: {prompt} or {id, prompt}, a text or messages that end with the user's."""
    require_pulled(path)
    known = set[str]()
    for number, row in enumerate(read_lines(path) if os.path.lexists(path) else (), 1):
        prompt, name = row.get("prompt"), str(row.get("id") or number)
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) and prompt.strip() else prompt
        fault = kinds.fault("prompts", {"id": name, "prompt": messages})
        if fault or name in known:
            why = fault or f"the id {name} comes twice"
            raise UserError(f"{path}, record {number}: {why}; must be {{prompt}}, a text or messages that end with the user's: mend it")
        known.add(name)
        yield name, messages  # type: ignore[misc]


def _held_out(inputs: QuestionsInputs, seed: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """The held-out prompts in an order that new ones do not change, none twice."""
    found: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    folder = inputs.prompts or inputs.instructions or inputs.preferences
    for record in read_lines(folder / "held_out.jsonl") if folder else ():
        prompt = record.get("prompt") or _before_the_answer(record["messages"])
        if prompt:
            found.setdefault(hashlib.sha256(f"{seed} {key(prompt)}".encode()).hexdigest(), (record["id"], prompt))
    return [found[key] for key in sorted(found)]


def _before_the_answer(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A conversation up to its last word of the user's; nothing where tools were called, whose results no model can be given."""
    last = max(place for place, message in enumerate(messages) if message["role"] == "user")
    plain = all(message["role"] != "tool" and not message.get("tool_calls") for message in messages[: last + 1])
    return messages[: last + 1] if plain else []


def key(prompt: Iterable[Mapping[str, Any]]) -> str:
    """The words of a prompt: two with the same are one question."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
