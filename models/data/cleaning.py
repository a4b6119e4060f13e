"""Text as the model shall read it: one Unicode form, one line ending, nothing unseen. How it is laid out stays: columns, verse, code."""

import re
import unicodedata

from models.data.words import UNSPACED_LETTER, with_few_marks

CODE = re.compile(r"^[ \t]*(?:def |class |import |from \S+ import |return\b|@\w|#include|>>> |```)", re.MULTILINE)
NO_WIDTH = re.compile("[\u200b\u2060\ufeff]+")
LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
SEPARATORS = re.compile("[\x1c-\x1f\u00a0\u1680\u2000-\u200a\u202f\u205f]")
"""Separators of fields and records, and blanks of other widths; U+3000 stays, which is as wide as the letters that it lines up."""
CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f]+")
UNTIDY = re.compile("[\x00-\x08\x0b-\x1f\x7f]|[ \t]$|\n{4}|^\n|\n$", re.MULTILINE)
SPACING = re.compile(r"(?<=\S)(?:[ \t\u3000]{2,}|[\t\u3000])")


def is_code(text: str) -> bool:
    """Whether a line of the text begins as code does: def, class, import, return, a decorator, a prompt or a fence."""
    return CODE.search(text) is not None


def normalise(text: str) -> str:
    """Return the text in NFC with newline endings, without unseen characters, and without blanks at the ends of lines.

    All other blanks stay: at the beginning of lines, tabs, and between columns. Vertical tabs, form feeds and the separators of lines and
    paragraphs end lines; those of fields are blanks, and any other control character is one between two that are seen. A space without
    width stays between letters of a script that puts no blanks between words, where it says where words end; joiners stay everywhere.
    Half a surrogate pair becomes U+FFFD. At most two lines in a row are empty, none at the ends.
    """
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a pair cannot be written as UTF-8
        text = with_few_marks(unicodedata.normalize("NFC", with_few_marks(NO_WIDTH.sub(_end_of_word, text))))
    elif UNTIDY.search(text) is None:
        return text
    text = SEPARATORS.sub(" ", LINE_ENDS.sub("\n", text))
    text = CONTROLS.sub(lambda found: " " if all(side.strip() for side in _sides(found)) else "", text)
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{4,}", "\n\n\n", lines).strip("\n")


def _end_of_word(found: re.Match[str]) -> str:
    """What stays of characters without width: one space between letters of a script without blanks, else nothing."""
    ends_word = "\u200b" in found[0] and all(UNSPACED_LETTER.match(side) for side in _sides(found))
    return "\u200b" if ends_word else ""


def _sides(found: re.Match[str]) -> tuple[str, str]:
    """The characters before and after a match, "" at the ends of the text."""
    start, end = found.span()
    return found.string[max(0, start - 1) : start], found.string[end : end + 1]


def without_spacing(text: str) -> str:
    """Return the text as equality sees it: in prose, how wide its blanks are and how far its first line is indented does not count."""
    return text if is_code(text) else SPACING.sub(" ", text).lstrip()
