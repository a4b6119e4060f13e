"""What a written answer says: the part of it that counts, and what of that does not."""

import string
import unicodedata
from collections.abc import Sequence

import regex

ARTICLES = regex.compile(r"\b(a|an|the)\b")
EXTRACT_S = 2.0  # of one answer: an expression that backtracks for longer has found nothing


def extracted(expression: str | None, text: str) -> str | None:
    """The answer in a text: all of it, or the last match of an expression, of which the first group counts where it has one."""
    if expression is None:
        return text
    try:
        matches = list(regex.finditer(expression, text, timeout=EXTRACT_S))
    except TimeoutError:
        return None
    if not matches:
        return None
    found = matches[-1]
    return str(found[1] if found.re.groups and found[1] is not None else found[0])


def matches(expression: str, text: str) -> bool:
    """Whether an expression is that of a whole text."""
    try:
        return regex.fullmatch(expression, text, regex.DOTALL, timeout=EXTRACT_S) is not None
    except TimeoutError:
        return False


def normal(text: str, ignore: Sequence[str]) -> str:
    """A text without what does not count: case, punctuation, articles; white space never does, nor which Unicode form it is in."""
    text = unicodedata.normalize("NFKC", text)
    if "case" in ignore:
        text = text.casefold()
    if "punctuation" in ignore:
        text = "".join(letter for letter in text if letter not in string.punctuation and not unicodedata.category(letter).startswith("P"))
    if "articles" in ignore:
        text = ARTICLES.sub(" ", text)
    return " ".join(text.split())


def in_a_block(response: str) -> str:
    """The first block of code in an answer; where there is none, all of it."""
    blocks = response.split("```")
    return blocks[1].removeprefix("python") if len(blocks) > 1 else response
