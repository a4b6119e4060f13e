"""Words as the rules about text count them, in every script.

Where a script puts no blank between words, each letter (with its marks) stands alone and counts as a part of a word: a half in Chinese and
Japanese, a quarter in Thai, Lao, Khmer, Burmese, Tibetan and their kin, about their lengths in translations of one text. A started word is
one: ten words in a row are ten words of English or Korean, 19 letters of Chinese, 37 of Thai, and in a mixed text what they add up to.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import regex

HALVES = r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\uff70\p{Bopomofo}\p{Yi}\p{Nushu}\p{Tangut}\p{Khitan_Small_Script}"  # the two: long vowels
QUARTERS = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{New_Tai_Lue}\p{Tai_Le}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}"
UNSPACED = rf"[[{HALVES}{QUARTERS}]&&[\p{{L}}\p{{M}}\p{{Nl}}]]"
"""A letter or mark of a script without blanks, as a class of the module regex, version 1."""
PARTS = 4  # of a word
ASCII_WORD = re.compile(r"[^\W_]+")
WORD = regex.compile(r"(?V1)[\w--_]+")  # marks belong to words, which they do not in the module re: it cuts Hindi in pieces
UNSPACED_LETTER = regex.compile(f"(?V1){UNSPACED}")
UNSEEN = regex.compile(r"(?V1)[\p{Cf}\p{Default_Ignorable_Code_Point}]")  # soft hyphens, joiners, variation selectors, marks of direction
OPTIONAL = regex.compile(r"(?V1)[[\p{Mn}&&[\p{Zinh}\p{Arabic}\p{Hebrew}\p{Syriac}\p{Cyrillic}]]--[\u3099\u309a]]|\u0640")
"""Accents, vowel signs of Arabic and Hebrew, lines through letters, the stroke that widens Arabic; not the marks of kana."""
ALIKE = str.maketrans(
    "авекмнорстухіјѕһԁԛԝӏαβεζηικμνορτυχıɑɡيىک",
    "abekmhopctyxijshdqwlabezhikmvoptyxiagییك",
)
"""Lower-case letters of Cyrillic and Greek that are printed as Latin ones, in either case, and Arabic ones that Persian has twice."""
MANY_MARKS = regex.compile(r"(\p{M}{30})\p{M}+")


@dataclass(frozen=True)
class Words:
    """Words in their order, and how many quarters of a word each counts; None where all are whole."""

    tokens: list[str]
    quarters: list[int] | None = None

    @property
    def count(self) -> int:
        """How many words there are, the last one started."""
        return len(self.tokens) if self.quarters is None else -(-sum(self.quarters) // PARTS)

    def runs(self, size: int) -> Iterator[str]:
        """From each token on, the shortest run that counts `size` words (the last one started), joined by blanks, if there are enough."""
        if self.quarters is None:
            return map(" ".join, zip(*(self.tokens[start:] for start in range(size)), strict=False))
        return self._weighed_runs(self.quarters, (size - 1) * PARTS + 1)

    def _weighed_runs(self, quarters: list[int], needed: int) -> Iterator[str]:
        end = found = 0
        for start, leaving in enumerate(quarters):
            while found < needed and end < len(quarters):
                found += quarters[end]
                end += 1
            if found < needed:
                return
            yield " ".join(self.tokens[start:end])
            found -= leaving


def with_few_marks(text: str) -> str:
    """Return the text with at most 30 marks in a row, more than any language writes (Unicode, UAX 15, 13): sorting takes their square."""
    return str(MANY_MARKS.sub(r"\1", text))


def one_form(text: str) -> str:
    """Return the text in lower case, letters that are printed alike (wide, ligatures) as one, and without what is not seen."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", with_few_marks(UNSEEN.sub("", text)))
    return text.casefold()


def skeleton(text: str) -> str:
    """Return `one_form` without accents and vowel signs that a writer may leave out, letters of other alphabets that look alike as one.

    What it makes of a text is for comparing alone.
    """
    text = one_form(text)
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", OPTIONAL.sub("", unicodedata.normalize("NFKD", text))).translate(ALIKE)


def words(text: str) -> Words:
    """Return the words of letters and digits; an underscore emphasises, or marks a blank."""
    if text.isascii():
        return Words(ASCII_WORD.findall(text))
    return weighed(text, MIXED) if UNSPACED_LETTER.search(text) else Words(WORD.findall(text))


def mixed(whole: str, symbols: str = r"(?!)") -> regex.Pattern[str]:
    """Return the pattern whose groups are a letter that counts a half, one that counts a quarter, and what counts one word.

    The last is a row of letters of the class `whole`, or what `symbols` matches.
    """
    half, quarter = (rf"[[{scripts}]&&[\p{{L}}\p{{M}}\p{{Nl}}]]" for scripts in (HALVES, QUARTERS))
    return regex.compile(rf"(?V1)({half}\p{{M}}*+)|({quarter}\p{{M}}*+)|([{whole}--{UNSPACED}]+|{symbols})")


MIXED = mixed(r"\w--_")


def weighed(text: str, pattern: regex.Pattern[str]) -> Words:
    """Return what a pattern made by `mixed` finds, each with what it counts."""
    tokens, quarters = [], []
    for half, quarter, whole in pattern.findall(text):
        tokens.append(half or quarter or whole)
        quarters.append(2 if half else 1 if quarter else PARTS)
    return Words(tokens, quarters if min(quarters, default=PARTS) < PARTS else None)
