"""What stands beneath escapes and markup, read as a browser and a program would."""

import random
from urllib.parse import quote

import pytest
import regex

from models.data import markup

COMMENT = regex.compile(r"<!--(?:(?!-->|<!--).)*+-->", regex.DOTALL)
PARTS = ["<!--", "-->", "-", "--", "<", ">", "!", "word", "\n"]


def test_a_comment_reaches_to_its_first_end_and_holds_no_other():
    source = random.Random(1)
    for text in ("".join(source.choices(PARTS, k=14)) for _ in range(20_000)):
        assert markup.COMMENT.sub("", text) == COMMENT.sub("", text)


@pytest.mark.parametrize("text", ["<!--" * 200_000, "<!--" + "-" * 1_000_000, "<!-- " + "<a " * 400_000, "<!--" + "x" * 2_000_000])
def test_a_comment_without_an_end_takes_no_time(text):
    assert markup.without_tags(text) == text


@pytest.mark.parametrize("text", ["ü", "Müller", "日本語", "a%b", "😀" * 1000])
def test_any_number_of_bytes_in_a_row_is_read(text):
    assert markup.unescaped(quote(text, safe="")) == text
    assert markup.unescaped("".join(f"\\x{byte:02x}" for byte in text.encode())) == text
