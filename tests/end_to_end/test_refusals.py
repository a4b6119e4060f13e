"""What `make demo-refusal` shows, on the nano recipe: each spoiled candidate is refused for what was spoiled.

Two files share the cases, so that two workers do: here those that leave the data of sft alone.
"""

import pytest

from tests.refusals import CASES, SMALL, demonstrate

LAST = 2  # cases that train sft anew


def refuse(folder, cases):
    said = []
    outcomes = demonstrate(folder / "sluice", "nano", SMALL, cases, said.append)
    assert [outcome.case for outcome in outcomes] == list(cases)
    assert all(outcome.as_expected for outcome in outcomes), "\n".join(said)


@pytest.mark.timeout(1500)  # six whole runs
def test_the_honest_candidate_is_promoted_and_a_spoiled_one_refused_for_the_right_reason(tmp_path):
    refuse(tmp_path, CASES[:-LAST])
