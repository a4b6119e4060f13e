"""What a set of records looks like, in numbers and examples that a page can show: sources, lengths, languages, and what was dropped.

No text of a suite's item is among it, and no personal data: examples are what redaction leaves of them.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from models.core.display import shortened
from models.data import kinds

EXAMPLES, EXAMPLE_CHARACTERS = 10, 240  # of each reason, of each example
LOOKED_AT = 200  # records of a kind whose language is asked for
LEAST_CHARACTERS, LEAST_CERTAIN = 20, 0.5  # of a text whose language can be told, and how sure that must be
BOUNDS = (1, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # words a record: a bar begins at each
HIDDEN = ("contaminated",)  # reasons whose records hold text of a suite

Rows = Sequence[Mapping[str, Any]]


def of_kind(kind: str, splits: Mapping[str, Rows]) -> dict[str, Any]:
    """By split: how many records each source brought, and how many have so many words; of the kind: which languages its records are in."""
    return {
        "by_source": {split: dict(Counter(str(row.get("source", "")) for row in rows).most_common()) for split, rows in splits.items()},
        "words": {split: lengths(kind, rows) for split, rows in splits.items()},
        "languages": languages([text_of(kind, row) for rows in splits.values() for row in rows]),
    }


def text_of(kind: str, record: Mapping[str, Any]) -> str:
    """All texts of a record."""
    return "\n".join(text for _, text in kinds.texts(kind, record))


def lengths(kind: str, rows: Rows) -> dict[str, int]:
    """How many records have at least so many words, and fewer than the next bound."""
    found = Counter(max((bound for bound in BOUNDS if bound <= len(text_of(kind, row).split())), default=BOUNDS[0]) for row in rows)
    return {str(bound): found[bound] for bound in BOUNDS if found[bound]}


def languages(texts: Sequence[str]) -> dict[str, int]:
    """How many of some of the texts, evenly taken, are in which language (ISO 639-1); "?" where a text is too short or too odd to tell."""
    tell = _identifier().classify
    stride = -(-len(texts) // LOOKED_AT) or 1
    found = Counter[str]()
    for text in texts[::stride]:
        language, certain = tell(text[:2000]) if len(text) >= LEAST_CHARACTERS else ("?", 0.0)
        found[language if certain >= LEAST_CERTAIN else "?"] += 1
    return dict(found.most_common())


@functools.cache
def _identifier() -> Any:
    """What tells languages: half a second to unpack."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


class Examples:
    """Up to EXAMPLES dropped records of each kind and reason, as `hide` leaves their text."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        self.hide, self.found = hide, dict[str, dict[str, list[dict[str, str]]]]()

    def add(self, kind: str, drop: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Keep a record that was dropped, where there is room: {id, by, text}, the text empty where it may not be shown."""
        kept = self.found.setdefault(kind, {}).setdefault(drop["reason"], [])
        if len(kept) < EXAMPLES:
            text = "" if drop["reason"] in HIDDEN else self.hide(_shown(kind, record)[: 10 * EXAMPLE_CHARACTERS])
            kept.append({"id": str(drop["id"]), "by": str(drop.get("by", "")), "text": shortened(text, EXAMPLE_CHARACTERS)})


def _shown(kind: str, record: Mapping[str, Any]) -> str:
    """The record's texts; all of it, as JSON, where it is broken."""
    return json.dumps(record, ensure_ascii=False) if kinds.is_broken(kind, record) else text_of(kind, record)
