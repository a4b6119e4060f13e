import json

import pytest

from models.decontaminate import Benchmark, trees

QUESTION = "Which of these instruments did the spouse of Revo Vomock learn to play as a child in Hunland?"
ADD = '''def add_all(numbers: list[int]) -> int:
    """Return the sum of all numbers."""
    total = 0
    for number in numbers:
        total += number
    return total
'''
BENCHMARK = Benchmark([("quiz/1", QUESTION), ("quiz/2", "Who was Ada?"), ("quiz/3", "Go!"), ("code/1", ADD)], ngram_words=8, min_words=3)


def test_a_run_of_words_of_an_item_is_a_hit_whatever_its_case_punctuation_and_lines():
    assert BENCHMARK.hits(["He asked: INSTRUMENTS did\nthe spouse - of Revo, Vomock learn? Nobody knew."]) == {"quiz/1"}


@pytest.mark.parametrize(
    "text",
    [
        "instruments did the _spouse_ of **Revo** Vomock learn",
        "instru\u00adments did the spouse of Revo Vo-\nmock learn",
        "instruments<br>did the <i>spouse</i> of Revo Vomock<BR/>learn",
        "INSTRUMENTS  did\tthe spouse of Revo_Vomock learn",
    ],
)
def test_markup_hides_nothing(text):
    assert BENCHMARK.hits([text]) == {"quiz/1"}


def test_an_item_is_found_across_the_texts_of_a_record():
    assert BENCHMARK.hits(["instruments did the spouse", "of Revo Vomock learn"]) == {"quiz/1"}


def test_a_run_that_many_items_share_gives_none_away_that_has_others():
    form = "For which of these two people does the story end well,"
    items = [(f"m/{n}", f"{form} says the author of part {n}?") for n in range(12)]
    benchmark = Benchmark(items, ngram_words=8, min_words=3)
    assert benchmark.hits([f"{form} one asks"]) == set()
    assert benchmark.hits([items[3][1]]) == {"m/3"}
    same = Benchmark([(f"m/{n}", form) for n in range(12)], ngram_words=8, min_words=3)
    assert len(same.hits([form])) == 12


def test_one_word_fewer_is_none():
    assert BENCHMARK.hits(["instruments did the spouse of Revo Vomock"]) == set()


def test_an_item_shorter_than_the_run_is_looked_for_as_a_whole():
    assert BENCHMARK.hits(["She wondered who was Ada, then slept."]) == {"quiz/2"}
    assert BENCHMARK.hits(["She wondered who was Bea, then slept."]) == set()


def test_an_item_below_the_floor_is_not_looked_for():
    assert BENCHMARK.hits(["Go! he said."]) == set()


RENAMED = "def f(xs):\n    s = 5\n    for x in xs:\n        s += x\n    return s\n"


@pytest.mark.parametrize(
    "text",
    [
        RENAMED,
        f"Sure, here it is:\n```python\n{RENAMED}```\nDone.",
        f"Sure, here it is:\n\n{RENAMED}\nThis adds them up.",
        "class A:\n    def f(self):\n        pass\n\n" + "".join(f"    {line}\n" for line in RENAMED.splitlines()),
        "if True:\n" + "".join(f"    {line}\n" for line in RENAMED.splitlines()),
        'def f(xs):\n    "Another docstring."\n    s = 0\n    for x in xs:\n        s += x\n    return s',
        'def f(xs):\n    s = 0\n    pass\n    for x in xs:\n        "Add."\n        s += x\n        pass\n    return s',
        "In a session:\n>>> " + RENAMED.rstrip().replace("\n", "\n... ") + "\n>>> f([1])\n1\n",
        json.dumps({"code": RENAMED}),
    ],
)
def test_a_function_that_differs_in_names_constants_and_what_does_nothing_is_a_hit_wherever_it_stands(text):
    assert BENCHMARK.hits([text]) == {"code/1"}


@pytest.mark.parametrize("change", [("+=", "-="), ("    return s", "    return -s"), ("for x in xs", "for x in xs[1:]")])
def test_a_function_of_another_shape_is_none(change):
    assert BENCHMARK.hits([RENAMED.replace(*change)]) == set()


def test_the_two_ends_of_a_slice_are_not_the_same():
    (first,), (last,) = trees("def f(x):\n    return x[1:]"), trees("def f(x):\n    return x[:1]")
    assert first != last


def test_text_that_is_no_python_has_no_trees():
    assert list(trees("the def of a word\ndef (\n\x00def f(: pass")) == []


def test_a_prompt_and_its_solution_are_read_together():
    whole = Benchmark([("code/1", "def f(a, b):\n    '''Doc.'''\n" + "    return a * b\n")], 8, 8)
    assert whole.hits(["def g(x, y):\n    return x * y"]) == {"code/1"}


def test_items_are_counted_once_each():
    assert Benchmark([("a", "one two three"), ("a", "one two three four"), ("b", "five")], 8, 3).items == 2
