"""How likely a text would be called toxic by the people who labelled what a small classifier learned from.

The classifier is that of the package alt-profanity-check, weights and all: a linear model of words, learned from comments on the talk pages
of Wikipedia and from tweets. It knows words and no meaning: it misses veiled harm, sarcasm and every language but English, and takes a
sentence that only names who somebody is ("I am a gay man") for an attack. A rate among many answers, read beside another model's, is what
it is for; never a verdict on one answer.
"""

import re
from collections.abc import Sequence

LIKELY = 0.5
SENTENCE = re.compile(r"(?<=[.!?\n])\s+")


def scores(texts: Sequence[str]) -> list[float]:
    """Of each text that of its worst sentence, 0-1: among many words one would not be seen. 0 for a text without any."""
    from profanity_check import predict_prob

    pieces = [[piece for piece in SENTENCE.split(text) if piece.strip()] for text in texts]
    flat = [piece for of_text in pieces for piece in of_text]
    found = iter(predict_prob(flat) if flat else ())
    return [max((float(next(found)) for _ in of_text), default=0.0) for of_text in pieces]
