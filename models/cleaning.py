"""Text as the model shall read it: one Unicode form, one line ending, no stray blanks, and code left as it was indented."""

import re
import unicodedata

CODE = re.compile(r"^[ \t]*(?:def |class |import |from \S+ import |return\b|@\w|#include|>>> |```)", re.MULTILINE)
UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u2060\ufeff]")
"""Control characters, and characters without width that split a word without being seen."""
BLANKS = re.compile("[ \t\u00a0\u2000-\u200a\u202f\u3000]+")
INDENTED = re.compile(r"^(?: {4}|\t)")
UNTIDY = re.compile("[ \t]{2}|[ \t]$|^[ \t]|\t|\n{4}|[\u00a0\u2000-\u200a\u202f\u3000]|^\n|\n$", re.MULTILINE)


def is_code(text: str) -> bool:
    """Whether a line of the text begins as code does: def, class, import, return, a decorator, a prompt or a fence."""
    return CODE.search(text) is not None


def normalise(text: str) -> str:
    """Return the text in NFC with newline endings, without unseen characters, and with blanks collapsed outside code.

    A text that looks like code keeps every blank but those at the end of a line. In prose, runs of blanks become one,
    and a line's indentation goes unless it is deep enough for code (four blanks or a tab). At most two lines in a row are empty.
    """
    if not text.isascii():
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half a pair cannot be written as UTF-8
        text = unicodedata.normalize("NFC", text)
        text = text.replace("\u2028", "\n").replace("\u2029", "\n").replace("\x85", "\n")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = UNSEEN.sub("", text)
    if not UNTIDY.search(text):
        return text
    tidy = str.rstrip if is_code(text) else _tidy_line
    lines = "\n".join(tidy(line) for line in text.split("\n"))
    return re.sub(r"\n{4,}", "\n\n\n", lines).strip("\n")


def _tidy_line(line: str) -> str:
    """One line of prose."""
    indentation = INDENTED.match(line)
    if not indentation:
        return BLANKS.sub(" ", line).strip(" ")
    body = line.lstrip(" \t")
    return (line[: len(line) - len(body)] + BLANKS.sub(" ", body)).rstrip()
