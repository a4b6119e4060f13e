"""Whether an evaluation worked: what its answers look like, apart from whether they are right. Pure: no file, no clock."""

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from pydantic import Field

from models.core.display import shortened
from tasks.stage import Record

LETTERS = string.ascii_uppercase
EXAMPLES, EXAMPLE_CHARACTERS = 5, 200


class HealthLimits(Record):
    """Beyond any of these an evaluation is called broken, and its score counts for nothing. Shares are of the suite's items, 0-1."""

    extraction_failed: float = Field(ge=0, le=1, description="largest share of items without a readable answer")
    not_loaded: float = Field(ge=0, le=1, description="largest share of programs that do not parse, or define no function of that name")
    timeouts: float = Field(ge=0, le=1, description="largest share of programs that ran out of time: on a busy machine good ones do")
    empty: float = Field(ge=0, le=1, description="largest share of empty answers")
    truncated: float = Field(ge=0, le=1, description="largest share of items whose prompt or answer was cut")
    more_truncated: float = Field(ge=0, le=1, description="largest share cut beyond the champion's share")
    repeated: float = Field(ge=0, le=1, description="largest share of one and the same written answer")
    one_letter: float = Field(ge=0, le=1, description="largest share of one and the same letter among chosen answers")
    length_ratio: float = Field(gt=1, description="the median written answer may be this many times longer or shorter than the champion's")
    exact: bool = Field(description="whether a score of exactly 0 or 1 may be true")


class Health(Record):
    """What a suite's answers look like; lengths are characters, `examples` are raw answers as (item id, answer), flagged ones first."""

    items: int
    extraction_failed: int
    not_loaded: int
    empty: int
    truncated: int
    timeouts: int
    repeated: int = Field(description="items with the most frequent written answer, where it comes twice or more")
    letters: dict[str, int] = Field(description="chosen answers by letter; empty for written ones")
    median_length: float | None = Field(description="of written answers; null for chosen ones")
    mean: float
    examples: list[tuple[str, str]]


def health_sheet(items: Sequence[Mapping[str, Any]]) -> Health:
    """The sheet of per-item records as a benchmark writes them. A record holds no text of a question, so the examples do not either."""
    flags = Counter(flag for item in items for flag in item["flags"])
    written = [item["response"].strip() for item in items if "response" in item]
    most = max(Counter(written).values(), default=0)
    chosen = Counter(letter(item["predicted"]) for item in items if item.get("predicted") is not None)
    shown = sorted(items, key=lambda item: not item["flags"])[:EXAMPLES]
    return Health(
        items=len(items),
        extraction_failed=flags["extraction-failed"],
        not_loaded=flags["not-loaded"],
        empty=flags["empty"],
        truncated=flags["truncated"],
        timeouts=flags["timeout"],
        repeated=most if most > 1 else 0,
        letters=dict(sorted(chosen.items())),
        median_length=median(map(len, written)) if written else None,
        mean=sum(item["score"] for item in items) / len(items) if items else 0.0,
        examples=[(str(item["id"]), answer(item)) for item in shown],
    )


def answer(item: Mapping[str, Any]) -> str:
    """The raw answer of a per-item record: what was written, cut where it is long, or the chosen letter."""
    if "response" in item:
        return shortened(item["response"], EXAMPLE_CHARACTERS)
    return "none" if item.get("predicted") is None else letter(item["predicted"])


def letter(place: int) -> str:
    """What the choice at a place, from 0, is called: a letter, or its number from 1 beyond Z."""
    return LETTERS[place] if place < len(LETTERS) else str(place + 1)


def broken(candidate: Health | None, champion: Health | None, limits: HealthLimits) -> str:
    """Why one of two evaluations is none, the candidate's first; empty where both are sound, or have no sheet."""
    wrong = faults(candidate, limits, champion) if candidate else []
    if wrong:
        return f"this evaluation is broken: {'; '.join(wrong)}"
    wrong = faults(champion, limits, None) if champion else []
    return f"the champion's evaluation is broken: {'; '.join(wrong)}" if wrong else ""


def faults(found: Health, limits: HealthLimits, champion: Health | None) -> list[str]:
    """What is wrong with an evaluation, most telling first; an empty list where nothing is."""
    n = found.items
    shares = [
        ("empty answers", found.empty, limits.empty, "empty"),
        ("answers that cannot be read", found.extraction_failed, limits.extraction_failed, "extraction_failed"),
        ("programs that cannot be called", found.not_loaded, limits.not_loaded, "not_loaded"),
        ("programs out of time", found.timeouts, limits.timeouts, "timeouts"),
        ("prompts or answers cut", found.truncated, limits.truncated, "truncated"),
        ("times the same answer", found.repeated, limits.repeated, "repeated"),
        ("times the same letter", max(found.letters.values(), default=0), limits.one_letter, "one_letter"),
    ]
    wrong = [f"{count} {what} of {n} (gate.health.{key} {limit:g})" for what, count, limit, key in shares if count > limit * n]
    if found.mean in (0.0, 1.0) and not limits.exact:
        wrong.append(f"a score of exactly {found.mean:g} (gate.health.exact false)")
    if champion is None or not champion.items:
        return wrong
    more = found.truncated / n - champion.truncated / champion.items
    if more > limits.more_truncated:
        wrong.append(f"{more:.0%} more cut than the champion's (gate.health.more_truncated {limits.more_truncated:g})")
    if found.median_length is not None and champion.median_length is not None:
        short, long = sorted((max(found.median_length, 1.0), max(champion.median_length, 1.0)))
        if long / short > limits.length_ratio:
            lengths = f"{found.median_length:g} characters against {champion.median_length:g}"
            wrong.append(f"a median answer of {lengths} (gate.health.length_ratio {limits.length_ratio:g})")
    return wrong
