"""What people write comparisons as, to preferences {prompt, chosen, rejected}."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from models.data.importers.conversations import (
    PROMPT,
    Made,
    Messages,
    as_conversation,
    completed,
    first,
    listed,
    message,
    messages,
    said,
    text,
    with_system,
)
from models.data.importers.lines import Fault

TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ \t]?")
RATINGS = ("fine-grained_score", "overall_score", "score", "rating")


class LeftOut(Exception):
    """A sound row of which nothing is taken, and why."""


def preference(prompt: Messages, chosen: Messages, rejected: Messages) -> Iterator[Made]:
    """One record. Raises LeftOut where the answers are equal, Fault where one is not one message of the assistant's."""
    for side in (chosen, rejected):
        if any(one.get("tool_calls") or one["role"] == "tool" for one in (*prompt, *side)):
            raise Fault("tool calls in a pair, which no stage trains on")
    if chosen == rejected:
        raise LeftOut("both answers are the same")
    yield "preferences", "", {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def pair(row: Mapping[str, Any]) -> Iterator[Made]:
    """Chosen and rejected as answers to the prompt, or as conversations that part at their last message, with or without the prompt."""
    asked = first(row, (*PROMPT, "conversations"))
    prompt = as_conversation(asked, "user") if asked is not None else []
    chosen, rejected = (_answer(row.get(side)) for side in ("chosen", "rejected"))
    if len(chosen) == len(rejected) == 1:
        yield from preference(with_system(row, prompt), chosen, rejected)
        return
    before = chosen[:-1]
    if before != rejected[:-1]:
        raise Fault("the conversations part before their last message")
    if any(_stripped(one) not in map(_stripped, before) for one in prompt):
        raise Fault("the conversations do not hold the prompt")
    yield from preference(with_system(row, before), chosen[-1:], rejected[-1:])


def _stripped(one: Mapping[str, Any]) -> tuple[str, str]:
    return one["role"], one["content"].strip()


def _answer(value: Any) -> Messages:
    return [message(value)] if isinstance(value, dict) else as_conversation(value, "assistant")


def transcript(value: str) -> Messages:
    """A text of turns that begin with "Human:" and "Assistant:" after a blank line. Raises Fault where the first is no such turn."""
    pieces = TURN.split(value)
    if len(pieces) < 3 or pieces[0].strip():
        raise Fault("a transcript does not begin with 'Human:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [said(roles[role], content.strip()) for role, content in zip(pieces[1::2], pieces[2::2], strict=True)]


def transcripts(row: Mapping[str, Any]) -> Iterator[Made]:
    """Two transcripts that differ in the last answer."""
    chosen, rejected = (transcript(text(row, side)) for side in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise Fault("the conversations part before their last message")
    yield from preference(chosen[:-1], chosen[-1:], rejected[-1:])


def openai(row: Mapping[str, Any]) -> Iterator[Made]:
    """{input: {messages}, preferred_output, non_preferred_output}."""
    given = row.get("input")
    asked = given.get("messages") if isinstance(given, dict) else given
    yield from preference(messages(asked), messages(row.get("preferred_output")), messages(row.get("non_preferred_output")))


def rated(row: Mapping[str, Any]) -> Iterator[Made]:
    """The best-rated completion against the worst, the first of equals; rows whose completions are all rated alike are left out."""
    found = listed(row.get("completions")) or []
    if not all(isinstance(one, dict) for one in found):
        raise Fault("completions is no list of objects")
    ratings = [(rating, place) for place, one in enumerate(found) if (rating := _rating(one)) is not None]
    if len(ratings) < 2 or max(ratings)[0] == min(ratings)[0]:
        raise LeftOut("no two completions are rated differently")
    best = max(ratings, key=lambda one: (one[0], -one[1]))[1]
    sides = (as_conversation(text(found[place], "response"), "assistant") for place in (best, min(ratings)[1]))
    yield from preference(with_system(row, as_conversation(first(row, PROMPT), "user")), *sides)


def _rating(completion: Mapping[str, Any]) -> float | None:
    """The first rating that is a number and no NaN."""
    for name in RATINGS:
        value = completion.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
            return float(value)
    return None


def labelled_outputs(row: Mapping[str, Any]) -> Iterator[Made]:
    """LLMBar: two outputs, and a label that says which one follows the instruction."""
    label = row.get("label")
    number = int(label) if isinstance(label, str) and label in ("1", "2") else label  # a CSV holds texts; 1.0 is a table's 1
    if isinstance(number, bool) or number not in (1, 2):
        raise Fault("the label is not 1 or 2", type(label).__name__)
    answers = [[said("assistant", text(row, f"output_{side}"))] for side in (1, 2)][:: 1 if number == 1 else -1]
    yield from preference([said("user", text(row, "input"))], *answers)


TRUTH = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}


def label(row: Mapping[str, Any]) -> bool:
    """Whether a completion was approved of. Raises Fault where the label says neither."""
    value = row.get("label")
    found = TRUTH.get(value.lower() if isinstance(value, str) else value) if isinstance(value, str | bool | int | float) else None
    if found is None:
        raise Fault("the label is not true or false", type(value).__name__)
    return found


def approved(row: Mapping[str, Any], conversation: Messages) -> Messages:
    """The conversation, where it was approved of."""
    if not label(row):
        raise LeftOut("labelled false: nothing to imitate")
    return conversation


class Matched:
    """Labelled completions to pairs: one labelled true with one labelled false of the same prompt, in the order in which they come.

    Up to MOST completions wait for one of the other label; those that have waited longest are given up.
    """

    MOST = 20_000

    def __init__(self) -> None:
        self.waiting: dict[tuple[str, bool], list[Messages]] = {}
        self.waits = self.alone = 0

    def __call__(self, row: Mapping[str, Any], _notes: Counter[str]) -> Iterator[Made]:
        conversation, good = completed(row), label(row)
        prompt, answer = conversation[:-1], conversation[-1:]
        if (repr(prompt), not good) in self.waiting:
            other = self._taken((repr(prompt), not good))
            self.alone -= 1
            yield from preference(prompt, *((answer, other) if good else (other, answer)))
            return
        self.waiting.setdefault((repr(prompt), good), []).append(answer)
        self.waits, self.alone = self.waits + 1, self.alone + 1
        if self.waits > self.MOST:
            self._taken(next(iter(self.waiting)))

    def _taken(self, key: tuple[str, bool]) -> Messages:
        answer = self.waiting[key].pop(0)
        if not self.waiting[key]:
            del self.waiting[key]
        self.waits -= 1
        return answer
