"""The health sheet: what broken evaluations look like."""

import pytest

from tasks.gate.health import faults, health_sheet
from tests.limits import STRICT


def written(texts, flags=(), right=1):
    return health_sheet(
        [{"id": f"i{n}", "score": int(n < right), "response": text, "flags": list(flags if n % 2 else ())} for n, text in enumerate(texts)]
    )


def chosen(letters, right=1):
    return health_sheet([{"id": f"i{n}", "score": int(n < right), "predicted": letter, "flags": []} for n, letter in enumerate(letters)])


SOUND = written([f"answer {n}" for n in range(20)])


def test_a_sound_evaluation_has_no_fault():
    assert faults(SOUND, STRICT, SOUND) == []
    assert faults(chosen([0, 1, 2, 3] * 5), STRICT, None) == []


def test_the_sheet_counts_flags_letters_and_lengths():
    found = chosen([0, 0, 1, None])
    assert found.letters == {"A": 2, "B": 1}
    assert found.median_length is None
    assert written(["a", "bb", "ccc"]).median_length == 2
    assert written(["x"] * 3 + ["y"]).repeated == 3
    assert written(["x", "y"]).repeated == 0


@pytest.mark.parametrize(
    ("broken", "key"),
    [
        (written(["same"] * 20), "repeated"),
        (written([f"answer {n}" for n in range(20)], flags=["empty"]), "empty"),
        (written([f"answer {n}" for n in range(20)], flags=["extraction-failed"]), "extraction_failed"),
        (written([f"answer {n}" for n in range(20)], flags=["not-loaded"]), "not_loaded"),
        (written([f"answer {n}" for n in range(20)], flags=["timeout"]), "timeouts"),
        (written([f"answer {n}" for n in range(20)], flags=["truncated"]), "more_truncated"),
        (written([f"a much longer answer than before, number {n}" for n in range(20)]), "length_ratio"),
        (written([f"answer {n}" for n in range(20)], right=20), "exact"),
        (written([f"answer {n}" for n in range(20)], right=0), "exact"),
        (chosen([2] * 19 + [1]), "one_letter"),
    ],
)
def test_each_limit_finds_its_fault_and_names_its_key(broken, key):
    assert [fault for fault in faults(broken, STRICT, SOUND) if f"gate.health.{key} " in fault]


def test_five_raw_answers_are_shown_flagged_ones_first_and_long_ones_cut():
    found = written(["short"] * 5 + ["x" * 300], flags=["truncated"])
    assert [item for item, _ in found.examples] == ["i1", "i3", "i5", "i0", "i2"]
    assert found.examples[2] == ("i5", "x" * 200 + "…")
