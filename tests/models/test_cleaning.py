import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.data.cleaning import normalise

CODE = 'def f(x):\n    """Sum  of x."""\n    y = [1,  2]\n\n\n    return sum(x)  +  1'


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\ufeffone\u200b two\u00a0 three \t four ", "one two  three \t four"),
        ("\n\n  a\n\n\n\n\n\nb \n\n", "  a\n\n\nb"),
        ("page one\x0cpage two\x0bline", "page one\npage two\nline"),
        ("field\x1ffield\x1crecord", "field field record"),
        ("one\x00two", "one two"),
        ("\u0e1a\u0e49\u0e32\u0e19\u200b\u0e43\u0e2b\u0e21\u0e48", "\u0e1a\u0e49\u0e32\u0e19\u200b\u0e43\u0e2b\u0e21\u0e48"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f468\u200d\U0001f469\u200d\U0001f467"),
        ("bell\x07", "bell"),
        ("   ", ""),
        ("\u3000\u2009", ""),
    ],
)
def test_text_comes_in_one_form(dirty, clean):
    assert normalise(dirty) == clean


def test_code_keeps_its_blanks_but_those_at_the_end_of_a_line():
    assert normalise(CODE.replace("\n", "  \r\n") + "\r\n") == CODE


def test_a_body_without_its_head_keeps_its_indentation():
    assert normalise("    y = x + 1\n    for i in y:\n        z += i\n") == "    y = x + 1\n    for i in y:\n        z += i"


def test_a_fenced_block_keeps_its_indentation():
    text = "See:\n```python\nif a:\n  b()\n```"
    assert normalise(text) == text


LAID_OUT = (
    "- one\n  - two\n    - three",
    "a: 1\nb:\n  - c\n  - d: e",
    "if (a) {\n  b();\n}",
    "name\tage\nAda\t36",
    "| a   | b |\n| --- | - |",
    "Tyger Tyger,\n    burning bright,\n  In the forests",
    "  /\\_/\\\n ( o.o )",
    "1. x\n   y",
)


@pytest.mark.parametrize("text", LAID_OUT)
def test_what_is_laid_out_stays_as_it_is(text):
    assert normalise(text) == text
    assert normalise(text.replace("\n", "  \r\n")) == text


def test_half_a_surrogate_pair_becomes_something_that_can_be_written():
    assert normalise("a\ud800b").encode("utf-8")


@given(st.text())
def test_normalising_twice_changes_nothing_more(text):
    assert normalise(normalise(text)) == normalise(text)
