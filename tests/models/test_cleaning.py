import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.cleaning import normalise

CODE = 'def f(x):\n    """Sum  of x."""\n    y = [1,  2]\n\n\n    return sum(x)  +  1'


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\ufeffone\u200b two\u00a0 three \t four ", "one two three four"),
        ("\n\n  a\n\n\n\n\n\nb \n\n", "a\n\n\nb"),
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


def test_half_a_surrogate_pair_becomes_something_that_can_be_written():
    assert normalise("a\ud800b").encode("utf-8")


@given(st.text())
def test_normalising_twice_changes_nothing_more(text):
    assert normalise(normalise(text)) == normalise(text)
