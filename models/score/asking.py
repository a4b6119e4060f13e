"""How a suite is put to a model: its items as a task of lm-eval's, held in memory only."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from jinja2 import StrictUndefined
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval.api.task import ConfigurableTask
from pydantic import Field
from transformers import PreTrainedTokenizerBase

from models.core.errors import UserError
from models.core.records import Record
from models.core.sets import OfSet
from models.sandbox.sandbox import ResourceLimits
from models.score import items as kinds
from models.score.items import LETTERS, Item
from models.score.suite import ChoiceSuite, LabelsSuite, Tabled, TextSuite, Written
from models.train.settings import Sampling

TEMPLATES = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


class Settings(Record):
    """How a suite is asked; all of it may move a score, so all of it is in the evidence."""

    batch_size: int = Field(ge=1)
    dtype: str
    items: int | None = Field(description="size of the subset; None for all")
    items_seed: int
    max_new_tokens: int = Field(ge=1)
    sampling: Sampling = Field(description="of code suites; the others are asked greedily")
    limits: ResourceLimits


class Reply(Record):
    """A generated text: `complete` says that it ended by itself, `whole_prompt` that the model saw all of the prompt."""

    text: str
    complete: bool
    whole_prompt: bool


class Result(Record):
    """The items as they were written, None where programs cannot be run safely; chance is the score of random answers."""

    items: list[dict[str, Any]] | None
    chance: float
    of_set: OfSet | None


def prompts(described: Tabled, items: Sequence[Item], examples: Mapping[str, Sequence[Item]], name: str) -> list[str]:
    """The prompt of each item, before any chat template. Raises UserError where the suite's own template cannot be rendered."""
    try:
        template = TEMPLATES.from_string(described.prompt)
        return [template.render(_names(described, item, kinds.shots_of(item, examples))) for item in items]
    except (TemplateError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"suite {name}: its template cannot be rendered ({error}): mend 'template' in suite.yaml") from None


def _names(described: Tabled, item: Item, shots: Sequence[Item]) -> dict[str, Any]:
    """What a template may name."""
    own = item.model_dump()
    labels = described.words if isinstance(described, LabelsSuite) else []
    return {**own, "shots": [shot.model_dump() for shot in shots], "letters": LETTERS, "labels": labels, "right": _right}


def _right(shot: Mapping[str, Any]) -> str:
    """The right answer of a worked example, as text."""
    if "choices" in shot:
        return str(shot["choices"][shot["answer"]])
    return str(shot["answers"][0] if "answers" in shot else shot["answer"])


def continuations(described: Tabled, item: Item) -> list[str]:
    """What the likelihoods of a chosen answer are of: letters, or the choices themselves."""
    assert isinstance(item, kinds.Choice)
    if isinstance(described, ChoiceSuite) and described.by == "letter":
        return list(LETTERS[: len(item.choices)])
    return list(item.choices)


def task(
    name: str, described: Tabled, items: Sequence[Item], examples: Mapping[str, Sequence[Item]], tokenizer: PreTrainedTokenizerBase
) -> ConfigurableTask:
    """The items as a task that asks them.

    In chat a choice is a whole turn, begun and closed as the template begins and closes one: without the end, "3" would be at least as
    likely as "37" by construction.
    """
    lead, end = turn(tokenizer) if described.chat else ("", "")
    rows = []
    for item, prompt in zip(items, prompts(described, items, examples, name), strict=True):
        row: dict[str, Any] = {"prompt": prompt, "target": item.text if isinstance(item, kinds.Text) else ""}
        if isinstance(item, kinds.Choice):
            row |= {"turns": [lead + choice + end for choice in continuations(described, item)], "answer": item.answer}
        rows.append(row)
    config = {
        "task": name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_target": "target",
        "num_fewshot": 0,
        "metric_list": [{"metric": "bypass", "aggregation": "bypass", "higher_is_better": True}],
        **_form(described, rows),
    }
    return ConfigurableTask(config=config)


def _form(described: Tabled, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What lm-eval calls the way of asking."""
    if isinstance(described, TextSuite):
        return {"output_type": "loglikelihood_rolling", "doc_to_text": "", "metric_list": [{"metric": "bits_per_byte"}]}
    if isinstance(described, ChoiceSuite) or (isinstance(described, LabelsSuite) and described.by == "likelihood"):
        blank = "" if not any(row["prompt"] for row in rows) else " "
        name = "acc_norm" if getattr(described, "metric", "") == "accuracy-per-character" else "acc"
        metric = [{"metric": name, "aggregation": "mean", "higher_is_better": True}]
        own = {"doc_to_choice": "turns", "doc_to_target": "answer", "target_delimiter": blank, "metric_list": metric}
        return {"output_type": "multiple_choice", **own}
    assert isinstance(described, Written)
    return {"output_type": "generate_until", "generation_kwargs": {"do_sample": False, "until": described.stops}}


def turn(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """What the chat template writes between the prompt and the assistant's words, and right after them, without trailing white space."""
    asked, mark = [{"role": "user", "content": "q"}], "\ue000"
    before = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    whole = str(tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": mark}], tokenize=False))
    lead, _, end = whole.removeprefix(before).partition(mark) if whole.startswith(before) else ("", "", "")
    return lead, end.rstrip()
