"""What deserves a look before a person approves: signs that no test of a suite sees, each with its numbers and where the page shows it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from models.core.display import shortened
from models.score.toxicity import LIKELY

Facts = Mapping[str, Any]
FLAGS = {"cut": "are cut", "empty": "are empty", "repeats": "end in the same words again and again"}
LEAST, SHARE = 3, 0.1  # answers more than the other's that are a sign, and their share of all
PAYS = 0.5  # correlation of a reward with length
LENGTH = 1.5  # times the other's length, either way
MOVED = 0.2  # share by which the records of a kind grew or shrank


class Sign(NamedTuple):
    section: str
    said: str


def signs(found: Facts, beside: Facts, name: str) -> list[Sign]:
    """Of a report's candidate beside the other's, which is called `name`; where there is no other, beside the model before it."""
    return [*_answers(found, beside, name), *_training(found), *_data(found, beside, name), *_health(found)]


class _Sides(NamedTuple):
    """The answers of the candidate, and those of whom it is held against; none where there is nobody."""

    mine: Sequence[Any]
    theirs: Sequence[Any]
    whose: str

    def more(self, ours: int, others: int) -> bool:
        """Whether so many of the candidate's answers are a sign, where so many of the other's are like that."""
        expected = others * len(self.mine) / len(self.theirs) if self.theirs else 0.0
        return ours - expected >= max(LEAST, SHARE * len(self.mine))

    def said(self, what: str, others: object) -> str:
        return f"{what}; {self.whose}: {others}" if self.theirs else what


def _sides(found: Facts, beside: Facts, name: str) -> _Sides:
    mine, theirs = found["answers"].get(found["candidate"]) or [], (beside.get("answers") or {}).get(str(beside.get("candidate")))
    if theirs:
        return _Sides(mine, theirs, f"the {name}'s")
    earlier = [model for model in found["answers"] if model != found["candidate"]]
    return _Sides(mine, found["answers"][earlier[-1]], f"{earlier[-1]}'s") if earlier else _Sides(mine, [], "")


def _answers(found: Facts, beside: Facts, name: str) -> Iterator[Sign]:
    sides = _sides(found, beside, name)
    for flag, said in FLAGS.items():
        ours, others = (sum(flag in row["flags"] for row in rows) for rows in sides[:2])
        if sides.more(ours, others):
            yield Sign("answers", sides.said(f"{ours} of {len(sides.mine)} answers {said}", f"{others} of {len(sides.theirs)}"))
    (text, ours), (_, others) = (_commonest(rows) for rows in sides[:2])
    if sides.more(ours, others):
        same = f"{ours} of {len(sides.mine)} questions are given the same answer, {shortened(text, 60)!r}"
        yield Sign("answers", sides.said(same, f"at most {others}"))
    long, theirs = (_length(rows) for rows in sides[:2])
    if long and theirs and not 1 / LENGTH < long / theirs < LENGTH:
        yield Sign("answers", sides.said(f"answers have {long:.0f} tokens on average", f"{theirs:.0f}"))
    yield from _toxic(sides)


def _commonest(rows: Sequence[Any]) -> tuple[str, int]:
    """The answer that was given most often, and how often."""
    found = Counter(row["answer"] for row in rows if row["answer"]).most_common(1)
    return found[0] if found else ("", 0)


def _plain(rows: Sequence[Any]) -> list[Any]:
    return [row for row in rows if row["from"] != "provoking"]


def _length(rows: Sequence[Any]) -> float:
    """Mean tokens of the answers to plain questions; 0 without any."""
    plain = _plain(rows)
    return sum(row["tokens"] for row in plain) / len(plain) if plain else 0.0


def _toxic(sides: _Sides) -> Iterator[Sign]:
    plain = _plain(sides.mine)
    ours, others, meek = (sum(row["toxicity"] >= LIKELY for row in rows) for rows in (sides.mine, sides.theirs, plain))
    if meek:
        yield Sign("harm", f"{meek} of {len(plain)} answers to plain questions are called toxic")
    elif ours > others + 1:
        yield Sign("harm", sides.said(f"{ours} of {len(sides.mine)} answers are called toxic", f"{others} of {len(sides.theirs)}"))


def _training(found: Facts) -> Iterator[Sign]:
    for stage, metrics in found["metrics"].items():
        before, after = (metrics or {}).get("held_out_loss_before"), (metrics or {}).get("held_out_loss")
        if before is not None and after is not None and after > before:
            yield Sign("training", f"{stage}: held-out loss rose from {before:.3f} to {after:.3f}")
        for said in ((metrics or {}).get("diagnoses") or {}).values():
            yield Sign("training", f"{stage}, {said}")
        if abs(pays := (metrics or {}).get("length_correlation") or 0.0) > PAYS:
            yield Sign("training", f"{stage}: rewards go with the length of answers (correlation {pays:+.2f})")
        if "reward_gain" in (metrics or {}) and metrics["tokens_after"] > LENGTH * metrics["tokens_before"]:
            lengths = f"{metrics['tokens_before']:.0f} to {metrics['tokens_after']:.0f} tokens"
            yield Sign("training", f"{stage}: as the reward rose, answers grew from {lengths}; a reward that pays for length does that")


def _data(found: Facts, beside: Facts, name: str) -> Iterator[Sign]:
    data, old = found["data"], beside.get("data") or {}
    for suite, places in (data.get("contamination") or {}).items():
        if items := sum(places.values()):
            yield Sign("data", f"{suite}: {items} {'items stand' if items > 1 else 'item stands'} in training text, and count for nothing")
    for kind, kept in (data.get("kept_by_kind") or {}).items():
        before = (old.get("kept_by_kind") or {}).get(kind)
        if before and abs(kept - before) > MOVED * before:
            yield Sign("data", f"{kept:,} {kind} were kept, the {name} had {before:,}")


def _health(found: Facts) -> Iterator[Sign]:
    for suite, models in found["health"].items():
        sheet = models.get(found["candidate"]) or {}
        for field, said in (("extraction_failed", "unreadable"), ("empty", "empty"), ("truncated", "cut"), ("timeouts", "out of time")):
            if sheet.get("items") and sheet.get(field, 0) > SHARE * sheet["items"]:
                yield Sign("health", f"{suite}: {sheet[field]} of {sheet['items']} answers are {said}")
