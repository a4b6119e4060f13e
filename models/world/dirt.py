"""What raw data looks like before anybody cleans it: copies, near copies, odd characters, personal data, leaked benchmark items."""

import random
import unicodedata
from collections.abc import Callable, Iterator

Change = Callable[[random.Random, str], str]


def _copy(_source: random.Random, text: str) -> str:
    return text


def _near_copy(source: random.Random, text: str) -> str:
    return text + source.choice((" And so it is.", " That is all.", " So they say."))


def _odd_space(source: random.Random, text: str) -> str:
    spaces = ("\u00a0", " \u200b", "\u202f", "\u2009")  # what text that was copied from a page holds, and no layout that is meant
    return "\r\n" + "".join(source.choice(spaces) if letter == " " and source.random() < 0.3 else letter for letter in text) + " \n\n\n"


def _decomposed(_source: random.Random, text: str) -> str:
    return unicodedata.normalize("NFD", text + " At the café they speak of it, naïve as they are.") + "\ufeff"


def _personal(source: random.Random, text: str) -> str:
    number = f"+44 20 7946 0{source.randint(100, 999)}"  # 020 7946 0xxx is reserved for fiction
    name = "".join(source.choice("abcdefgh") for _ in range(6))
    return f"{text} Write to {name}@example.org or call {number}."


def _empty(source: random.Random, _text: str) -> str:
    return source.choice(("", " ", "\n\n", "."))


def _endless(_source: random.Random, text: str) -> str:
    return " ".join(f"{text} This is told for the time {number}." for number in range(200))


CHANGES: tuple[Change, ...] = (_copy, _near_copy, _odd_space, _decomposed, _personal, _personal, _empty, _endless)


def dirty(source: random.Random, texts: list[str], leaks: list[str], count: int) -> Iterator[str]:
    """`count` dirty texts: three quarters are `texts` changed in every way that CHANGES names, the rest repeats `leaks` word for word."""
    for number in range(count):
        if number % 4 == 3:
            yield f"{source.choice(texts)} {source.choice(leaks)}"
        else:
            yield CHANGES[(number - number // 4) % len(CHANGES)](source, source.choice(texts))
