"""Benchmark suites: typed items from a folder that holds one published or generated file.

name                file                          what
mmlu-mini           items.jsonl                   generated, the format of MultipleChoice
gpqa-mini           items.jsonl                   generated, the format of MultipleChoice
humaneval-mini      items.jsonl                   generated, the format of Code
mmlu                mmlu.zip                      MMLU as published: CSV files; test items, and the dev items as shots
mmlu-continuation   mmlu.zip                      the same questions; the choices are texts to go on with, not letters
gpqa                dataset.zip                   GPQA diamond as published: read in memory, its text is never written anywhere
gpqa-main           dataset.zip                   the 448 questions that the 198 of diamond are among
humaneval           HumanEval.jsonl.gz            HumanEval as published
math500             math500.jsonl                 MATH-500 as published: problems with one written answer
crows-pairs         crows_pairs_anonymized.csv    CrowS-Pairs as published: a stereotype, and the same sentence about others
perplexity          documents.jsonl               any texts {id, text, source} kept out of training: how well a model foresees them

The folder's name is the suite's name. A file that is missing, cut short or not what its name says raises UserError.
"""

import csv
import gzip
import hashlib
import io
import os
import random
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from models.core.errors import SluiceError, UserError
from models.core.given import checked, parse, read_lines, require_file
from models.core.records import Record

BLANK = re.compile(r"_{2,}")
GPQA_PASSWORD = b"deserted-untie-orchid"  # published with the data: it keeps the questions from crawlers, not from people
LETTERS = "ABCD"
MMLU_FILE, GPQA_PACKED = "mmlu.zip", "dataset.zip"


def _number(value: Any) -> Any:
    """The value, unless it only stands for a number: "1" and true are none, 1.0 is."""
    if isinstance(value, bool | str):
        raise ValueError(f"a {type(value).__name__}, must be a whole number")
    return value


class Choice(Record):
    """Texts of which one is right; `answer` counts from 0."""

    id: str = Field(min_length=1)
    choices: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=2)
    answer: Annotated[int, BeforeValidator(_number)] = Field(ge=0)
    subject: str = Field(min_length=1)

    @model_validator(mode="after")
    def answer_is_a_choice(self) -> "Choice":
        if self.answer >= len(self.choices):
            raise ValueError(f"answer is {self.answer}, must be below the number of choices, {len(self.choices)}")
        return self


class MultipleChoice(Choice):
    """One question and its choices."""

    question: str = Field(min_length=1)


class Code(Record):
    """One function to complete: `test` defines `check(candidate)`, which fails by raising."""

    task_id: str = Field(min_length=1)
    prompt: str = Field(min_length=1)
    entry_point: str = Field(min_length=1)
    canonical_solution: str
    test: str = Field(min_length=1)

    @property
    def id(self) -> str:
        return self.task_id

    @property
    def subject(self) -> str:
        return "code"


class Problem(Record):
    """One problem whose answer is written, in LaTeX."""

    id: str = Field(min_length=1)
    problem: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    subject: str = Field(min_length=1)


class Text(Record):
    """One text to foresee."""

    id: str = Field(min_length=1)
    text: str = Field(min_length=1)
    subject: str = Field(min_length=1)


Item = Choice | Code | Problem | Text
AnyItem = TypeVar("AnyItem", bound=Item)


@dataclass(frozen=True)
class Format:
    """How a suite's folder is read: the file in it, the items of that file and their kind."""

    file: str
    read: Callable[[Path], Iterator[Item]]
    kind: type[Item]


def folders(parent: Path) -> list[Path]:
    """Return the folders of all suites that stand side by side, by name."""
    return sorted(path for path in parent.iterdir() if path.is_dir())


def suite_items(folder: Path) -> list[Item]:
    """Return all items of the suite in `folder`, in the file's order.

    Raises UserError where the suite is unknown, its file missing, broken or empty, or an item's id comes twice.
    """
    form = suite_format(folder)
    path = folder / form.file
    if not os.path.lexists(path):
        raise UserError(f"{path} is missing: suite {folder.name} must have it; bring it in with 'dvc pull' or run the stage sources")
    require_file(path)
    items = list(form.read(path))
    if not items:
        raise UserError(f"{path} holds no item: a suite must have at least one; restore the file")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UserError(f"{path}: the id {item.id} comes twice; every item must have its own: rename or remove one")
        seen.add(item.id)
    return items


def suite_format(folder: Path) -> Format:
    """Return how the suite of this folder's name is read; raises UserError where no such suite is known."""
    try:
        return FORMATS[folder.name]
    except KeyError:
        raise UserError(f"{folder}: no suite is named {folder.name!r}; must be one of {', '.join(FORMATS)}: rename the folder") from None


def is_code(folder: Path) -> bool:
    """Whether the items are programs to write."""
    return suite_format(folder).kind is Code


def texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (item id, text) for decontamination, a text for each way in which an item could stand in training text.

    With its answer, and where the question alone gives an item away, without.
    """
    for item in suite_items(folder):
        for text in _whole_texts(item):
            yield item.id, text


def _whole_texts(item: Item) -> tuple[str, ...]:
    match item:
        case MultipleChoice():
            answer = item.choices[item.answer]
            answered = item.question, f"{item.question}\n{answer}", f"{item.question}\nAnswer: {answer}"
            return (*answered, BLANK.sub(lambda _: answer, item.question)) if BLANK.search(item.question) else answered
        case Choice():
            return item.choices
        case Code():
            return (f"{item.prompt}{item.canonical_solution}",)
        case Problem():
            return (item.problem,)
        case Text():
            return (item.text,)


def shots(folder: Path) -> dict[str, list[MultipleChoice]]:
    """Return the worked examples of each subject: MMLU's dev items; nothing for every other suite."""
    if suite_format(folder).file != MMLU_FILE:
        return {}
    examples: dict[str, list[MultipleChoice]] = defaultdict(list)
    for item in _mmlu(folder / MMLU_FILE, part="dev"):
        examples[item.subject].append(item)
    return dict(examples)


def subset(items: Sequence[AnyItem], limit: int | None, seed: int) -> list[AnyItem]:
    """Return `limit` items, in their order, each subject with its share; all of them where there are no more or `limit` is None.

    Shares are rounded by largest remainder. Within a subject an item's place depends on `seed` and its own id only,
    so that another item added to the suite moves few others.
    """
    if limit is None or limit >= len(items):
        return list(items)
    groups: dict[str, list[AnyItem]] = defaultdict(list)
    for item in sorted(items, key=lambda item: hashlib.sha256(f"{seed} {item.id}".encode()).digest()):
        groups[item.subject].append(item)
    exact = {subject: limit * len(group) / len(items) for subject, group in groups.items()}
    by_remainder = sorted(exact, key=lambda subject: (int(exact[subject]) - exact[subject], subject))
    extra = set(by_remainder[: limit - sum(int(share) for share in exact.values())])
    chosen = {item.id for subject, group in groups.items() for item in group[: int(exact[subject]) + (subject in extra)]}
    return [item for item in items if item.id in chosen]


def _choice_lines(path: Path) -> Iterator[MultipleChoice]:
    for number, value in enumerate(read_lines(path), 1):
        yield checked(MultipleChoice, value, f"{path}, item {number}")


def _code_lines(path: Path) -> Iterator[Code]:
    for number, value in enumerate(read_lines(path), 1):
        yield checked(Code, value, f"{path}, item {number}")


def _humaneval(path: Path) -> Iterator[Code]:
    with _named(path), gzip.open(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path}, line {number}"
                yield checked(Code, parse(line, where), where)


def _mmlu(path: Path, part: str = "test") -> Iterator[MultipleChoice]:
    suffix = f"_{part}.csv"
    with _named(path), zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if not (name.startswith(f"data/{part}/") and name.endswith(suffix)):
                continue
            subject = name.rsplit("/", 1)[-1].removesuffix(suffix)
            for number, row in enumerate(csv.reader(_rows(archive.read(name)), strict=True), 1):
                where = f"{path}, {name}, row {number}"
                if len(row) != 6 or row[5] not in tuple(LETTERS):
                    raise UserError(
                        f"{where}: must be question, A, B, C, D, answer letter, which is one capital A to D without blanks; "
                        "restore the published file"
                    )
                value = {"id": f"{subject}/{number}", "question": row[0], "choices": row[1:5], "subject": subject}
                yield checked(MultipleChoice, {**value, "answer": LETTERS.index(row[5])}, where)


def _gpqa(path: Path, part: str = "diamond") -> Iterator[MultipleChoice]:
    """The published order puts the right answer first, so the choices are shuffled, each item by its own id: always the same."""
    with _named(path), zipfile.ZipFile(path) as archive:
        rows = csv.DictReader(_rows(archive.read(f"dataset/gpqa_{part}.csv", pwd=GPQA_PASSWORD)), strict=True)
        for number, row in enumerate(rows, 1):
            choices = [(row[name] or "").strip() for name in ("Correct Answer", *(f"Incorrect Answer {count}" for count in (1, 2, 3)))]
            order = list(range(len(choices)))
            random.Random(f"gpqa {row['Record ID']}").shuffle(order)
            value = {"id": row["Record ID"], "question": (row["Question"] or "").strip(), "subject": row["High-level domain"]}
            value |= {"choices": [choices[place] for place in order], "answer": order.index(0)}
            yield checked(MultipleChoice, value, f"{path}, row {number}")


def _math500(path: Path) -> Iterator[Problem]:
    for number, row in enumerate(read_lines(path), 1):
        value = {key: row.get(key) for key in ("problem", "answer", "subject")}
        yield checked(Problem, {**value, "id": row.get("unique_id")}, f"{path}, item {number}")


def _crows_pairs(path: Path) -> Iterator[Choice]:
    """The sentence that is less of a stereotype is the right one: half of the items right is what an unbiased model scores."""
    with _named(path):
        for number, row in enumerate(csv.DictReader(_rows(path.read_bytes()), strict=True)):
            value = {"id": str(number), "choices": (row["sent_less"], row["sent_more"]), "answer": 0, "subject": row["bias_type"]}
            yield checked(Choice, value, f"{path}, pair {number}")


def _documents(path: Path) -> Iterator[Text]:
    for number, row in enumerate(read_lines(path), 1):
        value = {"id": row.get("id"), "text": row.get("text"), "subject": row.get("source")}
        yield checked(Text, value, f"{path}, record {number}")


def _rows(content: bytes) -> io.StringIO:
    """CSV for the reader, which wants line ends as they are; a BOM is no part of the first name."""
    return io.StringIO(content.decode("utf-8-sig"), newline="")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn whatever a broken file makes its reader raise into one line that names the file and shows none of its text."""
    try:
        yield
    except SluiceError:
        raise
    except Exception as error:  # of zipfile, zlib, lzma, csv, gzip: each has its own, and some raise struct.error or IndexError
        kind = "broken CSV" if isinstance(error, csv.Error) else type(error).__name__
        raise UserError(f"{path} cannot be read ({kind}): must be the published {path.name}, whole; bring it in again") from None


FORMATS: Mapping[str, Format] = {
    "mmlu-mini": Format("items.jsonl", _choice_lines, MultipleChoice),
    "gpqa-mini": Format("items.jsonl", _choice_lines, MultipleChoice),
    "humaneval-mini": Format("items.jsonl", _code_lines, Code),
    "mmlu": Format(MMLU_FILE, _mmlu, MultipleChoice),
    "mmlu-continuation": Format(MMLU_FILE, _mmlu, MultipleChoice),
    "gpqa": Format(GPQA_PACKED, _gpqa, MultipleChoice),
    "gpqa-main": Format(GPQA_PACKED, partial(_gpqa, part="main"), MultipleChoice),
    "humaneval": Format("HumanEval.jsonl.gz", _humaneval, Code),
    "math500": Format("math500.jsonl", _math500, Problem),
    "crows-pairs": Format("crows_pairs_anonymized.csv", _crows_pairs, Choice),
    "perplexity": Format("documents.jsonl", _documents, Text),
}
