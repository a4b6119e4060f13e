"""What an answer is worth to reinforcement learning: by the reward model, by checks that cannot be talked round, by a team's own function.

What a check needs stands in the record of the prompt, beside `prompt`: `answer` for what is to be right, `entry_point` and `test` (and
`preamble`, what the test may call) for what is to be run. The records are the kind prompts; other keys are a team's own.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from models.core.errors import StageError, UserError
from models.core.records import Record
from models.sandbox import sandbox
from models.score import answers as formulas
from models.score.reading import extracted, in_a_block, matches, normal
from models.train.worth import Asked, Judge, Rewards


class Weighed(Record):
    weight: float = Field(description="of its reward in the sum")


class ByModel(Weighed):
    """What the reward model says, in nats."""

    take: Literal["model"]


class ByLength(Weighed):
    """0 up to so many words, then down by 1 for as many again."""

    take: Literal["length"]
    words: int = Field(ge=1, description="that cost nothing")


class ByFormat(Weighed):
    """1 where an answer matches, else 0."""

    take: Literal["format"]
    pattern: str = Field(min_length=1, description="a regular expression, of the whole answer")


class ByAnswer(Weighed):
    """1 where what is extracted is what the record's `answer` is or ends in, but for what is ignored, else 0."""

    take: Literal["answer"]
    extract: str | None = Field(description="a regular expression: its last match, or its first group; null: all of the answer")
    ignore: list[Literal["case", "punctuation", "articles"]] = Field(description="that does not count")


class ByMath(Weighed):
    """1 where the last box or formula means the same as the record's `answer`, in LaTeX, else 0."""

    take: Literal["math"]


class ByTests(Weighed):
    """1 where the program in an answer passes the record's `test` in the sandbox, else 0."""

    take: Literal["tests"]
    program: sandbox.ResourceLimits


class ByFunction(Weighed):
    """What a function of your own says: def NAME(asked, answers) -> rewards, of the prompts' records and an answer to each."""

    take: Literal["function"]
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="module:name, seen from the workspace; its file is a dep")


Source = Annotated[
    ByModel | ByLength | ByFormat | ByAnswer | ByMath | ByTests | ByFunction, Field(discriminator="take", description="where it comes from")
]


def sum_of(sources: Mapping[str, Source], by_model: Judge | None) -> Rewards:
    """The sum of the rewards that params name. Raises UserError where a function is missing, or the model is that one of them needs."""
    return Rewards({name: (source.weight, _judge(name, source, by_model)) for name, source in sources.items()})


def _judge(name: str, source: Source, by_model: Judge | None) -> Judge:
    match source:
        case ByModel():
            if by_model is None:
                raise UserError(
                    f"rewards.{name} takes the reward model, which dvc.yaml does not give the stage: add artifacts/reward there"
                )
            return by_model
        case ByLength(words=words):
            return lambda _, answers: [min(0.0, 1 - len(answer.split()) / words) for answer in answers]
        case ByFormat(pattern=pattern):
            return lambda _, answers: [float(matches(pattern, answer)) for answer in answers]
        case ByAnswer(extract=extract, ignore=ignore):
            return lambda asked, answers: [
                float(_is_right(_given(name, record, "answer"), answer, extract, ignore))
                for record, answer in zip(asked, answers, strict=True)
            ]
        case ByMath():
            return lambda asked, answers: _of_math([_given(name, record, "answer") for record in asked], answers)
        case ByTests(program=limits):
            return lambda asked, answers: _of_tests(name, asked, answers, limits)
        case ByFunction(function=function):
            return _found(name, function)


def _given(name: str, record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise StageError(f"prompts, {record.get('id')}: rewards.{name} needs its '{key}', must be text: add it, or leave the record out")
    return value


def _is_right(right: str, answer: str, extract: str | None, ignore: Sequence[str]) -> bool:
    found, meant = extracted(extract, answer), extracted(extract, right)
    return found is not None and normal(found, ignore) == normal(right if meant is None else meant, ignore)


def _of_math(right: Sequence[str], answers: Sequence[str]) -> list[float]:
    return [float(verdict == "right") for verdict in formulas.judge(list(zip(right, answers, strict=True)))]


def _of_tests(name: str, asked: Asked, answers: Sequence[str], limits: sandbox.ResourceLimits) -> list[float]:
    """Programs stand in a block of code; where there is none, the answer is the program."""
    jobs = [
        sandbox.Job(
            program=in_a_block(answer),
            preamble=str(record.get("preamble", "")),
            entry_point=_given(name, record, "entry_point"),
            test=_given(name, record, "test"),
        )
        for record, answer in zip(asked, answers, strict=True)
    ]
    return [float(verdict.passed) for verdict in sandbox.check_all(jobs, limits)]


def file_of(function: str) -> str:
    """The file, seen from the workspace, of a function that is named as module:name."""
    return f"{function.partition(':')[0].replace('.', '/')}.py"


def _found(name: str, function: str) -> Judge:
    module, _, attribute = function.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)  # the workspace, whatever the program was started with
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module does while it is loaded
        raise UserError(
            f"rewards.{name}.function is {function}, and {file_of(function)} cannot be used ({type(error).__name__}: {error}): must be a "
            "module of the workspace with that function"
        ) from None
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise UserError(f"rewards.{name}.function is {function}, which is a {type(found).__name__}, must be a function")
    judge: Judge = found
    return judge
