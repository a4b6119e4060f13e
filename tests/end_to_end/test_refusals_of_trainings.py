"""What `make demo-refusal` shows, on the nano recipe: a training is spoiled, and the gate refuses for that."""

import pytest

from tests.refusals import SMALL, TRAINING, demonstrate


@pytest.mark.timeout(1500)  # four whole runs
def test_every_spoiled_training_is_refused_for_the_right_reason(tmp_path):
    said = []
    outcomes = demonstrate(tmp_path / "sluice", "nano", SMALL, TRAINING, said.append)
    assert [outcome.case for outcome in outcomes] == list(TRAINING)
    assert all(outcome.as_expected for outcome in outcomes), "\n".join(said)
