"""What `make demo-refusal` shows, on the nano recipe: an evaluation is spoiled, or more is asked than is there, and it is refused."""

import pytest

from tests.refusals import EVALUATION, SMALL, demonstrate


@pytest.mark.timeout(1500)  # five whole runs
def test_the_honest_candidate_is_promoted_and_no_broken_evaluation_passes(tmp_path):
    said = []
    outcomes = demonstrate(tmp_path / "sluice", "nano", SMALL, EVALUATION, said.append)
    assert [outcome.case for outcome in outcomes] == list(EVALUATION)
    assert all(outcome.as_expected for outcome in outcomes), "\n".join(said)
