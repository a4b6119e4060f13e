import random

import pytest

from models.data.dedupe import Nearness, first_equal, first_near, jaccard

NEARNESS = Nearness(shingle_words=3, min_words=8, threshold=0.8)
LONG = "the quick brown fox jumps over the lazy dog while seven small birds sing in the old oak tree by the river"


def near(*texts):
    return first_near([[("text", text)] for text in texts], NEARNESS)


def test_the_first_of_equal_texts_stays():
    assert first_equal([[("text", "a")], [("text", "b")], [("text", "a")], [("text", "a")]]) == {2: 0, 3: 0}


def test_equal_texts_in_other_fields_are_not_equal():
    assert first_equal([[("chosen", "a"), ("rejected", "b")], [("chosen", "b"), ("rejected", "a")]]) == {}


def test_the_first_of_nearly_equal_texts_stays():
    assert near(LONG, "nothing like it at all, but long enough to be compared", LONG + " today") == {2: 0}


def test_case_and_punctuation_do_not_make_prose_another():
    assert near(LONG, LONG.title() + "!") == {1: 0}


def test_another_number_is_another_fact():
    assert near(LONG + " for 3 days", LONG + " for 4 days") == {}


def test_a_pair_and_its_reverse_are_two():
    def pair(chosen, rejected):
        return [("prompt", "Tell me a story about a fox"), ("chosen", chosen), ("rejected", rejected)]

    assert first_near([pair(LONG, "I do not know"), pair("I do not know", LONG)], NEARNESS) == {}


def test_another_operator_makes_code_another():
    lines = "def f(a, b):\n    total = a {} b\n    return total"
    assert near(lines.format("+"), lines.format("-")) == {}


def test_short_texts_are_left_to_equality():
    assert near("Anna lives in Arden.", "anna lives in Arden") == {}


def test_a_copy_of_a_dropped_text_is_not_measured_against_it():
    """Else a chain of small changes would drop a text that is far from all that stay."""
    words = [f"word{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    steps = [" ".join(words[:start] + ["other"] * start + words[start:]) for start in (0, 1, 2, 3, 4, 8)]
    found = near(*steps)
    assert all(earlier not in found for earlier in found.values())


@pytest.mark.parametrize("seed", range(3))
def test_bands_find_what_comparing_every_pair_finds(seed):
    source = random.Random(seed)
    words = [f"w{chr(97 + index // 26)}{chr(97 + index % 26)}" for index in range(300)]
    texts = []
    for _ in range(120):
        text = [source.choice(words) for _ in range(60)]
        texts.append(text)
        for _ in range(source.randint(0, 3)):
            copy = list(text)
            for _ in range(source.randint(1, 6)):
                copy[source.randrange(60)] = source.choice(words)
            texts.append(copy)
    source.shuffle(texts)
    shingles = [{tuple(text[start : start + 3]) for start in range(58)} for text in texts]
    expected: dict[int, int] = {}
    for later in range(len(texts)):
        for earlier in range(later):
            if earlier not in expected and jaccard(shingles[later], shingles[earlier]) >= NEARNESS.threshold:
                expected[later] = earlier
                break
    found = near(*(" ".join(text) for text in texts))
    assert expected
    assert set(found) <= set(expected)
    assert len(found) >= 0.97 * len(expected)
