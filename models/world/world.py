"""The micro-world: a small closed world whose documents, conversations, preferences and benchmark suites all follow from one seed.

Its people and towns come in two halves. About the first half everything is told and asked; the other half, the examined one, is told of
in documents alone, and asked about in suites alone. Code suites hold functions whose syntax tree no training text has.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pydantic import Field

from models.core.errors import UserError
from models.core.records import Record
from models.world import code, dirt, facts, text
from models.world.code import Function
from models.world.facts import World

Rows = list[dict[str, Any]]
SUITES = ("mmlu-mini", "gpqa-mini", "humaneval-mini")


class Size(Record):
    """How much there is of everything."""

    people: int = Field(ge=16, le=1000, multiple_of=4, description="people, in couples; every second couple is examined")
    towns: int = Field(ge=8, le=200, multiple_of=2, description="towns, every second one examined")
    people_documents: int = Field(ge=1, description="short texts about one person")
    town_documents: int = Field(ge=1, description="short texts about towns")
    answer_documents: int = Field(ge=1, description="questions and answers about one person or town that is not examined")
    sum_documents: int = Field(ge=1, description="texts of sums and products")
    code_documents: int = Field(ge=1, description="Python functions with docstrings")
    fact_conversations: int = Field(ge=1, description="questions with answers of a word")
    code_conversations: int = Field(ge=1, description="requests for a function, with the function")
    open_conversations: int = Field(ge=1, description="open questions with answers of one to four sentences")
    preferences: int = Field(ge=1, description="pairs of answers, one of them with a fault")
    items: int = Field(ge=20, le=2000, description="items a suite")
    dirt: int = Field(ge=0, description="unclean documents: copies, odd characters, personal data, leaked suite items")


def _numbered(kind: str, rows: Iterable[dict[str, Any]]) -> Rows:
    return [{"id": f"{kind}-{number:05d}", **row} for number, row in enumerate(rows)]


def _shuffled(source: random.Random, rows: Rows) -> Rows:
    source.shuffle(rows)
    return rows


def _documents(seed: int, size: Size, world: World, lessons: list[Function], leaks: list[str]) -> Rows:
    source = random.Random(f"documents {seed}")
    parts: tuple[tuple[str, int, Callable[[random.Random, World], str]], ...] = (
        ("world/people", size.people_documents, text.people_document),
        ("world/towns", size.town_documents, text.town_document),
        ("world/answers", size.answer_documents, text.answers_document),
        ("world/sums", size.sum_documents, text.sums_document),
    )
    rows = [{"text": make(source, world), "source": name} for name, count, make in parts for _ in range(count)]
    texts = [row["text"] for row in rows]
    rows += [{"text": lesson.prompt + lesson.body, "source": "world/code"} for lesson in lessons]
    rows += [{"text": text, "source": "world/dirt"} for text in dirt.dirty(source, texts, leaks, size.dirt)]
    return _numbered("document", _shuffled(source, rows))


def _instructions(seed: int, size: Size, world: World, lessons: list[Function]) -> Rows:
    source, kept_apart = random.Random(f"instructions {seed}"), text.examined_sums(seed)
    asked: set[str] = set()
    rows = []
    for _ in range(size.fact_conversations):
        messages = text.fact_conversation(source, world, kept_apart)
        if messages[0]["content"] not in asked:
            asked.add(messages[0]["content"])
            rows.append({"messages": messages, "source": "world/facts"})
    rows += [{"messages": text.code_conversation(lesson), "source": "world/code"} for lesson in lessons]
    rows += [{"messages": text.open_conversation(source, world), "source": "world/open"} for _ in range(size.open_conversations)]
    return _numbered("instruction", _shuffled(source, rows))


def _preferences(seed: int, size: Size, world: World) -> Rows:
    source = random.Random(f"preferences {seed}")
    pairs = (text.preference(source, world) for _ in range(size.preferences))
    return _numbered("preference", [pair | {"source": f"world/{fault}"} for pair, fault in pairs])


def _prompts(seed: int, world: World) -> Rows:
    known = [entity for entity in world.people + world.towns if not entity.examined]
    rows = [{"prompt": [text.question(form.format(n=entity.name))]} for entity in known for form in text.OPEN]
    return _numbered("prompt", _shuffled(random.Random(f"prompts {seed}"), rows))


def _code_suite(problems: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, problem in enumerate(problems):
        yield {"task_id": f"mini/{number}", **problem}


def generate(seed: int, size: Size, suites: tuple[str, ...]) -> tuple[dict[str, Rows], dict[str, Rows]]:
    """The records by kind and the items by suite. Raises UserError where a suite has no place in the world."""
    if unknown := sorted(set(suites) - set(SUITES)):
        raise UserError(f"suites: {', '.join(unknown)} is not made by the world; it has {', '.join(SUITES)}: change the key 'suites'")
    world, source = facts.make(seed, size.people, size.towns), random.Random(f"suites {seed}")
    exam = list(code.problems(source, size.items))
    items = {
        "mmlu-mini": _numbered("mmlu-mini", text.knowledge_items(source, world, seed, size.items)),
        "gpqa-mini": _numbered("gpqa-mini", text.chained_items(source, world, size.items)),
        "humaneval-mini": list(_code_suite(record for _, record in exam)),
    }
    leaks = [row["question"] for row in items["gpqa-mini"]] + [row["prompt"] + row["canonical_solution"] for row in items["humaneval-mini"]]
    functions = [function for function, _ in exam]
    lessons = list(code.lessons(random.Random(f"lessons {seed}"), size.code_documents + size.code_conversations, functions))
    records = {
        "documents": _documents(seed, size, world, lessons[: size.code_documents], leaks),
        "instructions": _instructions(seed, size, world, lessons[size.code_documents :]),
        "preferences": _preferences(seed, size, world),
        "prompts": _prompts(seed, world),
    }
    return records, {name: items[name] for name in suites}
