"""The items of a suite, typed, from the rows that it names.

format         a row's columns, where suite.yaml's `fields` names no others
choice         question, choices (a list, or a column each), answer; for ARC's layout, choices may be {text: [...]}
exact          question, answer (a text, or a list of right ones)
math           question, answer
code           task_id, prompt, entry_point, canonical_solution, test
text           text
labels         question, answer (the label)

`id` and `subject` may stand there too: without, an item is called by its row, and its subject is that of its file, or none. Other columns
are left alone. An item that is none raises UserError with file and row, and never with its text.
"""

import hashlib
import json
import random
import re
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, model_validator

from models.core.errors import UserError
from models.core.given import checked, read_lines
from models.core.records import Record
from models.score import suite as suites
from models.score.suite import ChoiceSuite, HarnessSuite, LabelsSuite, Suite, Table, Tabled
from models.score.tables import Row, column_names, is_untyped, rows

BLANK = re.compile(r"_{2,}")
LETTERS = string.ascii_uppercase
NO_SUBJECT = "all"
LISTING = "items-of-task.jsonl"  # beside a task of lm-eval's: its items, listed once so that their readers need no lm-eval
WHOLE = re.compile(r"\d{1,9}")
Words = Annotated[str, Field(min_length=1)]


class Item(Record):
    id: Words
    subject: Words = NO_SUBJECT


class Choice(Item):
    """Texts of which one is right, the answer to a question where there is one; `answer` counts from 0."""

    question: Words | None = None
    choices: tuple[Words, ...] = Field(min_length=2)
    answer: int = Field(ge=0)

    @model_validator(mode="after")
    def answer_is_a_choice(self) -> "Choice":
        if self.answer >= len(self.choices):
            raise ValueError(f"answer is {self.answer}, must be below the number of choices, {len(self.choices)}")
        return self


class Short(Item):
    """A question with the answers that are right."""

    question: Words
    answers: tuple[Words, ...] = Field(min_length=1)


class Problem(Item):
    """One problem whose answer is written, in LaTeX."""

    question: Words
    answer: Words


class Code(Item):
    """One function to complete: `test` defines `check(candidate)`, which fails by raising."""

    prompt: Words
    entry_point: Words
    canonical_solution: str
    test: Words


class Text(Item):
    """One text to foresee."""

    text: Words


class Foreign(Item):
    """An item of a task of lm-eval's: `texts` are its prompt, and its prompt with the answer."""

    texts: tuple[str, ...]
    chance: float


AnyItem = TypeVar("AnyItem", bound=Item)


def read(folder: Path) -> list[Item]:
    """Return all items of the suite in `folder`, in the file's order; those of a task of lm-eval's as models/score/harness.py listed them.

    Raises UserError where suite.yaml or a file is missing or broken, an item is none, or an id comes twice.
    """
    described = suites.load(folder)
    if isinstance(described, HarnessSuite):
        path, items = folder / LISTING, list[Item]()
        items += [checked(Foreign, row, f"{path}, line {number}") for number, row in enumerate(read_lines(path), 1)]
    else:
        path, items = folder / described.items.file, list(_items(folder, described, described.items))
    return complete(items, path)


def complete(items: list[Item], path: Path) -> list[Item]:
    """The items of `path`, if there are any and each has an id of its own. Raises UserError."""
    if not items:
        raise UserError(f"{path} holds no item: a suite must have at least one; restore the file")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UserError(f"{path}: the id {item.id} comes twice; every item must have its own: rename or remove one")
        seen.add(item.id)
    return items


def shots(folder: Path, described: Suite) -> dict[str, list[Item]]:
    """The worked examples of each subject, as many as are asked with; nothing for a suite without."""
    if isinstance(described, HarnessSuite) or described.shots is None:
        return {}
    examples: dict[str, list[Item]] = defaultdict(list)
    for item in _items(folder, described, described.shots):
        if len(examples[item.subject]) < described.shots.count:
            examples[item.subject].append(item)
    return dict(examples)


def shots_of(item: Item, examples: Mapping[str, Sequence[Item]]) -> Sequence[Item]:
    """The worked examples of an item: its own subject's or, where no example has one, those of all."""
    return examples.get(item.subject, examples.get(NO_SUBJECT, ()) if len(examples) == 1 else ())


def _items(folder: Path, described: Tabled, table: Table) -> Iterator[Item]:
    kind, make = KINDS[described.format], MAKERS[described.format]  # type: ignore[attr-defined]
    untyped = is_untyped(table)
    counts: dict[str, int] = defaultdict(int)
    for where, member, row in rows(folder, table):
        counts[member] += 1
        value = make(_Row(row, described, where, untyped))
        named = {"id": f"{member}/{counts[member]}" if member else str(counts[member]), "subject": member or NO_SUBJECT}
        item = checked(kind, {**named, **value}, where)
        yield _shuffled(item, described.shuffle) if isinstance(described, ChoiceSuite) and described.shuffle else item


class _Row:
    """One row, read by the names that suite.yaml gives its columns."""

    def __init__(self, row: Row, described: Tabled, where: str, untyped: bool) -> None:
        self.row, self.described, self.where, self.untyped = row, described, where, untyped

    def column(self, part: str, default: str | None = None) -> str:
        found = self.described.fields.get(part, default if default in self.row else part)
        if isinstance(found, list):
            raise UserError(f"{self.where}: fields.{part} lists columns, must name one: see suite.yaml")
        return found

    def take(self, part: str, default: str | None = None) -> Any:
        name = self.column(part, default)
        if name not in self.row:
            raise UserError(f"{self.where}: no column {name!r}, must have one for {part}; columns: {column_names(self.row)}")
        return self.row[name]

    def names(self) -> dict[str, str]:
        """Id and subject, where the row has them."""
        found = {part: self.row.get(self.column(part)) for part in ("id", "subject")}
        for part, value in found.items():
            if value is None and part in self.described.fields:
                self.take(part)  # raises where there is no such column
        return {part: str(value) for part, value in found.items() if value is not None and not isinstance(value, dict | list)}

    def text(self, part: str) -> Any:
        value = self.take(part)
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _choice(row: _Row) -> dict[str, Any]:
    described = row.described
    assert isinstance(described, ChoiceSuite)
    choices = _choices(row)
    has_question = row.column("question") in row.row or "question" in described.fields
    question = row.text("question") if has_question or described.template is None else None
    answer = 0 if described.answer == "first" else _right(row, choices, described.answer)
    return {**row.names(), "question": question, "choices": choices, "answer": answer}


def _choices(row: _Row) -> list[Any]:
    columns = row.described.fields.get("choices")
    if isinstance(columns, list):
        if missing := [name for name in columns if name not in row.row]:
            raise UserError(f"{row.where}: no column {missing[0]!r}, must have one for choices; columns: {column_names(row.row)}")
        found = [row.row[name] for name in columns]
    else:
        found = listed(row.take("choices"))
    if not isinstance(found, list):
        raise UserError(f"{row.where}: choices must be a list, or a column each: name the columns in suite.yaml, choices: [A, B, C, D]")
    return [str(one) if isinstance(one, int | float) and not isinstance(one, bool) else one for one in found]


def listed(value: Any) -> Any:
    """A list of choices: as it is, as ARC has it ({label, text}), by letter ({A: …, B: …}), or as JSON in a cell."""
    if isinstance(value, str) and value.lstrip()[:1] in "[{":
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, dict):
        return value["text"] if isinstance(value.get("text"), list) else list(value.values())
    return value


def _right(row: _Row, choices: Sequence[Any], how: str) -> Any:
    """The place of the right choice, from 0; what is no place is left for the item's own check to name."""
    value = row.take("answer")
    if how == "text":
        if choices.count(value) != 1:
            raise UserError(
                f"{row.where}: answer must be the text of one choice (or say how it tells the choice, --answer letter, index or number): "
                "mend or remove the row"
            )
        return choices.index(value)
    if how == "letter":
        if isinstance(value, str) and row.described.published is None:
            value = value.strip().upper()  # a published file has none but capitals: another is damage
        if not (isinstance(value, str) and len(value) == 1 and value in LETTERS[: len(choices)]):
            raise UserError(
                f"{row.where}: answer must be one capital letter, A to {LETTERS[len(choices) - 1]}, without blanks; "
                "restore the published file"
            )
        return LETTERS.index(value)
    place = _whole(value, row)
    return place - 1 if how == "number" else place


def _whole(value: Any, row: _Row) -> int:
    """A whole number; "1" and true only stand for one where values have types, 1.0 is one."""
    if isinstance(value, str) and row.untyped and WHOLE.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, bool | str) or not isinstance(value, int | float) or value != int(value):
        raise UserError(f"{row.where}: answer is a {type(value).__name__}, must be a whole number: mend the row, or 'answer' in suite.yaml")
    return int(value)


def _exact(row: _Row) -> dict[str, Any]:
    value = row.take("answer")
    answers = listed(value) if isinstance(value, str | dict) else value
    right = answers if isinstance(answers, list) else [answers]
    return {**row.names(), "question": row.text("question"), "answers": [_plain(one) for one in right]}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _problem(row: _Row) -> dict[str, Any]:
    return {**row.names(), "question": row.text("question"), "answer": row.text("answer")}


def _code(row: _Row) -> dict[str, Any]:
    names = row.names()
    if "id" not in names and row.column("id", "task_id") in row.row:
        names["id"] = str(row.take("id", "task_id"))
    parts = ("prompt", "entry_point", "canonical_solution", "test")
    return {"subject": "code", **names, **{part: row.take(part) for part in parts}}


def _text(row: _Row) -> dict[str, Any]:
    return {**row.names(), "text": row.take("text")}


def _label(row: _Row) -> dict[str, Any]:
    described, value = row.described, row.take("answer")
    assert isinstance(described, LabelsSuite)
    word = str(value)
    if word not in described.labels:
        raise UserError(f"{row.where}: answer is no label, must be one of {', '.join(described.labels)}: mend the row, or 'labels'")
    return {**row.names(), "question": row.text("question"), "choices": described.words, "answer": described.place(word)}


KINDS: Mapping[str, type[Item]] = {
    "choice": Choice,
    "exact": Short,
    "math": Problem,
    "code": Code,
    "text": Text,
    "labels": Choice,
}
MAKERS: Mapping[str, Callable[[_Row], dict[str, Any]]] = {
    "choice": _choice,
    "exact": _exact,
    "math": _problem,
    "code": _code,
    "text": _text,
    "labels": _label,
}


def _shuffled(item: Item, seed: str) -> Item:
    """The choices in another order, each item's by its own id: always the same."""
    assert isinstance(item, Choice)
    order = list(range(len(item.choices)))
    random.Random(f"{seed} {item.id}").shuffle(order)
    return item.model_copy(update={"choices": tuple(item.choices[place] for place in order), "answer": order.index(item.answer)})


def texts(described: Suite, items: Iterable[Item]) -> Iterator[tuple[str, str]]:
    """Yield (item id, text) for decontamination, a text for each way in which an item could stand in training text.

    With its answer, and where the question alone gives an item away, without.
    """
    is_labelled = isinstance(described, LabelsSuite)
    for item in items:
        for text in (str(item.question),) if is_labelled and isinstance(item, Choice) else _whole_texts(item):
            yield item.id, text


def _whole_texts(item: Item) -> tuple[str, ...]:
    match item:
        case Choice() if item.question:
            answer = item.choices[item.answer]
            answered = _answered(item.question, answer)
            return (*answered, BLANK.sub(lambda _: answer, item.question)) if BLANK.search(item.question) else answered
        case Choice():
            return item.choices
        case Short():
            return tuple(dict.fromkeys(text for answer in item.answers for text in _answered(item.question, answer)))
        case Code():
            return (f"{item.prompt}{item.canonical_solution}",)
        case Problem():
            return (item.question,)
        case Text():
            return (item.text,)
        case Foreign():
            return item.texts
    raise AssertionError(type(item))


def _answered(question: str, answer: str) -> tuple[str, ...]:
    return question, f"{question}\n{answer}", f"{question}\nAnswer: {answer}"


def chance(items: Sequence[Item], described: Suite) -> float:
    """Mean score of random answers; a random text's bytes have a probability of 1/256 each."""
    if isinstance(described, LabelsSuite) and described.metric != "accuracy":
        return _labels_chance([item.answer for item in items if isinstance(item, Choice)], described)
    return sum(map(_chance, items)) / len(items)


def _chance(item: Item) -> float:
    if isinstance(item, Choice):
        return 1 / len(item.choices)
    return item.chance if isinstance(item, Foreign) else 1 / 256 if isinstance(item, Text) else 0.0


def _labels_chance(right: Sequence[int], described: LabelsSuite) -> float:
    """What labels drawn evenly score in the limit of many items: precision is a label's share p, recall 1/k, and F1 2pr / (p + r)."""
    k, shares = len(described.labels), [right.count(place) / len(right) for place in range(len(described.labels))]
    if described.metric == "auc":
        return 0.5
    if described.metric == "macro-f1":
        return sum(2 * share / k / (share + 1 / k) for share in shares) / k
    assert described.positive is not None
    share = shares[described.place(described.positive)]
    return {"recall": 1 / k, "precision": share, "f1": 2 * share / k / (share + 1 / k)}[described.metric]


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
