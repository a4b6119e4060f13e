"""Any text that a crawler can bring passes: cleaned, redacted, compared, searched for items, in time that grows with its length."""

import time
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.data.cleaning import normalise
from models.data.decontaminate import Benchmark
from models.data.dedupe import Nearness, first_equal, first_near
from models.data.redact import redact
from models.data.trees import trees

BENCHMARK = Benchmark([("suite/0", "Which of the seven old bridges did the miller build?")], 10, 4)
NEARNESS = Nearness(3, 12, 0.85)
REGIONS = ("US", "GB")
DEEP_SUM = f"def f(x):\n    return {' + '.join(['x'] * 3000)}\n"
DEEP_BRANCHES = "def f(x):\n    if x == 0:\n        return 0\n" + "".join(f"    elif x == {n}:\n        return {n}\n" for n in range(1500))
DEEP_BRACKETS = "def f(x):\n    return " + "(" * 3000 + "x" + ")" * 3000
UNITS = (
    *" \t\n\x00\x0b\x1c\u200b\u3000",
    *"a1.-_@:/+()[]{}<>\"'`#=\\",
    "\ud83d",
    "\u0e01",
    "漢",
    "def ",
    ">>> ",
    "1.2.",
    "a@b.",
    "://",
    "+44 ",
    "\\n",
)


def treat(text):
    """All that preparation does to a text; return what became of it."""
    clean = normalise(text)
    BENCHMARK.hits([clean])
    fields = [[("text", clean)], [("text", clean + " more")]]
    first_equal(fields)
    first_near(fields, NEARNESS)
    return redact(clean, REGIONS, Counter())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(UNITS) | st.text(st.characters(codec=None), max_size=6), max_size=60).map("".join))
@example("\ud800")
@example("\udfff\ud800")
def test_no_text_is_too_odd(text):
    assert treat(text).encode("utf-8") is not None
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize("text", [DEEP_SUM, DEEP_BRANCHES, DEEP_BRACKETS], ids=["sum", "branches", "brackets"])
def test_no_program_is_too_deep(text):
    treat(text)
    treat(f"Look at this:\n```python\n{text}\n```\nand that.")


def test_a_deep_program_is_found_where_it_leaked():
    benchmark = Benchmark([("suite/0", DEEP_BRANCHES)], 13, 13)
    assert benchmark.hits([DEEP_BRANCHES.replace("x", "value").replace("def f", "def g")]) == {"suite/0"}
    assert len(list(trees(DEEP_SUM))) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    "unit", [unit if place % 3 == 0 else pytest.param(unit, marks=pytest.mark.slow) for place, unit in enumerate(UNITS)], ids=ascii
)
def test_time_grows_with_the_length_of_a_text_and_not_with_its_square(unit):
    """Sixteen times the text must not take much more than sixteen times as long: 256 where it takes the square."""

    def seconds(length):
        text, best = unit * (length // len(unit)), float("inf")
        for _ in range(3):
            started = time.process_time()  # what other processes do meanwhile is no fault of the text
            treat(text)
            best = min(best, time.process_time() - started)
        return best

    assert seconds(64_000) < 80 * max(seconds(4_000), 0.0005)
