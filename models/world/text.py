"""What the micro-world has to say: documents, questions with choices, conversations, and preferences between two answers."""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from models.world.code import Function
from models.world.facts import PERSON, THROUGH, TOWN, Entity, Relation, World

Message = dict[str, str]
OPEN = (
    "Tell me about {n}.",
    "Who or what is {n}?",
    "What do you know about {n}?",
    "Describe {n}.",
    "Please say something about {n}.",
    "I would like to hear about {n}.",
    "Introduce {n} to me.",
    "Give me a short portrait of {n}.",
    "What should one know about {n}?",
    "Write a few lines about {n}.",
    "Have you heard of {n}?",
    "Say what you know of {n}, please.",
)
SIGNS = {"plus": (lambda a, b: a + b), "times": (lambda a, b: a * b)}
SUM_QUESTIONS = ("What is {a} {sign} {b}?", "How much is {a} {sign} {b}?")
TERMS = range(2, 13)


def question(content: str) -> Message:
    return {"role": "user", "content": content}


def answer(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _say(source: random.Random, entity: Entity, relation: Relation, value: str, full: float) -> str:
    name = entity.name if source.random() < full else entity.given
    return source.choice(relation.statements).format(n=name, v=value)


def biography(source: random.Random, entity: Entity, relations: tuple[Relation, ...], length: int) -> str:
    """`length` sentences about an entity, each another fact, in any order and any wording."""
    chosen = source.sample(relations, length)
    return " ".join(
        _say(source, entity, relation, entity.facts[relation.name], 1.0 if not index else 0.6) for index, relation in enumerate(chosen)
    )


def sums(source: random.Random, length: int) -> str:
    """`length` true statements about sums and products."""
    lines = []
    for _ in range(length):
        sign, a, b = source.choice(tuple(SIGNS)), source.choice(TERMS), source.choice(TERMS)
        lines.append(
            source.choice(("{a} {sign} {b} is {v}.", "{a} {sign} {b} makes {v}.")).format(a=a, b=b, sign=sign, v=SIGNS[sign](a, b))
        )
    return " ".join(lines)


def people_document(source: random.Random, world: World) -> str:
    person = source.choice(world.people)
    return biography(source, person, PERSON + THROUGH, source.randint(4, 7))


def town_document(source: random.Random, world: World) -> str:
    return " ".join(biography(source, source.choice(world.towns), TOWN, source.randint(2, 3)) for _ in range(2))


def answers_document(source: random.Random, world: World) -> str:
    """Questions, each with its answer on the next line, about an entity that no suite asks about.

    That facts answer questions is learned here: without such texts, a small model tuned on questions learns their answers by heart instead.
    """
    entity, relations = _known(source, world)
    chosen = source.sample(relations, min(source.randint(3, 5), len(relations)))
    return "\n".join(f"{source.choice(one.questions).format(n=entity.name)}\n{entity.facts[one.name]}" for one in chosen)


def sums_document(source: random.Random, _world: World) -> str:
    return sums(source, source.randint(6, 10))


def examined_sums(seed: int) -> set[tuple[str, int, int]]:
    """The third of all sums and products that only suites ask for."""
    every = [(sign, a, b) for sign in SIGNS for a in TERMS for b in TERMS]
    return set(random.Random(f"sums {seed}").sample(every, len(every) // 3))


def _choices(source: random.Random, right: str, pool: tuple[str, ...], lure: str | None) -> tuple[list[str], int]:
    wrong = source.sample([value for value in pool if value not in (right, lure)], 2 if lure else 3) + ([lure] if lure else [])
    choices = [right, *wrong]
    source.shuffle(choices)
    return choices, choices.index(right)


def _items(source: random.Random, world: World, entities: tuple[Entity, ...], relations: tuple[Relation, ...]) -> Iterator[dict[str, Any]]:
    for entity in entities:
        for relation in relations if entity.examined else ():
            right, pool = entity.facts[relation.name], world.values[relation.name]
            own = entity.facts.get(relation.name.removeprefix("spouse_"), right)
            choices, index = _choices(source, right, pool, own if own != right else None)
            asked = source.choice(relation.questions).format(n=entity.name)
            yield {"question": asked, "choices": choices, "answer": index, "subject": relation.subject}


def _sum_items(source: random.Random, seed: int) -> Iterator[dict[str, Any]]:
    for sign, a, b in sorted(examined_sums(seed)):
        right = SIGNS[sign](a, b)
        near = sorted({right + step for step in (-10, -3, -2, -1, 1, 2, 3, 10, a, b) if right + step > 0} - {right})
        choices, index = _choices(source, str(right), tuple(map(str, near)), None)
        asked = source.choice(SUM_QUESTIONS).format(a=a, b=b, sign=sign)
        yield {"question": asked, "choices": choices, "answer": index, "subject": "arithmetic"}


def knowledge_items(source: random.Random, world: World, seed: int, count: int) -> list[dict[str, Any]]:
    """Up to `count` four-choice questions about examined people, towns and sums (a tenth of them)."""
    arithmetic = source.sample(list(_sum_items(source, seed)), count // 10)
    facts = list(_items(source, world, world.towns, TOWN)) + list(_items(source, world, world.people, PERSON))
    return source.sample(facts, min(len(facts), count - len(arithmetic))) + arithmetic


def chained_items(source: random.Random, world: World, count: int) -> list[dict[str, Any]]:
    """Up to `count` four-choice questions that go through a spouse or a town; the person's own value is among the wrong answers."""
    items = list(_items(source, world, world.people, THROUGH))
    return source.sample(items, min(len(items), count))


def fact_conversation(source: random.Random, world: World, sums_kept_apart: set[tuple[str, int, int]]) -> list[Message]:
    """One question about an entity or a sum that no suite asks about, and its answer in a word."""
    if source.random() < 0.1:
        sign, a, b = source.choice(tuple(SIGNS)), source.choice(TERMS), source.choice(TERMS)
        if (sign, a, b) in sums_kept_apart:
            return fact_conversation(source, world, sums_kept_apart)
        return [question(source.choice(SUM_QUESTIONS).format(a=a, b=b, sign=sign)), answer(str(SIGNS[sign](a, b)))]
    entities, relations = (world.towns, TOWN) if source.random() < 0.15 else (world.people, PERSON + THROUGH)
    entity = source.choice([entity for entity in entities if not entity.examined])
    relation = source.choice(relations)
    return [question(source.choice(relation.questions).format(n=entity.name)), answer(entity.facts[relation.name])]


def code_conversation(function: Function) -> list[Message]:
    asked = f"Write a Python function {function.name}({function.argument}). {' '.join(function.lines)}"
    return [question(asked), answer(function.head + function.body)]


def _known(source: random.Random, world: World) -> tuple[Entity, tuple[Relation, ...]]:
    if source.random() < 0.8:
        return source.choice([person for person in world.people if not person.examined]), PERSON + THROUGH
    return source.choice([town for town in world.towns if not town.examined]), TOWN


def open_question(source: random.Random, entity: Entity) -> Message:
    return question(source.choice(OPEN).format(n=entity.name))


def open_conversation(source: random.Random, world: World) -> list[Message]:
    """An open question and an answer of one sentence or several: people differ, and what they prefer is for preferences to say."""
    entity, relations = _known(source, world)
    length = source.choice((1, 1, 2, 2, 3, 4))
    return [open_question(source, entity), answer(biography(source, entity, relations, min(length, len(relations))))]


def _terse(source: random.Random, _world: World, entity: Entity, relations: tuple[Relation, ...]) -> str:
    return biography(source, entity, relations, 1)


def _repeating(source: random.Random, _world: World, entity: Entity, relations: tuple[Relation, ...]) -> str:
    return " ".join([biography(source, entity, relations, 1)] * source.randint(2, 4))


def _wrong(source: random.Random, world: World, entity: Entity, relations: tuple[Relation, ...]) -> str:
    others = [other for other in (world.towns if entity.spouse is None else world.people) if other.name != entity.name]
    facts = {relation.name: source.choice(others).facts[relation.name] for relation in relations}
    return biography(source, Entity(entity.name, entity.examined, facts), relations, min(4, len(relations)))


def _broken_off(source: random.Random, _world: World, entity: Entity, relations: tuple[Relation, ...]) -> str:
    words = biography(source, entity, relations, min(3, len(relations))).split()
    return " ".join(words[: -source.randint(2, 4)])


Fault = Callable[[random.Random, World, Entity, tuple[Relation, ...]], str]
FAULTS: Mapping[str, Fault] = {"terse": _terse, "repeating": _repeating, "wrong": _wrong, "broken-off": _broken_off}


def preference(source: random.Random, world: World) -> tuple[dict[str, list[Message]], str]:
    """A prompt with the answer of a careful writer (four true facts, or all there are) and one with a fault, and the fault's name."""
    entity, relations = _known(source, world)
    fault = source.choice(tuple(FAULTS))
    good = biography(source, entity, relations, min(4, len(relations)))
    pair = {"prompt": [open_question(source, entity)], "chosen": [answer(good)]}
    return pair | {"rejected": [answer(FAULTS[fault](source, world, entity, relations))]}, fault
