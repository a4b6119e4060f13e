"""The other half of test_refusals.py: benchmark items in the training data, and labels shuffled in sft."""

import pytest

from tests.end_to_end.test_refusals import LAST, refuse
from tests.refusals import CASES


@pytest.mark.timeout(1500)  # three whole runs
def test_a_candidate_of_spoiled_data_is_refused_for_the_right_reason(tmp_path):
    refuse(tmp_path, CASES[-LAST:])
