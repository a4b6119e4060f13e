"""What `make demo-refusal` shows, on the nano recipe: each spoiled candidate is refused for what was spoiled."""

import pytest

from tests.refusals import CASES, SMALL, demonstrate


@pytest.mark.timeout(1500)  # eight whole runs
def test_the_honest_candidate_is_promoted_and_every_spoiled_one_refused_for_the_right_reason(tmp_path):
    said = []
    outcomes = demonstrate(tmp_path / "sluice", "nano", SMALL, said.append)
    assert [outcome.case for outcome in outcomes] == list(CASES)
    assert all(outcome.as_expected for outcome in outcomes), "\n".join(said)
